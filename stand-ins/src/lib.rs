//! What the stand-ins for OMNIbus's programs share: TLS at either end, logins at either end, and how a process ends.
//!
//! The programs are in `src/bin`: an ObjectServer, a gateway between two of them, probes, a proxy server, and a hop
//! of the network. Each says at its head what it does as the real one does, and with `--help` what it can be made to do.

pub mod dial;
pub mod login;
pub mod process;
pub mod wire;
