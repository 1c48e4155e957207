//! What the tests share.
//!
//! - On loopback: [`gate`] runs a gate with everything around it, [`programs`] runs the stand-ins, [`certificates`] signs,
//!   [`directory`] has room for files.
//! - On a cluster: [`stage`] sets a scene with all that is on it, from [`namespace`], [`operator`], [`pair`] and [`stand_ins`];
//!   [`auditor`] watches it, [`hold`], [`hop`] and [`cluster`] place faults, [`outage`] and [`evidence`] say what happened.
//! - The chart: [`helm`].

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on ends, and says where"
)]

pub mod auditor;
pub mod certificates;
pub mod cluster;
pub mod directory;
pub mod evidence;
pub mod gate;
pub mod helm;
pub mod hold;
pub mod hop;
pub mod manifest;
pub mod namespace;
pub mod operator;
pub mod outage;
pub mod pair;
pub mod programs;
pub mod site;
pub mod stage;
pub mod stand_ins;
pub mod wait;
