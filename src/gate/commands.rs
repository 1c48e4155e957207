//! Which connections may command the gate, and what each command changes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::mode::{ActiveCommand, DrainCommand, Inputs};
use crate::protocol::Request;

/// The longest drain that is accepted.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a command is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Another operator leads by now.
    #[error("term {term} of {holder} is over: {highest_holder} has connected with term {highest}")]
    TermOver {
        /// The term of the connection that sent the command.
        term: u64,
        /// The operator that sent it.
        holder: String,
        /// The highest term that this process has received.
        highest: u64,
        /// The operator that sent that term.
        highest_holder: String,
    },
    /// A drain that closes no session would never end.
    #[error("connectionsPerSecond must be at least 1")]
    NoPace,
    /// A drain longer than a day.
    #[error("gracePeriodMs must be at most {} (one day)", LONGEST_DRAIN.as_millis())]
    TooLong,
    /// `Admit` came after the final drain had begun.
    #[error("the gate is terminating and has begun its final drain")]
    Terminating,
    /// The line is not a request, or not one that this version knows.
    #[error("cannot read this request: {0}")]
    Unreadable(String),
    /// A second `Hello`.
    #[error("Hello must be the first line of a connection, and only the first")]
    SecondHello,
}

/// The highest term that this process has received, and the operator that sent it.
#[derive(Debug, Default)]
pub struct Terms {
    highest: Mutex<Highest>,
}

#[derive(Debug, Default)]
struct Highest {
    term: u64,
    holder: String,
    /// Open connections with this term.
    connections: u32,
}

impl Terms {
    /// Notes the term of a new connection. From now on, lower terms are over. Calls `attended` if the new connection may command the gate.
    pub fn note(&self, holder: &str, term: u64, attended: impl FnOnce()) {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if term > highest.term || highest.holder.is_empty() {
            *highest = Highest {
                term,
                holder: holder.to_owned(),
                connections: 0,
            };
        }
        if term == highest.term {
            highest.connections += 1;
            attended();
        }
    }

    /// Notes the end of a connection. Calls `unattended` if none is left that may command the gate.
    pub fn leave(&self, term: u64, unattended: impl FnOnce()) {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if term == highest.term {
            highest.connections = highest.connections.saturating_sub(1);
            if highest.connections == 0 {
                unattended();
            }
        }
    }

    /// Runs `act` if the term is not over. Meanwhile no higher term is noted.
    ///
    /// # Errors
    ///
    /// [`CommandError::TermOver`], and what `act` returns.
    pub fn act<T>(
        &self,
        holder: &str,
        term: u64,
        act: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if term < highest.term {
            return Err(CommandError::TermOver {
                term,
                holder: holder.to_owned(),
                highest: highest.term,
                highest_holder: highest.holder.clone(),
            });
        }
        act()
    }
}

