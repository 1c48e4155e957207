//! The state of one gate process: what its parts have observed and received, and the mode that follows.
//!
//! Three channels: the status (everything that a report is made of but counts), the mode that sessions, listener and pacer follow, and the
//! number of sessions. A new mode is published before the change of status that it follows from, so a report on that change shows both.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    commands::{self, CommandError},
    metrics::GateMetrics,
    mode::{self, ActiveCommand, ClosedBy, Inputs, Listening, Mode, Termination},
    upstream::{self, Found},
};
use crate::protocol::{GateState, Request, UnreachableCause, Upstream};

/// What the parts of a gate have observed and received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What the mode depends on.
    pub inputs: Inputs,
    /// The port for probes.
    pub listening: Listening,
    object_server: Found,
    /// None without a proxy server.
    proxy: Option<Found>,
}

/// The state that all parts of a gate share.
#[derive(Debug)]
pub struct SharedState {
    status: watch::Sender<Status>,
    mode: watch::Sender<Mode>,
    sessions: watch::Sender<u32>,
    sessions_gauge: Gauge,
    upstream_reachable: Gauge,
}

impl SharedState {
    /// The state of a process that has just started. `has_proxy` if probes are served by a proxy server in the pod.
    #[must_use]
    pub fn new(has_proxy: bool, metrics: &GateMetrics) -> Self {
        let just_started = "the gate has just started".to_owned();
        let untried = Found::unreachable(UnreachableCause::Untried, just_started, false);
        let inputs = Inputs {
            command: ActiveCommand::Admit,
            termination: None,
            upstream: untried.upstream.clone(),
            keeps_sessions: false,
            unattended_since: None,
        };
        Self {
            mode: watch::Sender::new(mode::decide(&inputs, Instant::now())),
            status: watch::Sender::new(Status {
                inputs,
                listening: Listening::No,
                object_server: untried.clone(),
                proxy: has_proxy.then_some(untried),
            }),
            sessions: watch::Sender::new(0),
            sessions_gauge: metrics.sessions.clone(),
            upstream_reachable: metrics.upstream_reachable.clone(),
        }
    }

