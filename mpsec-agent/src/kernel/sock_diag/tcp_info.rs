//! What the kernel tells of a TCP connection.

use super::fields::fields;
use crate::snapshot::mptcp::{TcpDetails, congestion_control as named};

fields! {
    /// `struct tcp_info` (include/uapi/linux/tcp.h, Linux 7.3): 232 bytes in Linux 6.1, 240 from 6.2, 248 from 6.7 and 280 from
    /// 6.18 on. Integers lie in host order; times are in microseconds unless it is said otherwise.
    TcpInfo {
        /// State, a number of include/net/tcp_states.h.
        state: u8 = 0;
        /// State of congestion control: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
        ca_state: u8 = 1;
        /// Retransmission timeouts in a row.
        retransmits: u8 = 2;
        /// Zero-window probes in a row.
        probes: u8 = 3;
        /// Exponent of the timer's backoff.
        backoff: u8 = 4;
        /// Options in use, `TCPI_OPT_*`: 1 timestamps, 2 SACK, 4 window scaling, 8 ECN, 16 ECN seen, 32 SYN data.
        options: u8 = 5;
        /// Window scales, as two bit fields of four bits: sent, then received.
        window_scales: u8 = 6;
        /// As bit fields: one bit, whether the delivery rate is limited by the application; two, why fast open failed.
        rate_and_fastopen: u8 = 7;
        /// Retransmission timeout.
        rto: u32 = 8;
        /// Time after which an acknowledgement is sent at the latest.
        ato: u32 = 12;
        /// Maximum segment size in bytes, sending.
        snd_mss: u32 = 16;
        /// Maximum segment size in bytes, receiving: an estimate.
        rcv_mss: u32 = 20;
        /// Segments sent and not acknowledged; of a listening socket the length of its queue.
        unacked: u32 = 24;
        /// Segments selectively acknowledged; of a listening socket the limit of its queue.
        sacked: u32 = 28;
        /// Segments taken for lost.
        lost: u32 = 32;
        /// Segments sent again and not yet acknowledged.
        retrans: u32 = 36;
        /// Unused.
        fackets: u32 = 40;
        /// Milliseconds since data was sent.
        last_data_sent: u32 = 44;
        /// Unused.
        last_ack_sent: u32 = 48;
        /// Milliseconds since data was received.
        last_data_recv: u32 = 52;
        /// Milliseconds since an acknowledgement was received.
        last_ack_recv: u32 = 56;
        /// Path MTU in bytes.
        pmtu: u32 = 60;
        /// Threshold of the receive window in bytes.
        rcv_ssthresh: u32 = 64;
        /// Smoothed round-trip time.
        rtt: u32 = 68;
        /// Its mean deviation.
        rttvar: u32 = 72;
        /// Slow start threshold in segments; 0x7fffffff before there is one.
        snd_ssthresh: u32 = 76;
        /// Congestion window in segments.
        snd_cwnd: u32 = 80;
        /// Maximum segment size in bytes that was advertised.
        advmss: u32 = 84;
        /// Reordering metric in segments.
        reordering: u32 = 88;
        /// Round-trip time as the receiver sees it.
        rcv_rtt: u32 = 92;
        /// Bytes that the receive window is tuned for.
        rcv_space: u32 = 96;
        /// Segments sent again, ever.
        total_retrans: u32 = 100;
        /// Pacing rate in bytes per second; all ones for none.
        pacing_rate: u64 = 104;
        /// Limit of the pacing rate; all ones for none.
        max_pacing_rate: u64 = 112;
        /// Payload bytes acknowledged by the peer, and the SYN.
        bytes_acked: u64 = 120;
        /// Payload bytes received in order.
        bytes_received: u64 = 128;
        /// Segments sent.
        segs_out: u32 = 136;
        /// Segments received.
        segs_in: u32 = 140;
        /// Payload bytes that wait to be sent for the first time.
        notsent_bytes: u32 = 144;
        /// Least round-trip time of late; all ones before there is one.
        min_rtt: u32 = 148;
        /// Segments with payload received.
        data_segs_in: u32 = 152;
        /// Segments with payload sent.
        data_segs_out: u32 = 156;
        /// Delivery rate in bytes per second.
        delivery_rate: u64 = 160;
        /// Time in which there was something to send or unacknowledged.
        busy_time: u64 = 168;
        /// Part of it in which the peer's window was the limit.
        rwnd_limited: u64 = 176;
        /// Part of it in which the send buffer was the limit.
        sndbuf_limited: u64 = 184;
        /// Segments delivered, retransmissions that proved needless included.
        delivered: u32 = 192;
        /// Those of them that were marked as having met congestion.
        delivered_ce: u32 = 196;
        /// Payload bytes sent, retransmissions included.
        bytes_sent: u64 = 200;
        /// Payload bytes sent again.
        bytes_retrans: u64 = 208;
        /// Duplicate selective acknowledgements received.
        dsack_dups: u32 = 216;
        /// Reordering events seen.
        reord_seen: u32 = 220;
        /// Segments received out of order.
        rcv_ooopack: u32 = 224;
        /// The peer's window in bytes.
        snd_wnd: u32 = 228;
        /// The own window in bytes, from Linux 6.2 on.
        rcv_wnd: u32 = 232;
        /// New hashes of the flow label, from Linux 6.2 on.
        rehash: u32 = 236;
        /// Retransmission timeouts, ever; from Linux 6.7 on.
        total_rto: u16 = 240;
        /// Recoveries from them.
        total_rto_recoveries: u16 = 242;
        /// Milliseconds in them.
        total_rto_time: u32 = 244;
        /// Segments received that were marked as having met congestion, from Linux 6.18 on.
        received_ce: u32 = 248;
        /// Payload bytes delivered with ECT(1), as the peer tells with accurate ECN (RFC 9768).
        delivered_e1_bytes: u32 = 252;
        /// Likewise with ECT(0).
        delivered_e0_bytes: u32 = 256;
        /// Likewise with CE.
        delivered_ce_bytes: u32 = 260;
        /// Payload bytes received with ECT(1).
        received_e1_bytes: u32 = 264;
        /// Likewise with ECT(0).
        received_e0_bytes: u32 = 268;
        /// Likewise with CE.
        received_ce_bytes: u32 = 272;
        /// State of accurate ECN. Linux 6.18 has two 16-bit numbers here (failure mode, option seen), 7.0 bit fields (2 mode, 2
        /// option seen, 4 failure mode, 24 more options), and the length does not tell which.
        accecn: u32 = 276;
    }
}

