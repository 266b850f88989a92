//! The reader against literal bytes, against what a stream was made of, and against itself with other cuts.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::protocol::ws::{CloseCode, Frame};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, fragments_max: 64 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
/// Without FIN.
const TEXT_BEGINS: u8 = 0x01;
const BINARY_BEGINS: u8 = 0x02;
const CONTINUES: u8 = 0x00;
const CONTINUATION_ENDS: u8 = 0x80;

/// A client's frame, made the slow way.
fn frame_with(mask: [u8; 4], first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=65_535 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(MASK, first_byte, payload)
}

/// An event that owns what it says, or how reading ended.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(ProtocolError),
}

fn own(event: Event<'_>) -> Got {
    match event {
        Event::Message(message) => match message.kind {
            Kind::Text => Got::Text(message.text().expect("validated").to_owned()),
            Kind::Binary => {
                let bytes = message.payload.bytes().to_vec();
                // The frame is header and payload, wherever the payload lies.
                let sent = message.payload.into_frame(Kind::Binary);
                let header_len = super::super::server_header_len(bytes.len());
                assert_eq!(sent.bytes()[0], 0x82);
                assert_eq!(&sent.bytes()[header_len..], bytes);
                Got::Binary(bytes)
            }
        },
        Event::Ping(payload) => Got::Ping(payload.to_vec()),
        Event::Pong(payload) => Got::Pong(payload.to_vec()),
        Event::Close(close) => Got::Close(close.code.map(CloseCode::get), close.reason.to_owned()),
    }
}

/// How a stream reaches the reader.
#[derive(Clone, Debug)]
struct Cuts {
    /// The sizes of the receives, again from the front when used up. Each ≥ 1.
    sizes: Vec<usize>,
    /// Room in the receive buffer behind what was received.
    room: usize,
    /// Take the reader's offers to receive directly.
    direct: bool,
}

/// Feeds a stream as a worker would. Reading ends with an error or a close event.
fn read(stream: &[u8], cuts: &Cuts, limits: &Limits) -> (Vec<Got>, Reader) {
    let (mut reader, mut got) = (Reader::default(), Vec::new());
    let mut rest = stream;
    let mut sizes = cuts.sizes.iter().cycle();
    while !rest.is_empty() {
        let mut size = (*sizes.next().expect("cycles")).min(rest.len());
        let mut inbox = match reader.direct_buffer().filter(|_| cuts.direct) {
            Some(direct) => {
                size = size.min(direct.len());
                direct[..size].copy_from_slice(&rest[..size]);
                reader.filled(size);
                Inbox::default()
            }
            None => inbox(&rest[..size], cuts.room),
        };
        rest = &rest[size..];
        loop {
            match reader.next(&mut inbox, limits) {
                Ok(Some(event)) => got.push(own(event)),
                Ok(None) => break,
                Err(error) => {
                    got.push(Got::Error(error));
                    return (got, reader);
                }
            }
            if matches!(got.last(), Some(Got::Close(..))) {
                return (got, reader);
            }
        }
        assert!(inbox.is_empty());
    }
    (got, reader)
}

fn inbox(received: &[u8], room: usize) -> Inbox {
    let mut buffer = BytesMut::zeroed(received.len() + room);
    buffer[..received.len()].copy_from_slice(received);
    Inbox::from_buffer(buffer, received.len())
}

fn whole() -> Cuts {
    Cuts { sizes: vec![usize::MAX], room: 0, direct: false }
}

fn pieces(size: usize) -> Cuts {
    Cuts { sizes: vec![size], room: 0, direct: false }
}

/// The events, which must be the same whole, byte by byte, and cut in two anywhere.
#[track_caller]
fn events(stream: &[u8]) -> Vec<Got> {
    let expected = read(stream, &whole(), &LIMITS).0;
    for cuts in [pieces(1), pieces(2), pieces(3), pieces(7)] {
        assert_eq!(read(stream, &cuts, &LIMITS).0, expected, "{cuts:?}");
    }
    for at in 1..stream.len().min(300) {
        let cuts = Cuts { sizes: vec![at, usize::MAX], ..whole() };
        assert_eq!(read(stream, &cuts, &LIMITS).0, expected, "{cuts:?}");
    }
    expected
}

