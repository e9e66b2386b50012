//! One connection from accept to close.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::access::Access;
use super::channel::{Channel, Secured};
use super::limits::{Limits, Phase, Progress, Streaming};
use super::registry::{Connection, Place, Registry};
use super::routes::plain;
use super::stats::{HttpStats, OTHER_HANDLER, count};
use super::watched::{Watched, WatchedBody};
use super::web_config::{Tls, WebConfig};

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) config: Arc<WebConfig>,
    pub(super) access: Arc<Access>,
    pub(super) registry: Arc<Registry>,
    pub(super) limits: Limits,
    pub(super) stats: Arc<HttpStats>,
}

/// Serves a connection until either side ends it, its time is up, its place is needed, or the server stops.
pub(super) async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    let connection = &place.connection;
    let mut work = pin!(talk(stream, peer, connection, &shared, stopped));
    let mut evicted = pin!(connection.evicted());
    let mut alarm = pin!(sleep_until(Instant::now()));
    std::future::poll_fn(|cx| {
        if evicted.as_mut().poll(cx).is_ready() || work.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // The work has just gone as far as it can: now it is known by when it must go on.
        let progress = connection.progress();
        let Some(due) = progress.deadline(&shared.limits) else { return Poll::Pending };
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx).map(|()| note_timeout(&progress, &shared.stats))
    })
    .await;
}

fn note_timeout(progress: &Progress, stats: &HttpStats) {
    // Who has had the answer and only keeps the connection open has done no wrong.
    if progress.phase != Phase::Closing {
        count(&stats.timed_out);
    }
}

async fn talk(
    stream: TcpStream,
    peer: SocketAddr,
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    // Buffers and TLS state are made for those who say something.
    let first_byte = tokio::select! {
        first = first_byte(&stream) => first,
        _ = stopped.wait_for(|stopped| *stopped) => return,
    };
    let Ok(Some(first_byte)) = first_byte else {
        return;
    };
    // An answer goes out in one piece already; waiting for more would only delay its last packet.
    let _ = stream.set_nodelay(true);
    shared.config.refresh(&shared.stats);
    // A connection that is gone has no address any more.
    let Ok(local) = stream.local_addr() else { return };
    let channel = |tls| Channel { access: shared.access.clone(), peer, local, tls };
    let Some(tls) = shared.config.tls() else {
        connection.opened();
        return exchange(stream, channel(None), None, connection, shared, stopped).await;
    };
    let handshake = handshake(stream, first_byte, &tls);
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        _ = stopped.wait_for(|stopped| *stopped) => return,
    };
    match accepted {
        Ok(stream) => {
            connection.opened();
            let channel = channel(Some(Secured::new(&tls, stream.get_ref().1)));
            Box::pin(exchange(stream, channel, Some(tls), connection, shared, stopped)).await;
        }
        Err(error) => {
            count(&shared.stats.tls_handshake_failures);
            tracing::debug!(%peer, "TLS handshake failed: {error}");
        }
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((stream.peek(&mut byte).await? > 0).then_some(byte[0]))
}

/// The content type of a TLS record that carries a handshake (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 22;

async fn handshake(
    mut stream: TcpStream,
    first_byte: u8,
    tls: &Tls,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    if first_byte != TLS_HANDSHAKE && first_byte.is_ascii_alphabetic() {
        speak_plainly(&mut stream).await?;
        return Err(io::Error::other("the client speaks plain HTTP"));
    }
    // Boxed: a handshake's state is large, and gone before the first request.
    Box::pin(TlsAcceptor::from(tls.config.clone()).accept(stream)).await
}

/// Tells a client that forgot the `s` so, in a protocol that it understands.
async fn speak_plainly(stream: &mut TcpStream) -> io::Result<()> {
    let text = "this port speaks HTTPS: use https://\n";
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes()).await?;
    stream.shutdown().await?;
    // Unread bytes would turn the close into a reset that overtakes the answer; the handshake's timeout bounds the wait.
    let mut rest = [0; 1024];
    for _ in 0..16 {
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut rest)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => break,
        }
    }
    Ok(())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    channel: Channel,
    tls: Option<Arc<Tls>>,
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        connection.request_began();
        let channel = current(&channel, tls.as_ref(), shared);
        answer(request, channel, connection.clone(), shared.clone())
    });
    let io = TokioIo::new(Watched::new(stream, connection.clone()));
    let mut http = pin!(builder(&shared.limits).serve_connection(io, service));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    note_error(&error, channel.peer, &shared.stats);
                }
                return;
            }
            _ = stopped.wait_for(|stopped| *stopped), if !stopping => {
                if connection.progress().phase != Phase::Busy {
                    return;
                }
                http.as_mut().graceful_shutdown();
                stopping = true;
            }
        }
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // `run` keeps the time.
        .header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        // hyper refuses buffers of less than 8 KiB.
        .max_buf_size(limits.max_header_bytes.max(8192));
    builder
}

/// The channel as it is by now. A connection may outlive the settings that it was made under.
fn current(channel: &Channel, tls: Option<&Arc<Tls>>, shared: &Shared) -> Channel {
    let mut channel = channel.clone();
    if let (Some(secured), Some(tls)) = (&mut channel.tls, tls) {
        shared.config.refresh(&shared.stats);
        secured.is_outdated = shared.config.tls().is_none_or(|now| !Arc::ptr_eq(&now, tls));
    }
    channel
}

async fn answer(
    request: Request<Incoming>,
    channel: Channel,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
) -> Result<Response<WatchedBody>, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(channel.peer));
    let is_outdated = channel.tls.as_ref().is_some_and(|tls| tls.is_outdated);
    request.extensions_mut().insert(channel);
    let mut response = shared.router.clone().oneshot(request).await?;
    if is_outdated {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let bytes = response.body().size_hint().lower();
    if !shared.registry.make_room_for_bytes(bytes) {
        let text = "too many answers wait for clients to read them: try again later\n";
        response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let streaming = response.extensions().get::<Streaming>().is_some();
    connection.answer_began(response.body().size_hint().lower(), streaming);
    Ok(response.map(|body| WatchedBody::new(body, connection)))
}

/// hyper answers heads that are no HTTP, or too long, by itself: they are counted here.
fn note_error(error: &hyper::Error, peer: SocketAddr, stats: &HttpStats) {
    if error.is_parse_too_large() {
        stats.count_request(OTHER_HANDLER, 431);
    } else if error.is_parse() {
        stats.count_request(OTHER_HANDLER, 400);
    }
    tracing::debug!(%peer, "HTTP connection ended: {error}");
}
