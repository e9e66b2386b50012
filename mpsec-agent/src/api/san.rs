//! The subject alternative names of a certificate (RFC 5280 4.2.1.6), as text.
//!
//! rustls checks one expected name; a list of allowed names of any kind needs to see them.

use std::net::IpAddr;

/// Its DNS names, e-mail addresses, URIs and IP addresses. A certificate that cannot be read has none.
pub(super) fn names(certificate: &[u8]) -> Vec<String> {
    extension(certificate).and_then(parse_names).unwrap_or_default()
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
/// The field `extensions [3] EXPLICIT` of a certificate.
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

fn extension(certificate: &[u8]) -> Option<&[u8]> {
    let mut certificate = certificate;
    let mut body = certificate.expect_tag(SEQUENCE)?;
    let mut fields = body.expect_tag(SEQUENCE)?;
    let mut extensions = loop {
        match fields.next_value()? {
            (EXTENSIONS, content) => break content,
            _ => continue,
        }
    };
    let mut list = extensions.expect_tag(SEQUENCE)?;
    while !list.is_empty() {
        let mut extension = list.expect_tag(SEQUENCE)?;
        if extension.expect_tag(OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
            continue;
        }
        return match extension.next_value()? {
            (BOOLEAN, _) => extension.expect_tag(OCTET_STRING),
            (OCTET_STRING, content) => Some(content),
            _ => None,
        };
    }
    None
}

fn parse_names(mut extension: &[u8]) -> Option<Vec<String>> {
    let mut list = extension.expect_tag(SEQUENCE)?;
    let mut names = Vec::new();
    while !list.is_empty() {
        let (tag, content) = list.next_value()?;
        names.extend(match tag {
            // rfc822Name, dNSName, uniformResourceIdentifier
            0x81 | 0x82 | 0x86 => String::from_utf8(content.to_vec()).ok(),
            // iPAddress
            0x87 => address(content).map(|address| address.to_canonical().to_string()),
            _ => None,
        });
    }
    Some(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Takes DER values off the front.
trait Der<'a> {
    /// The next value's tag and content.
    fn next_value(&mut self) -> Option<(u8, &'a [u8])>;

    /// The content of the next value, if it has this tag.
    fn expect_tag(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next_value().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

impl<'a> Der<'a> for &'a [u8] {
    fn next_value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.split_first_chunk()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            // Three bytes of length are 16 MiB, more than any certificate.
            let size = usize::from(first & 0x7f);
            let (bytes, after) = rest.split_at_checked(size).filter(|_| (1..=3).contains(&size))?;
            length = bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        *self = rest;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(sans: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = sans;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn all_kinds_of_names_are_read() {
        let sans = vec![
            SanType::DnsName("prometheus.example".try_into().unwrap()),
            SanType::Rfc822Name("ops@example.org".try_into().unwrap()),
            SanType::URI("spiffe://example/prometheus".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
            SanType::IpAddress("2001:db8::7".parse().unwrap()),
        ];
        let expected =
            ["prometheus.example", "ops@example.org", "spiffe://example/prometheus", "192.0.2.7", "2001:db8::7"];
        assert_eq!(names(&certificate(sans)), expected);
        assert!(names(&certificate(Vec::new())).is_empty());
    }

    #[test]
    fn damaged_certificates_have_no_names_and_do_no_harm() {
        let whole = certificate(vec![SanType::DnsName("a.example".try_into().unwrap())]);
        for end in 0..whole.len() {
            assert!(names(&whole[..end]).is_empty());
        }
        for position in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = value;
                names(&damaged);
            }
        }
    }
}
