//! Loading the program that lists sockets.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::Ebpf;
use aya::programs::Iter;
use aya_obj::btf::{Btf, BtfType, Func, FuncLinkage, Ptr};
use mpsec_common::sockets::PROGRAM_SOCKETS;

use super::{Offsets, SocketsIter};
use crate::kernel::btf::{BtfKind, KernelBtf};
use crate::kernel::features::syscall::load_by_aya;

/// The walk's name, and that of the function whose type the kernel knows it by.
const WALK: &str = "tcp";
const FUNCTION: &str = "bpf_iter_tcp";

/// What has to be looked up before the object is loaded.
pub struct Ready {
    /// For the kernel side's globals.
    pub offsets: Offsets,
    function: u32,
}

impl Ready {
    /// Looks it up.
    ///
    /// # Errors
    /// Why this kernel cannot list sockets so, in words: one before 5.9, or with structures that are not known here.
    pub fn find(btf: &KernelBtf) -> Result<Ready, String> {
        let find = || Ok(Ready { function: btf.id_of(FUNCTION, BtfKind::Func)?, offsets: Offsets::resolve(btf)? });
        find().map_err(|error: super::super::btf::BtfError| error.to_string())
    }

    /// Loads the program.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load(self, object: &mut Ebpf) -> anyhow::Result<SocketsIter> {
        let program = object.program_mut(PROGRAM_SOCKETS).context("the object has no program that lists sockets")?;
        let program: &mut Iter = program.try_into()?;
        let types = only(self.function);
        load_by_aya(|| program.load(WALK, &types)).context("the kernel refused the program that lists sockets")?;
        SocketsIter::new(program.fd()?.as_fd(), self.offsets).context("cannot list sockets by a program")
    }
}

/// Type information with the walk's function under the number that the kernel has it under, and nothing else of use: all that
/// is read of it is this number, and the kernel's own takes tens of megabytes to read.
fn only(function: u32) -> Btf {
    let mut btf = Btf::new();
    let name = btf.add_string(FUNCTION);
    for _ in 1..function {
        btf.add_type(BtfType::Ptr(Ptr::new(0, 0)));
    }
    btf.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static)));
    btf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_has_the_number_that_the_kernel_gave_it() {
        for function in [1, 2, 70_000] {
            let found = only(function).id_by_type_name_kind(FUNCTION, aya_obj::btf::BtfKind::Func);
            assert_eq!(found.unwrap(), function);
        }
    }
}
