//! Ways in which a path fails.

use std::fmt;
use std::io;

use super::wire::Path;

/// How a path fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The cable is pulled: both hosts lose the carrier.
    LinkDown,
    /// Something on the way drops everything, and nobody tells.
    Silent,
}

/// Which of them are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Faults {
    /// The cable is pulled: both hosts lose the carrier
    LinkDown,
    /// Something on the way drops everything, and nobody tells
    Silent,
    /// One after the other
    Both,
}

impl Faults {
    /// One by one.
    #[must_use]
    pub fn each(self) -> &'static [Fault] {
        match self {
            Faults::LinkDown => &[Fault::LinkDown],
            Faults::Silent => &[Fault::Silent],
            Faults::Both => &[Fault::LinkDown, Fault::Silent],
        }
    }
}

/// Which path fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The one that the connection began on
    First,
    /// The next one
    Second,
    /// The one that carried most in the half second before
    #[default]
    Busiest,
}

impl Fault {
    /// Lets a path fail.
    ///
    /// # Errors
    /// Where the carrier cannot be switched.
    pub fn begin(self, path: &Path) -> io::Result<()> {
        match self {
            Fault::LinkDown => path.plug(false),
            Fault::Silent => {
                path.switch(false);
                Ok(())
            }
        }
    }

    /// Repairs it.
    ///
    /// # Errors
    /// Where the carrier cannot be switched.
    pub fn end(self, path: &Path) -> io::Result<()> {
        match self {
            Fault::LinkDown => path.plug(true),
            Fault::Silent => {
                path.switch(true);
                Ok(())
            }
        }
    }

    /// Its name in a figure's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fault::LinkDown => "link_down",
            Fault::Silent => "silent",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::LinkDown => "link down",
            Fault::Silent => "silent loss",
        })
    }
}
