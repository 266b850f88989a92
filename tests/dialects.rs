//! `docs/dialects.md` is true: each cell of its tables has its test here, and whatever the payload is, a reader of each
//! dialect has it again.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, value::RawValue};
use stentor::{
    broker::ids::{Epoch, Offset},
    protocol::ws::Kind,
    session::dialect::{
        Content, ContentError, Encoding, ErrorCode, NESTING_MAX, Notice, Since, Stamp, Tags, encode,
        is_object_or_array, message_of, sse,
    },
};

const STAMP: Stamp<'static> =
    Stamp { topic: "t", epoch: Epoch::new(71), offset: Offset(7), time_ms: 1_700_000_000_000, tags: None };

// --- Readers: each knows its dialect from the standard alone

#[derive(Clone, PartialEq, Eq, Debug)]
enum Payload {
    Text(String),
    Binary(Vec<u8>),
}

impl Payload {
    fn text(text: &str) -> Payload {
        Payload::Text(text.to_owned())
    }

    fn unit(&self, encoding: Encoding, stamp: &Stamp<'_>) -> Vec<u8> {
        // Units are appended to what is there.
        let mut out = b"before".to_vec();
        match self {
            Payload::Text(text) => encode(encoding, stamp, Kind::Text, text.as_bytes(), &mut out),
            Payload::Binary(bytes) => encode(encoding, stamp, Kind::Binary, bytes, &mut out),
        }
        out.strip_prefix(b"before").expect("what was there still is").to_vec()
    }
}

