//! What is wrong with a pair beside the health of its sides, in words. Each defect is in a condition, an Event and a metric.

use crate::api::{Reason, Side};

/// Something that is wrong while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The side that it is about, if it is about one.
    pub side: Option<Side>,
    /// In conditions, Events and the metric `proxypair_defects`.
    pub reason: Reason,
    /// What is wrong, and what to do about it. It stays the same while the defect does.
    pub message: String,
}

/// Everything that is wrong now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defects {
    /// `Ready` is `False` for these.
    pub ready: Vec<Defect>,
    /// `Protected` is `False` for these.
    pub protected: Vec<Defect>,
    /// The conditions say these already, as the health of the sides: they need an Event and the metric.
    pub health: Vec<Defect>,
}

impl Defects {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Defect> {
        self.ready.iter().chain(&self.protected).chain(&self.health)
    }
}
