//! The control protocol between operator and gate.
//!
//! Mutually authenticated TLS 1.3, inside it one JSON object per line, each line at most [`MAX_LINE`] bytes.
//!
//! 1. The operator's first line is [`Request::Hello`]. The gate sends nothing before it.
//! 2. The gate answers with a [`Report`], and sends another whenever something changes: at once for everything but the
//!    session count, at most every 100 ms for that.
//! 3. The operator sends pings and commands ([`Request::Admit`], [`Request::Drain`], [`Request::Drop`]). Each
//!    [`Request::Ping`] is answered at once by a report whose [`answers`](Report::answers) is its nonce. A command is
//!    answered by the change that it makes; if it changes nothing, by nothing; if it is rejected, by a report with the
//!    reason in [`rejected_command`](Report::rejected_command). The answer to a ping sent after a command therefore
//!    shows that command in force.
//!
//! Guarantees: a gate process rejects the commands of a connection whose term is lower than the highest term of any
//! [`Request::Hello`] that it has received, so two operators can never both command a gate. A command stays in force when
//! the connection that sent it closes. But a gate without sessions that has had no connection with the highest term for
//! twice `--unresponsive-after` returns to [`Request::Admit`], unless it is terminating. A new gate process starts with
//! [`Request::Admit`] in force and knows no terms; its [`instance`](Report::instance) differs from that of its predecessor.
//!
//! A ping may also say at which other gates this one is to look ([`LookAt`]): as long as that is so, reports say what it sees of them
//! ([`Sight`]). That is the second pair of eyes when nothing comes back to the operator.
//!
//! On the port for probes a gate answers a second, much smaller protocol: a connection that begins with [`ROUTE_QUESTION`] is answered with
//! the gate's name ([`Report::gate`]) and a line feed, and closed. It is neither a session nor counted as one. It shows to which gate an
//! address leads, such as that of a Service. A closed port refuses it like a probe.
//!
//! Compatibility: unknown fields are ignored, unknown requests are rejected with a report, unknown causes are read as
//! [`UnreachableCause::Other`]. Gates up to 0.1 also send `sequence` and `draining`; nothing reads them.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The first bytes of a connection to the port for probes that asks which gate this is. No TDS login and no TLS begins like this.
pub const ROUTE_QUESTION: [u8; 4] = *b"PPRT";

/// The longest line that either side accepts, in bytes, without its line feed.
pub const MAX_LINE: usize = 64 * 1024;

/// A line from the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Request {
    /// Identifies the sender. Must be the first line, and only the first.
    Hello {
        /// The sender's identity in the leader lease.
        holder: String,
        /// The sender's term in that lease; grows with each change of leader. 0 for a client that only observes.
        term: u64,
    },
    /// Asks for a report at once.
    Ping {
        /// Returned in [`Report::answers`].
        nonce: u64,
        /// The gates to look at, from now on and no others. A gate that does not know this looks at none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        look_at: Vec<LookAt>,
    },
    /// Accept sessions as long as the ObjectServer is reachable. Cancels a drain. Rejected once a terminating gate has
    /// begun its final drain.
    Admit,
    /// Refuse new sessions and close each existing session as soon as all of its requests are answered.
    ///
    /// Repeating the same command changes neither the deadline nor the pace of the drain in progress. A command with
    /// other numbers replaces both, counted from its arrival.
    Drain {
        /// Milliseconds after which the sessions that are still busy are closed too. At most one day.
        grace_period_ms: u64,
        /// Number of sessions closed per second, evenly spread; at least 1. More only if not all sessions could be closed in time.
        connections_per_second: u32,
    },
    /// Close every session at once and refuse new ones.
    Drop,
}

/// A gate that another one is to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookAt {
    /// Its HTTP port.
    pub address: SocketAddr,
    /// 0: now and then, so that it is known whether this gate can see it at all. Any other number: now, again and again, and the number goes
    /// into [`Sight::question`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub question: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a gate sees of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// As in [`LookAt::address`].
    pub address: SocketAddr,
    /// As in [`LookAt::question`], when this look began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub question: u64,
    /// What came back.
    pub seen: Seen,
}

/// What came back from a host to fresh connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// Nothing, from a host that was seen from here before.
    Nothing,
    /// Its kernel has answered.
    Host,
    /// Its gate has answered that it accepts probes.
    Ready,
    /// Not known: nothing was tried yet, it was never seen from here, or this machine could not look.
    #[default]
    #[serde(other)]
    Untried,
}

/// A line from the gate: its complete state at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The proxy's name, such as `PROXY_P`.
    pub gate: String,
    /// The name of its ObjectServer, such as `AGG_P`.
    pub object_server: String,
    /// Random for each gate process. A new value means a new process, which knows neither commands nor terms.
    pub instance: String,
    /// The nonce of the ping that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// Whether new sessions are accepted.
    #[serde(rename = "admission")]
    pub state: GateState,
    /// Probe sessions now, from accept to close. Sessions on the check port do not count.
    pub sessions: u32,
    /// Result of the gate's own connection to its ObjectServer.
    pub upstream: Upstream,
    /// The process has received SIGTERM and waits for a drain command, or drains already.
    #[serde(rename = "leaving")]
    pub terminating: bool,
    /// Why the port for probes could not be opened although sessions are to be accepted. The gate keeps trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_error: Option<String>,
    /// When the certificate of the port for probes expires. Absent if the port has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_certificate_expires: Option<Timestamp>,
    /// Why the command just received was rejected. Sent once, on the connection that sent the command.
    #[serde(rename = "refusedOrder", default, skip_serializing_if = "Option::is_none")]
    pub rejected_command: Option<String>,
    /// What it sees of the gates that it is to look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sights: Vec<Sight>,
}

