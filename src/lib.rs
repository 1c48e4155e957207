//! ProxyPair: failover and failback for pairs of Netcool/OMNIbus proxy servers on Kubernetes.

pub mod api;
pub mod domain;
pub mod leader;
pub mod controller;
