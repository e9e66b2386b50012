//! Sockets out of a list: every byte can be anything, and every structure of any length.
#![no_main]

use mpsec_agent::kernel::sock_diag::Socket;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some(socket) = Socket::decode(input) else { return };
    let _ = (socket.local(), socket.remote(), socket.state(), socket.cookie(), socket.subflow(), socket.memory());
    if let Some(info) = socket.tcp_info() {
        let mut fields = 0;
        info.each(|_, _| fields += 1);
        // Each field is at least a byte, and all lie one behind the other.
        assert!(fields <= info.0.len());
        assert_eq!(info.details(socket.congestion_control()).is_some(), info.total_retrans().is_some());
    }
    if let Some(info) = socket.mptcp_info() {
        assert_eq!(info.data_bytes().is_some(), info.bytes_acked().is_some());
        assert!(info.retransmits().is_none() || info.bytes_acked().is_some());
    }
});
