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

pub use control::{Steering, watch_gate};
pub use hold::{watch_objectserver, watch_path};
pub use login::{APPLICATION, Credentials, Login, Refusals};
pub use tls::{TlsError, client_config};

use crate::{
    domain::{evidence::Link, resync::GatewaySession},
    gate::wire::Report,
};

/// Which eye saw something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eye {
    /// The session with the gate.
    Control,
    /// The check session through the gate.
    Path,
    /// The connection straight to the ObjectServer.
    Direct,
}

/// What an eye saw.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// What became of its connection.
    Link(Eye, Link),
    /// The gate's word.
    Report {
        /// When it arrived.
        at: Instant,
        /// What it said.
        report: Report,
    },
    /// The ObjectServer's word, on a session with a login.
    Said(Saying),
}

/// What an ObjectServer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// Who asked.
    pub eye: Eye,
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
