//! What happens, for people.

use std::{
    fmt::{Display, Write},
    time::Duration,
};

#[derive(Default)]
pub struct Log(String);

impl Log {
    pub fn say(&mut self, now: Duration, words: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{:>9.3} s  {words}", now.as_secs_f64());
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}
