//! A small server that speaks what a test asks for: TLS or not, HTTP/1.1 or HTTP/2, and ends as it is told to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use sse_loadgen::stamp::Stamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What a stream of the server does after its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Three events and a clean end.
    Clean,
    /// Three events a byte at a time, with trailers after them.
    Bytewise,
    /// Half an event and a clean end.
    InsideRecord,
    /// One event and half of another, then RST_STREAM.
    Reset(Reason),
    /// One event and half of another, then GOAWAY and the end of the connection.
    GoAway(Reason),
    /// One event and half of another, then the end of the connection without a word (HTTP/1.1).
    Closed,
    /// Three events, and then nothing more.
    Held,
    /// 404.
    Missing,
    /// A page.
    Page,
    /// Three events, compressed as it says.
    Coded,
    /// Three events after a head of 300 KB (HTTP/2).
    LargeHead,
    /// 413, before any of the body is read.
    Refused,
}

/// What the server speaks.
#[derive(Debug, Clone)]
pub(crate) struct ServerProtocol {
    /// The name in its certificate; without one there is no TLS.
    pub(crate) name: Option<&'static str>,
    /// Which protocols ALPN chooses from.
    pub(crate) alpn: &'static [&'static str],
    /// What it speaks then.
    pub(crate) http2: bool,
    /// Its SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(crate) max_streams: Option<u32>,
}

impl ServerProtocol {
    pub(crate) const H2C: Self = Self { name: None, alpn: &[], http2: true, max_streams: None };
    pub(crate) const H2: Self = Self { name: Some("localhost"), alpn: &["h2"], http2: true, max_streams: None };
    pub(crate) const TLS: Self = Self { name: Some("localhost"), alpn: &["http/1.1"], http2: false, max_streams: None };
}

/// It ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Its certificate, for --cacert.
    pub(crate) certificate: PathBuf,
    /// What it was asked, one line each: method, URL or path, header fields, SNI.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    pub(crate) fn start(protocol: ServerProtocol, behaviour: Behaviour) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificate = directory.path().join("certificate.pem");
        let acceptor = protocol.name.map(|name| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
            std::fs::write(&certificate, made.cert.pem()).expect("writable");
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
            let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
            let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key).expect("they fit");
            config.alpn_protocols = protocol.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            TlsAcceptor::from(Arc::new(config))
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (requests, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let (log, count) = (Arc::clone(&requests), Arc::clone(&connections));
        runtime.spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (protocol, acceptor, log) = (protocol.clone(), acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(io, &protocol, behaviour, &log).await,
                        Some(acceptor) => {
                            let Ok(io) = acceptor.accept(io).await else { return };
                            let name = io.get_ref().1.server_name().unwrap_or("no SNI");
                            log.lock().expect("no panic").push(format!("sni {name}"));
                            serve(io, &protocol, behaviour, &log).await;
                        }
                    }
                });
            }
        });
        Self { address, certificate, requests, connections, _directory: directory, runtime: Some(runtime) }
    }

    /// `https://localhost:PORT/events`, or http.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.certificate.exists() { "https" } else { "http" };
        format!("{scheme}://localhost:{}/events?x=1", self.address.port())
    }

    pub(crate) fn requests(&self) -> String {
        self.requests.lock().expect("no panic").join("\n")
    }
}

fn event(seq: u64) -> Vec<u8> {
    let mut data = Vec::new();
    Stamp { stream: 1, seq, due_us: sse_loadgen::clock::unix_us(), sent_us: sse_loadgen::clock::unix_us() }
        .write(b"message", 100, 1, &mut data);
    [format!("event: message\nid: {seq}\ndata: ").as_bytes(), &data, b"\n\n"].concat()
}

/// What is sent before the end that was asked for.
fn content(behaviour: Behaviour) -> Vec<u8> {
    let half = |event: Vec<u8>| event[..event.len() / 2].to_vec();
    match behaviour {
        Behaviour::Clean | Behaviour::Bytewise | Behaviour::Held | Behaviour::Coded | Behaviour::LargeHead => {
            (1..=3).flat_map(event).collect()
        }
        Behaviour::InsideRecord => half(event(1)),
        Behaviour::Reset(_) | Behaviour::GoAway(_) | Behaviour::Closed => [event(1), half(event(2))].concat(),
        Behaviour::Missing | Behaviour::Page | Behaviour::Refused => b"nothing".to_vec(),
    }
}

fn head(behaviour: Behaviour) -> (u16, &'static str) {
    match behaviour {
        Behaviour::Missing => (404, "text/event-stream"),
        Behaviour::Page => (200, "text/html"),
        Behaviour::Refused => (413, "text/plain"),
        _ => (200, "text/event-stream; charset=utf-8"),
    }
}

