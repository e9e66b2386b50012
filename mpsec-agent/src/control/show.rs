//! What came of a plan or a change, for a person to read: a line a change, what stands in the way, and what to do.

use std::collections::BTreeMap;

use super::apply::Failure;
use super::ask::{Answer, Ask, Effect, LinkSwitch};
use super::audit::Entry;
use super::change::Change;
use super::client::{plain, shell_word};

type Interfaces = BTreeMap<u32, String>;

/// The answer to `ask` as text, which holds no control characters but ends of lines.
#[must_use]
pub fn text(ask: &Ask, answer: &Answer) -> String {
    let outcome = &answer.outcome;
    let mut text = Text { lines: Vec::new(), interfaces: &answer.interfaces };
    text.lines.push(headline(ask, answer));
    text.changes(&outcome.changes);
    let effects: Vec<String> = answer.effects.iter().map(effect).collect();
    text.section("Connections that use it", &effects);
    text.section("Waiting", &signed('.', &outcome.waiting));
    text.section("Refused", &signed('!', &outcome.refusals));
    let failures: Vec<String> = outcome.failures.iter().flat_map(|failure| text.failure(failure)).collect();
    text.section("Failed", &failures);
    let undone: Vec<String> = outcome.undone.iter().map(|change| text.change(change)).collect();
    text.section("Made and taken back", &undone);
    text.lines.push(String::new());
    text.lines.join("\n")
}

/// An entry of the log of changes as text: a line, and one for each thing that came of it.
#[must_use]
pub fn entry(entry: &Entry) -> String {
    let head = format!("{} {}: {} (generation {})", entry.time, entry.who, entry.what, entry.generation);
    let text = Text { lines: Vec::new(), interfaces: &entry.interfaces };
    let changes = entry.changes.iter().map(|change| text.change(change));
    let refusals = entry.refusals.iter().map(|refusal| format!("! refused: {}", plain(refusal)));
    let failures = entry.failures.iter().map(|failure| format!("! failed: {}", plain(&failure.to_string())));
    let undone = entry.undone.iter().map(|change| format!("taken back: {}", text.change(change)));
    let mut lines = vec![plain(&head)];
    lines.extend(changes.chain(refusals).chain(failures).chain(undone).map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.join("\n")
}

fn headline(ask: &Ask, answer: &Answer) -> String {
    let outcome = &answer.outcome;
    let count = match outcome.changes.len() {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    };
    let would = !ask.is_mutating();
    if !outcome.refusals.is_empty() {
        return match (would, outcome.changes.is_empty()) {
            (true, false) => "Refused, so nothing of this would be done:".into(),
            (true, true) => "Refused, so nothing would be changed:".into(),
            (false, _) => "Refused, and nothing is changed:".into(),
        };
    }
    if !outcome.failures.is_empty() && outcome.changes.is_empty() {
        return match outcome.undone.is_empty() {
            true => "It failed, and nothing is changed:".into(),
            false => "It failed, and what was done is taken back:".into(),
        };
    }
    match (outcome.changes.is_empty(), would) {
        (true, _) if *ask == Ask::Release => {
            "Nothing to give back. Nothing is changed until the next mpsec apply or boot.".into()
        }
        (true, _) => match ask {
            Ask::Link(LinkSwitch { name, up, .. }) => {
                format!("Nothing to change: {} is {}.", plain(name), if *up { "up" } else { "down" })
            }
            _ => "Nothing to change.".into(),
        },
        (false, true) => format!("{count} would be made:"),
        (false, false) if !outcome.failures.is_empty() => format!("{count} made, and something failed:"),
        (false, false) => format!("{count} made:"),
    }
}

/// What is written, section by section.
struct Text<'a> {
    lines: Vec<String>,
    interfaces: &'a Interfaces,
}

