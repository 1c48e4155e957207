//! The gate: the data plane in each proxy pod, between the probes and one ObjectServer.
//!
//! It accepts a probe only while it can serve it, forwards bytes unchanged, and can close sessions without breaking a request. It knows
//! neither Kubernetes nor the other side of the pair. An operator commands it over the control port; without an operator it follows the state
//! of its ObjectServer.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line |
//! | `process` | start, and shutdown on SIGTERM |
//! | `shared` | what all parts share |
//! | `state` | status, mode and session count, and the channels on which they are published |
//! | `mode` | the decision: open, draining or closed; pure |
//! | `commands` | which connections may command the gate, and what each command changes |
//! | `route` | how the ObjectServer is reached: with TLS, through a proxy server |
//! | `upstream` | the watch over the ObjectServer |
//! | `limits` | how many connections there may be |
//! | `lobby` | the places of connections that have not logged in |
//! | `listener` | the port for probes |
//! | `login` | what a probe's connection is before it is a session |
//! | `certificate` | the proxy's own certificate, shown to probes |
//! | `framing` | message boundaries in a session: TDS, or TLS that passes through |
//! | `tracker` | message boundaries from TDS packet headers; pure |
//! | `session`, `forward` | one probe's session, and the forwarding of its bytes |
//! | `drain` | the pace at which sessions are closed |
//! | `control` | the control port |
//! | `check` | the port for the operator's check sessions |
//! | `tls` | mutual TLS of those two ports |
//! | `files` | files that are read again when they change |
//! | `metrics` | what is counted |
//!
//! `commands`, `drain` and `mode` are public for the simulator in tests/simulation, which runs them on virtual time.
//!
//! State flows one way: upstream, commands and time → mode (`mode::decide`) → listener, sessions, pacer and reports.

pub mod args;
mod certificate;
mod check;
pub mod commands;
mod control;
pub mod drain;
mod files;
mod forward;
mod framing;
mod limits;
mod listener;
mod lobby;
mod login;
mod lookouts;
pub(crate) mod metrics;
pub mod mode;
mod process;
mod route;
mod session;
mod shared;
mod state;
mod tls;
pub mod tracker;
mod upstream;

pub use self::process::{run, run_until};
