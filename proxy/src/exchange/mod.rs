//! The phase from a routed request to its response head, as a pure state machine: bytes, times and events go in, actions
//! and a deadline come out.
//!
//! It opens no socket, reads no clock and knows no runtime. Two drivers do the I/O: `takeover/pending.rs` on a reactor's
//! thread and `takeover/exchange.rs` in a task.

mod clocks;
mod core;
#[cfg(test)]
mod core_random_tests;
#[cfg(test)]
mod core_tests;
mod head_reader;
mod request;
mod response;
mod stream_head;
mod upload;

pub(crate) use self::core::{Action, Exchange, Rules, connect_error};
pub(crate) use head_reader::HeadReader;
pub(crate) use request::{ClientHop, expects_continue, request_wire, upstream_request};
#[cfg(feature = "fuzzing")]
pub(crate) use response::HeadKind;
pub(crate) use response::{BodyStart, takes_interim};
pub(crate) use stream_head::{finish_stream_head, opening, stream_framing};
pub(crate) use upload::{Need, Upload, WaitsFor};
