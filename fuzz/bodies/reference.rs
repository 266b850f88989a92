//! A client's frames read the slow way (RFC 6455 §5.2 to §5.6): all bytes at once, byte by byte, nothing in place.
//! Shares no code with the server.

/// Something complete that a client sent, or how reading it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The last item.
    Close(Option<u16>, String),
    /// The last item; named as in the server's metrics.
    Error(&'static str),
}

/// All that `bytes` hold, as a server must see it that takes messages of up to so many bytes and frames.
pub fn read(bytes: &[u8], bytes_max: usize, fragments_max: u32) -> Vec<Item> {
    let mut items = Vec::new();
    if let Err(error) = read_into(&mut items, bytes, bytes_max, fragments_max) {
        items.push(Item::Error(error));
    }
    items
}

/// A message under way.
struct Open {
    text: bool,
    payload: Vec<u8>,
    fragments: u32,
}

/// Ends where bytes are missing; errors are found with the first byte that shows them.
fn read_into(
    items: &mut Vec<Item>,
    mut rest: &[u8],
    bytes_max: usize,
    fragments_max: u32,
) -> Result<(), &'static str> {
    let mut open: Option<Open> = None;
    loop {
        let Some(&first) = rest.first() else { return Ok(()) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        match opcode {
            _ if first & 0x70 != 0 => return Err("reserved_bit"),
            3..=7 | 11.. => return Err("reserved_opcode"),
            8.. if !fin => return Err("fragmented_control"),
            _ => {}
        }
        let Some(&second) = rest.get(1) else { return Ok(()) };
        if second & 0x80 == 0 {
            return Err("unmasked");
        }
        if opcode >= 8 && second & 0x7F > 125 {
            return Err("control_too_long");
        }
        let length_bytes = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = rest.get(2..2 + length_bytes) else { return Ok(()) };
        let number = length.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let len = match length_bytes {
            2 if number < 126 => return Err("non_minimal_length"),
            8 if length[0] & 0x80 != 0 => return Err("length_top_bit"),
            8 if number < 1 << 16 => return Err("non_minimal_length"),
            0 => u64::from(second & 0x7F),
            _ => number,
        };
        let Some(mask) = rest.get(2 + length_bytes..6 + length_bytes) else { return Ok(()) };
        let masked = &rest[6 + length_bytes..];

        if opcode < 8 {
            match (&mut open, opcode) {
                (Some(_), 1 | 2) => return Err("expected_continuation"),
                (None, 0) => return Err("unexpected_continuation"),
                (Some(_), _) => {}
                (None, _) => open = Some(Open { text: opcode == 1, payload: Vec::new(), fragments: 0 }),
            }
            let before = open.as_ref().map_or(0, |open| open.payload.len()) as u64;
            if before.saturating_add(len) > bytes_max as u64 {
                return Err("message_too_big");
            }
        }
        if let (Some(open), 0..=7) = (&mut open, opcode) {
            open.fragments += 1;
            if open.fragments > fragments_max {
                return Err("too_many_fragments");
            }
        }
        let here = usize::try_from(len).unwrap_or(usize::MAX).min(masked.len());
        let complete = here as u64 == len;
        let payload: Vec<u8> = (0..here).map(|i| masked[i] ^ mask[i % 4]).collect();
        rest = &masked[here..];

        match (opcode, &mut open) {
            (0..=7, Some(message)) => {
                message.payload.extend(payload);
                if message.text {
                    match std::str::from_utf8(&message.payload) {
                        Err(error) if error.error_len().is_some() => return Err("invalid_utf8"),
                        Err(_) if fin && complete => return Err("invalid_utf8"),
                        _ => {}
                    }
                }
                if fin && complete {
                    let Open { text, payload, .. } = open.take().expect("looked at just now");
                    items.push(if text { Item::Text(payload) } else { Item::Binary(payload) });
                }
            }
            _ if !complete => {}
            (9, _) => items.push(Item::Ping(payload)),
            (10, _) => items.push(Item::Pong(payload)),
            _ => {
                items.push(close(&payload)?);
                return Ok(());
            }
        }
        if !complete {
            return Ok(());
        }
    }
}

fn close(payload: &[u8]) -> Result<Item, &'static str> {
    let code = match payload {
        [] => return Ok(Item::Close(None, String::new())),
        [_] => return Err("close_body_too_short"),
        [high, low, ..] => u16::from(*high) << 8 | u16::from(*low),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err("invalid_close_code");
    }
    match std::str::from_utf8(&payload[2..]) {
        Ok(reason) => Ok(Item::Close(Some(code), reason.to_owned())),
        Err(_) => Err("invalid_close_reason"),
    }
}
