//! Logs: one JSON object per line on standard output.

use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    util::{SubscriberInitExt, TryInitError},
};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error("\"{filter}\" is not a log filter such as \"info\" or \"info,proxypair::gate=debug\": {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// The parser's error.
        source: ParseError,
    },
    /// Logging was already set up.
    #[error("failed to set up logging: {0}")]
    Init(#[from] TryInitError),
}

/// Sets up logging for the process. `filter` is in the syntax of [`EnvFilter`], such as `info,proxypair::gate=debug`.
///
/// # Errors
///
/// [`TelemetryError`] if the filter cannot be parsed, or on a second call.
pub fn init(filter: &str) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(parsed)
        .finish()
        .try_init()?;
    Ok(())
}