#[track_caller]
fn error(stream: &[u8]) -> ProtocolError {
    match events(stream).pop() {
        Some(Got::Error(error)) => error,
        other => panic!("no error, but {other:?}"),
    }
}

#[test]
fn an_idle_connection_owns_nothing() {
    assert_eq!(size_of::<Reader>(), 8);
    let stream =
        [frame(TEXT, b"Hello"), frame(TEXT_BEGINS, b"Hel"), frame(PING, b"?"), frame(0x80, b"lo")].concat();
    for size in [1, 3, stream.len()] {
        let (got, reader) = read(&stream, &pieces(size), &LIMITS);
        assert_eq!(got, [Got::Text("Hello".into()), Got::Ping(b"?".into()), Got::Text("Hello".into())]);
        assert!(reader.is_idle() && !reader.message_started());
        assert_eq!(reader.buffered(), 0);
    }
}

#[test]
fn what_has_begun_shows() {
    for begun in [&frame(TEXT, b"Hello")[..1], &frame(TEXT, b"Hello")[..8], &frame(PING, b"?")[..3]] {
        let (_, reader) = read(begun, &whole(), &LIMITS);
        assert!(reader.message_started() && !reader.is_idle() && reader.buffered() > 0);
    }
    let (_, reader) = read(&frame(TEXT_BEGINS, b""), &whole(), &LIMITS);
    assert!(reader.message_started());
    // A control frame that was stored is gone with its event.
    let (got, reader) = read(&frame(PING, b"?"), &pieces(1), &LIMITS);
    assert_eq!(got, [Got::Ping(b"?".into())]);
    assert!(reader.is_idle() && reader.buffered() == 0);
}

#[test]
fn rfc_examples() {
    // §5.7, in the client's direction.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(events(&hello), [Got::Text("Hello".into())]);
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(events(&pong), [Got::Pong(b"Hello".into())]);
}

#[test]
fn empty_messages_and_fragments() {
    assert_eq!(events(&frame(TEXT, b"")), [Got::Text(String::new())]);
    assert_eq!(events(&frame(PING, b"")), [Got::Ping(vec![])]);
    let empty = [frame(TEXT_BEGINS, b""), frame(CONTINUES, b""), frame(CONTINUATION_ENDS, b"")].concat();
    assert_eq!(events(&empty), [Got::Text(String::new())]);
    let partly = [frame(BINARY_BEGINS, b""), frame(CONTINUES, b"a"), frame(CONTINUATION_ENDS, b"")].concat();
    assert_eq!(events(&partly), [Got::Binary(b"a".into())]);
}

#[test]
fn control_frames_between_fragments_come_at_once() {
    // §5.4, §5.5: and the mask of each frame starts anew.
    let stream = [
        frame_with([1, 2, 3, 4], BINARY_BEGINS, b"abcde"),
        frame_with([5, 6, 7, 8], PING, b"one"),
        frame_with([9, 0, 9, 0], CONTINUES, b"fg"),
        frame_with([7, 7, 7, 7], PONG, b""),
        frame_with([4, 3, 2, 1], CONTINUATION_ENDS, b"hij"),
        frame(CLOSE, b"\x03\xe8bye"),
    ];
    assert_eq!(
        events(&stream.concat()),
        [
            Got::Ping(b"one".into()),
            Got::Pong(vec![]),
            Got::Binary(b"abcdefghij".into()),
            Got::Close(Some(1000), "bye".into()),
        ]
    );
}

