//! What a client asks for: the exposition format from `Accept`, the compression from `Accept-Encoding`.

use std::io::{self, Write};

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The text format of an answer to a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Prometheus' own text format, version 0.0.4: for whoever does not ask.
    #[default]
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that the `Accept` headers prefer.
    ///
    /// The highest `q` wins; at equal `q` a named type wins over a wildcard, and of two named types the first.
    /// OpenMetrics without a version, 1.0.0 and 0.0.1 (a draft that every client that knows it also reads as 1.0.0) all
    /// get 1.0.0; another version is not ours to give, so it is passed over. Wildcards and anything unknown get the
    /// classic format: no answer is refused, as scrapers expect.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        // What is refused with `q=0` is not better than this.
        let mut best = (0, true, Format::Classic);
        for item in items(headers, &ACCEPT) {
            let Some((named, format)) = format_of(&item) else {
                continue;
            };
            if (item.q, named) > (best.0, best.1) {
                best = (item.q, named, format);
            }
        }
        best.2
    }

    /// The `Content-Type` of this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The compression of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// As it is.
    #[default]
    Identity,
    /// gzip, level 1.
    Gzip,
    /// Zstandard, level 1: about as fast as not compressing at all, so it comes first.
    Zstd,
}

impl Encoding {
    /// All encodings, in the order in which statistics show them.
    pub const ALL: [Encoding; 3] = [Encoding::Identity, Encoding::Gzip, Encoding::Zstd];

    /// The encoding that the `Accept-Encoding` headers prefer: the highest `q`, and at equal `q` zstd before gzip before
    /// none. A client that refuses even `identity` and names nothing that we have gets it all the same.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let (mut zstd, mut gzip, mut identity, mut others) = (None, None, None, None);
        for item in items(headers, &ACCEPT_ENCODING) {
            let slot = match item.name.to_ascii_lowercase().as_str() {
                "zstd" => &mut zstd,
                "gzip" | "x-gzip" => &mut gzip,
                "identity" => &mut identity,
                "*" => &mut others,
                _ => continue,
            };
            *slot = Some(item.q);
        }
        // `Identity` is allowed unless it is refused, but only wins where it is named or nothing else is wanted.
        let wanted = [
            (identity.unwrap_or(0), Encoding::Identity),
            (gzip.or(others).unwrap_or(0), Encoding::Gzip),
            (zstd.or(others).unwrap_or(0), Encoding::Zstd),
        ];
        wanted.into_iter().filter(|(q, _)| *q > 0).max().map_or(Encoding::Identity, |(_, encoding)| encoding)
    }

    /// The name in `Content-Encoding`, which identity does not have.
    pub fn header_value(self) -> Option<&'static str> {
        match self {
            Encoding::Identity => None,
            Encoding::Gzip => Some("gzip"),
            Encoding::Zstd => Some("zstd"),
        }
    }

    /// The name in statistics.
    pub fn name(self) -> &'static str {
        self.header_value().unwrap_or("identity")
    }

    /// Compresses `body`. Blocks for about 1 ms per megabyte: large bodies belong off the runtime's thread.
    pub fn encode(self, body: Bytes) -> io::Result<Bytes> {
        let mut encoded = match self {
            Encoding::Identity => return Ok(body),
            Encoding::Gzip => gzip(&body)?,
            Encoding::Zstd => zstd::bulk::compress(&body, 1)?,
        };
        // The answer may wait for a slow client: it keeps only what it needs.
        encoded.shrink_to_fit();
        Ok(Bytes::from(encoded))
    }
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    // Exposition text shrinks to about a quarter; a wrong guess costs one growth.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4 + 64), Compression::new(1));
    encoder.write_all(body)?;
    encoder.finish()
}

/// Which format a range asks for, and whether by name.
fn format_of(item: &Item<'_>) -> Option<(bool, Format)> {
    match item.name.to_ascii_lowercase().as_str() {
        "application/openmetrics-text" => match item.version {
            None | Some("1.0.0" | "0.0.1") => Some((true, Format::OpenMetrics)),
            Some(_) => None,
        },
        "text/plain" => Some((true, Format::Classic)),
        "text/*" | "*/*" => Some((false, Format::Classic)),
        _ => None,
    }
}

