//! What is seen while it runs: on a terminal a heading above the run's own line, otherwise a line for each run.

use std::time::{Duration, Instant};

use super::metrics;
use super::plan::{Plan, Run};
use super::run::Outcome;
use crate::harness::Screen;

/// Progress through all runs.
pub(super) struct View {
    /// What a run shows itself on.
    pub(super) screen: Screen,
    began: Instant,
    /// How long each run takes by its flags: what is left is extrapolated by it.
    nominal: Vec<Duration>,
    done: usize,
}

impl View {
    /// Before the first run.
    pub(super) fn new(plan: &Plan, runs: &[Run]) -> Self {
        let nominal = runs.iter().map(|run| plan.scenario_of(run.variant).nominal()).collect();
        Self { screen: Screen::new(), began: Instant::now(), nominal, done: 0 }
    }

    /// A run begins.
    pub(super) fn begins(&self, plan: &Plan, run: Run) {
        let left = left(self.began.elapsed(), &self.nominal, self.done);
        let number = self.done + 1;
        self.screen.heading(format!("{} · run {number} of {}{left}", place(plan, run), self.nominal.len()));
    }

    /// It has ended. On a terminal only what went wrong stays.
    pub(super) fn ended(&mut self, plan: &Plan, run: Run, outcome: &Outcome) {
        self.done += 1;
        let wrong = outcome.wrong();
        if wrong.is_some() || self.screen.is_hidden() {
            let how = wrong.unwrap_or_else(|| figures(plan, run, outcome));
            let (number, all) = (self.done, self.nominal.len());
            self.screen.print(&format!("{} · run {number} of {all} · {how}", place(plan, run)));
        }
    }
}

/// `round 3/7 · one-topic outstanding=8 · bun`
fn place(plan: &Plan, run: Run) -> String {
    let peer = &plan.peers[run.peer].peer.name;
    format!("round {}/{} · {} · {peer}", run.round, plan.rounds, plan.title(run.variant))
}

/// `112.8 k deliveries/s · 3.976 µs CPU/delivery`
fn figures(plan: &Plan, run: Run, outcome: &Outcome) -> String {
    let scenario = plan.scenario_of(run.variant);
    let found = metrics::read(scenario.command, outcome);
    let columns = metrics::columns(scenario.command, scenario.knee.is_some());
    let texts = columns.filter_map(|metric| {
        Some(format!("{} {}", metric.unit.text(*found.get(metric.name)?), metric.heading))
    });
    texts.take(2).collect::<Vec<_>>().join(" · ")
}

/// ` · about 6 min left`
fn left(elapsed: Duration, nominal: &[Duration], done: usize) -> String {
    let (past, to_come) = nominal.split_at(done);
    let past: Duration = past.iter().sum();
    let to_come: Duration = to_come.iter().sum();
    let slower = if past.is_zero() { 1.0 } else { elapsed.as_secs_f64() / past.as_secs_f64() };
    let seconds = to_come.as_secs_f64() * slower;
    if seconds < 90.0 {
        format!(" · about {seconds:.0} s left")
    } else {
        format!(" · about {:.0} min left", seconds / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_extrapolated() {
        let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        let nominal = seconds(&[10, 20, 100]);
        assert_eq!(left(Duration::ZERO, &nominal, 0), " · about 2 min left");
        assert_eq!(left(Duration::from_secs(15), &nominal, 2), " · about 50 s left");
    }
}
