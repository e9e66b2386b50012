//! A subflow from every local address to every address of the peer that is known: the one that the connection began with and
//! those that the peer announced.

use super::{Mode, Plan, Wanted, accepted, first_local};
use crate::pm::connection::{Connection, Role};
use crate::pm::locals::{Local, Locals};
use crate::pm::settings::Settings;
use crate::pm::subflow::Remote;

/// The mode `fullmesh`.
#[derive(Clone, Copy, Debug)]
pub struct Fullmesh {
    announce: bool,
}

impl Fullmesh {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Fullmesh {
        Fullmesh { announce: settings.announce }
    }
}

impl Mode for Fullmesh {
    fn plan(&self, connection: &Connection, locals: &Locals) -> Plan {
        if connection.role() == Role::Server {
            return accepted(connection, locals, self.announce);
        }
        let remotes = remotes(connection);
        let mut subflows = Vec::new();
        // Each remote address is reached from one local address before any is reached from two, should there be a limit.
        for local in sources(connection, locals) {
            let reached = remotes.iter().filter(|remote| connection.can_join(local.address, remote.address.ip()));
            subflows.extend(reached.map(|remote| Wanted { local, remote: *remote, subflows: 1 }));
        }
        Plan { subflows, announced: Vec::new() }
    }
}

/// The local addresses, that of the first subflow first.
fn sources(connection: &Connection, locals: &Locals) -> Vec<Local> {
    let first = first_local(connection, locals);
    let others = locals.list().iter().copied().filter(|local| local.address != connection.first().local.ip());
    first.into_iter().chain(others).collect()
}

/// The peer's addresses that may be joined.
fn remotes(connection: &Connection) -> Vec<Remote> {
    let first = Remote { id: 0, address: connection.first().remote };
    let mut remotes: Vec<Remote> = (!connection.denies_first()).then_some(first).into_iter().collect();
    for remote in connection.remotes() {
        if remote.address != first.address && remotes.iter().all(|known| known.address != remote.address) {
            remotes.push(*remote);
        }
    }
    remotes
}
