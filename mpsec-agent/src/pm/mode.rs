//! Modes: which subflows a connection is to have. Each is a file in `mode/` and a row in [`MODES`].

mod fullmesh;
mod ndiffports;
mod server;

use super::connection::Connection;
use super::locals::{Local, Locals};
use super::settings::Settings;
use super::subflow::Remote;

pub use fullmesh::Fullmesh;
pub use ndiffports::Ndiffports;
pub use server::Server;

/// Subflows between two addresses that there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub local: Local,
    /// Where to.
    pub remote: Remote,
    /// How many, those that are there included. They differ in their local ports.
    pub subflows: u16,
}

/// What a connection is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its subflows, the most important first. What this host made and is not among them is ended; what the peer made, and
    /// the first subflow, are let be.
    pub subflows: Vec<Wanted>,
    /// Addresses that the peer is told of.
    pub announced: Vec<Local>,
}

/// A mode. It is pure: the same connection and addresses give the same plan.
pub trait Mode {
    /// What an established connection is to have. The number of subflows is held to [`Settings::most_subflows`] by others.
    fn plan(&self, connection: &Connection, locals: &Locals) -> Plan;
}

/// A mode's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Several subflows between the first two addresses.
    Ndiffports,
    /// A subflow from every local address to every remote one.
    Fullmesh,
    /// None but those that the peer makes.
    Server,
}

/// A mode, its name in words and how it is made from the settings.
type Row = (Kind, &'static str, fn(&Settings) -> Box<dyn Mode + Send>);

/// All modes.
pub const MODES: &[Row] = &[
    (Kind::Ndiffports, "ndiffports", |settings| Box::new(Ndiffports::new(settings))),
    (Kind::Fullmesh, "fullmesh", |settings| Box::new(Fullmesh::new(settings))),
    (Kind::Server, "server", |settings| Box::new(Server::new(settings))),
];

impl Kind {
    /// The name, as it is written in settings.
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        MODES.iter().find_map(|(kind, known, _)| (*known == name).then_some(*kind))
    }

    /// The mode as the settings have it.
    pub fn make(self, settings: &Settings) -> Box<dyn Mode + Send> {
        let make = MODES.iter().find_map(|(kind, _, make)| (*kind == self).then_some(make));
        make.expect("every mode has a row, which a test looks after")(settings)
    }
}

/// What every mode does for connections that this host accepted: nothing but to announce addresses, if it is told to. The one
/// that the connection came in by the peer knows.
fn accepted(connection: &Connection, locals: &Locals, announce: bool) -> Plan {
    let first = connection.first().local.ip();
    let others = locals.list().iter().filter(|local| announce && local.address != first);
    let announced = others.filter(|local| connection.has_room_for(local.address)).copied().collect();
    Plan { subflows: Vec::new(), announced }
}

/// The local end of the first subflow as one that others can be made from; `None` if the address is gone.
fn first_local(connection: &Connection, locals: &Locals) -> Option<Local> {
    let address = connection.first().local.ip();
    let known = locals.get(address).copied();
    // Of an address that nobody told of, its being in use says that it is there.
    let unknown = || (!locals.is_gone(address)).then_some(Local::new(address));
    // A program that bound its socket to an interface wants no packets elsewhere.
    let bound = |local: Local| Local { ifindex: local.ifindex.or(connection.ifindex()), ..local };
    known.or_else(unknown).map(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_its_row() {
        for kind in [Kind::Ndiffports, Kind::Fullmesh, Kind::Server] {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            let _ = kind.make(&Settings { mode: kind, ..Settings::default() });
        }
        assert_eq!(Kind::from_name("no such mode"), None);
    }
}
