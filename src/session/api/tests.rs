//! Requests as their text, replies as theirs, and what becomes of noise.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{
    reply::{self, Channel, History, HistoryItem, Node, Published, Report, Scheduled},
    request::{Delay, Limit, Publication, Recipients, Since, When, Who},
    *,
};
use crate::{broker::name::TopicName, protocol::ws::Kind};

fn parse(method: &str, body: &str) -> Result<Call, Rejection> {
    Call::parse(Method::named(method).expect("a method"), &Bytes::copy_from_slice(body.as_bytes()))
}

#[track_caller]
fn call(method: &str, body: &str) -> Call {
    parse(method, body).unwrap_or_else(|rejection| panic!("{method} {body}: {rejection:?}"))
}

#[track_caller]
fn error(method: &str, body: &str) -> ApiError {
    match parse(method, body) {
        Err(Rejection::Method(error)) => error,
        other => panic!("{method} {body}: {other:?}"),
    }
}

#[track_caller]
fn hint(method: &str, body: &str) -> String {
    match parse(method, body) {
        Err(Rejection::Request(refusal)) => {
            assert_eq!((refusal.status, refusal.reason), (400, "api_body"));
            assert!(!refusal.hint.contains(char::is_control) && refusal.hint.chars().count() < 300);
            refusal.hint.into_owned()
        }
        other => panic!("{method} {body}: {other:?}"),
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

#[track_caller]
fn published(fields: &str) -> Publication {
    match call("publish", &format!(r#"{{"channel":"t",{fields}}}"#)) {
        Call::Publish { topic: name, message } if name == topic("t") => message,
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Publication {
    Publication {
        kind: Kind::Text,
        payload: Bytes::copy_from_slice(text.as_bytes()),
        skip_history: false,
        tags: BTreeMap::new(),
        idempotency_key: None,
        delay: None,
        report: false,
        exclude: None,
    }
}

#[test]
fn a_string_publishes_its_characters_and_any_other_value_its_text() {
    for (data, payload) in [
        (r#""hello""#, "hello"),
        (r#""""#, ""),
        (r#""{\"a\":1}""#, r#"{"a":1}"#),
        (r#""\u00e4\n\ud83e\udd80 \\""#, "ä\n🦀 \\"),
        ("\"ä🦀\"", "ä🦀"),
        (r#"{"a": [1,  2]}"#, r#"{"a": [1,  2]}"#),
        (r#"{"b":1,"a":2,"b":3}"#, r#"{"b":1,"a":2,"b":3}"#),
        ("1.50", "1.50"),
        ("1e999", "1e999"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ("null", "null"),
        ("[\n]", "[\n]"),
        (r#"["\ud800"]"#, r#"["\ud800"]"#),
    ] {
        for spaced in [data.to_owned(), format!(" {data}\n")] {
            assert_eq!(published(&format!(r#""data":{spaced}"#)), text(payload), "{data}");
        }
    }
    // Half a character is no text.
    assert!(hint("publish", r#"{"channel":"t","data":"\ud800"}"#).starts_with("data: "));
}

#[test]
fn payloads_are_parts_of_the_body() {
    let body = Bytes::from_static(br#"{"channel":"t","data":"not copied"}"#);
    let Ok(Call::Publish { message, .. }) = Call::parse(Method::Publish, &body) else { panic!("a call") };
    assert!(body.as_ptr_range().contains(&message.payload.as_ptr()));
}

#[test]
fn binary_comes_as_base64() {
    for b64 in ["AAH/", "AAH/AA==", "AAH/AA", ""] {
        let message = published(&format!(r#""b64data":"{b64}""#));
        assert_eq!(message.kind, Kind::Binary);
        assert_eq!(message.payload, [0, 1, 255, 0][..b64.trim_end_matches('=').len() * 3 / 4]);
    }
    // What libraries send for nothing.
    assert_eq!(published(r#""data":null,"b64data":"AAH/""#).payload, [0, 1, 255][..]);
    assert_eq!(published(r#""data":"x","b64data":"""#), text("x"));
    assert_eq!(published(r#""data":"x","b64data":null"#), text("x"));
    for fields in [
        "",
        r#","b64data":null"#,
        r#","data":{},"b64data":"AA==""#,
        r#","b64data":"A*==""#,
        r#","b64data":"A""#,
    ] {
        assert_eq!(error("publish", &format!(r#"{{"channel":"t"{fields}}}"#)).code, 107, "{fields}");
    }
}

#[test]
fn how_a_message_is_published() {
    let message = published(
        r#""data":"x","skip_history":true,"tags":{"b":"2","a":"1"},"idempotency_key":"k","delay":"1500ms","report":true,
           "exclude":"abc","delta":true,"version":18446744073709551615,"version_epoch":"","unknown":[{}]"#,
    );
    let tags = [("a", "1"), ("b", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let expected = Publication {
        skip_history: true,
        tags,
        idempotency_key: Some("k".into()),
        delay: Some(Delay::For(Duration::from_millis(1500))),
        report: true,
        exclude: Some("abc".into()),
        ..text("x")
    };
    assert_eq!(message, expected);
    let nothing = r#""data":"x","skip_history":null,"tags":null,"idempotency_key":"","delay":null,"report":false,"exclude":"""#;
    assert_eq!(published(nothing), text("x"));
    let at = Publication { delay: Some(Delay::Until(u64::MAX)), ..text("x") };
    assert_eq!(published(r#""data":"x","at":18446744073709551615"#), at);
    for delay in ["5", "", "-1s", "1.5s", "soon", "99999999999999999999h", "367h30m", "8785h"] {
        let body = format!(r#"{{"channel":"t","data":"x","delay":"{delay}"}}"#);
        assert_eq!(error("publish", &body).code, 107, "{delay}");
    }
    assert_eq!(error("publish", r#"{"channel":"t","data":"x","delay":"5s","at":5}"#).code, 107);
}

#[test]
fn names_are_checked() {
    let long = "x".repeat(256);
    for channel in ["", "a*", "_stentor/x", "a\\u0000", &long] {
        for method in ["publish", "history", "history_remove", "schedule", "unsubscribe"] {
            let body = format!(r#"{{"channel":"{channel}","data":1,"delay":"1s","user":"u"}}"#);
            assert_eq!(error(method, &body).code, 107, "{method} {channel}");
        }
    }
    assert_eq!(error("publish", r#"{"data":1}"#).message, "bad request: channel is missing or empty");
}

#[test]
fn broadcasts() {
    let to = |fields: &str| match call("broadcast", &format!(r#"{{"data":"x",{fields}}}"#)) {
        Call::Broadcast { to, message } if message == text("x") => to,
        other => panic!("{other:?}"),
    };
    let Recipients::Topics(topics) = to(r#""channels":["a","","b*","c"]"#) else { panic!("topics") };
    let topics: Vec<_> = topics.into_iter().map(|name| name.map_err(|error| error.code)).collect();
    assert_eq!(topics, [Ok(topic("a")), Err(107), Err(107), Ok(topic("c"))]);
    assert_eq!(to(r#""match":"chat/*""#), Recipients::Match("chat/*".into()));
    for fields in ["", r#","channels":[]"#, r#","match":"""#, r#","channels":["a"],"match":"**""#] {
        assert_eq!(error("broadcast", &format!(r#"{{"data":"x"{fields}}}"#)).code, 107, "{fields}");
    }
}

#[test]
fn histories() {
    let history = |fields: &str| match call("history", &format!(r#"{{"channel":"t"{fields}}}"#)) {
        Call::History { limit, since, reverse, .. } => (limit, since, reverse),
        other => panic!("{other:?}"),
    };
    assert_eq!(history(""), (Limit::PositionOnly, None, false));
    assert_eq!(history(r#","limit":0,"since":null,"reverse":true"#), (Limit::PositionOnly, None, true));
    assert_eq!(history(r#","limit":10"#).0, Limit::AtMost(10));
    for limit in ["-1", "-5", "-9223372036854775808"] {
        assert_eq!(history(&format!(r#","limit":{limit}"#)).0, Limit::All, "{limit}");
    }
    let since = |fields: &str| history(&format!(r#","since":{{{fields}}}"#)).1.expect("a position");
    let epoch = Some("abc".to_owned());
    assert_eq!(since(r#""offset":18446744073709551615,"epoch":"abc""#), Since { offset: u64::MAX, epoch });
    assert_eq!(since(""), Since { offset: 0, epoch: None });
    assert_eq!(since(r#""epoch":"""#), Since { offset: 0, epoch: None });
}

#[test]
fn calls_about_connections() {
    let who = |user: &str, client: &str| {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Who { user: given(user), client: given(client), session: None }
    };
    let subscribe = Call::Subscribe { who: who("u", ""), topic: topic("t") };
    assert_eq!(
        call("subscribe", r#"{"user":"u","channel":"t","client":"","info":{},"expire_at":5}"#),
        subscribe
    );
    let unsubscribe = Call::Unsubscribe { who: who("", "c"), topic: topic("t") };
    assert_eq!(call("unsubscribe", r#"{"user":"","channel":"t","client":"c"}"#), unsubscribe);
    let disconnect = |code, reason: &str, whitelist: &[&str]| Call::Disconnect {
        who: who("u", "c"),
        whitelist: whitelist.iter().map(|&id| id.to_owned()).collect(),
        code,
        reason: reason.to_owned(),
    };
    assert_eq!(call("disconnect", r#"{"user":"u","client":"c"}"#), disconnect(None, "", &[]));
    assert_eq!(
        call(
            "disconnect",
            r#"{"user":"u","client":"c","whitelist":["a"],"disconnect":{"code":4001,"reason":"bye"}}"#
        ),
        disconnect(Some(4001), "bye", &["a"])
    );
    for code in ["1", "2999", "5000", "65536", "18446744073709551615"] {
        let body = format!(r#"{{"user":"u","disconnect":{{"code":{code}}}}}"#);
        assert_eq!(error("disconnect", &body).code, 107, "{code}");
    }
    for method in ["subscribe", "unsubscribe", "disconnect"] {
        assert_eq!(
            error(method, r#"{"channel":"t","user":""}"#).code,
            107,
            "{method}: nobody is not everybody"
        );
    }
}

#[test]
fn schedules() {
    let when = |fields: &str| match call("schedule", &format!(r#"{{"channel":"t","data":"x",{fields}}}"#)) {
        Call::Schedule { topic: name, message, when } if name == topic("t") && message == text("x") => when,
        other => panic!("{other:?}"),
    };
    assert_eq!(when(r#""delay":"5s""#), When::Once(Delay::For(Duration::from_secs(5))));
    assert_eq!(when(r#""at":0"#), When::Once(Delay::Until(0)), "the past is for whoever has a clock");
    assert_eq!(when(r#""every":"1m""#), When::Every(Duration::from_secs(60)));
    for fields in ["", r#","every":"0s""#, r#","every":"0ms""#, r#","every":"1s","at":5"#, r#","every":"5""#]
    {
        assert_eq!(
            error("schedule", &format!(r#"{{"channel":"t","data":"x"{fields}}}"#)).code,
            107,
            "{fields}"
        );
    }
    assert_eq!(call("schedules", "{}"), Call::Schedules);
    assert_eq!(call("schedule_cancel", r#"{"id":"7"}"#), Call::ScheduleCancel { id: "7".into() });
    assert_eq!(error("schedule_cancel", "{}").code, 107);
}

#[test]
fn batches() {
    let body = r#"{"parallel":true,"commands":[
        {"publish":{"channel":"t","data":"x"}},
        {"info":{},"id":7},
        {"publish":{"channel":""}},
        {"presence":{"channel":"t"}},
        {"batch":{"commands":[]}},
        {"dance":{}},
        {},
        {"info":{},"channels":{}}
    ]}"#;
    let Call::Batch { commands, parallel } = call("batch", body) else { panic!("a batch") };
    assert!(parallel);
    let commands: Vec<_> = commands.into_iter().map(|command| command.map_err(|error| error.code)).collect();
    let publish = Call::Publish { topic: topic("t"), message: text("x") };
    assert_eq!(
        commands,
        [
            Ok((Method::Publish, publish)),
            Ok((Method::Info, Call::Info)),
            Err(107),
            Err(108),
            Err(104),
            Err(104),
            Err(104),
            Err(107)
        ]
    );
    for body in ["{}", r#"{"commands":[]}"#, r#"{"commands":null}"#] {
        assert_eq!(error("batch", body).code, 107, "{body}");
    }
    let many = format!(r#"{{"commands":[{}{{}}]}}"#, "{},".repeat(1000));
    assert_eq!(error("batch", &many), ApiError::LIMIT_EXCEEDED);
    let wrong = r#"{"commands":[{"info":{}},{"publish":{"channel":5}}]}"#;
    assert!(hint("batch", wrong).starts_with("commands[1]: invalid type: integer `5`"));
    assert!(hint("batch", r#"{"commands":[5]}"#).starts_with("commands[0]: "));
}

#[test]
fn what_needs_nothing_takes_no_body() {
    for (method, expected) in
        [("info", Call::Info), ("schedules", Call::Schedules), ("channels", Call::Channels { pattern: None })]
    {
        for body in ["", " \r\n", "{}", r#"{"pattern":"","more":1}"#] {
            assert_eq!(call(method, body), expected, "{method} {body:?}");
        }
    }
    let pattern = Some("chat/*".to_owned());
    assert_eq!(call("channels", r#"{"pattern":"chat/*"}"#), Call::Channels { pattern });
    assert!(hint("publish", "").contains("empty"));
}

#[test]
fn what_is_not_available_says_so() {
    for method in ["presence", "presence_stats", "refresh"] {
        assert_eq!(error(method, r#"{"channel":"t","user":"u"}"#), ApiError::NOT_AVAILABLE, "{method}");
    }
    assert_eq!(Method::named("rpc"), None);
    assert_eq!(Method::named("Publish"), None);
    for method in Method::ALL {
        assert_eq!(Method::named(method.name()), Some(method));
    }
}

#[test]
fn bodies_that_are_no_json_or_have_wrong_types_say_where() {
    for (body, says) in [
        (r#"{"channel":"t","data":}"#, "line 1 column 23"),
        ("{\"channel\":\n5}", "invalid type: integer `5`, expected a string at line 2 column 1"),
        (r#"{"channel":"t","data":1"#, "EOF"),
        (r#"{"channel":"t","data":1}x"#, "trailing characters"),
        (r#"{"channel":"t","channel":"u","data":1}"#, "duplicate field `channel`"),
        (r#"{"channel":"t","data":1,"tags":["a"]}"#, "invalid type: sequence"),
        (r#"{"channel":"t","data":1,"tags":{"a":1}}"#, "invalid type: integer `1`"),
        (r#"{"channel":"t","data":1,"skip_history":"yes"}"#, "invalid type: string \"yes\""),
        (r#"{"channel":"t","data":1,"delay":5}"#, "invalid type: integer `5`"),
        (r#"{"channel":"t","data":1,"at":-5}"#, "invalid value: integer `-5`"),
        (r#"{"channel":"t","data":1,"at":18446744073709551616}"#, "invalid"),
        (r#"{"channel":["t"],"data":1}"#, "invalid type: sequence"),
        ("[]", "JSON object"),
        ("5", "JSON object"),
        ("null", "JSON object"),
        ("channel=t&data=x", "JSON object"),
        ("<xml/>", "JSON object"),
        ("\u{feff}{}", "JSON object"),
        ("{'channel':'t'}", "line 1 column 2"),
        ("{\"channel\":\"t\0\",\"data\":1}", "control character"),
    ] {
        let hint = hint("publish", body);
        assert!(hint.contains(says), "{body}: {hint}");
    }
    for (method, body) in [
        ("history", r#"{"channel":"t","limit":1.5}"#),
        ("history", r#"{"channel":"t","limit":1e3}"#),
        ("history", r#"{"channel":"t","limit":99999999999999999999}"#),
        ("history", r#"{"channel":"t","limit":"1"}"#),
        ("history", r#"{"channel":"t","since":5}"#),
        ("history", r#"{"channel":"t","since":{"offset":-1}}"#),
        ("history", r#"{"channel":"t","since":{"offset":18446744073709551616}}"#),
        ("history", r#"{"channel":"t","since":{"epoch":5}}"#),
        ("disconnect", r#"{"user":5}"#),
        ("broadcast", r#"{"channels":"t","data":1}"#),
        ("broadcast", r#"{"channels":[5],"data":1}"#),
        ("batch", r#"{"commands":{}}"#),
        ("info", "{"),
        ("presence", "[]"),
    ] {
        hint(method, body);
    }
    let invalid = Bytes::from_static(b"{\"channel\":\"\xff\",\"data\":1}");
    assert!(matches!(Call::parse(Method::Publish, &invalid), Err(Rejection::Request(_))));
    let invalid = Bytes::from_static(b"{\"channel\":\"t\",\"data\":\"\xff\"}");
    assert!(matches!(Call::parse(Method::Publish, &invalid), Err(Rejection::Request(_))));
    let long = format!(r#"{{"channel":"t","data":1,"skip_history":"{}"}}"#, "\\u0000".repeat(10_000));
    hint("publish", &long);
}

#[test]
fn deep_nesting_is_safe() {
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    // A payload is passed on; whether it is worth reading is for who reads it.
    assert_eq!(published(&format!(r#""data":{deep}"#)).payload.len(), deep.len());
    published(&format!(r#""data":1,"unknown":{deep}"#));
    hint("publish", &format!(r#"{{"channel":"t","data":1,"tags":{deep}}}"#));
    hint("publish", &format!(r#"{{"channel":"t","data":{}"#, "[".repeat(500_000)));
    hint("history", &r#"{"since":"#.repeat(100_000));
    hint("batch", &r#"{"commands":[{"batch":"#.repeat(50_000));
}

#[track_caller]
fn written(outcome: &Result<Reply, ApiError>) -> String {
    let response = reply::response(outcome);
    assert_eq!((response.status, response.content_type), (200, "application/json"));
    String::from_utf8(response.body.to_vec()).expect("JSON is UTF-8")
}

fn at(offset: u64) -> Published {
    Published { offset, epoch: "abc".into(), report: None }
}

#[test]
fn replies() {
    let report = Report { sent: 5, behind: 4, skipped: 3, conflated: 2, closed: 1 };
    let data = RawValue::from_string(r#"{"a":  1}"#.into()).expect("JSON");
    let tags = BTreeMap::from([("k".to_owned(), "\"".to_owned())]);
    let publications = vec![HistoryItem { data, offset: u64::MAX, tags }];
    let node = Node {
        uid: "u".into(),
        name: "n".into(),
        version: "1".into(),
        num_clients: 1,
        num_users: 2,
        num_channels: 3,
        num_subs: 4,
        uptime: 5,
    };
    let scheduled = |every: Option<&str>| Scheduled {
        id: "7".into(),
        name: None,
        channel: "t".into(),
        at: 9,
        every: every.map(str::to_owned),
    };
    let batch = vec![
        Ok((Method::Publish, Reply::Published(at(1)))),
        Err(ApiError::METHOD_NOT_FOUND),
        Ok((Method::HistoryRemove, Reply::Done)),
    ];
    for (reply, json) in [
        (Reply::Published(at(1)), r#"{"result":{"offset":1,"epoch":"abc"}}"#),
        (
            Reply::Published(Published { report: Some(report), ..at(u64::MAX) }),
            r#"{"result":{"offset":18446744073709551615,"epoch":"abc","report":{"sent":5,"behind":4,"skipped":3,"conflated":2,"closed":1}}}"#,
        ),
        (
            Reply::Broadcast(vec![Ok(Reply::Published(at(1))), Err(ApiError::bad_request("no"))]),
            r#"{"result":{"responses":[{"result":{"offset":1,"epoch":"abc"}},{"error":{"code":107,"message":"bad request: no"}}]}}"#,
        ),
        (
            Reply::Batch(batch),
            r#"{"replies":[{"publish":{"offset":1,"epoch":"abc"}},{"error":{"code":104,"message":"method not found"}},{"history_remove":{}}]}"#,
        ),
        (
            Reply::History(History { publications, offset: 9, epoch: "abc".into() }),
            r#"{"result":{"publications":[{"data":{"a":  1},"offset":18446744073709551615,"tags":{"k":"\""}}],"offset":9,"epoch":"abc"}}"#,
        ),
        (
            Reply::Channels(BTreeMap::from([("a".to_owned(), Channel { num_clients: 2 })])),
            r#"{"result":{"channels":{"a":{"num_clients":2}}}}"#,
        ),
        (
            Reply::Info(vec![node]),
            r#"{"result":{"nodes":[{"uid":"u","name":"n","version":"1","num_clients":1,"num_users":2,"num_channels":3,"num_subs":4,"uptime":5}]}}"#,
        ),
        (Reply::Scheduled { id: "7".into() }, r#"{"result":{"id":"7"}}"#),
        (
            Reply::Schedules(vec![scheduled(None), scheduled(Some("1m"))]),
            r#"{"result":{"schedules":[{"id":"7","channel":"t","at":9},{"id":"7","channel":"t","at":9,"every":"1m"}]}}"#,
        ),
        (Reply::Done, r#"{"result":{}}"#),
    ] {
        assert_eq!(written(&Ok(reply)), json);
    }
    assert_eq!(
        written(&Err(ApiError::UNKNOWN_CHANNEL)),
        r#"{"error":{"code":102,"message":"unknown channel"}}"#
    );
}

/// JSON of any shape, with the fields that methods know among others.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter_map("a number", |number| serde_json::to_string(&number).ok()),
        any::<String>().prop_filter_map("a string", |text| serde_json::to_string(&text).ok()),
        prop::sample::select(
            &["null", "true", "\"5s\"", "\"t\"", "18446744073709551615", "-1", "[]", "{}"][..]
        )
        .prop_map(str::to_owned),
    ];
    let name = prop::sample::select(
        &[
            "channel",
            "channels",
            "data",
            "b64data",
            "commands",
            "publish",
            "batch",
            "limit",
            "since",
            "offset",
            "epoch",
            "tags",
            "delay",
            "at",
            "every",
            "match",
            "user",
            "disconnect",
            "code",
            "id",
            "x",
        ][..],
    );
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_panics(json in json(), noise in prop::collection::vec(any::<u8>(), 0..100), cut in any::<prop::sample::Index>()) {
        let mut changed = json.clone().into_bytes();
        let at = cut.index(changed.len());
        changed.splice(at..at, noise.iter().copied());
        let bodies = [Bytes::from(json), Bytes::from(changed), Bytes::from(noise)];
        for (method, body) in Method::ALL.iter().flat_map(|method| bodies.iter().map(move |body| (*method, body))) {
            match Call::parse(method, body) {
                Ok(Call::Publish { message, .. }) if message.kind == Kind::Text => {
                    prop_assert!(std::str::from_utf8(&message.payload).is_ok());
                }
                Ok(_) => {}
                Err(Rejection::Request(refusal)) => prop_assert_eq!(refusal.status, 400),
                Err(Rejection::Method(error)) => prop_assert!(matches!(error.code, 104 | 106 | 107 | 108)),
            }
        }
    }

    #[test]
    fn any_text_is_published_as_it_is(data: String) {
        let json = serde_json::to_string(&data).expect("a string");
        prop_assert_eq!(published(&format!(r#""data":{json}"#)), text(&data));
    }
}
