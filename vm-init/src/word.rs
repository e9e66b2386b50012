//! What the guest says of itself, each on a line of its own between the lines of the programs.
use std::fmt;

/// How a line of the guest's own begins.
const MARK: &str = "@vm ";

/// What the guest says of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// The first program is running, on this kernel release.
    Boot(String),
    /// A program begins.
    Start(String),
    /// A program has ended.
    End {
        /// Its label in the plan.
        label: String,
        /// How it ended.
        code: Code,
        /// How long it took.
        seconds: f64,
    },
    /// All has been done; power goes off.
    Off,
    /// The guest itself failed.
    Broken(String),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// By itself, with this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was still running at its limit.
    Overdue,
}

impl Word {
    /// The word in this line, if the guest said it.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (verb, rest) = line.trim_end().strip_prefix(MARK)?.split_once(' ')?;
        let rest = rest.to_owned();
        match verb {
            "boot" => Some(Self::Boot(rest)),
            "start" => Some(Self::Start(rest)),
            "broken" => Some(Self::Broken(rest)),
            "off" => Some(Self::Off),
            "end" => {
                let mut fields = rest.split(' ');
                let label = fields.next()?.to_owned();
                let code = Code::parse(fields.next()?)?;
                Some(Self::End { label, code, seconds: fields.next()?.parse().ok()? })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MARK)?;
        match self {
            Self::Boot(release) => write!(out, "boot {release}"),
            Self::Start(label) => write!(out, "start {label}"),
            Self::End { label, code, seconds } => write!(out, "end {label} {code} {seconds:.1}"),
            Self::Off => out.write_str("off now"),
            Self::Broken(why) => write!(out, "broken {}", why.replace('\n', " ")),
        }
    }
}

impl Code {
    fn parse(text: &str) -> Option<Self> {
        let (kind, number) = text.split_once('=').unwrap_or((text, ""));
        match kind {
            "exit" => Some(Self::Exit(number.parse().ok()?)),
            "signal" => Some(Self::Signal(number.parse().ok()?)),
            "overdue" => Some(Self::Overdue),
            _ => None,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(out, "exit={code}"),
            Self::Signal(signal) => write!(out, "signal={signal}"),
            Self::Overdue => out.write_str("overdue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let end = |code| Word::End { label: "system".into(), code, seconds: 1.5 };
        for word in [
            Word::Boot("6.12.1+deb13-cloud-amd64".into()),
            Word::Start("system".into()),
            end(Code::Exit(101)),
            end(Code::Signal(9)),
            end(Code::Overdue),
            Word::Off,
            Word::Broken("no such file".into()),
        ] {
            assert_eq!(Word::parse(&format!("{word}\r\n")), Some(word));
        }
    }

    #[test]
    fn other_lines_are_the_programs() {
        for line in ["test a ... ok", "@vm", "@vm sing loudly", "x @vm off now", "@vm end system exit=x 1"] {
            assert_eq!(Word::parse(line), None, "{line}");
        }
    }
}
