//! The kernel's numbers for kinds and scopes (include/uapi/linux/rtnetlink.h, Linux 6.18).

use super::{Kind, Scope};

const KINDS: [(Kind, u8); 9] = [
    (Kind::Unicast, 1),
    (Kind::Local, 2),
    (Kind::Broadcast, 3),
    (Kind::Anycast, 4),
    (Kind::Multicast, 5),
    (Kind::Blackhole, 6),
    (Kind::Unreachable, 7),
    (Kind::Prohibit, 8),
    (Kind::Throw, 9),
];

const SCOPES: [(Scope, u8); 5] =
    [(Scope::Universe, 0), (Scope::Site, 200), (Scope::Link, 253), (Scope::Host, 254), (Scope::Nowhere, 255)];

impl Kind {
    /// Its `RTN_*` number.
    pub fn code(self) -> u8 {
        match self {
            Kind::Other(code) => code,
            named => number(&KINDS, named),
        }
    }

    /// The kind of a number.
    pub fn from_code(code: u8) -> Kind {
        named(&KINDS, code).unwrap_or(Kind::Other(code))
    }
}

impl Scope {
    /// Its `RT_SCOPE_*` number.
    pub fn code(self) -> u8 {
        match self {
            Scope::Other(code) => code,
            named => number(&SCOPES, named),
        }
    }

    /// The scope of a number.
    pub fn from_code(code: u8) -> Scope {
        named(&SCOPES, code).unwrap_or(Scope::Other(code))
    }
}

fn number<T: PartialEq + Copy>(table: &[(T, u8)], value: T) -> u8 {
    table.iter().find(|(named, _)| *named == value).map(|(_, code)| *code).expect("every name is in its table")
}

fn named<T: Copy>(table: &[(T, u8)], code: u8) -> Option<T> {
    table.iter().find(|(_, number)| *number == code).map(|(named, _)| *named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_kept() {
        for code in 0..=u8::MAX {
            assert_eq!(Kind::from_code(code).code(), code);
            assert_eq!(Scope::from_code(code).code(), code);
        }
        assert_eq!((Kind::from_code(6), Scope::from_code(253)), (Kind::Blackhole, Scope::Link));
    }
}
