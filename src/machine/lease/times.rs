//! All times of a lease, from its length.

use std::time::Duration;

use crate::model::Lease;
use crate::text::describe;

/// The times of a lease. All follow from its length, so a record that holds the length tells an observer all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Times {
    /// The length of the lease, as the record holds it.
    pub length: Duration,
    /// From one beat to the next.
    pub beat: Duration,
    /// From the last confirmed beat to the request to stop.
    pub renew: Duration,
    /// From the last confirmed beat to the kill.
    pub kill: Duration,
    /// How long an observer sees the same version before it deletes the lock.
    pub wait: Duration,
}

/// No lease can have this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidLength {
    #[error(
        "a lease of {} is too short: it is renewed every ninth of its length, and Terraform is stopped after half of it, so \
         a store that is slow for a few seconds would stop Terraform\nhint: --lease 3m, or at least 15s", describe(*.0)
    )]
    TooShort(Duration),
    #[error(
        "a lease of {} is too long: the run after a dead one waits longer than that\nhint: --lease 3m, or at most 24h",
        describe(*.0)
    )]
    TooLong(Duration),
}

impl Times {
    /// Shorter leases leave Terraform little time to stop when the store is away.
    const SHORT: Duration = Duration::from_mins(1);
    /// More often is of no use to anybody, and each beat costs a write.
    const LONGEST_BEAT: Duration = Duration::from_secs(20);
    /// What a machine under load and requests under way take, however short the lease.
    const SLACK: Duration = Duration::from_secs(5);

    /// The times of a lease of this length.
    ///
    /// # Errors
    /// When it is shorter or longer than any lease may be.
    pub fn of(length: Duration) -> Result<Self, InvalidLength> {
        match length {
            _ if length < Lease::SHORTEST => Err(InvalidLength::TooShort(length)),
            _ if length > Lease::LONGEST => Err(InvalidLength::TooLong(length)),
            _ => Ok(Self {
                length,
                beat: (length / 9).min(Self::LONGEST_BEAT),
                renew: length / 2,
                kill: length * 5 / 6,
                wait: length + length / 10 + Self::SLACK,
            }),
        }
    }

    /// How long one request of a beat may take. What has not been answered then is unknown.
    pub fn request(self) -> Duration {
        self.beat / 2
    }

    /// Whether it is worth a warning.
    pub fn is_short(self) -> bool {
        self.length < Self::SHORT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lengths() -> impl Strategy<Value = Duration> {
        let millis = prop_oneof![Just(15_000), 15_000_u64..300_000, 15_000_u64..=86_400_000, Just(86_400_000)];
        millis.prop_map(Duration::from_millis)
    }

    proptest! {
        #[test]
        fn the_child_is_dead_before_any_observer_deletes(length in lengths()) {
            let times = Times::of(length).unwrap();
            // The holder's clock is slow by a hundredth, the observer's fast by one.
            let killed = times.kill.mul_f64(1.0 / 0.99);
            let deleted = times.wait.mul_f64(1.0 / 1.01);
            // What is left is for the kill itself and for requests of the dead that are under way.
            prop_assert!(killed + times.length / 5 + Duration::from_secs(4) < deleted, "{times:?}");
        }

        #[test]
        fn a_store_may_fail_three_times_before_terraform_is_stopped(length in lengths()) {
            let times = Times::of(length).unwrap();
            // A beat and a read for each that fails, and the one that succeeds.
            prop_assert!(times.beat * 3 + times.request() * 2 < times.renew, "{times:?}");
            prop_assert!(times.renew < times.kill && times.kill < times.length, "{times:?}");
            prop_assert!(times.request() * 2 <= times.beat, "{times:?}");
        }
    }

    #[test]
    fn the_usual_lease() {
        let times = Times::of(Duration::from_mins(3)).unwrap();
        let seconds = [times.length, times.beat, times.renew, times.kill, times.wait].map(|time| time.as_secs());
        assert_eq!(seconds, [180, 20, 90, 150, 203]);
        assert!(!times.is_short() && Times::of(Duration::from_secs(59)).unwrap().is_short());
    }

    #[test]
    fn other_lengths_are_refused_with_the_reason() {
        let (shortest, longest) = (Lease::SHORTEST, Lease::LONGEST);
        let hair = Duration::from_millis(1);
        assert_eq!(
            Times::of(shortest - hair * 1000).unwrap_err().to_string(),
            "a lease of 14s is too short: it is renewed every ninth of its length, and Terraform is stopped after half of \
             it, so a store that is slow for a few seconds would stop Terraform\nhint: --lease 3m, or at least 15s"
        );
        assert_eq!(Times::of(shortest - hair), Err(InvalidLength::TooShort(shortest - hair)));
        assert_eq!(Times::of(longest + hair), Err(InvalidLength::TooLong(longest + hair)));
        assert_eq!(Times::of(Duration::ZERO), Err(InvalidLength::TooShort(Duration::ZERO)));
        assert_eq!(Times::of(Duration::MAX), Err(InvalidLength::TooLong(Duration::MAX)));
    }
}
