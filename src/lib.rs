//! ProxyPair.

pub mod gate;
