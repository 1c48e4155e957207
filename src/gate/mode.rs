//! Decides what the gate does with sessions: a pure function of the command in force, a termination under way, the upstream and the time.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::protocol::{GateState, Upstream};

/// What the gate does with sessions, new ones and existing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Accept new sessions.
    Open,
    /// Refuse new sessions and leave the existing ones alone: they work, but no new connection to the ObjectServer can be made.
    Refusing,
    /// Refuse new sessions and close each existing session when none of its requests is unanswered.
    Draining {
        /// When the sessions that are still busy are closed too.
        deadline: Instant,
        /// Number of sessions to close per second, unless more are needed to finish in time.
        per_second: u32,
    },
    /// Refuse new sessions and close the existing ones at once.
    Closed(ClosedBy),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Refusing => f.write_str("refusing: no new connection to the ObjectServer"),
            Self::Draining { deadline, per_second } => {
                let left = deadline.saturating_duration_since(Instant::now());
                write!(f, "draining within {left:.1?}, {per_second}/s or as many as that takes")
            }
            Self::Closed(ClosedBy::Command) => f.write_str("closed by command"),
            Self::Closed(ClosedBy::Upstream) => f.write_str("closed: ObjectServer unreachable"),
        }
    }
}

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// The command `Drop`.
    Command,
    /// The ObjectServer is unreachable, or the proxy server in front of it.
    Upstream,
}

/// The command in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveCommand {
    /// Accept sessions. In force until the first command arrives.
    Admit,
    /// Drain.
    Drain(DrainCommand),
    /// Close everything.
    Drop,
}

/// A drain as it was commanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainCommand {
    /// Time from the command to the deadline, as commanded. Distinguishes a repeated command from a new one.
    pub grace_period: Duration,
    /// Number of sessions to close per second, unless more are needed to finish in time.
    pub per_second: u32,
    /// When the remaining sessions are closed.
    pub deadline: Instant,
}

/// The timetable of a gate that has received SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// Until then the gate serves, so that the operator can switch the Service and command a drain.
    pub serves_until: Instant,
    /// By then the last session is closed.
    pub drained_by: Instant,
    /// Number of sessions to close per second when the gate drains without a command, unless more are needed to finish in time.
    pub per_second: u32,
}

/// Time between the close of the last session and the end of the grace period, when the process is killed: for the last answers to arrive
/// and the last report to be sent. At most a quarter of the grace period.
const EXIT_MARGIN: Duration = Duration::from_secs(2);

impl Termination {
    /// The timetable of a gate that receives SIGTERM `now` and SIGKILL when `grace_period` is over.
    #[must_use]
    pub fn begin(now: Instant, grace_period: Duration, per_second: u32) -> Self {
        let serves_until = now + grace_period / 2;
        let drained_by = now + grace_period.saturating_sub(EXIT_MARGIN.min(grace_period / 4));
        Self {
            serves_until,
            drained_by,
            per_second,
        }
    }

    /// Whether the gate drains now even without a command.
    #[must_use]
    pub fn has_begun_final_drain(&self, now: Instant) -> bool {
        now >= self.serves_until
    }
}

/// Everything that [`decide`] depends on besides the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// The operator's command in force.
    pub command: ActiveCommand,
    /// Set once, on SIGTERM.
    pub termination: Option<Termination>,
    /// Whether the ObjectServer is reachable, over the proxy server if there is one.
    pub upstream: Upstream,
    /// Only if it is not: whether existing sessions still work.
    pub keeps_sessions: bool,
    /// Since when no operator has been connected that may command the gate. `None` while one is, and before the first.
    pub unattended_since: Option<Instant>,
}

impl Inputs {
    /// When the mode changes although no input does.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.termination
            .map(|termination| termination.serves_until)
            .filter(|at| now < *at)
    }

    /// When the command in force lapses, if the gate has no sessions by then and nothing changes: `after` the last operator has gone. Without
    /// an operator there is nobody left to command `Admit`. A terminating gate has no time for that.
    #[must_use]
    pub fn lapses_at(&self, after: Duration) -> Option<Instant> {
        match self.command {
            ActiveCommand::Drain(_) | ActiveCommand::Drop if self.termination.is_none() => {
                Some(self.unattended_since? + after)
            }
            _ => None,
        }
    }
}

