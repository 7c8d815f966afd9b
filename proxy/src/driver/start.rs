//! What a driver needs to know of a stream whose response head has been read.

use std::sync::Arc;

use super::observer::Route;
use super::stream_info::StreamInfo;
use crate::stream::Opening;

/// A stream whose response head has been read.
#[derive(Debug)]
pub struct Start {
    /// How the two bodies are framed and what rules hold.
    pub opening: Opening,
    /// Bytes for the client that go before the body: its response head, where that has not been written.
    pub unsent: Vec<u8>,
    /// Body bytes that came with the upstream's head.
    pub leftover: Vec<u8>,
    /// The route that it is counted in.
    pub route: Arc<Route>,
    /// For the log.
    pub info: StreamInfo,
}
