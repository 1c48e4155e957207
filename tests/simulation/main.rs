//! The simulator: whole histories of pairs, operators, gates, ObjectServers and probes in one thread each, on virtual time and a seeded source
//! of chance, with faults everywhere. After each step the guarantees of docs/failover.md are checked.
//!
//! What decides is what ships: the machine of the pair with everything below it (`domain`), the gate's admission, commands, terms and the pace
//! of its drains (`gate::{mode, commands, drain}`). What surrounds it is a world of its own, because it would need real connections, a real
//! clock or an API server:
//!
//! | module | stands for |
//! |---|---|
//! | `api_server` | the API server: resourceVersions, conflicts, late, refused and lost answers |
//! | `operator`, `lease` | the operator's process, its caches, reconciliation and election |
//! | `worker`, `checks` | `src/worker` and `src/check`: who carries out what the machine wants, and who observes |
//! | `pod` | Deployments, kubelet, EndpointSlices, kube-proxy |
//! | `gate`, `probe` | the gate's process, its sessions, and the probes |
//! | `object_server` | ObjectServers and their gateway |
//! | `network` | the links between all of them |
//!
//! `plan`, `stories` and `faults` are what goes wrong, `truth` and `invariants` what must hold, `history` runs, shrinks and tells a history, and
//! `exhaustive` kills the operator everywhere in a switch.
//!
//! `make simulate` runs until it is stopped; `make simulate SEED=7` tells one history.

mod api_server;
mod checks;
mod clock;
mod exhaustive;
mod faults;
mod gate;
mod history;
mod invariants;
mod lease;
mod network;
mod object_server;
mod operator;
mod plan;
mod pod;
mod probe;
mod random;
mod stories;
mod timeline;
mod truth;
mod worker;
mod world;

use std::{
    env,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};

use self::{
    exhaustive::Scenario,
    history::{Budget, Summary, run, run_many, shrink, tell},
    plan::Plan,
};

/// How long the fixed seeds may take in `make check`.
const TIME: Duration = Duration::from_secs(90);
/// The fixed seeds: how many fit into that time depends on how the simulator was compiled.
const HISTORIES: u64 = if cfg!(debug_assertions) { 4000 } else { 10_000 };

fn main() -> ExitCode {
    if let Some(seed) = number("SEED") {
        return replay(seed);
    }
    if let Some(seconds) = number("SIMULATE") {
        return simulate(seconds);
    }
    let mut trials = vec![Trial::test("histories_with_fixed_seeds", fixed_seeds)];
    for scenario in Scenario::ALL {
        let name = format!("an_operator_killed_everywhere_in_{scenario:?}");
        trials.push(Trial::test(name, move || killed_everywhere(scenario)));
    }
    trials.push(Trial::test("the_same_seed_gives_the_same_history", is_deterministic));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Tells one history, shrunk if it violates something.
fn replay(seed: u64) -> ExitCode {
    let plan = Plan::of(seed);
    let first = run(&plan, false, None);
    let Some(violation) = first.violation else {
        print!("{}", tell(&plan, &run(&plan, true, None)));
        return ExitCode::SUCCESS;
    };
    let smallest = shrink(&plan, violation.rule);
    print!("{}", tell(&smallest, &run(&smallest, true, None)));
    println!("{} of {} faults are needed", smallest.faults.len(), plan.faults.len());
    ExitCode::FAILURE
}

/// Runs histories for that many seconds, for ever with 0, and tells of each rule that is violated once.
fn simulate(seconds: u64) -> ExitCode {
    let budget = Budget {
        first: number("FIRST").unwrap_or(1),
        histories: number("HISTORIES").unwrap_or(u64::MAX),
        time: (seconds > 0).then(|| Duration::from_secs(seconds)),
        stops: number("STOPS").is_some(),
    };
    let (told, known) = (AtomicU64::new(0), AtomicU64::new(0));
    let summary = run_many(budget, |summary| {
        let violations = summary.violations.len() as u64;
        if known.fetch_max(violations, Ordering::Relaxed) < violations
            && let Some((seed, violation)) = summary.violations.last()
        {
            println!("seed {seed} violates {}", violation.rule);
        }
        let tens = summary.took.as_secs() / 10;
        if told.fetch_max(tens, Ordering::Relaxed) < tens {
            println!("{}", summary.line());
        }
    });
    report(&summary);
    ExitCode::from(u8::from(!summary.violations.is_empty()))
}

fn report(summary: &Summary) {
    let mut rules: Vec<(&str, Vec<u64>)> = Vec::new();
    for (seed, violation) in &summary.violations {
        match rules.iter_mut().find(|(rule, _)| *rule == violation.rule) {
            Some((_, seeds)) => seeds.push(*seed),
            None => rules.push((violation.rule, vec![*seed])),
        }
    }
    for (rule, seeds) in rules {
        println!(
            "violated by {} histories: {rule}\n  seeds {:?}",
            seeds.len(),
            &seeds[..seeds.len().min(12)]
        );
    }
    println!("{}", summary.line());
}

fn fixed_seeds() -> Result<(), Failed> {
    let budget = Budget {
        first: 1,
        histories: HISTORIES,
        time: Some(TIME),
        stops: true,
    };
    let summary = run_many(budget, |_| {});
    match summary.violations.first() {
        None => Ok(()),
        Some((seed, violation)) => {
            let smallest = shrink(&Plan::of(*seed), violation.rule);
            Err(tell(&smallest, &run(&smallest, true, None)).into())
        }
    }
}

fn killed_everywhere(scenario: Scenario) -> Result<(), Failed> {
    let (places, violated) = exhaustive::run_all(scenario, 1);
    if places < 20 {
        return Err(format!("there are only {places} places to kill the operator at: nothing was switched").into());
    }
    match violated {
        None => Ok(()),
        Some((plan, kill, ended)) => Err(format!("{kill:?}\n{}", tell(&plan, &ended)).into()),
    }
}

fn is_deterministic() -> Result<(), Failed> {
    for seed in [3, 14, 159] {
        let tellings = [(); 2].map(|()| tell(&Plan::of(seed), &run(&Plan::of(seed), true, None)));
        if tellings[0] != tellings[1] {
            return Err(format!("seed {seed} gives two histories").into());
        }
    }
    Ok(())
}