async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: &ServerProtocol,
    behaviour: Behaviour,
    log: &Mutex<Vec<String>>,
) {
    if protocol.http2 {
        serve_http2(io, protocol.max_streams, behaviour, log).await
    } else {
        serve_http1(io, behaviour, log).await
    }
}

async fn serve_http1(mut io: impl AsyncRead + AsyncWrite + Unpin, behaviour: Behaviour, log: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if !matches!(io.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    log.lock().expect("no panic").push(String::from_utf8_lossy(&request).into_owned());
    let (status, media_type) = head(behaviour);
    let coding = if behaviour == Behaviour::Coded { "Content-Encoding: gzip\r\n" } else { "" };
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\n{coding}Transfer-Encoding: chunked\r\n\r\n");
    let mut send = async |bytes: &[u8]| {
        io.write_all(bytes).await?;
        io.flush().await
    };
    let _ = send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{head}").as_bytes()).await;
    let content = content(behaviour);
    for piece in content.chunks(if behaviour == Behaviour::Bytewise { 1 } else { content.len() }) {
        let _ = send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    match behaviour {
        Behaviour::Held => std::future::pending().await,
        Behaviour::Closed => {}
        _ => {
            let _ = send(b"0\r\nx-ended: yes\r\n\r\n").await;
            let _ = io.shutdown().await;
        }
    }
}

async fn serve_http2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    max_streams: Option<u32>,
    behaviour: Behaviour,
    log: &Mutex<Vec<String>>,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_send_buffer_size(1);
    if let Some(max) = max_streams {
        builder.max_concurrent_streams(max);
    }
    let Ok(mut connection) = builder.handshake(io).await else { return };
    let mut held = Vec::new();
    let (finished, mut is_finished) = tokio::sync::mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                log.lock().expect("no panic").push(format!("{} {} {:?}", request.method(), request.uri(), request.headers()));
                let finished = finished.clone();
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while behaviour != Behaviour::Refused && let Some(Ok(piece)) = body.data().await {
                        let _ = body.flow_control().release_capacity(piece.len());
                    }
                    let _ = finished.send(answer(respond, behaviour).await);
                });
            }
            Some(stream) = is_finished.recv() => {
                if let Behaviour::GoAway(reason) = behaviour {
                    connection.abrupt_shutdown(reason);
                }
                // Dropped, it would be reset.
                held.extend(stream);
            }
        }
    }
}

/// Returns the stream if it is to stay open.
async fn answer(mut respond: SendResponse<Bytes>, behaviour: Behaviour) -> Option<SendStream<Bytes>> {
    let (status, media_type) = head(behaviour);
    let early = http::Response::builder().status(103).body(()).expect("valid");
    let _ = respond.send_informational(early);
    let coding = if behaviour == Behaviour::Coded { "br" } else { "identity" };
    let response = http::Response::builder().status(status).header("content-type", media_type);
    let large = if behaviour == Behaviour::LargeHead { 30 } else { 0 };
    let response = (0..large).fold(response, |response, at| response.header(format!("x-{at}"), "y".repeat(10_000)));
    let response = response.header("content-encoding", coding).body(()).expect("valid");
    let mut stream = respond.send_response(response, false).ok()?;
    let content = content(behaviour);
    let is_split = behaviour == Behaviour::Bytewise;
    for piece in content.chunks(if is_split { 1 } else { content.len() }) {
        stream.send_data(Bytes::copy_from_slice(piece), false).ok()?;
        // So that no two of them go out in one write.
        tokio::task::yield_now().await;
    }
    flushed(&mut stream).await;
    match behaviour {
        Behaviour::Bytewise => stream.send_trailers([("x-ended", "yes")].into_iter().map(field).collect()).ok()?,
        Behaviour::Clean
        | Behaviour::InsideRecord
        | Behaviour::Missing
        | Behaviour::Page
        | Behaviour::Coded
        | Behaviour::LargeHead
        | Behaviour::Refused => stream.send_data(Bytes::new(), true).ok()?,
        Behaviour::Reset(reason) => stream.send_reset(reason),
        Behaviour::GoAway(_) | Behaviour::Closed | Behaviour::Held => return Some(stream),
    }
    None
}

fn field((name, value): (&'static str, &'static str)) -> (http::HeaderName, http::HeaderValue) {
    (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
}

/// Waits until what was sent has left the stream's buffer, since a reset throws away what is in it.
async fn flushed(stream: &mut SendStream<Bytes>) {
    // The buffer holds one byte: there is room in it when it is empty.
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        if !matches!(std::future::poll_fn(|context| stream.poll_capacity(context)).await, Some(Ok(_))) {
            return;
        }
    }
}
