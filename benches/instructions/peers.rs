//! Reading frames beside tungstenite and fastwebsockets, in instructions: the same readers as `benches/peers` times.
//! What others take has no baseline.

use std::collections::BTreeSet;

use crate::{
    callgrind::Count,
    cases::Case,
    common::client::{BINARY, TEXT, frame},
    meter::Meter,
    readers::{Client, Fastwebsockets, Ours, Peer, Tungstenite},
};

macro_rules! cases {
    ($($kind:ident $len:literal x $messages:literal,)*) => {
        /// Each kind and length by each reader.
        pub const CASES: &[Case] = &[$(
            cases!("stentor", Ours<'_>, $kind, $len, $messages),
            cases!("tungstenite", Tungstenite<'_>, $kind, $len, $messages),
            cases!("fastwebsockets", Fastwebsockets<'_>, $kind, $len, $messages),
        )*];
    };
    ($peer:literal, $reader:ty, $kind:ident, $len:literal, $messages:literal) => {
        Case {
            name: concat!($peer, " ", stringify!($kind), "/", $len, "x", $messages),
            operation: "message",
            run: |meter| read::<$reader>(meter, Kind::$kind, $len, $messages),
        }
    };
}

cases! {
    text 16 x 1, text 64 x 1, text 1024 x 1, text 16384 x 1, text 65536 x 1, text 16 x 64, text 64 x 64,
    binary 16 x 1, binary 64 x 1, binary 1024 x 1, binary 16384 x 1, binary 65536 x 1, binary 16 x 64, binary 64 x 64,
}

/// What is in the frames; the names are those of the cases.
#[derive(Clone, Copy)]
#[expect(non_camel_case_types, reason = "they are printed")]
enum Kind {
    /// Two bytes per character.
    text,
    binary,
}

fn read<'a, P: Peer<'a>>(meter: &mut Meter, kind: Kind, len: usize, messages: usize) {
    const BURSTS: usize = 100;
    let text: String = "Привет".chars().cycle().take(len / 2).collect();
    let payload = text.as_bytes();
    let first = if matches!(kind, Kind::text) { TEXT } else { BINARY };
    // It lives as long as the process, which is one case.
    let burst: &'static [u8] = frame(first, payload).repeat(messages).leak();
    let mut peer = P::new(Client::new(burst));
    let mut good = 0;
    peer.read(BURSTS * messages, |bytes| good += usize::from(bytes == payload));
    assert_eq!(good, BURSTS * messages);
    let mut bytes_read = 0;
    for _ in 0..BURSTS {
        meter.count(messages as u64, || peer.read(messages, |bytes| bytes_read += bytes.len()));
    }
    assert_eq!(bytes_read, BURSTS * messages * len);
}

/// A row for each kind and length, a column for each reader.
pub fn print(counts: &[Count]) {
    let split = |count: &Count| {
        let (peer, what) = count.name.split_once(' ').expect("a reader and what it reads");
        (peer.to_owned(), what.to_owned())
    };
    let mut seen = BTreeSet::new();
    println!("| instructions per message | stentor | tungstenite | fastwebsockets |");
    println!("| --- | ---: | ---: | ---: |");
    for (_, what) in counts.iter().map(split).filter(|(_, what)| seen.insert(what.clone())) {
        let of = |peer: &str| {
            let count = counts.iter().find(|count| split(count) == (peer.to_owned(), what.clone()));
            count.map_or(String::new(), |count| format!("{:.0}", count.value))
        };
        println!("| `{what}` | {} | {} | {} |", of("stentor"), of("tungstenite"), of("fastwebsockets"));
    }
}
