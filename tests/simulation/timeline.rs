//! What happened, for people: written down only when a history is replayed.

use std::fmt::Arguments;

use super::clock::Time;

/// The lines of a history.
#[derive(Default)]
pub struct Timeline {
    is_kept: bool,
    lines: Vec<String>,
}

impl Timeline {
    pub const fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            lines: Vec::new(),
        }
    }

    /// Writes a line. `what` is formatted only if the timeline is kept.
    pub fn note(&mut self, at: Time, who: Arguments<'_>, what: Arguments<'_>) {
        if self.is_kept {
            let who = who.to_string();
            self.lines.push(format!("{at} s  {who:<18} {what}"));
        }
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
