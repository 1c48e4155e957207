//! Durations as the Gateway API writes them (GEP-2257): `500ms`, `10s`, `1m30s`, `1h`.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What GEP-2257 allows, as a regular expression that API servers and CEL understand.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A span of time between zero and 99,999 hours, in whole milliseconds.
///
/// It is kept with the text it was written as, so that a manifest reads back unchanged.
#[derive(Clone, Debug)]
pub struct Duration {
    text: String,
    value: time::Duration,
}

/// The text is not a GEP-2257 duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a duration: write up to four numbers of at most five digits, each with h, m, s or ms, such as 500ms \
     or 1m30s"
)]
pub struct ParseDurationError(String);

impl Duration {
    /// The span as the standard library's type.
    pub fn get(&self) -> time::Duration {
        self.value
    }

    /// A span of whole milliseconds.
    pub fn from_millis(millis: u64) -> Self {
        let value = time::Duration::from_millis(millis);
        Self {
            text: written(value),
            value,
        }
    }

    /// A span of whole seconds.
    pub fn from_secs(seconds: u64) -> Self {
        Self::from_millis(seconds * 1000)
    }
}

impl From<time::Duration> for Duration {
    /// Cuts what is below a millisecond.
    fn from(value: time::Duration) -> Self {
        Self::from_millis(u64::try_from(value.as_millis()).unwrap_or(u64::MAX / 1000))
    }
}

impl PartialEq for Duration {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Duration {}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseDurationError(text.chars().take(40).collect());
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest
                .get(..digits)
                .filter(|_| (1..=5).contains(&digits))
                .and_then(|n| n.parse().ok())
                .ok_or_else(refused)?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = match &rest[..letters] {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(refused()),
            };
            rest = &rest[letters..];
            millis += number * unit;
            parts += 1;
        }
        if !(1..=4).contains(&parts) {
            return Err(refused());
        }
        Ok(Self {
            text: text.to_owned(),
            value: time::Duration::from_millis(millis),
        })
    }
}

fn written(value: time::Duration) -> String {
    let millis = value.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let mut rest = millis;
    let mut text = String::new();
    for (size, unit) in units {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 23, "pattern": DURATION_PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_gateway_api_writes() {
        let millis = |text: &str| text.parse::<Duration>().map(|d| d.get().as_millis());
        assert_eq!(millis("0s"), Ok(0));
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("1h2m3s4ms"), Ok(3_723_004));
    }

    #[test]
    fn refuses_what_the_gateway_api_refuses() {
        for text in [
            "",
            "5",
            "1.5s",
            "-1s",
            "1d",
            "123456s",
            "1h1m1s1ms1s",
            " 1s",
            "1s ",
            "s",
            "1 s",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0u64..99_999 * 3_600_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse::<Duration>().map(|d| d.get()), Ok(duration.get()));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }
}
