//! Places for connections that have not yet shown who they are: TLS handshakes on the operator's ports, logins on the port for probes.
//!
//! Strangers can hold such places for as long as the time limits allow. Therefore there are few, one source gets only part of them, and when
//! they are taken a newcomer gets the place of the oldest: first of its own source, else of the source that has most. A connection that has
//! just come is not evicted, or nobody would ever get through.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How often a newcomer that waits for a place looks whether one can be evicted.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A limited number of places.
#[derive(Debug)]
pub struct Lobby {
    limits: LobbyLimits,
    guests: Mutex<Guests>,
    freed: Notify,
}

/// What a [`Lobby`] allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LobbyLimits {
    /// Number of places.
    pub places: usize,
    /// Number of places for one source address.
    pub per_source: usize,
    /// Time for which a connection keeps its place for certain.
    pub kept_for: Duration,
}

#[derive(Debug, Default)]
struct Guests {
    last_id: u64,
    /// In order of arrival.
    present: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    id: u64,
    source: IpAddr,
    since: Instant,
    evicted: CancellationToken,
}

/// Why there is no place for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Its source has as many as it may have, and all have just come.
    #[error("{0} connections from the same address have not shown yet who they are")]
    Source(usize),
    /// All places are taken by connections that have just come.
    #[error("{0} connections have not shown yet who they are")]
    All(usize),
}

impl Lobby {
    /// With all places free.
    #[must_use]
    pub fn new(limits: LobbyLimits) -> Self {
        Self {
            limits,
            guests: Mutex::default(),
            freed: Notify::const_new(),
        }
    }

    /// Takes a place, if need be that of an older connection.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is none that may be evicted.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Guest, Full> {
        let LobbyLimits {
            places,
            per_source,
            kept_for,
        } = self.limits;
        let source = source.to_canonical();
        let now = Instant::now();
        let mut guests = self.guests();
        if guests.of(source) >= per_source && !guests.evict(source, now, kept_for) {
            return Err(Full::Source(per_source));
        }
        if guests.present.len() >= places
            && !guests
                .busiest()
                .is_some_and(|busiest| guests.evict(busiest, now, kept_for))
        {
            return Err(Full::All(places));
        }
        guests.last_id += 1;
        let (id, evicted) = (guests.last_id, CancellationToken::new());
        guests.present.push(Place {
            id,
            source,
            since: now,
            evicted: evicted.clone(),
        });
        drop(guests);
        Ok(Guest {
            id,
            evicted,
            lobby: Arc::clone(self),
        })
    }

    /// The same, but waits while all places are taken by connections that have just come.
    ///
    /// # Errors
    ///
    /// [`Full::Source`].
    pub async fn enter_when_free(self: &Arc<Self>, source: IpAddr) -> Result<Guest, Full> {
        loop {
            match self.enter(source) {
                Err(Full::All(_)) => tokio::select! {
                    () = self.freed.notified() => {}
                    () = sleep(LOOK_EVERY) => {}
                },
                entered => return entered,
            }
        }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn of(&self, source: IpAddr) -> usize {
        self.present.iter().filter(|place| place.source == source).count()
    }

    fn busiest(&self) -> Option<IpAddr> {
        let mut counts = HashMap::<_, usize>::new();
        for place in &self.present {
            *counts.entry(place.source).or_default() += 1;
        }
        counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(source, _)| source)
    }

    /// Evicts the oldest connection of a source, if it has had its time.
    fn evict(&mut self, source: IpAddr, now: Instant, kept_for: Duration) -> bool {
        let oldest = self.present.iter().position(|place| place.source == source);
        let Some(oldest) = oldest.filter(|oldest| now >= self.present[*oldest].since + kept_for) else {
            return false;
        };
        self.present.remove(oldest).evicted.cancel();
        true
    }
}

/// A place in a [`Lobby`], until this is dropped.
#[derive(Debug)]
pub struct Guest {
    id: u64,
    evicted: CancellationToken,
    lobby: Arc<Lobby>,
}

impl Guest {
    /// Waits until another connection has been given the place.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.guests().present.retain(|place| place.id != self.id);
        self.lobby.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lobby() -> Arc<Lobby> {
        Arc::new(Lobby::new(LobbyLimits {
            places: 4,
            per_source: 3,
            kept_for: SECOND,
        }))
    }

    fn source(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn is_evicted(guest: &Guest) -> bool {
        guest.evicted.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_cannot_take_every_place() {
        let lobby = lobby();
        let held: Vec<_> = (0..3).map(|_| lobby.enter(source(1)).unwrap()).collect();
        assert_eq!(lobby.enter(source(1)).unwrap_err(), Full::Source(3));
        lobby.enter(source(2)).unwrap();
        assert!(!held.iter().any(is_evicted));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_same_source_makes_room_once_it_has_had_its_time() {
        let lobby = lobby();
        let held: Vec<_> = (0..3).map(|_| lobby.enter(source(1)).unwrap()).collect();
        sleep(SECOND).await;
        let newcomer = lobby.enter(source(1)).unwrap();
        assert_eq!(held.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_evicted(&newcomer));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_source_with_most_makes_room() {
        let lobby = lobby();
        let single = lobby.enter(source(1)).unwrap();
        let most: Vec<_> = (0..3).map(|_| lobby.enter(source(2)).unwrap()).collect();
        assert_eq!(lobby.enter(source(3)).unwrap_err(), Full::All(4));
        let waiting = lobby.enter_when_free(source(3));
        let newcomer = timeout(2 * SECOND, waiting).await.unwrap().unwrap();
        assert!(is_evicted(&most[0]) && !is_evicted(&single) && !is_evicted(&newcomer));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_when_its_guest_has_left() {
        let lobby = lobby();
        for _ in 0..100 {
            let _guest = lobby.enter(source(1)).unwrap();
        }
        assert!(lobby.guests().present.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_mapped_ipv4_address_is_the_same_source() {
        let lobby = lobby();
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let _held: Vec<_> = (0..3).map(|_| lobby.enter(mapped).unwrap()).collect();
        assert_eq!(lobby.enter(source(1)).unwrap_err(), Full::Source(3));
    }
}
