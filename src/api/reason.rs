//! Every reason that ProxyPair writes into conditions, Events and the label of `proxypair_reconcile_errors_total`.

use std::fmt;

use super::{Cause, SwitchKind};

/// The same words behind the name of a kind of switch, so that the reason of its Event is one static string.
macro_rules! caused {
    ($kind:literal, $cause:expr) => {
        match $cause {
            None => $kind,
            Some(Cause::ProxyMissing) => concat!($kind, "ProxyMissing"),
            Some(Cause::ProxyTerminating) => concat!($kind, "ProxyTerminating"),
            Some(Cause::ProxyUnreachable) => concat!($kind, "ProxyUnreachable"),
            Some(Cause::ProxyUnresponsive) => concat!($kind, "ProxyUnresponsive"),
            Some(Cause::ObjectServerUnreachable) => concat!($kind, "ObjectServerUnreachable"),
            Some(Cause::ObjectServerUnresponsive) => concat!($kind, "ObjectServerUnresponsive"),
            Some(Cause::PathBroken) => concat!($kind, "PathBroken"),
            Some(Cause::TlsRejected) => concat!($kind, "TlsRejected"),
            Some(Cause::LoginRefused) => concat!($kind, "LoginRefused"),
            Some(Cause::WrongObjectServer) => concat!($kind, "WrongObjectServer"),
            Some(Cause::ProtocolError) => concat!($kind, "ProtocolError"),
        }
    };
}

/// Declares [`Reason`] with the list of its plain variants, whose words are their names.
macro_rules! reasons {
    ($($(#[$documentation:meta])+ $name:ident,)+) => {
        /// A reason in one word. `docs/failure-modes.md` says of each where it appears and what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$documentation])+ $name,)+
            /// Conditions: the side is down, for this cause.
            Down(Cause),
            /// Events: a switch of this kind was finished, in answer to this cause.
            Switched(SwitchKind, Option<Cause>),
        }

        impl Reason {
            const PLAIN: &[Self] = &[$(Self::$name),+];

            /// The word in conditions, Events and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    Self::Down(cause) => caused!("", Some(cause)),
                    Self::Switched(SwitchKind::Failover, cause) => caused!("Failover", cause),
                    Self::Switched(SwitchKind::Failback, cause) => caused!("Failback", cause),
                    Self::Switched(SwitchKind::Switchover, cause) => caused!("Switchover", cause),
                }
            }
        }
    };
}

reasons! {
    /// `Ready` is `True`: the serving side is up and the children are as declared.
    Serving,
    /// `Ready` is `False`: a switch is under way.
    Switching,
    /// `Ready`, `PrimaryHealthy` or `BackupHealthy` is `Unknown`: there is no observation of the side, or none that is
    /// recent enough.
    NotObserved,
    /// `PrimaryHealthy` or `BackupHealthy` is `True`.
    Up,
    /// `Protected` is `True`.
    BothUp,
    /// `Protected` is `False`: at most one side is up.
    OneSideOnly,
    /// `PrimaryServing` is `True`.
    Primary,
    /// `PrimaryServing` is `False`.
    Backup,
    /// `LoginProtected` is `True`: each ObjectServer is reached over TLS.
    LoginOverTls,
    /// `LoginProtected` is `False`: an ObjectServer without TLS gets the password of `healthCheck.login`, and so can anyone on the way to it.
    LoginUnprotected,
    /// `Ready` is `False`: `spec` refers to a Secret that does not exist.
    SecretMissing,
    /// `Ready` is `False`: a Secret lacks a key.
    SecretIncomplete,
    /// `Ready` is `False`: user or password in a Secret cannot be written into a properties file, or not be sent in a login.
    SecretUnusable,
    /// `Ready` is `False`: the certificate that a gate is to present to probes cannot be used, or its key is another's.
    CertificateUnusable,
    /// `Ready` is `False`: `spec` refers to a ConfigMap that does not exist.
    ConfigMapMissing,
    /// `Ready` is `False`: a ConfigMap lacks a key.
    ConfigMapIncomplete,
    /// `Ready` is `False`: a CA bundle cannot be parsed.
    CaBundleUnusable,
    /// Metric only: the stored object is not a ProxyPair of this version. Its status cannot be written.
    Malformed,
    /// `Ready` is `False`: the spec contradicts itself.
    InvalidSpec,
    /// `Ready` is `False`: the keys for the connections between operator and gates cannot be made or read.
    KeysFailed,
    /// `Ready` is `False`: the API server did not answer in time.
    ApiServerTimeout,
    /// `Ready` is `False`: the API server answered with an error that has no reason of its own here.
    ApiServerError,
    /// Metric only: an object was changed between reading and writing it (HTTP status 409).
    Conflict,
    /// `Ready` is `False`: the operator's role does not allow a call (HTTP status 403).
    Forbidden,
    /// `Ready` is `False`: the API server or an admission webhook rejected a child object (HTTP status 422).
    Rejected,
    /// `Ready` is `False`: the cluster refuses to create the pod of a side.
    PodRefused,
    /// `Ready` is `False`: the operator failed at this pair in a way that it does not provide for.
    InternalError,
    /// `Ready` is `False`: a changed pod template of the operator's waits until other pairs have it.
    UpdateWaiting,
    /// Metric only: this replica lost leadership during a reconciliation.
    NotLeading,
    /// `Ready` is `False`: an object with the name of a child exists and does not belong to the ProxyPair.
    NameTaken,
    /// Event: objects that were made for a ProxyPair of this name, and had no owner any more, belong to this one now.
    Adopted,
    /// Event: the operator deleted a proxy pod whose gate does not respond.
    ProxyPodDeleted,
    /// Event: a switch was given up before it was finished: its target went down, or the ObjectServers fell out of step.
    SwitchWithdrawn,
    /// `Ready` is `False`: a gate rejects a command of the operator.
    CommandRejected,
    /// `Ready` or `Protected` is `False`: a gate that is commanded to accept probes accepts none.
    PortClosed,
    /// `Ready` is `False`: probes stay connected to the side that does not serve for longer than a drain takes.
    ProbesLeftBehind,
    /// Event, and `Ready` is `False` where no node agent resets its sessions: nothing answers for a gate that the traffic has left.
    GateLost,
    /// `Ready` is `False`: the pods of both sides are being deleted at the same time.
    BothTerminating,
    /// `Protected` is `False`: the proxies of both sides, or all of one that has several, run on one node.
    SameNode,
    /// `Protected` is `False`: the operator hears nothing from a gate that another gate sees serving.
    ViewsDiffer,
    /// Event: new connections do not lead to a gate any more; the others of its side go on.
    GateTakenOut,
    /// Event: new connections lead to a gate again.
    GateReturned,
    /// `Protected`, `PrimaryHealthy` and `BackupHealthy` are `Unknown`: nothing watches the pair.
    NotWatched,
    /// `Ready` is `False`: the task that watches the pair has failed.
    WorkerFailed,
    /// Event: a certificate expires within 30 days.
    CertificateExpiring,
    /// Event: a certificate has expired.
    CertificateExpired,
}

