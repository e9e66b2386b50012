//! Settings beside the configuration file: how those that are asked for come to those that are kept, and what the
//! configuration is with them. The same for the agent and for commands that do without it.

use crate::config::{ConfigError, Loaded, Loader, Override};

use super::ask::Settings;

/// The configuration with kept settings, each `KEY=VALUE`, over file, environment and flags.
///
/// # Errors
/// Everything that is wrong with the file, the environment, flags or settings.
pub fn load(loader: &Loader, settings: &[String]) -> Result<Loaded, ConfigError> {
    let mut loader = loader.clone();
    for text in settings {
        loader.overrides.push(Override::set(text).map_err(|message| ConfigError::setting(text, message))?);
    }
    loader.load()
}

/// What is kept after this is asked for: keys are unset first, then set. A key that is set again stays in its place.
///
/// # Errors
/// A key that is unknown, that only a restart changes, that is set twice, or that was not set and is unset.
pub fn merge(kept: &[String], asked: &Settings) -> Result<Vec<String>, String> {
    let mut all = kept.to_vec();
    for key in &asked.unset {
        match position(&all, key) {
            Some(place) => drop(all.remove(place)),
            None => return Err(not_set(key, kept)),
        }
    }
    for (index, text) in asked.set.iter().enumerate() {
        let key = Override::set(text)?.key.name;
        if position(&asked.set[..index], key).is_some() {
            return Err(format!("{key} is set twice: give a list as {key}=A,B"));
        }
        match position(&all, key) {
            Some(place) => all[place].clone_from(text),
            None => all.push(text.clone()),
        }
    }
    Ok(all)
}

fn name(text: &str) -> &str {
    text.split_once('=').map_or(text, |(name, _)| name)
}

fn position(all: &[String], key: &str) -> Option<usize> {
    all.iter().position(|text| name(text) == key)
}

fn not_set(key: &str, kept: &[String]) -> String {
    if let Err(error) = Override::settable(key) {
        return error;
    }
    let set: Vec<&str> = kept.iter().map(|text| name(text)).collect();
    match set.is_empty() {
        true => format!("{key} is not set beside the configuration file; nothing is"),
        false => format!("{key} is not set beside the configuration file; set are: {}", set.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    fn merged(kept: &[&str], set: &[&str], unset: &[&str]) -> Result<Vec<String>, String> {
        merge(&texts(kept), &Settings { set: texts(set), unset: texts(unset) })
    }

    const KEPT: [&str; 2] = ["mptcp.subflow_series=true", "log.level=debug"];

    #[test]
    fn what_is_set_again_stays_in_its_place_and_what_is_unset_goes() {
        assert_eq!(merged(&KEPT, &[], &[]).unwrap(), KEPT);
        let set = merged(&KEPT, &["interfaces.exclude=a,b", "mptcp.subflow_series=false"], &[]).unwrap();
        assert_eq!(set, ["mptcp.subflow_series=false", "log.level=debug", "interfaces.exclude=a,b"]);
        assert_eq!(merged(&KEPT, &[], &["mptcp.subflow_series"]).unwrap(), ["log.level=debug"]);
        let both = merged(&KEPT, &["mptcp.subflow_series=false"], &["mptcp.subflow_series"]).unwrap();
        assert_eq!(both, ["log.level=debug", "mptcp.subflow_series=false"]);
    }

    #[test]
    fn what_cannot_be_set_is_told_with_what_can() {
        let cases: [(&[&str], &[&str], &str); 7] = [
            (&["log.leevl=debug"], &[], "unknown key \"log.leevl\"; did you mean log.level?"),
            (&[], &["log.leevl"], "unknown key \"log.leevl\"; did you mean log.level?"),
            (&["log.level"], &[], "\"log.level\": expected KEY=VALUE"),
            (&["http.listen=a:1"], &[], "http.listen cannot change while the agent runs"),
            (&[], &["agent.kernel_stats"], "not set beside the configuration file; set are: mptcp.subflow_series, log.level"),
            (&["log.level=info", "log.level=warn"], &[], "log.level is set twice: give a list as log.level=A,B"),
            (&[], &["log.level", "log.level"], "log.level is not set"),
        ];
        for (set, unset, expected) in cases {
            let error = merged(&KEPT, set, unset).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(merged(&[], &[], &["log.level"]).unwrap_err().ends_with("; nothing is"));
    }

    #[test]
    fn settings_win_over_the_file_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mpsec.toml");
        std::fs::write(&path, "[log]\nlevel = \"warn\"\n").unwrap();
        let loader = Loader { path: Some(path), overrides: Vec::new() };
        let loaded = load(&loader, &texts(&["log.level=debug"])).unwrap();
        assert_eq!((loaded.config.log.level.as_str(), &loaded.origins["log.level"]), ("debug", &Origin::Set));
        let error = load(&loader, &texts(&["mptcp.subflow_series=perhaps"])).unwrap_err();
        assert!(error.to_string().starts_with("mptcp.subflow_series=perhaps: "), "{error}");
        let error = load(&loader, &texts(&["log.leevl=debug"])).unwrap_err();
        assert!(error.to_string().starts_with("log.leevl=debug: unknown key"), "{error}");
    }
}
