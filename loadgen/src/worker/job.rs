//! The messages between a worker and its fleet: job, commands, reports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::tls::Trust;
use crate::plan::Ramp;
use crate::protocol::Protocol;
use crate::record::{Counts, Record};
use crate::wire::request::Request;

/// All a worker needs to know to open its share of the streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Where to connect to, with the request to send there.
    pub destinations: Vec<Destination>,
    /// Where to connect from; empty for the system's choice.
    pub sources: Vec<IpAddr>,
    /// What is spoken with all of them.
    pub protocol: Protocol,
    /// How many streams share a connection; 1 unless the protocol lets them.
    pub streams_per_connection: u64,
    /// Which certificates are trusted.
    pub trust: Trust,
    /// How long connecting may take, handshakes included.
    pub connect_timeout: Duration,
    /// Timeout of the response head.
    pub head_timeout: Duration,
    /// How many streams may be opening at once.
    pub in_flight: usize,
    /// The event the streams continue after (a `Last-Event-ID` header); 0 for none.
    pub already: u64,
    /// This worker's number.
    pub worker: u64,
    /// How many workers there are: this one opens every nth stream.
    pub workers: u64,
}

/// One host and the request to send there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Its addresses, at least one; the first that accepts is taken.
    pub addresses: Vec<SocketAddr>,
    /// The name that the certificate must be valid for, with TLS.
    pub server_name: String,
    /// The complete request.
    pub request: Request,
}

/// A command to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Open further streams: numbers `from` to `to` of all workers together, of which this one takes its share.
    Open {
        /// The first number.
        from: u64,
        /// One past the last.
        to: u64,
        /// How they are spread over time.
        ramp: Ramp,
    },
    /// Stop and report. Each stream should have had `expected` events by now, if that is known.
    Finish {
        /// Events per stream.
        expected: Option<u64>,
    },
}

/// A report of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Counters so far, several times a second.
    Progress(Snapshot),
    /// Everything, at the end.
    Finished(Box<Record>),
}

/// Counters of a worker at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, Unix µs.
    pub at_us: u64,
    /// CPU time of the worker's thread so far.
    pub cpu_us: u64,
    /// Counters so far.
    pub counts: Counts,
    /// Streams that failed or ended.
    pub ended: u64,
    /// When the latest range of connections was opened or had failed to the last, Unix µs; 0 before the first.
    #[serde(default)]
    pub opened_us: u64,
}

impl Job {
    /// The share of worker `worker` out of `workers`.
    #[must_use]
    pub fn for_worker(&self, worker: u64, workers: u64) -> Self {
        let in_flight = self.in_flight.div_ceil(workers as usize);
        Self { worker, workers, in_flight, ..self.clone() }
    }
}
