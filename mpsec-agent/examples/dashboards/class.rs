//! Matchers for the label `class`, made from the classes' own protection.

use mpsec_common::Class;
use mpsec_common::traffic::Protection;

/// Classes of this protection, as a regular expression.
pub fn of(protection: Protection) -> String {
    names(|class| class.protection() == protection)
}

/// Classes that are in no judgement of what is encrypted: what must be in clear, and what is counted once more where it crosses
/// the wire.
pub fn not_judged() -> String {
    names(|class| matches!(class.protection(), Protection::Exempt | Protection::Inner))
}

/// Classes of which an agent knows for sure that they are not in clear. What is unlike these is a leak: so is a class
/// that is younger than the query.
pub fn not_cleartext() -> String {
    names(|class| class.protection() != Protection::Cleartext)
}

fn names(wanted: impl Fn(Class) -> bool) -> String {
    let names: Vec<_> = Class::ALL.iter().filter(|class| wanted(**class)).map(|class| class.name()).collect();
    names.join("|")
}
