//! One gate: its pod, what was observed of it, and what it was commanded.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::looks::Outlook;

use crate::{
    api::{Cause, DrainSpec},
    domain::{
        evidence::{Fault, GateEvidence, GateReport, Link, PodState, Reading, ServerEvidence, Timing, classify},
        gate_mode::{GateMode, Occupancy},
        health::SideHealth,
    },
    protocol::{GateState, Report, Request, Upstream},
};

/// A proxy pod, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.name`.
    pub name: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// The node that it runs on, once it is scheduled.
    pub node: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It is being deleted, and has this long to end. The time at which that began is by the API server's clock and not used.
    pub terminating: Option<Duration>,
    /// Why it does not run, in the cluster's words.
    pub failure: Option<String>,
    /// The pod template that it was made from.
    pub template: Option<String>,
    /// Its label says that the virtual Service may lead to it.
    pub routed: bool,
}

/// One gate.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Its pod.
    pub pod: PodView,
    /// What was observed of it.
    pub evidence: GateEvidence,
    /// Whether an event sent through it would arrive.
    pub health: SideHealth,
    /// What the evidence says now.
    pub(super) reading: Reading,
    /// Since when that it cannot serve probes, and counts.
    pub(super) bad_since: Option<Instant>,
    /// Since when the evidence says that it can.
    pub(super) good_since: Option<Instant>,
    /// Since when it has served probes, whether or not everything of it is good.
    pub(super) serves_since: Option<Instant>,
    /// Since when the virtual Service does not lead to it although it is not the side's only gate.
    pub(super) out_since: Option<Instant>,
    /// By when the pod should have ended, if it is terminating: its grace period after that was first seen.
    pub(super) ends_at: Option<Instant>,
    /// It has been good.
    pub(super) has_served: bool,
    /// It was announced that it was taken out.
    pub(super) is_missed: bool,
    /// The outcome of the newest write of its label is not known: it may be led to or not, and what was written may still come.
    pub(super) is_label_unsure: bool,
    mode: Option<GateMode>,
    commanded: Option<Request>,
    drain: Option<Drain>,
    occupied_since: Option<Instant>,
    rejection: Option<Rejection>,
    /// It was commanded to drop its sessions, and has not shown yet that it does. How many pings it has answered since.
    drops: Option<u32>,
    /// A report is wanted now.
    recheck: bool,
    /// While it is silent: the number of the question that others are asked about it; else 0.
    pub(super) question: u64,
    /// The silence that this question is about.
    pub(super) asked_since: Option<Instant>,
    /// Since when another gate has seen it accept probes while it is silent.
    pub(super) seen_since: Option<Instant>,
    /// What it was told to look at last.
    pub(super) outlook: Option<Outlook>,
    /// When the other gate of its side went wrong for which it was asked last.
    confirms: Option<Instant>,
    /// Its process was proved gone after the newest report.
    is_process_gone: bool,
}

/// A drain that was commanded, and what its length follows from.
#[derive(Clone, Debug, PartialEq)]
struct Drain {
    declared: DrainSpec,
    ends_at: Option<Instant>,
    grace_period: Duration,
}

/// The gate rejected the command in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rejection {
    /// In the gate's words.
    message: String,
    /// When the command is sent again.
    retry_at: Instant,
    retries: u32,
    /// Pings answered since it was sent again, if it was.
    answers: Option<u32>,
}

/// Time between the end of a drain and the moment at which kubelet kills the gate.
const KILL_MARGIN: Duration = Duration::from_secs(2);
/// Time from the first rejection of a command to the next attempt; it doubles with each.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time from a rejection to the next attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// After so many answered pings without a rejection the command was accepted: two may have been under way when it was sent.
const ACCEPTED_AFTER: u32 = 3;

