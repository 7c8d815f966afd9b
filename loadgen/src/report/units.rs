//! Numbers as people read them.

/// Microseconds as `850µs`, `12.3ms` or `1.50s`.
#[must_use]
pub fn time_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.2}s", us as f64 / 1e6),
    }
}

/// Bytes as `512 B`, `1.9 KiB`, `4.2 MiB` or `23.5 GiB`.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        size if size < 1024.0 => format!("{bytes:.0} B"),
        size if size < 1024.0 * 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        size if size < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / (1024.0 * 1024.0)),
        _ => format!("{:.1} GiB", bytes / (1024.0 * 1024.0 * 1024.0)),
    }
}

/// A number of things: `1 round`, `2 rounds`.
#[must_use]
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_grow_with_the_number() {
        assert_eq!([time_us(999), time_us(12_340), time_us(1_500_000)], ["999µs", "12.3ms", "1.50s"]);
        assert_eq!([bytes(512.0), bytes(1945.6), bytes(4_404_019.0)], ["512 B", "1.9 KiB", "4.2 MiB"]);
        assert_eq!(bytes(25_276_972_236.8), "23.5 GiB");
        assert_eq!([count(0, "round"), count(1, "round"), count(2, "round")], ["0 rounds", "1 round", "2 rounds"]);
    }
}
