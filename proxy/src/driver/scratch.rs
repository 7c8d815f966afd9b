//! One pair of buffers per worker thread, lent to the stream that is being driven.

use std::cell::RefCell;

/// Size of one read from an upstream, in bytes. Also the bound on what a stream keeps while its client is behind,
/// before framing.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// The buffers: one to read into, one to collect what is to be written.
pub(super) struct Scratch {
    pub(super) input: Box<[u8]>,
    pub(super) output: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { input: vec![0; READ_BYTES].into_boxed_slice(), output: Vec::with_capacity(READ_BYTES) }
    }
}

/// Lends this thread's buffers. `output` is empty on entry; its capacity is kept within bounds on exit. A nested call
/// gets its own buffers: a stream whose client is read through a session reads while it is being driven.
pub(super) fn with<T>(borrow: impl FnOnce(&mut Scratch) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            scratch.output.clear();
            let result = borrow(&mut scratch);
            scratch.output.clear();
            // One byte per chunk makes six bytes of output for each byte of input: rare, and not worth keeping.
            scratch.output.shrink_to(2 * READ_BYTES);
            result
        }
        Err(_) => borrow(&mut Scratch::new()),
    })
}

/// Lends this thread's buffer for one read from any connection.
pub(crate) fn with_read_buffer<T>(borrow: impl FnOnce(&mut [u8]) -> T) -> T {
    with(|scratch| borrow(&mut scratch.input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_call_gets_its_own_buffers() {
        with(|outer| {
            outer.output.push(1);
            with(|inner| assert!(inner.output.is_empty()));
            assert_eq!(outer.output, [1]);
        });
    }
}
