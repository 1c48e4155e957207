//! The operator's eyes: each holds one connection to a side and says what becomes of it. What it means is decided elsewhere.
//!
//! Every connection is persistent with a read pending, so that a process that dies is seen in milliseconds; a connection that closes is
//! tried again at once, and only what fails twice is called [`Link::Failed`].

mod control;
mod hold;
mod login;
mod session;
mod tls;

use std::time::Instant;

pub use control::{GateCommands, check_gate};
pub use hold::{check_objectserver, check_path};
use jiff::Timestamp;
pub use login::{APPLICATION, Credentials, Login, Refusals};
pub use tls::{TlsError, client_config, server_name};

use crate::{
    domain::{evidence::Link, resync::GatewaySession},
    protocol::Report,
};

/// Which eye saw something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The session with the gate.
    Control,
    /// The check session through the gate.
    Path,
    /// The connection straight to the ObjectServer.
    Direct,
}

/// What an eye saw.
#[derive(Clone, Debug)]
pub enum Observation {
    /// What became of its connection.
    Link(Check, Link),
    /// The gate's word.
    Report {
        /// When it arrived.
        at: Instant,
        /// What it said.
        report: Report,
    },
    /// The ObjectServer's word, on a session with a login.
    Server(ServerInfo),
    /// When the certificate that the ObjectServer has shown ends to be valid.
    Expires(Timestamp),
}

/// What an ObjectServer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Who asked.
    pub eye: Check,
    /// When.
    pub asked: Instant,
    /// When the answer had come.
    pub heard: Instant,
    /// Its property `Name`, if it tells.
    pub name: Option<String>,
    /// Its property `ActingPrimary`, if it tells.
    pub acting_primary: Option<bool>,
    /// Its gateway sessions, if it was asked for them; in words why it does not tell.
    pub gateways: Option<Result<Vec<GatewaySession>, String>>,
}
