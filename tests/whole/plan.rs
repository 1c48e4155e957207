//! What goes wrong in one history.

use std::time::Duration;

use fastrand::Rng;

use super::faults::Fault;

/// When the first fault may come: the pair serves by then.
const FIRST: Duration = Duration::from_secs(25);
/// How long faults may begin.
const SPAN: Duration = Duration::from_secs(60);

/// Nodes are lost at least that long: their pods are to be taken out, deleted and replaced.
const NODE_LOST_FOR: Duration = Duration::from_secs(15);

/// One history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub timing: Timing,
    /// The checks log in.
    pub has_login: bool,
    /// `leaseDuration` of the chart.
    pub lease: Duration,
    pub probes: usize,
    /// How long the ObjectServers need for a request, in milliseconds.
    pub answers_after: u64,
    /// `proxy.replicas`.
    pub replicas: usize,
    /// Each with when it begins and how long it lasts.
    pub faults: Vec<(Duration, Duration, Fault)>,
}

/// The timings of the pair, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub interval: u64,
    pub unreachable_after: u64,
    pub unresponsive_after: u64,
    pub healthy_after: u64,
    pub stable_for: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut chance = Rng::with_seed(seed);
        let timing = match chance.u32(0..3) {
            // The defaults, but for the time that the primary must be stable.
            0 => Timing {
                interval: 1000,
                unreachable_after: 1000,
                unresponsive_after: 15_000,
                healthy_after: 5000,
                stable_for: 10_000,
            },
            1 => Timing {
                interval: 500,
                unreachable_after: 0,
                unresponsive_after: 3000,
                healthy_after: 1000,
                stable_for: 0,
            },
            _ => Timing {
                interval: chance.u64(200..2000),
                unreachable_after: chance.u64(0..2000),
                unresponsive_after: chance.u64(4000..10_000),
                healthy_after: chance.u64(0..5000),
                stable_for: chance.u64(0..10_000),
            },
        };
        let has_login = chance.u32(0..3) == 0;
        let probes = chance.usize(1..5);
        let count = chance.usize(1..7);
        let span = u64::try_from(SPAN.as_millis()).unwrap_or_default();
        let mut faults: Vec<(Duration, Duration, Fault)> = (0..count)
            .map(|_| {
                let begins = FIRST + Duration::from_millis(chance.u64(0..span));
                let mut lasts = Duration::from_millis(chance.u64(10..20_000));
                let fault = Fault::drawn(&mut chance, has_login, probes);
                // Shorter ones are cuts of all links.
                if matches!(fault, Fault::NodeLost(..)) {
                    lasts += NODE_LOST_FOR;
                }
                (begins, lasts, fault)
            })
            .collect();
        faults.sort_by_key(|(begins, ..)| *begins);
        Self {
            seed,
            timing,
            has_login,
            lease: Duration::from_secs([2, 3, 5, 5, 10][chance.usize(0..5)]),
            probes,
            answers_after: [0, 0, 50, 300][chance.usize(0..4)],
            replicas: [1, 2, 2, 3][chance.usize(0..4)],
            faults,
        }
    }

    /// Leaves out all faults but those with these numbers.
    pub fn keep(&mut self, numbers: &[usize]) {
        let mut number = 0;
        self.faults.retain(|_| {
            number += 1;
            numbers.contains(&(number - 1))
        });
    }

    /// What the history is about, for people.
    pub fn told(&self) -> String {
        let Self {
            seed,
            timing,
            has_login,
            lease,
            probes,
            answers_after,
            replicas,
            faults: _,
        } = self;
        format!(
            "seed {seed}: {probes} probes, {replicas} gates a side, answers after {answers_after} ms, login {has_login}, leaseDuration {lease:?}, {timing:?}"
        )
    }

    /// When the last fault is over.
    pub fn repaired_at(&self) -> Duration {
        let ends = self.faults.iter().map(|(begins, lasts, _)| *begins + *lasts);
        ends.max().unwrap_or(FIRST)
    }
}
