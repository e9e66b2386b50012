//! Requests as commands to the kernel.

use crate::kernel::mptcp_pm::{Command, Endpoint, EndpointFlags, PathManager, PathManagerError};
use crate::kernel::netlink::NetlinkError;
use crate::pm::locals::Local;
use crate::pm::request::{Refusal, Request, on_the_socket};
use crate::pm::subflow::Ends;

/// Makes a request.
pub fn perform(manager: &mut PathManager, request: &Request) -> Result<(), Refusal> {
    manager.execute(&command(request)).map_err(|error| refusal(&error))
}

fn command(request: &Request) -> Command {
    match request {
        Request::CreateSubflow { token, local, remote } => {
            let command = Command::create_subflow(*token, &endpoint(local, EndpointFlags::default()), remote.address);
            if remote.id == 0 { command } else { command.with_remote_id(remote.id) }
        }
        Request::DestroySubflow { token, ends, mapped, .. } => {
            let Ends { local, remote } = ends_of_socket(*ends, *mapped);
            Command::destroy_subflow(*token, local, remote)
        }
        Request::Announce { token, local } => Command::announce(*token, &endpoint(local, EndpointFlags::SIGNAL)),
        Request::Remove { token, id, .. } => Command::remove(*token, *id),
        Request::SetFlags { token, ends, mapped, backup } => {
            let Ends { local, remote } = ends_of_socket(*ends, *mapped);
            let flags = if *backup { EndpointFlags::BACKUP } else { EndpointFlags::default() };
            let local = Endpoint { port: Some(local.port()), ..Endpoint::new(local.ip(), flags) };
            Command::set_subflow_flags(*token, &local, remote)
        }
    }
}

fn endpoint(local: &Local, flags: EndpointFlags) -> Endpoint {
    let backup = if local.backup { EndpointFlags::BACKUP } else { EndpointFlags::default() };
    let interface = local.ifindex.and_then(|index| i32::try_from(index).ok());
    Endpoint { id: local.id, interface, ..Endpoint::new(local.address, flags | backup) }
}

fn ends_of_socket(ends: Ends, mapped: bool) -> Ends {
    Ends { local: on_the_socket(ends.local, mapped), remote: on_the_socket(ends.remote, mapped) }
}

fn refusal(error: &PathManagerError) -> Refusal {
    let errno = match error {
        PathManagerError::Netlink(error @ NetlinkError::Refused { .. }) => error.errno(),
        _ => None,
    };
    Refusal { errno, text: error.to_string() }
}
