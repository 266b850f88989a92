//! Plain numbers with names: workers, connections, positions, offsets, ticks.

use std::{fmt, str::FromStr};

/// A worker: one thread, one event loop. Numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// As an index into per-worker arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connection, as any worker can name it. A late event for a closed connection carries an old
/// generation and finds nobody, instead of the slot's next owner.
///
/// As text it can be handed out, and read back:
///
/// ```
/// use stentor::session::ConnectionId;
///
/// let id: ConnectionId = "2-70-5".parse().expect("worker, slot, generation");
/// assert_eq!((id.worker.0, id.slot, id.generation), (2, 70, 5));
/// assert_eq!(id.to_string(), "2-70-5");
/// assert!("2-70".parse::<ConnectionId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// The worker that owns the socket.
    pub worker: WorkerId,
    /// Counts the slot's owners, wrapping.
    pub generation: u32,
    /// Index into the worker's connection arrays.
    pub slot: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.worker, self.slot, self.generation)
    }
}

/// A text that names no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidConnectionId;

impl fmt::Display for InvalidConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a connection's name: three numbers with '-' between them")
    }
}

impl std::error::Error for InvalidConnectionId {}

impl FromStr for ConnectionId {
    type Err = InvalidConnectionId;

    fn from_str(text: &str) -> Result<Self, InvalidConnectionId> {
        fn number<N: FromStr>(part: Option<&str>) -> Result<N, InvalidConnectionId> {
            part.and_then(|part| part.parse().ok()).ok_or(InvalidConnectionId)
        }
        let mut parts = text.split('-');
        let id = ConnectionId {
            worker: WorkerId(number(parts.next())?),
            slot: number(parts.next())?,
            generation: number(parts.next())?,
        };
        if parts.next().is_none() { Ok(id) } else { Err(InvalidConnectionId) }
    }
}

/// An index with a generation: a record in one worker's array, named by another worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Index into the owner's array.
    pub index: u32,
    /// Differs for every record that ever had this index (wrapping).
    pub generation: u32,
}

/// A byte position in a log. Positions start at [`Position::START`] and never restart while the topic lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u64);

impl Position {
    /// The first position of a log. Not 0: units that are encoded late for a replay get positions below.
    pub const START: Position = Position(1 << 40);

    /// The position `bytes` further on.
    #[must_use]
    pub fn advanced(self, bytes: usize) -> Position {
        Position(self.0 + bytes as u64)
    }

    /// The position so many bytes before; not before the first of all.
    #[must_use]
    pub fn back(self, bytes: u64) -> Position {
        Position(self.0.saturating_sub(bytes))
    }

    /// Bytes from `earlier` to here; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Position) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A message's number in its topic: 1, 2, 3, …; 0 is "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Offset(pub u64);

impl Offset {
    /// Messages after `earlier` up to this one; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A place between two units of a log: how many bytes and how many messages lie before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    /// Where the next unit begins.
    pub position: Position,
    /// The last message before this place.
    pub offset: Offset,
}

impl Mark {
    /// The beginning of a new topic's log.
    pub const START: Mark = Mark { position: Position::START, offset: Offset(0) };
}

/// Coarse time in tenths of a second: [`Tick::START`] is when the server started. Enough for every timeout,
/// 13 years long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// Ticks in a second.
    pub const PER_SECOND: u32 = 10;

    /// When the server started: a day into its time, as long as the longest timeout, so that "so long ago"
    /// can be said from the first tick on.
    pub const START: Tick = Tick(24 * 60 * 60 * Tick::PER_SECOND);

    /// Ticks that passed from `earlier` to here; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// A duration in ticks: rounded up, and one more since the current tick has begun. So no timeout comes
    /// early.
    pub fn span(duration: std::time::Duration) -> u32 {
        let ticks = duration.as_millis().div_ceil(1000 / u128::from(Self::PER_SECOND)) + 1;
        u32::try_from(ticks).unwrap_or(u32::MAX / 2)
    }

    /// The tick `ticks` later.
    #[must_use]
    pub fn after(self, ticks: u32) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }
}

/// Wall-clock time: milliseconds since 1970-01-01 UTC, as a worker's clock had it when its tick began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Milliseconds since `earlier`; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: UnixTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells one life of a topic from the next: offsets restart only together with a new epoch.
///
/// Clients see it as eight characters and give it back so: no epoch is a number that they can't say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Characters of an epoch's text.
    pub const TEXT_LEN: usize = 8;

    const RADIX: u64 = 36;
    /// How many epochs eight characters can tell apart.
    const COUNT: u64 = Epoch::RADIX.pow(Epoch::TEXT_LEN as u32);

    /// The epoch of a random number.
    pub const fn new(number: u64) -> Epoch {
        Epoch(number % Epoch::COUNT)
    }

    /// Eight characters of `0-9a-z`, the lowest digit first, as clients see it.
    pub fn text(self) -> [u8; Epoch::TEXT_LEN] {
        let mut rest = self.0;
        std::array::from_fn(|_| {
            let digit = rest % Epoch::RADIX;
            rest /= Epoch::RADIX;
            b"0123456789abcdefghijklmnopqrstuvwxyz"[digit as usize]
        })
    }

    /// The epoch that a client names; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<Epoch> {
        let text: &[u8; Epoch::TEXT_LEN] = text.try_into().ok()?;
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(u64::from(byte - b'0')),
            b'a'..=b'z' => Some(u64::from(byte - b'a') + 10),
            _ => None,
        };
        text.iter().rev().try_fold(0, |number, &byte| Some(number * Epoch::RADIX + digit(byte)?)).map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().iter().try_for_each(|&byte| fmt::Write::write_char(f, char::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn spans_are_never_short() {
        assert_eq!(Tick::span(Duration::from_millis(1)), 2);
        assert_eq!(Tick::span(Duration::from_millis(100)), 2);
        assert_eq!(Tick::span(Duration::from_millis(101)), 3);
        assert_eq!(Tick::span(Duration::from_secs(25)), 251);
    }

    #[test]
    fn an_epoch_reads_as_eight_characters() {
        assert_eq!(Epoch(0).to_string(), "00000000");
        assert_eq!(Epoch(35 + 36).to_string(), "z1000000");
        assert_eq!(Epoch(u64::MAX).to_string().len(), 8);
    }

    #[test]
    fn what_a_client_gives_back_is_the_epoch() {
        for number in [0, 1, 35, 36, Epoch::COUNT - 1, Epoch::COUNT, u64::MAX] {
            let epoch = Epoch::new(number);
            assert_eq!(Epoch::parse(&epoch.text()), Some(epoch), "{number}");
        }
        for text in ["", "0000000", "000000000", "0000000A", "0000000-", "ä000000", "+0000000"] {
            assert_eq!(Epoch::parse(text.as_bytes()), None, "{text}");
        }
    }
}
