//! Generic walkers over the metric tables. No metric's name is in here.

pub mod markdown;
pub mod prometheus;
