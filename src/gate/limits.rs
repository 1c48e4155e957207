//! How many connections a gate may have, from the number of files that its process may open.
//!
//! A session needs two files: the probe's connection and the one to the ObjectServer. If they ran out, completed connections would wait in
//! the kernel's backlog, where a gate looks like a server that hangs.

use std::time::Duration;

use tracing::{info, warn};

use super::{args::GateArgs, lobby::LobbyLimits, session::SessionTimeouts};
use crate::process::file_limit;

/// Files kept for everything but probes: the other ports with all their connections, the watches, the runtime.
const RESERVED: u64 = 192;

/// Most connections that may be waiting for the end of their login.
const MOST_BEFORE_LOGIN: u64 = 1024;

/// Time that a probe has for its login for certain, while others wait for its place.
const LOGIN_KEPT_FOR: Duration = Duration::from_secs(1);

/// The limits of probe sessions.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of sessions at the same time.
    pub sessions: u32,
    /// Connections that have not logged in.
    pub before_login: LobbyLimits,
    /// What may take how long.
    pub timeouts: SessionTimeouts,
    /// Time after which an empty gate that no operator attends to admits again.
    pub lapse_after: Duration,
}

impl Limits {
    /// From the command line and this process's limit of open files, which is logged if it is too low for `--max-sessions`.
    #[must_use]
    pub fn new(args: &GateArgs) -> Self {
        let files = file_limit();
        let Derived { sessions, before_login } = derive(files, args.max_sessions);
        if sessions < args.max_sessions {
            warn!(
                sessions,
                wanted = args.max_sessions,
                open_files = files,
                "the limit of open files (RLIMIT_NOFILE, hard) allows fewer sessions than --max-sessions: raise it in the container runtime"
            );
        }
        info!(sessions, before_login, open_files = files, "limits");
        Self {
            sessions,
            before_login: LobbyLimits {
                places: before_login,
                per_source: (before_login * 3 / 4).max(1),
                kept_for: LOGIN_KEPT_FOR,
            },
            timeouts: SessionTimeouts {
                login: args.login_timeout,
                message: args.message_timeout,
            },
            lapse_after: 2 * args.unresponsive_after,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Derived {
    sessions: u32,
    before_login: usize,
}

/// At most `most` sessions, and as many as fit into so many files.
fn derive(files: u64, most: u32) -> Derived {
    let left = files - RESERVED.min(files / 2);
    let before_login = (left / 8).clamp(1, MOST_BEFORE_LOGIN);
    let sessions = left.saturating_sub(before_login) / 2;
    Derived {
        sessions: u32::try_from(sessions).unwrap_or(u32::MAX).clamp(1, most.max(1)),
        before_login: usize::try_from(before_login).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_into_the_limit_of_open_files() {
        for files in (16..100_000).step_by(7) {
            let Derived { sessions, before_login } = derive(files, u32::MAX);
            let used = 2 * u64::from(sessions) + before_login as u64;
            assert!(used + RESERVED.min(files / 2) <= files, "{files}: {used}");
        }
    }

    #[test]
    fn the_usual_limits_allow_this_many() {
        for (files, sessions, before_login) in [
            (128, 28, 8),
            (1024, 364, 104),
            (524_288, 10_000, 1024),
            (u64::MAX, 10_000, 1024),
        ] {
            assert_eq!(
                derive(files, 10_000),
                Derived { sessions, before_login },
                "{files} files"
            );
        }
    }

    #[test]
    fn the_command_line_can_only_lower_it() {
        assert_eq!(derive(1024, 5).sessions, 5);
        assert_eq!(derive(1024, 9999).sessions, 364);
    }
}
