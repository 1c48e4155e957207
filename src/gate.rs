//! The gate: the data plane in each proxy pod.

pub mod tracker;
pub mod wire;