#[test]
fn fragments_out_of_order() {
    // §5.4
    assert_eq!(error(&frame(CONTINUATION_ENDS, b"x")), ProtocolError::UnexpectedContinuation);
    assert_eq!(error(&frame(CONTINUES, b"x")), ProtocolError::UnexpectedContinuation);
    let after_the_end =
        [frame(TEXT_BEGINS, b"a"), frame(CONTINUATION_ENDS, b"b"), frame(CONTINUATION_ENDS, b"c")];
    assert_eq!(error(&after_the_end.concat()), ProtocolError::UnexpectedContinuation);
    for second in [TEXT, BINARY, TEXT_BEGINS] {
        let stream = [frame(TEXT_BEGINS, b"a"), frame(second, b"b")].concat();
        assert_eq!(error(&stream), ProtocolError::ExpectedContinuation);
    }
}

#[test]
fn header_and_close_errors_pass_through() {
    assert_eq!(error(&[0xC1]), ProtocolError::ReservedBit);
    assert_eq!(error(&[frame(TEXT, b"fine"), vec![0x81, 0x00]].concat()), ProtocolError::Unmasked);
    assert_eq!(error(&frame(CLOSE, b"\x03")), ProtocolError::CloseBodyTooShort);
    assert_eq!(error(&frame(CLOSE, b"\x03\xed")), ProtocolError::InvalidCloseCode(1005));
    assert_eq!(error(&frame(CLOSE, b"\x03\xe8\xc0")), ProtocolError::InvalidCloseReason);
    assert_eq!(events(&frame(CLOSE, b"")), [Got::Close(None, String::new())]);
}

#[test]
fn text_is_utf8_as_a_message_not_as_a_frame() {
    // §5.6, §8.1: "€" is E2 82 AC.
    let across =
        [frame(TEXT_BEGINS, b"\xe2"), frame(CONTINUES, b"\x82"), frame(CONTINUATION_ENDS, b"\xac")].concat();
    assert_eq!(events(&across), [Got::Text("€".into())]);
    for cut_short in [
        frame(TEXT, b"\xe2\x82"),
        [frame(TEXT_BEGINS, b"\xe2"), frame(CONTINUATION_ENDS, b"\x82")].concat(),
        [frame(TEXT_BEGINS, b"\xe2\x82"), frame(CONTINUATION_ENDS, b"")].concat(),
        frame(TEXT, b"\xff"),
    ] {
        assert_eq!(error(&cut_short), ProtocolError::InvalidUtf8);
    }
    assert_eq!(events(&frame(BINARY, b"\xff")), [Got::Binary(vec![0xFF])]);
}

#[test]
fn invalid_text_fails_before_the_message_is_complete() {
    for invalid in [&b"\xf4\x90"[..], b"\xed\xa0", b"\xc0", b"\xe0\x80"] {
        let payload = [b"abc", invalid, b"and so on"].concat();
        for (first, before) in [(TEXT, vec![]), (CONTINUATION_ENDS, frame(TEXT_BEGINS, b"begun"))] {
            let stream = [before.clone(), frame(first, &payload)].concat();
            let just_invalid = before.len() + 6 + 3 + invalid.len();
            for size in [1, 2, usize::MAX] {
                let (got, _) = read(&stream[..just_invalid], &pieces(size), &LIMITS);
                assert_eq!(got, [Got::Error(ProtocolError::InvalidUtf8)], "{invalid:02x?}");
                let (got, _) = read(&stream[..just_invalid - 1], &pieces(size), &LIMITS);
                assert_eq!(got, [], "one byte less than {invalid:02x?}");
            }
        }
    }
}

