//! `stentor-load`: load generator and benchmark for WebSocket broadcast servers.
//!
//! It depends on none of the server's code, so that a defect of the server cannot hide in its measuring tool.
//!
//! ```text
//! cli ──▶ fanout echo idle handshakes topics     one scenario each
//!           │            │
//!           │         harness                    phases, threads, progress
//!           ▼            ▼
//!        accounting   poller ──▶ client ──▶ url  sockets and handshakes
//!        stamp        schedule                   what is sent, and when
//!        wire                                    frames
//!        report ──▶ proc                         figures, CPU, memory
//!        html                                    the page, from the JSON
//! ```

mod accounting;
mod cli;
mod client;
mod echo;
mod failure;
mod fanout;
mod handshakes;
mod harness;
mod html;
mod idle;
mod poller;
mod proc;
mod report;
mod schedule;
mod stamp;
mod topics;
mod url;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Common};
use crate::failure::Failure;
use crate::report::{Figures, Report, Verdict};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Fanout(args) => print(fanout::measure(&args), &args.common),
        Command::Echo(args) => print(echo::measure(&args), &args.common),
        Command::Idle(args) => print(idle::measure(&args), &args.common),
        Command::Handshakes(args) => print(handshakes::measure(&args), &args.common),
        Command::Topics(args) => print(topics::measure(&args), &args.common),
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

/// Prints what a scenario has found, and writes its page.
fn print(report: Result<Report<impl Figures>, Failure>, common: &Common) -> Result<Verdict, Failure> {
    let report = report?;
    let verdict = report.print(common.json)?;
    if let Some(path) = &common.html {
        let document = serde_json::to_value(&report).expect("strings, numbers and lists always make JSON");
        html::write(&document, path)?;
    }
    Ok(verdict)
}
