//! Messages of the path manager: whatever is decoded encodes to the same bytes, and no view of it is a surprise.
#![no_main]

use mpsec_agent::kernel::mptcp_pm::{Command, Event};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(command) = Command::decode(input) {
        assert_eq!(command.encode(), input);
        let _ = (command.kind().to_string(), command.token(), command.told_limits());
        for endpoint in [command.address(), command.remote()].into_iter().flatten() {
            let again = Command::decode(&Command::add_endpoint(&endpoint).encode());
            assert_eq!(again.ok().and_then(|command| command.address()), Some(endpoint.clone()));
            let _ = endpoint.to_snapshot(|_| None);
        }
    }
    if let Ok(event) = Event::decode(input) {
        assert_eq!(event.encode(), input);
        let _ = (event.kind().to_string(), event.token(), event.local(), event.remote(), event.server_side());
        let _ = (event.error(), event.interface(), event.reset_reason().map(|reason| reason.to_string()));
    }
});
