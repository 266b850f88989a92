//! The figures that the page shows of each command: their keys, names and units, and how numbers are written.
//!
//! Owns all formatting of numbers on the page: three significant digits in text, one unit and one number of decimals
//! per column of a table, and every digit in what shows when the pointer rests on a mark.

/// A figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Path in a report; see `outcome`.
    pub(crate) key: &'static str,
    /// For people.
    pub(crate) label: &'static str,
    /// Of its values.
    pub(crate) unit: Unit,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Microseconds.
    Micros,
    /// Something per second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// A plain number.
    Count,
}

const fn metric(key: &'static str, label: &'static str, unit: Unit) -> Metric {
    Metric { key, label, unit }
}

const FANOUT: &[Metric] = &[
    metric("server_cpu_us_per_delivery", "Server CPU per delivery", Unit::Micros),
    metric("deliveries_per_second", "Deliveries", Unit::PerSecond),
    metric("latency_us.p50", "Latency p50", Unit::Micros),
    metric("latency_us.p99", "Latency p99", Unit::Micros),
    metric("latency_us.p999", "Latency p99.9", Unit::Micros),
    metric("latency_us.max", "Latency max", Unit::Micros),
    metric("last_subscriber_us.p50", "Last subscriber p50", Unit::Micros),
    metric("last_subscriber_us.p99", "Last subscriber p99", Unit::Micros),
    metric("messages_per_receive_call", "Messages per receive call", Unit::Count),
    metric("server.cores", "Server cores", Unit::Count),
    metric("server.rss_anon_bytes", "Server memory", Unit::Bytes),
    metric("machine.tcp_memory_bytes", "TCP memory", Unit::Bytes),
];

const ECHO: &[Metric] = &[
    metric("server_cpu_us_per_message", "Server CPU per message", Unit::Micros),
    metric("messages_per_second", "Messages", Unit::PerSecond),
    metric("latency_us.p50", "Latency p50", Unit::Micros),
    metric("latency_us.p99", "Latency p99", Unit::Micros),
    metric("latency_us.p999", "Latency p99.9", Unit::Micros),
    metric("latency_us.max", "Latency max", Unit::Micros),
    metric("messages_per_receive_call", "Messages per receive call", Unit::Count),
    metric("server.cores", "Server cores", Unit::Count),
    metric("server.rss_anon_bytes", "Server memory", Unit::Bytes),
];

const IDLE: &[Metric] = &[
    metric("server_bytes_per_connection", "Server memory per connection", Unit::Bytes),
    metric("server_cpu_us_per_connection_second", "Server CPU per connection and second", Unit::Micros),
    metric("handshake_us.p50", "Handshake p50", Unit::Micros),
    metric("handshake_us.p99", "Handshake p99", Unit::Micros),
    metric("opened", "Opened", Unit::Count),
    metric("refused", "Refused", Unit::Count),
    metric("reset", "Reset", Unit::Count),
    metric("pings_per_second", "Pings", Unit::PerSecond),
    metric("server.rss_anon_bytes", "Server memory", Unit::Bytes),
    metric("machine.tcp_memory_bytes", "TCP memory", Unit::Bytes),
];

const HANDSHAKES: &[Metric] = &[
    metric("server_cpu_us_per_handshake", "Server CPU per handshake", Unit::Micros),
    metric("handshakes_per_second", "Handshakes", Unit::PerSecond),
    metric("latency_us.p50", "Latency p50", Unit::Micros),
    metric("latency_us.p99", "Latency p99", Unit::Micros),
    metric("latency_us.p999", "Latency p99.9", Unit::Micros),
    metric("latency_us.max", "Latency max", Unit::Micros),
    metric("server.cores", "Server cores", Unit::Count),
];

const TOPICS: &[Metric] = &[
    metric("server_bytes_per_topic", "Server memory per topic", Unit::Bytes),
    metric("server_cpu_us_per_topic", "Server CPU per topic", Unit::Micros),
    metric("topics_per_second", "Topics", Unit::PerSecond),
];

const API: &[Metric] = &[
    metric("server_cpu_us_per_publish", "Server CPU per publish", Unit::Micros),
    metric("publishes_per_second", "Publishes", Unit::PerSecond),
];

const RECOVER: &[Metric] = &[
    metric("server_cpu_us_per_client", "Server CPU per client that came back", Unit::Micros),
    metric("back_us.p99", "Back p99", Unit::Micros),
];

