//! Health of one side over time: readings in, Up or Down with a cause out.

use std::time::Instant;

use super::evidence::{Reading, Timing};
use crate::api::{Cause, Health};

/// Health of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideHealth {
    /// Up, Down or Unknown.
    pub health: Health,
    /// Why it is down.
    pub cause: Option<Cause>,
    /// What was last wrong.
    pub message: Option<String>,
    /// Since when `health` is as it is.
    pub since: Instant,
    /// When to step again, if nothing new is observed before.
    pub look_again: Option<Instant>,
    /// How the newest readings run on.
    run: Run,
}

/// A run of readings of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Good { since: Instant },
    Unknown { since: Instant },
    Other,
}

impl SideHealth {
    /// Nothing is known at `now`.
    pub fn unknown(now: Instant) -> Self {
        Self {
            health: Health::Unknown,
            cause: None,
            message: None,
            since: now,
            look_again: None,
            run: Run::Unknown { since: now },
        }
    }

    /// Up, and proved so by the newest reading: only such a side may receive the traffic.
    pub fn may_serve(&self) -> bool {
        self.health == Health::Up && matches!(self.run, Run::Good { .. })
    }

    /// Nothing is known, and nothing was observed yet.
    pub fn is_unseen(&self) -> bool {
        self.health == Health::Unknown && matches!(self.run, Run::Unknown { .. })
    }

    /// Down, but good by the newest reading: it is on its way up.
    pub fn recovers(&self) -> bool {
        self.health == Health::Down && matches!(self.run, Run::Good { .. })
    }

    /// Whether the proxy of the side works, as far as is known: the side is up, or something else keeps it down.
    pub fn proxy_works(&self) -> bool {
        match self.health {
            Health::Up => true,
            Health::Down => self.cause.is_some_and(|cause| !cause.may_be_the_proxys()),
            Health::Unknown => false,
        }
    }

    /// Takes in one reading.
    ///
    /// - Good: a side of which nothing was known is up at once; one that was down must be good for `healthy_after`.
    /// - Bad: down from the reading's `down_at` on, and not to be trusted before. A side that is down for a cause that it is not left for keeps
    ///   that cause until then.
    /// - Unknown, Unseen: an up side stays up, unproven, for `unresponsive_after`, and is Unknown from then on.
    /// - Doubtful: changes nothing, and interrupts a run of good readings.
    #[must_use]
    pub fn step(self, reading: &Reading, timing: &Timing, now: Instant) -> Self {
        match reading {
            Reading::Good => self.good(timing, now),
            Reading::Doubtful { until } => Self {
                run: Run::Other,
                look_again: *until,
                ..self
            },
            Reading::Bad {
                cause,
                message,
                down_at,
            } => self.bad(*cause, message, *down_at, now),
            Reading::Unknown => self.unobserved(None, timing, now),
            Reading::Unseen { message } => self.unobserved(Some(message), timing, now),
        }
    }

    fn good(self, timing: &Timing, now: Instant) -> Self {
        let since = if let Run::Good { since } = self.run { since } else { now };
        let run = Run::Good { since };
        let up_at = since + timing.healthy_after;
        if self.health == Health::Down && now < up_at {
            return Self {
                run,
                look_again: Some(up_at),
                ..self
            };
        }
        Self {
            health: Health::Up,
            cause: None,
            message: None,
            since: if self.health == Health::Up { self.since } else { now },
            look_again: None,
            run,
        }
    }

    fn bad(self, cause: Cause, message: &str, down_at: Instant, now: Instant) -> Self {
        if self.health == Health::Down && now < down_at && (self.is_kept(cause) || self.would_cost_the_pod(cause)) {
            // The switch, or the deletion, that this cause would lead to waits for as long as from a side that is up.
            return Self {
                run: Run::Other,
                look_again: Some(down_at),
                ..self
            };
        }
        if self.health != Health::Down && now < down_at {
            return Self {
                message: Some(message.to_owned()),
                run: Run::Other,
                look_again: Some(down_at),
                ..self
            };
        }
        Self {
            health: Health::Down,
            cause: Some(cause),
            message: Some(message.to_owned()),
            since: if self.health == Health::Down { self.since } else { now },
            look_again: None,
            run: Run::Other,
        }
    }

    /// Whether the traffic stays on the side although it is down, and would leave it for `cause`.
    fn is_kept(&self, cause: Cause) -> bool {
        self.cause.is_some_and(|known| !known.leaves_side()) && cause.leaves_side()
    }

    /// Whether a pod would be deleted for `cause`, and not for the cause that is known.
    fn would_cost_the_pod(&self, cause: Cause) -> bool {
        cause.replaces_pod() && self.cause.is_some_and(|known| !known.replaces_pod())
    }

