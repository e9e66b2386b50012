//! Frames that once were misread, or that a standard has something to say about.

use mpsec_common::Class;
use mpsec_common::packet::{Context, classify_slice};

fn class(frame: &[u8]) -> Class {
    classify_slice(frame, &Context::ETHERNET).class
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(payload);
    frame
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, 255]);
    frame.extend([0x20; 32]);
    frame.extend(payload);
    frame
}

/// A UDP datagram that says that it is `len` bytes long, whatever it carries.
fn udp(source: u16, destination: u16, len: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [source, destination, len, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    bytes.extend(payload);
    bytes
}

#[test]
fn what_lies_behind_a_datagram_is_no_marker() {
    let zeros = [0; 8];
    assert_eq!(class(&ipv4(17, &udp(1024, 4500, 8, &zeros))), Class::Udp, "an empty datagram");
    assert_eq!(class(&ipv4(17, &udp(1024, 4500, 11, &zeros))), Class::Udp, "half a marker");
    assert_eq!(class(&ipv4(17, &udp(1024, 4500, 12, &zeros))), Class::Ike, "a marker");
    assert_eq!(class(&ipv4(17, &udp(1024, 4500, 9, &[0xff, 0, 0, 0]))), Class::NatKeepalive);
    let message = [1, 0, 0, 0];
    assert_eq!(class(&ipv4(17, &udp(1024, 51820, 8, &message))), Class::Udp);
}

#[test]
fn an_extension_header_ends_within_the_packet() {
    let ends_with = |len: u8| [&[59, len], &[0; 14][..]].concat();
    assert_eq!(class(&ipv6(60, &ends_with(1))), Class::OtherIp);
    assert_eq!(class(&ipv6(60, &ends_with(2))), Class::Malformed);
    assert_eq!(
        class(&[&ipv6(60, &ends_with(2))[..], &[0; 46]].concat()),
        Class::Malformed,
        "padding is not the packet"
    );
}

#[test]
fn a_jumbogram_is_longer_than_the_length_field_can_say() {
    let jumbogram = |rest: usize| {
        let mut frame = ipv6(0, &[]);
        frame.extend([50, 0, 0xc2, 4]);
        frame.extend((rest as u32 + 8).to_be_bytes());
        frame.extend(vec![7; rest]);
        frame
    };
    assert_eq!(class(&jumbogram(0x10000)), Class::Esp);
    assert_eq!(class(&jumbogram(64)), Class::Malformed, "the length 0 contradicts the header that follows");
    assert_eq!(class(&[&ipv6(59, &[])[..], &[0; 6]].concat()), Class::OtherIp, "an empty packet");
}
