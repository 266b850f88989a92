//! The JSON of a comparison: `loadtest/README.md` documents it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::load::Load;
use super::metrics::Spreads;
use super::plan::{Plan, Run};
use super::run::Outcome;
use super::table::Row;
use crate::proc;

/// The whole object.
pub(super) fn document(plan: &Plan, environment: &Json, runs: &[(Run, Outcome)], rows: &[Row]) -> Json {
    json!({
        "command": plan.command,
        "environment": environment,
        "peers": plan.peers.iter().map(|contender| {
            let peer = &contender.peer;
            json!({
                "name": peer.name,
                "about": peer.about,
                "options": peer.options,
                "version": contender.version,
                "commands": peer.loads().map(Load::name).collect::<Vec<_>>(),
                "skipped": contender.skipped,
            })
        }).collect::<Vec<_>>(),
        "scenarios": plan.scenarios.iter().map(|scenario| json!({
            "name": scenario.name,
            "about": scenario.about,
            "command": scenario.command,
            "flags": scenario.flags,
            "vary": scenario.vary.iter().cloned().collect::<BTreeMap<_, _>>(),
            "knee": scenario.knee,
            "beside": scenario.beside,
        })).collect::<Vec<_>>(),
        "runs": runs.iter().map(|(run, outcome)| json!({
            "scenario": plan.scenario_of(run.variant).name,
            "variant": plan.variants[run.variant].name,
            "peer": plan.peers[run.peer].peer.name,
            "round": run.round,
            "failure": outcome.failure,
            "report": outcome.report,
            "beside": outcome.beside,
            "knee": outcome.knee,
        })).collect::<Vec<_>>(),
        "table": rows.iter().map(|row| row_object(plan, row)).collect::<Vec<_>>(),
    })
}

fn row_object(plan: &Plan, row: &Row) -> Json {
    let spreads = |spreads: &Spreads| json!(spreads);
    let ratio = (row.peer != plan.baseline).then(|| {
        json!({
            "to": plan.peers[plan.baseline].peer.name,
            "metrics": spreads(&row.ratio.forward),
            "inverse": spreads(&row.ratio.inverse),
        })
    });
    json!({
        "scenario": plan.scenario_of(row.variant).name,
        "variant": plan.variants[row.variant].name,
        "peer": plan.peers[row.peer].peer.name,
        "rounds": row.rounds,
        "void": row.void,
        "failed": row.failed,
        "lost": row.lost,
        "generator_busy": row.generator_busy,
        "lower_bounds": row.lower_bounds,
        "metrics": spreads(&row.metrics),
        "ratio": ratio,
    })
}

/// What this machine is, and how it is shared.
pub(super) fn environment(plan: &Plan) -> Json {
    let placements: Vec<String> = plan.placements.iter().map(super::placement::Placement::text).collect();
    let mut environment = proc::environment();
    environment["placement"] = placements.join("; ").into();
    environment
}

/// For people: one line on the machine, one on placement.
pub(super) fn environment_text(environment: &Json) -> String {
    let text = |name: &str| environment[name].as_str().unwrap_or_default().to_string();
    let gib = environment["memory_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 30);
    format!(
        "{} · {} CPUs · {gib:.1} GiB · Linux {} · {}\n{}",
        text("cpu"),
        environment["cpus"],
        text("kernel"),
        text("date"),
        text("placement")
    )
}
