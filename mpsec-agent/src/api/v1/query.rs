//! Query parameters, read strictly: what is not known, given twice or no value is refused rather than passed over.

use crate::snapshot::mptcp::TcpState;

use super::problem::Problem;

/// Connections in one answer, unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 1000;
/// Connections in one answer at most.
const MAX_LIMIT: usize = 10_000;

/// A query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Netns,
    Interface,
    State,
    Limit,
    Offset,
}

impl Parameter {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::Interface => "interface",
            Self::State => "state",
            Self::Limit => "limit",
            Self::Offset => "offset",
        }
    }
}

/// The parameters of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Only this network namespace; the agent's own has an empty name.
    pub(super) netns: Option<String>,
    /// Only what uses this interface.
    pub(super) interface: Option<String>,
    /// Only connections in this state.
    pub(super) state: Option<TcpState>,
    /// So many connections at most.
    pub(super) limit: usize,
    /// So many connections are passed over first.
    pub(super) offset: usize,
}

impl Query {
    /// Reads the part of a URI behind the question mark.
    pub(super) fn parse(text: Option<&str>, allowed: &[Parameter]) -> Result<Query, Problem> {
        let mut query = Query { netns: None, interface: None, state: None, limit: DEFAULT_LIMIT, offset: 0 };
        let mut seen = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            let Some(parameter) = allowed.iter().copied().find(|known| known.name() == name) else {
                return Err(unknown(&name, allowed));
            };
            if seen.contains(&parameter) {
                return Err(Problem::parameter(&name, format!("{name} is given twice.")));
            }
            seen.push(parameter);
            query.set(parameter, value)?;
        }
        Ok(query)
    }

    /// The same request with another offset.
    pub(super) fn link(&self, path: &str, offset: usize) -> String {
        let mut link = format!("{path}?limit={}&offset={offset}", self.limit);
        let state = self.state.map(|state| state.name().to_owned());
        let more = [("netns", &self.netns), ("interface", &self.interface), ("state", &state)];
        for (name, value) in more {
            if let Some(value) = value {
                link.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        link
    }

    fn set(&mut self, parameter: Parameter, value: String) -> Result<(), Problem> {
        match parameter {
            Parameter::Netns => self.netns = Some(value),
            Parameter::Interface => self.interface = Some(value),
            Parameter::State => self.state = Some(state(&value)?),
            Parameter::Limit => self.limit = number("limit", &value, 1, MAX_LIMIT)?,
            Parameter::Offset => self.offset = number("offset", &value, 0, usize::MAX)?,
        }
        Ok(())
    }
}

fn unknown(name: &str, allowed: &[Parameter]) -> Problem {
    let known: Vec<&str> = allowed.iter().map(|parameter| parameter.name()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let shown: String = name.chars().take(100).collect();
    Problem::parameter(name, format!("There is no parameter {shown:?} here; known: {known}."))
}

fn state(value: &str) -> Result<TcpState, Problem> {
    TcpState::ALL.into_iter().find(|state| state.name() == value).ok_or_else(|| {
        let names = TcpState::ALL.map(TcpState::name).join(", ");
        Problem::parameter("state", format!("state is one of: {names}."))
    })
}

fn number(name: &str, value: &str, least: usize, most: usize) -> Result<usize, Problem> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Problem::parameter(name, format!("{name} is a whole number from {least} to {most}.")))
}

/// Undoes the encoding of forms: `%41` is A, and a plus is a space.
fn decode(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(|d| char::from(d).to_digit(16)));
                let [Some(high), Some(low)] = digits else { return Err(garbled(text)) };
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| garbled(text))
}

fn garbled(text: &str) -> Problem {
    Problem::parameter(text, "The query is not percent-encoded UTF-8.")
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: &[Parameter] =
        &[Parameter::Netns, Parameter::Interface, Parameter::State, Parameter::Limit, Parameter::Offset];

    fn complaint(text: &str) -> String {
        serde_json::to_string(&Query::parse(Some(text), ALL).expect_err(text)).unwrap()
    }

    #[test]
    fn each_parameter_is_read() {
        let query = Query::parse(Some("netns=&interface=wan%2B0+x&state=syn_sent&limit=5&offset=10"), ALL).unwrap();
        assert_eq!((query.netns.as_deref(), query.interface.as_deref()), (Some(""), Some("wan+0 x")));
        assert_eq!((query.state, query.limit, query.offset), (Some(TcpState::SynSent), 5, 10));
        assert_eq!(Query::parse(None, ALL).unwrap(), Query::parse(Some("&"), ALL).unwrap());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint("nope=1").contains("known: netns, interface, state, limit, offset."));
        assert!(complaint("limit=1&limit=2").contains("limit is given twice"));
        assert!(complaint("limit=0").contains("from 1 to 10000") && complaint("limit=10001").contains("limit"));
        assert!(complaint("offset=-1").contains("whole number") && complaint("state=open").contains("established"));
        for text in ["netns=%4", "netns=%zz", "netns=%ff", "%+4=1"] {
            assert!(complaint(text).contains("percent-encoded"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_link_says_what_was_asked(netns: Option<String>, interface: Option<String>, limit in 1..=MAX_LIMIT, offset: usize) {
            let query = Query { netns, interface, state: Some(TcpState::Closing), limit, offset };
            let link = query.link("/x", offset);
            prop_assert_eq!(Query::parse(link.strip_prefix("/x?"), ALL).unwrap(), query);
        }

        #[test]
        fn no_text_is_too_odd(text: String) {
            let _ = Query::parse(Some(&text), ALL);
        }
    }
}
