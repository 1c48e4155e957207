//! Health checks of one side: each keeps one connection open and reports what it observes. [`crate::domain::evidence`] interprets that.
//!
//! A connection always has a read pending, so that a process that dies is noticed in milliseconds. A connection that closes is made again
//! at once; only when that attempt fails too it is reported as [`Link::Failed`]. What this machine cannot look at is [`Link::Unseen`]: that
//! says nothing about the other end.

mod control;
mod hold;
mod link;
mod login;
mod route;
mod service;
mod session;
mod tls;

use std::time::Instant;

pub use control::{GateCommands, check_gate};
pub use hold::{check_objectserver, check_path};
use jiff::Timestamp;
pub use login::{APPLICATION, Credentials, Login, Refusals};
pub use route::{RouteError, ask_route};
pub use service::check_service;
pub use tls::{TlsError, client_config, server_name};

use crate::{
    domain::{evidence::Link, resync::GatewaySession},
    protocol::{Report, Seen},
};

/// One of the three checks of a side, or that of the virtual Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The control session with the gate.
    Control,
    /// The connection to the ObjectServer through the gate's check port, which is the way that probe traffic takes.
    Path,
    /// The connection from the operator straight to the ObjectServer.
    Direct,
    /// The connections to the virtual Service, while a drain waits for it.
    Service,
}

impl Check {
    /// Its name in metrics and messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Path => "path",
            Self::Direct => "direct",
            Self::Service => "service",
        }
    }
}

/// What a check observed.
#[derive(Clone, Debug)]
pub enum Observation {
    /// The state of the check's connection.
    Link(Check, Link),
    /// A report of the gate.
    Report {
        /// When it arrived.
        at: Instant,
        /// Its content, [the rejection of a command](Report::rejected_command) included.
        report: Report,
    },
    /// What the host of a gate sent back when the operator looked at it.
    Host {
        /// As in [`GateCommands::question`].
        question: u64,
        /// What came back.
        seen: Seen,
    },
    /// The ObjectServer's answer to the questions of one interval. Only checks that log in ask them.
    Server(ServerInfo),
    /// When the certificate expires that the ObjectServer has presented.
    Expires(Timestamp),
    /// The session ended in which the server has stated something about itself.
    SessionEnded(Check),
    /// The check itself has failed, and is started again. Its supervisor says so.
    Restarted {
        /// Which one.
        check: Check,
        /// Why, for status and logs.
        message: String,
    },
    /// The state of the check's connection is as it was reported last. Sent each interval in which nothing else is.
    Unchanged(Check),
    /// The name of the gate that a connection to the virtual Service reached; `None` if nobody gave one.
    Route(Option<String>),
}

/// What an ObjectServer states about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The check that asked: `Path` or `Direct`.
    pub check: Check,
    /// When the first question was sent.
    pub asked: Instant,
    /// When the last answer had arrived.
    pub answered: Instant,
    /// Its property `Name`; `None` if the server does not show it.
    pub name: Option<String>,
    /// Its property `ActingPrimary`; `None` if the server does not show it.
    pub acting_primary: Option<bool>,
    /// Its gateway sessions, or the server's error. `None` if they were not asked for; see [`Login::gateways`].
    pub gateways: Option<Result<Vec<GatewaySession>, String>>,
}
