//! (to be written)
pub mod features;
