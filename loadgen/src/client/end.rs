//! Why a stream is no longer open, or never was.

use std::fmt;
use std::io;

/// The one reason a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The body ended as its framing says.
    CleanEnd,
    /// The body ended cleanly, but inside a record.
    EndInsideRecord,
    /// The connection ended before the body did.
    Truncated,
    /// The connection was reset.
    Reset,
    /// Nobody listens.
    Refused,
    /// There is no free source port.
    NoPort,
    /// There is no free file descriptor.
    NoDescriptor,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The answer's head did not come in time.
    HeadTimeout,
    /// Another status than 200.
    Status(u16),
    /// A 200 of another media type.
    NotEventStream,
    /// Not HTTP, or broken chunked coding.
    Malformed,
    /// Any other error of the system.
    Io,
}

impl EndReason {
    /// Reads the reason out of a system error.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        use rustix::io::Errno;

        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Self::NoPort,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ if is(Errno::MFILE) || is(Errno::NFILE) => Self::NoDescriptor,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match self {
            Self::CleanEnd => "clean_end",
            Self::EndInsideRecord => "end_inside_record",
            Self::Truncated => "truncated",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::NoPort => "no_port",
            Self::NoDescriptor => "no_descriptor",
            Self::ConnectTimeout => "connect_timeout",
            Self::HeadTimeout => "head_timeout",
            Self::Status(status) => return write!(formatter, "status_{status}"),
            Self::NotEventStream => "not_event_stream",
            Self::Malformed => "malformed",
            Self::Io => "io_error",
        };
        formatter.write_str(label)
    }
}
