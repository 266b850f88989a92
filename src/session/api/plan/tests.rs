//! Plans without a server: what is begun when, and what answers make together.

use super::*;

fn plan(method: Method, body: &str) -> Plan {
    let call = Call::parse(method, &Bytes::copy_from_slice(body.as_bytes())).expect("a call");
    Plan::new(call, 3)
}

fn at(offset: u64) -> Outcome {
    published(Ok(Place { epoch: Epoch(1), offset: Offset(offset) }))
}

/// Begins all that can be; gives numbers and what they are.
fn begun(plan: &mut Plan) -> Vec<(u32, String)> {
    let name = |errand: Errand| {
        let debug = format!("{errand:?}");
        debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    std::iter::from_fn(|| plan.next_errand()).map(|(number, errand)| (number, name(errand))).collect()
}

fn numbers(plan: &mut Plan) -> Vec<u32> {
    begun(plan).into_iter().map(|(number, _)| number).collect()
}

fn answer(plan: Plan) -> serde_json::Value {
    assert!(plan.is_over());
    serde_json::from_slice(&plan.response().expect("not refused").body).expect("JSON")
}

#[test]
fn messages_are_begun_together_and_nothing_overtakes_them() {
    let mut plan = plan(
        Method::Batch,
        r#"{"parallel":true,"commands":[
            {"publish":{"channel":"a","data":1}},{"broadcast":{"channels":["a","","b"],"data":2}},
            {"broadcast":{"match":"**","data":3}},{"publish":{"channel":"a","data":4}},
            {"publish":{"channel":"a","data":5,"delay":"1s"}},{"history":{"channel":"a"}},
            {"publish":{"channel":"a","data":6}}]}"#,
    );
    assert_eq!(numbers(&mut plan), [0, 1, 3], "the second of the list is no topic");
    plan.done(0, at(1));
    plan.done(3, at(1));
    assert!(begun(&mut plan).is_empty());
    plan.done(1, at(2));
    assert_eq!(begun(&mut plan), [(4, "Announce".into())]);
    for part in 1..=3 {
        assert!(begun(&mut plan).is_empty(), "everybody has its part");
        plan.done(4, Ok(Reply::Announced { topics: part }));
    }
    assert_eq!(begun(&mut plan), [(5, "Publish".into())]);
    plan.done(5, at(3));
    assert_eq!(begun(&mut plan), [(6, "Schedule".into())]);
    plan.done(6, Ok(Reply::Scheduled { id: "x".into() }));
    assert_eq!(begun(&mut plan), [(7, "Page".into())]);
    plan.done(7, Err(ApiError::NO_HISTORY));
    assert_eq!(begun(&mut plan), [(8, "Publish".into())]);
    assert!(!plan.is_over());
    plan.done(8, at(4));
    plan.done(8, at(99));
    let answer = answer(plan);
    let replies = answer["replies"].as_array().expect("a list");
    assert_eq!(replies.len(), 7);
    assert_eq!(replies[1]["broadcast"]["responses"][1]["error"]["code"], 107);
    assert_eq!(replies[1]["broadcast"]["responses"][2]["result"]["offset"], 1);
    assert_eq!(replies[2]["broadcast"]["topics"], 6);
    assert_eq!(replies[4]["publish"]["id"], "x");
    assert_eq!(replies[5]["error"]["code"], 108);
    assert_eq!(replies[6]["publish"]["offset"], 4, "a second answer is none");
}

