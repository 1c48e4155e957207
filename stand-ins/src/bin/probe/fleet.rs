//! All probes together: what they share, and the report on them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Options;
use crate::clock::{Clock, Micros, micros};
use crate::counters::Counters;
use crate::gaps::Gaps;
use crate::record::Record;

/// The fleet.
#[derive(Debug)]
pub struct Fleet {
    /// The one clock.
    pub clock: Clock,
    name: String,
    period: Duration,
    started: Micros,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    finished: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    records: Vec<Record>,
    all: Gaps,
    windows: Vec<(String, Micros)>,
    paused: bool,
    ended: bool,
}

impl State {
    fn suspend_when_all_are_quiet(&mut self) {
        if self.records.iter().all(Record::is_quiet) {
            self.all.suspend();
        }
    }
}

impl Fleet {
    /// A fleet that has not connected yet. The probes' first events are spread over one period.
    pub fn new(options: &Options) -> Self {
        let clock = Clock::start();
        let now = clock.now();
        let period = Duration::from_secs_f64(1.0 / options.rate);
        let probes = options.probes.get();
        let record = |probe| Record::new(now, now + micros(period * probe / probes), period, options.count);
        Self {
            clock,
            name: options.name.clone(),
            period,
            started: now,
            state: Mutex::new(State {
                records: (0..probes).map(record).collect(),
                all: Gaps::new(now),
                windows: Vec::new(),
                paused: false,
                ended: false,
            }),
            changed: watch::Sender::new(()),
            finished: watch::Sender::new(false),
        }
    }

    /// How many probes it has.
    pub fn size(&self) -> usize {
        self.state().records.len()
    }

    /// Does something with the record of the probe with this index.
    pub fn with<T>(&self, index: usize, act: impl FnOnce(&mut Record, Micros) -> T) -> T {
        let now = self.clock.now();
        act(&mut self.state().records[index], now)
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&self, index: usize, server: &str) {
        let now = self.clock.now();
        let mut state = self.state();
        state.records[index].acknowledge(now, server);
        state.all.acknowledge(now, server);
        state.suspend_when_all_are_quiet();
    }

    /// A receiver that changes when pause, resume or end may have changed what a probe waits for.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Makes no events until [`Fleet::resume`].
    pub fn pause(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        state.paused = true;
        for record in &mut state.records {
            record.pause(now);
        }
        state.suspend_when_all_are_quiet();
        self.changed.send_replace(());
    }

    /// Makes events again, spread over one period.
    pub fn resume(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        if !state.paused || state.ended {
            return;
        }
        state.paused = false;
        let probes = u32::try_from(state.records.len()).unwrap_or(u32::MAX);
        for (probe, record) in (0..probes).zip(&mut state.records) {
            record.resume(now, now + micros(self.period * probe / probes));
        }
        state.all.resume(now);
        self.changed.send_replace(());
    }

    /// Makes no more events; the probes finish with what they have.
    pub fn end(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        state.ended = true;
        for record in &mut state.records {
            record.end(now);
        }
        state.suspend_when_all_are_quiet();
        self.changed.send_replace(());
    }

    /// Starts a window.
    pub fn mark(&self, name: String) {
        let now = self.clock.now();
        let mut state = self.state();
        state.windows.push((name, now));
        for record in &mut state.records {
            record.mark(now);
        }
        state.all.mark(now);
    }

    /// Lets those go who wait in [`Fleet::finished`].
    pub fn finish(&self) {
        self.finished.send_replace(true);
    }

    /// Waits for the end.
    pub async fn finished(&self) {
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// The report up to now.
    pub fn report(&self) -> Value {
        let now = self.clock.now();
        let mut state = self.state();
        for record in &mut state.records {
            record.make_due(now);
        }
        let State {
            records,
            all,
            windows,
            paused,
            ended: _,
        } = &*state;
        let mut totals = Counters::default();
        for record in records {
            totals.add(record.counters());
        }
        let probes: Vec<_> = (1..)
            .zip(records)
            .map(|(probe, record)| record.report(probe, now))
            .collect();
        let longest = records.iter().filter_map(|record| record.gaps().longest(now));
        let windows: Vec<_> = windows
            .iter()
            .enumerate()
            .map(|(index, (name, begin))| {
                let end = windows.get(index + 1).map_or(now, |(_, begin)| *begin);
                let gaps: Vec<_> = (1..)
                    .zip(records)
                    .filter_map(|(probe, record)| Some((probe, record.gaps().longest_in(index, now)?)))
                    .collect();
                let worst = gaps
                    .iter()
                    .max_by(|(_, a), (_, b)| a.longest_gap_ms.total_cmp(&b.longest_gap_ms));
                let per_probe: Vec<_> = gaps
                    .iter()
                    .map(|(probe, gap)| json!({"probe": probe, "gap": gap}))
                    .collect();
                json!({
                    "name": name,
                    "begin_us": begin,
                    "end_us": end,
                    "longest_gap_ms": worst.map(|(_, gap)| gap.longest_gap_ms),
                    "worst": worst.map(|(probe, gap)| json!({"probe": probe, "gap": gap})),
                    "silence": all.longest_in(index, now),
                    "probes": per_probe,
                })
            })
            .collect();
        json!({
            "name": self.name,
            "started_us": self.started,
            "now_us": now,
            "paused": paused,
            "finished": records.iter().all(Record::is_finished),
            "totals": totals,
            "longest_gap_ms": longest.map(|gap| gap.longest_gap_ms).max_by(f64::total_cmp),
            "silence": all.longest(now),
            "windows": windows,
            "probes": probes,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
