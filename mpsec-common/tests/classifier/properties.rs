//! Properties of the classifier.

use mpsec_common::Class;
use mpsec_common::packet::{Context, classify_slice};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::frames::{Frame, frame};
use crate::invariants;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_keep_the_invariants(input in vec(any::<u8>(), 0..200)) {
        invariants::check(&input);
    }

    #[test]
    fn valid_frames_are_of_their_class(frame in frame()) {
        assert_found(&frame, &frame.bytes, &Context::ETHERNET);
    }

    #[test]
    fn bare_ip_packets_are_of_their_class(frame in frame(), link_len in 0..30usize) {
        let l3 = frame.l3_offset as usize;
        let ethertype = Some(u16::from_be_bytes([frame.bytes[l3 - 2], frame.bytes[l3 - 1]]));
        let bytes = [&vec![0xee; link_len], &frame.bytes[l3..]].concat();
        let found = classify_slice(&bytes, &Context { ethertype, start: link_len as u32, ..Context::ETHERNET });
        let transport_len = frame.payload_offset - frame.l3_offset;
        let expected = (frame.class, link_len as u32, link_len as u32 + transport_len);
        prop_assert_eq!((found.class, found.l3_offset, found.payload_offset), expected);
    }

    #[test]
    fn valid_frames_keep_the_invariants(frame in frame(), gso: bool) {
        invariants::check(&invariants::encode(&Context { gso, ..Context::ETHERNET }, &frame.bytes));
    }

    #[test]
    fn changed_frames_keep_the_invariants(frame in frame(), gso: bool, changes in vec(any::<(u8, u8)>(), 1..5)) {
        let bytes = changed(&frame, &changes);
        invariants::check(&invariants::encode(&Context { gso, ..Context::ETHERNET }, &bytes));
    }

    #[test]
    fn padding_changes_nothing(frame in frame(), padding in vec(any::<u8>(), 0..46)) {
        assert_found(&frame, &[&frame.bytes[..], &padding].concat(), &Context::ETHERNET);
    }

    #[test]
    fn a_cut_frame_is_malformed(frame in frame(), cut: prop::sample::Index) {
        let is_ip = !matches!(frame.class, Class::Arp | Class::Other);
        let headers = frame.l3_offset as usize;
        let len = cut.index(if is_ip { frame.bytes.len() } else { headers });
        prop_assert_eq!(classify_slice(&frame.bytes[..len], &Context::ETHERNET).class, Class::Malformed);
    }

    #[test]
    fn tcp_options_are_found_as_a_plain_walk_finds_them(words in vec(any_options_word(), 0..=10), gso: bool) {
        let options = words.concat();
        let found = classify_slice(&tcp_frame(&options), &Context { gso, ..Context::ETHERNET }).class;
        prop_assert_eq!(found, walk(&options), "{:02x?}", options);
    }
}

fn assert_found(frame: &Frame, bytes: &[u8], context: &Context) {
    let found = classify_slice(bytes, context);
    let expected = (frame.class, frame.l3_offset, frame.payload_offset);
    assert_eq!((found.class, found.l3_offset, found.payload_offset), expected);
}

/// The frame with some of its first bytes, where the headers are, set to other values.
pub fn changed(frame: &Frame, changes: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    let headers = bytes.len().min(frame.payload_offset as usize + 60).max(1);
    for (at, value) in changes {
        bytes[12.max(*at as usize % headers)] = *value;
    }
    bytes
}

/// Arbitrary bytes, with a liking for those that mean something.
fn any_options_word() -> impl Strategy<Value = [u8; 4]> {
    let byte = || prop_oneof![any::<u8>(), proptest::sample::select(vec![0u8, 1, 2, 3, 4, 8, 10, 12, 30, 39, 40, 41])];
    prop_oneof![
        4 => [byte(), byte(), byte(), byte()],
        1 => Just([1, 1, 8, 10]),
        1 => Just([30, 4, 0, 0]),
        1 => Just([1, 1, 1, 30]),
    ]
}

fn tcp_frame(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend((40 + options.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0; 12]);
    bytes.extend([(5 + options.len() as u8 / 4) << 4, 0x10, 0, 0, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes
}

/// The class that the options of a TCP header give, read as RFC 9293 section 3.1 has them.
fn walk(mut rest: &[u8]) -> Class {
    loop {
        rest = match *rest {
            [] | [0, ..] => return Class::Tcp,
            [1, ref more @ ..] => more,
            [kind, len, ..] if len >= 2 && len as usize <= rest.len() => {
                if kind == 30 {
                    return Class::Mptcp;
                }
                &rest[len as usize..]
            }
            _ => return Class::Malformed,
        };
    }
}
