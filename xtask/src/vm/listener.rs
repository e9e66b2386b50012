//! Hears a guest: shows what its programs print, and keeps the account of it.
use std::{io::Write, path::Path};

use anyhow::Result;
use vm_init::word::{Code, Word};

use super::{
    qemu::Ended,
    report::{self, Feature},
    trials::{Reader, Trials},
};
use crate::summary::Summary;

/// The label of `mpsec doctor --json`, whose output is kept rather than shown.
pub const DOCTOR: &str = "doctor";

/// The account of one kernel.
pub struct Listener {
    /// What was to be shown, where it is kept until the end.
    kept: Option<String>,
    /// Whether the guest has said a word.
    pub booted: bool,
    release: String,
    summary: Summary,
    reader: Reader,
    doctor: String,
    /// The program that runs.
    running: Option<String>,
    off: bool,
}

impl Listener {
    /// Of a kernel of this release, from which nothing was heard yet. What it says is shown at once, or when the account is
    /// closed, as one piece.
    #[must_use]
    pub fn new(release: &str, at_once: bool) -> Self {
        Self {
            kept: (!at_once).then(String::new),
            booted: false,
            release: release.to_owned(),
            summary: Summary::default(),
            reader: Reader::default(),
            doctor: String::new(),
            running: None,
            off: false,
        }
    }

    /// A line of the guest.
    pub fn hear(&mut self, line: &str) {
        match Word::parse(line) {
            None if line.is_empty() => {}
            None if self.running.as_deref() == Some(DOCTOR) => self.doctor += line,
            None => self.note(line),
            Some(Word::Boot(release)) => {
                self.booted = true;
                self.show(&format!("booted {release}"));
            }
            Some(Word::Start(label)) => {
                if label != DOCTOR {
                    self.note(&format!("     Running {label} (Linux {})", self.release));
                    self.reader.start(&label);
                }
                self.running = Some(label);
            }
            Some(Word::End { label, code, seconds }) => self.end(&label, code, seconds),
            Some(Word::Broken(why)) => self.fail(&why),
            Some(Word::Off) => self.off = true,
        }
    }

    /// Shows a line, or keeps it.
    pub fn show(&mut self, line: &str) {
        if let Some(kept) = &mut self.kept {
            kept.push_str(line);
            kept.push('\n');
        } else {
            println!("{line}");
            // Where nobody reads it, it is in the summary all the same.
            let _ = std::io::stdout().flush();
        }
    }

    fn note(&mut self, line: &str) {
        self.show(line);
        self.summary.read(line);
        self.reader.read(line);
    }

    fn end(&mut self, label: &str, code: Code, seconds: f64) {
        self.running = None;
        self.show(&format!("{label}: {code} after {seconds:.1} s"));
        let said_itself = match label {
            // It has its own exit code for a host that lacks something.
            DOCTOR => matches!(code, Code::Exit(_)),
            // Test programs say themselves what failed, with exit code 101.
            _ => matches!(code, Code::Exit(0 | 101)),
        };
        if !said_itself {
            self.fail(&format!("{label} ended with {code}"));
        }
    }

    fn fail(&mut self, what: &str) {
        self.summary.fail(&format!("Linux {}: {what}", self.release));
        self.show(&format!("FAILED: {what}"));
    }

    /// Closes the account when the machine is off. One that was `cut` off because the time for all was over has not failed.
    pub fn close(mut self, ended: Ended, cut: bool, console: &Path) -> Result<(Summary, Trials, Vec<Feature>)> {
        let doing = self.running.take().map_or_else(String::new, |label| format!(" in {label}"));
        if ended == Ended::Overdue && cut {
            let what = format!("Linux {}, the rest", self.release);
            self.summary.skip(&what, &format!("left out{doing}: the minutes for all kernels are over"));
            self.summary.cut_short(self.reader.of_this_program());
        } else if !self.off || ended != Ended::ByItself {
            self.fail(&format!("the machine ended{doing} before it was done ({ended:?}); see {}", console.display()));
        }
        if let Some(kept) = self.kept.take() {
            print!("{kept}");
        }
        let features = if self.doctor.is_empty() { Vec::new() } else { report::features(&self.doctor)? };
        let success = self.summary.failed == 0;
        Ok((self.summary.close(success), self.reader.trials, features))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Listener {
        let mut listener = Listener::new("6.1.0", true);
        lines.iter().for_each(|line| listener.hear(line));
        listener
    }

    const BEGUN: &[&str] = &["@vm boot 6.1.0", "@vm start system", "test a ... ok", "test b ... FAILED"];

    #[test]
    fn what_the_programs_say_is_summed_up() {
        let mut listener = heard(BEGUN);
        for line in
            ["test result: FAILED. 1 passed; 1 failed; 0 ignored", "", "@vm end system exit=101 2.0", "@vm off now"]
        {
            listener.hear(line);
        }
        let (summary, trials, _) = listener.close(Ended::ByItself, false, Path::new("/c")).unwrap();
        assert_eq!((summary.passed, summary.failed), (1, 1));
        assert!(trials.failed.contains("system::b"));
    }

    #[test]
    fn what_does_not_end_has_failed() {
        let (summary, ..) = heard(BEGUN).close(Ended::Overdue, false, Path::new("/c")).unwrap();
        assert!(summary.failed > 0 && summary.to_string().contains("in system before it was done"), "{summary}");
        let (summary, ..) = heard(&["@vm boot 6.1.0"]).close(Ended::ByItself, false, Path::new("/c")).unwrap();
        assert_eq!(summary.failed, 1, "{summary}");
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let lines = ["@vm boot 6.1.0", "@vm start system", "test a ... ok"];
        let (summary, ..) = heard(&lines).close(Ended::Overdue, true, Path::new("/c")).unwrap();
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 0, 1), "{summary}");
        let (summary, ..) = heard(BEGUN).close(Ended::Overdue, true, Path::new("/c")).unwrap();
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 1, 1), "{summary}");
    }

    #[test]
    fn a_program_that_died_has_failed() {
        let mut listener = heard(&["@vm boot 6.1.0", "@vm start pm", "@vm end pm signal=11 1.0", "@vm off now"]);
        listener.hear("");
        let (summary, ..) = listener.close(Ended::ByItself, false, Path::new("/c")).unwrap();
        assert!(summary.failed > 0, "{summary}");
    }

    #[test]
    fn the_doctor_is_kept_and_not_shown() {
        let lines =
            ["@vm boot 6.1.0", "@vm start doctor", "{\"features\":", "[]}", "@vm end doctor exit=2 1.0", "@vm off now"];
        let (summary, _, features) = heard(&lines).close(Ended::ByItself, false, Path::new("/c")).unwrap();
        assert_eq!((summary.failed, features.len()), (0, 0));
    }
}
