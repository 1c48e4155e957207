//! Logs: one JSON object a line on standard output.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("\"{filter}\" is no log filter such as \"info\" or \"info,proxypair::gate=debug\": {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging has been set up already.
    #[error("failed to set up logging: {0}")]
    Init(#[from] TryInitError),
}

/// Sets up logging for the process. `filter` is in the syntax of [`EnvFilter`], such as `info,proxypair::gate=debug`.
///
/// # Errors
///
/// [`TelemetryError`] when the filter cannot be read, and when called twice.
pub fn init(filter: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;
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
