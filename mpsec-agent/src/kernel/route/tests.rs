//! Routes and messages.
