//! How counts, sizes and times are written on the command line and in files.
//!
//! Owns the three notations, each as a reader ([`FromStr`]) and a writer ([`Display`]) that agree: what is
//! written reads back as the same value. Does not know which values a key allows; see `kind`.
//!
//! Notations take whole numbers only: `90s`, not `1.5m`, so that nothing is ever rounded.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a value of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is not written as it should be; the text says how it is.
    Form(String),
    /// It is well written, but outside what the key allows.
    Range,
}

impl Refusal {
    /// A text that is not written as `expected` says.
    pub(crate) fn form(expected: impl Into<String>) -> Self {
        Self::Form(expected.into())
    }
}

/// A whole number, with `_` between digits where it helps: `10_000`.
///
/// Written with `_` between groups of three from 10,000 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// A number of bytes: `65536`, `64KiB`, `1MiB`, `64kB`.
///
/// `KiB`, `MiB`, `GiB`, `TiB` are powers of 1,024, `kB`, `MB`, `GB`, `TB` of 1,000; no unit or `B` is bytes.
/// `KB` and `K` are refused, since they mean either. Written in the largest binary unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time in whole milliseconds: `500ms`, `25s`, `2m`, `1h`.
///
/// A number without a unit is refused, since it means either seconds or milliseconds. Written in the largest
/// unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// Units of [`Size`] in which values are written, largest first.
const BINARY_UNITS: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
/// Further units of [`Size`] that are read.
const OTHER_UNITS: [(&str, u64); 6] =
    [("", 1), ("B", 1), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
/// Units of [`Time`] in milliseconds, largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const COUNT_FORM: &str = "expected a whole number such as 500 or 10_000";
const SIZE_FORM: &str = "expected a size such as 64KiB or 65536 (units: KiB, MiB, GiB, TiB, or kB, MB, GB, TB for powers of 1000)";
const TIME_FORM: &str = "expected a time such as 500ms, 25s, 2m or 1h (units: ms, s, m, h)";
const TIME_UNIT_MISSING: &str = "a time needs its unit: ms, s, m or h, as in 500ms or 25s";

/// Splits `text` where its leading digits (and `_` between them) end.
///
/// `None` without a digit in front or with a `_` that is not between digits. The number is an error of
/// [`Refusal::Range`] if it is beyond 64 bits.
fn split_number(text: &str) -> Option<(Result<u64, Refusal>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.split('_').any(str::is_empty) {
        return None;
    }
    Some((number.replace('_', "").parse().map_err(|_| Refusal::Range), unit))
}

/// `number` times the unit that `text` names in `units`.
fn scale(
    number: u64,
    text: &str,
    mut units: impl Iterator<Item = (&'static str, u64)>,
) -> Option<Result<u64, Refusal>> {
    let (_, factor) = units.find(|(name, _)| *name == text)?;
    Some(number.checked_mul(factor).ok_or(Refusal::Range))
}

impl FromStr for Count {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        match split_number(text) {
            Some((number, "")) => number.map(Self),
            _ => Err(Refusal::form(COUNT_FORM)),
        }
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        if self.0 < 10_000 {
            return f.write_str(&digits);
        }
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str("_")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl FromStr for Size {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (number, unit) = split_number(text).ok_or_else(|| Refusal::form(SIZE_FORM))?;
        let units = BINARY_UNITS.into_iter().chain(OTHER_UNITS);
        match scale(number.clone().unwrap_or(0), unit, units) {
            None => Err(Refusal::form(SIZE_FORM)),
            Some(scaled) => number.and(scaled).map(Self),
        }
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match BINARY_UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Time {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (number, unit) = split_number(text).ok_or_else(|| Refusal::form(TIME_FORM))?;
        match scale(number.clone().unwrap_or(0), unit, TIME_UNITS.into_iter()) {
            None if unit.is_empty() => Err(Refusal::form(TIME_UNIT_MISSING)),
            None => Err(Refusal::form(TIME_FORM)),
            Some(scaled) => number.and(scaled).map(|millis| Self(Duration::from_millis(millis))),
        }
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in TIME_UNITS {
            if millis.is_multiple_of(u128::from(factor)) {
                return write!(f, "{}{unit}", millis / u128::from(factor));
            }
        }
        unreachable!("one millisecond divides every whole number of them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_are_read_with_underscores_between_digits_only() {
        assert_eq!("0".parse(), Ok(Count(0)));
        assert_eq!("1_000_000".parse(), Ok(Count(1_000_000)));
        for text in ["", "_", "_1", "1_", "1__0", "-1", "+1", "1.5", "ten", " 1", "1k", "٣"] {
            assert!(matches!(text.parse::<Count>(), Err(Refusal::Form(_))), "{text}");
        }
        assert_eq!("18446744073709551616".parse::<Count>(), Err(Refusal::Range));
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in
            [("0", 0), ("125", 125), ("7B", 7), ("64KiB", 65_536), ("64kB", 64_000), ("1_024MiB", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "KiB", "64K", "64KB", "64 KiB", "64kib", "1.5MiB", "-1"] {
            assert!(matches!(text.parse::<Size>(), Err(Refusal::Form(_))), "{text}");
        }
        assert_eq!("99999999TiB".parse::<Size>(), Err(Refusal::Range));
        assert_eq!("99999999999999999999KiB".parse::<Size>(), Err(Refusal::Range));
    }

    #[test]
    fn times_are_read_with_a_unit_only() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("25s", 25_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!("25".parse::<Time>(), Err(Refusal::form(TIME_UNIT_MISSING)));
        for text in ["", "s", "25 s", "1.5s", "1h30m", "25sec", "25S", "-1s"] {
            assert_eq!(text.parse::<Time>(), Err(Refusal::form(TIME_FORM)), "{text}");
        }
        assert_eq!("99999999999999999h".parse::<Time>(), Err(Refusal::Range));
    }

    #[test]
    fn values_are_written_in_their_largest_unit() {
        assert_eq!(Count(9_999).to_string(), "9999");
        assert_eq!(Count(10_000).to_string(), "10_000");
        assert_eq!(Count(1_234_567).to_string(), "1_234_567");
        assert_eq!(Size(0).to_string(), "0");
        assert_eq!(Size(1_536).to_string(), "1536");
        assert_eq!(Size(3 << 20).to_string(), "3MiB");
        assert_eq!(Time(Duration::ZERO).to_string(), "0s");
        assert_eq!(Time(Duration::from_millis(1_500)).to_string(), "1500ms");
        assert_eq!(Time(Duration::from_secs(90)).to_string(), "90s");
        assert_eq!(Time(Duration::from_secs(7_200)).to_string(), "2h");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            prop_assert_eq!(Count(number).to_string().parse(), Ok(Count(number)));
            prop_assert_eq!(Size(number).to_string().parse(), Ok(Size(number)));
            let time = Time(Duration::from_millis(number));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
