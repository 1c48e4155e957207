//! One history from its plan to its end, and many of them on two threads.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    clock::Time,
    invariants::Violation,
    plan::Plan,
    world::{Counts, Kill, World},
};

/// How a history ended.
pub struct Ended {
    pub violation: Option<Violation>,
    pub counts: Counts,
    pub timeline: Vec<String>,
    /// API calls and commands that operators began.
    pub orders: usize,
}

/// Runs a history. A panic of the product is a violation.
pub fn run(plan: &Plan, keeps_timeline: bool, kill: Option<Kill>) -> Ended {
    let mut world = World::new(plan.clone(), keeps_timeline);
    world.kill = kill;
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    if let Some(panic) = panicked {
        world.violate("nothing panics", message(&*panic));
    }
    Ended {
        violation: world.violation,
        counts: world.counts,
        timeline: world.timeline.lines().to_vec(),
        orders: world.orders,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Leaves out every fault without which the same rule is still violated, and shortens the calm before.
pub fn shrink(plan: &Plan, rule: &str) -> Plan {
    let mut smallest = plan.clone();
    let still_fails = |plan: &Plan| {
        run(plan, false, None)
            .violation
            .is_some_and(|violation| violation.rule == rule)
    };
    let mut repaired = smallest.clone();
    repaired.dead.clear();
    if still_fails(&repaired) {
        smallest = repaired;
    }
    loop {
        let before = smallest.faults.len();
        let mut at = 0;
        while at < smallest.faults.len() {
            let mut smaller = smallest.clone();
            smaller.faults.remove(at);
            if still_fails(&smaller) {
                smallest = smaller;
            } else {
                at += 1;
            }
        }
        if smallest.faults.len() == before {
            return smallest;
        }
    }
}

/// How many histories are run.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub first: u64,
    pub histories: u64,
    pub time: Option<Duration>,
    /// Stop at the first violation.
    pub stops: bool,
}

/// What many histories did.
#[derive(Default)]
pub struct Summary {
    pub histories: u64,
    pub counts: Counts,
    /// Seeds and what they violate.
    pub violations: Vec<(u64, Violation)>,
    pub took: Duration,
}

const THREADS: usize = 2;

/// Runs histories with the seeds from `first` on, on two threads. `progress` is told from time to time.
pub fn run_many(budget: Budget, progress: impl Fn(&Summary) + Sync) -> Summary {
    let next = AtomicU64::new(budget.first);
    let is_over = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let began = Instant::now();
    let end = budget.first.saturating_add(budget.histories);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_late = budget.time.is_some_and(|time| began.elapsed() >= time);
            if seed >= end || is_late || is_over.load(Ordering::Relaxed) {
                return;
            }
            let ended = run(&Plan::of(seed), false, None);
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.took = began.elapsed();
            summary.add(seed, ended);
            if budget.stops && !summary.violations.is_empty() {
                is_over.store(true, Ordering::Relaxed);
            }
            progress(&summary);
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.violations.sort_by_key(|(seed, _)| *seed);
    summary.took = began.elapsed();
    summary
}

impl Summary {
    fn add(&mut self, seed: u64, ended: Ended) {
        self.histories += 1;
        let (sum, more) = (&mut self.counts, ended.counts);
        sum.events += more.events;
        sum.inputs += more.inputs;
        sum.faults += more.faults;
        sum.switches += more.switches;
        sum.simulated += more.simulated;
        if let Some(violation) = ended.violation {
            self.violations.push((seed, violation));
        }
    }

    /// One line about all of it.
    pub fn line(&self) -> String {
        let Counts {
            events,
            inputs,
            faults,
            switches,
            simulated,
        } = self.counts;
        format!(
            "{} histories in {:.1} s: {:.1} simulated hours, {faults} faults, {switches} switches, {inputs} inputs of machines, {events} \
             events, {} violations",
            self.histories,
            self.took.as_secs_f64(),
            simulated.as_secs_f64() / 3600.0,
            self.violations.len()
        )
    }
}

/// Everything about one history that a person needs to understand it.
pub fn tell(plan: &Plan, ended: &Ended) -> String {
    let mut text = format!(
        "seed {}: {} operators, leaseDuration {:?}, calm from {} s\n",
        plan.seed,
        plan.operators,
        plan.lease,
        plan.calm_from.to_string().trim()
    );
    for (number, pair) in plan.pairs.iter().enumerate() {
        text += &format!(
            "pair {number}: {}\n  probes {:?}, resync {:?}\n",
            pair.timing, pair.probes, pair.resync
        );
    }
    for (pair, side, death) in &plan.dead {
        text += &format!("pair {pair}: the {} is {death:?} for good in the end\n", side.label());
    }
    for (number, fault) in plan.faults.iter().enumerate() {
        text += &format!("fault {number}: {fault}\n");
    }
    for line in &ended.timeline {
        text += line;
        text.push('\n');
    }
    let end = Time::ZERO + ended.counts.simulated;
    match &ended.violation {
        Some(violation) => {
            text += &format!(
                "{} s  violated: {}\n  {}\n",
                violation.at, violation.rule, violation.text
            );
        }
        None => text += &format!("{end} s  nothing is violated\n"),
    }
    text
}
