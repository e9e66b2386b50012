//! What a line on the local socket asks for, and whether whoever sent it may.

use std::io;

use tokio::net::UnixStream;

use crate::kernel::peer;

use super::ask::{Ask, AskError, Who};

/// The request for a snapshot.
pub const STATUS: &str = "status";
/// The request to read the configuration file again.
pub const RELOAD: &str = "reload";
/// So much of a request that is none is repeated to whoever sent it, in characters.
const SHOWN: usize = 100;

/// What can be asked on the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A snapshot.
    Status,
    /// To read the configuration file again.
    Reload,
    /// To plan or to change something.
    Ask(Ask),
}

impl Request {
    /// Reads a line: the word `status` or `reload`, or an [`Ask`] in JSON.
    ///
    /// # Errors
    /// [`AskError::Wrong`] with what would be right.
    pub fn parse(line: &str) -> Result<Request, AskError> {
        let line = line.trim();
        match line {
            STATUS => return Ok(Request::Status),
            RELOAD => return Ok(Request::Reload),
            _ => {}
        }
        // Without data in it, an ask is a string.
        if line.starts_with(['{', '"']) {
            let ask = serde_json::from_str(line);
            return ask.map(Request::Ask).map_err(|error| AskError::Wrong(format!("this is no request: {error}")));
        }
        let shown: String = line.chars().take(SHOWN).collect();
        Err(AskError::Wrong(format!(
            "unknown request {shown:?}; known: {STATUS}, {RELOAD}, and plan, apply, release and link in JSON"
        )))
    }
}

/// Who may change things through the socket, beside root and the agent's own user.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The agent's own user.
    own: u32,
    /// Name of the group whose members may.
    group: String,
    /// Its number; `None` where this host has no such group.
    number: Option<u32>,
}

/// A process at the other end of the socket.
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    pid: i32,
    /// Its primary group and the supplementary ones, as when it connected.
    groups: Vec<u32>,
}

impl Peer {
    /// Whoever connected.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        let mut groups = peer::supplementary_groups(stream)?;
        groups.push(credentials.gid());
        Ok(Peer { uid: credentials.uid(), pid: credentials.pid().unwrap_or_default(), groups })
    }
}

impl Allowed {
    /// Looks the group up.
    #[must_use]
    pub fn new(group: &str) -> Allowed {
        let number = peer::group_number(group).unwrap_or_else(|error| {
            tracing::warn!(group, %error, "cannot look the control group up: only root may change things");
            None
        });
        if number.is_none() {
            tracing::debug!(group, "this host has no such group: only root may change things");
        }
        Allowed { own: peer::own_user(), group: group.to_owned(), number }
    }

