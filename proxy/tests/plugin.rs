//! The plugin in a Pingora proxy of somebody else's, over real sockets, with and without the feature `server`: hooks, an observer
//! that knows the request, heartbeats, a page that HttpProxy carries, a drain, Pingora's compression, and hooks that fail.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flate2::read::GzDecoder;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::modules::http::compression::ResponseCompressionBuilder;
use pingora::prelude::*;
use pingora::proxy::Session;
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use sse_proxy::{
    Drained, EndReason, Ended, Failure, Heartbeat, HeartbeatPolicy, Hooks, Observer, Policy, Route, StreamInfo,
    Takeover, accepts_event_stream,
};

const DEADLINE: Duration = Duration::from_secs(60);

const PAGE: &str = "a page that ends with its connection";

struct MyProxy {
    backend: SocketAddr,
    takeover: Arc<Takeover>,
    events: Arc<Route>,
    ended: Mutex<Sender<(String, EndReason)>>,
}

#[async_trait]
impl ProxyHttp for MyProxy {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
        if !accepts_event_stream(session.req_header()) {
            return Ok(true);
        }
        let peer = self.upstream_peer(session, ctx).await?;
        let user = session.get_header("x-user").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let observer = OfUser { user: user.clone(), ended: Mutex::new(self.ended.lock().unwrap().clone()) };
        let route = self.events.observed_by(Arc::new(observer));
        self.takeover.take_over_with(session, &[*peer], &route, &ForUser(&user)).await
    }
}

struct ForUser<'a>(&'a str);

impl Hooks for ForUser<'_> {
    fn upstream_request(&self, _: &Session, request: &mut RequestHeader) -> Result<()> {
        request.insert_header("X-Authenticated", self.0)
    }

    fn stream_response(&self, _: &Session, response: &mut ResponseHeader) -> Result<()> {
        response.insert_header("X-For", self.0)
    }
}

struct OfUser {
    user: String,
    ended: Mutex<Sender<(String, EndReason)>>,
}

impl Observer for OfUser {
    fn ended(&self, ended: &Ended<'_>) {
        let _ = self.ended.lock().unwrap().send((self.user.clone(), ended.reason));
    }
}

/// Never asks Pingora to stop: the process of the test does.
struct Never;

#[async_trait]
impl ShutdownSignalWatch for Never {
    async fn recv(&self) -> ShutdownSignal {
        std::future::pending().await
    }
}

/// Runs a proxy on an address that nothing else here uses. Pingora takes its port by number: one that was free a moment ago.
fn serve(host: &str, proxy: impl ProxyHttp<CTX = ()> + Send + Sync + 'static) -> SocketAddr {
    let listen = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
    thread::spawn(move || {
        let mut server = Server::new(None).unwrap();
        let mut service = http_proxy_service(&server.configuration, proxy);
        service.add_tcp(&listen.to_string());
        server.add_service(service);
        server.run(RunArgs { shutdown_signal: Box::new(Never) });
    });
    listen
}

/// Echoes `X-Authenticated` as an event of an endless stream, and answers a request for a page with one.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let head = read_until(&mut socket, "\r\n\r\n");
                if head.starts_with("GET /until-close") {
                    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
                    let _ = socket.write_all(format!("{page}{PAGE}").as_bytes());
                    return;
                }
                if head.starts_with("GET /page") {
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage");
                    return;
                }
                let user = head.lines().find_map(|line| line.strip_prefix("X-Authenticated: ")).unwrap_or("nobody");
                let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                let _ = socket.write_all(format!("{stream}data: {user}\n\n").as_bytes());
                // Silent until the proxy closes.
                let _ = socket.read(&mut [0]);
            });
        }
    });
    address
}

fn read_until(socket: &mut TcpStream, end: &str) -> String {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).unwrap();
        assert!(count > 0, "closed before {end:?}: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let until = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(address) {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < until, "the proxy does not listen: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_foreign_proxy_uses_hooks_observers_and_the_drain() {
    let takeover = Arc::new(Takeover::with_reactor_threads(2));
    let mut policy = Policy::default();
    policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_millis(50), Heartbeat::default()));
    let (sender, ends) = channel();
    let proxy = MyProxy {
        backend: backend(),
        takeover: takeover.clone(),
        events: Route::new("events", policy, Arc::new(())),
        ended: Mutex::new(sender),
    };
    let events = proxy.events.clone();
    let listen = serve("127.83.70.1", proxy);

    let mut streams: Vec<TcpStream> = ["alice", "bob"]
        .iter()
        .map(|user| {
            let mut client = connect(listen);
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nX-User: {user}\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
            let answer = read_until(&mut client, ":\n\n");
            assert!(answer.to_lowercase().contains(&format!("x-for: {user}\r\n")), "{answer}");
            assert!(answer.contains(&format!("data: {user}\n\n")), "{answer}");
            client
        })
        .collect();
    let mut page = connect(listen);
    page.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_until(&mut page, "page").starts_with("HTTP/1.1 200"));

    assert_eq!((takeover.active(), takeover.is_draining()), (2, false));
    drop(streams.remove(0));
    assert_eq!(ends.recv_timeout(DEADLINE).unwrap(), ("alice".to_owned(), EndReason::ClientGone));
    let until = Instant::now() + DEADLINE;
    while takeover.active() > 1 {
        assert!(Instant::now() < until, "an ended stream is not active");
        thread::sleep(Duration::from_millis(1));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Drained { ended, cut, .. } = runtime.block_on(takeover.drain(DEADLINE));
    assert_eq!((ended, cut, takeover.active(), takeover.is_draining()), (1, 0, 0, true));
    assert_eq!(ends.recv_timeout(DEADLINE).unwrap(), ("bob".to_owned(), EndReason::Drain));
    let rest = read_until(&mut streams[0], "0\r\n\r\n");
    assert!(rest.ends_with("0\r\n\r\n"), "the drain ends the stream in order: {rest:?}");
    assert_eq!(events.totals.opened.load(std::sync::atomic::Ordering::Relaxed), 2, "counted by the route they share");
}

