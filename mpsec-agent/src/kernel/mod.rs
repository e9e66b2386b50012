//! All privileged input and output of the agent, and all of its `unsafe`.
pub mod btf;
pub mod features;
