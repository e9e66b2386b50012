//! What MPSec's kernel side and user side share, and nothing else: the layout of the maps, the traffic classes, and the
//! one packet classifier that both run.
//!
//! Everything here is `no_std`, allocates nothing and has no panic path, so that the eBPF verifier accepts it.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod force;
pub mod headers;
pub mod maps;
pub mod mptcp;
pub mod packet;
pub mod policy;
pub mod probes;
pub mod sockets;
pub mod traffic;

pub use packet::{Layout, Link, Packet, Short, classify};
pub use traffic::{Class, Direction, Protection};

/// Version of every structure in this crate that lies in a map. The object carries it in [`maps::LAYOUT_SYMBOL`] and the
/// agent refuses an object of another version.
pub const LAYOUT_VERSION: u32 = 2;

/// A type whose every byte pattern is a value and which has no padding: it can be copied out of a map as it lies there.
///
/// # Safety
/// Implement it through [`shared!`] only, which proves both at compile time.
pub unsafe trait Pod: Copy + 'static {}

/// Declares a structure that lies in a map: `repr(C)`, [`Pod`], and no padding, proven at compile time.
#[macro_export]
macro_rules! shared {
    (@repr($($repr:tt)*) $(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident: $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr($($repr)*)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty),* }

        const _: () = assert!(
            ::core::mem::size_of::<$name>() == 0 $(+ ::core::mem::size_of::<$ty>())*,
            concat!(stringify!($name), " has padding"),
        );
        const _: () = { $($crate::assert_plain::<$ty>();)* };
        // SAFETY: repr(C) without padding, as asserted above, and every field takes every byte pattern (`Plain`).
        unsafe impl $crate::Pod for $name {}
        // SAFETY: as for `Pod`.
        unsafe impl $crate::Plain for $name {}
    };
    ($($declaration:tt)*) => { $crate::shared! { @repr(C) $($declaration)* } };
}

/// Declares a structure that lies in a frame: as [`shared!`], packed to two bytes.
#[macro_export]
macro_rules! header {
    ($($declaration:tt)*) => { $crate::shared! { @repr(C, packed(2)) $($declaration)* } };
}

/// Integers, arrays of them, and what [`shared!`] declared: what [`shared!`] accepts as a field.
///
/// # Safety
/// Every byte pattern must be a value of the type.
pub unsafe trait Plain: Copy {}
macro_rules! plain { ($($t:ty),*) => { $(
    // SAFETY: an integer takes every byte pattern.
    unsafe impl Plain for $t {}
)* } }
plain!(u8, u16, u32, u64, i32);
// SAFETY: an array of such types has no padding between its elements.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

#[doc(hidden)]
pub const fn assert_plain<T: Plain>() {}
