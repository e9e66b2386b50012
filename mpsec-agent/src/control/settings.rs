//! Settings beside the configuration file: `mpsec apply --set KEY=VALUE`, kept in the state file.

use crate::config::{ConfigError, Loaded, Loader, Override};

use super::ask::Settings;

/// Loads the configuration with settings that win over file, environment and flags.
///
/// # Errors
/// Everything that is wrong. A setting that this version does not know any more is among that.
pub fn load(loader: &Loader, settings: &[String]) -> Result<Loaded, LoadError> {
    let sets =
        settings.iter().map(|text| Override::set(text)).collect::<Result<Vec<_>, _>>().map_err(LoadError::Key)?;
    let overrides = loader.overrides.iter().cloned().chain(sets).collect();
    Ok(Loader { path: loader.path.clone(), overrides }.load()?)
}

/// Why settings cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key that is not there, or cannot be set while the agent runs.
    #[error("{0}")]
    Key(String),
    /// A value, or the file.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What is kept after this is asked for: keys are dropped first, then set. A key that is set again stays in its place.
///
/// # Errors
/// A key that is not there or needs a restart, that is set twice, or that was not set and is to be dropped; a text that is no
/// setting.
pub fn merge(kept: &[String], asked: &Settings) -> Result<Vec<String>, String> {
    let mut merged = kept.to_vec();
    for key in &asked.unset {
        match position(&merged, key) {
            Some(place) => drop(merged.remove(place)),
            None => return Err(not_set(key, kept)),
        }
    }
    for (index, setting) in asked.set.iter().enumerate() {
        let key = Override::set(setting)?.key.name;
        if position(&asked.set[..index], key).is_some() {
            return Err(format!("{key} is set twice: give a list as {key}=A,B"));
        }
        match position(&merged, key) {
            Some(place) => merged[place].clone_from(setting),
            None => merged.push(setting.clone()),
        }
    }
    Ok(merged)
}

fn name(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
}

fn position(settings: &[String], key: &str) -> Option<usize> {
    settings.iter().position(|setting| name(setting) == key)
}

fn not_set(key: &str, kept: &[String]) -> String {
    if let Err(error) = Override::settable(key) {
        return error;
    }
    let set = match kept.is_empty() {
        true => "nothing is".to_owned(),
        false => kept.iter().map(|setting| name(setting)).collect::<Vec<_>>().join(", "),
    };
    format!("{key} was not set with `mpsec apply --set`, so there is nothing to drop; set: {set}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(set: &[&str], unset: &[&str]) -> Settings {
        let owned = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Settings { set: owned(set), unset: owned(unset) }
    }

    #[test]
    fn settings_replace_each_other_by_key() {
        let kept = merge(&[], &asked(&["mptcp.failover=true", "mptcp.path_manager=fullmesh"], &[])).unwrap();
        let kept = merge(&kept, &asked(&["mptcp.path_manager=backup"], &["mptcp.failover"])).unwrap();
        assert_eq!(kept, ["mptcp.path_manager=backup"]);
        assert!(merge(&kept, &asked(&[], &["mptcp.failover"])).unwrap_err().contains("nothing to drop"));
        assert!(
            merge(&kept, &asked(&["mptcp.failver=true"], &[])).unwrap_err().contains("did you mean mptcp.failover")
        );
    }

    #[test]
    fn values_are_checked_when_they_are_loaded() {
        let loader = Loader::default();
        let load = |text: &str| load(&loader, &[text.to_owned()]);
        assert!(load("mptcp.failover=true").unwrap().config.multipath.fails_over());
        assert!(load("mptcp.failover=perhaps").unwrap_err().to_string().contains("mptcp.failover=perhaps"));
    }
    #[test]
    fn what_is_set_again_stays_in_its_place_and_what_cannot_be_is_told() {
        let kept = ["mptcp.subflow_series=true".to_owned(), "log.level=debug".to_owned()];
        let set = asked(&["interfaces.exclude=a,b", "mptcp.subflow_series=false"], &[]);
        let expected = ["mptcp.subflow_series=false", "log.level=debug", "interfaces.exclude=a,b"];
        assert_eq!(merge(&kept, &set).unwrap(), expected);
        let both = asked(&["mptcp.subflow_series=false"], &["mptcp.subflow_series"]);
        assert_eq!(merge(&kept, &both).unwrap(), ["log.level=debug", "mptcp.subflow_series=false"]);
        let cases: [(&[&str], &[&str], &str); 6] = [
            (&["log.level"], &[], "\"log.level\": expected KEY=VALUE"),
            (&[], &["log.leevl"], "unknown key \"log.leevl\"; did you mean log.level?"),
            (&["http.listen=a:1"], &[], "http.listen cannot change while the agent runs"),
            (&[], &["agent.kernel_stats"], "set: mptcp.subflow_series, log.level"),
            (&["log.level=info", "log.level=warn"], &[], "log.level is set twice: give a list as log.level=A,B"),
            (&[], &["log.level", "log.level"], "log.level was not set"),
        ];
        for (set, unset, expected) in cases {
            let error = merge(&kept, &asked(set, unset)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
