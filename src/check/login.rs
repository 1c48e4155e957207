//! The operator's login to an ObjectServer: its identity, and how often it may try. Repeated failed logins can disable the account, so one
//! rejection stops the attempts of both checks of a side for minutes. An answer that cannot be decoded stops those of the check that got it:
//! each login leaves a row in `alerts.status`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::link::Failure;
use crate::domain::evidence::Fault;

/// How the operator's sessions appear in `catalog.connections`: a fixed name, so that a site can keep them out of its event list.
///
/// `alerts.application_types` finds the row for a session by regular expression, and the first that matches counts. OMNIbus comes with one
/// for all names that begin with PROXY, which makes each disconnect a critical event.
pub const APPLICATION: &str = "PAIRCHECK";

/// Time without an attempt after the first rejection; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(60);
/// Longest time without an attempt.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// A user and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AuthUserName` in the Secret.
    pub user: String,
    /// `AuthPassword` in the Secret.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What the checks of one side need to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The operator's account at the ObjectServer.
    pub credentials: Arc<Credentials>,
    /// The password may be sent in clear text: the connection is encrypted, or the user allows it.
    pub allow_plaintext: bool,
    /// The name by which the ObjectServer must identify itself.
    pub object_server: String,
    /// Name of the proxy server behind the gate, if there is one: on the path its name is accepted too.
    pub proxy: Option<String>,
    /// Whether the direct check asks for gateway sessions too. A change makes it ask at once.
    pub gateways: watch::Receiver<bool>,
    /// Shared by the checks that log in with these credentials to this ObjectServer.
    pub refusals: Arc<Refusals>,
    /// Answers that this check could not decode.
    pub undecodable: Arc<Refusals>,
}

impl Login {
    /// Why no login may be tried at `now`.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refusal> {
        self.refusals.current(now).or_else(|| self.undecodable.current(now))
    }
}

/// Logins that led to nothing, at one ObjectServer with one set of credentials.
#[derive(Debug, Default)]
pub struct Refusals {
    last: Mutex<Option<Refusal>>,
    turn: tokio::sync::Mutex<()>,
}

/// A login that led to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When the next attempt may be made.
    pub until: Instant,
    /// What was wrong.
    pub fault: Fault,
    /// The server's message, or what cannot be decoded in its answer.
    pub message: String,
    /// When it came.
    at: Instant,
    backoff: Duration,
}

impl Refusal {
    pub(super) fn failure(&self) -> Failure {
        Failure::fault(self.fault, &self.message)
    }
}

impl Refusals {
    /// Waits for the turn to log in. Checks log in one after the other, so that a rejection of the first spares the second an attempt.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The rejection because of which no login may be tried at `now`.
    pub fn current(&self, now: Instant) -> Option<Refusal> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().filter(|refusal| refusal.until > now)
    }

    /// A login that began at `began` was rejected at `now` with the server's `message`. Returns whether it is the first in a row.
    ///
    /// One that began before the last rejection came belongs to the same round, and does not double the time.
    pub fn refused(&self, fault: Fault, message: String, began: Instant, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let backoff = match last.as_ref() {
            None => FIRST_BACKOFF,
            Some(earlier) if began < earlier.at => earlier.backoff,
            Some(earlier) => (earlier.backoff * 2).min(LONGEST_BACKOFF),
        };
        let is_first = last.is_none();
        *last = Some(Refusal {
            until: now + backoff,
            fault,
            message,
            at: now,
            backoff,
        });
        is_first
    }

    /// A login was accepted: the next rejection counts as the first again.
    pub fn accepted(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rejection_in_a_row_doubles_the_time_without_an_attempt() {
        let refusals = Refusals::default();
        let mut now = Instant::now();
        assert_eq!(refusals.current(now), None);
        for minutes in [1, 2, 4, 8, 15, 15] {
            let is_first = refusals.refused(Fault::Login, "no".to_owned(), now, now);
            assert_eq!(is_first, minutes == 1);
            let refusal = refusals.current(now).unwrap();
            assert_eq!(refusal.until, now + Duration::from_secs(60 * minutes));
            now = refusal.until;
            assert_eq!(refusals.current(now), None);
        }
        refusals.accepted();
        refusals.refused(Fault::Login, "no".to_owned(), now, now);
        assert_eq!(refusals.current(now).unwrap().until, now + FIRST_BACKOFF);
    }

    #[test]
    fn two_logins_at_the_same_time_are_one_round() {
        let refusals = Refusals::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(refusals.refused(Fault::Login, "no".to_owned(), began, at(2)));
        assert!(!refusals.refused(Fault::Login, "no".to_owned(), at(1), at(3)));
        assert_eq!(refusals.current(at(3)).unwrap().until, at(3) + FIRST_BACKOFF);
        refusals.refused(Fault::Login, "no".to_owned(), at(63), at(65));
        assert_eq!(refusals.current(at(65)).unwrap().until, at(65) + FIRST_BACKOFF * 2);
    }

    #[test]
    fn a_login_that_may_be_tried_can_be_written() {
        use crate::{
            domain::references::{CHECK_PASSWORD_MAX, CHECK_USER_MAX},
            tds::login::{NAME_MAX, PASSWORD_MAX},
        };
        assert_eq!((CHECK_USER_MAX, CHECK_PASSWORD_MAX), (NAME_MAX, PASSWORD_MAX));
    }

    #[test]
    fn no_row_that_omnibus_comes_with_is_about_the_check() {
        for taken in ["PROBE", "PROXY", "GATEWAY", "MONITOR"] {
            assert!(!APPLICATION.contains(taken), "{APPLICATION} is taken for a {taken}");
        }
    }

    #[test]
    fn the_row_that_keeps_the_check_out_of_the_event_list_is_documented_with_its_name() {
        let row = format!("'^{APPLICATION}$'");
        let documents = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        let mut texts = documents.map(|document| std::fs::read_to_string(document.unwrap().path()).unwrap());
        assert!(texts.any(|text| text.contains(&row)), "no document has {row}");
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
