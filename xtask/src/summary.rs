//! Reads what test programs print, and sums it up.
use std::{collections::BTreeMap, fmt};

/// What one or many test programs said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and test programs that did not live to say.
    pub failed: u64,
    /// Tests that could not run here.
    pub skipped: u64,
    /// The `test result:` lines, as printed.
    pub results: Vec<String>,
    /// The lines of tests that failed, or failed at first, as printed, and what else is to be known.
    pub remarkable: Vec<String>,
    /// The tests that were skipped, by reason; empty for those that are left out on purpose.
    pub reasons: BTreeMap<String, Vec<String>>,
    /// What failed tests said: the `---- name ----` blocks, cut where one does not end.
    pub said: Vec<String>,
    /// Test programs that cargo started.
    started: u64,
    /// Whether the lines that come are such blocks.
    in_failures: bool,
}

/// Lines of one failed test that are repeated.
const SAID_LINES: usize = 40;

impl Summary {
    /// Takes in one line of a test program or of cargo.
    pub fn read(&mut self, line: &str) {
        let line = line.trim_end();
        let trimmed = line.trim_start();
        if line == "failures:" {
            // The first is before what the tests said, the second before their names.
            self.in_failures = !self.in_failures;
        } else if self.in_failures && !line.starts_with("test result: ") {
            self.hear(line);
        } else if trimmed.starts_with("Running ") && line != trimmed || trimmed.starts_with("Doc-tests ") {
            self.started += 1;
        } else if line.starts_with("test result: ") {
            self.in_failures = false;
            self.passed += count(line, "passed");
            self.failed += count(line, "failed");
            self.skipped += count(line, "ignored");
            self.results.push(line.to_owned());
        } else if ["flaky: ", "said: "].iter().any(|word| line.starts_with(word)) {
            self.remarkable.push(line.to_owned());
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|test| test.split_once(" ... ")) {
            self.conclude(line, name, outcome);
        }
    }

    /// `test name ... FAILED`, `test name ... ignored, reason` and `test name ... ignored (reason)`.
    fn conclude(&mut self, line: &str, name: &str, outcome: &str) {
        if outcome.starts_with("FAILED") {
            self.remarkable.push(line.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ' ']);
            let bare = reason.strip_prefix('(').and_then(|reason| reason.strip_suffix(')'));
            self.note_skipped(name, bare.unwrap_or(reason));
        }
    }

    fn note_skipped(&mut self, name: &str, reason: &str) {
        self.reasons.entry(reason.to_owned()).or_default().push(name.trim().to_owned());
    }

    fn hear(&mut self, line: &str) {
        if line.starts_with("---- ") {
            self.said.push(line.to_owned());
        } else if let Some(said) = self.said.last_mut().filter(|said| said.lines().count() < SAID_LINES) {
            said.push('\n');
            said.push_str(line);
        }
    }

    /// Counts something that could not be done here, and why.
    pub fn skip(&mut self, what: &str, reason: &str) {
        self.skipped += 1;
        self.note_skipped(what, &one_line(reason));
    }

    /// Counts something that failed without a test that says so.
    pub fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.remarkable.push(format!("{what}: FAILED"));
    }

    /// Tells something that counts for nothing.
    pub fn remark(&mut self, what: &str) {
        self.remarkable.push(what.to_owned());
    }

    /// Closes the account of a program that gave no result, and of which this many tests had passed, failed and been skipped.
    pub fn cut_short(&mut self, [passed, failed, skipped]: [usize; 3]) {
        self.passed += passed as u64;
        self.failed += failed as u64;
        self.skipped += skipped as u64;
        // The lines to come are not this program's.
        self.in_failures = false;
    }

    /// Closes the account with cargo's exit code: what failed without a word counts as failed.
    #[must_use]
    pub fn close(mut self, success: bool) -> Self {
        let silent = self.started.saturating_sub(self.results.len() as u64);
        if !success && silent > 0 {
            self.failed += silent;
            self.remarkable.push(format!("{silent} test program(s) ended without a result: FAILED"));
        } else if !success && self.failed == 0 {
            self.fail("cargo failed, see above");
        }
        self
    }

    /// Adds what another run said.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.said.extend(other.said);
        self.started += other.started;
        self.results.extend(other.results);
        self.remarkable.extend(other.remarkable);
        for (reason, names) in other.reasons {
            self.reasons.entry(reason).or_default().extend(names);
        }
    }
}

/// Everything worth repeating, what failed at the end of it; the last line holds the totals alone.
impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (reason, names) in &self.reasons {
            let reason = if reason.is_empty() { "left out on purpose" } else { reason };
            writeln!(out, "skipped ({}), {reason}: {}", names.len(), names.join(" "))?;
        }
        self.results.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        for said in &self.said {
            // Set off, so that no line of theirs is taken for one of ours.
            said.trim_end().lines().try_for_each(|line| writeln!(out, "    {line}"))?;
        }
        self.remarkable.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// From `...; 12 passed; 3 failed`: the number before the word.
