//! What the fuzz targets reach beside the public API: heads as they are forwarded, on both request paths, without sockets.
//! Only with the feature `fuzzing`; nothing here is part of the library.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};

use pingora::http::{Method, RequestHeader};
use pingora::protocols::http::ServerSession;

use super::stand_in::Replay;
use super::whole_request::WholeRequest;
use crate::exchange::{BodyStart, ClientHop, HeadKind, HeadReader, request_wire, upstream_request};
use crate::headers::{self, PageFraming};
use crate::wire::body::Body;
use crate::wire::chunked;
use crate::wire::request::{HeadLimits, MAX_FIELDS, RequestHead};
use crate::wire::request_body::RequestBody;

/// The peer of every connection here.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Larger than what the fuzz targets give as a response head.
const LARGEST_HEAD: usize = 1 << 20;

/// What a reactor sends to the upstream of a stream for these bytes of a client, head and body. `None` where it leaves
/// them to Pingora.
pub fn request_by_reactor(bytes: &[u8]) -> Option<Vec<u8>> {
    let WholeRequest { mut head, body, .. } = WholeRequest::parse(bytes, &HeadLimits::default())?;
    headers::normalize_request(&mut head);
    let mut wire = upstream_head(&head, !body.is_empty(), Kind::Stream)?.1;
    wire.extend_from_slice(&body);
    Some(wire)
}

/// One request at the front of `bytes` as [`crate::driver`] gives it to Pingora's session: checked, and whole.
fn as_given_to_pingora(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let head = RequestHead::parse(bytes, &HeadLimits::default(), &mut fields).ok()??;
    let (mut body, rest) = (RequestBody::new(head.body), &bytes[head.length..]);
    let length = body.take(rest).ok().filter(|_| body.is_done())?;
    let mut given = Vec::new();
    head.write(&mut given);
    given.extend_from_slice(&rest[..length]);
    Some(given)
}

/// What a request is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Page,
}

/// What goes to the upstream for these bytes where Pingora's session reads them. `None` where the request is refused, is
/// incomplete, or is one that is never taken over.
pub fn request_by_pingora(bytes: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let given = as_given_to_pingora(bytes)?;
    thread_local! {
        static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
        );
    }
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let mut session = ServerSession::new_http1(Box::new(Replay::of(given.into())));
            if !session.read_request().await.ok()? {
                return None;
            }
            headers::normalize_request(session.req_header_mut());
            headers::drop_ignored_upgrade(session.req_header_mut());
            if matches!(session.req_header().method, Method::HEAD | Method::CONNECT) || session.is_upgrade_req() {
                return None;
            }
            let has_body = !session.is_body_empty();
            let (request, mut wire) = upstream_head(session.req_header(), has_body, kind)?;
            let chunked = request.headers.contains_key("transfer-encoding");
            while let Some(bytes) = session.read_request_body().await.ok()? {
                match chunked {
                    true => chunked::encode(&bytes, &mut wire),
                    false => wire.extend_from_slice(&bytes),
                }
            }
            if chunked {
                wire.extend_from_slice(chunked::LAST_CHUNK);
            }
            Some(wire)
        })
    })
}

fn upstream_head(request: &RequestHeader, has_body: bool, kind: Kind) -> Option<(RequestHeader, Vec<u8>)> {
    let trusted_proxies = headers::TrustedProxies::default();
    let hop = ClientHop { address: Some(CLIENT), tls: false, trusted_proxies: &trusted_proxies };
    let upstream =
        upstream_request(request.clone(), kind == Kind::Stream, has_body, Some("upstream"), &hop, None).ok()?;
    let wire = Vec::from(request_wire(&upstream).ok()?);
    Some((upstream, wire))
}

/// What a client gets for the heads of an upstream's answer.
pub struct ForwardedResponse {
    /// Interim responses, then the final one.
    pub heads: Vec<Vec<u8>>,
    /// Whether the answer is carried as an event stream.
    pub is_stream: bool,
    /// How the body is delimited, if the answer has one.
    pub body: Option<Body>,
    /// What came with the head, undecoded.
    pub leftover: Vec<u8>,
}

/// What a client gets for these bytes of an upstream. `None` where they hold no final head, or one that is refused.
pub fn response(bytes: &[u8]) -> Option<ForwardedResponse> {
    let mut reader = HeadReader::new(LARGEST_HEAD);
    reader.feed(bytes);
    let mut heads = Vec::new();
    let mut write = |head: &pingora::http::ResponseHeader| {
        let mut wire = Vec::new();
        headers::write_response(head, &mut wire);
        heads.push(wire);
    };
    loop {
        let mut head = reader.take().ok()??;
        match HeadKind::of(&head) {
            HeadKind::Continue => {}
            HeadKind::Switching => return None,
            HeadKind::Interim => {
                headers::interim_response(&mut head);
                write(&head);
            }
            HeadKind::Final => {
                let beginning = BodyStart::of(&head, reader, false, true).ok()?;
                if beginning.is_stream {
                    headers::stream_response(&mut head, true).ok()?;
                } else {
                    let framing = match (beginning.has_body, &beginning.body) {
                        (false, _) => PageFraming::NoBody,
                        (true, Body::Length(length)) => PageFraming::Length(*length),
                        (true, _) => PageFraming::Chunked,
                    };
                    let trailers = beginning.has_body && matches!(beginning.body, Body::Chunked(_));
                    headers::page_response(&mut head, framing, trailers).ok()?;
                }
                write(&head);
                return Some(ForwardedResponse {
                    heads,
                    is_stream: beginning.is_stream,
                    body: beginning.has_body.then_some(beginning.body),
                    leftover: beginning.leftover,
                });
            }
        }
    }
}
