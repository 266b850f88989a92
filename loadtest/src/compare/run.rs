//! One run: a fresh server, the load, and what came of it.
//!
//! Nothing that goes wrong is dropped: a run has a report or a failure, and a void report says why it is void.

use std::thread;

use serde_json::Value as Json;

use super::flags::{Flags, Value};
use super::knee::{self, KneeFound};
use super::load::Load;
use super::peer::Peer;
use super::placement::{Placement, within};
use super::plan::{Plan, Run};
use super::process::Server;
use super::scenario::{Beside, Scenario};
use crate::cli::parse_duration;
use crate::harness::Screen;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Why there is no report.
    pub(super) failure: Option<String>,
    /// The command's report; of a sweep that of the highest rate held.
    pub(super) report: Option<Json>,
    /// Reports of what ran beside it.
    pub(super) beside: Vec<Json>,
    /// What a sweep found.
    pub(super) knee: Option<KneeFound>,
}

impl Outcome {
    pub(super) fn failed(why: impl Into<String>) -> Self {
        Self { failure: Some(why.into()), ..Self::default() }
    }

    /// A void report of what ran beside makes this one void: the load was not what the scenario says.
    fn judge_beside(&mut self) {
        let Some(report) = &mut self.report else { return };
        let void = self.beside.iter().filter(|beside| beside["verdict"] != "valid");
        for beside in void {
            let reasons: Vec<&str> =
                beside["void_because"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            report["verdict"] = "void".into();
            if let Some(because) = report["void_because"].as_array_mut() {
                because.push(format!("beside: {}", reasons.join("; ")).into());
            }
        }
    }

    /// There is a report, and its figures count.
    pub(super) fn valid(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report["verdict"] == "valid")
    }

    /// Why the run does not count, in one line; `None` if it does.
    pub(super) fn wrong(&self) -> Option<String> {
        if let Some(failure) = &self.failure {
            return Some(format!("failed: {failure}"));
        }
        let reasons = self.report.as_ref()?["void_because"].as_array()?;
        let reasons: Vec<&str> = reasons.iter().filter_map(Json::as_str).collect();
        (!reasons.is_empty()).then(|| format!("void: {}", reasons.join("; ")))
    }
}

/// Carries a run out, shown on `screen`.
pub(super) fn run(plan: &Plan, run: Run, screen: &Screen) -> Outcome {
    let variant = &plan.variants[run.variant];
    let site = Site {
        peer: &plan.peers[run.peer].peer,
        scenario: plan.scenario_of(run.variant),
        placement: &variant.placement,
        screen,
    };
    match &site.scenario.knee {
        Some(knee) => knee::sweep(knee, variant.placement.server_cpus(), |rate| {
            let mut flags = variant.flags.clone();
            flags.set("rate", Value::Number(rate));
            site.measure(&flags)
        }),
        None => site.measure(&variant.flags),
    }
}

/// Who is measured, with what, and where.
struct Site<'a> {
    peer: &'a Peer,
    scenario: &'a Scenario,
    placement: &'a Placement,
    screen: &'a Screen,
}

impl Site<'_> {
    /// Starts the server, runs the load, ends the server.
    fn measure(&self, flags: &Flags) -> Outcome {
        let mut server = match Server::start(self.peer, self.placement.server()) {
            Ok(server) => server,
            Err(failure) => return Outcome::failed(failure),
        };
        let mut outcome = match within(self.placement.load(), || self.load(&server, flags)) {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::failed(failure.to_string()),
        };
        if let Some(how) = server.exited() {
            let before = outcome.failure.take().map(|failure| format!(": {failure}"));
            outcome.failure = Some(format!("the server {how} during the run{}", before.unwrap_or_default()));
            outcome.report = None;
        }
        outcome
    }

    /// The command, and those beside it.
    fn load(&self, server: &Server, flags: &Flags) -> Outcome {
        let arguments = |load: Load, flags: &Flags| -> Vec<String> {
            // Without a section for it the peer would not have been chosen.
            let spoken = self.peer.flags(load).cloned().unwrap_or_default();
            let mut all = spoken.map_text(|text| server.fill(self.peer, text)).with(flags);
            all.set("server-pid", Value::Whole(server.pid().into()));
            if let Some(cpus) = self.placement.load() {
                all.set("pin", Value::Text(cpus.to_string()));
                if all.get("threads").is_none() {
                    all.set("threads", Value::Whole(cpus.numbers().len() as i64));
                }
            }
            all.arguments()
        };
        thread::scope(|scope| {
            let beside: Vec<_> = (self.scenario.beside.iter())
                .map(|Beside { command, after, flags }| {
                    let arguments = arguments(*command, flags);
                    scope.spawn(move || {
                        thread::sleep(parse_duration(after).unwrap_or_default());
                        command
                            .measure(&arguments, &Screen::hidden())
                            .map_err(|failure| format!("beside: {failure}"))
                    })
                })
                .collect();
            let mut outcome = Outcome::default();
            let command = self.scenario.command;
            match command.measure(&arguments(command, flags), self.screen) {
                Ok(report) => outcome.report = Some(report),
                Err(failure) => outcome.failure = Some(failure.to_string()),
            }
            for thread in beside {
                match thread.join().expect("a command that ran beside panicked") {
                    Ok(report) => outcome.beside.push(report),
                    Err(failure) => outcome.failure = outcome.failure.or(Some(failure)),
                }
            }
            if outcome.failure.is_some() {
                outcome.report = None;
            }
            outcome.judge_beside();
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_with_a_run() {
        let report = |verdict: &str, void_because: &[&str]| Outcome {
            report: Some(json!({"verdict": verdict, "void_because": void_because})),
            ..Outcome::default()
        };
        let good = report("valid", &[]);
        assert_eq!((good.valid(), good.wrong()), (true, None));
        let void = report("void", &["1 lost", "2 closed"]);
        assert_eq!((void.valid(), void.wrong()), (false, Some("void: 1 lost; 2 closed".into())));
        let failed = Outcome::failed("no");
        assert_eq!((failed.valid(), failed.wrong()), (false, Some("failed: no".into())));
    }

    #[test]
    fn what_runs_beside_is_judged() {
        let of = |beside: Json| {
            let report = Some(json!({"verdict": "valid", "void_because": []}));
            let mut outcome = Outcome { report, beside: vec![beside], ..Outcome::default() };
            outcome.judge_beside();
            (outcome.valid(), outcome.wrong())
        };
        assert_eq!(of(json!({"verdict": "valid", "void_because": []})), (true, None));
        let void = json!({"verdict": "void", "void_because": ["1 lost", "2 closed"]});
        assert_eq!(of(void), (false, Some("void: beside: 1 lost; 2 closed".into())));
    }
}
