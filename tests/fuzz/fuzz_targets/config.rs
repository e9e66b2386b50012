//! The configuration file: what is accepted is written out as text that reads back as the same, and every refusal says why.
#![no_main]

use std::path::Path;

use mpsec_agent::config::Config;
use mpsec_agent::control::actual::Actual;
use mpsec_agent::control::desired::desired;

libfuzzer_sys::fuzz_target!(|input: &str| {
    match Config::from_toml(input, Path::new("fuzz.toml")) {
        Ok(config) => {
            let again = Config::from_toml(&config.to_toml(), Path::new("again.toml"));
            assert_eq!(again.ok().as_ref(), Some(&config));
            // A host of which nothing is known is refused or left alone, and nothing else.
            let _ = desired(&config.multipath, &Actual::default());
        }
        Err(error) => assert!(!error.problems().is_empty() && !error.to_string().is_empty()),
    }
});
