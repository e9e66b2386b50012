//! The networks that tests stand on.

use std::sync::Arc;

use anyhow::Result;

use crate::netns::Netns;
use crate::{link, need};

/// Two hosts and a wire: device `west` in the left namespace, `east` in the right one.
#[derive(Debug)]
pub struct Pair {
    /// Where `west` is.
    pub left: Arc<Netns>,
    /// Where `east` is.
    pub right: Arc<Netns>,
}

impl Pair {
    /// The device in the left namespace.
    pub const WEST: &'static str = "west";
    /// The device in the right namespace.
    pub const EAST: &'static str = "east";

    /// A wire that nothing crosses unasked: no addresses, no ARP, no IPv6.
    pub fn bare() -> Result<Self> {
        need::root()?;
        let (left, right) = (Arc::new(Netns::new()?), Arc::new(Netns::new()?));
        link::veth((&left, Self::WEST), (&right, Self::EAST))?;
        Ok(Self { left, right })
    }

    /// The same with addresses of both versions: 192.0.2.1 and 2001:db8::1 on the left, .2 and ::2 on the right. They
    /// know each other already, so only what a test sends crosses the wire.
    pub fn addressed() -> Result<Self> {
        let pair = Self::bare()?;
        for (netns, device, number) in [(&pair.left, Self::WEST, 1), (&pair.right, Self::EAST, 2)] {
            netns.enable_ipv6()?;
            link::address(netns, device, &format!("192.0.2.{number}/24"))?;
            link::address(netns, device, &format!("2001:db8::{number}/64"))?;
        }
        for (west, east) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            link::neighbours((&pair.left, Self::WEST, west), (&pair.right, Self::EAST, east))?;
        }
        Ok(pair)
    }

    /// Both ends, each its namespace and its device.
    pub fn ends(&self) -> [(&Arc<Netns>, &'static str); 2] {
        [(&self.left, Self::WEST), (&self.right, Self::EAST)]
    }
}
