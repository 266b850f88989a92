//! However a client's bytes are cut into pieces, the reader gives the same events. The first byte chooses
//! the pieces' length, the rest are the bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use stentor::protocol::ws::{Inbox, Limits, Reader};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 16, fragments_max: 16 };

/// The events as text, up to the first error, which ends the connection.
fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let (mut reader, mut events) = (Reader::default(), Vec::new());
    for bytes in bytes.chunks(piece.max(1)) {
        let mut inbox = Inbox::from_buffer(BytesMut::from(bytes), bytes.len());
        loop {
            match reader.next(&mut inbox, &LIMITS) {
                Ok(None) => break,
                Ok(Some(stentor::protocol::ws::Event::Message(message))) => {
                    events.push(format!("{:?} {:?}", message.kind, message.payload.bytes()));
                }
                Ok(Some(stentor::protocol::ws::Event::Close(frame))) => {
                    events.push(format!("{frame:?}"));
                    return events;
                }
                Ok(Some(control)) => events.push(format!("{control:?}")),
                Err(error) => {
                    events.push(error.reason().to_owned());
                    return events;
                }
            }
        }
    }
    events
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let (whole, pieces) = (read(bytes, bytes.len()), read(bytes, usize::from(piece)));
    // Text that fails fast ends both in the same place: after the same whole events, with the same error.
    assert_eq!(whole, pieces);
});
