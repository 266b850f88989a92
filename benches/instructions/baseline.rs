//! The committed counts: what they were when somebody last looked at them and agreed.

use std::{collections::BTreeMap, fmt::Write, fs};

use crate::callgrind::Count;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.toml");

/// What a count may be above its baseline, in per cent.
const DEARER_MAX: f64 = 5.0;

const HEAD: &str = "\
# Instructions per operation, as `scripts/instructions --update` writes them. A change that makes one of them dearer by
# more than 5 % fails the step \"instruction counts\" of scripts/test: make it cheaper, or say in the commit that updates
# this file why it has to be.
";

/// The committed counts.
pub struct Baseline {
    measured_with: String,
    counts: BTreeMap<String, f64>,
}

impl Baseline {
    /// Reads the file; where there is none, nothing has a baseline.
    pub fn read() -> Result<Baseline, String> {
        let text = fs::read_to_string(PATH).unwrap_or_default();
        let mut baseline = Baseline { measured_with: String::new(), counts: BTreeMap::new() };
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let understood = line.split_once(" = ").and_then(|(key, value)| match key {
                "measured_with" => {
                    baseline.measured_with = value.trim_matches('"').to_owned();
                    Some(())
                }
                _ => {
                    baseline.counts.insert(key.trim_matches('"').to_owned(), value.parse().ok()?);
                    Some(())
                }
            });
            understood.ok_or(format!("{PATH}:{}: neither a count nor measured_with: {line}", number + 1))?;
        }
        Ok(baseline)
    }

    /// Takes these counts and writes the file. `all`: whatever is not among them goes.
    pub fn update(&mut self, counts: &[Count], tools: &str, all: bool) -> Result<(), String> {
        if !all && self.measured_with != tools {
            return Err("with other tools than the baseline's all cases have to be counted".to_owned());
        }
        if all {
            self.counts.clear();
        }
        self.counts.extend(counts.iter().map(|count| (count.name.clone(), rounded(count.value))));
        tools.clone_into(&mut self.measured_with);
        let mut text = format!("{HEAD}\nmeasured_with = \"{tools}\"\n\n[counts]\n");
        for (name, value) in &self.counts {
            writeln!(text, "\"{name}\" = {value}").expect("a string takes it");
        }
        fs::write(PATH, text).map_err(|error| format!("{PATH}: {error}"))
    }

    /// Prints all counts beside their baseline. Gives those that are dearer than they may be or have none, and, if
    /// these are `all` counts, baselines of which the case is gone.
    pub fn compare(&self, counts: &[Count], all: bool) -> Vec<String> {
        println!("baseline: {}\n", self.measured_with);
        println!("| {:<28} | {:<31} | {:>10} | {:>10} | {:>7} |", "case", "what", "now", "baseline", "");
        println!("| {:-<28} | {:-<31} | {:->9}: | {:->9}: | {:->6}: |", "", "", "", "", "");
        let mut complaints = Vec::new();
        for Count { name, unit, value } in counts {
            let (before, difference) = match self.counts.get(name) {
                Some(&before) => {
                    let percent = (value / before - 1.0) * 100.0;
                    if percent > DEARER_MAX {
                        complaints.push(format!(
                            "{name}: {} {unit}, {percent:.1} % above the baseline of {before}",
                            rounded(*value)
                        ));
                    }
                    (before.to_string(), format!("{percent:+.1} %"))
                }
                None => {
                    complaints.push(format!("{name} has no baseline"));
                    ("none".to_owned(), String::new())
                }
            };
            println!(
                "| {name:<28} | {unit:<31} | {:>10} | {before:>10} | {difference:>7} |",
                rounded(*value)
            );
        }
        if all {
            let gone = self.counts.keys().filter(|name| !counts.iter().any(|count| count.name == **name));
            complaints.extend(gone.map(|name| format!("{name} has a baseline and is not counted any more")));
        }
        println!();
        complaints
    }
}

/// Enough digits to see a per mille.
fn rounded(value: f64) -> f64 {
    if value < 1000.0 { (value * 100.0).round() / 100.0 } else { value.round() }
}
