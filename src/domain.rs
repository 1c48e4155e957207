//! Pure decisions: no client, no clock, no waiting. What was seen and what time it is are arguments; what to do is the result.

pub mod admission;
pub mod children;
pub mod evidence;
pub mod failover;
pub mod health;
pub mod pair;
pub mod references;
pub mod resync;
pub mod status;
pub mod trouble;
