//! Listens, spreads connections over threads (one runtime each), and sends every request to a stream or a page.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use super::gate::Gates;
use super::pages::{self, Content, Page};
use super::request::{self, Request, RequestError};
use super::spec::StreamSpec;
use super::stream::{self, Stream};
use super::thread_context::ThreadContext;
use super::timer::Timer;

const BACKLOG: i32 = 4096;
/// How long to leave the accept queue alone when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long a client that is refused may go on sending.
const LINGER: Duration = Duration::from_secs(2);
const FILLER: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// Where to listen and with how many threads.
#[derive(Debug, Clone)]
pub struct OriginConfig {
    /// Addresses; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Threads, at least one.
    pub threads: usize,
}

/// Why the origin cannot start.
#[derive(Debug, Error)]
pub enum OriginError {
    /// An address is taken or is not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No thread, runtime or timer could be made.
    #[error("cannot start the origin's threads")]
    Start(#[source] io::Error),
}

/// A running origin; it stops when it is dropped.
#[derive(Debug)]
pub struct Origin {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Origin {
    /// Binds all addresses and starts the threads; when it returns, connections are accepted.
    ///
    /// # Errors
    /// See [`OriginError`].
    pub fn start(config: &OriginConfig) -> Result<Self, OriginError> {
        let bind = |address: &SocketAddr| {
            listener(*address).map_err(|source| OriginError::Listen { address: *address, source })
        };
        let listeners = config.listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners
            .iter()
            .map(std::net::TcpListener::local_addr)
            .collect::<io::Result<_>>()
            .map_err(OriginError::Start)?;
        let (stop, stopped) = watch::channel(false);
        let (gates, streams) = (Arc::<Gates>::default(), Arc::<AtomicU64>::default());
        let (mut senders, mut threads) = (Vec::new(), Vec::new());
        let mut spawn = |name: String, body: Box<dyn FnOnce() -> io::Result<()> + Send>| {
            threads.push(std::thread::Builder::new().name(name).spawn(body).map_err(OriginError::Start)?);
            Ok::<_, OriginError>(())
        };
        for number in 0..config.threads.max(1) {
            let (sender, accepted) = mpsc::unbounded_channel();
            senders.push(sender);
            let (gates, streams, stopped) = (Arc::clone(&gates), Arc::clone(&streams), stopped.clone());
            spawn(format!("origin-{number}"), Box::new(move || serve_thread(gates, streams, accepted, stopped)))?;
        }
        spawn("origin-accept".to_owned(), Box::new(move || accept_thread(listeners, senders, stopped)))?;
        Ok(Self { addresses, stop, threads })
    }

    /// The addresses listened on, with their real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn block_on_local(future: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(future))
}

fn accept_thread(
    listeners: Vec<std::net::TcpListener>,
    senders: Vec<mpsc::UnboundedSender<std::net::TcpStream>>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    block_on_local(async move {
        let senders = Rc::new(senders);
        for listener in listeners {
            tokio::task::spawn_local(accept(TcpListener::from_std(listener)?, Rc::clone(&senders)));
        }
        let _ = stopped.wait_for(|stop| *stop).await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, senders: Rc<Vec<mpsc::UnboundedSender<std::net::TcpStream>>>) {
    for sender in senders.iter().cycle() {
        let stream = loop {
            match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        };
        if sender.send(stream).is_err() {
            return;
        }
    }
}

fn serve_thread(
    gates: Arc<Gates>,
    streams: Arc<AtomicU64>,
    mut accepted: mpsc::UnboundedReceiver<std::net::TcpStream>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    block_on_local(async move {
        let timer = Timer::new()?;
        tokio::task::spawn_local(Rc::clone(&timer).drive());
        let thread = Rc::new(ThreadContext { timer, gates, scratch: RefCell::default(), streams });
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
                Some(io) = accepted.recv() => {
                    tokio::task::spawn_local(connection(TcpStream::from_std(io)?, Rc::clone(&thread)));
                }
            }
        }
    })
}

/// Serves the pages of one connection. A stream gets a task of its own, without what reading requests needs.
async fn connection(mut io: TcpStream, thread: Rc<ThreadContext>) {
    let _ = io.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        let request = match request::read(&mut io, &mut buffer).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => return refuse(io, &error).await,
        };
        let page = match (request.path.as_str(), request.method.as_str()) {
            ("/events", "GET" | "HEAD" | "POST") => match StreamSpec::parse(&request.query) {
                Ok(spec) => {
                    let stream = new_stream(io, Box::new(spec), &request, &thread);
                    tokio::task::spawn_local(async move { stream::serve(stream, &thread).await });
                    return;
                }
                Err(error) => Page::text(400, &error.to_string()),
            },
            _ => pages::answer(&request, &thread.gates),
        };
        if send_page(&mut io, &page, &request).await.is_err() || !request.keep_alive {
            return;
        }
    }
}

fn new_stream(io: TcpStream, spec: Box<StreamSpec>, request: &Request, thread: &ThreadContext) -> Stream {
    let number = thread.streams.fetch_add(1, Ordering::Relaxed) + 1;
    let (already, may_chunk) = (request.last_event_id.unwrap_or(0), !request.is_http10);
    Stream { io, spec, number, already, may_chunk, is_head_only: request.method == "HEAD" }
}

async fn refuse(mut io: TcpStream, error: &RequestError) {
    let Some(status) = error.status() else { return };
    let page = Page::text(status, &error.to_string());
    let Content::Bytes(body) = &page.content else { return };
    let linger = async {
        io.write_all(&[page.head(false).as_bytes(), body].concat()).await?;
        io.shutdown().await?;
        // What is still being sent is read: otherwise the connection is reset, and the answer may be lost with it.
        while io.read(&mut [0; 4096]).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    let _ = tokio::time::timeout(LINGER, linger).await;
}

async fn send_page(io: &mut TcpStream, page: &Page, request: &Request) -> io::Result<()> {
    let head = page.head(request.keep_alive);
    if request.method == "HEAD" {
        return io.write_all(head.as_bytes()).await;
    }
    match &page.content {
        Content::Bytes(body) => io.write_all(&[head.as_bytes(), body].concat()).await,
        Content::Filler(bytes) => {
            io.write_all(head.as_bytes()).await?;
            let mut left = *bytes;
            while left > 0 {
                let taken = left.min(FILLER.len() as u64);
                io.write_all(&FILLER[..taken as usize]).await?;
                left -= taken;
            }
            Ok(())
        }
    }
}
