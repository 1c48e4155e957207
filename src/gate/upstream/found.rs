//! What a watch has found out.

use tracing::{info, warn};

use crate::protocol::{UnreachableCause, Upstream};

/// What a watch has found out about its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whether new connections can be made.
    pub upstream: Upstream,
    /// Only if they cannot: whether connections that exist still work.
    pub keeps_sessions: bool,
}

impl Found {
    /// New connections can be made.
    pub const REACHABLE: Self = Self {
        upstream: Upstream::Reachable,
        keeps_sessions: false,
    };

    /// New connections cannot be made.
    #[must_use]
    pub const fn unreachable(cause: UnreachableCause, message: String, keeps_sessions: bool) -> Self {
        Self {
            upstream: Upstream::Unreachable { cause, message },
            keeps_sessions,
        }
    }

    fn is_reachable(&self) -> bool {
        self.upstream == Upstream::Reachable
    }

    /// Whether existing sessions work as far as this server is concerned.
    fn serves_existing(&self) -> bool {
        self.is_reachable() || self.keeps_sessions
    }
}

/// The result for the whole route to the ObjectServer, through the proxy server if there is one. If both are unreachable, that of the
/// ObjectServer. Existing sessions stay only if they work all the way.
#[must_use]
pub fn combine(object_server: &Found, proxy: Option<&Found>) -> Found {
    let serves_existing = object_server.serves_existing() && proxy.is_none_or(Found::serves_existing);
    let (cause, message) = match (&object_server.upstream, proxy.map(|proxy| &proxy.upstream)) {
        (Upstream::Unreachable { cause, message }, _) => (*cause, message.clone()),
        (Upstream::Reachable, Some(Upstream::Unreachable { cause, message })) => (
            match cause {
                UnreachableCause::Untried => UnreachableCause::Untried,
                _ => UnreachableCause::ProxyUnreachable,
            },
            format!("the proxy server: {message}"),
        ),
        (Upstream::Reachable, Some(Upstream::Reachable) | None) => return Found::REACHABLE,
    };
    Found::unreachable(cause, message, serves_existing)
}

/// Logs a change of the combined result.
pub fn log_change(found: &Found) {
    let keeps_sessions = found.keeps_sessions;
    match &found.upstream {
        Upstream::Reachable => info!("ObjectServer reachable"),
        Upstream::Unreachable {
            cause: cause @ UnreachableCause::ProxyUnreachable,
            message,
        } => warn!(?cause, message, keeps_sessions, "proxy server unreachable"),
        Upstream::Unreachable { cause, message } => warn!(?cause, message, keeps_sessions, "ObjectServer unreachable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(cause: UnreachableCause, keeps_sessions: bool) -> Found {
        Found::unreachable(cause, "gone".to_owned(), keeps_sessions)
    }

    #[test]
    fn reports_the_proxy_server_only_if_the_objectserver_is_reachable() {
        let (refused, here) = (unreachable(UnreachableCause::Refused, false), Found::REACHABLE);
        for proxy in [None, Some(&here), Some(&refused)] {
            assert_eq!(combine(&refused, proxy), refused);
        }
        assert_eq!(combine(&here, None), here);
        assert_eq!(combine(&here, Some(&here)), here);
        let through_proxy = |cause| combine(&here, Some(&unreachable(cause, false))).upstream;
        assert_eq!(
            through_proxy(UnreachableCause::Refused),
            Upstream::Unreachable {
                cause: UnreachableCause::ProxyUnreachable,
                message: "the proxy server: gone".to_owned()
            }
        );
        assert!(matches!(
            through_proxy(UnreachableCause::Untried),
            Upstream::Unreachable {
                cause: UnreachableCause::Untried,
                ..
            }
        ));
    }

    #[test]
    fn sessions_stay_only_if_they_work_all_the_way() {
        let (closed, refusing) = (
            unreachable(UnreachableCause::Refused, false),
            unreachable(UnreachableCause::Refused, true),
        );
        for (object_server, proxy, keeps) in [
            (&refusing, None, true),
            (&refusing, Some(&Found::REACHABLE), true),
            (&Found::REACHABLE, Some(&refusing), true),
            (&refusing, Some(&closed), false),
            (&closed, Some(&refusing), false),
        ] {
            assert_eq!(
                combine(object_server, proxy).keeps_sessions,
                keeps,
                "{object_server:?} {proxy:?}"
            );
        }
    }
}
