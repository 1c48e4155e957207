//! What goes into the machine, and what comes out of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    gate::PodView,
    phase::Timeline,
    side::{GateObservation, ServerObservation, Source},
};
use crate::{
    api::{ProxyPairStatus, Reason, Side, Sides, Switch},
    domain::{notice::Notice, pair::Pair, status::Problem},
    protocol::{LookAt, Request},
};

/// Something that has happened, or the time.
#[derive(Clone, Debug)]
pub enum Input {
    /// What the user declares now.
    Declared(Arc<Pair>),
    /// Why the pair is not as declared; `None` when it is.
    Problem(Option<Problem>),
    /// The status in a newer version of the object, which somebody else has written.
    Status(Box<ProxyPairStatus>),
    /// What the virtual Service selects, in a newer version of it.
    Service(Selects),
    /// The pods of each side. Those that have ended are left out.
    Pods(Sides<Vec<PodView>>),
    /// The addresses in the EndpointSlices of the virtual Service.
    Endpoints(Vec<IpAddr>),
    /// The name of the gate that a connection to the virtual Service reached, `None` if nobody gave one. Only while
    /// [`Effect::WatchRoute`] asks for it.
    Route(Option<String>),
    /// The checks of one source were restarted: what they observed before no longer counts.
    Restarted(Side, Source),
    /// An observation of the gate in the pod with that `metadata.uid`.
    Gate(Side, String, GateObservation),
    /// An observation of an ObjectServer.
    Server(Side, ServerObservation),
    /// The outcome of the call under way.
    Outcome(Result<CallDone, CallError>),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this call; its outcome is the next [`Input::Outcome`].
    Call(Call),
    /// Command a gate, now and on each new connection to it. The same command again is sent again.
    Command {
        /// Its side.
        side: Side,
        /// `metadata.uid` of its pod.
        gate: String,
        /// The command.
        request: Request,
    },
    /// Observe where connections to the virtual Service lead, or no longer.
    WatchRoute(bool),
    /// Ask a gate for a report now rather than at the next interval.
    Recheck(Side, String),
    /// Tell a gate at which others it is to look, and look at its machine while `question` is not 0.
    Look {
        /// Its side.
        side: Side,
        /// `metadata.uid` of its pod.
        gate: String,
        /// The question about this gate; 0: there is none.
        question: u64,
        /// The others.
        look_at: Vec<LookAt>,
    },
    /// Ask the ObjectServer of that side for its gateways too, or no longer.
    ReadGateways(Side, bool),
    /// Publish an Event. Nothing waits for it.
    Publish(Notice),
    /// Log and count a switch that is finished.
    Switched(Box<Switched>),
    /// End: this machine's knowledge is void.
    Stop(StopReason),
}

impl Effect {
    pub(super) const fn is_stop(&self) -> bool {
        matches!(self, Self::Stop(_))
    }
}

/// A call to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Write the status.
    WriteStatus(Box<ProxyPairStatus>),
    /// Make the virtual Service select that side, and change nothing else in it.
    PatchSelector(Side),
    /// Read the ProxyPair and the virtual Service.
    Read,
    /// Write the label of a pod by which the virtual Service leads to it, or not.
    LabelPod {
        /// The side it belongs to.
        side: Side,
        /// `metadata.name`.
        name: String,
        /// `metadata.uid`, as a precondition.
        uid: String,
        /// The Service leads to it.
        routed: bool,
    },
    /// Delete a pod.
    DeletePod {
        /// The side it belongs to.
        side: Side,
        /// `metadata.name`.
        name: String,
        /// `metadata.uid`, as a precondition.
        uid: String,
        /// What it gets to end, in whole seconds; zero: it is gone at once, whatever its node does.
        grace: Duration,
    },
}

/// A call that succeeded.
#[derive(Clone, Debug)]
pub enum CallDone {
    /// It has taken effect.
    Written,
    /// The pod that was to be deleted is gone already.
    AlreadyGone,
    /// What is stored.
    Read(Box<Stored>),
}

/// What the API server holds of a pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The ProxyPair's status.
    pub status: ProxyPairStatus,
    /// What the virtual Service selects.
    pub selects: Selects,
}

/// What the virtual Service selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selects {
    /// There is no virtual Service, or it is not known.
    #[default]
    NoService,
    /// The gates of one side.
    Side(Side),
    /// Anything else.
    Other,
}

/// A call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// It was refused, or its outcome is unknown: what is stored has to be read.
    Failed {
        /// How long the API server asks to be left alone.
        retry_after: Option<Duration>,
        /// What kind of failure it is.
        reason: Reason,
    },
    /// No call of this machine can succeed any more.
    Stop(StopReason),
}

impl CallError {
    /// Whether it may have been carried out, or still be.
    #[must_use]
    pub const fn is_unknown_outcome(self) -> bool {
        match self {
            Self::Failed { reason, .. } => !matches!(
                reason,
                Reason::Forbidden | Reason::Rejected | Reason::Conflict | Reason::NotLeading | Reason::NameTaken
            ),
            Self::Stop(_) => false,
        }
    }

    /// How long the API server asks to be left alone.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Failed { retry_after, .. } => retry_after,
            Self::Stop(_) => None,
        }
    }
}

/// Why a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// This process no longer leads.
    NotLeading,
    /// The ProxyPair was deleted, or another object has its name.
    Gone,
}

/// A switch that is finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Switched {
    /// As it stands in `status.history`.
    pub switch: Switch,
    /// When each step was done.
    pub timeline: Timeline,
}
