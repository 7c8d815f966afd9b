//! The load of a turn, which is the same for every target, and where targets come from.

use std::time::Duration;

use crate::plan::Ramp;
use crate::protocol::ClientProtocol;
use crate::target::{OriginSetup, Service, StackConfig, Target};
use crate::url::Url;

/// Between opening the gate and the first event: time to wake every stream.
pub(super) const GATE_LEAD: Duration = Duration::from_secs(1);
/// What an opening as fast as possible is reckoned with, for the estimate.
const USUAL_OPENINGS_PER_SECOND: u64 = 3000;

/// The load, the same for every target.
#[derive(Debug, Clone, Default)]
pub(in crate::commands) struct Load {
    /// Streams at the lower end of the memory slope.
    pub(in crate::commands) low: u64,
    /// All streams.
    pub(in crate::commands) streams: u64,
    /// The protocol of the clients.
    pub(in crate::commands) client_protocol: ClientProtocol,
    /// Connections opened per second; 0 for as fast as it goes.
    pub(in crate::commands) ramp_per_second: u64,
    /// How long memory is left alone before it is read.
    pub(in crate::commands) settle: Duration,
    /// How long all streams are silent.
    pub(in crate::commands) hold: Duration,
    /// Whether that is long enough for heartbeats.
    pub(in crate::commands) expects_heartbeats: bool,
    /// Time between two events of a stream.
    pub(in crate::commands) interval: Duration,
    /// Events per stream.
    pub(in crate::commands) events: u64,
    /// Bytes of data per event.
    pub(in crate::commands) size: u64,
    /// `staggered` or `broadcast`.
    pub(in crate::commands) schedule: String,
    /// Client processes.
    pub(in crate::commands) processes: u64,
    /// Origin processes and their threads.
    pub(in crate::commands) origins: OriginSetup,
    /// Streams to open and close afterwards.
    pub(in crate::commands) churn: u64,
    /// Streams whose clients never read, afterwards.
    pub(in crate::commands) stalled: u64,
    /// How long beyond its plan a ramp may take, and events may be on their way.
    pub(in crate::commands) patience: Duration,
}

/// Where targets come from.
#[derive(Debug, Clone)]
pub(in crate::commands) enum Source {
    /// They are started for each turn.
    Start(StackConfig),
    /// They run already, with this origin behind them.
    Attach {
        /// Each target's.
        services: Vec<Service>,
        /// The origin.
        origin: Url,
    },
}

/// One target, about to be measured.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Turn<'a> {
    pub(in crate::commands) target: Target,
    pub(in crate::commands) source: &'a Source,
    pub(in crate::commands) load: &'a Load,
}

impl Load {
    /// How long a turn takes, roughly.
    pub(in crate::commands) fn length(&self) -> Duration {
        let rate = if self.ramp_per_second == 0 { USUAL_OPENINGS_PER_SECOND } else { self.ramp_per_second };
        Duration::from_secs((self.streams + self.churn) / rate)
            + self.settle * 6
            + self.hold
            + GATE_LEAD
            + self.interval * u32::try_from(self.events + 1).unwrap_or(u32::MAX)
    }

    /// How long memory is left alone once all streams are closed: targets give it back when they have nothing else to do.
    pub(super) fn closed_settle(&self) -> Duration {
        self.settle * 2
    }

    pub(super) fn ramp(&self) -> Ramp {
        match self.ramp_per_second {
            0 => Ramp::Over(Duration::ZERO),
            rate => Ramp::PerSecond(rate as f64),
        }
    }

    pub(super) fn path(&self, gate: &str) -> String {
        let Self { interval, size, events, schedule, .. } = self;
        let (us, first) = (interval.as_micros(), self.first());
        format!("/events?gate={gate}&interval={us}us&size={size}&count={events}&then=hold&schedule={schedule}{first}")
    }

    pub(super) fn silent_path(&self) -> String {
        format!("/events?silent{}", self.first())
    }

    /// What a stream begins with. Over TLS and HTTP/2 nginx keeps a response head until data follows it (seen with 1.22.1): one
    /// that is silent from the start would not open.
    fn first(&self) -> &'static str {
        if self.client_protocol.protocol.is_http2() { "&retry=3s" } else { "" }
    }
}
