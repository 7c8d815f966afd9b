//! Where a heartbeat may stand: the scanner agrees with a reading of everything so far, and whatever is put in at such a
//! place changes no event of the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_proxy::sse::{Boundary, Heartbeat, HeartbeatStyle};
use sse_proxy_fuzz::{cut, whatwg};

fuzz_target!(|input: (&[u8], [u8; 3], bool)| {
    let (stream, sizes, silent) = input;
    let style = if silent { HeartbeatStyle::Comment } else { HeartbeatStyle::Event };
    let heartbeat = Heartbeat::new(style, "HEARTBEAT").expect("valid");
    let (mut boundary, mut events, mut at) = (Boundary::default(), 0, 0);
    let undisturbed = whatwg::events(stream);
    for part in cut(stream, &sizes) {
        events += u64::from(boundary.scan(part).events);
        at += part.len();
        let (prefix, rest) = stream.split_at(at);
        let shown = stream.escape_ascii();
        assert_eq!((boundary.is_boundary(), events), whatwg::boundary(prefix), "after {at} bytes of {shown}");
        if boundary.is_boundary() {
            let mut disturbed = whatwg::events(&[prefix, heartbeat.bytes(), rest].concat());
            disturbed.retain(|event| silent || event.data != b"HEARTBEAT");
            assert_eq!(disturbed, undisturbed, "with a heartbeat after {at} bytes of {shown}");
        }
    }
});
