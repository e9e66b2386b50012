//! The packet classifier against frames of known class, arbitrary bytes, an independent parser, and the fuzzer's corpus.

mod corpus;
mod frames;
mod invariants;
mod named;
mod oracle;
mod properties;
