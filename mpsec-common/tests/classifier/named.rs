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

fn padded(frame: Vec<u8>) -> Vec<u8> {
    [frame, vec![0xff; 46]].concat()
}

#[test]
fn padding_completes_no_header() {
    assert_eq!(class(&padded(ipv4(50, &[1; 4]))), Class::Malformed, "half an ESP header");
    assert_eq!(class(&padded(ipv4(6, &[0x50; 16]))), Class::Malformed, "a TCP header without its end");
    assert_eq!(class(&padded(ipv4(17, &udp(1024, 53, 20, &[0; 8])))), Class::Malformed, "a datagram beyond its packet");
    assert_eq!(class(&padded(ipv6(44, &[6, 0, 0, 8]))), Class::Malformed, "half a fragment header");
}

#[test]
fn an_authentication_header_has_a_sequence_number() {
    let authenticated = |len: u8| ipv4(51, &[&[6, len], &[0; 30][..]].concat());
    assert_eq!(class(&authenticated(0)), Class::Malformed);
    assert_eq!(class(&authenticated(1)), Class::Ah);
}

#[test]
fn the_highest_bit_of_a_fragment_offset_counts() {
    let mut frame = ipv4(17, &udp(1024, 4500, 9, &[0xff]));
    frame[20..22].copy_from_slice(&0x1000u16.to_be_bytes());
    assert_eq!(class(&frame), Class::Udp);
    assert_eq!(class(&ipv6(44, &[50, 0, 0x80, 0, 0, 0, 0, 0])), Class::Esp);
    let whole = [&[17, 0, 0, 6, 0, 0, 0, 0][..], &udp(1024, 500, 36, &[0; 28])].concat();
    assert_eq!(class(&ipv6(44, &whole)), Class::Ike, "reserved bits are no offset");
}

#[test]
fn a_first_fragment_without_its_keepalive_is_none() {
    let mut frame = ipv4(17, &udp(1024, 4500, 9, &[]));
    frame[20] = 0x20;
    assert_eq!(class(&padded(frame)), Class::Udp);
}

#[test]
fn wireguard_is_a_message_of_its_size_on_a_port_that_was_named() {
    let message = |kind: u8, len: usize| [vec![kind, 0, 0, 0], vec![0; len - 4]].concat();
    let on_port = |port: u16, data: &[u8]| class(&ipv4(17, &udp(1024, port, data.len() as u16 + 8, data)));
    for (kind, len) in [(1, 148), (2, 92), (3, 64)] {
        assert_eq!(on_port(51820, &message(kind, len)), Class::Wireguard);
        assert_eq!(on_port(51820, &message(kind, len + 1)), Class::Udp);
    }
    assert_eq!(on_port(51821, &message(4, 32)), Class::Udp);
    assert_eq!(on_port(0, &message(4, 32)), Class::Udp, "0 stands for no port");
}

#[test]
fn eight_extension_headers_and_two_tags_are_read() {
    let chain = |count: usize| {
        let headers: Vec<u8> =
            (1..=count).flat_map(|at| [if at == count { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]).collect();
        ipv6(60, &[&headers[..], &[0; 12], &[0x50], &[0; 7]].concat())
    };
    assert_eq!([class(&chain(8)), class(&chain(9))], [Class::Tcp, Class::Malformed]);
    let tagged = |count: usize| {
        let mut frame = ipv4(50, &[1; 16]);
        frame.splice(12..12, [0x81, 0, 0, 1].repeat(count));
        frame
    };
    assert_eq!([class(&tagged(2)), class(&tagged(3))], [Class::Esp, Class::Other]);
}

#[test]
fn the_last_byte_of_the_options_is_read() {
    let mut header = [&[0; 12][..], &[0xf0], &[0; 7], &[1; 40]].concat();
    assert_eq!(class(&ipv4(6, &header)), Class::Tcp);
    header[59] = 8;
    assert_eq!(class(&ipv4(6, &header)), Class::Malformed, "a kind without a length");
}