impl Gate {
    pub(super) fn new(pod: PodView, state: PodState, now: Instant) -> Self {
        Self {
            evidence: GateEvidence::none(state, pod.failure.clone()),
            health: SideHealth::unknown(now),
            reading: Reading::Unknown,
            bad_since: None,
            good_since: None,
            serves_since: None,
            out_since: None,
            has_served: false,
            is_missed: false,
            is_label_unsure: false,
            pod,
            ends_at: None,
            mode: None,
            commanded: None,
            drain: None,
            occupied_since: None,
            rejection: None,
            drops: None,
            recheck: false,
            question: 0,
            asked_since: None,
            seen_since: None,
            outlook: None,
            confirms: None,
            is_process_gone: false,
        }
    }

    /// Takes in what the API server has of its pod.
    pub(super) fn take_pod(&mut self, pod: &PodView, state: PodState, now: Instant) {
        if let Some(grace) = pod.terminating
            && (self.ends_at.is_none() || self.pod.terminating != pod.terminating)
        {
            let ends_at = now + grace;
            // It may be deleted a second time with less time, and not with more.
            self.ends_at = Some(self.ends_at.map_or(ends_at, |earlier| earlier.min(ends_at)));
        }
        self.evidence.pod = state;
        self.evidence.pod_failure.clone_from(&pod.failure);
        if self.pod.ip != pod.ip {
            self.outlook = None;
        }
        self.pod = pod.clone();
    }

