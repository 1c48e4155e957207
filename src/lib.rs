//! ProxyPair.

pub mod gate;
pub mod tds;
