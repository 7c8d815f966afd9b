//! The plugin in a Pingora proxy of somebody else's, over real sockets, with and without the feature `server`: hooks, an observer
//! that knows the request, heartbeats, a page that HttpProxy carries, and a drain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::proxy::Session;
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use sse_proxy::{
    Drained, EndReason, Ended, Heartbeat, HeartbeatPolicy, Hooks, Observer, Policy, Route, Takeover,
    accepts_event_stream,
};

const DEADLINE: Duration = Duration::from_secs(60);

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

/// Echoes `X-Authenticated` as an event of an endless stream, and answers everything else with a page.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let head = read_until(&mut socket, "\r\n\r\n");
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
    // Pingora takes its port by number: one that was free a moment ago, on an address that nothing else here uses.
    let listen = TcpListener::bind("127.83.70.1:0").unwrap().local_addr().unwrap();
    thread::spawn(move || {
        let mut server = Server::new(None).unwrap();
        let mut service = http_proxy_service(&server.configuration, proxy);
        service.add_tcp(&listen.to_string());
        server.add_service(service);
        server.run(RunArgs { shutdown_signal: Box::new(Never) });
    });

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

    assert_eq!(takeover.active(), 2);
    drop(streams.remove(0));
    assert_eq!(ends.recv_timeout(DEADLINE).unwrap(), ("alice".to_owned(), EndReason::ClientGone));
    let until = Instant::now() + DEADLINE;
    while takeover.active() > 1 {
        assert!(Instant::now() < until, "an ended stream is not active");
        thread::sleep(Duration::from_millis(1));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Drained { ended, cut, .. } = runtime.block_on(takeover.drain(DEADLINE));
    assert_eq!((ended, cut, takeover.active()), (1, 0, 0));
    assert_eq!(ends.recv_timeout(DEADLINE).unwrap(), ("bob".to_owned(), EndReason::Drain));
    let rest = read_until(&mut streams[0], "0\r\n\r\n");
    assert!(rest.ends_with("0\r\n\r\n"), "the drain ends the stream in order: {rest:?}");
    assert_eq!(events.totals.opened.load(std::sync::atomic::Ordering::Relaxed), 2, "counted by the route they share");
}
