//! What the first program of a virtual machine is made of.
//!
//! `plan` is what xtask writes and the guest reads, `word` what the guest says and xtask reads; both sides use the same code.
//! `modules` is a small `modprobe`. Only `host` and `run` touch the machine.

pub mod host;
pub mod modules;
pub mod plan;
pub mod run;
pub mod system;
pub mod word;