fn count(line: &str, word: &str) -> u64 {
    line.split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(text: &str, success: bool) -> Summary {
        let mut summary = Summary::default();
        text.lines().for_each(|line| summary.read(line));
        summary.close(success)
    }

    const TWO: &str = "     Running unittests src/lib.rs (target/debug/deps/a-1)
test a::works ... ok
test a::breaks ... FAILED

failures:

---- a::breaks stdout ----
thread panicked: 3 is not 4
2 passed, 0 failed, 0 skipped


failures:
    a::breaks

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s
   Doc-tests b
test needs ESP ... ignored, this kernel has no ESP
test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn programs_are_summed_up_and_nothing_telling_is_lost() {
        let summary = summary(TWO, false);
        assert_eq!((summary.passed, summary.failed, summary.skipped), (11, 1, 1));
        let text = summary.to_string();
        assert!(text.ends_with("\n11 passed, 1 failed, 1 skipped\n"), "{text}");
        assert!(text.contains("test a::breaks ... FAILED\n"));
        assert!(text.starts_with("skipped (1), this kernel has no ESP: needs ESP\n"), "{text}");
        assert_eq!(summary.results.len(), 2);
        let said =
            "    ---- a::breaks stdout ----\n    thread panicked: 3 is not 4\n    2 passed, 0 failed, 0 skipped\n";
        assert!(text.contains(&format!("\n{said}test a::breaks")), "{text}");
    }

    #[test]
    fn a_message_without_end_is_cut() {
        let long =
            "failures:\n---- a ----\n".to_owned() + &"x\n".repeat(1000) + "test result: FAILED. 0 passed; 1 failed";
        let summary = summary(&long, false);
        assert_eq!(summary.failed, 1);
        assert_eq!(summary.said[0].lines().count(), SAID_LINES);
    }

    #[test]
    fn what_no_test_says_counts_as_well() {
        let mut summary = Summary::default();
        summary.skip("Linux 6.1", "no\n  such kernel");
        summary.fail("Linux 6.12 did not boot");
        let text = summary.to_string();
        let expected = "skipped (1), no such kernel: Linux 6.1\nLinux 6.12 did not boot: FAILED\n";
        assert_eq!(text, expected.to_owned() + "0 passed, 1 failed, 1 skipped\n");
    }

    #[test]
    fn a_program_that_is_cut_short_leaves_nothing_open() {
        let mut summary = Summary::default();
        "test a ... ok\nfailures:\n---- b ----\n".lines().for_each(|line| summary.read(line));
        summary.cut_short([1, 1, 0]);
        "test c ... FAILED\ntest result: FAILED. 0 passed; 1 failed\n".lines().for_each(|line| summary.read(line));
        summary.remark("a word");
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 2, 0));
        assert_eq!(summary.remarkable, ["test c ... FAILED", "a word"]);
    }

    #[test]
    fn tests_skipped_for_one_reason_share_a_line() {
        let text = "test a ... ignored (no b ... (22))\ntest c   ... ignored (no b ... (22))\ntest d ... ignored\n";
        let mut all = summary(text, true);
        all.add(summary("test e ... ignored, no b ... (22)\n", true));
        let lines = "skipped (1), left out on purpose: d\nskipped (3), no b ... (22): a c e\n";
        assert!(all.to_string().starts_with(lines), "{all}");
    }

    #[test]
    fn what_passed_at_the_second_try_is_told() {
        let text = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\nflaky: a: 3 is not 4\n";
        assert!(summary(text, true).to_string().ends_with("\nflaky: a: 3 is not 4\n1 passed, 0 failed, 0 skipped\n"));
    }

    #[test]
    fn what_failed_is_told_although_the_program_never_ended() {
        let text = "test a ... FAILED\nsaid: a: 3 is not 4\nFAILED\ntest b ... ";
        let lines = "test a ... FAILED\nsaid: a: 3 is not 4\n";
        assert!(summary(text, true).to_string().starts_with(lines));
    }

    #[test]
    fn a_program_that_died_counts_as_failed() {
        let text = "     Running unittests src/lib.rs (target/debug/deps/a-1)\ntest a ... ";
        assert_eq!(summary(text, false).failed, 1);
    }

    #[test]
    fn a_build_that_broke_counts_as_failed() {
        assert_eq!(summary("error: could not compile", false).failed, 1);
        assert_eq!(summary("", true), Summary::default());
    }

    #[test]
    fn runs_add_up() {
        let mut all = summary(TWO, false);
        all.add(summary(TWO, false));
        assert_eq!((all.passed, all.failed, all.skipped), (22, 2, 2));
        assert_eq!(all.results.len(), 4);
    }
}
