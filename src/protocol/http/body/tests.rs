//! Bodies as literal text; streams of requests, cut anywhere; noise.

use proptest::prelude::*;

use super::*;
use crate::protocol::http::{HeadLimits, Request, parse_request};

const MAX: usize = 100;

/// Reads a body that comes in two pieces, cut at every place; gives it, and what is left behind it.
#[track_caller]
fn read(framing: Framing, text: &str) -> Result<Option<(String, String)>, (u16, &'static str)> {
    let whole = read_in_pieces(framing, &[text.as_bytes()]);
    for cut in 0..text.len() {
        let (first, second) = text.as_bytes().split_at(cut);
        assert_eq!(read_in_pieces(framing, &[first, second]), whole, "{text:?} cut at {cut}");
    }
    whole
}

fn read_in_pieces(
    framing: Framing,
    pieces: &[&[u8]],
) -> Result<Option<(String, String)>, (u16, &'static str)> {
    let refused = |refusal: Refusal| (refusal.status, refusal.reason);
    let mut reader = BodyReader::new(framing, MAX).map_err(refused)?;
    let mut bytes = BytesMut::new();
    for (at, piece) in pieces.iter().enumerate() {
        bytes.extend_from_slice(piece);
        if let Some(body) = reader.read(&mut bytes).map_err(refused)? {
            pieces[at + 1..].iter().for_each(|piece| bytes.extend_from_slice(piece));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Ok(Some((text(&body), text(&bytes))));
        }
        assert!(bytes.is_empty() && reader.buffered() <= MAX);
    }
    Ok(None)
}

fn whole(body: &str, rest: &str) -> Result<Option<(String, String)>, (u16, &'static str)> {
    Ok(Some((body.to_owned(), rest.to_owned())))
}

#[test]
fn a_length_takes_so_many_bytes() {
    assert_eq!(read(Framing::Length(5), "12345GET /"), whole("12345", "GET /"));
    assert_eq!(read(Framing::Length(5), "1234"), Ok(None));
    assert_eq!(read(Framing::Length(0), "GET /"), whole("", "GET /"));
    assert_eq!(read(Framing::None, "GET /"), whole("", "GET /"));
    assert_eq!(read(Framing::Length(100), &"x".repeat(101)), whole(&"x".repeat(100), "x"));
    for length in [101, u64::MAX] {
        assert_eq!(read(Framing::Length(length), ""), Err((413, "body_too_large")));
    }
}

#[test]
fn chunks_become_one_piece() {
    let chunked = |text: &str| read(Framing::Chunked, text);
    assert_eq!(chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /"), whole("hello world", "GET /"));
    assert_eq!(chunked("0\r\n\r\n"), whole("", ""));
    assert_eq!(
        chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n"),
        whole(&"0123456789".repeat(2), "")
    );
    assert_eq!(chunked("2\r\n\r\n\r\n0\r\n\r\n"), whole("\r\n", ""));
    // RFC 9112 §7.1.1, §7.1.2: extensions are ignored, trailers are dropped.
    assert_eq!(chunked("2;a;b=c;d=\"e f\"\r\nhi\r\n0 ; last\r\n\r\nX"), whole("hi", "X"));
    assert_eq!(chunked("2\r\nhi\r\n0\r\nDigest: x\r\nEmpty:\r\n\r\nX"), whole("hi", "X"));
    assert_eq!(chunked("2\r\nhi\r\n0\r\nDigest: x\r\n"), Ok(None));
    let largest = format!("{:x}\r\n{}\r\n0\r\n\r\n", MAX, "x".repeat(MAX));
    assert_eq!(chunked(&largest), whole(&"x".repeat(MAX), ""));
}

#[test]
fn chunks_that_two_parties_could_read_differently_are_refused() {
    for text in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1 2\r\n",
        "1\n",
        "1\rx",
        ";a\r\n",
        "1;a\n",
        "1;a\0\r\n",
        "1;a\r\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\rb",
        "1\r\na\r\n\r\n",
        "00000000000000001\r\n",
        "ffffffffffffffffff\r\n",
        "1,1\r\n",
        "\u{e9}\r\n",
    ] {
        assert_eq!(read(Framing::Chunked, text), Err((400, "chunk")), "{text:?}");
    }
    for trailer in [
        "\n",
        "X\r\n",
        "X : a\r\n",
        " folded\r\n",
        "X: a\r\n b\r\n",
        "X: a\0\r\n",
        "X: a\n",
        "X: a\r\r\n",
        ": a\r\n",
    ] {
        let text = format!("0\r\n{trailer}");
        assert_eq!(read(Framing::Chunked, &text), Err((400, "trailer")), "{text:?}");
    }
}

