//! Settings: what is written is read, and refusals say what to do.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::sysctl::{self, SysctlError};
use mpsec_tests::trial::trial;

use super::Place;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("settings::what_is_written_is_read", LIMIT, round_trip),
        trial("settings::refusals_say_why", LIMIT, refusals),
        trial("settings::who_may_not_is_told_what_to_do", LIMIT, forbidden),
    ]
}

fn round_trip() -> Result<()> {
    let place = Place::new()?;
    place.netns.ip("link add name eth0.5 type veth peer name eth0.6")?;
    place.netns.run(|| {
        for (name, value, read) in [
            ("net.ipv4.tcp_rmem", "4096\t65536  131072", "4096 65536 131072"),
            ("net/ipv4/conf/eth0.5/rp_filter", "2", "2"),
            ("net.ipv4.tcp_congestion_control", "reno", "reno"),
        ] {
            ensure!(sysctl::read(name)?.as_deref() != Some(read), "{name} is so anyway");
            sysctl::write(name, value)?;
            ensure!(sysctl::read(name)?.as_deref() == Some(read), "{name}: {:?}", sysctl::read(name));
        }
        ensure!(sysctl::read("net.ipv4.no_such")?.is_none());
        Ok(())
    })?;
    let here = sysctl::read("net.ipv4.tcp_rmem")?;
    ensure!(here.as_deref() != Some("4096 65536 131072"), "it is the test's own namespace that was written");
    Ok(())
}

fn refusals() -> Result<()> {
    let place = Place::new()?;
    let refusal = |name: &str, value: &str| {
        let error = sysctl::write(name, value).err().with_context(|| format!("{name} took {value}"))?;
        Ok::<_, anyhow::Error>((format!("{error}"), error))
    };
    place.netns.run(|| {
        for (name, value) in [
            ("net.ipv4.tcp_reordering", "many"),
            ("net.ipv4.tcp_congestion_control", "nosuch"),
            ("net.ipv4.tcp_recovery", "99999999999999999999"),
            ("net.ipv4.tcp_syn_retries", "0"),
        ] {
            let (text, error) = refusal(name, value)?;
            ensure!(matches!(error, SysctlError::Value { .. }), "{error:?}");
            ensure!(text.contains(value) && text.contains(&name.replace('.', "/")), "{text}");
        }
        let (text, error) = refusal("net.ipv4.no_such", "1")?;
        ensure!(matches!(error, SysctlError::Missing(_)) && text.contains("/proc/sys/net/ipv4/no_such"), "{text}");
        let (text, error) = refusal("net.ipv4.tcp_available_congestion_control", "reno")?;
        ensure!(matches!(error, SysctlError::Forbidden { .. }) && text.contains("only be read"), "{text}");
        Ok(())
    })
}

fn forbidden() -> Result<()> {
    let place = Place::new()?;
    let read_only = place.netns.run(|| -> Result<String> {
        // The namespace has mounts of its own.
        for words in [["--bind", "/proc/sys", "/proc/sys"], ["-o", "remount,bind,ro", "/proc/sys"]] {
            ensure!(Command::new("mount").args(words).status()?.success(), "mount {words:?}");
        }
        let error = sysctl::write("net.ipv4.tcp_reordering", "5").err().context("it took it")?;
        Ok(error.to_string())
    })?;
    ensure!(read_only.contains("ReadWritePaths=/proc/sys/net"), "{read_only}");
    Ok(())
}
