//! The loop of a worker: an input in, its effects out.
//!
//! The call under way is a future in the `select!`, its outcome an input like any other: commands to gates, and everything that is observed,
//! never wait for the API server.

use std::{future::pending, ops::ControlFlow, sync::Arc, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use tracing::Instrument;

use super::{
    Handover, WorkerMessage,
    checks::{Checks, Observed},
    telemetry::Telemetry,
    view::View,
    writer::{Calling, KnownObjects, Writer},
};
use crate::{
    api::{Side, Sides},
    cluster::Cluster,
    domain::{
        machine::{CallDone, CallError, Effect, Input, Machine, PodView, Source, StopReason, Stored},
        rollout::Snapshot,
    },
    telemetry::pair_span,
};

/// Whether the worker goes on.
type Flow = ControlFlow<StopReason>;

/// A worker: the machine of one pair, and what carries out its effects.
pub struct Task<W, C, V> {
    cluster: Arc<Cluster>,
    machine: Machine,
    writer: W,
    checks: C,
    view: V,
    call: Option<Calling>,
    telemetry: Telemetry,
    snapshot: watch::Sender<Snapshot>,
    pods: Option<Sides<Vec<PodView>>>,
}

impl<W: Writer, C: Checks, V: View> Task<W, C, V> {
    /// Takes up the pair where its status says that it stands.
    pub fn new(
        cluster: Arc<Cluster>,
        handover: &Handover,
        writer: W,
        mut checks: C,
        view: V,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        let stored = Stored {
            status: handover.object.status.clone().unwrap_or_default(),
            ..Stored::default()
        };
        let machine =
            Machine::resume(Arc::clone(&handover.pair), &stored, view.now()).with_node_agents(cluster.has_node_agents);
        checks.declare(handover);
        Self {
            telemetry: Telemetry::new(Arc::clone(&cluster), &handover.pair),
            cluster,
            machine,
            writer,
            checks,
            view,
            call: None,
            snapshot,
            pods: None,
        }
    }

    /// Runs until the handle is dropped, leadership is lost, or the ProxyPair is gone. Each log line carries name and namespace of the pair.
    pub async fn run(self, messages: mpsc::UnboundedReceiver<WorkerMessage>, observed: mpsc::Receiver<Observed>) {
        let pair = self.machine.pair();
        let span = pair_span(&pair.namespace, &pair.name);
        self.work(messages, observed).instrument(span).await;
    }

    async fn work(
        mut self,
        mut messages: mpsc::UnboundedReceiver<WorkerMessage>,
        mut observed: mpsc::Receiver<Observed>,
    ) {
        let mut changes = self.cluster.changes.subscribe();
        let mut flow = self.look();
        while flow.is_continue() {
            self.publish();
            let wake = self.machine.wake_at();
            flow = tokio::select! {
                (outcome, versions) = finished(&mut self.call) => self.take_outcome(outcome, versions),
                message = messages.recv() => match message {
                    Some(message) => self.take_message(message),
                    None => return,
                },
                observed = observed.recv() => match observed {
                    Some(observed) => self.take_observed(observed),
                    None => return,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                () = reached(wake) => self.feed(Input::Tick),
            };
        }
        if let ControlFlow::Break(reason) = flow {
            tracing::info!(?reason, "stopped watching the pair");
        }
    }

    /// Feeds one input to the machine and carries out what it answers.
    fn feed(&mut self, input: Input) -> Flow {
        let effects = self.machine.handle(input, self.view.now());
        for effect in effects {
            self.carry_out(effect)?;
        }
        Flow::Continue(())
    }

    fn carry_out(&mut self, effect: Effect) -> Flow {
        match effect {
            Effect::Call(call) => self.call = Some(self.writer.begin(call, self.machine.pair())),
            Effect::Command { side, gate, request } => {
                self.telemetry
                    .command(side, &self.machine.sides()[side], &gate, &request);
                self.checks.command(side, &gate, request);
            }
            Effect::WatchRoute(wanted) => {
                let address = self.writer.service_address().filter(|_| wanted);
                self.checks.watch_route(address);
            }
            Effect::Recheck(side, gate) => self.checks.recheck(side, &gate),
            Effect::Look {
                side,
                gate,
                question,
                look_at,
            } => self.checks.look(side, &gate, question, look_at),
            Effect::ReadGateways(side, wanted) => self.checks.read_gateways(side, wanted),
            Effect::Publish(notice) => self
                .telemetry
                .publish(&notice, self.machine.pair(), self.writer.object()),
            Effect::Switched(switched) => self.telemetry.switched(&switched),
            Effect::Stop(reason) => return Flow::Break(reason),
        }
        Flow::Continue(())
    }

    fn take_outcome(&mut self, outcome: Result<CallDone, CallError>, versions: KnownObjects) -> Flow {
        self.writer.take(versions);
        self.feed(Input::Outcome(outcome))
    }

    fn take_message(&mut self, message: WorkerMessage) -> Flow {
        match message {
            WorkerMessage::Handover(handover) => self.take_handover(&handover),
            WorkerMessage::Service(service) => match self.writer.take_service(*service, self.machine.pair()) {
                Some(selects) => self.feed(Input::Service(selects)),
                None => Flow::Continue(()),
            },
            WorkerMessage::Problem(problem) => self.feed(Input::Problem(problem)),
        }
    }

    fn take_handover(&mut self, handover: &Handover) -> Flow {
        if let Some(status) = self.writer.take_object(&handover.object) {
            self.feed(Input::Status(Box::new(status)))?;
        }
        let restarted = self.checks.declare(handover);
        self.restarted(restarted)?;
        self.feed(Input::Declared(Arc::clone(&handover.pair)))
    }

    fn take_observed(&mut self, observed: Observed) -> Flow {
        self.telemetry.count_unseen(observed.side, &observed.observation);
        match self.checks.input(observed) {
            Some(input) => {
                tracing::trace!(?input, "observed");
                self.feed(input)
            }
            None => Flow::Continue(()),
        }
    }

    /// Looks at the caches.
    fn look(&mut self) -> Flow {
        let pair = Arc::clone(self.machine.pair());
        let pods = self.view.pods(&pair);
        if self.pods.as_ref() != Some(&pods) {
            self.pods = Some(pods.clone());
            let restarted = self.checks.assign(&pods);
            // The machine learns of a gate before it commands it, and the checks before they are commanded.
            self.feed(Input::Pods(pods))?;
            self.restarted(restarted)?;
        }
        let endpoints = self.view.endpoints(&pair);
        self.feed(Input::Endpoints(endpoints))
    }

    fn restarted(&mut self, sources: Vec<(Side, Source)>) -> Flow {
        for (side, source) in sources {
            self.feed(Input::Restarted(side, source))?;
        }
        Flow::Continue(())
    }

    /// Publishes what reconciliations need to know, and asks for one when it has changed.
    fn publish(&mut self) {
        self.telemetry.count(&self.machine);
        let snapshot = self.machine.snapshot();
        let is_new = self.snapshot.send_if_modified(|known| {
            let is_new = *known != snapshot;
            if is_new {
                *known = snapshot;
            }
            is_new
        });
        if is_new {
            self.telemetry.requeue();
        }
    }
}

/// Resolves when the call has finished; never, when there is none.
async fn finished(call: &mut Option<Calling>) -> (Result<CallDone, CallError>, KnownObjects) {
    let Some(calling) = call else { return pending().await };
    let finished = calling.await;
    *call = None;
    finished
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}
