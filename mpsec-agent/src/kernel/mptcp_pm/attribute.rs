//! Attributes as lists that keep their order and what they do not know, so that what was decoded encodes to the same bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::kernel::genetlink::Header;

/// Length of `struct nlattr` in bytes.
const HEADER_LEN: usize = 4;

/// A message, or a part of it, that does not hold together: a length that reaches beyond the end, or padding that is not
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("netlink message that does not hold together")]
pub struct Malformed;

/// A generic netlink message of one attribute set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// The header.
    pub header: Header,
    /// The attributes, in the order in which they lie.
    pub attributes: Vec<A>,
}

impl<A: Attribute> Packet<A> {
    /// Reads what lies behind the netlink header. Whatever is read encodes to the same bytes.
    pub fn decode(payload: &[u8]) -> Result<Packet<A>, Malformed> {
        let (header, bytes) = Header::split(payload).ok_or(Malformed)?;
        Ok(Packet { header, attributes: decode_all(bytes)? })
    }

    /// The bytes that lie behind the netlink header.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.bytes().to_vec();
        self.attributes.iter().for_each(|attribute| attribute.encode(&mut bytes));
        bytes
    }
}

/// One attribute out of a set.
pub trait Attribute: Sized {
    /// The attribute with this kind, flag bits included, and value.
    fn decode(kind: u16, value: &[u8]) -> Self;
    /// Appends it with its header and padding.
    fn encode(&self, bytes: &mut Vec<u8>);
}

fn decode_all<A: Attribute>(mut bytes: &[u8]) -> Result<Vec<A>, Malformed> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let [a, b, c, d] = *bytes.first_chunk().ok_or(Malformed)?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(HEADER_LEN..len).ok_or(Malformed)?;
        let padding = bytes.get(len..len.next_multiple_of(4)).ok_or(Malformed)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed);
        }
        attributes.push(A::decode(u16::from_ne_bytes([c, d]), value));
        bytes = &bytes[len + padding.len()..];
    }
    Ok(attributes)
}

/// Appends an attribute. A value that is too long for the length field, which no decoder makes, is cut.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER_LEN]);
    fill(bytes);
    bytes.truncate(start + usize::from(u16::MAX));
    let len = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    bytes.resize(start + usize::from(len).next_multiple_of(4), 0);
}

/// How a value lies in an attribute.
pub(super) trait Layout<T> {
    /// The value; `None` if the bytes are not exactly one.
    fn decode(bytes: &[u8]) -> Option<T>;
    /// Appends the value.
    fn encode(value: &T, bytes: &mut Vec<u8>);
}

/// Integers in the byte order of the host.
pub(super) struct Host;
/// Integers and addresses in network byte order.
pub(super) struct Network;
/// Attributes inside the attribute.
pub(super) struct Nest;

macro_rules! host_integers {
    ($($type:ty)*) => {$(
        impl Layout<$type> for Host {
            fn decode(bytes: &[u8]) -> Option<$type> {
                bytes.try_into().ok().map(<$type>::from_ne_bytes)
            }
            fn encode(value: &$type, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&value.to_ne_bytes());
            }
        }
    )*};
}
host_integers!(u8 u16 u32 i32);

impl Layout<u16> for Network {
    fn decode(bytes: &[u8]) -> Option<u16> {
        bytes.try_into().ok().map(u16::from_be_bytes)
    }
    fn encode(value: &u16, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&value.to_be_bytes());
    }
}

impl Layout<Ipv4Addr> for Network {
    fn decode(bytes: &[u8]) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
    }
    fn encode(value: &Ipv4Addr, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&value.octets());
    }
}

impl Layout<Ipv6Addr> for Network {
    fn decode(bytes: &[u8]) -> Option<Ipv6Addr> {
        <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
    }
    fn encode(value: &Ipv6Addr, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&value.octets());
    }
}

impl<A: Attribute> Layout<Vec<A>> for Nest {
    fn decode(bytes: &[u8]) -> Option<Vec<A>> {
        decode_all(bytes).ok()
    }
    fn encode(value: &Vec<A>, bytes: &mut Vec<u8>) {
        value.iter().for_each(|attribute| attribute.encode(bytes));
    }
}

/// Declares an attribute set: a variant a kind, and one for whatever else there is.
macro_rules! attributes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident($type:ty) = $kind:literal, $layout:ty;)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant($type),)*
            /// One that has no name here, or whose value has not the length that it should have.
            Other {
                /// Its kind, with the flag bits.
                kind: u16,
                /// Its value.
                bytes: Vec<u8>,
            },
        }

        impl $crate::kernel::mptcp_pm::attribute::Attribute for $name {
            fn decode(kind: u16, value: &[u8]) -> Self {
                use $crate::kernel::mptcp_pm::attribute::Layout;
                let known = match kind {
                    $($kind => <$layout as Layout<$type>>::decode(value).map(Self::$variant),)*
                    _ => None,
                };
                known.unwrap_or_else(|| Self::Other { kind, bytes: value.to_vec() })
            }

            fn encode(&self, bytes: &mut Vec<u8>) {
                use $crate::kernel::mptcp_pm::attribute::{Layout, put};
                match self {
                    $(Self::$variant(value) => {
                        put(bytes, $kind, |bytes| <$layout as Layout<$type>>::encode(value, bytes));
                    })*
                    Self::Other { kind, bytes: value } => put(bytes, *kind, |bytes| bytes.extend_from_slice(value)),
                }
            }
        }
    };
}
pub(super) use attributes;

/// Declares the numbers of a generic netlink header's command field, with a name each.
macro_rules! numbers {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// One that has no name here.
            Other(u8),
        }

        impl $name {
            /// Every one that has a name, in the order of the numbers.
            pub const ALL: &[$name] = &[$(Self::$variant),*];

            /// The one with the kernel's number.
            pub const fn from_number(number: u8) -> $name {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }

            /// The kernel's number.
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(number) => number,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Other(number) => write!(f, "{number}"),
                }
            }
        }
    };
}
pub(super) use numbers;
