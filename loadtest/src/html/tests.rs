//! Pages of whole documents: what they hold, what they must not, and whether a browser can read them.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};

use super::page;

const COMPARISON: &str = include_str!("../../tests/documents/comparison.json");
const FANOUT: &str = include_str!("../../tests/documents/fanout.json");
const VOID: &str = include_str!("../../tests/documents/void.json");
const IDLE: &str = include_str!("../../tests/documents/idle.json");
const ECHO: &str = include_str!("../../tests/documents/echo.json");

fn read(document: &str) -> Value {
    serde_json::from_str(document).unwrap()
}

/// The page of a document; a browser can read it, and fetches nothing.
#[track_caller]
fn checked(document: &Value) -> String {
    let page = page(document).unwrap();
    well_formed(&page);
    for reference in ["href=", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""), "every coordinate is a number");
    page
}

/// All elements are closed in order, but those that never are.
#[track_caller]
fn well_formed(page: &str) {
    let mut reader = Reader::from_str(page);
    let config = reader.config_mut();
    (config.check_end_names, config.allow_unmatched_ends) = (false, true);
    let mut open: Vec<String> = Vec::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) if matches!(tag.name().as_ref(), "meta" | "input" | "br") => {}
            Event::Start(tag) => {
                tag.html_attributes().for_each(|attribute| drop(attribute.unwrap()));
                open.push(tag.name().as_ref().to_string());
            }
            Event::End(tag) => {
                let opened = open.pop();
                assert_eq!(
                    opened.as_deref(),
                    Some(tag.name().as_ref()),
                    "at byte {}",
                    reader.buffer_position()
                );
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(open.is_empty());
}

fn texts<'a>(list: &'a Value, key: &'a str) -> impl Iterator<Item = &'a str> {
    list.as_array().unwrap().iter().filter_map(move |item| item[key].as_str())
}

#[track_caller]
fn holds(page: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    assert!(page.contains(&escaped), "the page lacks {text:?}");
}

