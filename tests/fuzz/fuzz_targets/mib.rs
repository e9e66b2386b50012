//! The text of netstat: what is told stands there, and a counter that is told once is found by its name.
#![no_main]

use mpsec_agent::kernel::mib::Mib;

libfuzzer_sys::fuzz_target!(|input: &str| {
    let Ok(mib) = Mib::parse(input) else { return };
    for (name, value) in &mib.mptcp {
        assert!(input.contains(name.as_str()));
        assert!(mib.mptcp(name).is_some_and(|first| first == *value || mib.mptcp.len() > 1));
    }
});
