//! The time of day. Deadlines are on tokio's clock, which tests can pause.

use jiff::Timestamp;

/// The time of day.
#[cfg(not(feature = "simulation"))]
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// The time of day in a simulation, which begins on 2026-11-01.
#[cfg(feature = "simulation")]
#[must_use]
pub fn wall() -> Timestamp {
    const BEGIN: Timestamp = Timestamp::constant(1_793_491_200, 0);
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    BEGIN + elapsed
}
