//! The simulator of whole processes: operators, gates, ObjectServers and probes as hosts of a simulated network, on virtual time and a seeded source
//! of chance, with faults everywhere.
//!
//! What runs is what ships: `operator::run_until` with election, reconciliation, workers and checks, through a real client of a scripted API
//! server; and `gate::run_until` with its ports, TLS and sessions, started with the arguments and Secrets that the operator has written. Only
//! sockets, the clock and the source of chance are others (the feature `simulation`, [`proxypair::net`]). tests/simulation runs a hundred times as
//! many histories in the same time, of the parts that decide.
//!
//! | module | stands for |
//! |---|---|
//! | `operators` | the processes of the operators |
//! | `manifest` | users, and what they declare |
//! | `kubernetes` | the controllers, kubelet and kube-proxy: pods of Deployments, EndpointSlices, files from Secrets |
//! | `object_server` | ObjectServers that keep the events that they acknowledge |
//! | `probe` | probes that number their events, and send again what was not acknowledged |
//! | `faults`, `plan` | what can go wrong, and what does in one history, drawn from its seed |
//! | `world`, `places` | all of it, step by step, and where it is |
//! | `strikes` | the faults, as they begin and end |
//! | `touches` | what each of them touches |
//! | `show`, `log` | the timeline |
//! | `rules` | what must hold |
//!
//! Each history runs in a process of its own, because a hash map's order depends on those made before. `make simulate-whole` runs histories until it
//! is stopped; `make simulate-whole SEED=7` tells one.

#![allow(clippy::expect_used)]

mod chance;
mod faults;
mod kubernetes;
mod log;
mod manifest;
mod object_server;
mod operators;
mod places;
mod plan;
mod probe;
mod rules;
mod show;
mod strikes;
mod touches;
mod world;

use std::{
    collections::BTreeMap,
    env,
    process::{Command, ExitCode, Output},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};

use self::{plan::Plan, world::World};

/// The fixed seeds of `make check`: about a minute on two cores.
const HISTORIES: u64 = 50;

