//! The command line of `proxypair gate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::dial::Address;

/// Forwards probes to one ObjectServer, refuses them while it is away, and drains them when told to.
#[derive(Debug, Clone, Args)]
pub struct GateArgs {
    /// Name of the proxy, as in omni.dat. Appears in reports and logs.
    #[arg(long)]
    pub name: String,

    /// Where probes connect.
    #[arg(long, default_value = "0.0.0.0:4400")]
    pub listen: SocketAddr,

    /// Where the operator's checks connect (mutual TLS).
    #[arg(long, default_value = "0.0.0.0:4401")]
    pub check_listen: SocketAddr,

    /// Where the operator connects to steer and to read reports (mutual TLS).
    #[arg(long, default_value = "0.0.0.0:4402")]
    pub control_listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:4403")]
    pub admin_listen: SocketAddr,

    /// Name of the ObjectServer. Appears in reports and logs.
    #[arg(long)]
    pub object_server_name: String,

    /// Where the ObjectServer is. A host name is resolved at each dial.
    #[arg(long, value_name = "HOST:PORT")]
    pub object_server: Address,

    /// File with the authorities for the ObjectServer's certificate (PEM). With it the gate speaks TLS to the ObjectServer, whose
    /// certificate must bear --object-server-name as its Common Name. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub object_server_ca: Option<PathBuf>,

    /// Proxy server in this pod that serves probes and checks, in plain TCP. Probes are admitted while both it and the ObjectServer can
    /// be reached.
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy: Option<Address>,

    /// Directory with tls.crt and tls.key, the proxy's own certificate: probes must speak TLS, which ends here. Read again when they change.
    #[arg(long, value_name = "DIR")]
    pub listener_tls_dir: Option<PathBuf>,

    /// Probes speak TLS with the server behind the gate, which passes it through. Message boundaries cannot be seen then: a drain closes
    /// sessions at quiet moments.
    #[arg(long, conflicts_with = "listener_tls_dir")]
    pub pass_through: bool,

    /// Directory with ca.crt, tls.crt and tls.key for the check and the control port. Read again when they change.
    #[arg(long)]
    pub tls_dir: PathBuf,

    /// Probe sessions at the same time. A probe beyond it is accepted and closed at once.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: u32,

    /// Time from a probe's connection to the end of its login message.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub login_timeout: Duration,

    /// Time from the first byte of a probe's message to its last, for what is left of a session when one end has closed, and of silence
    /// before a peer that should answer is taken for gone.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub message_timeout: Duration,

    /// Silence after which the ObjectServer's machine is taken for gone. At least 2s.
    #[arg(long, default_value = "15s", value_parser = two_seconds_or_more)]
    pub unresponsive_after: Duration,

    /// Time from SIGTERM to SIGKILL: the pod's terminationGracePeriodSeconds.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub grace_period: Duration,

    /// Sessions closed in a second at least, when the gate has to leave and nobody has ordered a drain.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_second: u32,
}

/// Reads a Gateway API duration (GEP-2257). Zero is refused: no limit of the gate means anything when it is over before it begins.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<crate::api::Duration>()
        .map_err(|error| error.to_string())?
        .get();
    if duration.is_zero() {
        Err(format!("{text} is no time at all: write at least 1ms"))
    } else {
        Ok(duration)
    }
}

/// A duration that keepalive, which counts in whole seconds, can keep.
fn two_seconds_or_more(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_secs(2) {
        Err(format!("{text} is less than 2s"))
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_silence_that_keepalive_cannot_tell() {
        assert!(two_seconds_or_more("1s999ms").is_err());
        assert_eq!(two_seconds_or_more("2s"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn refuses_no_time_at_all() {
        assert!(duration("0s").is_err());
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    }
}
