//! The command line of `proxypair gate`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::dial::Address;

/// Forward probes to one ObjectServer, refuse them while it is unreachable, and drain them on command.
#[derive(Debug, Clone, Args)]
pub struct GateArgs {
    /// Name of the proxy, as in omni.dat. Used in reports and logs.
    #[arg(long)]
    pub name: String,

    /// Address of the port for probes. [::] accepts IPv4 as well, and is 0.0.0.0 on a machine without IPv6.
    #[arg(long, default_value = "[::]:4400")]
    pub listen: SocketAddr,

    /// Address of the port for the operator's check sessions (mutual TLS).
    #[arg(long, default_value = "[::]:4401")]
    pub check_listen: SocketAddr,

    /// Address of the port for the operator's commands and the gate's reports (mutual TLS).
    #[arg(long, default_value = "[::]:4402")]
    pub control_listen: SocketAddr,

    /// Address of the HTTP port with /livez, /readyz and /metrics.
    #[arg(long, default_value = "[::]:4403")]
    pub admin_listen: SocketAddr,

    /// Name of the ObjectServer. Used in reports and logs.
    #[arg(long)]
    pub object_server_name: String,

    /// Address of the ObjectServer. A host name is resolved at each dial.
    #[arg(long, value_name = "HOST:PORT")]
    pub object_server: Address,

    /// File with the CA bundle for the ObjectServer's certificate (PEM). If set, the gate speaks TLS to the ObjectServer, whose certificate
    /// must have --object-server-name as its Common Name. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub object_server_ca: Option<PathBuf>,

    /// Proxy server in this pod that serves probes and checks, in plain TCP. Probes are accepted while both it and the ObjectServer are
    /// reachable.
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy: Option<Address>,

    /// Directory with tls.crt and tls.key, the proxy's own certificate. If set, probes must speak TLS, which ends at the gate. Read again when
    /// they change.
    #[arg(long, value_name = "DIR")]
    pub listener_tls_dir: Option<PathBuf>,

    /// Pass probes' TLS through to the ObjectServer. The gate cannot see message boundaries then: a drain closes a session when it has been
    /// quiet for a second.
    #[arg(long, conflicts_with = "listener_tls_dir")]
    pub pass_through: bool,

    /// Directory with ca.crt, tls.crt and tls.key for the check port and the control port. Read again when they change.
    #[arg(long)]
    pub tls_dir: PathBuf,

    /// Maximum number of probe sessions. Further probes are accepted and closed at once. Lowered if the limit of open files does not allow so
    /// many.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: u32,

    /// Time limit from a probe's connection to the end of its login message.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub login_timeout: Duration,

    /// Time limit for pauses: within a probe's message, until the ObjectServer's first answer, in a session of which one end has closed its
    /// direction, and until the peer's kernel acknowledges data.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub message_timeout: Duration,

    /// Time without an answer after which the ObjectServer counts as unreachable. At least 2s.
    #[arg(long, default_value = "15s", value_parser = two_seconds_or_more)]
    pub unresponsive_after: Duration,

    /// Time from SIGTERM to SIGKILL: the pod's terminationGracePeriodSeconds.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub grace_period: Duration,

    /// Number of sessions closed per second when the gate terminates and no operator has commanded a drain. More if not all would be closed
    /// in time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_second: u32,
}

/// Parses a Gateway API duration (GEP-2257). Zero is rejected: every limit of the gate needs some time.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<crate::api::Duration>()
        .map_err(|error| error.to_string())?
        .get();
    if duration.is_zero() {
        Err(format!("{text} is too short: the minimum is 1ms"))
    } else {
        Ok(duration)
    }
}

/// A duration that TCP keepalive, which counts in whole seconds, can detect.
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
    fn rejects_a_time_that_keepalive_cannot_detect() {
        assert!(two_seconds_or_more("1s999ms").is_err());
        assert_eq!(two_seconds_or_more("2s"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn rejects_a_duration_of_zero() {
        assert!(duration("0s").is_err());
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    }
}
