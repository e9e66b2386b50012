//! Panels on what MPSec changes on hosts.

use super::{SHOWN, WINDOW, agents};
use crate::metric::{
    CONTROL_ACTUAL, CONTROL_AUDIT_ERRORS, CONTROL_CHANGES, CONTROL_DESIRED, CONTROL_FAILURES, CONTROL_OWNED,
    CONTROL_RELEASED, CONTROL_WAITING,
};
use crate::panel::Kind::{Lines, Stat};
use crate::panel::{Limit, Panel, panel};

const NONE_IS_GOOD: &[Limit] = &[(0.0, "green"), (1.0, "red")];

/// Whether hosts are as they are wanted, and what was done for it.
pub fn wanted() -> Vec<Panel> {
    let state: &[(u32, &str, &str)] = &[(0, "kept", "green"), (1, "released", "blue")];
    vec![
        panel(Stat, "Not as wanted", "short", 4)
            .about("Things that are not as the configuration asks for: mpsec status says which, and why.")
            .query(agents(CONTROL_FAILURES).now(), "{{instance}}")
            .limits(NONE_IS_GOOD),
        panel(Stat, "Behind", "short", 4)
            .about("Changes of what is wanted that the host does not follow yet.")
            .query(agents(CONTROL_DESIRED).now().op("-", agents(CONTROL_ACTUAL).now()), "{{instance}}")
            .limits(NONE_IS_GOOD),
        panel(Stat, "State", "none", 4)
            .about("Released: everything was given back (mpsec release), and nothing is changed until mpsec apply.")
            .query(agents(CONTROL_RELEASED).now(), "{{instance}}")
            .words(state),
        panel(Stat, "Entries missing in the log of changes", "short", 4)
            .about("Entries of audit.jsonl that could not be written in the shown time; the journal has them.")
            .query(agents(CONTROL_AUDIT_ERRORS).increase(SHOWN).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
        panel(Lines, "Changes", "short", 8)
            .about("Changes on hosts in each interval: applied, failed, or made and taken back.")
            .query(agents(CONTROL_CHANGES).increase(WINDOW), "{{instance}} {{outcome}}")
            .within(0.0, None),
        panel(Lines, "Owned and waiting", "short", 8)
            .about("What is as MPSec made it and will be given back, and what waits for the host.")
            .query(agents(CONTROL_OWNED).now(), "{{instance}} owned")
            .query(agents(CONTROL_WAITING).now(), "{{instance}} waiting")
            .within(0.0, None),
    ]
}
