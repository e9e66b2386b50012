//! `mpsec doctor`: what this kernel can do, what is missing, and what mends it.

pub mod examine;
pub mod mptcp;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};

use serde_json::json;

use crate::kernel::ebpf;
use crate::kernel::features::{Feature, Features, State};
use crate::snapshot::Probe;

/// What the doctor found.
#[derive(Debug)]
pub struct Report {
    features: Features,
    /// The way in that each probe of the kernel's functions takes here.
    probes: Vec<Probe>,
    kernel: String,
}

impl Report {
    /// Examines this host.
    #[must_use]
    pub fn new() -> Self {
        let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let kernel = format!("Linux {} on {}", read("osrelease").trim(), std::env::consts::ARCH);
        Self { features: Features::probe(), probes: ebpf::try_probes(), kernel }
    }

    /// Whether MPSec can work here.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.features.baseline_gaps().is_empty()
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let gaps: Vec<_> = self.features.baseline_gaps().iter().map(|feature| feature.id).collect();
        json!({
            "kernel": self.kernel,
            "fit": self.is_fit(),
            "baseline_gaps": gaps,
            "features": self.features.all(),
            "probes": self.probes,
        })
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        let mut text = format!("{}\n", self.kernel);
        let mut section = None;
        for feature in self.features.all() {
            if section != Some(feature.section) {
                section = Some(feature.section);
                line(&mut text, format_args!("\n{}", style.bold(feature.section.title())));
            }
            self.feature(&mut text, feature, style);
        }
        line(&mut text, format_args!("\n{}", style.bold("Probes of retransmissions, resets and ends")));
        self.probes.iter().for_each(|probe| show_probe(&mut text, probe, style));
        self.summary(&mut text, style);
        text
    }

    fn feature(&self, text: &mut String, feature: &Feature, style: Style) {
        let mark = style.mark(&feature.state);
        match &feature.state {
            State::Available => {
                let detail = feature.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                line(text, format_args!("  {mark} {}{detail}", feature.name));
            }
            State::Missing { reason } | State::Unknown { reason } => {
                line(text, format_args!("  {mark} {}: {reason}", feature.name));
                let indent = style.plain_mark(&feature.state).chars().count() + 3;
                line(text, format_args!("{:indent$}needed for: {}", "", feature.needed_for));
                if let Some(remedy) = &feature.remedy {
                    line(text, format_args!("{:indent$}remedy: {remedy}", ""));
                }
            }
        }
    }

    fn summary(&self, text: &mut String, style: Style) {
        let count = |wanted: fn(&State) -> bool| self.features.all().iter().filter(|f| wanted(&f.state)).count();
        let available = count(|state| *state == State::Available);
        let missing = count(|state| matches!(state, State::Missing { .. }));
        let unknown = count(|state| matches!(state, State::Unknown { .. }));
        line(text, format_args!("\n{available} available, {missing} missing, {unknown} not tried."));
        let gaps = self.features.baseline_gaps();
        if gaps.is_empty() {
            let rest = if missing + unknown > 0 { "; what is missing above is left out" } else { "" };
            line(text, format_args!("{}{rest}.", style.bold("MPSec can work on this host")));
            return;
        }
        let names: Vec<_> = gaps.iter().map(|feature| feature.name).collect();
        let untried = gaps.iter().any(|feature| matches!(feature.state, State::Unknown { .. }));
        let verdict = match untried {
            true => "Whether MPSec can work here is not known; run `mpsec doctor` as root to find out. Not tried",
            false => "MPSec cannot work on this host. It lacks",
        };
        line(text, format_args!("{}: {}.", style.bold(verdict), names.join(", ")));
    }
}

fn show_probe(text: &mut String, Probe { name, entry, error }: &Probe, style: Style) {
    let reason = error.as_deref().unwrap_or_default();
    match (*entry, reason) {
        ("none", reason) => {
            let mark = style.mark(&State::Missing { reason: String::new() });
            line(text, format_args!("  {mark} {name}: {reason}"));
        }
        (entry, "") => line(text, format_args!("  {} {name}: {entry}", style.mark(&State::Available))),
        (entry, reason) => line(text, format_args!("  {} {name}: {entry} ({reason})", style.mark(&State::Available))),
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Marks beyond ASCII.
    pub unicode: bool,
    /// Colours and bold.
    pub colour: bool,
}

impl Style {
    /// As standard output and the locale allow.
    #[must_use]
    pub fn of_stdout() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
        let terminal = io::stdout().is_terminal();
        let unicode = terminal && (locale.contains("utf-8") || locale.contains("utf8"));
        Self { unicode, colour: terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb") }
    }

    fn plain_mark(self, state: &State) -> &'static str {
        match (state, self.unicode) {
            (State::Available, true) => "✓",
            (State::Missing { .. }, true) => "✗",
            (State::Unknown { .. }, true) => "?",
            (State::Available, false) => "[ok]",
            (State::Missing { .. }, false) => "[--]",
            (State::Unknown { .. }, false) => "[??]",
        }
    }

    fn mark(self, state: &State) -> String {
        let colour = match state {
            State::Available => 32,
            State::Missing { .. } => 31,
            State::Unknown { .. } => 33,
        };
        let mark = self.plain_mark(state);
        if self.colour { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() }
    }

    fn verdict(self, verdict: mptcp::Verdict) -> String {
        let (mark, colour) = match (verdict, self.unicode) {
            (mptcp::Verdict::Fine, true) => ("✓", 32),
            (mptcp::Verdict::Wrong, true) => ("✗", 31),
            (mptcp::Verdict::Noteworthy, true) => ("!", 33),
            (mptcp::Verdict::Unknown, true) => ("?", 33),
            (mptcp::Verdict::Fine, false) => ("[ok]", 32),
            (mptcp::Verdict::Wrong, false) => ("[!!]", 31),
            (mptcp::Verdict::Noteworthy, false) => ("[ i]", 33),
            (mptcp::Verdict::Unknown, false) => ("[??]", 33),
        };
        if self.colour { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn line(text: &mut String, content: fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_tell_of_every_feature() {
        let report = Report::new();
        let text = report.to_text(Style::default());
        assert!(text.is_ascii(), "{text}");
        let json = report.to_json();
        assert_eq!(json["fit"], report.is_fit());
        assert_eq!(json["features"].as_array().map(Vec::len), Some(report.features.all().len()));
        for feature in report.features.all() {
            assert!(text.contains(feature.name), "{}", feature.name);
        }
        assert_eq!(json["probes"].as_array().map(Vec::len), Some(report.probes.len()));
        for probe in &report.probes {
            assert!(text.contains(probe.name) && (probe.entry != "none" || probe.error.is_some()), "{probe:?}");
        }
        for feature in json["features"].as_array().into_iter().flatten() {
            let state = feature["state"].as_str().unwrap_or_default();
            assert!(["available", "missing", "unknown"].contains(&state), "{feature}");
            assert_eq!(state == "available", feature.get("reason").is_none(), "{feature}");
        }
    }

    #[test]
    fn colours_and_marks_follow_the_style() {
        let rich = Style { unicode: true, colour: true };
        assert_eq!(rich.mark(&State::Available), "\x1b[32m✓\x1b[0m");
        assert_eq!(Style::default().mark(&State::Unknown { reason: String::new() }), "[??]");
    }
}
