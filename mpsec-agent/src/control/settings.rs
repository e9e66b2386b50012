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

/// What is kept after some settings are set and others dropped; their order stays.
///
/// # Errors
/// A key that is not there, one that was not set and is to be dropped, or a text that is no setting.
pub fn merge(kept: &[String], asked: &Settings) -> Result<Vec<String>, String> {
    let mut merged = kept.to_vec();
    for key in &asked.unset {
        Override::settable(key)?;
        let before = merged.len();
        merged.retain(|setting| name(setting) != key);
        if merged.len() == before {
            return Err(format!("{key} was not set with `mpsec apply --set`: nothing to drop"));
        }
    }
    for setting in &asked.set {
        Override::set(setting)?;
        match merged.iter_mut().find(|known| name(known) == name(setting)) {
            Some(known) => known.clone_from(setting),
            None => merged.push(setting.clone()),
        }
    }
    Ok(merged)
}

fn name(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
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
}
