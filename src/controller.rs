//! Reconciles ProxyPairs and is the single writer of routing.

pub mod keys;
