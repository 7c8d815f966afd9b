//! What the origin serves besides streams: a page that shows one, and pages like those of a usual backend.

use super::gate::Gates;
use super::request::Request;

const MAX_LARGE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// The example page: a link to examples/clients/browser, so that there is one copy of it.
const INDEX: &str = include_str!("index.html");

/// A response with a body of known length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Further header lines, each with its line end.
    pub(super) headers: &'static str,
    pub(super) content: Content,
}

/// A page's body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// This many times the letter `x`, made while it is sent.
    Filler(u64),
}

impl Page {
    /// A line of text, as for errors.
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, headers: "", content: Content::Bytes(body) }
    }

    pub(super) fn content_bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(body) => body.len() as u64,
            Content::Filler(bytes) => *bytes,
        }
    }

    /// The response head.
    pub(super) fn head(&self, keep_alive: bool) -> String {
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: {}\r\n\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.content_bytes(),
            self.headers,
            if keep_alive { "keep-alive" } else { "close" },
        )
    }
}

/// Answers everything that is not a stream.
pub(super) fn answer(request: &Request, gates: &Gates) -> Page {
    match (request.method.as_str(), request.path.as_str()) {
        ("OPTIONS", "/events") => Page {
            headers: "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET, POST\r\nAccess-Control-Allow-Headers: *\r\n",
            ..Page::new(204, "text/plain", Vec::new())
        },
        ("POST" | "PUT", "/echo") => Page::new(200, "application/octet-stream", request.body.clone()),
        (_, "/echo") => Page::text(405, "POST a body to /echo"),
        ("POST", "/gate") => open_gate(&request.query, gates),
        (_, "/events") => {
            Page { headers: "Allow: GET, HEAD, OPTIONS, POST\r\n", ..Page::text(405, "GET or POST /events") }
        }
        (_, "/") => Page::new(200, "text/html; charset=utf-8", INDEX.into()),
        (_, "/json") => Page::new(200, "application/json", b"{\"message\":\"hello\",\"items\":[1,2,3]}\n".to_vec()),
        (_, "/healthz") => Page::text(200, "ok"),
        (_, "/redirect") => Page { headers: "Location: /json\r\n", ..Page::text(302, "see /json") },
        (_, "/large") => match parameter(&request.query, "bytes").and_then(|value| value.parse().ok()) {
            Some(bytes) if bytes <= MAX_LARGE_BYTES => {
                Page { content: Content::Filler(bytes), ..Page::new(200, "application/octet-stream", Vec::new()) }
            }
            _ => Page::text(400, "/large?bytes=N takes a number of at most 17179869184"),
        },
        (_, path) => match path.strip_prefix("/status/").and_then(|status| status.parse::<u16>().ok()) {
            Some(status @ (204 | 304)) => Page::new(status, "text/plain", Vec::new()),
            Some(status @ 200..=599) => Page::text(status, reason(status)),
            _ => Page::text(
                404,
                "no such page; there are / /events /json /echo /status/NNN /redirect /large?bytes=N /healthz",
            ),
        },
    }
}

fn open_gate(query: &str, gates: &Gates) -> Page {
    let at_us = parameter(query, "at").and_then(|value| value.parse().ok());
    match (parameter(query, "name"), at_us) {
        (Some(name), Some(at_us)) => {
            gates.open(name, at_us);
            Page::text(200, "open")
        }
        _ => Page::text(400, "/gate takes name=NAME and at=UNIX_MICROSECONDS"),
    }
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
