//! What the targets compare the proxy with: readings of the same bytes that share nothing with it. They look at everything at
//! once, by searching and splitting, where the proxy takes what comes byte by byte.

pub mod chunked;
pub mod http1;
pub mod whatwg;

/// `bytes` cut at these places, taken round and round.
pub fn cut<'a>(bytes: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().map(|size| usize::from(*size)).filter(|size| *size > 0).cycle();
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts
}
