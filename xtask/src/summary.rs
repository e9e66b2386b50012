//! Reads what test programs print, and sums it up.
use std::fmt;

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
    /// The lines of tests that failed or were skipped, as printed.
    pub remarkable: Vec<String>,
    /// Test programs that cargo started.
    started: u64,
}

impl Summary {
    /// Takes in one line of a test program or of cargo.
    pub fn read(&mut self, line: &str) {
        let line = line.trim_end();
        let trimmed = line.trim_start();
        if trimmed.starts_with("Running ") && line != trimmed || trimmed.starts_with("Doc-tests ") {
            self.started += 1;
        } else if line.starts_with("test result: ") {
            self.passed += count(line, "passed");
            self.failed += count(line, "failed");
            self.skipped += count(line, "ignored");
            self.results.push(line.to_owned());
        } else if line.starts_with("test ") && is_remarkable(line) {
            self.remarkable.push(line.to_owned());
        }
    }

    /// Closes the account with cargo's exit code: what failed without a word counts as failed.
    #[must_use]
    pub fn close(mut self, success: bool) -> Self {
        let silent = self.started.saturating_sub(self.results.len() as u64);
        if !success && silent > 0 {
            self.failed += silent;
            self.remarkable.push(format!("{silent} test program(s) ended without a result: FAILED"));
        } else if !success && self.failed == 0 {
            self.failed += 1;
            self.remarkable.push("cargo failed, see above: FAILED".to_owned());
        }
        self
    }

    /// Adds what another run said.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.started += other.started;
        self.results.extend(other.results);
        self.remarkable.extend(other.remarkable);
    }
}

/// Everything worth repeating; the last line holds the totals alone.
impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.remarkable.iter().chain(&self.results) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `test name ... FAILED` and `test name ... ignored, reason`.
fn is_remarkable(line: &str) -> bool {
    line.rsplit_once(" ... ")
        .is_some_and(|(_, outcome)| outcome.starts_with("FAILED") || outcome.starts_with("ignored"))
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
        assert!(text.contains("this kernel has no ESP\n"));
        assert_eq!(summary.results.len(), 2);
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