/// Every cause, in the order in which they are declared.
const CAUSES: [Cause; 11] = [
    Cause::ProxyMissing,
    Cause::ProxyTerminating,
    Cause::ProxyUnreachable,
    Cause::ProxyUnresponsive,
    Cause::ObjectServerUnreachable,
    Cause::ObjectServerUnresponsive,
    Cause::PathBroken,
    Cause::TlsRejected,
    Cause::LoginRefused,
    Cause::WrongObjectServer,
    Cause::ProtocolError,
];

impl Reason {
    /// Every reason that occurs. Of the switches those that the failover rules can decide: a failback answers no cause,
    /// a switchover only a pod that terminates, and neither a rejected login nor an answer that cannot be decoded leads to a failover.
    pub fn all() -> impl Iterator<Item = Self> {
        let failover = |cause: &Cause| {
            !matches!(
                cause,
                Cause::ProxyTerminating | Cause::LoginRefused | Cause::ProtocolError
            )
        };
        let failovers = CAUSES.into_iter().filter(failover).map(Some).chain([None]);
        Self::PLAIN
            .iter()
            .copied()
            .chain(CAUSES.map(Self::Down))
            .chain(failovers.map(|cause| Self::Switched(SwitchKind::Failover, cause)))
            .chain([
                Self::Switched(SwitchKind::Switchover, Some(Cause::ProxyTerminating)),
                Self::Switched(SwitchKind::Switchover, None),
                Self::Switched(SwitchKind::Failback, None),
            ])
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use schemars::schema_for;
    use serde_json::Value;

    use super::*;

    /// The rows of the table under `## Reasons`: the reasons in the first cell, and the other cells.
    fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
        let text = include_str!("../../docs/failure-modes.md");
        let (_, section) = text.split_once("\n## Reasons\n").expect("a section on reasons");
        let section = section.split("\n## ").next().unwrap_or_default();
        let mut rows = BTreeMap::new();
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let names = cells.next().unwrap_or_default();
            let rest: Vec<_> = cells.collect();
            for name in names.split('`').skip(1).step_by(2) {
                assert_eq!(rows.insert(name, rest.clone()), None, "{name} stands in two rows");
            }
        }
        rows
    }

    #[test]
    fn each_is_documented_and_nothing_else() {
        let documented = documented();
        let written: BTreeSet<_> = Reason::all().map(Reason::as_str).collect();
        assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), written);
        for (reason, cells) in documented {
            assert!(
                cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()),
                "{reason}: {cells:?}"
            );
        }
    }

    #[test]
    fn each_is_a_word_that_kubernetes_takes() {
        let words: Vec<_> = Reason::all().map(Reason::as_str).collect();
        for word in &words {
            assert!(word.starts_with(|first: char| first.is_ascii_uppercase()), "{word}");
            assert!(
                word.len() <= 128 && word.chars().all(|c| c.is_ascii_alphanumeric()),
                "{word}"
            );
        }
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "{words:?}");
    }

    #[test]
    fn every_cause_of_the_schema_is_listed() {
        let schema = serde_json::to_value(schema_for!(Cause)).unwrap();
        let declared: Vec<_> = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variant| variant["const"].clone())
            .collect();
        assert_eq!(declared, CAUSES.map(|cause| Value::from(cause.as_str())));
    }

    #[test]
    fn the_reason_of_a_switch_is_its_kind_and_its_cause() {
        for kind in [SwitchKind::Failover, SwitchKind::Failback, SwitchKind::Switchover] {
            assert_eq!(Reason::Switched(kind, None).as_str(), kind.as_str());
            for cause in CAUSES {
                let expected = format!("{}{}", kind.as_str(), cause.as_str());
                assert_eq!(Reason::Switched(kind, Some(cause)).as_str(), expected);
                assert_eq!(Reason::Down(cause).as_str(), cause.as_str());
            }
        }
    }
}
