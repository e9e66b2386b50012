//! A later revision is installed while a connection is in use: not a byte is lost, and no subflow.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp_socket::Protocol;
use mpsec_tests::wait;

use super::guest::{self, PACKAGES, note, sh, tell};
use super::{act, net};

const PORT: u16 = 5001;
const CHUNK: usize = 4096;
/// A period that no power of two divides, so that a chunk in the wrong place is noticed.
const PERIOD: usize = 251;

pub fn trials() -> Vec<Trial> {
    vec![tell("upgrade", upgrade)]
}

fn upgrade() -> Result<()> {
    let peer = net::peer()?;
    let listener = peer.run(|| Protocol::Mptcp.listen(([10, 9, 0, 2], PORT).into()))?;
    let from = Protocol::Mptcp.connect(([10, 9, 0, 2], PORT).into())?;
    let (to, _) = listener.accept().context("accept")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&from, &done));
        let receiver = scope.spawn(|| receive(&to));
        let judged = install_meanwhile();
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        judged?;
        note(format!("service::upgrade: {received} bytes of {sent} received, each as it was sent"));
        ensure!(sent == received && sent > 0, "{received} of {sent} bytes");
        Ok(())
    })
}

/// The subflows of before are those of after.
fn install_meanwhile() -> Result<()> {
    let before = wait::until(guest::PATIENCE, || {
        let subflows = net::subflows(PORT)?;
        ensure!(subflows.len() >= 2, "subflows: {subflows:?}");
        Ok(subflows)
    })?;
    let (old, first) = (guest::pid()?, sh("dpkg-query --show --showformat '${Version}' mpsec")?);
    sh(&format!("dpkg --install {PACKAGES}/mpsec_*-2_amd64.deb"))?;
    guest::answers_anew(Some(old))?;
    let second = sh("dpkg-query --show --showformat '${Version}' mpsec")?;
    ensure!(first != second && second.ends_with("-2"), "{first} became {second}");
    // Long enough for a failover or a path manager to do what it should not.
    thread::sleep(Duration::from_secs(3));
    let after = net::subflows(PORT)?;
    note(format!("service::upgrade: {} subflows before, {} after", before.len(), after.len()));
    ensure!(before.is_subset(&after), "lost: {:?}", before.difference(&after).collect::<Vec<_>>());
    act::in_force()
}

/// About a megabyte each second, until it is done.
fn send(mut to: &TcpStream, done: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        to.write_all(&chunk(sent)).with_context(|| format!("send byte {sent}"))?;
        sent += CHUNK as u64;
        thread::sleep(Duration::from_millis(4));
    }
    to.shutdown(std::net::Shutdown::Write).context("shutdown")?;
    Ok(sent)
}

fn receive(mut from: &TcpStream) -> Result<u64> {
    from.set_read_timeout(Some(guest::PATIENCE))?;
    let (mut received, mut buffer) = (0u64, vec![0; CHUNK]);
    loop {
        let got = match from.read(&mut buffer) {
            // A wait with a limit may be interrupted though no signal came (mptcp_recvmsg, net/mptcp/protocol.c, 6.18).
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.with_context(|| format!("receive byte {received}"))?,
        };
        if got == 0 {
            return Ok(received);
        }
        ensure!(buffer[..got] == chunk(received)[..got], "wrong bytes after {received}");
        received += got as u64;
    }
}

/// What is sent from this place on.
fn chunk(from: u64) -> Vec<u8> {
    let start = (from % PERIOD as u64) as usize;
    (start..start + CHUNK).map(|at| (at % PERIOD) as u8).collect()
}