/// One element of an `Accept` or `Accept-Encoding` list.
struct Item<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// In thousandths; 0 refuses.
    q: u16,
}

fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Item<'a>> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).filter_map(item)
}

fn item(text: &str) -> Option<Item<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut item = Item { name, version: None, q: 1000 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "q" | "Q" => item.q = thousandths(value),
            "version" => item.version = Some(value),
            _ => {}
        }
    }
    Some(item)
}

/// A weight such as `0.75`; what is no weight counts as if it were not there.
fn thousandths(q: &str) -> u16 {
    match q.parse::<f32>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1 before")]
        Ok(q) if q.is_finite() => (q.clamp(0.0, 1.0) * 1000.0).round() as u16,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn formats() {
        use Format::{Classic, OpenMetrics};
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                        application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let text_first = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        let table: &[(&[&str], Format)] = &[
            (&[], Classic),
            (&[""], Classic),
            (&[","], Classic),
            (&["*/*"], Classic),
            (&[browser], Classic),
            (&[prometheus_2], OpenMetrics),
            (&[prometheus_3], OpenMetrics),
            (&[protobuf], OpenMetrics),
            (&[text_first], Classic),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; version=\"1.0.0\""], OpenMetrics),
            (&["application/openmetrics-text;version=0.0.1"], OpenMetrics),
            (&["application/openmetrics-text;version=2.0.0"], Classic),
            (&["application/openmetrics-text;q=0"], Classic),
            (&["application/openmetrics-text;q=0.5, text/plain;q=0.6"], Classic),
            (&["*/*, application/openmetrics-text"], OpenMetrics),
            (&["text/plain, application/openmetrics-text"], Classic),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], OpenMetrics),
            (&["application/openmetrics-text;q=nonsense"], OpenMetrics),
            (&["application/json"], Classic),
        ];
        for (accept, format) in table {
            assert_eq!(Format::from_headers(&headers(ACCEPT, accept)), *format, "{accept:?}");
        }
    }

    #[test]
    fn encodings() {
        use Encoding::{Gzip, Identity, Zstd};
        let table: &[(&[&str], Encoding)] = &[
            (&[], Identity),
            (&[""], Identity),
            (&["gzip"], Gzip),
            (&["x-gzip"], Gzip),
            (&["gzip, deflate, br, zstd"], Zstd),
            (&["zstd;q=0.5, gzip"], Gzip),
            (&["gzip;q=0.5, zstd;q=0.5"], Zstd),
            (&["gzip;q=0"], Identity),
            (&["zstd;q=0, *"], Gzip),
            (&["*"], Zstd),
            (&["*;q=0"], Identity),
            (&["identity, gzip;q=0.5"], Identity),
            (&["identity;q=0.5, gzip"], Gzip),
            (&["identity;q=0"], Identity),
            (&["br, deflate"], Identity),
            (&["gzip;q=0.001"], Gzip),
            (&["GZIP ; Q=0.3"], Gzip),
            (&["deflate", "gzip"], Gzip),
        ];
        for (accept, encoding) in table {
            assert_eq!(Encoding::from_headers(&headers(ACCEPT_ENCODING, accept)), *encoding, "{accept:?}");
        }
    }

    #[test]
    fn encoded_bodies_decode_to_what_they_were() {
        let body = Bytes::from("mpsec_subflow_sent_bytes_total{path=\"a\"} 17\n".repeat(5000));
        let gzipped = Encoding::Gzip.encode(body.clone()).unwrap();
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&*gzipped).read_to_end(&mut back).unwrap();
        assert_eq!(back, body);
        let zstd = Encoding::Zstd.encode(body.clone()).unwrap();
        assert_eq!(zstd::decode_all(&*zstd).unwrap(), body);
        assert_eq!(Encoding::Identity.encode(body.clone()).unwrap().as_ptr(), body.as_ptr());
    }
}
