//! What operator and gate say to each other on the control port.
//!
//! Mutually authenticated TLS 1.3, inside it one JSON object per line, each line at most [`MAX_LINE`] bytes.
//!
//! 1. The operator's first line is [`Request::Hello`]. Until it has come the gate says nothing.
//! 2. The gate answers with a [`Report`], and sends another whenever something changes: at once for everything but the
//!    counters, at most every 100 ms for those.
//! 3. The operator pings and orders. Each [`Request::Ping`] is answered at once by a report whose
//!    [`answers`](Report::answers) is its nonce. An order is answered by the change that it makes; if it changes nothing,
//!    by nothing; if it is refused, by a report that says why in [`refused_order`](Report::refused_order). A ping sent
//!    behind an order is therefore answered by a report in which that order is in force.
//!
//! Guarantees: the orders of a connection whose term is lower than the highest that this gate process has ever been told
//! (in a `Hello`, by anybody) are refused, so two operators can never both steer. An order stays in force when the
//! connection that gave it closes. A new gate process starts with [`Request::Admit`] and no memory of terms; its
//! [`instance`](Report::instance) tells it apart.
//!
//! Additions to these types must be readable by the other side's older version: unknown fields are ignored, unknown
//! requests are answered as refused, unknown causes are read as [`UnreachableCause::Other`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest line that either side accepts, in bytes, without its line feed.
pub const MAX_LINE: usize = 64 * 1024;

/// A line from the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Request {
    /// Who is speaking. The first line, and only the first.
    Hello {
        /// The speaker's identity in the leader lease.
        holder: String,
        /// The lease's term under which it speaks; grows with each change of leader. One that only observes may say 0.
        term: u64,
    },
    /// Asks for a report at once.
    Ping {
        /// Comes back in [`Report::answers`].
        nonce: u64,
    },
    /// Accept sessions, as long as the ObjectServer can be reached. Ends a drain under way. Refused once a leaving gate
    /// has begun its last drain.
    Admit,
    /// Refuse new sessions and end each one that exists at the moment when none of its requests is unanswered.
    ///
    /// The same order again changes nothing: neither the deadline nor the pace of the drain under way. One with other
    /// numbers replaces both, counted from its arrival.
    Drain {
        /// Milliseconds until the sessions that are still busy are closed regardless. At most one day.
        grace_period_ms: u64,
        /// At most this many sessions are closed in a second, evenly spread; at least 1.
        connections_per_second: u32,
    },
    /// Close every session at once and refuse new ones.
    Drop,
}

/// A line from the gate: everything there is to know about it at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The proxy's name, such as `PROXY_P`.
    pub gate: String,
    /// The name of its ObjectServer, such as `AGG_P`.
    pub object_server: String,
    /// Random for each gate process: one that has changed means that orders and terms are forgotten.
    pub instance: String,
    /// Grows with each report of this process, over all its connections.
    pub sequence: u64,
    /// The nonce of the ping that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// Whether new sessions are accepted.
    pub admission: Admission,
    /// Probe sessions now, from accept to close, without those of the check port.
    pub sessions: u32,
    /// How many of them a drain under way has still to end.
    pub draining: u32,
    /// The gate's own connection test to its ObjectServer.
    pub upstream: Upstream,
    /// The process has been told to stop (SIGTERM) and waits for a drain order, or drains already.
    pub leaving: bool,
    /// Why the listening socket for probes could not be opened although sessions are to be admitted; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_error: Option<String>,
    /// When the certificate that probes are shown ends to be valid. Absent when the gate shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_certificate_expires: Option<Timestamp>,
    /// Why the order just received is not followed. In one report on the connection that gave the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_order: Option<String>,
}

/// What happens to a probe that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// It is served.
    Open,
    /// It is refused by the kernel; sessions that exist are being ended.
    Draining,
    /// It is refused by the kernel; there are no sessions, or they are being closed at this instant.
    Closed,
}

/// Whether the gate's ObjectServer can be reached from its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum Upstream {
    /// A connection is held, or was a moment ago and is being made again; with the TLS handshake if there is TLS, and one to the proxy
    /// server if there is one.
    Reachable,
    /// No probe could be served: the listening socket is closed.
    Unreachable {
        /// Why, for decisions and labels.
        cause: UnreachableCause,
        /// Why, for people.
        message: String,
    },
}

/// Why an ObjectServer, or the proxy server before it, cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnreachableCause {
    /// Nothing is known yet: the process has just started.
    Untried,
    /// The other machine refused the connection: no process listens there.
    Refused,
    /// The connection was closed or reset while it was being made.
    Closed,
    /// Silence: no answer within `--unresponsive-after`.
    TimedOut,
    /// The host name has no address.
    Unresolved,
    /// No route to host or network.
    Unroutable,
    /// The ObjectServer's certificate breaks the rule, or there is no TLS with it for another reason.
    TlsRejected,
    /// The ObjectServer can be reached, and the proxy server in the pod cannot.
    ProxyUnreachable,
    /// Anything else; the message says what.
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
            (Request::Ping { nonce: 1 }, r#"{"type":"Ping","nonce":1}"#),
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

    #[test]
    fn reports_look_on_the_wire_as_both_sides_expect() {
        let report = Report {
            gate: "PROXY_P".to_owned(),
            object_server: "AGG_P".to_owned(),
            instance: "00ff".to_owned(),
            sequence: 3,
            answers: Some(1),
            admission: Admission::Draining,
            sessions: 5,
            draining: 5,
            upstream: Upstream::Unreachable {
                cause: UnreachableCause::TimedOut,
                message: "no answer".to_owned(),
            },
            leaving: true,
            listen_error: None,
            listener_certificate_expires: Some("2026-12-01T06:00:00Z".parse().unwrap()),
            refused_order: None,
        };
        let line = r#"{"gate":"PROXY_P","objectServer":"AGG_P","instance":"00ff","sequence":3,"answers":1,"admission":"Draining","sessions":5,"draining":5,"upstream":{"state":"Unreachable","cause":"TimedOut","message":"no answer"},"leaving":true,"listenerCertificateExpires":"2026-12-01T06:00:00Z"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), line);
        assert_eq!(serde_json::from_str::<Report>(line).unwrap(), report);
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