#[test]
fn too_big_is_refused_from_the_header_alone() {
    let limits = Limits { message_bytes_max: 1000, ..LIMITS };
    let header = |payload_len: usize| frame(BINARY, &vec![0; payload_len])[..8].to_vec();
    let too_big = |bytes| ProtocolError::MessageTooBig { bytes, bytes_max: 1000 };
    assert_eq!(read(&header(1000), &whole(), &limits).0, []);
    for size in [1, usize::MAX] {
        let (got, reader) = read(&header(1001), &pieces(size), &limits);
        assert_eq!(got, [Got::Error(too_big(1001))]);
        assert!(reader.buffered() < 256);
    }
    // The sum of the fragments counts, and no length is too long for the sum.
    let stream = [frame(BINARY_BEGINS, &[0; 600]), frame(CONTINUES, &[0; 400]), frame(PING, b"")].concat();
    assert_eq!(read(&stream, &whole(), &limits).0, [Got::Ping(vec![])]);
    let stream = [stream, frame(CONTINUES, &[0; 1])].concat();
    assert_eq!(read(&stream, &whole(), &limits).0, [Got::Ping(vec![]), Got::Error(too_big(1001))]);
    let longest = [0x00, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
    let stream = [&frame(BINARY_BEGINS, &[0; 600])[..], &longest].concat();
    assert_eq!(read(&stream, &whole(), &limits).0, [Got::Error(too_big((1 << 63) - 1 + 600))]);
    let error = too_big(1001);
    assert_eq!((error.close_code(), error.reason()), (CloseCode::TOO_BIG, "message_too_big"));
    assert_eq!(error.to_string(), "a message of 1001 bytes or more is over the limit of 1000");
}

#[test]
fn a_limit_that_was_raised_holds_for_the_message_under_way() {
    let (mut reader, raised) = (Reader::default(), LIMITS);
    let lower = Limits { message_bytes_max: 200, ..LIMITS };
    assert!(matches!(reader.next(&mut inbox(&frame(BINARY_BEGINS, &[1; 200]), 0), &lower), Ok(None)));
    assert!(matches!(reader.next(&mut inbox(&frame(CONTINUES, &[2; 5_000]), 0), &raised), Ok(None)));
    let last = reader.next(&mut inbox(&frame(CONTINUATION_ENDS, &[3; 7]), 0), &raised).map(|it| it.map(own));
    assert_eq!(last, Ok(Some(Got::Binary([vec![1; 200], vec![2; 5_000], vec![3; 7]].concat()))));
}

#[test]
fn too_many_fragments_even_if_empty() {
    let limits = Limits { fragments_max: 3, ..LIMITS };
    let three = [frame(TEXT_BEGINS, b""), frame(CONTINUES, b""), frame(CONTINUATION_ENDS, b"")].concat();
    assert_eq!(read(&three, &whole(), &limits).0, [Got::Text(String::new())]);
    let four = [&three[..12], &frame(CONTINUES, b""), &frame(CONTINUATION_ENDS, b"")].concat();
    let error = ProtocolError::TooManyFragments { fragments: 4, fragments_max: 3 };
    assert_eq!(read(&four, &whole(), &limits).0, [Got::Error(error)]);
    assert_eq!((error.close_code(), error.reason()), (CloseCode::POLICY, "too_many_fragments"));
}

#[test]
fn a_large_frame_is_given_with_its_memory() {
    let payload = vec![0x5A; LARGE];
    let stream = [frame(TEXT, b"before"), frame(TEXT, &payload), frame(TEXT, b"after")].concat();
    let mut inbox = inbox(&stream, 100);
    let address = inbox.remaining().as_ptr();
    let mut reader = Reader::default();
    assert_eq!(reader.next(&mut inbox, &LIMITS).map(|it| it.map(own)), Ok(Some(Got::Text("before".into()))));

    let Ok(Some(Event::Message(message))) = reader.next(&mut inbox, &LIMITS) else { panic!("no message") };
    assert!(matches!(message.payload, Payload::Owned { .. }));
    let lies_at = address.wrapping_add(12 + 8);
    assert_eq!(message.payload.bytes().as_ptr(), lies_at);
    let Frame::Owned(sent) = message.payload.into_frame(message.kind) else { panic!("not owned") };
    assert_eq!(sent[4..].as_ptr(), lies_at);
    assert_eq!(sent[..4], [0x81, 126, 0x80, 0x00]);

    assert_eq!(reader.next(&mut inbox, &LIMITS).map(|it| it.map(own)), Ok(Some(Got::Text("after".into()))));
    assert!(reader.is_idle());
    assert_eq!(inbox.into_buffer().len(), 11 + 100);
    assert_eq!(sent[4..], payload, "later messages don't touch it");
}

#[test]
fn a_smaller_one_is_lent() {
    let mut inbox = inbox(&frame(TEXT, &vec![b'a'; LARGE - 1]), 0);
    let address = inbox.remaining().as_ptr();
    let mut reader = Reader::default();
    let Ok(Some(Event::Message(message))) = reader.next(&mut inbox, &LIMITS) else { panic!("no message") };
    assert!(matches!(message.payload, Payload::Borrowed { .. }));
    assert_eq!(message.payload.bytes().as_ptr(), address.wrapping_add(8));
}

#[test]
fn a_large_frame_is_continued_where_it_began() {
    let payload: Vec<u8> = (0..40_000u32).map(|i| i as u8).collect();
    let stream = frame(BINARY, &payload);
    let (front, rest) = stream.split_at(30_000);
    let mut inbox = inbox(front, 20_000);
    let address = inbox.remaining().as_ptr();
    let mut reader = Reader::default();
    assert!(matches!(reader.next(&mut inbox, &LIMITS), Ok(None)));
    assert!(inbox.is_empty());
    assert_eq!(inbox.into_buffer().len(), 50_000 - stream.len(), "the rest stays with the worker");

    let direct = reader.direct_buffer().expect("more than 4 KiB are missing");
    assert_eq!(direct.as_ptr(), address.wrapping_add(30_000));
    direct.copy_from_slice(rest);
    reader.filled(rest.len());
    let mut inbox = Inbox::default();
    let Ok(Some(Event::Message(message))) = reader.next(&mut inbox, &LIMITS) else { panic!("no message") };
    assert_eq!(message.payload.bytes().as_ptr(), address.wrapping_add(8));
    assert_eq!(message.payload.bytes(), payload);
}

#[test]
fn the_receive_buffer_is_not_kept_for_a_promise() {
    let stream = frame(BINARY, &vec![0; 40_000]);
    let mut inbox = inbox(&stream[..1000], 60_000);
    let mut reader = Reader::default();
    assert!(matches!(reader.next(&mut inbox, &LIMITS), Ok(None)));
    assert_eq!(inbox.into_buffer().len(), 61_000);
    assert!(reader.buffered() < 3000);
}

#[test]
fn memory_grows_with_what_arrived() {
    let overhead = 400;
    for (first_byte, declared) in [(BINARY, 1_000_000), (BINARY_BEGINS, 900_000)] {
        let stream = frame(first_byte, &vec![7; declared]);
        let mut reader = Reader::default();
        let mut inbox = inbox(&stream[..14], 0);
        assert!(matches!(reader.next(&mut inbox, &LIMITS), Ok(None)));
        assert!(reader.buffered() < overhead, "a header alone holds {} bytes", reader.buffered());
        let mut arrived = 0;
        while arrived < declared {
            let direct = match reader.direct_buffer() {
                Some(direct) => direct.len(),
                None => break,
            };
            assert!(direct >= 4096.min(declared - arrived), "{direct} at {arrived}");
            let n = direct.min(1500);
            reader.direct_buffer().expect("still there")[..n]
                .copy_from_slice(&stream[14 + arrived..14 + arrived + n]);
            reader.filled(n);
            assert!(matches!(reader.next(&mut Inbox::default(), &LIMITS), Ok(None)));
            let held = reader.buffered();
            assert!(held <= overhead + (2 * arrived).max(arrived + 4096), "{held} at {arrived}");
            if first_byte == BINARY {
                assert!(held <= overhead + declared, "{held} at {arrived}");
            }
            arrived += n;
        }
        assert!(declared - arrived < 4096);
    }
}

#[test]
fn a_waiting_rest_is_fed_again() {
    let stream = [frame(TEXT, b"one"), frame(TEXT, b"two")].concat();
    let mut reader = Reader::default();
    let mut inbox = inbox(&stream, 9);
    assert_eq!(reader.next(&mut inbox, &LIMITS).map(|it| it.map(own)), Ok(Some(Got::Text("one".into()))));
    let rest = inbox.rest();
    assert!(inbox.is_empty());
    let len = rest.len();
    let mut inbox = Inbox::from_buffer(rest, len);
    assert_eq!(reader.next(&mut inbox, &LIMITS).map(|it| it.map(own)), Ok(Some(Got::Text("two".into()))));
}

/// One thing that a client sends, and what must come of it.
#[derive(Clone, Debug)]
struct Item {
    frames: Vec<(u8, Vec<u8>)>,
    expected: Vec<Got>,
}

fn control() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (prop_oneof![Just(PING), Just(PONG)], prop::collection::vec(any::<u8>(), 0..=CONTROL_MAX))
}

