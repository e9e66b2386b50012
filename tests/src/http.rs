//! As much of an HTTP/1.1 client as a scrape needs, over a socket that was made in the right namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;

/// How long one read or write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer encoding undone.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the body is not UTF-8")
    }
}

/// Connects from inside a namespace.
pub fn connect(netns: &Netns, address: SocketAddr) -> Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&address, PATIENCE)).with_context(|| address.to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// GET from inside a namespace, on a connection of its own.
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> Result<Response> {
    get_with(netns, address, path, &[])
}

/// GET with more headers, each a name and a value.
pub fn get_with(netns: &Netns, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let mut stream = connect(netns, address)?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).with_context(|| format!("ask for {path}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("answer for {path}"))?;
    parse(&answer).with_context(|| format!("answer for {path}"))
}

/// POST of JSON on a connection that is open, with more headers.
pub fn post(
    mut stream: impl Read + Write,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response> {
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    stream.write_all(request.as_bytes()).with_context(|| format!("post to {path}"))?;
    let mut answer = Vec::new();
    // A server over TLS may close without a word when all is said; what is missing shows in the length.
    let _ = stream.read_to_end(&mut answer);
    parse(&answer).with_context(|| format!("answer for {path}"))
}

/// Reads a whole answer.
pub fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of the headers")?;
    let mut lines = std::str::from_utf8(&answer[..end])?.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 "), "status line {status:?}");
    let status = status.split(' ').nth(1).unwrap_or_default().parse().context("status code")?;
    let headers = lines.map(header).collect::<Result<Vec<_>>>()?;
    let mut response = Response { status, headers, body: answer[end + 4..].to_vec() };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(&response.body)?;
    } else if let Some(len) = response.header("content-length") {
        ensure!(len.parse() == Ok(response.body.len()), "{} bytes of {len}", response.body.len());
    }
    Ok(response)
}

fn header(line: &str) -> Result<(String, String)> {
    let (name, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").context("no end of a chunk's size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?, 16).context("size of a chunk")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        let Some(chunk) = rest.get(..size + 2) else { bail!("a chunk is cut off") };
        body.extend(&chunk[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_known_length_and_in_chunks_are_read() -> Result<()> {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc")?;
        assert_eq!((plain.status, plain.text()?, plain.header("x-a")), (200, "abc", Some("b")));
        let chunked =
            parse(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n")?;
        assert_eq!((chunked.status, chunked.text()?), (503, "abc0123456789"));
        Ok(())
    }

    #[test]
    fn a_body_that_is_cut_off_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc").is_err());
    }
}