/// The command in force after a request was accepted.
///
/// # Errors
///
/// [`CommandError`] if it is rejected; the command in force stays the same then.
pub fn accept(inputs: &Inputs, request: &Request, now: Instant) -> Result<ActiveCommand, CommandError> {
    match *request {
        Request::Hello { .. } => Err(CommandError::SecondHello),
        Request::Ping { .. } => Ok(inputs.command),
        Request::Admit => match inputs.termination {
            Some(termination) if termination.has_begun_final_drain(now) => Err(CommandError::Terminating),
            _ => Ok(ActiveCommand::Admit),
        },
        Request::Drain {
            grace_period_ms,
            connections_per_second,
        } => {
            let grace_period = Duration::from_millis(grace_period_ms);
            if connections_per_second == 0 {
                return Err(CommandError::NoPace);
            }
            if grace_period > LONGEST_DRAIN {
                return Err(CommandError::TooLong);
            }
            Ok(match inputs.command {
                ActiveCommand::Drain(same)
                    if same.grace_period == grace_period && same.per_second == connections_per_second =>
                {
                    ActiveCommand::Drain(same)
                }
                _ => ActiveCommand::Drain(DrainCommand {
                    grace_period,
                    per_second: connections_per_second,
                    deadline: now + grace_period,
                }),
            })
        }
        Request::Drop => Ok(ActiveCommand::Drop),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        gate::mode::{self, Mode, Termination},
        protocol::Upstream,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const DRAIN: Request = Request::Drain {
        grace_period_ms: 5000,
        connections_per_second: 10,
    };
    const IDLE: Inputs = Inputs {
        command: ActiveCommand::Admit,
        termination: None,
        upstream: Upstream::Reachable,
        keeps_sessions: false,
        unattended_since: None,
    };

    #[test]
    fn a_repeated_drain_keeps_its_deadline_and_another_one_sets_a_new_one() {
        let start = Instant::now();
        let mut inputs = IDLE;
        inputs.command = accept(&inputs, &DRAIN, start).unwrap();
        assert_eq!(accept(&inputs, &DRAIN, start + SECOND), Ok(inputs.command));
        let slower = Request::Drain {
            grace_period_ms: 5000,
            connections_per_second: 5,
        };
        let expected = DrainCommand {
            grace_period: 5 * SECOND,
            per_second: 5,
            deadline: start + 6 * SECOND,
        };
        assert_eq!(
            accept(&inputs, &slower, start + SECOND),
            Ok(ActiveCommand::Drain(expected))
        );
    }

    #[test]
    fn a_drain_after_an_admit_is_a_new_one() {
        let start = Instant::now();
        let mut inputs = IDLE;
        for (request, at) in [
            (&DRAIN, start),
            (&Request::Admit, start + SECOND),
            (&DRAIN, start + 2 * SECOND),
        ] {
            inputs.command = accept(&inputs, request, at).unwrap();
        }
        let ActiveCommand::Drain(drain) = inputs.command else {
            panic!("{inputs:?}")
        };
        assert_eq!(drain.deadline, start + 7 * SECOND);
    }

    #[test]
    fn rejects_a_drain_without_a_pace_or_an_end() {
        let now = Instant::now();
        let stopped = Request::Drain {
            grace_period_ms: 1,
            connections_per_second: 0,
        };
        assert_eq!(accept(&IDLE, &stopped, now), Err(CommandError::NoPace));
        let endless = Request::Drain {
            grace_period_ms: u64::MAX,
            connections_per_second: 1,
        };
        assert_eq!(accept(&IDLE, &endless, now), Err(CommandError::TooLong));
    }

    #[test]
    fn a_terminating_gate_accepts_an_admit_only_before_its_final_drain() {
        let now = Instant::now();
        let inputs = Inputs {
            termination: Some(Termination::begin(now, 30 * SECOND, 1)),
            ..IDLE
        };
        let admit = |at| accept(&inputs, &Request::Admit, at);
        assert_eq!(admit(now + 14 * SECOND), Ok(ActiveCommand::Admit));
        assert_eq!(admit(now + 15 * SECOND), Err(CommandError::Terminating));
    }

    #[test]
    fn a_lower_term_is_over_as_soon_as_a_higher_one_was_noted() {
        let terms = Terms::default();
        terms.note("a", 3, || {});
        assert_eq!(terms.act("a", 3, || Ok(())), Ok(()));
        terms.note("b", 4, || {});
        terms.note("a", 3, || panic!("a lower term may not command"));
        let over = CommandError::TermOver {
            term: 3,
            holder: "a".to_owned(),
            highest: 4,
            highest_holder: "b".to_owned(),
        };
        assert_eq!(terms.act("a", 3, || Ok(())), Err(over));
        assert_eq!(terms.act("b", 4, || Ok(())), Ok(()));
    }

    #[test]
    fn the_gate_is_unattended_when_the_last_connection_of_the_highest_term_is_gone() {
        let is_attended = Cell::new(false);
        let terms = Terms::default();
        let note = |term| terms.note("a", term, || is_attended.set(true));
        let leave = |term| terms.leave(term, || is_attended.set(false));
        note(3);
        note(3);
        leave(3);
        assert!(is_attended.get());
        note(4);
        leave(3);
        assert!(
            is_attended.get(),
            "the end of a former leader's connection says nothing"
        );
        leave(4);
        assert!(!is_attended.get());
        note(2);
        assert!(!is_attended.get(), "a former leader may not command");
        note(4);
        assert!(is_attended.get());
    }

    #[test]
    fn a_terminating_gate_takes_a_shorter_deadline_for_its_drain() {
        let now = Instant::now();
        let mut inputs = Inputs {
            termination: Some(Termination::begin(now, 60 * SECOND, 1)),
            ..IDLE
        };
        for (grace, expected) in [(30, 30), (4, 4), (99, 58)] {
            let drain = Request::Drain {
                grace_period_ms: grace * 1000,
                connections_per_second: 10,
            };
            inputs.command = accept(&inputs, &drain, now).unwrap();
            let Mode::Draining { deadline, .. } = mode::decide(&inputs, now) else {
                panic!("{inputs:?}")
            };
            assert_eq!(deadline, now + expected * SECOND);
        }
    }
}
