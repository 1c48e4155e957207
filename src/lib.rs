//! ProxyPair.

pub mod admin;
pub mod gate;
pub mod tds;
pub mod telemetry;
