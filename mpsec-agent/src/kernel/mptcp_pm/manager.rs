//! Requests to the path manager of the kernel.

use std::net::SocketAddr;

use super::address::Endpoint;
use super::command::Command;
use super::{PathManagerError, family};
use crate::kernel::netlink::{Client, NetlinkError, Request};
use crate::snapshot::mptcp::Limits;

/// How often endpoints are listed before it is given up to see a list that did not change meanwhile.
const LIST_ATTEMPTS: usize = 5;

/// What the kernel says of an endpoint that is not there.
const NOT_FOUND: &str = "address not found";

/// The path manager of the network namespace that it was opened in.
///
/// What changes something needs CAP_NET_ADMIN; so does listing endpoints. A refusal carries the kernel's own words where it
/// has any.
pub struct PathManager {
    client: Client,
    family: u16,
}

impl PathManager {
    /// Opens a socket in the calling thread's network namespace and looks for the path manager.
    pub fn open() -> Result<PathManager, PathManagerError> {
        let mut client = Client::open(libc::NETLINK_GENERIC as isize)?;
        let family = family(&mut client)?.id;
        Ok(PathManager { client, family })
    }

    /// All endpoints, in the kernel's order.
    pub fn endpoints(&mut self) -> Result<Vec<Endpoint>, PathManagerError> {
        for _ in 1..LIST_ATTEMPTS {
            match self.list() {
                Err(PathManagerError::Netlink(NetlinkError::Interrupted)) => {}
                result => return result,
            }
        }
        self.list()
    }

    fn list(&mut self) -> Result<Vec<Endpoint>, PathManagerError> {
        let request = self.request(&Command::endpoints());
        let mut endpoints = Vec::new();
        let mut bad = false;
        self.client.dump(request, |message| {
            match Command::decode(message.payload).map(|command| command.address()) {
                Ok(Some(endpoint)) => endpoints.push(endpoint),
                _ => bad = true,
            }
        })?;
        if bad { Err(PathManagerError::Netlink(NetlinkError::Truncated)) } else { Ok(endpoints) }
    }

    /// The endpoint with this id; `None` if there is none.
    pub fn endpoint(&mut self, id: u8) -> Result<Option<Endpoint>, PathManagerError> {
        match self.ask(&Command::endpoint(id)) {
            Ok(answer) => answer.address().map(Some).ok_or(NetlinkError::Truncated.into()),
            // The number alone would not tell it from a request that the kernel does not like (mptcp_pm_nl_get_addr,
            // net/mptcp/pm_netlink.c).
            Err(PathManagerError::Netlink(NetlinkError::Refused { text: Some(text), .. })) if text == NOT_FOUND => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The limits.
    pub fn limits(&mut self) -> Result<Limits, PathManagerError> {
        self.ask(&Command::limits())?.told_limits().ok_or(NetlinkError::Truncated.into())
    }

    /// Sets both limits.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), PathManagerError> {
        self.execute(&Command::set_limits(limits))
    }

    /// Makes an endpoint. Flags that this kernel does not know may be dropped without a word: read back what counts.
    pub fn add_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), PathManagerError> {
        self.execute(&Command::add_endpoint(endpoint))
    }

    /// Removes the endpoint with this id; of id 0, the one with this address.
    pub fn delete_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), PathManagerError> {
        self.execute(&Command::delete_endpoint(endpoint))
    }

    /// Removes all endpoints.
    pub fn flush_endpoints(&mut self) -> Result<(), PathManagerError> {
        self.execute(&Command::flush_endpoints())
    }

    /// Gives an endpoint the flags that it has here, and its subflows the priority. Only backup and fullmesh can change.
    pub fn set_endpoint_flags(&mut self, endpoint: &Endpoint) -> Result<(), PathManagerError> {
        self.execute(&Command::set_endpoint_flags(endpoint))
    }

    /// Makes one subflow a backup, or no longer one, as the flags of `local` say (userspace path manager).
    pub fn set_subflow_flags(
        &mut self,
        token: u32,
        local: &Endpoint,
        remote: SocketAddr,
    ) -> Result<(), PathManagerError> {
        self.execute(&Command::set_subflow_flags(token, local, remote))
    }

    /// Announces an address on a connection (userspace path manager).
    pub fn announce(&mut self, token: u32, endpoint: &Endpoint) -> Result<(), PathManagerError> {
        self.execute(&Command::announce(token, endpoint))
    }

    /// Takes back the address that was announced with this id (userspace path manager).
    pub fn remove(&mut self, token: u32, local_id: u8) -> Result<(), PathManagerError> {
        self.execute(&Command::remove(token, local_id))
    }

    /// Makes a subflow (userspace path manager). That it is established, or failed, is told as an event.
    pub fn create_subflow(&mut self, token: u32, local: &Endpoint, remote: SocketAddr) -> Result<(), PathManagerError> {
        self.execute(&Command::create_subflow(token, local, remote))
    }

    /// Ends a subflow (userspace path manager).
    pub fn destroy_subflow(
        &mut self,
        token: u32,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), PathManagerError> {
        self.execute(&Command::destroy_subflow(token, local, remote))
    }

    /// Sends a command that is answered by nothing but an acknowledgement.
    pub fn execute(&mut self, command: &Command) -> Result<(), PathManagerError> {
        let request = self.request(command);
        Ok(self.client.execute(request)?)
    }

    /// Sends a command that is answered by a message.
    pub fn ask(&mut self, command: &Command) -> Result<Command, PathManagerError> {
        let request = self.request(command);
        let mut answer = None;
        self.client.ask(request, |message| answer = Command::decode(message.payload).ok())?;
        answer.ok_or(NetlinkError::Truncated.into())
    }

    fn request(&self, command: &Command) -> Request {
        Request::new(self.family, 0, &command.encode())
    }
}
