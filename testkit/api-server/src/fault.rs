//! What the server does to a request instead of answering it at once.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use crate::request::{Request, Verb};

type Hook = dyn FnMut(&Request) + Send;

/// What happens to one request.
#[derive(Clone)]
pub enum Fault {
    /// It is carried out at once, and answered so much later.
    SlowAnswer(Duration),
    /// It is carried out and answered so much later, even if the client no longer waits.
    SlowRequest(Duration),
    /// It is not carried out, and never answered.
    SilenceBefore,
    /// It is carried out, and never answered.
    SilenceAfter,
    /// It is not carried out, and the connection breaks.
    DisconnectBefore,
    /// It is carried out, and the connection breaks before the answer.
    DisconnectAfter,
    /// It is not carried out, and refused.
    Refuse {
        /// HTTP status, 400 or more.
        code: u16,
        /// Value of the header `Retry-After` and of `details.retryAfterSeconds`, if any.
        retry_after: Option<u32>,
    },
    /// It waits until the [`Release`] that came with it lets it go; see [`Fault::held`].
    Held(Held),
    /// Code that runs before it is carried out; see [`Fault::hook`].
    Hook(SharedHook),
}

impl Fault {
    /// Refuses with this HTTP status.
    pub const fn status(code: u16) -> Self {
        Self::Refuse {
            code,
            retry_after: None,
        }
    }

    /// Refuses with status 429 and this `Retry-After`, in seconds.
    pub const fn too_many_requests(seconds: u32) -> Self {
        Self::Refuse {
            code: 429,
            retry_after: Some(seconds),
        }
    }

    /// Runs `code` before the request is carried out, such as the write of somebody else. The request goes on after it.
    pub fn hook(code: impl FnMut(&Request) + Send + 'static) -> Self {
        Self::Hook(SharedHook(Arc::new(Mutex::new(code))))
    }

    /// Holds the request until it is released, then carries it out, even if the client no longer waits.
    pub fn held() -> (Self, Release) {
        let (release, released) = watch::channel(false);
        (Self::Held(Held(released)), Release(release))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlowAnswer(delay) => write!(f, "SlowAnswer({delay:?})"),
            Self::SlowRequest(delay) => write!(f, "SlowRequest({delay:?})"),
            Self::SilenceBefore => f.write_str("SilenceBefore"),
            Self::SilenceAfter => f.write_str("SilenceAfter"),
            Self::DisconnectBefore => f.write_str("DisconnectBefore"),
            Self::DisconnectAfter => f.write_str("DisconnectAfter"),
            Self::Refuse { code, .. } => write!(f, "Refuse({code})"),
            Self::Held(_) => f.write_str("Held"),
            Self::Hook(_) => f.write_str("Hook"),
        }
    }
}

/// The request's end of a [`Release`].
#[derive(Clone)]
pub struct Held(watch::Receiver<bool>);

impl Held {
    pub(crate) async fn released(mut self) {
        // A `Release` that was dropped lets go, too.
        let _ = self.0.wait_for(|released| *released).await;
    }
}

/// Lets go the requests that a [`Fault::held`] holds, and those that it would hold. Dropping it does the same.
#[derive(Debug)]
pub struct Release(watch::Sender<bool>);

impl Release {
    /// Lets go.
    pub fn release(self) {
        self.0.send_replace(true);
    }
}

/// The code of a [`Fault::hook`].
#[derive(Clone)]
pub struct SharedHook(Arc<Mutex<Hook>>);

impl SharedHook {
    pub(crate) fn run(&self, request: &Request) {
        let mut hook = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        hook(request);
    }
}

/// Which requests are meant, and which occurrences of them: the next one, unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Match {
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
    occurrences: (usize, usize),
}

impl Match {
    /// Every request.
    pub const fn any() -> Self {
        Self {
            verb: None,
            resource: None,
            subresource: None,
            name: None,
            occurrences: (1, 1),
        }
    }

    /// Requests of one verb for one resource, by its plural name, and for its subresources.
    pub fn new(verb: Verb, resource: &str) -> Self {
        Self::any().verb(verb).resource(resource)
    }

    /// Of this verb alone.
    #[must_use]
    pub const fn verb(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// For this resource alone, by its plural name.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// For this subresource alone; an empty name means the object itself.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// For objects of this name alone.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The `n`th from now on alone, counted from 1.
    #[must_use]
    pub const fn nth(mut self, n: usize) -> Self {
        self.occurrences = (n, n);
        self
    }

    /// The `n`th from now on, counted from 1, and each one after it.
    #[must_use]
    pub const fn from_nth(mut self, n: usize) -> Self {
        self.occurrences = (n, usize::MAX);
        self
    }

    /// Each one from now on.
    #[must_use]
    pub const fn always(self) -> Self {
        self.from_nth(1)
    }

    /// Whether a request is meant, whichever occurrence it is.
    pub fn matches(&self, request: &Request) -> bool {
        let name = request
            .name
            .as_deref()
            .or_else(|| request.body["metadata"]["name"].as_str());
        self.verb.is_none_or(|verb| verb == request.verb)
            && self
                .resource
                .as_ref()
                .is_none_or(|resource| *resource == request.resource)
            && self.name.as_deref().is_none_or(|wanted| Some(wanted) == name)
            && self
                .subresource
                .as_deref()
                .is_none_or(|wanted| wanted == request.subresource.as_deref().unwrap_or_default())
    }
}

/// One line of the script.
#[derive(Debug)]
pub(crate) struct Rule {
    meant: Match,
    fault: Fault,
    matched: usize,
}

impl Rule {
    pub(crate) const fn new(meant: Match, fault: Fault) -> Self {
        Self {
            meant,
            fault,
            matched: 0,
        }
    }

    /// Counts a request, and returns what happens to it.
    pub(crate) fn meet(&mut self, request: &Request) -> Option<Fault> {
        if !self.meant.matches(request) {
            return None;
        }
        self.matched += 1;
        let (first, last) = self.meant.occurrences;
        (first..=last).contains(&self.matched).then(|| self.fault.clone())
    }
}
