//! What must hold: the guarantees of docs/failover.md, each as a function with its number, and what must come true once the faults are over.
//!
//! An operator cannot know what has just happened: what it does counts as wrong only if it must have known better. A fault excuses what it
//! explains: on the side, the gate and the probe that feel it, and in the time in which they may.

mod events;
mod gates;
mod rest;
mod sessions;
mod switches;

use std::time::Duration;

pub use self::{gates::Routed, rest::REST, sessions::Session};
use super::world::World;

/// How soon an operator notices what a kernel says, and how soon what follows is written.
const NOTICED: Duration = Duration::from_secs(3);
/// How much longer everything may take on a slow link: a question and its answer.
const SLOW: Duration = Duration::from_secs(6);
/// How long after a fault what it has begun may still be seen: a switch is finished, and sessions are dropped.
const AFTERMATH: Duration = Duration::from_secs(10);

impl World {
    /// What must hold after each step.
    ///
    /// # Errors
    ///
    /// What is violated.
    pub fn check(&mut self) -> Result<(), String> {
        self.look_at_pods();
        self.guarantee_18_the_last_gate_stays()?;
        self.guarantee_07_one_leader()?;
        self.guarantee_06_no_switch_is_lost()?;
        let now = self.now();
        if let Some((at, side)) = self.selected.last().copied()
            && at == now
            && self.selected.len() > 1
        {
            self.guarantee_01_a_switch_has_an_endpoint(side)?;
            self.guarantee_02_only_to_a_side_that_may_serve(side)?;
            self.guarantee_05_silence_has_lasted(side)?;
            self.guarantee_06_intent_comes_first(side)?;
            self.guarantee_18_one_gate_moves_nothing(side)?;
        }
        self.check_sessions()
    }
}