    /// Probe sessions, by its newest report. A process that is gone has none.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        let report = self.report().filter(|_| !self.is_process_gone);
        report.map_or(0, |report| report.sessions)
    }

    /// Takes in the state of the connection to its control port. What refuses or closes it proves that the process is gone, with its sessions,
    /// whatever becomes of its machine after that.
    pub(super) fn take_control(&mut self, link: Link) {
        self.is_process_gone |= matches!(
            link,
            Link::Failed {
                fault: Fault::Connection,
                ..
            }
        );
        self.evidence.control = link;
    }

    /// Its pod is being deleted, or it received SIGTERM.
    pub(super) fn is_terminating(&self) -> bool {
        self.evidence.pod == PodState::Terminating || self.report().is_some_and(|report| report.terminating)
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            occupied_since: self.occupied_since,
            terminating: self.is_terminating(),
            other_still_serves: false,
            out_since: self.out_since,
            failed: self.bad_since.is_some() && !self.serves(),
            serves: self.serves(),
            other_serves: false,
            drops: self.drops(),
            last: self.mode,
        }
    }

    /// The virtual Service leads to it while its side serves.
    pub(super) const fn is_in(&self) -> bool {
        self.pod.routed && self.pod.ip.is_some()
    }

    /// It serves, and is not about to end.
    pub(super) fn is_good(&self) -> bool {
        self.reading == Reading::Good && !self.is_terminating()
    }

    /// A command to drop its sessions is on its way.
    pub(super) const fn drops(&self) -> bool {
        self.drops.is_some()
    }

    /// The same, or what is wrong concerns the operator's checks alone: probes are served.
    pub(super) fn serves(&self) -> bool {
        let works = match &self.reading {
            Reading::Good => true,
            Reading::Bad { cause, .. } => !cause.leaves_side(),
            Reading::Unknown | Reading::Unseen { .. } | Reading::Doubtful { .. } => false,
        };
        works && !self.is_terminating()
    }

    /// Its pod should have ended by now.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at < now)
    }

    /// Computes its health from all that was observed.
    pub(super) fn assess(&mut self, server: &ServerEvidence, timing: &Timing, endpoints: &[IpAddr], now: Instant) {
        self.occupied_since = (self.sessions() > 0).then(|| self.occupied_since.unwrap_or(now));
        let is_heard = self.evidence.control == Link::Answering;
        self.evidence.heard_since = is_heard.then(|| self.evidence.heard_since.unwrap_or(now));
        self.reading = self.read(server, timing, now);
        self.health = self.health.clone().step(&self.reading, timing, now);
        self.has_served |= self.reading == Reading::Good;
        let is_bad = match &self.reading {
            // What its process or its pod is concerns it alone, and its siblings serve: there is nothing to wait for.
            Reading::Bad { cause, .. } if self.is_known_gone(*cause) => true,
            // It serves, and how long it has been so says nothing about a failure that may follow.
            Reading::Bad { cause, .. } if !cause.leaves_side() => false,
            Reading::Bad { down_at, .. } => *down_at <= now,
            Reading::Good | Reading::Unknown | Reading::Unseen { .. } | Reading::Doubtful { .. } => false,
        };
        self.bad_since = is_bad.then(|| self.bad_since.unwrap_or(now));
        self.serves_since = self.serves().then(|| self.serves_since.unwrap_or(now));
        let is_good = self.reading == Reading::Good;
        self.good_since = is_good.then(|| self.good_since.unwrap_or(now));
        let is_out = !self.pod.routed && self.pod.ip.is_none_or(|ip| !endpoints.contains(&ip));
        self.out_since = is_out.then(|| self.out_since.unwrap_or(now));
    }

    /// Whether somebody who must know has said that its pod, its process or its port is gone. That there is no way to its machine is what this
    /// machine, or one between, says of the way.
    pub(super) fn is_known_gone(&self, cause: Cause) -> bool {
        let is_unroutable = matches!(
            self.evidence.control,
            Link::Failed {
                fault: Fault::Unroutable,
                ..
            }
        );
        match cause {
            Cause::ProxyMissing | Cause::ProxyTerminating => true,
            Cause::ProxyUnreachable => !is_unroutable,
            _ => false,
        }
    }

    fn read(&self, server: &ServerEvidence, timing: &Timing, now: Instant) -> Reading {
        if self.is_overdue(now) {
            let name = &self.pod.name;
            return Reading::Bad {
                cause: Cause::ProxyTerminating,
                message: format!(
                    "pod {name} should have ended by now, and connections may still be routed to it: its node may be lost"
                ),
                down_at: now,
            };
        }
        classify(&self.evidence, server, timing, now)
    }

    /// It is being ended, and accepts probes until then.
    pub(super) fn still_serves(&self) -> bool {
        let accepts = |report: &Report| report.state == GateState::Open && report.upstream == Upstream::Reachable;
        self.is_terminating() && self.evidence.control == Link::Answering && self.report().is_some_and(accepts)
    }

    /// The request for a mode. That for a drain under way stays the same, because a gate counts another one from its arrival.
    pub(super) fn request(&mut self, mode: GateMode, declared: &DrainSpec, now: Instant) -> Request {
        if mode != GateMode::Drain {
            self.drain = None;
            return mode.request(declared, Duration::ZERO);
        }
        let ends_at = self.ends_at;
        let drain = match self.drain.take() {
            Some(drain) if drain.declared == *declared && drain.ends_at == ends_at => drain,
            _ => {
                let left = ends_at.map(|end| end.saturating_duration_since(now).saturating_sub(KILL_MARGIN));
                let whole = declared.grace_period.get();
                Drain {
                    declared: declared.clone(),
                    ends_at,
                    grace_period: left.map_or(whole, |left| left.min(whole)),
                }
            }
        };
        let request = mode.request(declared, drain.grace_period);
        self.drain = Some(drain);
        request
    }

    /// Takes note of a command. Whether it is to be sent: it differs from the one in force, or that one was rejected and is due again.
    pub(super) fn command(&mut self, mode: GateMode, request: &Request, now: Instant) -> bool {
        self.mode = Some(mode);
        if mode != GateMode::Admit {
            self.evidence.refusing_since = None;
        }
        let is_new = self.commanded.as_ref() != Some(request);
        if is_new {
            self.commanded = Some(request.clone());
            self.drops = (mode == GateMode::Drop).then_some(0);
        }
        let is_due = is_new
            || self
                .rejection
                .as_ref()
                .is_some_and(|rejection| rejection.retry_at <= now);
        if is_due && let Some(rejection) = &mut self.rejection {
            rejection.retries += 1;
            rejection.retry_at = now + backoff(rejection.retries);
            rejection.answers = Some(0);
        }
        is_due
    }

    /// Why it rejects the command in force, in its own words. A gate that is terminating may do so.
    pub(super) fn rejection(&self) -> Option<&str> {
        let rejection = self.rejection.as_ref().filter(|_| !self.is_terminating())?;
        Some(&rejection.message)
    }

    /// When a rejected command is sent again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.rejection.as_ref().map(|rejection| rejection.retry_at)
    }

    pub(super) fn take_report(&mut self, at: Instant, report: Report) {
        let is_restarted = self.report().is_some_and(|known| known.instance != report.instance);
        self.take_note_of_drop(&report, is_restarted);
        if is_restarted {
            self.mode = None;
            self.rejection = None;
        }
        self.take_rejection(&report, at);
        self.is_process_gone = false;
        self.evidence.report = Some(GateReport::after(self.evidence.report.as_ref(), at, report));
        self.take_note_of_refusal(at);
    }

    /// A port that is closed shows that the command has arrived only in the answer to a ping that was sent after it: it may be closed for want of
    /// the ObjectServer.
    fn take_note_of_drop(&mut self, report: &Report, is_restarted: bool) {
        let Some(answers) = &mut self.drops else { return };
        *answers += u32::from(report.answers.is_some());
        if is_restarted || (report.state == GateState::Closed && *answers >= ACCEPTED_AFTER) {
            self.drops = None;
        }
    }

    fn take_rejection(&mut self, report: &Report, at: Instant) {
        if let Some(message) = &report.rejected_command {
            let retries = self.rejection.as_ref().map_or(0, |rejection| rejection.retries);
            self.rejection = Some(Rejection {
                message: message.clone(),
                retry_at: at + backoff(retries),
                retries,
                answers: None,
            });
        } else if report.answers.is_some()
            && let Some(rejection) = &mut self.rejection
            && let Some(answers) = &mut rejection.answers
        {
            *answers += 1;
            if *answers >= ACCEPTED_AFTER {
                self.rejection = None;
            }
        }
    }

    pub(super) fn take_path(&mut self, link: Link) {
        let is_failed = |link: &Link| matches!(link, Link::Failed { .. });
        // The gate may not have noticed yet: its report tells the broken path from the dead ObjectServer.
        self.recheck |= is_failed(&link) && !is_failed(&self.evidence.path);
        self.evidence.path = link;
    }

    /// Forgets what was observed by checks that were restarted.
    pub(super) fn forget(&mut self) {
        let report = self.evidence.report.take();
        self.evidence = GateEvidence {
            report,
            ..GateEvidence::none(self.evidence.pod, self.pod.failure.clone())
        };
    }

    /// Keeps since when the gate has said that it does not do what it is commanded to: accept probes. What it said before the command proves
    /// nothing.
    fn take_note_of_refusal(&mut self, now: Instant) {
        // Without its ObjectServer it refuses probes whatever it is commanded.
        let could_admit = |report: &Report| report.upstream == Upstream::Reachable && report.state != GateState::Open;
        let refuses = self.mode == Some(GateMode::Admit) && self.report().is_some_and(could_admit);
        self.evidence.refusing_since = refuses.then(|| self.evidence.refusing_since.unwrap_or(now));
    }

    /// Asks it for a report now, once for each thing that went wrong with another one, at `since`.
    pub(super) fn confirm(&mut self, since: Instant) {
        self.recheck |= self.confirms.replace(since) != Some(since);
    }

    pub(super) fn take_recheck(&mut self) -> bool {
        std::mem::take(&mut self.recheck)
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.evidence.report.as_ref().map(|report| &report.report)
    }

    /// The higher, the more the gate stands for its side.
    pub(super) fn rank(&self, now: Instant) -> (u8, bool, Option<Timestamp>) {
        let rank = match self.ends_at {
            Some(ends_at) if ends_at >= now => 2,
            None => 1,
            Some(_) => 0,
        };
        (rank, self.pod.ip.is_some(), self.pod.created)
    }
}

fn backoff(retries: u32) -> Duration {
    RETRY.saturating_mul(1 << retries.min(8)).min(LONGEST_RETRY)
}
