//! When a stream's first event is due; every later one is due one interval after the one before, however late that was sent.

use super::spec::{Schedule, StreamSpec};

/// The golden ratio's fraction in 64 bits: multiples of it spread evenly however many streams there turn out to be.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Due time of the first event of `stream`, Unix µs, at `now_us`.
pub(super) fn first_due_us(spec: &StreamSpec, stream: u64, now_us: u64) -> u64 {
    let earliest = now_us.saturating_add(spec.start_after_us).max(spec.start_at_us);
    let phase = match spec.schedule {
        Schedule::Staggered => phase_us(stream, spec.interval_us),
        Schedule::Broadcast => 0,
    };
    let into_interval = earliest % spec.interval_us;
    let wait = (phase + spec.interval_us - into_interval) % spec.interval_us;
    earliest.saturating_add(wait)
}

fn phase_us(stream: u64, interval_us: u64) -> u64 {
    let fraction = stream.wrapping_mul(GOLDEN);
    ((u128::from(fraction) * u128::from(interval_us)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: u64 = 1_795_000_000_123_456;

    fn spec(schedule: Schedule) -> StreamSpec {
        StreamSpec { schedule, ..StreamSpec::default() }
    }

    #[test]
    fn broadcast_streams_share_the_ticks_of_the_wall_clock() {
        for stream in 0..100 {
            assert_eq!(first_due_us(&spec(Schedule::Broadcast), stream, NOW_US), 1_795_000_001_000_000);
        }
    }

    #[test]
    fn staggered_streams_fill_the_interval_evenly() {
        for streams in [10_u64, 1000, 5000] {
            let mut slots = vec![0; 10];
            for stream in 0..streams {
                let due = first_due_us(&spec(Schedule::Staggered), stream, NOW_US);
                assert!((NOW_US..NOW_US + 1_000_000).contains(&due));
                slots[(due % 1_000_000 / 100_000) as usize] += 1;
            }
            let (least, most) = (slots.iter().min(), slots.iter().max());
            assert!(
                least >= Some(&(streams / 10).saturating_sub(2)) && most <= Some(&(streams / 10 + 2)),
                "{streams}: {slots:?}"
            );
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let later = StreamSpec { start_after_us: 3_000_000, ..spec(Schedule::Staggered) };
        let fixed = StreamSpec { start_at_us: NOW_US + 60_000_000, ..spec(Schedule::Staggered) };
        for stream in 0..100 {
            assert!(first_due_us(&later, stream, NOW_US) >= NOW_US + 3_000_000);
            assert!((60_000_000..61_000_000).contains(&(first_due_us(&fixed, stream, NOW_US) - NOW_US)));
        }
    }
}