#[test]
fn so_much_is_under_way_and_no_more() {
    let topics: Vec<String> = (0..1000).map(|i| format!("\"t{i}\"")).collect();
    let mut many = plan(Method::Broadcast, &format!(r#"{{"channels":[{}],"data":1}}"#, topics.join(",")));
    assert_eq!(begun(&mut many).len(), OPEN_MAX);
    for number in 0..1000 {
        many.done(number, at(1));
        assert!(begun(&mut many).len() <= 1, "one for one");
    }
    assert_eq!(answer(many)["result"]["responses"].as_array().map(Vec::len), Some(1000));

    let large = "x".repeat(OPEN_BYTES_MAX * 2 / 5);
    let mut few = plan(Method::Broadcast, &format!(r#"{{"channels":["a","b","c","d"],"data":"{large}"}}"#));
    assert_eq!(numbers(&mut few), [0, 1]);
    few.done(0, at(1));
    assert_eq!(numbers(&mut few), [2]);

    let larger = "x".repeat(OPEN_BYTES_MAX * 2);
    let body = format!(
        r#"{{"commands":[{{"publish":{{"channel":"a","data":"{larger}"}}}},{{"publish":{{"channel":"a","data":1}}}}]}}"#
    );
    let mut one = plan(Method::Batch, &body);
    assert_eq!(numbers(&mut one), [0], "one of any size");
    one.done(0, at(1));
    assert_eq!(numbers(&mut one), [1]);
}

#[test]
fn lists_have_a_bound_together() {
    let list = |topics: usize| {
        let topics = vec!["\"t\""; topics].join(",");
        format!(r#"{{"broadcast":{{"channels":[{topics}],"data":1}}}}"#)
    };
    let commands = [list(60_000), list(50_000), list(40_000)].join(",");
    let mut plan = plan(Method::Batch, &format!(r#"{{"commands":[{commands}]}}"#));
    while let Some((number, _)) = plan.next_errand() {
        plan.done(number, at(1));
    }
    let replies = answer(plan)["replies"].clone();
    let answered = |at: usize| replies[at]["broadcast"]["responses"].as_array().map(Vec::len);
    assert_eq!((answered(0), answered(1)), (Some(60_000), None));
    assert_eq!(replies[1]["error"]["code"], 106);
    assert_eq!(replies[2]["error"]["code"], 106, "60,000 and one error are answered already");
}

#[test]
fn an_answer_has_a_bound() {
    let commands = [r#"{"history":{"channel":"a","limit":-1}}"#; 10].join(",");
    let mut plan = plan(Method::Batch, &format!(r#"{{"commands":[{commands}]}}"#));
    let text = format!("\"{}\"", "x".repeat(4 << 20));
    let page = || {
        let data = serde_json::value::RawValue::from_string(text.clone()).expect("JSON");
        let item = reply::HistoryItem { data, offset: 1, tags: std::collections::BTreeMap::new() };
        Reply::History(reply::History { publications: vec![item], offset: 1, epoch: String::new() })
    };
    let mut asked = 0;
    while let [number] = numbers(&mut plan)[..] {
        plan.done(number, Ok(page()));
        asked += 1;
    }
    assert_eq!(asked, 4);
    assert!(plan.answer_bytes() < 20 << 20);
    let answer = answer(plan);
    assert_eq!(answer["replies"][9]["error"]["code"], 106);
}

#[test]
fn parts_of_all_workers_make_one_answer() {
    let channel = |name: &str, num_clients| (name.to_owned(), reply::Channel { num_clients });
    let mut channels = plan(Method::Channels, "{}");
    assert_eq!(begun(&mut channels), [(0, "Channels".into())]);
    for part in [vec![channel("a", 1), channel("b", 2)], vec![], vec![channel("a", 3)]] {
        assert!(!channels.is_over());
        channels.done(0, Ok(Reply::Channels(part.into_iter().collect())));
    }
    let list = answer(channels)["result"]["channels"].clone();
    assert_eq!((&list["a"]["num_clients"], &list["b"]["num_clients"]), (&4.into(), &2.into()));

    for (found, is_there) in [([false, true, false], true), ([false; 3], false)] {
        let mut cancel = plan(Method::ScheduleCancel, r#"{"id":"x"}"#);
        begun(&mut cancel);
        found.into_iter().for_each(|one| cancel.done(0, Ok(Reply::Cancelled(one))));
        assert_eq!(answer(cancel).get("result").is_some(), is_there);
    }
}

#[test]
fn one_message_without_room_is_refused_and_several_are_answered() {
    let mut one = plan(Method::Publish, r#"{"channel":"a","data":1}"#);
    begun(&mut one);
    one.done(0, published(Err(NotPublished::TooLate)));
    assert_eq!(one.response().expect_err("no room").status, 503);
    let mut two = plan(Method::Broadcast, r#"{"channels":["a","b"],"data":1}"#);
    begun(&mut two);
    two.done(0, published(Err(NotPublished::TooLate)));
    two.done(1, published(Err(NotPublished::TooManyTopics)));
    let answer = answer(two);
    let codes = [0, 1].map(|i| answer["result"]["responses"][i]["error"]["code"].clone());
    assert_eq!(codes, [111, 106]);
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let tags = format!(r#"{{"channel":"a","data":1,"tags":{{"k":"{}"}}}}"#, "x".repeat(TAGS_BYTES_MAX));
    let reason = format!(r#"{{"client":"0-0-0","disconnect":{{"reason":"{}"}}}}"#, "x".repeat(124));
    for (method, body, code) in [
        (Method::Publish, tags.as_str(), 107),
        (Method::Disconnect, &reason, 107),
        (Method::Disconnect, r#"{"client":"0-0-0","user":"u"}"#, 108),
        (Method::Disconnect, r#"{"client":"0-0-0","session":"s"}"#, 108),
        (Method::Schedule, r#"{"channel":"a","data":1,"every":"1s","idempotency_key":"k"}"#, 107),
        (Method::Broadcast, r#"{"match":"**","data":1,"report":true}"#, 107),
        (Method::Channels, r#"{"pattern":"a/**/b"}"#, 107),
        (Method::History, r#"{"channel":"a","since":{"offset":1,"epoch":"x"}}"#, 112),
    ] {
        let mut plan = plan(method, body);
        assert!(begun(&mut plan).is_empty(), "{body}");
        assert_eq!(answer(plan)["error"]["code"], code, "{body}");
    }
    let mut spared = plan(Method::Disconnect, r#"{"client":"0-0-0","whitelist":["0-0-0"]}"#);
    assert!(begun(&mut spared).is_empty());
    assert!(answer(spared).get("result").is_some());
}