/// What happens to a probe that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateState {
    /// It is served.
    Open,
    /// The kernel refuses it; existing sessions are being drained.
    Draining,
    /// The kernel refuses it; there are no sessions, or they are being closed. Sessions are left alone if only new connections to the
    /// ObjectServer fail.
    Closed,
}

/// Whether the gate can reach its ObjectServer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum Upstream {
    /// The gate holds a connection to it, or just lost one and is reconnecting. Includes the TLS handshake where TLS is used, and the
    /// proxy server where there is one.
    Reachable,
    /// No probe can be served: the port for probes is closed.
    Unreachable {
        /// Why, as one of a few words.
        cause: UnreachableCause,
        /// Why, as a sentence for logs and status messages.
        message: String,
    },
}

/// Why an ObjectServer, or the proxy server before it, cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnreachableCause {
    /// Not tried yet: the process has just started.
    Untried,
    /// The connection was refused: no process listens on the port.
    Refused,
    /// The connection was closed or reset while it was being made.
    Closed,
    /// No answer within `--unresponsive-after`.
    TimedOut,
    /// The host name has no address.
    Unresolved,
    /// No route to host or network.
    Unroutable,
    /// The ObjectServer's certificate was rejected, or the TLS handshake failed for another reason.
    TlsRejected,
    /// The ObjectServer is reachable, the proxy server in the pod is not.
    ProxyUnreachable,
    /// Anything else; see the message.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_on_the_wire_as_both_sides_expect() {
        for (request, line) in [
            (
                Request::Hello {
                    holder: "op-1".to_owned(),
                    term: 7,
                },
                r#"{"type":"Hello","holder":"op-1","term":7}"#,
            ),
            (
                Request::Ping {
                    nonce: 1,
                    look_at: Vec::new(),
                },
                r#"{"type":"Ping","nonce":1}"#,
            ),
            (
                Request::Ping {
                    nonce: 2,
                    look_at: vec![
                        LookAt {
                            address: "10.0.0.1:4403".parse().unwrap(),
                            question: 0,
                        },
                        LookAt {
                            address: "[fd00::1]:4403".parse().unwrap(),
                            question: 7,
                        },
                    ],
                },
                r#"{"type":"Ping","nonce":2,"lookAt":[{"address":"10.0.0.1:4403"},{"address":"[fd00::1]:4403","question":7}]}"#,
            ),
            (Request::Admit, r#"{"type":"Admit"}"#),
            (
                Request::Drain {
                    grace_period_ms: 30_000,
                    connections_per_second: 100,
                },
                r#"{"type":"Drain","gracePeriodMs":30000,"connectionsPerSecond":100}"#,
            ),
            (Request::Drop, r#"{"type":"Drop"}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
    }

    fn report() -> Report {
        Report {
            gate: "PROXY_P".to_owned(),
            object_server: "AGG_P".to_owned(),
            instance: "00ff".to_owned(),
            answers: Some(1),
            state: GateState::Draining,
            sessions: 5,
            upstream: Upstream::Unreachable {
                cause: UnreachableCause::TimedOut,
                message: "no answer".to_owned(),
            },
            terminating: true,
            listen_error: None,
            listener_certificate_expires: Some("2026-12-01T06:00:00Z".parse().unwrap()),
            rejected_command: Some("too late".to_owned()),
            sights: Vec::new(),
        }
    }

    #[test]
    fn what_a_gate_sees_of_another_one_is_read() {
        let line = r#"{"address":"10.0.0.1:4403","question":7,"seen":"Nothing"}"#;
        let sight = Sight {
            address: "10.0.0.1:4403".parse().unwrap(),
            question: 7,
            seen: Seen::Nothing,
        };
        assert_eq!(serde_json::to_string(&sight).unwrap(), line);
        assert_eq!(serde_json::from_str::<Sight>(line).unwrap(), sight);
        assert_eq!(serde_json::from_str::<Seen>(r#""Bewitched""#).unwrap(), Seen::Untried);
    }

    #[test]
    fn reports_look_on_the_wire_as_both_sides_expect() {
        let line = r#"{"gate":"PROXY_P","objectServer":"AGG_P","instance":"00ff","answers":1,"admission":"Draining","sessions":5,"upstream":{"state":"Unreachable","cause":"TimedOut","message":"no answer"},"leaving":true,"listenerCertificateExpires":"2026-12-01T06:00:00Z","refusedOrder":"too late"}"#;
        assert_eq!(serde_json::to_string(&report()).unwrap(), line);
        assert_eq!(serde_json::from_str::<Report>(line).unwrap(), report());
    }

    #[test]
    fn the_report_of_an_old_gate_can_be_read() {
        let line = r#"{"gate":"PROXY_P","objectServer":"AGG_P","instance":"00ff","sequence":3,"answers":1,"admission":"Draining","sessions":5,"draining":5,"upstream":{"state":"Unreachable","cause":"TimedOut","message":"no answer"},"leaving":true,"listenerCertificateExpires":"2026-12-01T06:00:00Z","refusedOrder":"too late"}"#;
        assert_eq!(serde_json::from_str::<Report>(line).unwrap(), report());
    }

    #[test]
    fn a_newer_gate_can_be_read() {
        let line = r#"{"state":"Unreachable","cause":"Bewitched","message":"?","since":"yesterday"}"#;
        let upstream: Upstream = serde_json::from_str(line).unwrap();
        assert_eq!(
            upstream,
            Upstream::Unreachable {
                cause: UnreachableCause::Other,
                message: "?".to_owned()
            }
        );
    }
}