    /// The number of the group, if there is one.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    /// Whether this process may ask for what changes something, or for what does not, and how the log of changes names it.
    ///
    /// # Errors
    /// [`AskError::Forbidden`] with what to do about it.
    pub fn check(&self, is_mutating: bool, peer: &Peer) -> Result<Who, AskError> {
        let is_member = self.number.is_some_and(|number| peer.groups.contains(&number));
        if !is_mutating || peer.uid == 0 || peer.uid == self.own || is_member {
            return Ok(Who::Local { uid: peer.uid, pid: peer.pid });
        }
        let group = &self.group;
        Err(AskError::Forbidden(match self.number {
            Some(_) => format!(
                "only root and members of the group {group} may change things: use sudo, or add your user to the group \
                 (sudo usermod -aG {group} USER) and log in again"
            ),
            None => format!(
                "only root may change things, as this host has no group {group}: use sudo, or make the group (sudo groupadd \
                 --system {group}), add your user to it, log in again and restart the agent"
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::ask::{LinkSwitch, Settings};

    fn link(dry_run: bool) -> Ask {
        Ask::Link(LinkSwitch { name: "wan0".into(), up: false, dry_run })
    }

    #[test]
    fn only_root_the_own_user_and_members_of_the_group_may_change_things() {
        let with = Allowed { own: 100, group: "mpsec".into(), number: Some(7) };
        let without = Allowed { number: None, ..with.clone() };
        let mutating = [Ask::Apply(Settings::default()), Ask::Release, link(false)];
        let reading = [Ask::Plan(Settings::default()), link(true)];
        // User, groups, and whether it may where there is such a group, and where there is none.
        let cases: [(u32, &[u32], [bool; 2]); 5] = [
            (0, &[], [true, true]),
            (100, &[], [true, true]),
            (1000, &[5, 7], [true, false]),
            (1000, &[5, 0], [false, false]),
            (u32::MAX, &[], [false, false]),
        ];
        for (uid, groups, expected) in cases {
            let peer = Peer { uid, pid: 3, groups: groups.to_vec() };
            for (allowed, expected) in [&with, &without].into_iter().zip(expected) {
                for ask in &mutating {
                    assert_eq!(allowed.check(ask.is_mutating(), &peer).is_ok(), expected, "{ask} by {peer:?}");
                }
                for ask in &reading {
                    assert_eq!(allowed.check(ask.is_mutating(), &peer).unwrap(), Who::Local { uid, pid: 3 });
                }
            }
        }
        let nobody = Peer { uid: 1, pid: 0, groups: Vec::new() };
        let said = with.check(true, &nobody).unwrap_err().to_string();
        assert!(said.contains("use sudo, or add your user to the group (sudo usermod -aG mpsec USER)"), "{said}");
        let said = without.check(true, &nobody).unwrap_err().to_string();
        assert!(said.contains("this host has no group mpsec"), "{said}");
    }

    #[test]
    fn lines_are_asks_or_told_what_they_should_be() {
        assert_eq!(Request::parse(" status \n").unwrap(), Request::Status);
        assert_eq!(Request::parse("reload\n").unwrap(), Request::Reload);
        assert_eq!(Request::parse("\"release\"\n").unwrap(), Request::Ask(Ask::Release));
        assert_eq!(Request::parse(r#"{"plan": {}}"#).unwrap(), Request::Ask(Ask::Plan(Settings::default())));
        let down = r#"{"link": {"name": "wan0", "up": false}}"#;
        assert_eq!(Request::parse(down).unwrap(), Request::Ask(link(false)));
        let wrong = [
            "",
            "stop",
            "{}",
            "[]",
            "null",
            "\"plan\"",
            r#"{"release": {}, "plan": {}}"#,
            r#"{"apply": {"sett": []}}"#,
            r#"{"apply": {"set": "a"}}"#,
            r#"{"link": {"name": "a"}}"#,
            r#"{"link": {"name": "a", "up": 1}}"#,
            r#"{"link": {"name": "a", "up": true, "up": false}}"#,
            r#"{"apply": {}} {"apply": {}}"#,
        ];
        for line in wrong {
            assert!(matches!(Request::parse(line), Err(AskError::Wrong(_))), "{line}");
        }
        let long = Request::parse(&"\u{1b}".repeat(5000)).unwrap_err().to_string();
        assert!(long.len() < 1000 && !long.contains('\u{1b}'), "{long}");
    }

    fn asks() -> impl Strategy<Value = Ask> {
        let texts = || proptest::collection::vec(".*", 0..4);
        let settings = move || (texts(), texts()).prop_map(|(set, unset)| Settings { set, unset });
        prop_oneof![
            settings().prop_map(Ask::Plan),
            settings().prop_map(Ask::Apply),
            Just(Ask::Release),
            (".*", any::<bool>(), any::<bool>()).prop_map(|(name, up, dry_run)| Ask::Link(LinkSwitch {
                name,
                up,
                dry_run
            })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ask in asks()) {
            let line = serde_json::to_string(&ask).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(Request::parse(&line).unwrap(), Request::Ask(ask));
        }

        #[test]
        fn any_line_has_an_answer(line in ".*") {
            let _ = Request::parse(&line);
        }

        #[test]
        fn a_damaged_ask_is_another_ask_or_none(ask in asks(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec(&ask).unwrap();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            if let Ok(line) = std::str::from_utf8(&bytes)
                && let Ok(Request::Ask(found)) = Request::parse(line)
            {
                let text = serde_json::to_string(&found).unwrap();
                prop_assert_eq!(Request::parse(&text).unwrap(), Request::Ask(found));
            }
        }
    }
}
