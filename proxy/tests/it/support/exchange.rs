//! One request and its response, as the client sees it, over any protocol.
//!
//! A separate thread reads everything as it arrives; the test waits for conditions on it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{DEADLINE, dechunk};

/// The client's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http11Tls,
    Http2Tls,
    Http2,
}

impl Protocol {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Http11Tls | Self::Http2Tls)
    }

    pub fn is_http_2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

/// Where and how a request is sent.
#[derive(Clone, Debug)]
pub struct Way<'c> {
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// The certificate that the server has, where it speaks TLS.
    pub certificate: Option<&'c Path>,
    /// A few bytes at a time.
    pub in_pieces: bool,
    /// Reads nothing after it has asked, with the smallest buffers there are.
    pub stalled: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub fields: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), fields: Vec::new(), body: None }
    }

    /// With `Accept: text/event-stream`.
    pub fn stream(path: &str) -> Self {
        Self::get(path).field("accept", "text/event-stream")
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", body: Some(body.into()), ..Self::get(path) }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A response head, its field names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
}

impl Answer {
    /// A field's value; several are joined with a comma.
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// How a response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As one that is complete, by its protocol.
    Clean,
    /// The client sees an error: its text.
    Broken(String),
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Seen {
    interim: VecDeque<Answer>,
    head: Option<Answer>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    end: Option<End>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    more: Condvar,
}

/// A request that has been sent. The connection is closed when this is dropped.
pub struct Exchange {
    shared: Arc<Shared>,
    leave: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    /// Sends a request on a new connection.
    pub fn begin(way: &Way<'_>, request: Request) -> Self {
        let shared = Arc::<Shared>::default();
        let (leave, left) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (way, seen) = (Owned::of(way), shared.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = way.send(request, &seen) => {
                        let end = result.unwrap_or_else(|error| End::Broken(error.to_string()));
                        seen.update(|seen| seen.end = Some(end));
                    }
                    _ = left => {}
                }
            });
        });
        Self { shared, leave: Some(leave), thread: Some(thread) }
    }

    /// The final response head.
    pub fn head(&self) -> Answer {
        self.wait("a response head", |seen| seen.head.clone())
    }

    /// The interim responses before it.
    pub fn interim(&self) -> Vec<Answer> {
        self.head();
        self.shared.lock().interim.iter().cloned().collect()
    }

    /// The body so far, once it satisfies `done`.
    pub fn until(&self, what: &str, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.wait(what, |seen| done(&seen.body).then(|| seen.body.clone()))
    }

    /// The same, once it contains `text`.
    pub fn until_has(&self, text: &str) -> String {
        let body = self.until(&format!("{text:?}"), |body| super::contains(body, text.as_bytes()));
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The whole body, and how it ended.
    pub fn end(&self) -> (Vec<u8>, End) {
        let end = self.wait_whatever("the end", |seen| seen.end.clone());
        (self.shared.lock().body.clone(), end)
    }

    /// The body of an answer that has to end in order.
    pub fn whole(&self) -> Vec<u8> {
        let (body, end) = self.end();
        assert_eq!(end, End::Clean, "after {:?}", String::from_utf8_lossy(&body));
        body
    }

    /// The body of an answer that has to break off.
    pub fn broken(&self) -> Vec<u8> {
        let (body, end) = self.end();
        assert_ne!(end, End::Clean, "after {:?}", String::from_utf8_lossy(&body));
        body
    }

    /// What came behind the body of an answer that has ended.
    pub fn trailers(&self) -> Vec<(String, String)> {
        self.end();
        self.shared.lock().trailers.clone()
    }

    fn wait<T>(&self, what: &str, ask: impl Fn(&Seen) -> Option<T>) -> T {
        self.wait_whatever(what, |seen| match (ask(seen), &seen.end) {
            (Some(answer), _) => Some(Ok(answer)),
            (None, Some(end)) => Some(Err(format!("{end:?} without {what}: {seen:?}"))),
            (None, None) => None,
        })
        .unwrap_or_else(|ended| panic!("{ended}"))
    }

    fn wait_whatever<T>(&self, what: &str, ask: impl Fn(&Seen) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        let mut seen = self.shared.lock();
        loop {
            if let Some(answer) = ask(&seen) {
                return answer;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {DEADLINE:?}: {seen:?}");
            seen = self.shared.more.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        drop(self.leave.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.more.notify_all();
    }
}

/// A [`Way`] that a thread can take along.
struct Owned {
    address: SocketAddr,
    protocol: Protocol,
    certificate: Option<CertificateDer<'static>>,
    in_pieces: bool,
    stalled: bool,
}

impl Owned {
    fn of(way: &Way<'_>) -> Self {
        let Way { address, protocol, in_pieces, stalled, .. } = *way;
        let certificate = way.certificate.map(|file| CertificateDer::from_pem_file(file).expect("a certificate"));
        Self { address, protocol, certificate, in_pieces, stalled }
    }

    async fn send(&self, request: Request, seen: &Shared) -> io::Result<End> {
        let socket = TcpSocket::new_v4()?;
        if self.stalled {
            socket.set_recv_buffer_size(1)?;
        }
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let socket = Pieces { socket, left: if self.in_pieces { PIECES_BYTES } else { 0 }, pause: None };
        match &self.certificate {
            None => self.run(socket, request, seen).await,
            Some(certificate) => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate.clone()).expect("a trusted certificate");
                let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
                let config = config.with_safe_default_protocol_versions().expect("versions of TLS");
                let mut config = config.with_root_certificates(roots).with_no_client_auth();
                let name: &[u8] = if self.protocol.is_http_2() { b"h2" } else { b"http/1.1" };
                config.alpn_protocols = vec![name.to_vec()];
                let server = ServerName::try_from("localhost").expect("a name");
                let connection = TlsConnector::from(Arc::new(config)).connect(server, socket).await?;
                assert_eq!(connection.get_ref().1.alpn_protocol(), Some(name), "the protocol that was asked for");
                self.run(connection, request, seen).await
            }
        }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
        request: Request,
        seen: &Shared,
    ) -> io::Result<End> {
        match self.protocol {
            Protocol::Http10 | Protocol::Http11 | Protocol::Http11Tls => self.http_1(connection, request, seen).await,
            Protocol::Http2 | Protocol::Http2Tls => self.http_2(connection, request, seen).await,
        }
    }

    async fn http_1<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
        request: Request,
        seen: &Shared,
    ) -> io::Result<End> {
        let version = if self.protocol == Protocol::Http10 { "1.0" } else { "1.1" };
        let mut wire = format!("{} {} HTTP/{version}\r\nHost: test\r\n", request.method, request.path);
        for (name, value) in &request.fields {
            wire += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &request.body {
            wire += &format!("Content-Length: {}\r\n", body.len());
        }
        let wire = [wire.as_bytes(), b"\r\n", request.body.as_deref().unwrap_or_default()].concat();
        let (mut reader, mut writer) = tokio::io::split(connection);
        let sending = async {
            // An answer may come before all of it is sent, and the server need not take the rest then.
            let _ = writer.write_all(&wire).await;
            let _ = writer.flush().await;
            std::future::pending::<()>().await
        };
        let reading = async {
            if self.stalled {
                std::future::pending::<()>().await;
            }
            read_http_1(&mut reader, request.method == "HEAD", seen).await
        };
        tokio::select! {
            () = sending => unreachable!("it waits for the answer"),
            end = reading => end,
        }
    }

    async fn http_2<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
        request: Request,
        seen: &Shared,
    ) -> io::Result<End> {
        let mut builder = h2::client::Builder::new();
        if self.stalled {
            builder.initial_window_size(1024);
        }
        let (mut client, connection) = builder.handshake::<_, Bytes>(connection).await.map_err(io::Error::other)?;
        let scheme = if self.protocol.is_tls() { "https" } else { "http" };
        let mut head = http::Request::builder().method(request.method);
        head = head.uri(format!("{scheme}://test{}", request.path));
        for (name, value) in &request.fields {
            head = head.header(name, value);
        }
        if let Some(body) = &request.body {
            head = head.header("content-length", body.len());
        }
        let head = head.body(()).expect("a request");
        let exchange = async {
            let sent = client.send_request(head, request.body.is_none());
            let (mut response, mut upload) = sent.map_err(io::Error::other)?;
            let uploading = async {
                if let Some(body) = request.body {
                    send_body(&mut upload, body.into()).await;
                }
                std::future::pending::<()>().await
            };
            let reading = async {
                let read = read_http_2(&mut response, self.stalled, seen).await;
                // With `PROTOCOL_ERROR` and the like, what the server says is the error's text.
                Ok(read.unwrap_or_else(|error| End::Broken(error.to_string())))
            };
            tokio::select! {
                () = uploading => unreachable!("it waits for the answer"),
                end = reading => end,
            }
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            end = &mut exchange => end,
            // What has come before the connection ended is still there to be read.
            _ = connection => exchange.await,
        }
    }
}

