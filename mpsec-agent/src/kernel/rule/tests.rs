//! Rules and messages.