impl Text<'_> {
    fn section(&mut self, title: &str, lines: &[String]) {
        if !lines.is_empty() {
            self.lines.push(title.to_owned());
            self.lines.extend(lines.iter().map(|line| format!("  {line}")));
        }
    }

    fn changes(&mut self, changes: &[Change]) {
        for group in Group::ALL {
            let of_group = changes.iter().filter(|change| Group::of(change) == group);
            let lines: Vec<String> = of_group.map(|change| self.change(change)).collect();
            self.section(group.title(), &lines);
        }
    }

    /// `+` for what is added, `-` for what is removed, `~` for what is changed.
    fn change(&self, change: &Change) -> String {
        let (sign, verb) = match change {
            Change::AddEndpoint(_) | Change::AddRoute(_) | Change::AddRule(_) => ('+', ": add"),
            Change::RemoveEndpoint(_) | Change::RemoveRoute(_) | Change::RemoveRule(_) => ('-', ": remove"),
            _ => ('~', ""),
        };
        let text = change.to_string();
        format!("{sign} {}", plain(&self.named(change, text.strip_suffix(verb).unwrap_or(&text))))
    }

    fn failure(&self, failure: &Failure) -> Vec<String> {
        let Some(change) = &failure.change else { return vec![format!("! {}", plain(&failure.error))] };
        let mut lines = vec![format!("! {}", self.change(change)), format!("  why: {}", plain(&failure.error))];
        lines.extend(failure.by_hand.as_ref().map(|by_hand| format!("  by hand: {}", plain(&self.by_hand(by_hand)))));
        lines
    }

    /// A change's text with the name of its interface in place of the index.
    fn named(&self, change: &Change, text: &str) -> String {
        let name = change.interface().and_then(|index| Some((index, self.interfaces.get(&index)?)));
        name.map_or(text.to_owned(), |(index, name)| replace_word(text, &format!("interface {index}"), name))
    }

    fn by_hand(&self, command: &str) -> String {
        let names = self.interfaces.iter();
        names.fold(command.to_owned(), |text, (index, name)| {
            replace_word(&text, &format!("dev if{index}"), &format!("dev {}", shell_word(name)))
        })
    }
}

/// Replaces what does not go on with another digit.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let Some((before, after)) = text.split_once(word) else { return text.to_owned() };
    match after.starts_with(|next: char| next.is_ascii_digit()) {
        true => format!("{before}{word}{}", replace_word(after, word, by)),
        false => format!("{before}{by}{}", replace_word(after, word, by)),
    }
}

fn signed(sign: char, all: &[String]) -> Vec<String> {
    all.iter().map(|text| format!("{sign} {}", plain(text))).collect()
}

fn effect(effect: &Effect) -> String {
    let Effect { local, remote, subflows, affected, text, .. } = effect;
    format!("{local} {remote}: {affected} of {subflows} subflows: {}", plain(text))
}

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Settings,
    Endpoints,
    Routes,
    Interfaces,
    Agent,
}

impl Group {
    const ALL: [Group; 5] = [Group::Settings, Group::Endpoints, Group::Routes, Group::Interfaces, Group::Agent];

    fn of(change: &Change) -> Group {
        match change {
            Change::Sysctl { .. } | Change::Limits { .. } => Group::Settings,
            Change::AddEndpoint(_) | Change::RemoveEndpoint(_) | Change::EndpointFlags { .. } => Group::Endpoints,
            Change::AddRoute(_) | Change::RemoveRoute(_) | Change::AddRule(_) | Change::RemoveRule(_) => Group::Routes,
            Change::Link { .. } => Group::Interfaces,
            Change::Daemon { .. } | Change::Policy { .. } | Change::Failover { .. } | Change::Force { .. } => {
                Group::Agent
            }
        }
    }

