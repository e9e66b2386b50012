//! MPSec's agent.
pub mod api;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod kernel;
pub mod logging;
