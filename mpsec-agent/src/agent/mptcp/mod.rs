//! What is seen of MPTCP in one network namespace, put together from sources that each may fail alone.

mod findings;
mod ledger;
mod paths;
mod rises;
