//! Lookups of host names: one for each name at a time, whoever waits for it.
//!
//! The system's resolver blocks a thread, and nothing can end it: with a nameserver that does not answer it takes tens of seconds. So a lookup
//! goes on when those who wait for it have given up, the next one to ask for the same name waits for what is under way instead of starting over,
//! and names that hang take a bounded number of threads.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, watch};

use crate::net::lookup;

/// Most lookups at a time. tokio's pool has 512 threads, which files need too.
const AT_ONCE: usize = 256;

/// What a lookup found; `None` while it is under way.
type Found = Option<Result<Vec<IpAddr>, Arc<io::Error>>>;

/// A resolver, which may block a thread until it answers.
type Resolve = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Lookups by one resolver.
pub(super) struct Lookups {
    resolve: Box<Resolve>,
    under_way: Mutex<HashMap<String, watch::Receiver<Found>>>,
    threads: Semaphore,
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

impl Lookups {
    /// Those by the system's resolver, shared by the whole process.
    pub(super) fn system() -> Arc<Self> {
        static SYSTEM: LazyLock<Arc<Lookups>> = LazyLock::new(|| Lookups::by(AT_ONCE, |host| lookup(host).boxed()));
        Arc::clone(&SYSTEM)
    }

    /// Those by `resolve`, at most `at_once` at a time.
    pub(super) fn by(
        at_once: usize,
        resolve: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            resolve: Box::new(resolve),
            under_way: Mutex::default(),
            threads: Semaphore::new(at_once),
        })
    }

    /// Those by a `resolve` that blocks.
    #[cfg(test)]
    pub(super) fn blocking(
        at_once: usize,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let resolve = Arc::new(resolve);
        Self::by(at_once, move |host| {
            let resolve = Arc::clone(&resolve);
            let found = tokio::task::spawn_blocking(move || resolve(&host));
            found
                .map(|found| found.unwrap_or_else(|error| Err(io::Error::other(error))))
                .boxed()
        })
    }

    /// The addresses of `host`, without a time limit. Safe to cancel: the lookup goes on.
    ///
    /// # Errors
    ///
    /// The resolver's, whose text or errno says more than its kind.
    pub(super) async fn addresses(self: &Arc<Self>, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let with_port = |ip: &IpAddr| SocketAddr::new(*ip, port);
        if let Ok(ip) = host.parse() {
            return Ok(vec![with_port(&ip)]);
        }
        loop {
            let mut lookup = self.join(host);
            // It ends without a result only with the runtime that it runs on.
            let Ok(found) = lookup.wait_for(Option::is_some).await else {
                continue;
            };
            return match found.as_ref() {
                Some(Ok(addresses)) => Ok(addresses.iter().map(with_port).collect()),
                Some(Err(error)) => Err(copy(error)),
                None => continue,
            };
        }
    }

    /// The lookup of `host` that is under way, or a new one.
    fn join(self: &Arc<Self>, host: &str) -> watch::Receiver<Found> {
        let mut under_way = self.under_way();
        if let Some(lookup) = under_way.get(host) {
            return lookup.clone();
        }
        let (found, lookup) = watch::channel(None);
        under_way.insert(host.to_owned(), lookup.clone());
        let ends = Ends {
            lookups: Arc::clone(self),
            host: host.to_owned(),
        };
        tokio::spawn(async move {
            let result = ends.look_up().await;
            // Taken out before the result is seen: who asks afterwards gets a new lookup.
            drop(ends);
            found.send_replace(Some(result.map_err(Arc::new)));
        });
        lookup
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Found>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup under way. It is taken out of the list when it ends, in whatever way.
struct Ends {
    lookups: Arc<Lookups>,
    host: String,
}

impl Ends {
    async fn look_up(&self) -> io::Result<Vec<IpAddr>> {
        let _thread = self.lookups.threads.acquire().await;
        (self.lookups.resolve)(self.host.clone()).await
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.lookups.under_way().remove(&self.host);
    }
}

/// The same error once more: errno, or kind and text.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A resolver that answers when it is told to, and the number of lookups that it has begun.
    fn resolver(at_once: usize) -> (Arc<Lookups>, mpsc::Sender<io::Result<Vec<IpAddr>>>, Arc<AtomicUsize>) {
        let (answer, answers) = mpsc::channel();
        let (answers, begun) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let lookups = Lookups::blocking(at_once, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            answers.lock().unwrap().recv().unwrap()
        });
        (lookups, answer, begun)
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        let lookups = Lookups::blocking(1, |host| panic!("looked up {host}"));
        for address in ["127.0.0.1", "::1"] {
            let found = lookups.addresses(address, 4100).await.unwrap();
            assert_eq!(found, [SocketAddr::new(address.parse().unwrap(), 4100)]);
        }
    }

    #[tokio::test]
    async fn a_lookup_goes_on_when_nobody_waits_and_the_next_one_to_ask_gets_its_result() {
        let (lookups, answer, begun) = resolver(8);
        for _ in 0..3 {
            let given_up = timeout(Duration::from_millis(20), lookups.addresses("agg-p", 1)).await;
            assert!(given_up.is_err());
        }
        let waiting: Vec<_> = (0..5)
            .map(|port| {
                let lookups = Arc::clone(&lookups);
                tokio::spawn(async move { lookups.addresses("agg-p", port).await })
            })
            .collect();
        tokio::task::yield_now().await;
        answer.send(Ok(vec![HERE])).unwrap();
        for (port, found) in (0..).zip(waiting) {
            let found = timeout(DEADLINE, found).await.unwrap().unwrap().unwrap();
            assert_eq!(found, [SocketAddr::new(HERE, port)]);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);

        // What was found is not kept.
        answer.send(Err(io::Error::other("no such name"))).unwrap();
        let error = timeout(DEADLINE, lookups.addresses("agg-p", 1))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn names_that_hang_take_no_more_threads_than_allowed() {
        let (lookups, answer, begun) = resolver(2);
        let waiting: Vec<_> = (0..6)
            .map(|number| {
                let lookups = Arc::clone(&lookups);
                tokio::spawn(async move { lookups.addresses(&format!("host-{number}"), 1).await })
            })
            .collect();
        let all_threads = async {
            while begun.load(Ordering::SeqCst) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, all_threads).await.unwrap();
        assert_eq!(lookups.threads.available_permits(), 0);
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        for _ in 0..6 {
            answer.send(Ok(vec![HERE])).unwrap();
        }
        for found in waiting {
            timeout(DEADLINE, found).await.unwrap().unwrap().unwrap();
        }
        assert!(lookups.under_way().is_empty());
    }

    #[test]
    fn a_lookup_that_ends_with_its_runtime_is_made_again_on_the_next() {
        let (lookups, answer, _) = resolver(8);
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let first = runtime();
        first.block_on(async {
            let given_up = timeout(Duration::from_millis(20), lookups.addresses("agg-p", 1)).await;
            assert!(given_up.is_err());
        });
        first.shutdown_background();
        answer.send(Ok(vec![HERE])).unwrap();
        answer.send(Ok(vec![HERE])).unwrap();
        let found = runtime().block_on(async { timeout(DEADLINE, lookups.addresses("agg-p", 1)).await });
        assert_eq!(found.unwrap().unwrap(), [SocketAddr::new(HERE, 1)]);
    }

    #[test]
    fn an_error_keeps_its_errno_and_its_words() {
        let error = copy(&io::Error::from_raw_os_error(24));
        assert_eq!(error.raw_os_error(), Some(24));
        let error = copy(&io::Error::other(
            "failed to lookup address information: Name or service not known",
        ));
        assert!(error.to_string().ends_with("Name or service not known"));
    }
}
