//! One request and its response, as the client sees it, over any protocol.
//!
//! A separate thread reads everything as it arrives; the test waits for conditions on it.

mod connection;
mod http1;
mod http2;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use self::connection::Owned;
use super::DEADLINE;

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
    /// Before everything else, TLS included.
    pub first: &'c [u8],
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub host: String,
    pub path: String,
    pub fields: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: "GET", host: "test".to_owned(), path: path.to_owned(), fields: Vec::new(), body: None }
    }

    /// With `Accept: text/event-stream`.
    pub fn stream(path: &str) -> Self {
        Self::get(path).field("accept", "text/event-stream")
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", body: Some(body.into()), ..Self::get(path) }
    }

    pub fn host(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
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
