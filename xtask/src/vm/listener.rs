//! Hears a guest: shows what its programs print, and keeps the account of it.
use std::{io::Write, path::Path, time::Duration};

use vm_init::word::{Code, Word};

use super::{
    console::{self, Trouble},
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
    /// Whether a program that runs no test has failed: its filter is the name of none then.
    pub needs_tests: bool,
    release: String,
    summary: Summary,
    reader: Reader,
    doctor: String,
    features: Vec<Feature>,
    /// The program that runs.
    running: Option<String>,
    /// How many results there were when it began.
    results_before: usize,
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
            needs_tests: false,
            release: release.to_owned(),
            summary: Summary::default(),
            reader: Reader::default(),
            doctor: String::new(),
            features: Vec::new(),
            running: None,
            results_before: 0,
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
                    self.show(&format!("     Running {label} (Linux {})", self.release));
                    self.reader.start(&label);
                }
                self.results_before = self.summary.results.len();
                self.running = Some(label);
            }
            Some(Word::End { label, code, seconds }) => {
                self.running = None;
                self.show(&format!("{label}: {code} after {seconds:.1} s"));
                if label == DOCTOR { self.end_doctor(code) } else { self.end_tests(&label, code) }
            }
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

    /// It has its own exit code for a host that lacks something, and has failed where its output is not whole.
    fn end_doctor(&mut self, code: Code) {
        match (code, report::features(&self.doctor)) {
            (Code::Exit(_), Ok(features)) => self.features = features,
            (_, Ok(_)) => self.fail(&format!("{DOCTOR} ended with {code}")),
            (_, Err(error)) => self.fail(&format!("{DOCTOR} ended with {code}: {error:#}")),
        }
    }

    /// Test programs say themselves what failed, once, with the exit code that belongs to it.
    fn end_tests(&mut self, label: &str, code: Code) {
        let expected = match code {
            Code::Exit(0) => Some("test result: ok"),
            Code::Exit(101) => Some("test result: FAILED"),
            _ => None,
        };
        let results = &self.summary.results[self.results_before..];
        if matches!((results, expected), ([only], Some(expected)) if only.starts_with(expected)) {
            if self.needs_tests && results[0].contains(" 0 passed; 0 failed; 0 ignored;") {
                self.fail(&format!("{label} has no test of that name"));
            }
            return;
        }
        let said = if results.is_empty() { "no result".to_owned() } else { results.join("; ") };
        let place = self.break_off().map_or_else(String::new, |test| format!(" in {test}"));
        self.fail(&format!("{label} ended{place} with {code}, and had said: {said}"));
    }

    /// Closes the account of a program that died. Gives the test that it was in.
    fn break_off(&mut self) -> Option<String> {
        self.summary.cut_short(self.reader.take_counts());
        self.reader.die()
    }

    fn fail(&mut self, what: &str) {
        self.summary.fail(&format!("Linux {}: {what}", self.release));
        self.show(&format!("FAILED: {what}"));
    }

    /// What the kernel has said on its console by the end of a boot. Before the guest says a word nothing of ours has run: there
    /// a fault is the emulator's, or keeps the guest from saying one, which is a failure of its own.
    pub fn hear_console(&mut self, log: &str) {
        let Trouble { faults, delays } = console::trouble(log);
        let (failures, remarks) = if self.booted { (faults, delays) } else { (Vec::new(), [faults, delays].concat()) };
        if let Some(said) = console::in_short(&failures) {
            self.fail(&format!("the kernel said: {said}"));
        }
        if let Some(said) = console::in_short(&remarks) {
            let remark = format!("Linux {}: the kernel said, which need not be a fault: {said}", self.release);
            self.show(&remark);
            self.summary.remark(&remark);
        }
    }

    /// Closes the account when the machine is off. One that was cut off because the time for all was over has not failed if it
    /// had been silent for no longer than `forgiven`.
    #[must_use]
    pub fn close(
        mut self,
        ended: Ended,
        forgiven: Option<Duration>,
        console: &Path,
    ) -> (Summary, Trials, Vec<Feature>) {
        let place = |what: Option<String>| what.map_or_else(String::new, |what| format!(" in {what}"));
        let running = self.running.take();
        let lived = |silent| self.booted && forgiven.is_some_and(|forgiven| silent <= forgiven);
        if matches!(ended, Ended::Overdue { silent } if lived(silent)) {
            let what = format!("Linux {}, the rest", self.release);
            let doing = place(running);
            self.summary.skip(&what, &format!("left out{doing}: the minutes for all kernels are over"));
            self.summary.cut_short(self.reader.take_counts());
        } else if !self.off || ended != Ended::ByItself {
            let (doing, see) = (place(self.break_off().or(running)), console.display());
            self.fail(&format!("the machine ended{doing} before it was done ({ended:?}); see {see}"));
        }
        if let Some(kept) = self.kept.take() {
            print!("{kept}");
        }
        (self.summary, self.reader.trials, self.features)
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

    #[test]
    fn a_filter_that_is_the_name_of_no_test_is_a_failure_where_there_must_be_one() {
        let ended = |needs_tests, result: &str| {
            let mut listener = Listener::new("6.1.0", true);
            listener.needs_tests = needs_tests;
            for line in ["@vm boot 6.1.0", "@vm start system", result, "@vm end system exit=0 1.0"] {
                listener.hear(line);
            }
            listener.summary.failed
        };
        let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.1s";
        let skipped = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 8 filtered out; finished in 0.1s";
        assert_eq!([ended(true, nothing), ended(false, nothing), ended(true, skipped)], [1, 0, 0]);
    }

    const BEGUN: &[&str] = &["@vm boot 6.1.0", "@vm start system", "test a ... ok", "test b ... FAILED"];
    const LONGEST: Duration = Duration::from_secs(900);

    fn closed(lines: &[&str], ended: Ended, forgiven: Option<Duration>) -> (Summary, Trials) {
        let (summary, trials, _) = heard(lines).close(ended, forgiven, Path::new("/c"));
        (summary, trials)
    }

    /// Cut off because the time for all was over, and silent for so long before.
    fn cut(lines: &[&str], silent: u64) -> (Summary, Trials) {
        closed(lines, Ended::Overdue { silent: Duration::from_secs(silent) }, Some(LONGEST))
    }

    #[test]
    fn what_the_programs_say_is_summed_up() {
        let end =
            ["test result: FAILED. 1 passed; 1 failed; 0 ignored", "", "@vm end system exit=101 2.0", "@vm off now"];
        let (summary, trials) = closed(&[BEGUN, &end].concat(), Ended::ByItself, None);
        assert_eq!((summary.passed, summary.failed), (1, 1));
        assert!(trials.failed.contains("system::b"));
    }

    #[test]
    fn what_does_not_end_has_failed() {
        let (summary, _) = closed(BEGUN, Ended::Overdue { silent: Duration::ZERO }, None);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 2, 0), "{summary}");
        assert!(summary.to_string().contains("in system before it was done"), "{summary}");
        let (summary, _) = closed(&["@vm boot 6.1.0"], Ended::ByItself, None);
        assert_eq!(summary.failed, 1, "{summary}");
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let (summary, _) = cut(&["@vm boot 6.1.0", "@vm start system", "test a ... ok"], 10);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 0, 1), "{summary}");
        let (summary, _) = cut(BEGUN, 10);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 1, 1), "{summary}");
    }

    #[test]
    fn a_machine_that_hung_or_did_not_boot_is_not_left_out() {
        let (summary, _) = cut(&["@vm boot 6.1.0", "@vm start system", "test a ... ok"], 901);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 1, 0), "{summary}");
        let (summary, _) = cut(&[], 10);
        assert_eq!((summary.failed, summary.skipped), (1, 0), "{summary}");
    }

    #[test]
    fn a_cut_counts_what_no_result_has_told_of() {
        let first = [
            "test a ... ok",
            "test b ... ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored",
            "@vm end system exit=0 2.0",
        ];
        let ended = [&["@vm boot 6.1.0", "@vm start system"][..], &first].concat();
        let (summary, _) = cut(&[&ended[..], &["@vm start system", "test c ... ok"]].concat(), 10);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (3, 0, 1), "{summary}");
        let (summary, _) = cut(&ended, 10);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (2, 0, 1), "{summary}");
        // Its result was told already, its end was not.
        let (summary, _) = cut(&ended[..ended.len() - 1], 10);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (2, 0, 1), "{summary}");
    }

    #[test]
    fn a_program_that_died_has_failed() {
        let lines = [
            "@vm boot 6.1.0",
            "@vm start pm",
            "test a ... ok",
            "test b ... ",
            "@vm end pm signal=11 1.0",
            "@vm off now",
        ];
        let (summary, trials) = closed(&lines, Ended::ByItself, None);
        assert_eq!((summary.passed, summary.failed), (1, 1), "{summary}");
        assert!(summary.to_string().contains("pm ended in pm::b with signal=11"), "{summary}");
        assert!(trials.failed.contains("pm::b") && trials.passed.contains("pm::a"), "{trials:?}");
    }

    #[test]
    fn a_test_in_which_the_machine_ended_has_failed_unless_it_was_cut_off() {
        let lines = ["@vm boot 6.1.0", "@vm start system", "test a ... "];
        let (summary, trials) = closed(&lines, Ended::ByItself, None);
        assert!(summary.failed == 1 && trials.failed.contains("system::a"), "{summary} {trials:?}");
        let (_, trials) = cut(&lines, 901);
        assert!(trials.failed.contains("system::a"), "{trials:?}");
        let (_, trials) = cut(&lines, 10);
        assert_eq!(trials, Trials::default());
    }

    #[test]
    fn a_program_says_once_what_its_exit_code_says() {
        let run = |results: &[&str], code: u8| {
            let end = format!("@vm end pm exit={code} 1.0");
            let lines = [&["@vm boot 6.1.0", "@vm start pm"], results, &[&end, "@vm off now"]].concat();
            closed(&lines, Ended::ByItself, None).0.failed
        };
        let (well, ill) =
            ("test result: ok. 1 passed; 0 failed; 0 ignored", "test result: FAILED. 1 passed; 1 failed; 0 ignored");
        assert_eq!([run(&[well], 0), run(&[ill], 101)], [0, 1]);
        assert_eq!([run(&[], 0), run(&[], 101), run(&[well, well], 0), run(&[well], 101)], [1; 4]);
        assert_eq!(run(&[ill], 0), 2);
    }

    #[test]
    fn what_the_kernel_says_of_a_fault_fails_the_run() {
        let said = |lines: &[&str], log: &str| {
            let mut listener = heard(lines);
            listener.hear_console(log);
            listener.hear("@vm boot 6.1.0");
            listener.hear("@vm off now");
            listener.close(Ended::ByItself, None, Path::new("/c")).0
        };
        let booted = ["@vm boot 6.1.0"];
        let (fault, delay) =
            ("[ 1.0] WARNING: CPU: 0 PID: 1 at a.c:1", "[ 9.0] rcu: INFO: rcu_sched self-detected stall");
        let summary = said(&booted, fault);
        assert!(summary.failed == 1 && summary.to_string().contains("the kernel said: WARNING: CPU"), "{summary}");
        // A boot that was lost, and one that was slow.
        for summary in [said(&[], fault), said(&booted, delay)] {
            assert!(summary.failed == 0 && summary.to_string().contains("which need not be a fault: "), "{summary}");
        }
        assert_eq!(said(&booted, "[ 0.0] Linux version 6.1.0"), Summary::default());
    }

    fn doctor(output: &[&str], end: &str) -> (Summary, Vec<Feature>) {
        let lines = [&["@vm boot 6.1.0", "@vm start doctor"], output, &[end, "@vm off now"]].concat();
        let (summary, _, features) = heard(&lines).close(Ended::ByItself, None, Path::new("/c"));
        (summary, features)
    }

    #[test]
    fn the_doctor_is_kept_and_not_shown() {
        let (summary, features) = doctor(
            &["{\"features\":", "[{\"id\": \"tcx\", \"name\": \"TCX\", \"state\": \"missing\"}]}"],
            "@vm end doctor exit=2 1.0",
        );
        assert_eq!((summary.failed, features.len()), (0, 1));
    }

    #[test]
    fn a_doctor_who_does_not_finish_has_failed_and_told_of_nothing() {
        for (output, end) in [
            (&["{\"features\":"][..], "@vm end doctor exit=0 1.0"),
            (&["{\"features\":"], "@vm end doctor signal=9 1.0"),
            (&["{\"features\": []}"], "@vm end doctor overdue 1.0"),
            (&[], "@vm end doctor exit=0 1.0"),
        ] {
            let (summary, features) = doctor(output, end);
            assert_eq!((summary.failed, features.len()), (1, 0), "{end} {summary}");
        }
    }
}