const CONTROL_MAX: usize = 125;

fn control_got((first_byte, payload): (u8, Vec<u8>)) -> Got {
    if first_byte == PING { Got::Ping(payload) } else { Got::Pong(payload) }
}

/// Sizes around every border that the code knows.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0usize..40,
        4 => 100usize..300,
        2 => 3_000usize..10_000,
        1 => LARGE - 20..LARGE + 20,
        1 => 65_500usize..65_600,
    ]
}

fn message() -> impl Strategy<Value = Item> {
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(control())), 0..5);
    (size(), any::<bool>(), any::<u8>(), cuts).prop_map(|(size, text, seed, cuts)| {
        // Text of 1 to 4 bytes a character; binary that is never text.
        let payload: Vec<u8> = if text {
            let chars = ['a', 'ß', '€', '😀', 'z'].into_iter().cycle().skip(usize::from(seed));
            chars.take(size / 2).collect::<String>().into_bytes()
        } else {
            (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 0x80).collect()
        };
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        let mut cuts: Vec<_> =
            cuts.into_iter().map(|(at, control)| (at.index(payload.len() + 1), control)).collect();
        cuts.sort_by_key(|(at, _)| *at);
        let (mut from, mut opcode) = (0, if text { TEXT_BEGINS } else { BINARY_BEGINS });
        for (at, control) in cuts {
            frames.push((opcode, payload[from..at].to_vec()));
            (from, opcode) = (at, CONTINUES);
            if let Some(control) = control {
                frames.push(control.clone());
                expected.push(control_got(control));
            }
        }
        frames.push((0x80 | opcode, payload[from..].to_vec()));
        expected.push(if text {
            Got::Text(String::from_utf8(payload).expect("made of chars"))
        } else {
            Got::Binary(payload)
        });
        Item { frames, expected }
    })
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let lone_control = control()
        .prop_map(|control| Item { frames: vec![control.clone()], expected: vec![control_got(control)] });
    prop::collection::vec(prop_oneof![3 => message(), 1 => lone_control], 1..8)
}

