//! The book without a kernel.

mod plans;
mod properties;
mod steps;
mod world;

use std::net::SocketAddr;

use super::connection::Role;
use super::happening::Happening;
use super::subflow::Ends;

/// The first subflow of the connection with this number.
fn first(number: u16) -> Ends {
    Ends { local: SocketAddr::from(([10, 0, 0, 1], number)), remote: SocketAddr::from(([10, 0, 0, 2], 443)) }
}

fn began(number: u16, role: Role) -> Happening {
    Happening::Began {
        ends: first(number),
        role,
        ipv6_socket: false,
        ifindex: None,
        denies_first: false,
        established: true,
    }
}

fn joined(ends: Ends) -> Happening {
    Happening::Joined { ends, local_id: 0, remote_id: 0, ipv6_socket: false, error: None }
}

fn left(ends: Ends) -> Happening {
    Happening::Left { ends, error: Some(libc::ECONNREFUSED), reason: None }
}

/// The same addresses with another local port.
fn with_port(ends: Ends, port: u16) -> Ends {
    Ends { local: SocketAddr::new(ends.local.ip(), port), ..ends }
}
