//! What is counted of a case, and what it is divided by.

/// One case's run: how many operations were counted, and what else was found out.
#[derive(Default)]
pub struct Meter {
    operations: u64,
    others: Vec<(&'static str, f64)>,
}

impl Meter {
    /// Does `work`, which is so many operations. Instructions count while this runs, and at no other time.
    pub fn count(&mut self, operations: u64, mut work: impl FnMut()) {
        self.operations += operations;
        counted_by_callgrind(&mut work);
    }

    /// Another number that must not grow, under the case's name and this one.
    pub fn also(&mut self, name: &'static str, value: f64) {
        self.others.push((name, value));
    }

    /// Tells the process that counts.
    pub fn report(&self) {
        println!("operations {}", self.operations);
        for (name, value) in &self.others {
            println!("{name} {value}");
        }
    }
}

/// Callgrind knows this function by its name ([`TOGGLE`]) and counts from its first instruction to its last.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
    // What follows keeps the call above from becoming a jump, which would end the function before the work begins.
    std::hint::black_box(());
}

/// The pattern of the function's name, mangled or not.
pub const TOGGLE: &str = "*counted_by_callgrind*";
