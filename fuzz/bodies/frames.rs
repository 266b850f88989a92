//! However a client's bytes are cut into pieces, and wherever they are received, the reader gives the events that
//! the slow reader finds in the whole.
//!
//! The first byte says how: its low 6 bits choose the pieces' length, the others whether there is room behind what was
//! received and whether offers of direct buffers are taken. The rest are the bytes.

use bytes::BytesMut;
use stentor::protocol::ws::{CloseCode, Event, Inbox, Kind, Limits, Reader};

use super::reference::{self, Item};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 16, fragments_max: 16 };

/// How the bytes reach the reader.
struct Cuts {
    piece: usize,
    room: usize,
    direct: bool,
}

fn item(event: Event<'_>) -> Item {
    match event {
        Event::Message(message) if message.kind == Kind::Text => {
            assert!(message.text().is_some(), "text is text");
            Item::Text(message.payload.bytes().to_vec())
        }
        Event::Message(message) => Item::Binary(message.payload.bytes().to_vec()),
        Event::Ping(payload) => Item::Ping(payload.to_vec()),
        Event::Pong(payload) => Item::Pong(payload.to_vec()),
        Event::Close(frame) => Item::Close(frame.code.map(CloseCode::get), frame.reason.to_owned()),
    }
}

fn read(bytes: &[u8], cuts: &Cuts) -> Vec<Item> {
    let (mut reader, mut items, mut rest) = (Reader::default(), Vec::new(), bytes);
    while !rest.is_empty() {
        let mut here = cuts.piece.clamp(1, rest.len());
        let mut inbox = match reader.direct_buffer().filter(|_| cuts.direct) {
            Some(direct) => {
                here = here.min(direct.len());
                direct[..here].copy_from_slice(&rest[..here]);
                reader.filled(here);
                Inbox::default()
            }
            None => {
                let mut buffer = BytesMut::zeroed(here + cuts.room);
                buffer[..here].copy_from_slice(&rest[..here]);
                Inbox::from_buffer(buffer, here)
            }
        };
        rest = &rest[here..];
        loop {
            match reader.next(&mut inbox, &LIMITS) {
                Ok(None) => break,
                Ok(Some(event)) => items.push(item(event)),
                Err(error) => {
                    items.push(Item::Error(error.reason()));
                    return items;
                }
            }
            if matches!(items.last(), Some(Item::Close(..))) {
                return items;
            }
        }
        assert!(inbox.is_empty(), "what is not complete is the reader's");
        assert!(reader.is_idle() || reader.buffered() > 0);
        assert!(
            reader.buffered() <= 2 * bytes.len() + 8 * 1024,
            "memory for what arrived, not for what was declared"
        );
    }
    items
}

/// See the head of this file.
pub fn frames(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let expected = reference::read(bytes, LIMITS.message_bytes_max, LIMITS.fragments_max);
    let whole = Cuts { piece: bytes.len(), room: 0, direct: false };
    assert_eq!(read(bytes, &whole), expected);
    let piece = match usize::from(how & 0x3F) {
        short @ 0..32 => short,
        long => (long - 31) * 1024,
    };
    let room = if how & 0x40 == 0 { 0 } else { 68 * 1024 };
    let pieces = Cuts { piece, room, direct: how & 0x80 != 0 };
    assert_eq!(read(bytes, &pieces), expected);
}
