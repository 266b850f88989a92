//! The fuzz targets on stable: the committed corpus is replayed, and changed at random with a fixed seed. What libFuzzer
//! finds on nightly (`make fuzz`) stays found.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::{
    fs, panic,
    path::{Path, PathBuf},
};

/// Files that each target's corpus has at least: fewer, and the replay tests nothing.
const FILES_MIN: usize = 40;

/// Changed inputs per target.
const CHANGED: usize = 4000;

/// The inputs of one target, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(&path).expect("a readable file"))).collect()
}

/// Runs one input; says which it was if it fails.
fn run(name: &str, body: fn(&[u8]), input: &[u8], origin: &dyn Fn() -> String) {
    if let Err(failure) = panic::catch_unwind(|| body(input)) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{name} fails with {}: {hex}", origin());
        panic::resume_unwind(failure);
    }
}

/// Numbers that look random and are always the same (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).expect("31 bits") % bound.max(1)
    }
}

/// One to six small changes, of the kinds that libFuzzer makes.
fn change(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut input = input.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(input.len());
        let until = at + numbers.below((input.len() - at).min(32) + 1);
        match numbers.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << numbers.below(8),
            1 if !input.is_empty() => {
                input[at] = [0x00, 0x7E, 0x7F, 0x80, 0xFE, 0xFF, 0x0D, 0x20][numbers.below(8)];
            }
            2 => drop(input.drain(at..until)),
            3 => input.insert(at, u8::try_from(numbers.below(256)).expect("a byte")),
            4 => {
                let copy = input[at..until].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let from = numbers.below(other.len());
                let to = from + numbers.below((other.len() - from).min(64) + 1);
                input.splice(at..until, other[from..to].iter().copied());
            }
        }
    }
    input
}

fn replay(target: &str) {
    let (name, body) = *bodies::TARGETS.iter().find(|(name, _)| *name == target).expect("one of the targets");
    let corpus = corpus(name);
    assert!(corpus.len() >= FILES_MIN, "the corpus of {name} has {} files", corpus.len());
    for (path, input) in &corpus {
        run(name, body, input, &|| path.display().to_string());
    }
    let mut numbers = Numbers(0x5EED_0F57_E470_0001);
    for i in 0..CHANGED {
        let (path, input) = &corpus[numbers.below(corpus.len())];
        let other = &corpus[numbers.below(corpus.len())].1;
        let changed = change(input, other, &mut numbers);
        run(name, body, &changed, &|| format!("change {i}, of {}", path.display()));
    }
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn handshake() {
    replay("handshake");
}

#[test]
fn session() {
    replay("session");
}

#[test]
fn broker_operations() {
    replay("broker_operations");
}
