//! No subflows but those that the peers make, which are taken up to the cap: for hosts that accept connections.

use super::{Mode, Plan, accepted};
use crate::pm::connection::{Connection, Role};
use crate::pm::locals::Locals;
use crate::pm::settings::Settings;

/// The mode `server`.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    announce: bool,
}

impl Server {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Server {
        Server { announce: settings.announce }
    }
}

impl Mode for Server {
    fn plan(&self, connection: &Connection, locals: &Locals) -> Plan {
        match connection.role() {
            Role::Server => accepted(connection, locals, self.announce),
            Role::Client => Plan::default(),
        }
    }
}
