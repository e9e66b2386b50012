//! The book without a kernel.
