//! `docs/bad-input.md` is true: the counters and tests that it names exist, and it leaves out no reason for which a
//! request is refused or the protocol counts as broken.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The library's source texts without their tests.
fn sources(directory: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = read(&path);
            into.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
}

/// The first string literal in each of `texts`, if it is a reason: lower case with underscores.
fn reasons<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let first = |text: &'a str| text.split('"').nth(1);
    let is_reason = |text: &&str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    texts.filter_map(first).filter(is_reason).map(str::to_owned).collect()
}

/// Reasons by counter, as the code has them.
fn counted(counter: &str) -> BTreeSet<String> {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    // What follows each mention in the code: the reason is the first literal.
    let after = |mention: &str| reasons(all.iter().flat_map(|text| text.split(mention).skip(1)));
    match counter {
        "refused" => {
            let constructors =
                ["new", "bad_request", "forbidden", "not_found", "method_not_allowed", "content_too_large"];
            let more = ["upgrade_required", "headers_too_large", "unavailable"];
            let refusals = constructors.iter().chain(&more).map(|name| after(&format!("Refusal::{name}(")));
            refusals.flatten().chain(after("Family::Refused, ")).collect()
        }
        "slow_consumers" => ["close".into(), "reset".into()].into(),
        "protocol_errors" => reasons(read("src/protocol/ws/error.rs").split(" => ").skip(1)),
        "closed" => reasons(read("src/engine/farewell.rs").split(" => ").skip(1)),
        _ => panic!("{counter} has no reasons"),
    }
}

/// What stands between backticks on the page, in order.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The counters with a reason that the page names.
fn named(page: &str, counter: &str) -> BTreeSet<String> {
    let reason =
        |quoted: &str| Some(quoted.strip_prefix(counter)?.strip_prefix('{')?.strip_suffix('}')?.to_owned());
    quoted(page).filter_map(reason).collect()
}

#[test]
fn the_reasons_are_the_codes() {
    let page = read("docs/bad-input.md");
    for counter in ["refused", "protocol_errors"] {
        assert_eq!(named(&page, counter), counted(counter), "{counter}: the page's and the code's");
    }
    for counter in ["closed", "slow_consumers"] {
        let (named, counted) = (named(&page, counter), counted(counter));
        let unknown: Vec<_> = named.difference(&counted).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{counter} {unknown:?}: nobody counts that");
    }
    let stats = read("src/engine/stats.rs");
    for counter in ["accept_errors", "assembly_bytes"] {
        assert!(quoted(&page).any(|quoted| quoted == counter), "{counter} is named");
        assert!(stats.contains(&format!(" {counter}: \"")), "{counter} is counted");
    }
}

#[test]
fn each_row_names_its_test() {
    let page = read("docs/bad-input.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut checked = 0;
    for row in rows.filter(|row| !row.ends_with("| test |")) {
        let test = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last cell").trim_matches('`');
        let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("no test: {row}"));
        let source = read(format!("tests/{file}.rs"));
        assert!(source.contains(&format!("#[test]\nfn {function}() {{")), "{test} does not exist: {row}");
        checked += 1;
    }
    assert!(checked > 50, "only {checked} rows were found");
}