#[test]
fn a_comparison_names_everything() {
    let document = read(COMPARISON);
    let page = checked(&document);
    for key in ["name", "about", "options", "version"] {
        texts(&document["peers"], key).for_each(|text| holds(&page, text));
    }
    for key in ["name", "about"] {
        texts(&document["scenarios"], key).for_each(|text| holds(&page, text));
    }
    texts(&document["runs"], "variant").for_each(|variant| holds(&page, &variant.replace('=', " = ")));
    texts(&document["runs"], "failure").for_each(|failure| holds(&page, failure));
    for run in document["runs"].as_array().unwrap() {
        for reason in run["report"]["void_because"].as_array().into_iter().flatten() {
            holds(&page, reason.as_str().unwrap());
        }
    }
    for (key, value) in document["environment"].as_object().unwrap() {
        if let Some(text) = value.as_str() {
            assert!(page.contains(text), "{key}");
        }
    }
    let install = "<code>go install github.com/centrifugal/centrifugo/v6@latest</code>";
    for part in [
        "The knee",
        "Latency by percentile",
        "99.99\u{a0}%",
        "Until the last subscriber had it",
        "≥ ",
        install,
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_server_has_one_colour() {
    let page = checked(&read(COMPARISON));
    for peer in 0..5 {
        for other in (0..8).filter(|other| *other != peer) {
            assert!(!page.contains(&format!("c{other} peer-{peer}")));
        }
    }
}

#[test]
fn single_runs() {
    for (document, parts) in [
        (FANOUT, &["Broadcast to many subscribers", "1000\u{a0}subscribers", "Deliveries over time"][..]),
        (VOID, &["Void: these figures do not count.", "1207 lost; 1 closed by the server", "hypervisor"]),
        (IDLE, &["Idle connections", "Server memory by connections", "Time from SYN to 101"]),
        (ECHO, &["Echo", "200\u{a0}connections", "share of messages"]),
    ] {
        let page = checked(&read(document));
        parts.iter().for_each(|part| assert!(page.contains(part), "{part}"));
        assert!(!page.contains("<nav"), "one server has nothing to choose from");
    }
}

#[test]
fn latencies_that_are_lower_bounds_are_marked() {
    let latency =
        json!({"count": 9, "waiting": 3, "p50": 1000.0, "p99": 7000.0, "lower_bounds": ["mean", "p99"]});
    let report = json!({"command": "fanout", "verdict": "valid", "figures": {"latency_us": latency}});
    let page = checked(&report);
    assert!(page.contains(">≥ 7.00\u{a0}ms<") && page.contains(">1.00\u{a0}ms<"), "{page}");
    let run = json!({"scenario": "s", "peer": "a", "round": 1, "failure": null, "report": report});
    let page = checked(&json!({"command": "compare", "peers": [], "scenarios": [], "runs": [run]}));
    assert!(
        page.matches("≥ 7<").count() == 2 && !page.contains("≥ 1<"),
        "in the table and in that of the runs: {page}"
    );
}

#[test]
fn what_is_missing_is_no_zero() {
    let bare = json!({"command": "fanout", "verdict": "valid", "figures": {"deliveries_per_second": 5.0}});
    let page = checked(&bare);
    assert!(page.contains("5.00/s"));
    assert!(page.contains("Latency p99</dt><dd class=\"quiet\">–</dd>"), "{page}");
    assert!(!page.contains(">0<") && !page.contains(">0\u{a0}µs<"));

    let nothing = json!({"command": "compare", "peers": [], "scenarios": [], "runs": []});
    checked(&nothing);
    let run = json!({"scenario": "new", "peer": "unlisted", "report": null, "failure": "it did not start"});
    let page =
        checked(&json!({"command": "limit", "peers": [], "scenarios": [], "runs": [run], "table": null}));
    ["unlisted", "it did not start"].iter().for_each(|text| holds(&page, text));
}

#[test]
fn a_table_without_runs_is_enough() {
    let mut document = read(COMPARISON);
    document["runs"] = json!([]);
    document["table"][0]["metrics"]["other_rate"] = json!({"median": 812.0, "min": 800.0, "max": 820.0});
    let page = checked(&document);
    ["Server CPU per delivery", "Other rate", "outstanding = 64"].iter().for_each(|text| holds(&page, text));
}

#[test]
fn ratios_of_limit_are_those_of_its_tables() {
    let spread = |value: f64| json!({"deliveries_per_second": {"median": value, "min": value, "max": value, "count": 3}});
    let row = |peer: &str, ratio: Value| json!({"scenario": "s", "variant": "", "peer": peer, "rounds": 1, "void": 0, "metrics": spread(5.0), "ratio": ratio});
    let ratio = json!({"to": "stentor", "metrics": spread(1.25), "inverse": spread(0.8)});
    let mut document = json!({"command": "limit", "peers": [], "runs": [],
        "scenarios": [{"name": "s", "command": "fanout"}],
        "table": [row("stentor", json!(null)), row("bare", ratio)]});
    let page = checked(&document);
    for part in [
        "<div>0.80</div>",
        "0.80 ×",
        "stentor by it</th>",
        "range, stentor by it of 3 pairs",
        "to 0.80, 3 pairs)",
        "<div class=\"range\">3 pairs</div>",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<div>1.25"));
    document["command"] = json!("compare");
    let page = checked(&document);
    for part in ["<div>1.25</div>", "ratio to stentor of 3 pairs", "; 1.25 times stentor"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("stentor by it"));
}

#[test]
fn a_sweep_shows_its_knee() {
    let sweep = |round: u32, knee: f64, because: Option<&str>| {
        json!({"scenario": "sweep", "variant": "placement=apart", "peer": "a", "round": round, "failure": null,
            "report": {"command": "fanout", "verdict": "valid", "figures": {}},
            "knee": {"rate": knee, "p99_us": 900.0, "lower_bound_because": because, "steps": [
                {"rate": knee, "held": true, "why": null, "latency_p99_us": 900.0},
                {"rate": 5000.0, "held": false, "why": "p99 40.00 ms", "latency_p99_us": 40_000.0},
                {"rate": 2500.0, "held": false, "why": "17 lost", "latency_p99_us": null}]}})
    };
    let runs = [sweep(1, 1000.0, None), sweep(2, 1500.0, None), sweep(3, 1200.0, None)];
    let page = checked(&json!({"command": "compare", "peers": [], "scenarios": [], "runs": runs}));
    for part in [
        "The knee: latency p99 by rate, placement = apart",
        "Rate held",
        "1.20\u{a0}k/s",
        "a at 1200/s: p99 900\u{a0}µs",
        "not held: p99 40.00 ms",
        "<td>17 lost</td>",
        "class=\"unfilled\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("≥ "), "the server was the limit");
    let runs = [sweep(1, 1000.0, Some("the generator was busy at 5000"))];
    let page = checked(&json!({"command": "compare", "peers": [], "scenarios": [], "runs": runs}));
    for part in [
        "≥ 1.00\u{a0}k/s",
        "a, placement = apart, round 1 may hold a higher rate: the generator was busy at 5000",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn nothing_from_outside_is_markup() {
    const EVIL: &str = "<script>alert(1)</script>\"'&<b>";
    let evil = COMPARISON.replace("\"bun\"", &serde_json::to_string(EVIL).unwrap());
    let page = checked(&read(&evil));
    assert!(!page.contains("<b>"));
    holds(&page, EVIL);

    // Every string of a document, wherever it is.
    fn poison(value: &mut Value) {
        match value {
            Value::String(text)
                if !matches!(text.as_str(), "fanout" | "idle" | "compare" | "void" | "valid") =>
            {
                text.insert_str(0, "</style><i>");
            }
            Value::Array(list) => list.iter_mut().for_each(poison),
            Value::Object(map) => map.values_mut().for_each(poison),
            _ => {}
        }
    }
    for document in [COMPARISON, VOID] {
        let mut document = read(document);
        poison(&mut document);
        let page = checked(&document);
        assert!(!page.contains("<i>") && page.matches("</style>").count() == 1);
    }
}

#[test]
fn many_servers_keep_their_shapes_apart() {
    let runs: Vec<Value> = (0..20)
        .map(|peer| {
            json!({"scenario": "s", "peer": format!("p{peer}"), "round": 1, "failure": null, "report":
                {"command": "echo", "verdict": "valid", "figures": {"messages_per_second": 1000.0 * f64::from(peer)}}})
        })
        .collect();
    let page = checked(&json!({"command": "compare", "peers": [], "scenarios": [], "runs": runs}));
    assert!(page.contains("line dashed"));
}

#[test]
fn an_unknown_document_says_what_was_expected() {
    let text = page(&json!({"name": "stentor-load", "version": "0.1.0"})).unwrap_err().to_string();
    for part in ["the keys name, version", "command, figures and verdict", "peers, scenarios, runs and table"]
    {
        assert!(text.contains(part), "{text}");
    }
}
