//! MPSec's agent.
//!
//! The way of the data, one direction each:
//! ```text
//! packet -> TC program -> map ┐
//! rtnetlink ──────────────────┴-> kernel -> agent::collect -> Snapshot -> metrics -> publish -> api | control
//! ```
//! Only [`kernel`] does privileged input and output; handlers of [`api`] and [`control`] send a [`control::Command`].
//! [`top`] is a client of the control socket like any other.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod conflicts;
pub mod control;
pub mod doctor;
pub mod kernel;
pub mod lab;
pub mod logging;
pub mod metrics;
pub mod pm;
pub mod publish;
pub mod scheduler;
pub mod snapshot;
pub mod top;
