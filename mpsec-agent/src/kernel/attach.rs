//! Attaching the programs to interfaces: through TCX where the kernel has it, through clsact elsewhere.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use mpsec_common::Direction;

use super::clsact::{Clsact, ClsactError, Filter};
use super::netlink::NetlinkError;
use super::tcx;

/// The means by which a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A TCX link (kernel 6.6 and later).
    Tcx,
    /// A filter of a clsact queueing discipline.
    Clsact,
}

impl Method {
    /// The value of the label `method`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// TCX was asked for.
    #[error("this kernel has no TCX (it came with Linux 6.6): use --attach auto or --attach clsact")]
    NoTcx,
    /// The socket through which clsact is spoken to.
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    /// The system call that makes the link.
    #[error("TCX: {0}")]
    Tcx(io::Error),
    /// One of the requests for the filter.
    #[error("clsact: {0}")]
    Clsact(ClsactError),
}

impl AttachError {
    /// True when the interface was gone before it could be attached to.
    pub fn interface_is_gone(&self) -> bool {
        let errno = match self {
            Self::Tcx(error) => error.raw_os_error(),
            Self::Clsact(error) => error.errno(),
            Self::NoTcx | Self::Socket(_) => None,
        };
        errno == Some(libc::ENODEV)
    }
}

/// One attached program. It is detached through [`Attacher::detach`]; a TCX link also when it is dropped.
#[derive(Debug)]
pub enum Attachment {
    /// A link, by its descriptor.
    Tcx(OwnedFd),
    /// A filter.
    Clsact(Filter),
}

/// Attaches and detaches.
pub struct Attacher {
    method: Method,
    clsact: Clsact,
}

impl Attacher {
    /// Chooses the means: `wanted`, or TCX where the kernel has it. `program` is only looked at.
    ///
    /// # Errors
    /// [`AttachError::NoTcx`] if TCX is wanted and the kernel lacks it.
    pub fn new(wanted: Option<Method>, program: BorrowedFd<'_>) -> Result<Attacher, AttachError> {
        let method = match wanted {
            Some(Method::Clsact) => Method::Clsact,
            Some(Method::Tcx) if !tcx_is_there(program) => return Err(AttachError::NoTcx),
            None if !tcx_is_there(program) => Method::Clsact,
            Some(Method::Tcx) | None => Method::Tcx,
        };
        Ok(Attacher { method, clsact: Clsact::open().map_err(AttachError::Socket)? })
    }

    /// The means in use.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Attaches `program` to one direction of an interface, in front of what is there.
    pub fn attach(
        &mut self,
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Attachment, AttachError> {
        match self.method {
            Method::Tcx => tcx::attach(program, ifindex, direction).map(Attachment::Tcx).map_err(AttachError::Tcx),
            Method::Clsact => {
                let filter = self.clsact.attach(program, ifindex, direction).map_err(AttachError::Clsact)?;
                Ok(Attachment::Clsact(filter))
            }
        }
    }

    /// Detaches; an interface that is gone took its filters along.
    pub fn detach(&mut self, ifindex: u32, attachment: Attachment) -> Result<(), NetlinkError> {
        match attachment {
            Attachment::Tcx(link) => {
                drop(link);
                Ok(())
            }
            Attachment::Clsact(filter) => self.clsact.detach(ifindex, filter),
        }
    }

    /// True while the program is still attached. If the kernel does not answer, it is taken to be.
    pub fn holds(&mut self, ifindex: u32, attachment: &Attachment) -> bool {
        match attachment {
            Attachment::Tcx(link) => tcx::target(link).map_or(true, |target| target == ifindex),
            Attachment::Clsact(filter) => self.clsact.holds(ifindex, *filter),
        }
    }

    /// How many programs and filters of others see a packet before ours does; 0 where the kernel does not say. What they keep,
    /// and what they let pass without giving it on (any answer but `TCX_NEXT`, tcx_run, include/net/tcx.h), is not counted.
    pub fn ahead(&mut self, ifindex: u32, direction: Direction, attachment: &Attachment) -> u32 {
        match attachment {
            Attachment::Tcx(link) => tcx::ahead(ifindex, direction, Some(link)).unwrap_or(0),
            Attachment::Clsact(filter) => {
                let programs = tcx::ahead(ifindex, direction, None).unwrap_or(0);
                programs + self.clsact.ahead(ifindex, *filter).unwrap_or(0)
            }
        }
    }

    /// Removes what a killed agent left on an interface; true when there was something.
    pub fn remove_stale(&mut self, ifindex: u32) -> Result<bool, NetlinkError> {
        self.clsact.remove_stale(ifindex)
    }
}

/// Attaching to an interface that cannot be there is refused for that reason only by a kernel that has TCX.
fn tcx_is_there(program: BorrowedFd<'_>) -> bool {
    let refusal = tcx::attach(program, i32::MAX as u32, Direction::Rx);
    refusal.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
}
