//! Integration tests: the real binary over real sockets. One test program, because each links all of Pingora.
#![allow(clippy::duplicate_mod, reason = "the same tests run on both drivers")]
#![allow(unreachable_pub, reason = "a test program has no outside")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where and why")]

mod access_log;
mod admin;
mod allocations;
mod architecture;
mod backends;
mod bad_config;
mod clients;
mod compose;
mod conversations;
mod dashboard;
mod deploy;
mod docs;
mod drain;
mod dual_stack;
mod either_way;
mod embed;
mod ends;
mod every_way;
mod forwarded;
mod from_nginx;
mod http2;
mod http2_limits;
mod in_front;
mod limits;
mod non_streams;
mod on_tasks;
mod opening;
mod pages;
mod passthrough;
mod process_log;
mod real_world;
mod reload;
mod request_heads;
mod requests;
mod support;
mod timeouts;
mod vanished;