fn encode(items: &[Item], masks: u32) -> Vec<u8> {
    let frames = items.iter().flat_map(|item| &item.frames).enumerate();
    frames
        .flat_map(|(i, (first_byte, payload))| {
            let mask = masks.wrapping_mul(0x9E37_79B9).wrapping_add((i as u32).wrapping_mul(0x85EB_CA6B));
            frame_with(mask.to_be_bytes(), *first_byte, payload)
        })
        .collect()
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let one = prop_oneof![3 => 1usize..20, 2 => 20usize..2_000, 2 => 2_000usize..70_000];
    (prop::collection::vec(one, 1..12), prop_oneof![Just(0), 0usize..100_000], any::<bool>())
        .prop_map(|(sizes, room, direct)| Cuts { sizes, room, direct })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_sent_is_what_is_read(items in items(), masks: u32, cuts in cuts()) {
        let expected: Vec<_> = items.iter().flat_map(|item| item.expected.clone()).collect();
        let (got, reader) = read(&encode(&items, masks), &cuts, &LIMITS);
        prop_assert!(got == expected, "{} events, {} expected", got.len(), expected.len());
        prop_assert!(reader.is_idle());
        prop_assert_eq!(reader.buffered(), 0);
    }

    #[test]
    fn cuts_change_nothing_even_for_a_damaged_stream(
        items in items(),
        masks: u32,
        cuts in cuts(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end: prop::sample::Index,
    ) {
        let mut stream = encode(&items, masks);
        for (at, xor) in damage {
            *at.get_mut(&mut stream) ^= xor;
        }
        stream.truncate(end.index(stream.len() + 1));
        let limits = Limits { message_bytes_max: 60_000, fragments_max: 4 };
        let expected = read(&stream, &whole(), &limits).0;
        prop_assert!(read(&stream, &cuts, &limits).0 == expected, "{:?}", expected.last());
    }

    #[test]
    fn noise_never_panics(stream in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
        prop_assert_eq!(read(&stream, &cuts, &LIMITS).0, read(&stream, &whole(), &LIMITS).0);
    }
}

#[test]
fn every_split_point_of_a_mixed_stream() {
    let stream = [
        frame(TEXT, "grüße".as_bytes()),
        frame(TEXT_BEGINS, b"\xf0\x9f"),
        frame(PING, &[9; 125]),
        frame(CONTINUES, b""),
        frame(CONTINUATION_ENDS, b"\x98\x80"),
        frame(BINARY, &[0xFF; 126]),
        frame(PONG, b""),
        frame(CLOSE, b"\x0f\xa0see you"),
        frame(TEXT, b"not read any more"),
    ]
    .concat();
    let expected = [
        Got::Text("grüße".into()),
        Got::Ping(vec![9; 125]),
        Got::Text("😀".into()),
        Got::Binary(vec![0xFF; 126]),
        Got::Pong(vec![]),
        Got::Close(Some(4000), "see you".into()),
    ];
    for first in 1..stream.len() {
        for second in [1, 5, 130, stream.len()] {
            let cuts = Cuts { sizes: vec![first, second, usize::MAX], room: 50, direct: true };
            assert_eq!(read(&stream, &cuts, &LIMITS).0, expected, "{cuts:?}");
        }
    }
}

/// What is missing from which on the reader offers its own memory.
const DIRECT_MIN: usize = 4 * 1024;

/// The 64-bit form of the length, and the sizes at which the reader changes its way: cut everywhere but in the middle
/// of the payload, where nothing changes.
#[test]
fn every_split_point_of_long_frames() {
    let payload: Vec<u8> = (0..65_540u32).map(|i| (i * 31) as u8 | 0x80).collect();
    for stream in [
        frame(BINARY, &payload),
        frame(BINARY, &payload[..LARGE]),
        [frame(BINARY_BEGINS, &payload), frame(PING, b"?"), frame(CONTINUATION_ENDS, b"")].concat(),
    ] {
        let expected = read(&stream, &whole(), &LIMITS).0;
        assert!(matches!(expected.last(), Some(Got::Binary(_))));
        let near = |at: usize| at.saturating_sub(20).max(1)..(at + 20).min(stream.len());
        let middle = [DIRECT_MIN, LARGE, stream.len() - DIRECT_MIN, stream.len()].into_iter().flat_map(near);
        for first in (1..40).chain(middle) {
            for (room, direct) in [(0, false), (70_000, false), (70_000, true)] {
                let cuts = Cuts { sizes: vec![first, usize::MAX], room, direct };
                assert!(read(&stream, &cuts, &LIMITS).0 == expected, "{cuts:?}");
            }
        }
    }
}