/// Decides what to do with sessions. The first rule that applies counts:
///
/// 1. The command `Drop` closes the gate, whatever the ObjectServer does.
/// 2. An unreachable ObjectServer closes it: no session could be served, and a drain has nothing left to wait for. Not if existing sessions
///    still work.
/// 3. The command `Drain` drains, for no longer than a termination leaves time.
/// 4. A termination drains in the second half of its grace period.
/// 5. If only existing sessions work, the gate refuses new ones.
/// 6. Otherwise the gate is open.
#[must_use]
pub fn decide(inputs: &Inputs, now: Instant) -> Mode {
    let Inputs {
        command,
        termination,
        upstream,
        keeps_sessions,
        unattended_since: _,
    } = inputs;
    if *command == ActiveCommand::Drop {
        return Mode::Closed(ClosedBy::Command);
    }
    let is_unreachable = matches!(upstream, Upstream::Unreachable { .. });
    if is_unreachable && !keeps_sessions {
        return Mode::Closed(ClosedBy::Upstream);
    }
    match (command, termination) {
        (ActiveCommand::Drain(drain), termination) => Mode::Draining {
            deadline: termination.map_or(drain.deadline, |termination| termination.drained_by.min(drain.deadline)),
            per_second: drain.per_second,
        },
        (_, Some(termination)) if termination.has_begun_final_drain(now) => Mode::Draining {
            deadline: termination.drained_by,
            per_second: termination.per_second,
        },
        _ if is_unreachable => Mode::Refusing,
        _ => Mode::Open,
    }
}

/// Whether a gate with this many sessions has nothing left to do and can exit.
#[must_use]
pub fn may_exit(inputs: &Inputs, sessions: u32, now: Instant) -> bool {
    let Some(termination) = inputs.termination else {
        return false;
    };
    let accepts_no_more = inputs.command != ActiveCommand::Admit || termination.has_begun_final_drain(now);
    sessions == 0 && accepts_no_more || now >= termination.drained_by
}

/// State of the port for probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// Closed on purpose.
    No,
    /// Open.
    Yes,
    /// It should be open but is not, for this reason.
    Failed(String),
}

