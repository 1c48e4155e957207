//! Health checks of one side: each keeps one connection open and reports what it observes. [`crate::domain::evidence`] interprets that.
//!
//! A connection always has a read pending, so that a process that dies is noticed in milliseconds. A connection that closes is made again
//! at once; only when that attempt fails too it is reported as [`Link::Failed`].

mod control;
mod hold;
mod link;
mod login;
mod route;
mod session;
mod tls;

use std::time::Instant;

pub use control::{GateCommands, check_gate};
pub use hold::{check_objectserver, check_path};
use jiff::Timestamp;
pub use login::{APPLICATION, Credentials, Login, Refusals};
pub use route::{RouteError, ask_route};
pub use tls::{TlsError, client_config, server_name};

use crate::{
    domain::{evidence::Link, resync::GatewaySession},
    protocol::Report,
};

/// One of the three checks of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The control session with the gate.
    Control,
    /// The connection to the ObjectServer through the gate's check port, which is the way that probe traffic takes.
    Path,
    /// The connection from the operator straight to the ObjectServer.
    Direct,
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
    /// The ObjectServer's answer to the questions of one interval. Only checks that log in ask them.
    Server(ServerInfo),
    /// When the certificate expires that the ObjectServer has presented.
    Expires(Timestamp),
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
