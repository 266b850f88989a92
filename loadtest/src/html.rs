//! The page: one JSON document of this tool as one HTML file that needs nothing else.
//!
//! Owns the page's frame and the order of its parts. No script, no font, no picture from elsewhere: it opens from a
//! disk, in light and dark, on a phone and on paper. All text goes through `maud`, which escapes it. A server has the
//! same colour and marker everywhere, by its place in the document.
//!
//! ```text
//! document, outcome     what the JSON says
//! metrics               names, units, numbers as text
//! axis ─▶ lines, bars   drawings
//! headline, charts, knee, tables     parts of the page
//! ```

mod axis;
mod bars;
mod charts;
mod document;
mod headline;
mod knee;
mod lines;
mod metrics;
mod outcome;
mod tables;

use std::io::{self, Read, Write};
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use self::document::{Document, Scenario};
use crate::cli::HtmlArgs;
use crate::failure::Failure;
use crate::replace::replace;

const STYLE: &str = include_str!("html/style.css");

/// Colours of the style sheet; further servers have them again, dashed and with other markers.
const COLOURS: usize = 8;

/// The page of a document as any command prints it with `--json`.
///
/// # Errors
/// The document is none of this tool's, or not shaped as documented.
pub(crate) fn page(document: &Value) -> Result<String, Failure> {
    let document = Document::read(document)?;
    let title = headline::title(&document);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(toggles(document.peers.len()))) }
            }
            body {
                header { (headline::header(&document, &title)) }
                @if !document.single && document.peers.len() > 1 { (peers_bar(&document)) }
                main {
                    @if !document.single { (headline::overview(&document)) }
                    @for scenario in &document.scenarios { (section(&document, scenario)) }
                    (tables::not_counted(&document))
                    (headline::how_to_read(&document))
                }
            }
        }
    };
    Ok(page.into_string())
}

/// Writes the page of a document to a file.
pub(crate) fn write(document: &Value, path: &Path) -> Result<(), Failure> {
    let what = format!("cannot write the page to {}", path.display());
    replace(path, page(document)?.as_bytes()).map_err(Failure::system(what))
}

/// `stentor-load html`: reads a document, writes its page.
pub(crate) fn run(args: &HtmlArgs) -> Result<(), Failure> {
    let name = args.input.display();
    let mut text = String::new();
    if args.input.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map_err(Failure::system("cannot read standard input"))?;
    } else {
        text =
            std::fs::read_to_string(&args.input).map_err(Failure::system(format!("cannot read {name}")))?;
    }
    let document: Value =
        serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{name}: no JSON: {error}")))?;
    match &args.output {
        Some(path) => write(&document, path),
        None => io::stdout()
            .write_all(page(&document)?.as_bytes())
            .map_err(Failure::system("cannot print the page")),
    }
}

fn section(document: &Document, scenario: &Scenario) -> Markup {
    html! {
        section {
            @if !document.single {
                h2 { (scenario.name) }
                @if let Some(about) = &scenario.about { p { (about) } }
                p class="quiet" { code { (flags(scenario)) } }
            }
            @if document.single { (tables::tiles(scenario)) }
            (charts::all(document, scenario))
            (tables::scenario(document, scenario))
        }
    }
}

/// The command line of a scenario, without what a server adds.
fn flags(scenario: &Scenario) -> String {
    let mut line = scenario.command.clone();
    for (flag, value) in &scenario.flags {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            match value {
                Value::Bool(false) | Value::Null => {}
                Value::Bool(true) => line.push_str(&format!(" --{flag}")),
                Value::String(text) => line.push_str(&format!(" --{flag} {text}")),
                value => line.push_str(&format!(" --{flag} {value}")),
            }
        }
    }
    line
}

/// The bar that names the servers, and hides what is not ticked.
fn peers_bar(document: &Document) -> Markup {
    let shown = document.peers.iter().enumerate().filter(|(_, peer)| peer.skipped.is_none());
    html! {
        nav aria-label="Servers" {
            @for (index, peer) in shown {
                label class=(peer_class(index)) {
                    input type="checkbox" id={ "show-" (index) } checked;
                    (swatch(index)) (peer.name)
                }
            }
        }
    }
}

/// The servers of some charts, for those who see only these.
fn legend(document: &Document, peers: &[usize]) -> Markup {
    html! {
        p class="legend" {
            @for &peer in peers {
                span class=(peer_class(peer)) { (swatch(peer)) (document.peers[peer].name) }
            }
        }
    }
}

/// A server's line and marker, small.
fn swatch(peer: usize) -> Markup {
    html! {
        svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" {
            line class=(if peer < COLOURS { "line" } else { "line dashed" }) x1="0" x2="26" y1="6" y2="6" {}
            (lines::marker(peer, 13.0, 6.0))
        }
    }
}

/// A server's colour, and what the bar at the top shows and hides.
fn peer_class(peer: usize) -> String {
    format!("c{} peer-{peer}", peer % COLOURS)
}

fn toggles(peers: usize) -> String {
    let of = |peer| {
        let hidden = format!("body:has(#show-{peer}:not(:checked))");
        format!(
            "{hidden} main svg g.peer-{peer}:not(.row),{hidden} .legend .peer-{peer}{{display:none}}\
             {hidden} main .row.peer-{peer},{hidden} main tr.peer-{peer},{hidden} main td.peer-{peer}{{opacity:.2}}\n"
        )
    };
    (0..peers).map(of).collect()
}

#[cfg(test)]
mod tests;
