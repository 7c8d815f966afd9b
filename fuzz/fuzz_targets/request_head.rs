//! Requests as they are forwarded: whatever the proxy takes and sends on, on either path, is one message that a strict
//! reader takes for what a careful reader takes the client's for: method, target, host, body, and no field put in or let by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_proxy::takeover::fuzzing::{CLIENT, request_by_pingora, request_by_reactor};
use sse_proxy_fuzz::http1::{self, Framing, Reading, Request, all};

/// Fields that the proxy writes itself, whatever the client's are.
const OWN: [&str; 8] =
    ["connection", "content-length", "cookie", "host", "incremental", "transfer-encoding", "via", "x-real-ip"];

/// Fields that belong to one connection.
const HOP_BY_HOP: [&str; 6] = ["keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];

/// Fields of the message itself, which `Connection` cannot take away.
const KEPT: [&str; 6] = ["host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-forwarded-proto"];

fuzz_target!(|bytes: &[u8]| {
    for (path, forwarded) in [("reactor", request_by_reactor(bytes)), ("Pingora", request_by_pingora(bytes))] {
        let Some(forwarded) = forwarded else { continue };
        if let Err(what) = check(bytes, &forwarded) {
            panic!("{path}: {what}\n received {}\nforwarded {}", bytes.escape_ascii(), forwarded.escape_ascii());
        }
    }
});

fn check(received: &[u8], forwarded: &[u8]) -> Result<(), String> {
    let made = http1::request(forwarded, Reading::Made).map_err(|refusal| format!("made: {refusal}"))?;
    let came = http1::request(received, Reading::Received).map_err(|refusal| format!("taken: {refusal}"))?;
    if (&made.method, &made.target) != (&came.method, &came.target) {
        return Err("another method or target".into());
    }
    let named = came.host.as_deref().or_else(|| all(&came.fields, "host").first().copied());
    if named.is_some_and(|host| all(&made.fields, "host") != [host]) {
        return Err("another host".into());
    }
    body(&came, &made, forwarded)?;
    fields(&came, &made)
}

fn body(came: &Request<'_>, made: &Request<'_>, forwarded: &[u8]) -> Result<(), String> {
    let (sent, passed) = (http1::body(&came.framing, came.rest), http1::body(&made.framing, made.rest));
    if sent.is_none() || sent != passed {
        return Err("another body".into());
    }
    // What follows the body would be another request to the upstream.
    let whole = match made.framing {
        Framing::Chunked => made.rest.ends_with(b"0\r\n\r\n"),
        _ => Some(made.rest) == passed.as_deref(),
    };
    if whole { Ok(()) } else { Err(format!("{} bytes in all, more than one message", forwarded.len())) }
}

fn fields(came: &Request<'_>, made: &Request<'_>) -> Result<(), String> {
    let named: Vec<String> = http1::list(&came.fields, "connection")
        .into_iter()
        .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
        .filter(|name| !KEPT.contains(&name.as_str()))
        .collect();
    let mut left = came.fields.clone();
    for (name, value) in &made.fields {
        let shown = format!("{name}: {}", value.escape_ascii());
        if HOP_BY_HOP.contains(&name.as_str()) {
            return Err(format!("of the client's connection: {shown}"));
        }
        // Some backends take the one for the other.
        if ["transfer-encoding", "content-length", "host"].contains(&name.replace('_', "-").as_str())
            && name.contains('_')
        {
            return Err(format!("a name like one that frames: {shown}"));
        }
        if OWN.contains(&name.as_str()) || name.starts_with("x-forwarded-") || name == "forwarded" {
            continue;
        }
        if named.contains(name) {
            return Err(format!("named by Connection: {shown}"));
        }
        match left.iter().position(|field| field == &(name.clone(), value.clone())) {
            Some(at) => drop(left.swap_remove(at)),
            None => return Err(format!("not of the client: {shown}")),
        }
    }
    let cookie = all(&came.fields, "cookie").join(&b"; "[..]);
    if !named.contains(&"cookie".to_owned()) && all(&made.fields, "cookie").concat() != cookie {
        return Err("another cookie".into());
    }
    let hops = all(&made.fields, "x-forwarded-for");
    if hops.len() != 1 || !hops[0].ends_with(CLIENT.to_string().as_bytes()) {
        return Err("the client is not named".into());
    }
    Ok(())
}
