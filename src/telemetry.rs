//! Logs: one JSON object per line on standard output.

use tracing::Span;
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

/// What applies unless the filter says otherwise: kube logs each rejected request as a warning, without saying whose it was. Whoever made the
/// request logs what became of it.
const DEFAULTS: &str = "kube_client=error";

/// Sets up logging for the process. `filter` is in the syntax of [`EnvFilter`], such as `info,proxypair::gate=debug`.
///
/// # Errors
///
/// [`TelemetryError`] if the filter cannot be parsed, or on a second call.
pub fn init(filter: &str) -> Result<(), TelemetryError> {
    let parsed = parse(filter)?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(parsed)
        .finish()
        .try_init()?;
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let parsed = EnvFilter::builder().parse(format!("{DEFAULTS},{filter}"));
    parsed.map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// The span of everything that is done for one pair: each log line in it carries name and namespace of the pair.
#[must_use]
pub fn pair_span(namespace: &str, name: &str) -> Span {
    // As an error span it is on with every filter.
    tracing::error_span!("pair", pair = name, namespace)
}

#[cfg(test)]
pub mod capture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_defaults_that_it_does_not_name() {
        let directives = |filter: &str| {
            let text = parse(filter).unwrap().to_string();
            text.split(',')
                .map(str::to_owned)
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(directives("info"), directives("info,kube_client=error"));
        let own = directives("info,kube_client=debug,proxypair::gate=debug");
        assert!(
            own.contains("kube_client=debug") && !own.contains("kube_client=error"),
            "{own:?}"
        );
    }

    #[test]
    fn what_is_no_filter_is_named_in_the_error() {
        let error = parse("proxypair=loud").unwrap_err().to_string();
        assert!(error.starts_with("\"proxypair=loud\" is not a log filter"), "{error}");
    }
}