/// A proxy whose responses Pingora compresses, and which takes every request over.
struct Compressing {
    backend: SocketAddr,
    takeover: Takeover,
    events: Arc<Route>,
}

#[async_trait]
impl ProxyHttp for Compressing {
    type CTX = ();
    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(ResponseCompressionBuilder::enable(6));
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
        let peer = self.upstream_peer(session, ctx).await?;
        self.takeover.take_over(session, &[*peer], &self.events).await
    }
}

/// Invariant: a body has the coding that its head names, from its first byte to its last. Mechanism: a stream's head went through
/// Pingora's compression and its body did not; a page's encoder was not finished where the connection ended the body. Symptom: clients
/// take events for broken gzip, and pages are cut.
#[test]
fn compression_leaves_streams_alone_and_finishes_pages() {
    let events = Route::new("events", Policy::default(), Arc::new(()));
    let listen = serve("127.83.70.2", Compressing { backend: backend(), takeover: Takeover::default(), events });
    let request = |line: &str, more: &str| {
        let mut client = connect(listen);
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: gzip\r\n{more}\r\n");
        client.write_all(request.as_bytes()).unwrap();
        client
    };
    // The second begins while its request is still being sent.
    for (line, more) in [("GET /", ""), ("POST /", "Content-Length: 1\r\n")] {
        let answer = read_until(&mut request(line, more), "data: nobody\n\n");
        assert!(!answer.to_lowercase().contains("content-encoding"), "{line}: {answer}");
    }

    let mut client = request("GET /until-close", "");
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..body]).to_lowercase();
    assert!(head.contains("content-encoding: gzip") && head.contains("transfer-encoding: chunked"), "{head}");
    let mut page = String::new();
    let decoded = GzDecoder::new(&dechunk(&answer[body..])[..]).read_to_string(&mut page);
    assert_eq!((decoded.map_err(|error| error.to_string()), page.as_str()), (Ok(PAGE.len()), PAGE));
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|end| end == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[line + 2..][..size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

/// A proxy whose hooks fail as the request's path says.
struct Failing {
    backend: SocketAddr,
    takeover: Takeover,
    events: Arc<Route>,
}

#[async_trait]
impl ProxyHttp for Failing {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
        let peer = self.upstream_peer(session, ctx).await?;
        let hooks = FailingHooks(session.req_header().uri.path().to_owned());
        self.takeover.take_over_with(session, &[*peer], &self.events, &hooks).await
    }
}

struct FailingHooks(String);

impl FailingHooks {
    fn fail_at(&self, hook: &str) -> Result<()> {
        match self.0.strip_prefix(hook) {
            Some("/403") => Error::e_explain(ErrorType::HTTPStatus(403), "a hook that refuses"),
            Some(_) => Error::e_explain(ErrorType::InternalError, "a hook that fails"),
            None => Ok(()),
        }
    }
}

impl Hooks for FailingHooks {
    fn upstream_request(&self, _: &Session, _: &mut RequestHeader) -> Result<()> {
        self.fail_at("/request")
    }

    fn stream_response(&self, _: &Session, _: &mut ResponseHeader) -> Result<()> {
        self.fail_at("/response")
    }
}

/// Counts every call.
struct Calls(Mutex<Sender<&'static str>>);

impl Observer for Calls {
    fn opened(&self, _: &str, _: &StreamInfo) {
        self.0.lock().unwrap().send("opened").unwrap();
    }

    fn failed(&self, _: &str, _: &Failure) {
        self.0.lock().unwrap().send("failed").unwrap();
    }

    fn ended(&self, _: &Ended<'_>) {
        self.0.lock().unwrap().send("ended").unwrap();
    }
}

#[test]
fn a_hook_that_fails_is_answered_by_pingora_and_not_observed() {
    let (sender, calls) = channel();
    let events = Route::new("events", Policy::default(), Arc::new(Calls(Mutex::new(sender))));
    let listen = serve("127.83.70.3", Failing { backend: backend(), takeover: Takeover::default(), events });
    for (path, status) in [("/request/403", 403), ("/request/", 500), ("/response/403", 403), ("/response/", 500)] {
        let mut client = connect(listen);
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let answer = read_until(&mut client, "\r\n\r\n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), [""; 0]);
    // The observer works.
    let mut client = connect(listen);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_until(&mut client, "data: nobody\n\n");
    assert_eq!(calls.recv_timeout(DEADLINE).unwrap(), "opened");
}
