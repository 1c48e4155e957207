//! What is published as Kubernetes Events, in words.

use jiff::Timestamp;

use super::{
    defect::Defect,
    expiry::{Certificate, Stage},
    pair::Pair,
};
use crate::api::{Reason, Side, Switch, SwitchKind};

/// Something that users are told once.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A switch is finished.
    Switched(Box<Switch>),
    /// A switch was given up before it was finished; the side that it was to leave goes on serving.
    Withdrawn {
        /// Its target.
        to: Side,
        /// Why.
        why: String,
    },
    /// A pod was deleted.
    PodDeleted {
        /// Its name.
        pod: String,
        /// It is lost, or had not ended in time. Otherwise its gate answers nothing.
        is_lost: bool,
    },
    /// New connections to the virtual Service do not lead to a gate any more. The others of its side go on.
    GateTakenOut {
        /// The name of its pod.
        pod: String,
        /// Why.
        why: String,
    },
    /// They lead to it again.
    GateReturned {
        /// The name of its pod.
        pod: String,
    },
    /// Objects that had lost their owner belong to the pair now: kind and name of each.
    Adopted(Vec<String>),
    /// Something is wrong.
    Defect(Defect),
    /// A certificate expires soon, or has expired.
    Certificate {
        /// The side that shows it.
        side: Side,
        /// Which one.
        certificate: Certificate,
        /// Its end of validity.
        expires: Timestamp,
        /// How far away that is.
        stage: Stage,
    },
}

/// The text of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventText {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// One word. It tells apart what must not be merged: Kubernetes keeps the first note of a repeated Event.
    pub reason: Reason,
    /// What happened.
    pub note: String,
    /// What the operator did, or the user should do, in one word.
    pub action: String,
}

impl Notice {
    /// The Event about it on `pair`.
    #[must_use]
    pub fn text(&self, pair: &Pair) -> EventText {
        match self {
            Self::Switched(switch) => switched(switch, pair),
            Self::Withdrawn { to, why } => EventText {
                warning: true,
                reason: Reason::SwitchWithdrawn,
                note: format!(
                    "the switch to the {} side was given up before it was finished: {why}; the {} side goes on serving",
                    to.label(),
                    to.other().label()
                ),
                action: format!("Stay{}", to.other().as_str()),
            },
            Self::PodDeleted { pod, is_lost } => EventText {
                warning: true,
                reason: Reason::ProxyPodDeleted,
                note: if *is_lost {
                    format!(
                        "deleted pod {pod} without grace: its node may be lost, and connections could be routed to it"
                    )
                } else {
                    format!("deleted pod {pod}: its gate does not answer, and sessions on it would hang")
                },
                action: if *is_lost { "ForceDeletePod" } else { "DeletePod" }.to_owned(),
            },
            Self::GateTakenOut { pod, why } => EventText {
                warning: true,
                reason: Reason::GateTakenOut,
                note: cut(
                    &format!(
                        "new connections do not lead to pod {pod} any more, and the other proxies of its side serve on: {why}"
                    ),
                    NOTE_MAX,
                ),
                action: "TakeOut".to_owned(),
            },
            Self::GateReturned { pod } => EventText {
                warning: false,
                reason: Reason::GateReturned,
                note: format!("new connections lead to pod {pod} again"),
                action: "TakeIn".to_owned(),
            },
            Self::Adopted(objects) => EventText {
                warning: false,
                reason: Reason::Adopted,
                note: format!(
                    "adopted what was made for a ProxyPair of this name and had no owner any more: {}",
                    objects.join(", ")
                ),
                action: "Adopt".to_owned(),
            },
            Self::Defect(defect) => defect_text(defect),
            Self::Certificate {
                side,
                certificate,
                expires,
                stage,
            } => certificate_text(*side, *certificate, *expires, *stage, pair),
        }
    }
}

/// What API servers accept of a note, in bytes.
const NOTE_MAX: usize = 1024;

fn cut(note: &str, bytes: usize) -> String {
    note[..note.floor_char_boundary(bytes)].to_owned()
}

/// The Event about something that is wrong.
#[must_use]
pub fn defect_text(defect: &Defect) -> EventText {
    EventText {
        warning: true,
        reason: defect.reason,
        note: cut(&defect.message, NOTE_MAX),
        action: format!("Repair{}", defect.side.map_or("", Side::as_str)),
    }
}

fn switched(switch: &Switch, pair: &Pair) -> EventText {
    let from = switch.to.other();
    let server = |side: Side| &pair.spec.side(side).object_server.name;
    let cause = switch.cause.map(|cause| cause.as_str());
    EventText {
        warning: match switch.kind {
            SwitchKind::Failover => true,
            SwitchKind::Failback | SwitchKind::Switchover => false,
        },
        reason: Reason::Switched(switch.kind, switch.cause),
        note: format!(
            "{} from {} ({}) to {} ({}) in {}{}",
            switch.kind.as_str(),
            from.label(),
            server(from),
            switch.to.label(),
            server(switch.to),
            switch.duration,
            cause.map(|cause| format!(": {cause}")).unwrap_or_default(),
        ),
        action: format!("To{}", switch.to.as_str()),
    }
}

fn certificate_text(side: Side, certificate: Certificate, expires: Timestamp, stage: Stage, pair: &Pair) -> EventText {
    let declared = pair.spec.side(side);
    let (owner, name) = match certificate {
        Certificate::Listener => ("Proxy", &declared.server_name),
        Certificate::ObjectServer => ("ObjectServer", &declared.object_server.name),
    };
    let (reason, when) = match stage {
        Stage::Expired => (Reason::CertificateExpired, "has expired".to_owned()),
        Stage::Expiring { days: 0 } => (Reason::CertificateExpiring, "expires in less than a day".to_owned()),
        Stage::Expiring { days: 1 } => (Reason::CertificateExpiring, "expires in 1 day".to_owned()),
        Stage::Expiring { days } => (Reason::CertificateExpiring, format!("expires in {days} days")),
    };
    EventText {
        warning: true,
        reason,
        note: format!("the certificate of {name} {when} ({expires}): renew it"),
        action: format!("Renew{}{owner}", side.as_str()),
    }
}
