//! What each [`Cause`] means for decisions: one question, one exhaustive `match`. A new cause does not compile until all are answered.

use crate::api::{Cause, SwitchKind};

impl Cause {
    /// Whether the traffic leaves a serving side that is down for this cause.
    ///
    /// A rejected check login does not: it concerns the operator's account alone, and probes' events still arrive. Nor does an answer that the
    /// operator cannot decode: probes have a decoder of their own.
    #[must_use]
    pub const fn leaves_side(self) -> bool {
        match self {
            Self::LoginRefused | Self::ProtocolError => false,
            Self::ProxyMissing
            | Self::ProxyTerminating
            | Self::ProxyUnreachable
            | Self::ProxyUnresponsive
            | Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::PathBroken
            | Self::TlsRejected
            | Self::WrongObjectServer => true,
        }
    }

    /// What leaving a side for this cause is called.
    #[must_use]
    pub const fn switch_kind(self) -> SwitchKind {
        match self {
            Self::ProxyTerminating => SwitchKind::Switchover,
            Self::ProxyMissing
            | Self::ProxyUnreachable
            | Self::ProxyUnresponsive
            | Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::PathBroken
            | Self::TlsRejected
            | Self::LoginRefused
            | Self::ProtocolError
            | Self::WrongObjectServer => SwitchKind::Failover,
        }
    }

    /// Whether sessions on a side that is down for this cause still deliver: they are drained, and not dropped.
    #[must_use]
    pub const fn sessions_work(self) -> bool {
        match self {
            Self::ProxyTerminating | Self::LoginRefused | Self::ProtocolError => true,
            Self::ProxyMissing
            | Self::ProxyUnreachable
            | Self::ProxyUnresponsive
            | Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::PathBroken
            | Self::TlsRejected
            | Self::WrongObjectServer => false,
        }
    }

    /// Whether the pod of an idle side that is down for this cause is deleted: its gate takes no command, and kubelet alone can end the
    /// sessions on it.
    #[must_use]
    pub const fn replaces_pod(self) -> bool {
        match self {
            Self::ProxyUnresponsive => true,
            Self::ProxyMissing
            | Self::ProxyTerminating
            | Self::ProxyUnreachable
            | Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::PathBroken
            | Self::TlsRejected
            | Self::LoginRefused
            | Self::ProtocolError
            | Self::WrongObjectServer => false,
        }
    }

    /// Whether a proxy that does not work can be why a side is down for this cause.
    #[must_use]
    pub const fn may_be_the_proxys(self) -> bool {
        match self {
            Self::ProxyMissing
            | Self::ProxyTerminating
            | Self::ProxyUnreachable
            | Self::ProxyUnresponsive
            | Self::PathBroken
            | Self::TlsRejected => true,
            Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::LoginRefused
            | Self::ProtocolError
            | Self::WrongObjectServer => false,
        }
    }

    /// Whether the reason why the pod does not run belongs in the message of this cause.
    #[must_use]
    pub const fn is_explained_by_pod(self) -> bool {
        match self {
            Self::ProxyMissing | Self::ProxyUnreachable => true,
            Self::ProxyTerminating
            | Self::ProxyUnresponsive
            | Self::ObjectServerUnreachable
            | Self::ObjectServerUnresponsive
            | Self::PathBroken
            | Self::TlsRejected
            | Self::LoginRefused
            | Self::ProtocolError
            | Self::WrongObjectServer => false,
        }
    }
}