    fn unobserved(self, why: Option<&String>, timing: &Timing, now: Instant) -> Self {
        let since = if let Run::Unknown { since } = self.run {
            since
        } else {
            now
        };
        let run = Run::Unknown { since };
        let unknown_at = since + timing.unresponsive_after;
        let message = why.cloned();
        if self.health == Health::Unknown {
            return Self {
                run,
                look_again: None,
                message,
                ..self
            };
        }
        if now < unknown_at {
            return Self {
                run,
                look_again: Some(unknown_at),
                message: message.or(self.message),
                ..self
            };
        }
        Self {
            run,
            message,
            ..Self::unknown(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(1),
        unreachable_after: Duration::from_secs(1),
        unresponsive_after: Duration::from_secs(15),
        lost_after: Duration::from_secs(1),
        healthy_after: Duration::from_secs(5),
    };

    fn bad(down_at: Instant) -> Reading {
        Reading::Bad {
            cause: Cause::ObjectServerUnreachable,
            message: "refused".to_owned(),
            down_at,
        }
    }

    struct Clock {
        start: Instant,
        side: SideHealth,
    }

    impl Clock {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                side: SideHealth::unknown(start),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn read(&mut self, seconds: u64, reading: &Reading) -> Health {
            self.side = self.side.clone().step(reading, &TIMING, self.at(seconds));
            self.side.health
        }
    }

    #[test]
    fn a_side_that_refuses_the_login_is_left_for_a_failure_only_when_that_has_lasted() {
        let start = Instant::now();
        let bad = |cause, down_at| Reading::Bad {
            cause,
            message: String::new(),
            down_at,
        };
        let side = SideHealth::unknown(start).step(&bad(Cause::LoginRefused, start), &TIMING, start);
        let down_at = start + TIMING.unreachable_after;
        let failing = bad(Cause::ObjectServerUnreachable, down_at);
        let side = side.step(&failing, &TIMING, start);
        assert_eq!(
            (side.cause, side.look_again),
            (Some(Cause::LoginRefused), Some(down_at))
        );
        let side = side.step(&failing, &TIMING, down_at);
        assert_eq!(side.cause, Some(Cause::ObjectServerUnreachable));
    }

    #[test]
    fn a_side_that_is_down_is_silent_only_when_that_has_lasted() {
        let start = Instant::now();
        let bad = |cause, down_at| Reading::Bad {
            cause,
            message: String::new(),
            down_at,
        };
        let side = SideHealth::unknown(start).step(&bad(Cause::ObjectServerUnreachable, start), &TIMING, start);
        let down_at = start + TIMING.unresponsive_after;
        let silent = bad(Cause::ProxyUnresponsive, down_at);
        let side = side.step(&silent, &TIMING, start);
        assert_eq!(
            (side.cause, side.look_again),
            (Some(Cause::ObjectServerUnreachable), Some(down_at))
        );
        let side = side.step(&silent, &TIMING, down_at);
        assert_eq!(side.cause, Some(Cause::ProxyUnresponsive));
    }

    #[test]
    fn the_first_good_reading_of_an_unknown_side_brings_it_up() {
        let mut clock = Clock::new();
        assert_eq!(clock.read(0, &Reading::Good), Health::Up);
        assert!(clock.side.may_serve());
    }

    #[test]
    fn a_failure_shorter_than_its_deadline_moves_nothing_but_costs_the_proof() {
        let mut clock = Clock::new();
        clock.read(0, &Reading::Good);
        let down_at = clock.at(11);
        assert_eq!(clock.read(10, &bad(down_at)), Health::Up);
        assert!(!clock.side.may_serve());
        assert_eq!(clock.side.look_again, Some(down_at));
        assert_eq!(clock.read(10, &Reading::Good), Health::Up);
        assert_eq!(clock.side.since, clock.at(0));
    }

    #[test]
    fn a_failure_that_lasts_brings_the_side_down_with_its_cause() {
        let mut clock = Clock::new();
        clock.read(0, &Reading::Good);
        let down_at = clock.at(11);
        clock.read(10, &bad(down_at));
        assert_eq!(clock.read(11, &bad(down_at)), Health::Down);
        assert_eq!(clock.side.cause, Some(Cause::ObjectServerUnreachable));
    }

    #[test]
    fn a_side_that_was_down_is_up_only_after_healthy_after_without_a_break() {
        let mut clock = Clock::new();
        clock.read(0, &Reading::Good);
        let down_at = clock.at(10);
        clock.read(10, &bad(down_at));
        assert_eq!(clock.read(20, &Reading::Good), Health::Down);
        assert_eq!(clock.read(24, &Reading::Doubtful { until: None }), Health::Down);
        assert_eq!(clock.read(25, &Reading::Good), Health::Down);
        assert_eq!(clock.read(29, &Reading::Good), Health::Down);
        assert_eq!(clock.side.look_again, Some(clock.at(30)));
        assert_eq!(clock.read(30, &Reading::Good), Health::Up);
    }

    #[test]
    fn a_side_that_is_not_seen_any_more_is_unknown_in_the_end_and_unproven_at_once() {
        let mut clock = Clock::new();
        clock.read(0, &Reading::Good);
        assert_eq!(clock.read(10, &Reading::Unknown), Health::Up);
        assert!(!clock.side.may_serve());
        assert_eq!(clock.read(24, &Reading::Unknown), Health::Up);
        assert_eq!(clock.read(25, &Reading::Unknown), Health::Unknown);
    }

    #[test]
    fn what_the_operator_cannot_look_at_never_brings_a_side_down_and_is_said() {
        let unseen = Reading::Unseen {
            message: "too many open files".to_owned(),
        };
        let mut clock = Clock::new();
        clock.read(0, &Reading::Good);
        assert_eq!(clock.read(10, &unseen), Health::Up);
        assert!(!clock.side.may_serve());
        for seconds in [25, 60, 3600] {
            assert_eq!(clock.read(seconds, &unseen), Health::Unknown);
            assert_eq!(clock.side.message.as_deref(), Some("too many open files"));
            assert_eq!(clock.side.cause, None);
        }
        assert_eq!(clock.read(3601, &Reading::Good), Health::Up);
        assert_eq!(clock.side.message, None);
    }

    #[test]
    fn an_unknown_side_waits_for_the_deadline_of_a_failure_too() {
        let mut clock = Clock::new();
        let down_at = clock.at(1);
        assert_eq!(clock.read(0, &bad(down_at)), Health::Unknown);
        assert_eq!(clock.read(1, &bad(down_at)), Health::Down);
    }
}