impl TcpInfo<'_> {
    /// As a snapshot shows it, with the name of the congestion control; `None` if not even what Linux 2.4 told is there.
    pub fn details(&self, congestion_control: Option<&str>) -> Option<TcpDetails> {
        Some(TcpDetails {
            srtt_us: self.rtt()?,
            rttvar_us: self.rttvar()?,
            min_rtt_us: self.min_rtt().filter(|rtt| *rtt != u32::MAX),
            cwnd_segments: self.snd_cwnd()?,
            mss_bytes: self.snd_mss()?,
            unacked_segments: self.unacked()?,
            lost_segments: self.lost()?,
            retransmitted_segments: self.total_retrans()?,
            sent_bytes: self.bytes_sent(),
            acked_bytes: self.bytes_acked(),
            received_bytes: self.bytes_received(),
            retransmitted_bytes: self.bytes_retrans(),
            unsent_bytes: self.notsent_bytes(),
            delivery_rate_bytes_per_second: self.delivery_rate(),
            pacing_rate_bytes_per_second: self.pacing_rate().filter(|rate| *rate != u64::MAX),
            reordering_segments: self.reordering()?,
            reordering_seen: self.reord_seen(),
            out_of_order_segments: self.rcv_ooopack(),
            dsack_duplicates: self.dsack_dups(),
            congestion_control: named(congestion_control.unwrap_or_default()),
        })
    }

    /// Whether the delivery rate was limited by the application rather than by the path. The bit is the lowest where bit
    /// fields begin with the lowest one, as they do on little-endian hosts.
    pub fn delivery_rate_app_limited(&self) -> Option<bool> {
        let bit = if cfg!(target_endian = "little") { 1 } else { 0x80 };
        self.rate_and_fastopen().map(|byte| byte & bit != 0)
    }
}
