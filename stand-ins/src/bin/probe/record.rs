//! What one probe has to send, and what has become of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::{Micros, micros};
use crate::counters::Counters;
use crate::gaps::Gaps;

/// Most events that are kept in memory at a time. Beyond that a probe waits with making events; none is dropped and no number skipped.
const KEPT_MAX: usize = 100_000;

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 1.
    pub number: u64,
    /// When it happened.
    pub at: Micros,
}

/// The ObjectServer at the other end of a session.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Its name.
    pub server: String,
    /// The address that was connected to.
    pub address: String,
}

/// One probe's record.
#[derive(Debug)]
pub struct Record {
    period: Duration,
    next_due: Option<Micros>,
    made: u64,
    last: Option<u64>,
    kept: VecDeque<Event>,
    sent: u64,
    resent: u64,
    acknowledged: u64,
    reconnects: u64,
    connect_failures: BTreeMap<&'static str, u64>,
    refused_events: u64,
    answered_by: BTreeMap<String, u64>,
    session: Option<Session>,
    gaps: Gaps,
}

impl Record {
    /// A probe that makes its first event at `first_due` and, if `count` is given, that many in all.
    pub const fn new(now: Micros, first_due: Micros, period: Duration, count: Option<u64>) -> Self {
        Self {
            period,
            next_due: Some(first_due),
            made: 0,
            last: count,
            kept: VecDeque::new(),
            sent: 0,
            resent: 0,
            acknowledged: 0,
            reconnects: 0,
            connect_failures: BTreeMap::new(),
            refused_events: 0,
            answered_by: BTreeMap::new(),
            session: None,
            gaps: Gaps::new(now),
        }
    }

    /// Makes the events that are due.
    pub fn make_due(&mut self, now: Micros) {
        while let Some(due) = self.next_due {
            if self.last.is_some_and(|last| self.made >= last) {
                self.next_due = None;
                return;
            }
            if due > now || self.kept.len() >= KEPT_MAX {
                return;
            }
            self.made += 1;
            self.kept.push_back(Event {
                number: self.made,
                at: due,
            });
            self.next_due = Some(due + micros(self.period));
        }
    }

    /// The oldest event that is not acknowledged.
    pub fn oldest(&self) -> Option<Event> {
        self.kept.front().copied()
    }

    /// When the next event is due; `None` while paused or when there will be no more.
    pub const fn next_due(&self) -> Option<Micros> {
        self.next_due
    }

    /// Whether all events have been made and acknowledged.
    pub fn is_finished(&self) -> bool {
        self.kept.is_empty() && self.last.is_some_and(|last| self.made >= last)
    }

    /// Notes that the oldest event goes out, perhaps again.
    pub const fn send(&mut self, event: Event) {
        if event.number > self.sent {
            self.sent = event.number;
        } else {
            self.resent += 1;
        }
    }

    /// Notes that the oldest event is safe with `server`.
    pub fn acknowledge(&mut self, now: Micros, server: &str) {
        if let Some(event) = self.kept.pop_front() {
            self.acknowledged = event.number;
            *self.answered_by.entry(server.to_owned()).or_default() += 1;
            self.gaps.acknowledge(now, server);
        }
        self.make_due(now);
        self.suspend_when_nothing_is_left();
    }

    /// Notes that the ObjectServer refused the oldest event.
    pub const fn refuse(&mut self) {
        self.refused_events += 1;
    }

    /// Notes a session that is open, or that is no more.
    pub fn set_session(&mut self, session: Option<Session>) {
        self.session = session;
    }

    /// Notes a connection after the first.
    pub const fn reconnect(&mut self) {
        self.reconnects += 1;
    }

    /// Notes an attempt to connect that failed.
    pub fn fail_to_connect(&mut self, kind: &'static str) {
        *self.connect_failures.entry(kind).or_default() += 1;
    }

    /// Makes no more events until [`Record::resume`].
    pub fn pause(&mut self, now: Micros) {
        self.make_due(now);
        self.next_due = None;
        self.suspend_when_nothing_is_left();
    }

    /// Makes events again, the first at `first_due`.
    pub fn resume(&mut self, now: Micros, first_due: Micros) {
        if self.last.is_none_or(|last| self.made < last) && self.next_due.is_none() {
            self.next_due = Some(first_due);
            self.gaps.resume(now);
        }
    }