/// One whole unmasked frame, RFC 6455 section 5.2: its opcode and payload.
fn frame(bytes: &[u8]) -> (u8, &[u8]) {
    assert_eq!(bytes[0] & 0xF0, 0x80, "FIN and no reserved bit");
    assert!(bytes[1] < 0x80, "no mask");
    let (len, header) = match bytes[1] {
        126 => (u64::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        127 => (u64::from_be_bytes(bytes[2..10].try_into().expect("8 bytes")), 10),
        short => (u64::from(short), 2),
    };
    assert!(header == 2 || len > 125, "the shortest form");
    assert!(header < 10 || len > 65_535, "the shortest form");
    assert_eq!(bytes.len() as u64, len + header as u64);
    (bytes[0] & 0x0F, &bytes[header..])
}

fn read_raw(unit: &[u8]) -> Payload {
    match frame(unit) {
        (1, payload) => Payload::Text(String::from_utf8(payload.to_vec()).expect("UTF-8")),
        (2, payload) => Payload::Binary(payload.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// The fields of an envelope as they came.
fn fields(unit: &[u8]) -> serde_json::Map<String, Value> {
    let (opcode, payload) = frame(unit);
    assert_eq!(opcode, 1);
    match serde_json::from_slice(payload).expect("JSON") {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    topic: String,
    epoch: String,
    offset: u64,
    time: u64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64: Option<String>,
    tags: Option<std::collections::BTreeMap<String, String>>,
}

/// The payload of an envelope. An embedded value stands for its text, without the white space around it.
fn read_json(unit: &[u8]) -> Payload {
    let (opcode, payload) = frame(unit);
    assert_eq!(opcode, 1);
    let envelope: Envelope<'_> = serde_json::from_slice(payload).expect("an envelope");
    match (envelope.data, envelope.b64) {
        (Some(data), None) if data.get().starts_with('"') => {
            Payload::Text(serde_json::from_str(data.get()).expect("a string"))
        }
        (Some(data), None) => Payload::Text(data.get().to_owned()),
        (None, Some(text)) => Payload::Binary(STANDARD.decode(text).expect("base64")),
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Event {
    name: String,
    data: String,
    last_event_id: String,
}

/// A stream as the WHATWG's HTML standard reads it, section 9.2.6: its events, the last id, and the time to reconnect.
fn read_stream(stream: &[u8]) -> (Vec<Event>, String, Option<u64>) {
    let text = String::from_utf8(stream.to_vec()).expect("UTF-8");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut retry) = (Vec::new(), None);
    let (mut data, mut name, mut id_buffer, mut last_event_id) =
        (String::new(), String::new(), String::new(), String::new());
    let (lines, unfinished) = text.rsplit_once('\n').expect("ends with a line");
    assert_eq!(unfinished, "");
    for line in lines.split('\n') {
        if line.is_empty() {
            last_event_id.clone_from(&id_buffer);
            if !data.is_empty() {
                data.pop();
                let name = if name.is_empty() { "message".to_owned() } else { name.clone() };
                events.push(Event { name, data: data.clone(), last_event_id: last_event_id.clone() });
            }
            data.clear();
            name.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => id_buffer = value.to_owned(),
            "retry" => retry = value.parse().ok(),
            _ => {}
        }
    }
    (events, last_event_id, retry)
}

fn only_event(unit: &[u8]) -> Event {
    let (mut events, _, _) = read_stream(unit);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn read_event(unit: &[u8]) -> Payload {
    let event = only_event(unit);
    match event.name.as_str() {
        "message" => Payload::Text(event.data),
        "binary" => Payload::Binary(STANDARD.decode(event.data).expect("base64")),
        other => panic!("{other}"),
    }
}

// --- The cells of the first table

const OBJECT: &str = r#" {"a": [1, 2.50],  "б":"\u0433"} "#;
const OTHER_TEXTS: [&str; 9] = ["hi", "7", "null", "\"a\"", "{", "[1,]", " {\"a\":1} x", "\u{feff}[]", " "];
const LINES: [&str; 6] = ["a\nb", "\n", "\n\n", "a\n", "\n a\n\n  b\n", "data: x\nid: 9\n\nevent: y"];
const TEXTS_WITH_CR: [&str; 4] = ["\r", "a\r\nb", "a\rb\n", "\u{feff}\r"];

fn deep_text() -> String {
    let depth = NESTING_MAX as usize + 1;
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn raw_is(payload: &Payload) {
    let unit = payload.unit(Encoding::Raw, &STAMP);
    assert_eq!(&read_raw(&unit), payload);
    let (kind, bytes) = message_of(&unit).expect("a message");
    let expected = match payload {
        Payload::Text(text) => (Kind::Text, text.as_bytes()),
        Payload::Binary(bytes) => (Kind::Binary, &bytes[..]),
    };
    assert_eq!((kind, bytes), expected);
}

fn json_is(payload: &Payload, end: &str) {
    let unit = payload.unit(Encoding::Json, &STAMP);
    let json = std::str::from_utf8(frame(&unit).1).expect("UTF-8");
    assert_eq!(json, format!(r#"{{"topic":"t","epoch":"z1000000","offset":7,"time":1700000000000,{end}}}"#));
    fields(&unit);
}

fn sse_is(payload: &Payload, start: &str) {
    let expected = format!("{start}id: z1000000-7\n\n");
    assert_eq!(String::from_utf8(payload.unit(Encoding::Event, &STAMP)).expect("UTF-8"), expected);
}

#[test]
fn raw_of_an_object() {
    raw_is(&Payload::text(OBJECT));
}

#[test]
fn raw_of_deep_nesting() {
    raw_is(&Payload::Text(deep_text()));
}

#[test]
fn raw_of_text() {
    OTHER_TEXTS.iter().for_each(|text| raw_is(&Payload::text(text)));
}

#[test]
fn raw_of_lines() {
    LINES.iter().for_each(|text| raw_is(&Payload::text(text)));
}

#[test]
fn raw_of_text_with_cr() {
    TEXTS_WITH_CR.iter().for_each(|text| raw_is(&Payload::text(text)));
}

#[test]
fn raw_of_empty_text() {
    raw_is(&Payload::text(""));
    assert_eq!(Payload::text("").unit(Encoding::Raw, &STAMP), [0x81, 0]);
}

#[test]
fn raw_of_binary() {
    raw_is(&Payload::Binary(vec![0, 255, b'{', 13, 10]));
}

#[test]
fn raw_of_empty_binary() {
    raw_is(&Payload::Binary(Vec::new()));
    assert_eq!(Payload::Binary(Vec::new()).unit(Encoding::Raw, &STAMP), [0x82, 0]);
}

#[test]
fn json_of_an_object() {
    for text in [OBJECT, "{}", "[]", "[1e400]", "\n[\r\n]"] {
        let unit = Payload::text(text).unit(Encoding::Json, &STAMP);
        let json = std::str::from_utf8(frame(&unit).1).expect("UTF-8");
        assert!(json.ends_with(&format!("\"data\":{text}}}")), "{json}");
        assert_eq!(read_json(&unit), Payload::text(text.trim()));
    }
}

#[test]
fn json_of_deep_nesting() {
    json_is(&Payload::Text(deep_text()), &format!("\"data\":\"{}\"", deep_text()));
    let allowed = &deep_text()[1..deep_text().len() - 1];
    json_is(&Payload::text(allowed), &format!("\"data\":{allowed}"));
}

#[test]
fn json_of_other_text() {
    for text in OTHER_TEXTS {
        json_is(&Payload::text(text), &format!("\"data\":{}", Value::from(text)));
    }
}

#[test]
fn json_of_lines() {
    json_is(&Payload::text("a\nb"), r#""data":"a\nb""#);
    for text in LINES {
        assert_eq!(read_json(&Payload::text(text).unit(Encoding::Json, &STAMP)), Payload::text(text));
    }
}

#[test]
fn json_of_text_with_cr() {
    json_is(&Payload::text("a\r\nb"), r#""data":"a\r\nb""#);
    for text in TEXTS_WITH_CR {
        assert_eq!(read_json(&Payload::text(text).unit(Encoding::Json, &STAMP)), Payload::text(text));
    }
}

#[test]
fn json_of_empty_text() {
    json_is(&Payload::text(""), r#""data":"""#);
}

#[test]
fn json_of_binary() {
    json_is(&Payload::Binary(vec![0, 255]), r#""b64":"AP8=""#);
    json_is(&Payload::Binary(b"{}".to_vec()), r#""b64":"e30=""#);
}

#[test]
fn json_of_empty_binary() {
    json_is(&Payload::Binary(Vec::new()), r#""b64":"""#);
}

#[test]
fn sse_of_an_object() {
    sse_is(&Payload::text("{\"a\":1}"), "data: {\"a\":1}\n");
    assert_eq!(read_event(&Payload::text(OBJECT).unit(Encoding::Event, &STAMP)), Payload::text(OBJECT));
    sse_is(&Payload::text("[\r]"), "event: binary\ndata: Ww1d\n");
}

#[test]
fn sse_of_deep_nesting() {
    sse_is(&Payload::Text(deep_text()), &format!("data: {}\n", deep_text()));
}

#[test]
fn sse_of_other_text() {
    sse_is(&Payload::text(" a:b"), "data:  a:b\n");
    for text in OTHER_TEXTS {
        sse_is(&Payload::text(text), &format!("data: {text}\n"));
        assert_eq!(read_event(&Payload::text(text).unit(Encoding::Event, &STAMP)), Payload::text(text));
    }
}

#[test]
fn sse_of_lines() {
    sse_is(&Payload::text("a\n\n b\n"), "data: a\ndata:\ndata:  b\ndata:\n");
    for text in LINES {
        assert_eq!(read_event(&Payload::text(text).unit(Encoding::Event, &STAMP)), Payload::text(text));
    }
}

#[test]
fn sse_of_text_with_cr() {
    for text in TEXTS_WITH_CR {
        let unit = Payload::text(text).unit(Encoding::Event, &STAMP);
        assert_eq!(read_event(&unit), Payload::Binary(text.into()));
    }
}

#[test]
fn sse_of_empty_text() {
    sse_is(&Payload::text(""), "data:\n");
    assert_eq!(read_event(&Payload::text("").unit(Encoding::Event, &STAMP)), Payload::text(""));
}

#[test]
fn sse_of_binary() {
    sse_is(&Payload::Binary(vec![0, 255]), "event: binary\ndata: AP8=\n");
}

#[test]
fn sse_of_empty_binary() {
    let unit = Payload::Binary(Vec::new()).unit(Encoding::Event, &STAMP);
    assert_eq!(read_event(&unit), Payload::Binary(Vec::new()));
}

// --- The cells of the second table

fn data(json: &str) -> Result<Content<'_>, ContentError> {
    Content::from_data(serde_json::from_str(json).expect("JSON"))
}

fn publishes(json: &str, text: &str) {
    assert_eq!(data(json), Ok(Content::Text(text.into())), "{json}");
}

#[test]
fn data_that_is_a_string() {
    publishes(r#""""#, "");
    publishes(r#""a\n\u0431\ud83c\udfba\/""#, "a\nб🎺/");
    publishes(r#""{\"a\":1}""#, "{\"a\":1}");
    publishes(r#""7""#, "7");
}

#[test]
fn data_that_is_another_value() {
    for json in ["{\"a\" : [ 1,\r\n2 ]}", "[]", "7", "-0.50e+400", "true", "false", "null", "[\"\\ud800\"]"] {
        publishes(json, json);
        publishes(&format!(" {json}\n"), json);
    }
}

#[test]
fn data_that_is_refused() {
    assert_eq!(data(r#""\ud800""#), Err(ContentError::NoUnicode));
    assert_eq!(data(&deep_text()), Err(ContentError::TooDeep));
    let far_too_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(data(&far_too_deep), Err(ContentError::TooDeep));
}

#[test]
fn base64_data() {
    for (text, bytes) in [("", &b""[..]), ("AP8=", b"\0\xff"), ("+/+/", b"\xfb\xff\xbf")] {
        assert_eq!(Content::from_base64(text), Ok(Content::Binary(bytes.to_vec())));
    }
}

#[test]
fn base64_data_that_is_refused() {
    for text in ["A", "AP8", "AP8==", "AP9=", "-_-_", "AP8=\n", " AP8=", "AP8=AP8=", "ж"] {
        assert_eq!(Content::from_base64(text), Err(ContentError::NoBase64), "{text}");
    }
}

// --- What else the page says

#[test]
fn each_cell_has_its_test() {
    let page = include_str!("../docs/dialects.md");
    let tests: BTreeSet<_> = include_str!("dialects.rs")
        .split("#[test]\nfn ")
        .skip(1)
        .map(|rest| rest.split('(').next().expect("a name"))
        .collect();
    let (tables, _) = page.split_once("## The JSON dialect").expect("that heading");
    let mut names = BTreeSet::new();
    for line in tables
        .lines()
        .filter(|line| line.starts_with('|') && !line.contains("---"))
        .filter(|line| !line.starts_with("| payload |") && !line.starts_with("| in JSON |"))
    {
        for cell in line.trim_matches('|').split(" | ").skip(1) {
            let name = cell.trim().rsplit("<br>").next().expect("an end").trim_matches('`');
            assert!(tests.contains(name), "{name}: no test of that name, for the cell {cell}");
            assert!(names.insert(name), "{name}: two cells");
        }
    }
    assert_eq!(names.len(), 8 * 3 + 5);
    assert!(page.contains(&format!("deeper than {NESTING_MAX} levels")));
    assert!(page.contains(&format!("at most {}.", sse::POSITIONS_MAX)));
}

#[test]
fn the_error_codes_are_those_of_the_page() {
    use ErrorCode::*;
    let page = include_str!("../docs/dialects.md");
    let (_, table) = page.split_once("| code | meaning |").expect("that table");
    let listed: Vec<u16> = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    let codes = [
        Internal,
        UnknownTopic,
        PermissionDenied,
        AlreadySubscribed,
        LimitExceeded,
        BadRequest,
        TooManyRequests,
    ];
    assert_eq!(listed, codes.map(ErrorCode::number));
}

#[test]
fn tags_stand_before_the_data() {
    let json = r#"{"a":"1", "б\n":""}"#;
    let stamp = Stamp { tags: Tags::parse(json).expect("tags"), ..STAMP };
    let unit = Payload::text("x").unit(Encoding::Json, &stamp);
    assert!(frame(&unit).1.ends_with(format!(",\"tags\":{json},\"data\":\"x\"}}").as_bytes()));
    let envelope: Envelope<'_> = serde_json::from_slice(frame(&unit).1).expect("an envelope");
    assert_eq!(envelope.tags.expect("tags")["б\n"], "");
    for none in ["{}", " { } ", "null"] {
        assert_eq!(Tags::parse(none).expect("no tags"), None);
    }
    for bad in
        ["", "[]", "7", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}", "{\"a\":\"\\ud800\"}", "{\"a\":\"b\"} x"]
    {
        assert!(Tags::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn nothing_is_allocated_but_what_the_log_takes() {
    let json = r#"{"a":[{"b":"\u0433"},[[[1]]]]}"#;
    let stamp = Stamp { tags: Tags::parse(r#"{"a":"b"}"#).expect("tags"), ..STAMP };
    let mut out = Vec::with_capacity(4096);
    let counted = allocation_counter::measure(|| {
        for encoding in [Encoding::Raw, Encoding::Json, Encoding::Event, Encoding::OpenEvent] {
            for text in [json, "a \"\n\u{1}", "\r", ""] {
                encode(encoding, &stamp, Kind::Text, text.as_bytes(), &mut out);
                encode(encoding, &stamp, Kind::Binary, text.as_bytes(), &mut out);
            }
        }
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn what_is_called_text_and_is_not_is_binary() {
    let mut out = Vec::new();
    encode(Encoding::Json, &STAMP, Kind::Text, b"\xff", &mut out);
    assert_eq!(read_json(&out), Payload::Binary(vec![0xFF]));
}

#[test]
fn notices() {
    let id: Box<RawValue> = serde_json::from_str("[1,\n\"x\"]").expect("JSON");
    let here = Since { epoch: Epoch::new(71), offset: Offset(7) };
    for (notice, expected) in [
        (
            Notice::Subscribed {
                topic: "t\"",
                from: here,
                recovered: true,
                client: "1-2-3".parse().expect("an id"),
            },
            r#"{"subscribed":"t\"","epoch":"z1000000","offset":7,"recovered":true,"client":"1-2-3"}"#,
        ),
        (Notice::Unsubscribed { topic: "t" }, r#"{"unsubscribed":"t"}"#),
        (Notice::Skipped { topic: "t", count: 3 }, r#"{"skipped":3,"topic":"t"}"#),
        (
            Notice::Published { topic: "t", at: here, id: &id },
            r#"{"published":"t","epoch":"z1000000","offset":7,"id":[1, "x"]}"#,
        ),
        (Notice::Pong { value: &id }, r#"{"pong":[1, "x"]}"#),
        (
            Notice::Error { code: ErrorCode::PermissionDenied, message: "no\n", topic: Some("t"), id: None },
            r#"{"error":{"code":103,"message":"no\n"},"topic":"t"}"#,
        ),
        (
            Notice::Error { code: ErrorCode::BadRequest, message: "", topic: None, id: Some(&id) },
            r#"{"error":{"code":107,"message":""},"id":[1, "x"]}"#,
        ),
    ] {
        let mut out = Vec::new();
        notice.write_frame(&mut out);
        assert_eq!(frame(&out), (1, expected.as_bytes()));
        assert_eq!(notice.message().text(), Some(expected));
        // The same as an event, with and without an id.
        let mut out = Vec::new();
        sse::write_open_notice(&notice, &mut out);
        sse::write_id([here], &mut out);
        sse::write_open_notice(&notice, &mut out);
        sse::write_end(&mut out);
        let event = Event {
            name: notice.name().to_owned(),
            data: expected.to_owned(),
            last_event_id: "z1000000-7".to_owned(),
        };
        assert_eq!(read_stream(&out).0, [event.clone(), event]);
    }
}

#[test]
fn a_stream_of_several_topics() {
    let mut stream = Vec::new();
    sse::write_retry(3000, &mut stream);
    let mut positions = [("a", 71, 0), ("b", 72, 5)]
        .map(|(topic, epoch, offset)| (topic, Since { epoch: Epoch::new(epoch), offset: Offset(offset) }));
    sse::write_id(positions.map(|(_, position)| position), &mut stream);
    assert_eq!(read_stream(&stream), (vec![], "z1000000-0,02000000-5".to_owned(), Some(3000)));
    for (which, text) in [(1, "x"), (0, "y\nz"), (1, "")] {
        let (topic, position) = &mut positions[which];
        position.offset.0 += 1;
        let stamp = Stamp { topic, epoch: position.epoch, offset: position.offset, ..STAMP };
        encode(Encoding::OpenEvent, &stamp, Kind::Text, text.as_bytes(), &mut stream);
        sse::write_id(positions.map(|(_, position)| position), &mut stream);
        stream.extend_from_slice(sse::HEARTBEAT);
    }
    let (events, last, _) = read_stream(&stream);
    let had: Vec<_> =
        events.iter().map(|event| (event.data.as_str(), event.last_event_id.as_str())).collect();
    assert_eq!(
        had,
        [("x", "z1000000-0,02000000-6"), ("y\nz", "z1000000-1,02000000-6"), ("", "z1000000-1,02000000-7")]
    );
    assert_eq!(
        sse::parse_last_event_id(last.as_bytes()),
        Ok(positions.map(|(_, position)| position).to_vec())
    );
    // Cut anywhere, what counts as had is whole: the event and its id count together.
    for cut in 0..stream.len() {
        let whole = stream[..cut].windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
        if whole > 0 {
            let (had, last, _) = read_stream(&stream[..whole]);
            assert_eq!(had, events[..had.len()]);
            assert!(had.last().is_none_or(|event| event.last_event_id == last));
        }
    }
}

// --- Whatever the payload is

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        r#"[ \n\r:\u{feff}\x00a"\\{}\[\]]{0,12}"#,
        "[a-z\n]{100,200}",
        r#"\{"a":\[[0-9]{1,3}(,"[a-zж\\n]{0,5}"){0,3}\]\}"#,
    ]
}

fn any_payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        any_text().prop_map(Payload::Text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Payload::Binary)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_reader_has_the_payload_again(
        payload in any_payload(), topic in "[a-z\"\\\\ж/]{1,20}", epoch: u64, offset: u64, time_ms: u64
    ) {
        let epoch = Epoch::new(epoch);
        let stamp = Stamp { topic: &topic, epoch, offset: Offset(offset), time_ms, tags: None };
        prop_assert_eq!(read_raw(&payload.unit(Encoding::Raw, &stamp)), payload.clone());

        let unit = payload.unit(Encoding::Json, &stamp);
        let expected = match &payload {
            Payload::Text(text) if is_object_or_array(text.as_bytes()) => Payload::text(text.trim_ascii()),
            other => other.clone(),
        };
        prop_assert_eq!(read_json(&unit), expected);
        let envelope: Envelope<'_> = serde_json::from_slice(frame(&unit).1).expect("an envelope");
        prop_assert_eq!(
            (envelope.topic, envelope.epoch, envelope.offset, envelope.time),
            (topic.clone(), epoch.to_string(), offset, time_ms)
        );

        let unit = payload.unit(Encoding::Event, &stamp);
        let expected = match &payload {
            Payload::Text(text) if text.contains('\r') => Payload::Binary(text.as_bytes().to_vec()),
            other => other.clone(),
        };
        prop_assert_eq!(read_event(&unit), expected);
        let id = only_event(&unit).last_event_id;
        prop_assert_eq!(sse::parse_last_event_id(id.as_bytes()), Ok(vec![Since { epoch, offset: Offset(offset) }]));
        // One is the other and the id.
        let mut open = payload.unit(Encoding::OpenEvent, &stamp);
        sse::write_id([Since { epoch, offset: Offset(offset) }], &mut open);
        prop_assert_eq!(open, unit);
    }

    /// Around the lengths where a frame's header grows, with characters that grow when they are escaped.
    #[test]
    fn frames_of_every_length(len in prop_oneof![0..200_usize, 65_300..65_700_usize], escaped in 0..60_usize, binary: bool) {
        let text = format!("{}{}", "\n".repeat(escaped.min(len)), "x".repeat(len.saturating_sub(escaped)));
        let payload = if binary { Payload::Binary(text.into()) } else { Payload::Text(text) };
        prop_assert_eq!(read_raw(&payload.unit(Encoding::Raw, &STAMP)), payload.clone());
        prop_assert_eq!(read_json(&payload.unit(Encoding::Json, &STAMP)), payload);
    }
}
