//! Pure decisions: no client, no clock, no waiting. Observations and the time are arguments; what to do is the result.

pub mod admission;
pub mod children;
pub mod evidence;
pub mod expiry;
pub mod failover;
pub mod health;
pub mod pair;
pub mod pod_failure;
pub mod references;
pub mod resync;
pub mod status;
