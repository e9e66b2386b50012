//! Commands to the path manager and its answers to them.

use std::net::SocketAddr;

use super::address::{AddressAttribute, Endpoint, EndpointFlags, socket_attributes};
use super::attribute::{Host, Nest, Packet, attributes, numbers};
use crate::kernel::genetlink::Header;
use crate::snapshot::mptcp::Limits;

/// Version of the family that is spoken here.
const VERSION: u8 = 1;

numbers! {
    /// What is asked of the path manager (`MPTCP_PM_CMD_*`, include/uapi/linux/mptcp_pm.h, Linux 6.18).
    CommandKind {
        /// Make an endpoint.
        AddAddress = 1, "add_addr";
        /// Remove an endpoint.
        DeleteAddress = 2, "del_addr";
        /// Tell one endpoint or, as a dump, all.
        GetAddress = 3, "get_addr";
        /// Remove all endpoints.
        FlushAddresses = 4, "flush_addrs";
        /// Set the limits.
        SetLimits = 5, "set_limits";
        /// Tell the limits.
        GetLimits = 6, "get_limits";
        /// Change the flags of an endpoint, or the priority of a subflow.
        SetFlags = 7, "set_flags";
        /// Announce an address on a connection (userspace path manager).
        Announce = 8, "announce";
        /// Take an announced address back (userspace path manager).
        Remove = 9, "remove";
        /// Make a subflow (userspace path manager).
        SubflowCreate = 10, "subflow_create";
        /// End a subflow (userspace path manager).
        SubflowDestroy = 11, "subflow_destroy";
    }
}

attributes! {
    /// What a command or its answer consists of (`MPTCP_PM_ATTR_*`; of the commands about endpoints `MPTCP_PM_ENDPOINT_*`,
    /// whose one kind is the same).
    CommandAttribute {
        /// An endpoint, or the local address of a subflow.
        Address(Vec<AddressAttribute>) = 0x8001, Nest;
        /// Addresses of the peer that a connection accepts.
        AcceptedAddresses(u32) = 2, Host;
        /// Subflows that a connection may have beside its first one.
        Subflows(u32) = 3, Host;
        /// Local token of the connection.
        Token(u32) = 4, Host;
        /// Identifier of a local address.
        LocalId(u8) = 5, Host;
        /// The remote address of a subflow.
        RemoteAddress(Vec<AddressAttribute>) = 0x8006, Nest;
    }
}

/// A command to the path manager, or an answer to one.
pub type Command = Packet<CommandAttribute>;

impl Command {
    /// A command with these attributes.
    pub fn new(kind: CommandKind, attributes: Vec<CommandAttribute>) -> Command {
        Command { header: Header { command: kind.number(), version: VERSION, reserved: 0 }, attributes }
    }

    /// ADD_ADDR: makes an endpoint. Id 0 lets the kernel choose one.
    pub fn add_endpoint(endpoint: &Endpoint) -> Command {
        Command::new(CommandKind::AddAddress, vec![CommandAttribute::Address(endpoint.to_attributes())])
    }

    /// DEL_ADDR: removes the endpoint with this id; of id 0, which is the first address of connections, the address counts.
    pub fn delete_endpoint(endpoint: &Endpoint) -> Command {
        let mut attributes = Endpoint { flags: EndpointFlags::default(), ..endpoint.clone() }.to_attributes();
        if endpoint.id == 0 {
            attributes.push(AddressAttribute::Id(0));
        }
        Command::new(CommandKind::DeleteAddress, vec![CommandAttribute::Address(attributes)])
    }

    /// GET_ADDR: tells the endpoint with this id.
    pub fn endpoint(id: u8) -> Command {
        // With a family it would need an address, too (mptcp_pm_parse_pm_addr_attr, net/mptcp/pm_netlink.c).
        let attributes = vec![AddressAttribute::Id(id)];
        Command::new(CommandKind::GetAddress, vec![CommandAttribute::Address(attributes)])
    }

    /// GET_ADDR, to be sent as a dump: tells all endpoints.
    pub fn endpoints() -> Command {
        Command::new(CommandKind::GetAddress, Vec::new())
    }

    /// FLUSH_ADDRS: removes all endpoints.
    pub fn flush_endpoints() -> Command {
        Command::new(CommandKind::FlushAddresses, Vec::new())
    }

    /// SET_LIMITS.
    pub fn set_limits(limits: Limits) -> Command {
        let accepted = CommandAttribute::AcceptedAddresses(limits.add_addr_accepted);
        Command::new(CommandKind::SetLimits, vec![accepted, CommandAttribute::Subflows(limits.subflows)])
    }

