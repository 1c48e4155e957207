//! The gate: the data plane in each proxy pod.

pub mod admission;
pub mod drain;
pub mod metrics;
pub mod tracker;
pub mod wire;
