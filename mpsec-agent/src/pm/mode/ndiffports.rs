//! Several subflows between the two addresses that a connection began with: routers that spread flows by their ports send
//! them different ways.

use super::{Mode, Plan, Wanted, accepted, first_local};
use crate::pm::connection::{Connection, Role};
use crate::pm::locals::Locals;
use crate::pm::settings::Settings;
use crate::pm::subflow::Remote;

/// The mode `ndiffports`.
#[derive(Clone, Copy, Debug)]
pub struct Ndiffports {
    subflows: u16,
    announce: bool,
}

impl Ndiffports {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Ndiffports {
        Ndiffports { subflows: settings.subflows, announce: settings.announce }
    }
}

impl Mode for Ndiffports {
    fn plan(&self, connection: &Connection, locals: &Locals) -> Plan {
        if connection.role() == Role::Server {
            return accepted(connection, locals, self.announce);
        }
        if connection.denies_first() {
            return Plan::default();
        }
        let remote = Remote { id: 0, address: connection.first().remote };
        let local = first_local(connection, locals);
        let subflows = local.map(|local| Wanted { local, remote, subflows: self.subflows });
        Plan { subflows: subflows.into_iter().collect(), announced: Vec::new() }
    }
}