    /// The present status and its changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The present mode and its changes.
    #[must_use]
    pub fn mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// The number of probe sessions and its changes.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<u32> {
        self.sessions.subscribe()
    }

    /// The number of probe sessions now.
    #[must_use]
    pub fn session_count(&self) -> u32 {
        *self.sessions.borrow()
    }

    /// A new result of the connection to the ObjectServer.
    pub fn set_object_server(&self, found: Found) {
        self.set_upstream(|status| status.object_server = found);
    }

    /// A new result of the connection to the proxy server.
    pub fn set_proxy(&self, found: Found) {
        self.set_upstream(|status| status.proxy = Some(found));
    }

    fn set_upstream(&self, change: impl FnOnce(&mut Status)) {
        self.update(|status| {
            change(status);
            let combined = upstream::combine(&status.object_server, status.proxy.as_ref());
            self.upstream_reachable.set(i64::from(combined == Found::REACHABLE));
            let Inputs {
                upstream: before,
                keeps_sessions,
                ..
            } = &mut status.inputs;
            if combined.upstream != *before || combined.keeps_sessions != *keeps_sessions {
                upstream::log_change(&combined);
                *before = combined.upstream;
                *keeps_sessions = combined.keeps_sessions;
            }
        });
    }

    /// Accepts a command of an operator, whose term must have been checked.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing has changed then.
    pub fn accept(&self, holder: &str, term: u64, request: &Request) -> Result<(), CommandError> {
        let mut outcome = Ok(());
        self.update(
            |status| match commands::accept(&status.inputs, request, Instant::now()) {
                Ok(command) if command == status.inputs.command => {}
                Ok(command) => {
                    info!(holder, term, ?request, "command received");
                    status.inputs.command = command;
                }
                Err(error) => outcome = Err(error),
            },
        );
        outcome
    }

    /// Whether an operator is connected that may command the gate.
    pub fn set_attended(&self, is_attended: bool) {
        self.update(|status| status.inputs.unattended_since = (!is_attended).then(Instant::now));
    }

    /// Replaces the command in force by `Admit` if the gate is empty and no operator has attended to it for `after`.
    pub fn lapse(&self, after: Duration) {
        self.update(|status| {
            let is_due = status.inputs.lapses_at(after).is_some_and(|at| at <= Instant::now());
            if is_due && self.session_count() == 0 {
                warn!(command = ?status.inputs.command, ?after, "no operator has been connected for this long, admitting probes again");
                status.inputs.command = ActiveCommand::Admit;
            }
        });
    }

    /// Starts the timetable of a gate that has received SIGTERM.
    pub fn terminate(&self, termination: Termination) {
        self.update(|status| status.inputs.termination = Some(termination));
    }

    /// Decides on the mode again because time has passed.
    pub fn refresh(&self) {
        self.update(|_| {});
    }

    /// A new state of the port for probes. Returns whether it differs from the one before.
    pub fn set_listening(&self, listening: Listening) -> bool {
        self.status.send_if_modified(|status| {
            let is_new = status.listening != listening;
            status.listening = listening;
            is_new
        })
    }

    /// Counts one more session.
    pub fn begin_session(&self) {
        self.sessions_gauge.inc();
        self.sessions
            .send_modify(|sessions| *sessions = sessions.saturating_add(1));
    }

    /// Counts one session less.
    pub fn end_session(&self) {
        self.sessions_gauge.dec();
        self.sessions
            .send_modify(|sessions| *sessions = sessions.saturating_sub(1));
    }

    /// The state to report: status, mode and number of sessions at one instant.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot {
        // The mode is published while the status is locked, so it belongs to the status that is borrowed here.
        let status = self.status.borrow();
        let mode = *self.mode.borrow();
        let sessions = self.session_count();
        StateSnapshot {
            state: mode::reported(mode, status.listening == Listening::Yes, sessions),
            mode,
            sessions,
            status: status.clone(),
        }
    }

    /// Changes the status, decides on the mode again and publishes what is new.
    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            // Published while the status is locked, so that the last to change an input is the last to publish a mode.
            self.publish_mode(&status.inputs);
            *status != before
        });
    }

    fn publish_mode(&self, inputs: &Inputs) {
        self.mode.send_if_modified(|current| {
            let mode = mode::decide(inputs, Instant::now());
            let is_new = mode != *current;
            if is_new {
                info!(%mode, sessions = self.session_count(), "mode changed");
                *current = mode;
            }
            is_new
        });
    }
}

/// The state of a gate at one instant.
#[derive(Debug, Clone)]
pub struct StateSnapshot {
    /// What happens to a probe that connects.
    pub state: GateState,
    /// What the gate does with sessions.
    pub mode: Mode,
    /// Number of probe sessions.
    pub sessions: u32,
    /// Everything else.
    pub status: Status,
}

impl StateSnapshot {
    /// Whether the pod should receive probes, else why not.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn readiness(&self) -> Result<(), String> {
        match (self.mode, &self.status.listening) {
            (Mode::Open, Listening::Yes) => Ok(()),
            (Mode::Open, Listening::Failed(why)) => Err(why.clone()),
            (Mode::Open, Listening::No) => Err(OPENING.to_owned()),
            (Mode::Draining { .. }, _) => Err("draining".to_owned()),
            (Mode::Closed(ClosedBy::Command), _) => Err("closed by command".to_owned()),
            (Mode::Refusing | Mode::Closed(ClosedBy::Upstream), _) => Err(match &self.status.inputs.upstream {
                Upstream::Unreachable { message, .. } => message.clone(),
                Upstream::Reachable => OPENING.to_owned(),
            }),
        }
    }
}

/// Readiness between the decision to open and the open port.
const OPENING: &str = "the port for probes is being opened";

#[cfg(test)]
mod tests {
    use super::*;

    fn state(has_proxy: bool) -> SharedState {
        SharedState::new(has_proxy, &GateMetrics::default())
    }

    fn unreachable() -> Found {
        Found::unreachable(UnreachableCause::Refused, "connection refused".to_owned(), false)
    }

    const DRAIN: Request = Request::Drain {
        grace_period_ms: 60_000,
        connections_per_second: 10,
    };

