//! The longest time without an acknowledgement: over everything, and within named windows.

use serde::Serialize;

use crate::clock::Micros;

/// A time without an acknowledgement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    /// Its length in milliseconds.
    pub longest_gap_ms: f64,
    /// The acknowledgement before it, in microseconds since 1970; the start when there was none.
    pub begin_us: Micros,
    /// The acknowledgement that ended it, or now.
    pub end_us: Micros,
    /// The ObjectServer that ended it; `null` while it is open.
    pub first_server_after: Option<String>,
}

impl Gap {
    fn new(begin: Micros, end: Micros, server: Option<&str>) -> Self {
        Self {
            longest_gap_ms: end.saturating_sub(begin) as f64 / 1000.0,
            begin_us: begin,
            end_us: end,
            first_server_after: server.map(str::to_owned),
        }
    }

    const fn length(&self) -> Micros {
        self.end_us.saturating_sub(self.begin_us)
    }
}

#[derive(Debug)]
struct Window {
    longest: Option<Gap>,
    closed: bool,
}

/// Watches the acknowledgements of one probe, or of all together.
#[derive(Debug)]
pub struct Gaps {
    last: Option<Micros>,
    longest: Option<Gap>,
    windows: Vec<Window>,
}

impl Gaps {
    /// Counts from `now`.
    pub const fn new(now: Micros) -> Self {
        Self {
            last: Some(now),
            longest: None,
            windows: Vec::new(),
        }
    }

    /// An acknowledgement from `server` ends a gap. It belongs to the window in which it ends.
    pub fn acknowledge(&mut self, now: Micros, server: &str) {
        if let Some(begin) = self.last {
            let gap = Gap::new(begin, now, Some(server));
            keep_longer(&mut self.longest, &gap);
            if let Some(window) = self.windows.last_mut() {
                keep_longer(&mut window.longest, &gap);
            }
        }
        self.last = Some(now);
    }

    /// Ends the present window and starts the next. A gap that is open counts in both: up to now in the one, from its own begin in the other.
    pub fn mark(&mut self, now: Micros) {
        let open = self.open(now);
        if let Some(window) = self.windows.last_mut() {
            if let Some(gap) = open {
                keep_longer(&mut window.longest, &gap);
            }
            window.closed = true;
        }
        self.windows.push(Window {
            longest: None,
            closed: false,
        });
    }

    /// Nothing is expected from now on, so silence is no gap.
    pub const fn suspend(&mut self) {
        self.last = None;
    }

    /// Acknowledgements are expected again.
    pub fn resume(&mut self, now: Micros) {
        self.last.get_or_insert(now);
    }

    /// The longest gap, an open one counted up to now.
    pub fn longest(&self, now: Micros) -> Option<Gap> {
        longer(self.longest.clone(), self.open(now))
    }

    /// The longest gap of a window, windows counted from 0.
    pub fn longest_in(&self, window: usize, now: Micros) -> Option<Gap> {
        let window = self.windows.get(window)?;
        let open = if window.closed { None } else { self.open(now) };
        longer(window.longest.clone(), open)
    }

    fn open(&self, now: Micros) -> Option<Gap> {
        self.last.map(|begin| Gap::new(begin, now, None))
    }
}

fn keep_longer(longest: &mut Option<Gap>, gap: &Gap) {
    if longest.as_ref().is_none_or(|longest| longest.length() < gap.length()) {
        *longest = Some(gap.clone());
    }
}

fn longer(one: Option<Gap>, other: Option<Gap>) -> Option<Gap> {
    match (one, other) {
        (Some(one), Some(other)) if one.length() < other.length() => Some(other),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(gap: Option<Gap>) -> f64 {
        gap.unwrap().longest_gap_ms
    }

    #[test]
    fn the_longest_gap_names_the_server_that_ended_it() {
        let mut gaps = Gaps::new(0);
        gaps.acknowledge(1_000, "AGG_P");
        gaps.acknowledge(9_000, "AGG_B");
        gaps.acknowledge(10_000, "AGG_B");
        assert_eq!(gaps.longest(10_500), Some(Gap::new(1_000, 9_000, Some("AGG_B"))));
    }

    #[test]
    fn an_open_gap_counts_up_to_now() {
        let mut gaps = Gaps::new(0);
        gaps.acknowledge(1_000, "AGG_P");
        assert_eq!(gaps.longest(5_000), Some(Gap::new(1_000, 5_000, None)));
    }

    #[test]
    fn a_gap_belongs_to_the_window_in_which_it_ends() {
        let mut gaps = Gaps::new(0);
        gaps.mark(2_000);
        gaps.acknowledge(8_000, "AGG_P");
        gaps.mark(9_000);
        gaps.acknowledge(10_000, "AGG_P");
        assert_eq!(length(gaps.longest_in(0, 10_000)), 8.0);
        assert_eq!(length(gaps.longest_in(1, 10_000)), 2.0);
        assert_eq!(gaps.longest_in(2, 10_000), None);
    }

    #[test]
    fn a_gap_that_is_open_at_a_mark_counts_in_both_windows() {
        let mut gaps = Gaps::new(0);
        gaps.mark(1_000);
        gaps.mark(5_000);
        gaps.acknowledge(7_000, "AGG_B");
        assert_eq!(length(gaps.longest_in(0, 9_000)), 5.0);
        assert_eq!(length(gaps.longest_in(1, 9_000)), 7.0);
    }

    #[test]
    fn a_pause_is_no_gap() {
        let mut gaps = Gaps::new(0);
        gaps.acknowledge(1_000, "AGG_P");
        gaps.suspend();
        assert_eq!(length(gaps.longest(60_000)), 1.0);
        gaps.resume(60_000);
        gaps.acknowledge(62_000, "AGG_P");
        assert_eq!(length(gaps.longest(62_000)), 2.0);
    }
}
