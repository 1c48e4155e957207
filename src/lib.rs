//! ProxyPair.