    #[test]
    fn opens_when_every_server_on_the_route_is_reachable() {
        let state = state(true);
        state.set_object_server(Found::REACHABLE);
        assert_eq!(state.snapshot().mode, Mode::Closed(ClosedBy::Upstream));
        state.set_proxy(Found::REACHABLE);
        assert_eq!(state.snapshot().mode, Mode::Open);
        assert_eq!(state.upstream_reachable.get(), 1);
        state.set_object_server(unreachable());
        assert_eq!(state.snapshot().mode, Mode::Closed(ClosedBy::Upstream));
        assert_eq!(state.upstream_reachable.get(), 0);
    }

    #[test]
    fn a_change_is_published_once_with_the_mode_that_follows() {
        let state = state(false);
        state.set_object_server(Found::REACHABLE);
        let (mut status, mut mode) = (state.status(), state.mode());
        state.accept("a", 1, &DRAIN).unwrap();
        assert!(status.has_changed().unwrap() && mode.has_changed().unwrap());
        assert!(matches!(*mode.borrow_and_update(), Mode::Draining { .. }));
        assert!(matches!(
            status.borrow_and_update().inputs.command,
            ActiveCommand::Drain(_)
        ));
        state.accept("a", 1, &DRAIN).unwrap();
        state.set_object_server(Found::REACHABLE);
        state.set_listening(Listening::No);
        assert!(!status.has_changed().unwrap() && !mode.has_changed().unwrap());
    }

    #[test]
    fn a_rejected_command_changes_nothing() {
        let state = state(false);
        let status = state.status();
        let no_pace = Request::Drain {
            grace_period_ms: 1000,
            connections_per_second: 0,
        };
        assert_eq!(state.accept("a", 1, &no_pace), Err(CommandError::NoPace));
        assert!(!status.has_changed().unwrap());
    }

    #[test]
    fn counts_sessions() {
        let state = state(false);
        state.begin_session();
        state.begin_session();
        assert_eq!((state.session_count(), state.sessions_gauge.get()), (2, 2));
        state.end_session();
        assert_eq!((state.session_count(), state.sessions_gauge.get()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_gate_that_nobody_attends_to_admits_again() {
        let after = Duration::from_secs(30);
        let state = state(false);
        state.set_object_server(Found::REACHABLE);
        state.set_attended(true);
        state.accept("a", 1, &DRAIN).unwrap();
        state.begin_session();
        state.lapse(after);
        state.set_attended(false);
        tokio::time::sleep(after).await;
        state.lapse(after);
        assert!(
            matches!(state.snapshot().mode, Mode::Draining { .. }),
            "it has a session"
        );
        state.end_session();
        state.lapse(after);
        assert_eq!(state.snapshot().mode, Mode::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_stays_in_force_while_an_operator_is_there() {
        let after = Duration::from_secs(30);
        let state = state(false);
        state.set_object_server(Found::REACHABLE);
        state.set_attended(false);
        tokio::time::sleep(after).await;
        state.set_attended(true);
        state.accept("a", 1, &Request::Drop).unwrap();
        tokio::time::sleep(after * 100).await;
        state.lapse(after);
        assert_eq!(state.snapshot().mode, Mode::Closed(ClosedBy::Command));
    }

    #[test]
    fn readiness_names_the_reason() {
        let state = state(false);
        let why = || state.snapshot().readiness().unwrap_err();
        assert_eq!(why(), "the gate has just started");
        state.set_object_server(unreachable());
        assert_eq!(why(), "connection refused");
        state.set_object_server(Found::REACHABLE);
        assert_eq!(why(), OPENING);
        state.set_listening(Listening::Failed("in use".to_owned()));
        assert_eq!(why(), "in use");
        state.set_listening(Listening::Yes);
        assert_eq!(state.snapshot().readiness(), Ok(()));
        assert_eq!(state.snapshot().state, GateState::Open);
        state.accept("a", 1, &DRAIN).unwrap();
        assert_eq!(why(), "draining");
        state.accept("a", 1, &Request::Drop).unwrap();
        assert_eq!(why(), "closed by command");
    }
}
