//! Who may order the gate about, and what each order changes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::admission::{DrainOrder, Orders, Standing};
use crate::protocol::Request;

/// The longest drain that can be ordered.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an order is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody else leads by now.
    #[error("term {term} of {holder} is over: {highest_holder} has spoken in term {highest}")]
    TermOver {
        /// The term of the connection that gave the order.
        term: u64,
        /// Who gave it.
        holder: String,
        /// The highest term heard of.
        highest: u64,
        /// Who said it.
        highest_holder: String,
    },
    /// A drain that closes nothing would never end.
    #[error("connectionsPerSecond must be at least 1")]
    NoPace,
    /// A drain without a believable end.
    #[error("gracePeriodMs must be at most {} (one day)", LONGEST_DRAIN.as_millis())]
    TooLong,
    /// It is too late to admit anybody.
    #[error("the gate is leaving and has begun its last drain")]
    Leaving,
    /// Not an order, or one from the future.
    #[error("cannot read this request: {0}")]
    Unreadable(String),
    /// A second introduction.
    #[error("Hello is the first line of a connection, and only the first")]
    SecondHello,
}

/// The highest term that this process has heard of.
#[derive(Debug, Default)]
pub struct Terms {
    highest: Mutex<(u64, String)>,
}

impl Terms {
    /// Takes note of who speaks. From now on, lower terms are over.
    pub fn hear(&self, holder: &str, term: u64) {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if term > highest.0 || highest.1.is_empty() {
            *highest = (term, holder.to_owned());
        }
    }

    /// Runs `act` if the term is not over. No higher term can be heard of meanwhile.
    ///
    /// # Errors
    ///
    /// [`Refused::TermOver`], and what `act` returns.
    pub fn act<T>(&self, holder: &str, term: u64, act: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if term < highest.0 {
            let (highest, highest_holder) = highest.clone();
            return Err(Refused::TermOver {
                term,
                holder: holder.to_owned(),
                highest,
                highest_holder,
            });
        }
        act()
    }
}

/// What stands after a request has been followed.
///
/// # Errors
///
/// [`Refused`] when it cannot be followed; what stood before goes on.
pub fn follow(orders: &Orders, request: &Request, now: Instant) -> Result<Standing, Refused> {
    match *request {
        Request::Hello { .. } => Err(Refused::SecondHello),
        Request::Ping { .. } => Ok(orders.standing),
        Request::Admit => match orders.leaving {
            Some(leaving) if leaving.drains_by_itself(now) => Err(Refused::Leaving),
            _ => Ok(Standing::Admit),
        },
        Request::Drain {
            grace_period_ms,
            connections_per_second,
        } => {
            let grace_period = Duration::from_millis(grace_period_ms);
            if connections_per_second == 0 {
                return Err(Refused::NoPace);
            }
            if grace_period > LONGEST_DRAIN {
                return Err(Refused::TooLong);
            }
            Ok(match orders.standing {
                Standing::Drain(same)
                    if same.grace_period == grace_period && same.per_second == connections_per_second =>
                {
                    Standing::Drain(same)
                }
                _ => Standing::Drain(DrainOrder {
                    grace_period,
                    per_second: connections_per_second,
                    deadline: now + grace_period,
                }),
            })
        }
        Request::Drop => Ok(Standing::Drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::admission::Leaving;

    const SECOND: Duration = Duration::from_secs(1);
    const DRAIN: Request = Request::Drain {
        grace_period_ms: 5000,
        connections_per_second: 10,
    };

    #[test]
    fn a_repeated_drain_keeps_its_deadline_and_another_one_sets_a_new_one() {
        let start = Instant::now();
        let mut orders = Orders::NONE;
        orders.standing = follow(&orders, &DRAIN, start).unwrap();
        assert_eq!(follow(&orders, &DRAIN, start + SECOND), Ok(orders.standing));
        let slower = Request::Drain {
            grace_period_ms: 5000,
            connections_per_second: 5,
        };
        let expected = DrainOrder {
            grace_period: 5 * SECOND,
            per_second: 5,
            deadline: start + 6 * SECOND,
        };
        assert_eq!(follow(&orders, &slower, start + SECOND), Ok(Standing::Drain(expected)));
    }

    #[test]
    fn a_drain_after_an_admit_is_a_new_one() {
        let start = Instant::now();
        let mut orders = Orders::NONE;
        for (request, at) in [
            (&DRAIN, start),
            (&Request::Admit, start + SECOND),
            (&DRAIN, start + 2 * SECOND),
        ] {
            orders.standing = follow(&orders, request, at).unwrap();
        }
        let Standing::Drain(drain) = orders.standing else {
            panic!("{orders:?}")
        };
        assert_eq!(drain.deadline, start + 7 * SECOND);
    }

    #[test]
    fn refuses_a_drain_without_a_pace_or_an_end() {
        let now = Instant::now();
        let stopped = Request::Drain {
            grace_period_ms: 1,
            connections_per_second: 0,
        };
        assert_eq!(follow(&Orders::NONE, &stopped, now), Err(Refused::NoPace));
        let endless = Request::Drain {
            grace_period_ms: u64::MAX,
            connections_per_second: 1,
        };
        assert_eq!(follow(&Orders::NONE, &endless, now), Err(Refused::TooLong));
    }

    #[test]
    fn a_leaving_gate_can_be_told_to_admit_only_before_its_last_drain() {
        let now = Instant::now();
        let orders = Orders {
            leaving: Some(Leaving::begin(now, 30 * SECOND, 1)),
            ..Orders::NONE
        };
        assert_eq!(follow(&orders, &Request::Admit, now + 14 * SECOND), Ok(Standing::Admit));
        assert_eq!(
            follow(&orders, &Request::Admit, now + 15 * SECOND),
            Err(Refused::Leaving)
        );
    }

    #[test]
    fn a_lower_term_is_over_as_soon_as_a_higher_one_has_spoken() {
        let terms = Terms::default();
        terms.hear("a", 3);
        assert_eq!(terms.act("a", 3, || Ok(())), Ok(()));
        terms.hear("b", 4);
        terms.hear("a", 3);
        let over = Refused::TermOver {
            term: 3,
            holder: "a".to_owned(),
            highest: 4,
            highest_holder: "b".to_owned(),
        };
        assert_eq!(terms.act("a", 3, || Ok(())), Err(over));
        assert_eq!(terms.act("b", 4, || Ok(())), Ok(()));
    }
}