/// The state to report: open only if the port is open, draining only if there are sessions left.
#[must_use]
pub fn reported(mode: Mode, is_listening: bool, sessions: u32) -> GateState {
    match mode {
        Mode::Open if is_listening => GateState::Open,
        Mode::Draining { .. } if sessions > 0 => GateState::Draining,
        Mode::Open | Mode::Refusing | Mode::Draining { .. } | Mode::Closed(_) => GateState::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::UnreachableCause;

    const SECOND: Duration = Duration::from_secs(1);

    fn unreachable() -> Upstream {
        Upstream::Unreachable {
            cause: UnreachableCause::Refused,
            message: "refused".to_owned(),
        }
    }

    const IDLE: Inputs = Inputs {
        command: ActiveCommand::Admit,
        termination: None,
        upstream: Upstream::Reachable,
        keeps_sessions: false,
        unattended_since: None,
    };

    fn drain(now: Instant) -> ActiveCommand {
        ActiveCommand::Drain(DrainCommand {
            grace_period: 5 * SECOND,
            per_second: 100,
            deadline: now + 5 * SECOND,
        })
    }

    fn termination(now: Instant) -> Option<Termination> {
        Some(Termination::begin(now, 30 * SECOND, 50))
    }

    #[test]
    fn without_a_command_it_follows_its_objectserver() {
        let now = Instant::now();
        assert_eq!(decide(&IDLE, now), Mode::Open);
        let inputs = Inputs {
            upstream: unreachable(),
            ..IDLE
        };
        assert_eq!(decide(&inputs, now), Mode::Closed(ClosedBy::Upstream));
    }

    #[test]
    fn a_drain_ends_at_once_when_the_objectserver_goes() {
        let now = Instant::now();
        let inputs = Inputs {
            command: drain(now),
            upstream: unreachable(),
            ..IDLE
        };
        assert_eq!(decide(&inputs, now), Mode::Closed(ClosedBy::Upstream));
    }

    #[test]
    fn a_drop_stays_in_force_whatever_the_objectserver_does() {
        for upstream in [Upstream::Reachable, unreachable()] {
            let inputs = Inputs {
                command: ActiveCommand::Drop,
                upstream,
                ..IDLE
            };
            assert_eq!(decide(&inputs, Instant::now()), Mode::Closed(ClosedBy::Command));
        }
    }

    #[test]
    fn a_terminating_gate_serves_for_half_its_grace_period_and_is_empty_two_seconds_before_the_end() {
        let now = Instant::now();
        let inputs = Inputs {
            termination: termination(now),
            ..IDLE
        };
        assert_eq!(inputs.next_change(now), Some(now + 15 * SECOND));
        assert_eq!(decide(&inputs, now + 14 * SECOND), Mode::Open);
        assert!(!may_exit(&inputs, 0, now + 14 * SECOND));
        let expected = Mode::Draining {
            deadline: now + 28 * SECOND,
            per_second: 50,
        };
        assert_eq!(decide(&inputs, now + 15 * SECOND), expected);
        assert_eq!(inputs.next_change(now + 15 * SECOND), None);
        assert!(!may_exit(&inputs, 1, now + 27 * SECOND));
        assert!(may_exit(&inputs, 0, now + 15 * SECOND));
        assert!(may_exit(&inputs, 1, now + 28 * SECOND));
    }

    #[test]
    fn a_terminating_gate_drains_as_commanded_but_never_beyond_its_own_end() {
        let now = Instant::now();
        let long = DrainCommand {
            grace_period: 99 * SECOND,
            per_second: 7,
            deadline: now + 99 * SECOND,
        };
        for (command, end) in [
            (drain(now), now + 5 * SECOND),
            (ActiveCommand::Drain(long), now + 28 * SECOND),
        ] {
            let inputs = Inputs {
                command,
                termination: termination(now),
                ..IDLE
            };
            let Mode::Draining { deadline, .. } = decide(&inputs, now) else {
                panic!("it does not drain");
            };
            assert_eq!(deadline, end);
            assert!(may_exit(&inputs, 0, now));
            assert!(!may_exit(&inputs, 1, now));
        }
    }

    #[test]
    fn a_grace_period_shorter_than_the_exit_margin_still_gives_a_timetable_in_order() {
        let now = Instant::now();
        let termination = Termination::begin(now, SECOND, 50);
        assert_eq!(termination.serves_until, now + SECOND / 2);
        assert_eq!(termination.drained_by, now + SECOND * 3 / 4);
    }

    #[test]
    fn new_sessions_alone_are_refused_while_existing_ones_work() {
        let now = Instant::now();
        let refusing = Inputs {
            upstream: unreachable(),
            keeps_sessions: true,
            ..IDLE
        };
        assert_eq!(decide(&refusing, now), Mode::Refusing);
        assert_eq!(reported(Mode::Refusing, false, 3), GateState::Closed);
        let drained = Inputs {
            command: drain(now),
            ..refusing.clone()
        };
        assert!(matches!(decide(&drained, now), Mode::Draining { .. }));
        let dropped = Inputs {
            command: ActiveCommand::Drop,
            ..refusing.clone()
        };
        assert_eq!(decide(&dropped, now), Mode::Closed(ClosedBy::Command));
        let ending = Inputs {
            termination: termination(now),
            ..refusing
        };
        assert!(matches!(decide(&ending, now + 15 * SECOND), Mode::Draining { .. }));
    }

    #[test]
    fn a_command_lapses_when_its_operator_has_been_gone_for_a_while() {
        let now = Instant::now();
        for (command, lapses) in [
            (drain(now), true),
            (ActiveCommand::Drop, true),
            (ActiveCommand::Admit, false),
        ] {
            let attended = Inputs { command, ..IDLE };
            assert_eq!(attended.lapses_at(30 * SECOND), None);
            let left = Inputs {
                unattended_since: Some(now),
                ..attended
            };
            assert_eq!(left.lapses_at(30 * SECOND), lapses.then_some(now + 30 * SECOND));
            let ending = Inputs {
                termination: termination(now),
                ..left
            };
            assert_eq!(ending.lapses_at(30 * SECOND), None);
        }
    }

    #[test]
    fn does_not_exit_without_a_signal() {
        let now = Instant::now();
        let inputs = Inputs {
            command: drain(now),
            ..IDLE
        };
        assert!(!may_exit(&inputs, 0, now + 99 * SECOND));
    }

    #[test]
    fn reports_what_happens_to_a_probe_that_connects() {
        let now = Instant::now();
        let draining = Mode::Draining {
            deadline: now,
            per_second: 1,
        };
        assert_eq!(reported(Mode::Open, true, 0), GateState::Open);
        assert_eq!(reported(Mode::Open, false, 0), GateState::Closed);
        assert_eq!(reported(draining, false, 1), GateState::Draining);
        assert_eq!(reported(draining, false, 0), GateState::Closed);
        assert_eq!(reported(Mode::Closed(ClosedBy::Command), false, 1), GateState::Closed);
    }
}