    /// GET_LIMITS.
    pub fn limits() -> Command {
        Command::new(CommandKind::GetLimits, Vec::new())
    }

    /// SET_FLAGS of an endpoint: the one with its id, or with its address if the id is 0. Only backup and fullmesh change.
    pub fn set_endpoint_flags(endpoint: &Endpoint) -> Command {
        let mut attributes = endpoint.to_attributes();
        if endpoint.flags.0 == 0 {
            attributes.push(AddressAttribute::Flags(0));
        }
        Command::new(CommandKind::SetFlags, vec![CommandAttribute::Address(attributes)])
    }

    /// SET_FLAGS of one subflow: whether it is a backup (userspace path manager).
    pub fn set_subflow_flags(token: u32, local: &Endpoint, remote: SocketAddr) -> Command {
        Command { attributes: subflow(token, local, remote), ..Command::set_endpoint_flags(local) }
    }

    /// ANNOUNCE: tells the peer of an address, which needs an id and the flag signal.
    pub fn announce(token: u32, endpoint: &Endpoint) -> Command {
        let address = CommandAttribute::Address(endpoint.to_attributes());
        Command::new(CommandKind::Announce, vec![CommandAttribute::Token(token), address])
    }

    /// REMOVE: takes back what was announced with this id.
    pub fn remove(token: u32, local_id: u8) -> Command {
        let attributes = vec![CommandAttribute::Token(token), CommandAttribute::LocalId(local_id)];
        Command::new(CommandKind::Remove, attributes)
    }

    /// SUBFLOW_CREATE: makes a subflow from a local address, whose id the peer is told, to a remote one.
    pub fn create_subflow(token: u32, local: &Endpoint, remote: SocketAddr) -> Command {
        Command::new(CommandKind::SubflowCreate, subflow(token, local, remote))
    }

    /// The same to an address that the peer announced with this id, so that the subflow ends when it takes that back.
    pub fn with_remote_id(mut self, id: u8) -> Command {
        for attribute in &mut self.attributes {
            if let CommandAttribute::RemoteAddress(address) = attribute {
                address.push(AddressAttribute::Id(id));
            }
        }
        self
    }

    /// SUBFLOW_DESTROY: ends the subflow between these addresses and ports.
    pub fn destroy_subflow(token: u32, local: SocketAddr, remote: SocketAddr) -> Command {
        let endpoint = Endpoint { port: Some(local.port()), ..Endpoint::new(local.ip(), EndpointFlags::default()) };
        Command::new(CommandKind::SubflowDestroy, subflow(token, &endpoint, remote))
    }

    /// What is asked.
    pub fn kind(&self) -> CommandKind {
        CommandKind::from_number(self.header.command)
    }

    /// The endpoint or local address in it.
    pub fn address(&self) -> Option<Endpoint> {
        self.attributes.iter().find_map(|attribute| match attribute {
            CommandAttribute::Address(address) => Endpoint::from_attributes(address),
            _ => None,
        })
    }

    /// The remote address in it.
    pub fn remote(&self) -> Option<Endpoint> {
        self.attributes.iter().find_map(|attribute| match attribute {
            CommandAttribute::RemoteAddress(address) => Endpoint::from_attributes(address),
            _ => None,
        })
    }

    /// The connection's token in it.
    pub fn token(&self) -> Option<u32> {
        self.attributes.iter().find_map(|attribute| match attribute {
            CommandAttribute::Token(token) => Some(*token),
            _ => None,
        })
    }

    /// The limits in it, if both are there.
    pub fn told_limits(&self) -> Option<Limits> {
        let find = |take: fn(&CommandAttribute) -> Option<u32>| self.attributes.iter().find_map(take);
        Some(Limits {
            subflows: find(|attribute| match attribute {
                CommandAttribute::Subflows(number) => Some(*number),
                _ => None,
            })?,
            add_addr_accepted: find(|attribute| match attribute {
                CommandAttribute::AcceptedAddresses(number) => Some(*number),
                _ => None,
            })?,
        })
    }
}

fn subflow(token: u32, local: &Endpoint, remote: SocketAddr) -> Vec<CommandAttribute> {
    vec![
        CommandAttribute::Token(token),
        CommandAttribute::Address(local.to_attributes()),
        CommandAttribute::RemoteAddress(socket_attributes(remote)),
    ]
}
