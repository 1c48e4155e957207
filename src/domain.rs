//! Pure decisions: no client, no clock, no waiting. What was seen and what time it is are arguments; what to do is the result.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))] // those in clippy.toml: clocks, waiting, the environment

pub mod admission;
pub mod children;
pub mod evidence;
pub mod expiry;
pub mod failover;
pub mod health;
pub mod pair;
pub mod references;
pub mod resync;
pub mod status;
pub mod trouble;