/// What a rate sweep found.
pub(crate) const KNEE: &[Metric] = &[
    metric("knee_rate", "Rate held", Unit::PerSecond),
    metric("knee_p99_us", "Latency p99 at that rate", Unit::Micros),
];

/// The figures of a command, the two that matter most first.
pub(crate) fn of(command: &str) -> &'static [Metric] {
    match command {
        "fanout" => FANOUT,
        "echo" => ECHO,
        "idle" => IDLE,
        "handshakes" => HANDSHAKES,
        "topics" => TOPICS,
        "api" => API,
        "recover" => RECOVER,
        _ => &[],
    }
}

/// The distribution of which a command's percentiles are drawn.
pub(crate) fn latency_of(command: &str) -> &'static str {
    match command {
        "idle" => "handshake_us",
        "recover" => "back_us",
        _ => "latency_us",
    }
}

/// The unit that a key's name tells.
pub(crate) fn unit_of(key: &str) -> Unit {
    let (key, part) = key.rsplit_once('.').filter(|(name, _)| name.ends_with("_us")).unwrap_or((key, ""));
    if matches!(part, "count" | "waiting") {
        Unit::Count
    } else if key.ends_with("_us") || key.contains("_us_per_") {
        Unit::Micros
    } else if key.ends_with("bytes_per_second") {
        Unit::Count
    } else if key.ends_with("_per_second") {
        Unit::PerSecond
    } else if key.ends_with("_bytes") || key.contains("_bytes_") {
        Unit::Bytes
    } else {
        Unit::Count
    }
}

/// Sizes of a unit: the least value for which each is used, what to divide by, its sign.
type Sizes = [(f64, f64, &'static str)];

impl Unit {
    fn sizes(self) -> &'static Sizes {
        match self {
            Self::Micros => &[(1e6, 1e6, "s"), (1e3, 1e3, "ms"), (0.0, 1.0, "µs")],
            Self::PerSecond => &[(1e6, 1e6, "M/s"), (1e3, 1e3, "k/s"), (0.0, 1.0, "/s")],
            Self::Bytes => &[
                (1_073_741_824.0, 1_073_741_824.0, "GiB"),
                (1_048_576.0, 1_048_576.0, "MiB"),
                (10_240.0, 1024.0, "KiB"),
                (0.0, 1.0, "B"),
            ],
            Self::Count => &[(0.0, 1.0, "")],
        }
    }

    fn size(self, value: f64) -> (f64, &'static str) {
        let sizes = self.sizes();
        let (_, by, sign) =
            sizes.iter().find(|(from, ..)| value.abs() >= *from).unwrap_or(&sizes[sizes.len() - 1]);
        (*by, sign)
    }

    /// What the unit is multiplied by where the value is written.
    pub(crate) fn size_of(self, value: f64) -> f64 {
        self.size(value).0
    }

    /// `0.213 µs`, `4.69 M/s`: three significant digits.
    pub(crate) fn text(self, value: f64) -> String {
        let (by, sign) = self.size(value);
        let whole = self == Self::Count && value.fract() == 0.0;
        join(&grouped(value / by, if whole { 0 } else { decimals(value / by) }), sign)
    }

    /// As on an axis: `100 µs`, `2 M/s`, no digits that are not needed.
    pub(crate) fn tick(self, value: f64) -> String {
        let (by, sign) = self.size(value);
        let rounded = format!("{:.4}", value / by);
        join(rounded.trim_end_matches('0').trim_end_matches('.'), sign)
    }

    /// Every digit that means something, in the unit of the document.
    pub(crate) fn exact(self, value: f64) -> String {
        let rounded = format!("{value:.4}");
        let decimals = rounded.trim_end_matches('0').split_once('.').map_or(0, |(_, rest)| rest.len());
        let digits = grouped(value, decimals);
        join(&digits, self.sizes()[self.sizes().len() - 1].2)
    }

    /// One unit for all values of a column, and one number of decimals.
    pub(crate) fn column(self, values: impl IntoIterator<Item = f64>) -> Column {
        let mut values: Vec<f64> = values.into_iter().map(f64::abs).collect();
        values.sort_by(f64::total_cmp);
        let (by, sign) = self.size(values.get(values.len() / 2).copied().unwrap_or(0.0));
        Column { by, sign, decimals: 0 }.within(values)
    }
}

/// How the numbers of a column are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Column {
    by: f64,
    /// The unit, for the head of the column.
    pub(crate) sign: &'static str,
    decimals: usize,
}