    /// Makes no more events at all.
    pub fn end(&mut self, now: Micros) {
        self.pause(now);
        self.last = Some(self.made);
    }

    /// Starts a window of the gaps.
    pub fn mark(&mut self, now: Micros) {
        self.gaps.mark(now);
    }

    /// The gaps.
    pub const fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The counters that add up over probes.
    pub fn counters(&self) -> Counters {
        Counters {
            made: self.made,
            sent: self.sent,
            acknowledged: self.acknowledged,
            resent: self.resent,
            kept: self.made - self.acknowledged,
            refused_events: self.refused_events,
            reconnects: self.reconnects,
            connect_failures: self.connect_failures.clone(),
            answered_by: self.answered_by.clone(),
            sessions: self.session.iter().map(|session| (session.server.clone(), 1)).collect(),
        }
    }

    /// The report on the probe of this number.
    pub fn report(&self, probe: usize, now: Micros) -> Value {
        // One event is outstanding and the order is kept, so what is acknowledged is always one range from 1.
        let ranges: Vec<_> = (self.acknowledged > 0)
            .then_some([1, self.acknowledged])
            .into_iter()
            .collect();
        json!({
            "probe": probe,
            "counters": self.counters(),
            "acknowledged_ranges": ranges,
            "session": self.session,
            "longest_gap": self.gaps.longest(now),
        })
    }

    /// Whether nothing is waiting and nothing will come: paused or finished.
    pub fn is_quiet(&self) -> bool {
        self.next_due.is_none() && self.kept.is_empty()
    }

    fn suspend_when_nothing_is_left(&mut self) {
        if self.is_quiet() {
            self.gaps.suspend();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: Option<u64>) -> Record {
        Record::new(0, 10, Duration::from_micros(100), count)
    }

    #[test]
    fn events_are_numbered_from_one_without_gaps() {
        let mut record = record(None);
        record.make_due(9);
        assert_eq!(record.oldest(), None);
        record.make_due(215);
        assert_eq!(
            record.kept,
            [1, 2, 3].map(|number| Event {
                number,
                at: number * 100 - 90
            })
        );
    }

    #[test]
    fn an_event_stays_first_until_it_is_acknowledged() {
        let mut record = record(None);
        record.make_due(110);
        for _ in 0..2 {
            record.send(record.oldest().unwrap());
        }
        assert_eq!(record.oldest().unwrap().number, 1);
        record.acknowledge(150, "AGG_P");
        assert_eq!(record.oldest().unwrap().number, 2);
        let counters = record.counters();
        assert_eq!(
            (counters.sent, counters.resent, counters.acknowledged, counters.kept),
            (1, 1, 1, 1)
        );
    }

    #[test]
    fn a_probe_with_a_count_finishes_when_all_are_acknowledged() {
        let mut record = record(Some(2));
        record.make_due(1_000);
        record.acknowledge(1_000, "AGG_P");
        assert!(!record.is_finished());
        record.acknowledge(1_001, "AGG_P");
        assert!(record.is_finished());
        assert_eq!(record.counters().made, 2);
    }

    #[test]
    fn a_paused_probe_makes_nothing_and_goes_on_with_the_next_number() {
        let mut record = record(None);
        record.pause(10);
        record.make_due(1_000);
        assert_eq!(record.counters().made, 1);
        record.resume(1_000, 1_050);
        record.make_due(1_050);
        assert_eq!(record.kept.back().unwrap().number, 2);
    }

    #[test]
    fn an_ended_probe_finishes_with_what_it_has() {
        let mut record = record(None);
        record.end(10);
        assert!(!record.is_finished());
        record.acknowledge(20, "AGG_P");
        assert!(record.is_finished());
    }

    #[test]
    fn memory_is_bounded_and_no_number_is_skipped() {
        let mut record = record(None);
        record.make_due(100 * 200_000);
        assert_eq!(record.kept.len(), KEPT_MAX);
        record.acknowledge(100 * 200_000, "AGG_P");
        assert_eq!(record.kept.back().unwrap().number, KEPT_MAX as u64 + 1);
    }
}
