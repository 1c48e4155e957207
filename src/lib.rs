//! ProxyPair: failover and failback for pairs of Netcool/OMNIbus proxy servers on Kubernetes.

#![forbid(unsafe_code)]

pub mod address;
pub mod admin;
pub mod agent;
pub mod api;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod dial;
pub mod domain;
pub mod foreign;
pub mod gate;
pub mod leader;
pub mod lookout;
pub mod metrics;
pub mod net;
pub mod omnibus;
pub mod operator;
pub mod process;
pub mod protocol;
pub mod proxyserv;
pub mod tds;
pub mod telemetry;
pub mod tls;
pub mod worker;

#[cfg(test)]
mod messages;
