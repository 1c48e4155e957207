//! The operator's login to an ObjectServer: who it is, and how often it may try. Repeated failed logins can disable the account, so a
//! refusal ends all attempts of both eyes of a side for minutes.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// How the operator's sessions appear in `catalog.connections`: a fixed name, so that a site can keep them out of its event list.
///
/// `alerts.application_types` finds the row for a session by regular expression, and the first that matches counts. OMNIbus comes with one
/// for all names that begin with PROXY, which makes each disconnect a critical event.
pub const APPLICATION: &str = "PAIRCHECK";

/// Time without an attempt after the first refusal; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(60);
/// Longest time without an attempt.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// A user and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AuthUserName`.
    pub user: String,
    /// `AuthPassword`.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Everything that the eyes of one side need to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who.
    pub credentials: Arc<Credentials>,
    /// The password may travel in the clear: the way is encrypted, or the user allows it.
    pub allow_plaintext: bool,
    /// The name that the ObjectServer must say.
    pub object_server: String,
    /// Another name that the server may say which the path leads to: that of the proxy server behind the gate.
    pub proxy: Option<String>,
    /// Whether to ask for gateways too.
    pub gateways: watch::Receiver<bool>,
    /// What both eyes of the side know of refusals.
    pub refusals: Arc<Refusals>,
}

/// What is known of refused logins at one ObjectServer with one set of credentials.
#[derive(Debug, Default)]
pub struct Refusals {
    standing: Mutex<Option<Refusal>>,
    turn: tokio::sync::Mutex<()>,
}

/// A refusal that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When the next attempt may be made.
    pub until: Instant,
    /// In the server's words.
    pub message: String,
    backoff: Duration,
}

impl Refusals {
    /// Waits for the turn to log in. One eye after the other: the second is spared what the first has learned.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The refusal because of which no login may be tried at `now`.
    pub fn standing(&self, now: Instant) -> Option<Refusal> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.clone().filter(|refusal| refusal.until > now)
    }

    /// A login was refused at `now`.
    pub fn refused(&self, message: String, now: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let backoff = standing
            .as_ref()
            .map_or(FIRST_BACKOFF, |earlier| (earlier.backoff * 2).min(LONGEST_BACKOFF));
        *standing = Some(Refusal {
            until: now + backoff,
            message,
            backoff,
        });
    }

    /// A login was accepted.
    pub fn accepted(&self) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_in_a_row_doubles_the_time_without_an_attempt() {
        let refusals = Refusals::default();
        let mut now = Instant::now();
        assert_eq!(refusals.standing(now), None);
        for minutes in [1, 2, 4, 8, 15, 15] {
            refusals.refused("no".to_owned(), now);
            let standing = refusals.standing(now).unwrap();
            assert_eq!(standing.until, now + Duration::from_secs(60 * minutes));
            now = standing.until;
            assert_eq!(refusals.standing(now), None);
        }
        refusals.accepted();
        refusals.refused("no".to_owned(), now);
        assert_eq!(refusals.standing(now).unwrap().until, now + FIRST_BACKOFF);
    }

    #[test]
    fn no_row_that_omnibus_comes_with_is_about_the_check() {
        for taken in ["PROBE", "PROXY", "GATEWAY", "MONITOR"] {
            assert!(!APPLICATION.contains(taken), "{APPLICATION} is taken for a {taken}");
        }
    }

    #[test]
    fn the_row_that_keeps_the_check_out_of_the_event_list_is_documented_with_its_name() {
        let document = include_str!("../../docs/migrating-from-ibm-docs.md");
        assert!(document.contains(&format!("'^{APPLICATION}$'")));
    }

    #[test]
    fn a_password_is_never_printed() {
        let credentials = Credentials {
            user: "check".to_owned(),
            password: "secret".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
