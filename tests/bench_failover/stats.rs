//! Distributions of what was measured.

use serde::Serialize;

/// A distribution, in milliseconds. Percentiles are values that were measured (nearest rank), none between two.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Distribution {
    /// How many were measured.
    pub runs: usize,
    /// The shortest.
    pub min: f64,
    /// Half are no longer.
    pub median: f64,
    /// 90 of 100 are no longer.
    pub p90: f64,
    /// 99 of 100 are no longer; with fewer than 100 runs the longest.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Distribution {
    /// Of these; `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied().unwrap_or(last)
        };
        Some(Self {
            runs: values.len(),
            min: first,
            median: at(50),
            p90: at(90),
            p99: at(99),
            max: last,
        })
    }
}
