//! What each test said, from the lines of test programs.
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use serde::{Deserialize, Serialize};

/// How tests ended, by `program::name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    /// Those that passed.
    pub passed: BTreeSet<String>,
    /// Those that failed.
    pub failed: BTreeSet<String>,
    /// Those that could not run there, with the reason.
    pub skipped: BTreeMap<String, String>,
}

impl Trials {
    /// Notes one, in place of what was known of it.
    fn note(&mut self, name: String, outcome: Outcome) {
        self.passed.remove(&name);
        self.failed.remove(&name);
        self.skipped.remove(&name);
        match outcome {
            Outcome::Passed => drop(self.passed.insert(name)),
            Outcome::Failed => drop(self.failed.insert(name)),
            Outcome::Skipped(reason) => drop(self.skipped.insert(name, reason)),
        }
    }

    /// Takes over what a later run said.
    pub fn add(&mut self, later: Self) {
        let passed = later.passed.into_iter().map(|name| (name, Outcome::Passed));
        let failed = later.failed.into_iter().map(|name| (name, Outcome::Failed));
        let skipped = later.skipped.into_iter().map(|(name, reason)| (name, Outcome::Skipped(reason)));
        passed.chain(failed).chain(skipped).for_each(|(name, outcome)| self.note(name, outcome));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// Reads one program after the other.
#[derive(Debug, Default)]
pub struct Reader {
    /// What was read so far.
    pub trials: Trials,
    program: String,
    /// A test that has begun, where its outcome is not on the same line because the test itself printed something.
    begun: Option<String>,
    /// How many tests have passed, failed and been skipped that no result of the program tells of yet.
    counts: [usize; 3],
}

impl Reader {
    /// A program begins.
    pub fn start(&mut self, program: &str) {
        program.clone_into(&mut self.program);
        self.begun = None;
        self.counts = [0; 3];
    }

    /// The program has died: the test that it was in has failed. Gives its name.
    pub fn die(&mut self) -> Option<String> {
        let name = self.begun.take()?;
        self.trials.note(name.clone(), Outcome::Failed);
        Some(name)
    }

    /// A line of it.
    pub fn read(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.begun = None;
            self.counts = [0; 3];
        } else if let Some((name, rest)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let name = format!("{}::{}", self.program, name.trim());
            self.begun = None;
            match outcome(rest) {
                Some(outcome) => self.note(name, outcome),
                None => self.begun = Some(name),
            }
        } else if let (Some(outcome), Some(name)) = (outcome(line), self.begun.clone()) {
            self.begun = None;
            self.note(name, outcome);
        }
    }

    /// How many tests have passed, failed and been skipped since the program began or gave a result; each is told of once.
    pub fn take_counts(&mut self) -> [usize; 3] {
        mem::take(&mut self.counts)
    }

    /// One that is left out on purpose has no reason, and says nothing of the kernel.
    fn note(&mut self, name: String, outcome: Outcome) {
        let [passed, failed, skipped] = &mut self.counts;
        let count = match outcome {
            Outcome::Passed => passed,
            Outcome::Failed => failed,
            Outcome::Skipped(_) => skipped,
        };
        *count += 1;
        if outcome != Outcome::Skipped(String::new()) {
            self.trials.note(name, outcome);
        }
    }
}

/// `ok`, `FAILED`, and `ignored` with its reason in brackets.
fn outcome(text: &str) -> Option<Outcome> {
    match text.trim() {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        other => {
            let reason = other.strip_prefix("ignored")?;
            let reason = reason.trim_start_matches([',', ' ']);
            let bare = reason.strip_prefix('(').and_then(|reason| reason.strip_suffix(')'));
            Some(Outcome::Skipped(bare.unwrap_or(reason).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Trials {
        let mut reader = Reader::default();
        reader.start("system");
        text.lines().for_each(|line| reader.read(line));
        reader.trials
    }

    #[test]
    fn outcomes_are_told_apart() {
        let trials = read(
            "running 4 tests\ntest a::b     ... ok\ntest c ... FAILED\n\
                           test d ... ignored (no TCX: (22))\ntest e ... ignored\ntest result: FAILED. 1 passed\n",
        );
        assert_eq!(trials.passed, BTreeSet::from(["system::a::b".to_owned()]));
        assert_eq!(trials.failed, BTreeSet::from(["system::c".to_owned()]));
        assert_eq!(trials.skipped, BTreeMap::from([("system::d".to_owned(), "no TCX: (22)".to_owned())]));
    }

    #[test]
    fn what_a_test_prints_hides_nothing() {
        let trials = read("test a ... \nsomething ... else\nok\nok\ntest b ... hello\nFAILED\n");
        assert_eq!((trials.passed.len(), trials.failed.len()), (1, 1));
    }

    #[test]
    fn a_test_whose_program_dies_has_failed() {
        let mut reader = Reader::default();
        reader.start("system");
        "test a ... ok\ntest b ... hello".lines().for_each(|line| reader.read(line));
        assert_eq!(reader.die().as_deref(), Some("system::b"));
        assert_eq!(reader.trials.failed, BTreeSet::from(["system::b".to_owned()]));
        assert_eq!(reader.die(), None);
        reader.read("test c ... hello");
        reader.read("test result: ok. 2 passed; 0 failed; 0 ignored");
        assert_eq!(reader.die(), None);
    }

    #[test]
    fn each_run_counts_for_itself() {
        let mut reader = Reader::default();
        reader.start("system");
        "test a ... ok\ntest b ... FAILED\ntest c ... ignored".lines().for_each(|line| reader.read(line));
        assert_eq!(reader.take_counts(), [1, 1, 1]);
        reader.read("test result: FAILED. 1 passed; 1 failed; 1 ignored");
        assert_eq!(reader.take_counts(), [0; 3]);
        reader.read("test d ... ok");
        reader.start("system");
        reader.read("test a ... ok");
        assert_eq!(reader.take_counts(), [1, 0, 0]);
    }

    #[test]
    fn a_later_run_has_the_last_word() {
        let mut trials = read("test a ... FAILED\ntest b ... ok\n");
        trials.add(read("test a ... ok\n"));
        assert_eq!((trials.passed.len(), trials.failed.len()), (2, 0));
    }
}
