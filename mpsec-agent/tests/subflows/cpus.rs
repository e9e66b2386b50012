//! What is told to be sent again, where one CPU after the other deals with a subflow.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Result, ensure};
use mpsec_tests::cpu;
use mpsec_tests::frames::{self, Packet, Tags};
use mpsec_tests::packet_socket::PacketSocket;
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::Skip;
use mpsec_tests::wait;

use super::host::Host;
use super::{PORT, SOON, V4, key_of};

/// Payload of a segment.
const LEN: usize = 100;
const FROM: u16 = 40_003;

/// The peer sends anew from the very segment on with which another CPU took over, and the first CPU has them again: it had
/// expected just that one when it last dealt with the subflow.
pub(crate) fn sent_again_where_the_cpu_changed() -> Result<()> {
    let [first, second, ..] = cpu::cpus()[..] else { return Err(Skip::because("needs two CPUs")) };
    let pair = Pair::addressed()?;
    let mut host = Host::new(&pair.right, &[Pair::EAST])?;
    let from = SocketAddr::new("192.0.2.1".parse()?, FROM);
    let subflows = host.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    subflows.adopt(&key_of(V4, from.ip(), PORT, FROM), 7, [0; 2], [false; 2], 0)?;
    let wire = PacketSocket::sender(&pair.left, Pair::WEST)?;
    let mut sent = 0;
    // What each CPU has, by the segments' numbers, and how many of all bytes had come before then.
    let steps = [
        (first, 0..1, 0),
        (second, 1..6, 0),
        (first, 1..6, 5 * LEN),
        (second, 6..8, 5 * LEN),
        (first, 0..9, 13 * LEN),
        (second, 8..10, 14 * LEN),
    ];
    for (cpu, segments, again) in steps {
        sent += segments.len();
        // The other end of a veth device has a packet on the CPU that sent it.
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                cpu::pin(cpu)?;
                segments.clone().try_for_each(|number| wire.send(&segment(number)))
            });
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?
        })?;
        let rx = wait::until(SOON, || {
            let rx = host.poll()?[0].rx;
            ensure!(rx.packets == sent as u64, "{sent} packets were sent: {rx:?}");
            Ok(rx)
        })?;
        ensure!(rx.payload_bytes == (sent * LEN) as u64, "{rx:?}");
        ensure!(
            rx.retransmitted_bytes == again as u64,
            "{again} bytes came again, with {segments:?} on CPU {cpu}: {rx:?}"
        );
    }
    Ok(())
}

/// A segment of the subflow, by its number.
fn segment(number: usize) -> Vec<u8> {
    // The sequence numbers begin anew among them.
    let sequence = u32::MAX.wrapping_sub(350).wrapping_add((number * LEN) as u32);
    let mut tcp = [FROM.to_be_bytes(), PORT.to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 5 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend([7; LEN]);
    let packet = Packet::v4();
    frames::frame(Tags::None, packet.ethertype(), &packet.build(libc::IPPROTO_TCP as u8, &tcp))
}
