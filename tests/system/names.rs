//! Names of metrics that only say something about the agent, in one place.

/// A metric's name and labels.
pub(crate) type Series = (&'static str, &'static [(&'static str, &'static str)]);

/// 1 for each interface whose sent traffic the agent counts.
pub(crate) const ATTACHED: Series = ("mpsec_interface_attached", &[("direction", "tx")]);

/// The interfaces that found no room of their own.
pub(crate) const FOLDED: Series = ("mpsec_interfaces", &[("state", "folded")]);

/// 1 while the configuration in force is the one of the file.
pub(crate) const RELOADED: Series = ("mpsec_config_last_reload_successful", &[]);
