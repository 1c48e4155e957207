//! The gate: the data plane in each proxy pod.

pub mod wire;