async fn send_body(upload: &mut h2::SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        upload.reserve_capacity(body.len());
        let Some(Ok(room)) = std::future::poll_fn(|context| upload.poll_capacity(context)).await else { return };
        let part = body.split_to(room.min(body.len()));
        if upload.send_data(part, false).is_err() {
            return;
        }
    }
    let _ = upload.send_data(Bytes::new(), true);
}

fn fields_of(map: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

async fn read_http_2(
    response: &mut h2::client::ResponseFuture,
    stalled: bool,
    seen: &Shared,
) -> Result<End, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    seen.update(|seen| seen.head = Some(Answer { status: head.status.as_u16(), fields: fields_of(&head.headers) }));
    if stalled {
        std::future::pending::<()>().await;
    }
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        seen.update(|seen| seen.body.extend_from_slice(&data));
    }
    if let Some(trailers) = body.trailers().await? {
        seen.update(|seen| seen.trailers = fields_of(&trailers));
    }
    Ok(End::Clean)
}

/// What delimits a body.
enum Delimited {
    Length(usize),
    Chunked,
    UntilClose,
}

async fn read_http_1(connection: &mut (impl AsyncRead + Unpin), head_only: bool, seen: &Shared) -> io::Result<End> {
    let mut bytes = Vec::new();
    let delimited = loop {
        let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
            if connection.read_buf(&mut bytes).await? == 0 {
                return Ok(End::Broken(format!("closed within the head: {:?}", String::from_utf8_lossy(&bytes))));
            }
            continue;
        };
        let rest = bytes.split_off(at + 4);
        let answer = parse_head(&String::from_utf8_lossy(&std::mem::replace(&mut bytes, rest)));
        if (100..200).contains(&answer.status) {
            seen.update(|seen| seen.interim.push_back(answer));
            continue;
        }
        let delimited = match (answer.field("transfer-encoding"), answer.field("content-length")) {
            _ if head_only || matches!(answer.status, 204 | 304) => Delimited::Length(0),
            (Some(_), _) => Delimited::Chunked,
            (None, Some(length)) => Delimited::Length(length.parse().expect("a length")),
            (None, None) => Delimited::UntilClose,
        };
        seen.update(|seen| seen.head = Some(answer));
        break delimited;
    };
    loop {
        let (body, end) = match delimited {
            Delimited::UntilClose => (bytes.clone(), None),
            Delimited::Length(length) => {
                (bytes[..bytes.len().min(length)].to_vec(), (bytes.len() >= length).then(Vec::new))
            }
            Delimited::Chunked => {
                let (body, end) = dechunk(&bytes);
                (body, end.filter(|end| end.starts_with(b"\r\n") || end.windows(4).any(|end| end == b"\r\n\r\n")))
            }
        };
        seen.update(|seen| seen.body = body);
        if let Some(trailers) = end {
            let trailers = String::from_utf8_lossy(&trailers).into_owned();
            seen.update(|seen| seen.trailers = fields(trailers.lines()));
            return Ok(End::Clean);
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(match delimited {
                Delimited::UntilClose => End::Clean,
                _ => End::Broken("closed within the body".into()),
            });
        }
    }
}

fn parse_head(text: &str) -> Answer {
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status in {text:?}")), fields: fields(lines) }
}

fn fields<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<(String, String)> {
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// How much of what is sent is sent in pieces.
const PIECES_BYTES: usize = 1200;

/// A connection whose first bytes are sent a few at a time, each in its own segment.
struct Pieces {
    socket: TcpStream,
    left: usize,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        const PIECE_BYTES: usize = 24;
        if self.left == 0 {
            return Pin::new(&mut self.socket).poll_write(context, bytes);
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let written = std::task::ready!(Pin::new(&mut self.socket).poll_write(context, piece))?;
        self.left = self.left.saturating_sub(written);
        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(1))));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}
