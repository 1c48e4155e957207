//! Pure decisions: no client, no clock, no waiting. Observations and the time are arguments; what to do is the result.
//!
//! | module | decides |
//! |---|---|
//! | [`pair`] | whether a ProxyPair is valid |
//! | [`references`] | which Secrets and ConfigMaps it needs, and what they lack |
//! | [`children`] | what its child objects look like |
//! | [`rollout`] | which side may get a changed pod template |
//! | [`updates`] | which pairs may have a new image of the gates |
//! | [`evidence`] | what the observations of a gate and its ObjectServer mean |
//! | [`health`] | whether a side is up |
//! | [`resync`] | whether the ObjectServers are back in sync |
//! | [`failover`] | where the traffic goes |
//! | [`cause`] | what each cause means for that |
//! | [`route`] | whether connections to the virtual Service still lead to the side that was left |
//! | [`gate_mode`] | what each gate is commanded |
//! | [`machine`] | what to do next, in which order: all of the above for one pair |
//! | [`defect`] | what is wrong beside the health of the sides |
//! | [`status`], [`notice`] | what users are told |

#![cfg_attr(not(test), warn(clippy::disallowed_methods))] // those in clippy.toml: clocks, waiting, the environment

pub mod cause;
pub mod children;
pub mod defect;
pub mod evidence;
pub mod expiry;
pub mod failover;
pub mod gate_mode;
pub mod health;
pub mod machine;
pub mod notice;
pub mod now;
pub mod pair;
pub mod pod_failure;
pub mod references;
pub mod resync;
pub mod rollout;
pub mod route;
pub mod status;
pub mod updates;
