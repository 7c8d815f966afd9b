//! Prepares a job: the TLS configuration, and each request in the form of its protocol.

use thiserror::Error;

use super::job::{Destination, Job};
use crate::client::http2::{self, RequestError};
use crate::client::tls::{Connector, TlsError, server_name};

/// A job, ready to be done.
#[derive(Debug)]
pub struct Prepared {
    /// For connections over TLS.
    pub(super) tls: Option<Connector>,
    /// One for each destination.
    pub(super) requests: Vec<Message>,
}

/// A request in the form of its protocol.
#[derive(Debug)]
pub(super) enum Message {
    Http1(Vec<u8>),
    Http2(Box<http2::Request>),
}

/// Why a job cannot be done.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The request does not fit the protocol.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Prepared {
    /// Reads the certificates to trust, and writes the requests.
    ///
    /// # Errors
    /// What of the job makes no sense, or cannot be read.
    pub fn new(job: &Job) -> Result<Self, PrepareError> {
        let protocol = job.protocol;
        let tls = match protocol.has_tls() {
            true => Some(Connector::new(&job.trust, protocol.is_http2())?),
            false => None,
        };
        if tls.is_some() {
            job.destinations.iter().try_for_each(|to| server_name(&to.server_name).map(drop))?;
        }
        let scheme = protocol.scheme().name();
        let message = |destination: &Destination| match protocol.is_http2() {
            true => Ok(Message::Http2(Box::new(http2::Request::new(&destination.request, scheme)?))),
            false => Ok(Message::Http1(destination.request.to_http1())),
        };
        let requests = job.destinations.iter().map(message).collect::<Result<_, PrepareError>>()?;
        Ok(Self { tls, requests })
    }
}
