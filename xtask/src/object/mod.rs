//! The built kernel side, as files: what is in an object, what must not be, and which sources it came from.
//!
//! Nothing here needs a toolchain, so tests can ask the same questions on any machine.
mod btf;
mod inspect;
mod sources;
mod strip;

pub use inspect::{Inventory, NEUTRAL_PATHS, first_difference, inventory, problems};
pub use sources::{PREBUILT, RECORD, Sources, hashes, source_hash, stale};
pub use strip::strip;

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
