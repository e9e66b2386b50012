//! Network namespaces without a name: they are gone when nobody holds them, however their maker ends.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::panic::resume_unwind;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::{process, ptr, thread};

/// What lies below `/sys` and is carried over into a namespace's own.
const CARRIED: [&CStr; 4] = [c"/sys/fs/cgroup", c"/sys/kernel/debug", c"/sys/kernel/tracing", c"/sys/kernel/security"];

/// A network namespace with a mount namespace beside it, in which `/sys`, `/sys/fs/bpf` and `/run` are its own.
///
/// The kernel takes both down, with devices, files in `/run` and pinned objects, when this, every thread and process in
/// them and every socket that was opened there are gone.
#[derive(Debug)]
pub struct PrivateNetns {
    net: OwnedFd,
    mnt: OwnedFd,
}

impl PrivateNetns {
    /// Makes one with nothing in it but `lo`, which is down.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN; `EINVAL` where the kernel has no network namespaces.
    pub fn new() -> io::Result<PrivateNetns> {
        on_own_thread(|| {
            unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS)?;
            private_mounts()?;
            let open = |name: &str| File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
            Ok(PrivateNetns { net: open("net")?, mnt: open("mnt")? })
        })
    }

    /// Does something inside, on a thread of its own, and waits for it. What is opened there stays there.
    ///
    /// # Errors
    /// Those of `body`, and when the namespace cannot be entered; then nothing was done.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_own_thread(|| self.enter().and_then(|()| body()))
    }

    /// Sets a sysctl, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// `ENOENT` where this kernel has no such setting, `EINVAL` where it does not take the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{key}"), value))
            .map_err(|error| io::Error::new(error.kind(), format!("{key} = {value}: {error}")))
    }

    /// A path that names the network namespace, for this process and its children.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.net.as_raw_fd())
    }

    /// Starts a program inside. The kernel kills it when this process ends, or when the guard is dropped.
    ///
    /// # Errors
    /// Those of starting it.
    pub fn spawn(&self, mut command: Command) -> io::Result<Guarded> {
        let parent = libc::pid_t::try_from(process::id()).map_err(io::Error::other)?;
        // SAFETY: between fork and exec this calls nothing but prctl and getppid, which are async-signal-safe.
        unsafe { command.pre_exec(move || die_with(parent)) };
        let (started, child) = channel();
        let (hold, held) = channel::<()>();
        let inside = PrivateNetns { net: self.net.try_clone()?, mnt: self.mnt.try_clone()? };
        // For the kernel the parent is the thread that forked: it stays until the guard is dropped.
        thread::Builder::new().name("lab-parent".into()).spawn(move || {
            // Nobody waits for the answer only if the guard is given up; then there is nothing to hold.
            let _ = started.send(inside.enter().and_then(|()| command.spawn()));
            let _ = held.recv();
        })?;
        let child = child.recv().map_err(|_| io::Error::other("the thread of a child is gone"))??;
        Ok(Guarded { child, _hold: hold })
    }

    fn enter(&self) -> io::Result<()> {
        // A thread that shares its root and current folder with others may not change its mount namespace.
        unshare(libc::CLONE_FS)?;
        for (fd, kind) in [(&self.mnt, libc::CLONE_NEWNS), (&self.net, libc::CLONE_NEWNET)] {
            // SAFETY: setns takes numbers alone, and changes nothing but the calling thread.
            check(unsafe { libc::setns(fd.as_raw_fd(), kind) })?;
        }
        Ok(())
    }
}

/// A program that runs as long as this.
#[derive(Debug)]
pub struct Guarded {
    /// The program.
    pub child: Child,
    _hold: Sender<()>,
}

impl Guarded {
    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        // SAFETY: kill takes numbers alone; the child is not yet waited for, so that the number is still its own.
        let _ = unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn die_with(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: this option takes a signal's number and nothing else.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // Of a parent that ended before, nobody is told.
    // SAFETY: getppid has no preconditions and cannot fail.
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Runs `body` on a new thread and waits for it; a panic goes on in the caller.
fn on_own_thread<T: Send>(body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lab-inside".into()).spawn_scoped(scope, body)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// `/sys` shows the devices of the namespace that it was mounted in, so it is mounted anew. What other file systems lie
/// below it is carried over, except for pinned BPF objects, which the namespace has of its own.
fn private_mounts() -> io::Result<()> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    let trees: Vec<_> = CARRIED.iter().filter_map(|path| Some((*path, open_tree(path).ok()?))).collect();
    mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), 0)?;
    for (tree_path, tree) in &trees {
        move_mount(tree, tree_path)?;
    }
    // A kernel without BPF has no such folder, and needs none.
    let _ = mount(Some(c"bpf"), c"/sys/fs/bpf", Some(c"bpf"), 0);
    mount(Some(c"tmpfs"), c"/run", Some(c"tmpfs"), 0)
}

fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null where mount(2) allows it, or a C string that outlives the call.
    check(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) })
}

/// A detached copy of a mount and of all that lies below it.
fn open_tree(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE as libc::c_int | libc::AT_RECURSIVE | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn move_mount(tree: &OwnedFd, path: &CStr) -> io::Result<()> {
    let (from, flags) = (tree.as_raw_fd(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both paths are C strings that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), flags) };
    check(i32::try_from(done).unwrap_or(-1))
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare changes nothing but the calling thread.
    check(unsafe { libc::unshare(flags) })
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