    fn title(self) -> &'static str {
        match self {
            Group::Settings => "Settings of the kernel",
            Group::Endpoints => "Endpoints",
            Group::Routes => "Routes and rules",
            Group::Interfaces => "Interfaces",
            Group::Agent => "The agent itself",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::apply::Outcome;
    use crate::control::ask::{Settings, Who};
    use crate::control::change::{Endpoint, SourceRoute, SourceRule};

    fn changes() -> Vec<Change> {
        let endpoint = |interface| Endpoint {
            id: 0,
            address: "192.0.2.1".parse().unwrap(),
            port: None,
            flags: vec!["subflow".into()],
            interface: Some(interface),
        };
        let gateway = Some("192.0.2.254".parse().unwrap());
        let route = SourceRoute { table: 7, destination: "0.0.0.0/0".parse().unwrap(), gateway, interface: 3 };
        vec![
            Change::RemoveEndpoint(endpoint(31)),
            Change::AddRoute(route),
            Change::AddRule(SourceRule { source: "192.0.2.1".parse().unwrap(), table: 7 }),
            Change::AddEndpoint(endpoint(3)),
            Change::Sysctl { name: "net.mptcp.enabled".into(), from: "0".into(), to: "1".into() },
        ]
    }

    fn answer(outcome: Outcome) -> Answer {
        let interfaces = Interfaces::from([(3, "wan\u{1b}[2J".to_owned())]);
        Answer { outcome, interfaces, ..Answer::default() }
    }

    #[test]
    fn a_plan_is_a_line_a_change_in_groups() {
        let outcome = Outcome { changes: changes(), waiting: vec!["wan1 has no address".into()], ..Outcome::default() };
        let plan = text(&Ask::Plan(Settings::default()), &answer(outcome));
        let expected = "\
5 changes would be made:
Settings of the kernel
  ~ net.mptcp.enabled: 0 -> 1
Endpoints
  - 192.0.2.1 interface 31 subflow
  + 192.0.2.1 wan\\u{1b}[2J subflow
Routes and rules
  + 0.0.0.0/0 via 192.0.2.254 wan\\u{1b}[2J table 7
  + from 192.0.2.1 table 7
Waiting
  . wan1 has no address
";
        assert_eq!(plan.replace("endpoint ", "").replace("route ", "").replace("rule ", ""), expected);
    }

    #[test]
    fn failures_are_told_with_the_kernels_words_the_command_and_what_was_taken_back() {
        let [_, route, .., sysctl] = <[Change; 5]>::try_from(changes()).unwrap();
        let by_hand = route.by_hand();
        let failure = Failure { change: Some(route), error: "File exists\u{7}".into(), by_hand };
        let outcome = Outcome { failures: vec![failure], undone: vec![sysctl], ..Outcome::default() };
        let text = text(&Ask::Apply(Settings::default()), &answer(outcome));
        let expected = "\
It failed, and what was done is taken back:
Failed
  ! + route 0.0.0.0/0 via 192.0.2.254 wan\\u{1b}[2J table 7
    why: File exists\\u{7}
    by hand: ip route add 0.0.0.0/0 via 192.0.2.254 dev 'wan\\u{1b}[2J' table 7 onlink
Made and taken back
  ~ net.mptcp.enabled: 0 -> 1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_changes_nothing_is_one_line() {
        let link = |up| Ask::Link(LinkSwitch { name: "wan0".into(), up, dry_run: false });
        let cases = [
            (Ask::Apply(Settings::default()), "Nothing to change.\n"),
            (Ask::Plan(Settings::default()), "Nothing to change.\n"),
            (link(true), "Nothing to change: wan0 is up.\n"),
            (Ask::Release, "Nothing to give back. Nothing is changed until the next mpsec apply or boot.\n"),
        ];
        for (ask, expected) in cases {
            assert_eq!(text(&ask, &Answer::default()), expected);
        }
        let outcome = Outcome { refusals: vec!["this kernel has no X".into()], ..Outcome::default() };
        let refused = text(&Ask::Plan(Settings::default()), &answer(outcome));
        assert_eq!(refused, "Refused, so nothing would be changed:\nRefused\n  ! this kernel has no X\n");
    }

    #[test]
    fn an_entry_says_who_did_what() {
        let outcome = Outcome { changes: changes()[4..].to_vec(), ..Outcome::default() };
        let who = Who::Local { uid: 0, pid: 7 };
        let one = Entry { time: "T".into(), ..Entry::new(&who, "apply --set a=\u{1b}", 2, &outcome) };
        let expected = "T uid 0 pid 7: apply --set a=\\u{1b} (generation 2)\n  ~ net.mptcp.enabled: 0 -> 1\n";
        assert_eq!(entry(&one), expected);
    }
}
