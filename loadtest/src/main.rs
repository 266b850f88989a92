//! `stentor-load`: load generator and benchmark for WebSocket broadcast servers.
//!
//! It depends on none of the server's code, so that a defect of the server cannot hide in its measuring tool.
//!
//! ```text
//! cli ──▶ compare                                servers × scenarios × rounds: calls the commands below
//!           ▼
//!         fanout echo idle handshakes topics     one load each
//!         api recover                            two more, of what Stentor has beside that
//!           │            │
//!           │         harness                    phases, threads, live view
//!           ▼            ▼
//!        accounting   poller ──▶ client ──▶ url  sockets and handshakes
//!        dialect                                 how a server is spoken to
//!        stamp        schedule                   what is sent, and when
//!        wire                                    frames
//!        series                                  figures over time
//!        report ──▶ proc                         figures, CPU, memory
//!        html ──▶ replace                        the page, from the JSON; files replaced whole
//!
//! cli ──▶ bare                                   a server to compare others with
//! ```

mod accounting;
mod api;
mod bare;
mod cli;
mod client;
mod compare;
mod dialect;
mod distribution;
mod echo;
mod failure;
mod fanout;
mod handshakes;
mod harness;
mod html;
mod idle;
mod poller;
mod proc;
mod recover;
mod replace;
mod report;
mod schedule;
mod series;
mod stamp;
mod topics;
mod url;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Common};
use crate::failure::Failure;
use crate::harness::{Screen, interrupted};
use crate::report::{Figures, Report, Verdict};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Fanout(args) => print(|screen| fanout::measure(&args, screen), &args.common),
        Command::Echo(args) => print(|screen| echo::measure(&args, screen), &args.common),
        Command::Api(args) => print(|screen| api::measure(&args, screen), &args.common),
        Command::Recover(args) => print(|screen| recover::measure(&args, screen), &args.common),
        Command::Idle(args) => print(|screen| idle::measure(&args, screen, &*interrupted()?), &args.common),
        Command::Handshakes(args) => print(|screen| handshakes::measure(&args, screen), &args.common),
        Command::Topics(args) => print(|screen| topics::measure(&args, screen), &args.common),
        Command::Compare(args) => compare::compare(&args),
        Command::Limit(args) => compare::limit(&args),
        Command::Bare(args) => bare::run(&args).map(|never| match never {}),
        Command::Html(args) => html::run(&args).map(|()| Verdict::Valid),
    };
    match outcome {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Void) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("stentor-load: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Runs a scenario on a screen of its own, prints what it has found, and writes its page.
fn print<F: Figures>(
    measure: impl FnOnce(&Screen) -> Result<Report<F>, Failure>,
    common: &Common,
) -> Result<Verdict, Failure> {
    let screen = Screen::new();
    screen.heading(common.url());
    let report = measure(&screen);
    drop(screen);
    let report = report?;
    let verdict = report.print(common.json)?;
    if let Some(path) = &common.html {
        let document = serde_json::to_value(&report).expect("strings, numbers and lists always make JSON");
        html::write(&document, path)?;
    }
    Ok(verdict)
}
