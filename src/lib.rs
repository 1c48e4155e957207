//! ProxyPair.

pub mod tds;