impl Column {
    /// The same unit, with decimals for some of the values: three digits of the least, fewer if the
    /// greatest had more than five.
    pub(crate) fn within(self, values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().map(|value| value.abs() / self.by).collect();
        let least = values.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(0.0, f64::max);
        let mut fine = if least.is_finite() { decimals(least) } else { 0 };
        while fine > 0 && greatest >= 10f64.powi(5 - fine as i32) {
            fine -= 1;
        }
        let whole = values.iter().all(|value| value.fract() == 0.0);
        Self { decimals: if whole { 0 } else { fine }, ..self }
    }

    /// The number, without its unit.
    pub(crate) fn text(&self, value: f64) -> String {
        grouped(value / self.by, self.decimals)
    }
}

/// `1.05`: two decimals, fewer where it is large, three where it is small.
pub(crate) fn ratio(value: f64) -> String {
    grouped(value, if value < 0.1 { 3 } else { decimals(value).min(2) })
}

/// Decimals for three significant digits.
fn decimals(value: f64) -> usize {
    match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    }
}

/// With thin spaces between thousands.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    if digits.len() < 5 {
        return text;
    }
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out + rest
}

fn join(number: &str, sign: &str) -> String {
    match sign {
        "" => number.into(),
        "/s" => format!("{number}/s"),
        sign => format!("{number}\u{a0}{sign}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        for (unit, value, text, tick, exact) in [
            (Unit::Micros, 0.2134, "0.213 µs", "0.2134 µs", "0.2134 µs"),
            (Unit::Micros, 0.0, "0 µs", "0 µs", "0 µs"),
            (Unit::Micros, 20_000.0, "20.0 ms", "20 ms", "20\u{202f}000 µs"),
            (Unit::PerSecond, 4_690_123.0, "4.69 M/s", "4.6901 M/s", "4\u{202f}690\u{202f}123/s"),
            (Unit::PerSecond, 134_720.4, "135 k/s", "134.7204 k/s", "134\u{202f}720.4/s"),
            (Unit::PerSecond, 950.0, "950/s", "950/s", "950/s"),
            (Unit::Bytes, 2600.0, "2600 B", "2600 B", "2600 B"),
            (Unit::Bytes, 3.0 * 1_048_576.0, "3.00 MiB", "3 MiB", "3\u{202f}145\u{202f}728 B"),
            (Unit::Count, 2.0, "2", "2", "2"),
            (Unit::Count, 12_345.0, "12\u{202f}345", "12345", "12\u{202f}345"),
        ] {
            let nbsp = |text: &str| text.replace(' ', "\u{a0}");
            assert_eq!(
                [unit.text(value), unit.tick(value), unit.exact(value)],
                [text, tick, exact].map(nbsp)
            );
        }
    }

    #[test]
    fn columns_share_unit_and_decimals() {
        let column = Unit::Micros.column([46.0, 2_300.0, 118_000.0]);
        assert_eq!(column.sign, "ms");
        assert_eq!([46.0, 2_300.0, 118_000.0].map(|us| column.text(us)), ["0.05", "2.30", "118.00"]);
        assert_eq!(column.within([1234.0, 2345.6]).text(1234.0), "1.23");
        assert_eq!(Unit::Count.column([1.0, 100.0]).text(7.0), "7");
        assert_eq!(Unit::Micros.column([]).text(0.0), "0");
    }

    #[test]
    fn ratios() {
        assert_eq!([0.0612, 0.95, 1.0, 39.14, 131.4].map(ratio), ["0.061", "0.95", "1.00", "39.1", "131"]);
    }

    #[test]
    fn units_by_name() {
        for (key, unit) in [
            ("latency_us.p99", Unit::Micros),
            ("latency_us.count", Unit::Count),
            ("beside.handshake_us.p99", Unit::Micros),
            ("server_cpu_us_per_delivery", Unit::Micros),
            ("deliveries_per_second", Unit::PerSecond),
            ("server.rss_anon_bytes", Unit::Bytes),
            ("server_bytes_per_topic", Unit::Bytes),
            ("lost", Unit::Count),
        ] {
            assert_eq!(unit_of(key), unit, "{key}");
        }
    }
}