fn main() -> ExitCode {
    if let Some(seed) = number("HISTORY") {
        return history(seed);
    }
    if let Some(seed) = number("SEED") {
        return told(seed);
    }
    if let Some(seconds) = number("WHOLE") {
        return many(seconds);
    }
    let trials = vec![
        Trial::test("histories_with_fixed_seeds", fixed_seeds),
        Trial::test("the_same_seed_gives_the_same_history", is_deterministic),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Runs one history in this process. `KEEP` has the numbers of the faults that stay.
fn history(seed: u64) -> ExitCode {
    chance::seed(seed);
    let mut plan = Plan::of(seed);
    if let Ok(keep) = env::var("KEEP") {
        let keep: Vec<usize> = keep.split(',').filter_map(|number| number.parse().ok()).collect();
        plan.keep(&keep);
    }
    let faults = plan.faults.len();
    let mut world = World::new(plan);
    let outcome = world.run();
    println!("{}", world.plan.told());
    println!("{}", world.timeline());
    for (kind, times) in &world.struck {
        println!("struck {kind} {times}");
    }
    println!(
        "faults {faults} switches {} seconds {}",
        world.switches(),
        world.seconds()
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(violation) => {
            println!("VIOLATION {violation}");
            ExitCode::from(2)
        }
    }
}

/// One history in a process of its own.
fn child(seed: u64, keep: Option<&[usize]>) -> Output {
    let mut command = Command::new(env::current_exe().expect("the test knows itself"));
    command
        .env("HISTORY", seed.to_string())
        .env_remove("SEED")
        .env_remove("WHOLE");
    if let Some(keep) = keep {
        let keep: Vec<_> = keep.iter().map(usize::to_string).collect();
        command.env("KEEP", keep.join(","));
    }
    command.output().expect("the test can start itself")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The rule that a history violates, or that it failed otherwise.
fn violated(output: &Output) -> Option<String> {
    if output.status.success() {
        return None;
    }
    let text = text(output);
    let line = text.lines().find_map(|line| line.strip_prefix("VIOLATION "));
    let rule = line.and_then(|line| line.split(':').next());
    Some(rule.unwrap_or("it did not come to its end").to_owned())
}

/// Leaves out one fault after the other that is not needed for the same violation.
fn shrunk(seed: u64, rule: &str) -> Output {
    let mut keep: Vec<usize> = (0..Plan::of(seed).faults.len()).collect();
    let mut smallest = child(seed, Some(&keep));
    for fault in keep.clone() {
        let fewer: Vec<_> = keep.iter().copied().filter(|kept| *kept != fault).collect();
        let output = child(seed, Some(&fewer));
        if violated(&output).as_deref() == Some(rule) {
            keep = fewer;
            smallest = output;
        }
    }
    smallest
}

fn told(seed: u64) -> ExitCode {
    let output = child(seed, None);
    match violated(&output) {
        None => {
            print!("{}", text(&output));
            ExitCode::SUCCESS
        }
        Some(rule) => {
            print!("{}", text(&shrunk(seed, &rule)));
            ExitCode::FAILURE
        }
    }
}

/// What many histories came to.
#[derive(Default)]
struct Summary {
    histories: u64,
    seconds: u64,
    faults: u64,
    switches: u64,
    /// How often each kind of fault has struck, and in how many histories.
    struck: BTreeMap<String, (u64, u64)>,
    violations: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, seed: u64, output: &Output) {
        self.histories += 1;
        let text = text(output);
        for line in text.lines().filter_map(|line| line.strip_prefix("struck ")) {
            let Some((kind, times)) = line.rsplit_once(' ') else {
                continue;
            };
            let (struck, histories) = self.struck.entry(kind.to_owned()).or_default();
            *struck += times.parse::<u64>().unwrap_or_default();
            *histories += 1;
        }
        let line = text
            .lines()
            .find(|line| line.starts_with("faults "))
            .unwrap_or_default();
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        if let [faults, switches, seconds] = numbers[..] {
            self.faults += faults;
            self.switches += switches;
            self.seconds += seconds;
        }
        self.violations.extend(violated(output).map(|rule| (seed, rule)));
    }

    fn print(&self, began: Instant) {
        println!(
            "{} histories in {:.0} s: {:.1} simulated hours, {} faults, {} switches, {} violations",
            self.histories,
            began.elapsed().as_secs_f32(),
            Duration::from_secs(self.seconds).as_secs_f64() / 3600.0,
            self.faults,
            self.switches,
            self.violations.len()
        );
        for (seed, rule) in self.violations.iter().take(20) {
            println!("  seed {seed}: {rule}");
        }
    }

    /// What has struck.
    fn print_struck(&self) {
        for (kind, (struck, histories)) in &self.struck {
            println!("  {kind}: {struck} times in {histories} histories");
        }
    }
}

/// Runs histories on both cores until there are enough, it is time, or with `stops` one violates something.
fn run_many(
    first: u64,
    histories: u64,
    time: Option<Duration>,
    stops: bool,
    mut progress: impl FnMut(&Summary, Instant),
) -> (Summary, Instant) {
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicU64::new(first);
    let (done, results) = std::sync::mpsc::channel();
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let is_over = time.is_some_and(|time| began.elapsed() >= time);
                    if seed >= first.saturating_add(histories)
                        || is_over
                        || done.send((seed, child(seed, None))).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (seed, output) in results {
            summary.add(seed, &output);
            progress(&summary, began);
            if stops && !summary.violations.is_empty() {
                // No further history begins: nobody takes its result.
                break;
            }
        }
    });
    (summary, began)
}

fn many(seconds: u64) -> ExitCode {
    let time = (seconds > 0).then(|| Duration::from_secs(seconds));
    let (first, histories) = (number("FIRST").unwrap_or(1), number("HISTORIES").unwrap_or(u64::MAX));
    let (summary, began) = run_many(first, histories, time, number("STOPS").is_some(), |summary, began| {
        if summary.histories.is_multiple_of(50) {
            summary.print(began);
        }
    });
    summary.print_struck();
    summary.print(began);
    ExitCode::from(u8::from(!summary.violations.is_empty()))
}

fn fixed_seeds() -> Result<(), Failed> {
    let (summary, _) = run_many(1, HISTORIES, None, false, |_, _| {});
    match summary.violations.first() {
        None => Ok(()),
        Some((seed, rule)) => Err(format!("seed {seed}\n{}", text(&shrunk(*seed, rule))).into()),
    }
}

fn is_deterministic() -> Result<(), Failed> {
    for seed in [1, 2, 3] {
        let [one, other] = [child(seed, None), child(seed, None)].map(|output| text(&output));
        if one != other {
            let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
            return Err(format!("seed {seed} gave two histories, which differ first in {differs:?}").into());
        }
    }
    Ok(())
}
