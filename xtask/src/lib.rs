//! What `cargo xtask` is made of. One module a subcommand; below them what they share.
//!
//! A new subcommand is one module with `Args` and `main(root, &args)`, and one line in `main.rs`.

// Subcommands.
pub mod bench;
pub mod check;
pub mod dashboards;
pub mod dist;
pub mod ebpf;
pub mod fleet;
pub mod lab;
pub mod run;
pub mod service;
pub mod test;
pub mod vm;

// What they share.
pub mod command;
pub mod object;
pub mod rust_src;
pub mod rustc;
pub mod summary;
pub mod tidy;
pub mod tools;
pub mod tree;
