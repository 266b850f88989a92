//! Who may use whom: the edges between the library's modules are those of `docs/architecture.md`, and nobody calls
//! upwards.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A module of the library and those that its non-test code may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("broker", &[]),
    ("config", &["broker"]),
    ("session", &["protocol", "broker", "config"]),
    ("engine", &["protocol", "broker", "session", "config"]),
    ("server", &["protocol", "broker", "session", "config", "engine"]),
    ("cli", &["config"]),
];

/// The only files with unsafe code.
const UNSAFE: &[&str] =
    &["broker/log/segment.rs", "engine/driver/listener.rs", "engine/driver/uring/ring.rs", "engine/trim.rs"];

/// A source text without comments and the contents of literals, so that prose does not count.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let literal_end = |text: &str, end: char| {
            let mut escaped = false;
            text.char_indices().skip(1).find_map(|(at, c)| {
                let ends = c == end && !escaped;
                escaped = c == '\\' && !escaped;
                ends.then_some(at + 1)
            })
        };
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |at| at + 2)
        } else if next == '"' {
            literal_end(rest, '"').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\") {
            literal_end(rest, '\'').unwrap_or(rest.len())
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        rest = &rest[skipped..];
    }
    code
}

/// The modules that a source text names after `crate::`, in groups as well (`use crate::{a::X, b}`).
fn used(source: &str) -> BTreeSet<String> {
    let code = code(source);
    let mut used = BTreeSet::new();
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    for (at, _) in code.match_indices("crate::") {
        let rest = code[at + "crate::".len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    used.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    used.remove("");
    used
}

/// What a file of `module` uses and may not.
fn violations(module: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{module} is in no layer")];
    };
    let forbidden = |name: &String| name != module && !allowed.contains(&name.as_str());
    used(source).into_iter().filter(forbidden).map(|name| format!("{module} uses {name}")).collect()
}

/// The modules that a source text declares with a file of their own.
fn declared(source: &str) -> Vec<String> {
    let code = code(source);
    let statements = code.split(';').filter_map(|statement| {
        let (before, name) = statement.rsplit_once("mod ")?;
        let starts = before.is_empty() || before.ends_with(char::is_whitespace);
        (starts && !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
            .then(|| name.to_owned())
    });
    statements.collect()
}

fn has_unsafe(source: &str) -> bool {
    let code = code(source);
    code.match_indices("unsafe").any(|(at, word)| {
        let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        apart(code[..at].chars().next_back()) && apart(code[at + word.len()..].chars().next())
    })
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All source files, as paths below `src/`, with their texts.
fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&src(), &mut paths);
    let name =
        |path: &Path| path.strip_prefix(src()).expect("below src").to_str().expect("a text").to_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).expect("a text"))).collect()
}

fn module_of(file: &str) -> &str {
    file.split('/').next().and_then(|first| first.split('.').next()).expect("a name")
}

#[test]
fn nobody_calls_upwards() {
    let sources = sources();
    assert!(sources.len() > 40, "only {} files found", sources.len());
    let mut found = Vec::new();
    for (file, source) in &sources {
        match file.as_str() {
            "lib.rs" => assert!(used(source).is_empty(), "lib.rs only declares"),
            "main.rs" => assert!(!source.contains("crate::"), "main.rs is outside of the library"),
            file => {
                let violations = violations(module_of(file), source).into_iter();
                found.extend(violations.map(|violation| format!("{file}: {violation}")));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_layer_is_declared_and_every_file_belongs_to_one() {
    let library = fs::read_to_string(src().join("lib.rs")).expect("lib.rs");
    let layers: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(declared(&library).into_iter().collect::<BTreeSet<_>>(), layers);
    let sources = sources();
    for (file, _) in &sources {
        if matches!(file.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        // `a/b.rs` and `a/b/mod.rs` are declared in `a.rs`, `a/mod.rs` or, at the top, in `lib.rs`.
        let path = file.strip_suffix(".rs").expect("a source file");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let (parents, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (vec![format!("{parent}.rs"), format!("{parent}/mod.rs")], name),
            None => (vec!["lib.rs".to_owned()], path),
        };
        let is_declared = sources
            .iter()
            .filter(|(other, _)| parents.contains(other))
            .any(|(_, source)| declared(source).iter().any(|declared| declared == name));
        assert!(is_declared, "{file} is declared nowhere");
    }
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let mut found: Vec<_> =
        sources().into_iter().filter(|(_, source)| has_unsafe(source)).map(|(file, _)| file).collect();
    found.sort();
    assert_eq!(found, UNSAFE);
}

#[test]
fn the_checks_can_fail() {
    let source = r##"
        //! Prose may say crate::server and unsafe.
        use crate::{
            broker::{ids::Tick, name::TopicName},
            protocol::ws,
            session,
        };
        use crate::engine::Worker;
        /* crate::cli */
        fn quote() -> char { '"' }
        fn f() { crate::server::start("crate::main unsafe \" crate::x"); }
        mod here { pub mod inner {} }
        pub(crate) mod there;
        mod elsewhere;
        fn unsafe_looking() {}
    "##;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(used(source), names(&["broker", "engine", "protocol", "server", "session"]));
    assert_eq!(violations("session", source), ["session uses engine", "session uses server"]);
    assert_eq!(violations("broker", source).len(), 4);
    assert_eq!(violations("cli", "use crate::config::Config;"), [""; 0]);
    assert_eq!(violations("cli", "use crate::server;"), ["cli uses server"]);
    assert_eq!(violations("new", ""), ["new is in no layer"]);
    assert_eq!(declared(source), ["there", "elsewhere"]);
    assert!(!has_unsafe(source));
    assert!(has_unsafe("fn f() { unsafe { g() } }"));
    assert!(has_unsafe("unsafe impl Send for X {}"));
    let words = "mod a;\n#[cfg(test)]\nmod tests;";
    assert_eq!(declared(words), ["a", "tests"]);
}