#[test]
fn bounds() {
    let chunked = |text: &str| read_in_pieces(Framing::Chunked, &[text.as_bytes()]);
    for text in ["65\r\n", "ffffffffffffffff\r\n", "64\r\n", "65;x\r\n", "65 "] {
        let before = "1\r\nx\r\n";
        assert_eq!(chunked(&format!("{before}{text}")), Err((413, "body_too_large")), "{text:?}");
    }
    assert_eq!(chunked("64\r\n"), Ok(None), "all of it");
    let extended = |len: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(len));
    assert_eq!(chunked(&extended(EXTENSION_BYTES_MAX - 1)), whole("x", ""));
    assert_eq!(chunked(&extended(EXTENSION_BYTES_MAX + 1)), Err((400, "chunk_extension")));
    assert_eq!(chunked(&format!("1;{}", "e".repeat(100_000))), Err((400, "chunk_extension")));
    assert_eq!(chunked(&format!("1{}", " ".repeat(100_000))), Err((400, "chunk_extension")));
    let many = format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(5);
    assert_eq!(chunked(&many), Err((400, "chunk_extension")), "all chunks together");
    for trailer in [format!("X: {}", "x".repeat(100_000)), "X: y\r\n".repeat(10_000), "x".repeat(100_000)] {
        assert_eq!(chunked(&format!("0\r\n{trailer}")), Err((431, "trailer_too_long")));
    }
    assert_eq!(chunked(&"0".repeat(100_000)), Err((400, "chunk")));
}

/// A request as it is written, and as it should be read.
#[derive(Clone, Debug)]
struct Sent {
    path: String,
    body: Vec<u8>,
    bytes: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop::collection::vec(any::<u8>(), 0..=MAX);
    // Chunks of these sizes, with extensions or without; none: a length.
    let chunks =
        prop::option::of(prop::collection::vec((1usize..40, "(;[a-z]{1,5}(=\"[a-z ]{0,5}\")?)?"), 1..5));
    ("/[a-z]{0,5}", body, chunks, "([A-Z][a-z]{0,5}: ?[ -~]{0,10}\r\n){0,2}").prop_map(
        |(path, body, chunks, trailer)| {
            let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: a\r\n").into_bytes();
            match chunks {
                None if body.is_empty() => bytes.extend(b"\r\n"),
                None => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend(&body);
                }
                Some(chunks) => {
                    bytes.extend(b"Transfer-Encoding: Chunked\r\n\r\n");
                    let mut rest = &body[..];
                    for (size, extension) in chunks.iter().cycle() {
                        if rest.is_empty() {
                            break;
                        }
                        let (chunk, after) = rest.split_at((*size).min(rest.len()));
                        bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                        rest = after;
                    }
                    bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
                }
            }
            Sent { path, body, bytes }
        },
    )
}

/// Requests out of bytes that come piece by piece, as the engine reads them.
#[derive(Default)]
struct Receiver {
    bytes: BytesMut,
    collecting: Option<(Request, BodyReader)>,
    received: Vec<(String, Vec<u8>)>,
}

impl Receiver {
    fn receive(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.bytes.extend_from_slice(piece);
        loop {
            let (request, mut body) = match self.collecting.take() {
                Some(collecting) => collecting,
                None => {
                    match parse_request(&self.bytes, &HeadLimits { head_bytes_max: 1000, headers_max: 10 })? {
                        None => return Ok(()),
                        Some((request, consumed)) => {
                            let _ = self.bytes.split_to(consumed);
                            let body = BodyReader::new(request.framing(), MAX)?;
                            (request, body)
                        }
                    }
                }
            };
            match body.read(&mut self.bytes)? {
                Some(body) => self.received.push((request.path, body.to_vec())),
                None => {
                    self.collecting = Some((request, body));
                    return Ok(());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn requests_are_the_same_however_they_are_cut(
        sent in prop::collection::vec(sent(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        byte_by_byte: bool,
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|sent| &sent.bytes).copied().collect();
        let mut cuts: Vec<usize> = if byte_by_byte {
            (0..bytes.len()).collect()
        } else {
            cuts.iter().map(|cut| cut.index(bytes.len())).collect()
        };
        cuts.sort_unstable();
        let mut receiver = Receiver::default();
        let mut from = 0;
        for to in cuts.into_iter().chain([bytes.len()]) {
            prop_assert_eq!(receiver.receive(&bytes[from..to]), Ok(()));
            from = to;
        }
        let expected: Vec<_> = sent.iter().map(|sent| (sent.path.clone(), sent.body.clone())).collect();
        prop_assert_eq!(receiver.received, expected);
        prop_assert!(receiver.bytes.is_empty() && receiver.collecting.is_none());
    }

    #[test]
    fn noise_never_panics(
        start in prop_oneof![Just(""), Just("5\r\n"), Just("5\r\nhello"), Just("0\r\n"), Just("1;a=b"), Just("0\r\nX: y\r\n")],
        noise in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"0159af\r\n;: "[..])], 0..300),
        piece in 1usize..20,
    ) {
        let bytes = [start.as_bytes(), &noise].concat();
        for framing in [Framing::Chunked, Framing::Length(50)] {
            let whole = read_in_pieces(framing, &[&bytes]);
            let pieces: Vec<_> = bytes.chunks(piece).collect();
            prop_assert_eq!(&read_in_pieces(framing, &pieces), &whole);
            if let Err((status, _)) = whole {
                prop_assert!(matches!(status, 400 | 413 | 431));
            }
        }
    }
}
