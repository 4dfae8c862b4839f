//! The release against a model of a store and of the world around it, under a clock that only the test moves: every
//! sequence of answers up to a depth.

use std::sync::Mutex;

use super::*;
use crate::model::{LockInfo, LockKinds};

const BUDGET: Duration = Duration::from_secs(30);

/// What holds the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Ours,
    Other,
}

/// How the store treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Serve,
    /// Carries it out, and never answers.
    ServeInSilence,
    Swallow,
    /// Carries it out, and says it failed.
    Fail,
    Throttle,
    Deny,
}

const TREATMENTS: [Treatment; 6] = [
    Treatment::Serve,
    Treatment::ServeInSilence,
    Treatment::Swallow,
    Treatment::Fail,
    Treatment::Throttle,
    Treatment::Deny,
];

impl Treatment {
    fn is_silent(self) -> bool {
        matches!(self, Self::ServeInSilence | Self::Swallow)
    }
}

/// What happens by itself, and how long after the release began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The dead child's request for the lock lands; it is conditional.
    LockLands,
    /// The dead child's delete lands; it is not.
    UnlockLands,
}

#[derive(Debug, Clone)]
struct World {
    holder: Holder,
    events: Vec<(Duration, Event)>,
    treatments: Vec<Treatment>,
    /// Another run takes the lock as soon as it is free.
    other_waits: bool,
    other_was_hit: bool,
    deletes: usize,
}

impl World {
    fn pass_to(&mut self, elapsed: Duration) {
        while let Some((_, event)) = self.events.first().copied().filter(|(at, _)| *at <= elapsed) {
            self.events.remove(0);
            match (event, self.holder) {
                (Event::LockLands, Holder::Nobody) => self.holder = Holder::Ours,
                (Event::LockLands, _) => {}
                (Event::UnlockLands, holder) => {
                    self.other_was_hit |= holder == Holder::Other;
                    self.free();
                }
            }
        }
    }

    fn free(&mut self) {
        self.holder = if self.other_waits { Holder::Other } else { Holder::Nobody };
    }
}

struct Scripted {
    world: Mutex<World>,
    start: Instant,
}

impl Scripted {
    fn new(world: World) -> Self {
        Self { world: Mutex::new(world), start: Instant::now() }
    }

    /// A request arrives: who holds the place, and how the request is treated.
    fn arrive(&self, delete: bool) -> (Holder, Treatment) {
        let mut world = self.world.lock().unwrap();
        world.pass_to(self.start.elapsed());
        let treatment = if world.treatments.is_empty() { Treatment::Serve } else { world.treatments.remove(0) };
        let holder = world.holder;
        if delete {
            world.deletes += 1;
            let served = matches!(treatment, Treatment::Serve | Treatment::ServeInSilence | Treatment::Fail);
            if served && holder == Holder::Ours {
                world.free();
            }
        }
        (holder, treatment)
    }
}

async fn treat<T>(treatment: Treatment, answer: T) -> Result<T, StoreError> {
    let detail = String::new();
    match treatment {
        Treatment::Serve => Ok(answer),
        Treatment::ServeInSilence | Treatment::Swallow => std::future::pending().await,
        Treatment::Fail => Err(StoreError::ServiceFailed(detail)),
        Treatment::Throttle => Err(StoreError::Throttled(detail)),
        Treatment::Deny => Err(StoreError::Denied { action: "dynamodb:DeleteItem", detail }),
    }
}

impl Scripted {
    async fn delete(&self) -> Result<Claimed<()>, StoreError> {
        let (holder, treatment) = self.arrive(true);
        let answer = match holder {
            Holder::Nobody => Err(NotClaimed::NotThere(None)),
            Holder::Ours => Ok(()),
            Holder::Other => Err(NotClaimed::NotThere(Some(lock("other")))),
        };
        treat(treatment, answer).await
    }

    async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        let (holder, treatment) = self.arrive(false);
        let found = match holder {
            Holder::Nobody => None,
            Holder::Ours => Some(lock(claim().id.as_str())),
            Holder::Other => Some(lock("other")),
        };
        treat(treatment, found).await
    }

    async fn release(&self, terms: &ReleaseTerms) -> Released {
        let claim = claim();
        settle(async || self.delete().await, async || self.read().await, |found| found.is_of(&claim), terms).await
    }
}

fn claim() -> LockClaim {
    LockClaim::example("k", LockKinds::DynamoDb)
}

fn lock(id: &str) -> FoundLock {
    FoundLock::Held(LockInfo {
        id: id.to_owned(),
        operation: "OperationTypeApply".to_owned(),
        info: String::new(),
        who: "root@vm".to_owned(),
        version: "1.11.4".to_owned(),
        created: String::new(),
        path: "b/k".to_owned(),
    })
}

/// Releases in such a world, and checks what holds in every one.
async fn release_in(world: World, terms: ReleaseTerms) -> (Released, World) {
    let script = world.clone();
    let case = || format!("{script:?}\n{terms:?}");
    let store = Scripted::new(world);
    let released = store.release(&terms).await;
    assert!(store.start.elapsed() <= terms.budget, "longer than the budget\n{}", case());

    let mut after = store.world.into_inner().unwrap();
    after.pass_to(Duration::MAX);
    // An attempt at every look, and each attempt that fails costs another.
    let most = APPEARS_WITHIN.div_duration_f64(LOOK_EVERY) as usize + 2 + script.treatments.len();
    assert!(after.deletes <= most, "{} deletes\n{}", after.deletes, case());
    match &released {
        Released::StillThere(_) => assert_eq!(after.holder, Holder::Ours, "{}", case()),
        Released::Failed(_) => {
            let denied = script.treatments.contains(&Treatment::Deny);
            let silent = script.treatments.iter().filter(|treatment| treatment.is_silent()).count();
            assert!(denied || silent >= 2, "failed without a reason\n{}", case());
        }
        released => assert_ne!(after.holder, Holder::Ours, "said {released:?}\n{}", case()),
    }
    (released, after)
}

/// Every sequence of treatments of a length.
fn scripts(length: u32) -> impl Iterator<Item = Vec<Treatment>> {
    let count = TREATMENTS.len();
    (0..count.pow(length))
        .map(move |number| (0..length).map(|place| TREATMENTS[number / count.pow(place) % count]).collect())
}

fn world(holder: Holder, treatments: Vec<Treatment>) -> World {
    World { holder, events: Vec::new(), treatments, other_waits: false, other_was_hit: false, deletes: 0 }
}

const PLAIN: ReleaseTerms = ReleaseTerms { may_still_appear: false, unlock_in_flight: false, budget: BUDGET };

#[tokio::test(start_paused = true)]
async fn whatever_the_store_answers_the_end_is_true_and_in_time() {
    for treatments in scripts(4) {
        for holder in [Holder::Nobody, Holder::Ours, Holder::Other] {
            for other_waits in [false, true] {
                for budget in [BUDGET, Duration::from_secs(6), Duration::from_millis(500)] {
                    let world = World { other_waits, ..world(holder, treatments.clone()) };
                    // The short budgets may end in failure for any reason; the checks on truth stay.
                    let terms = ReleaseTerms { budget, ..PLAIN };
                    if budget == BUDGET {
                        release_in(world, terms).await;
                    } else {
                        let store = Scripted::new(world);
                        let released = store.release(&terms).await;
                        assert!(store.start.elapsed() <= budget);
                        let holder = store.world.into_inner().unwrap().holder;
                        assert!(
                            matches!(released, Released::StillThere(_) | Released::Failed(_)) || holder != Holder::Ours,
                            "{treatments:?}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_appears_late_is_found() {
    for treatments in scripts(3) {
        for at in [0, 300, 1_000, 4_900, 7_900] {
            for unlock_in_flight in [false, true] {
                let events = vec![(Duration::from_millis(at), Event::LockLands)];
                let world = World { events, ..world(Holder::Nobody, treatments.clone()) };
                let terms = ReleaseTerms { may_still_appear: true, unlock_in_flight, ..PLAIN };
                release_in(world, terms).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_appears_late_is_deleted_and_not_said_to_be_absent() {
    let events = vec![(Duration::from_secs(3), Event::LockLands)];
    let late = World { events, ..world(Holder::Nobody, Vec::new()) };
    let terms = ReleaseTerms { may_still_appear: true, ..PLAIN };
    assert_eq!(release_in(late, terms).await.0, Released::Deleted);
}

/// The child's own delete carries no condition. Were ours first, the next run would take the lock and then lose it.
#[tokio::test(start_paused = true)]
async fn the_childs_own_delete_never_hits_the_next_run() {
    for treatments in scripts(4) {
        for at in [0, 400, 2_000, 3_900] {
            for may_still_appear in [false, true] {
                let events = vec![(Duration::from_millis(at), Event::UnlockLands)];
                let world = World { events, other_waits: true, ..world(Holder::Ours, treatments.clone()) };
                let terms = ReleaseTerms { unlock_in_flight: true, may_still_appear, ..PLAIN };
                let (_, after) = release_in(world, terms).await;
                assert!(!after.other_was_hit, "{treatments:?} {at}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_ending_is_named_for_what_it_is() {
    use Treatment::{Deny, Fail, ServeInSilence, Swallow, Throttle};
    let other = || Released::NotOurs(lock("other"));
    for (holder, treatments, expected) in [
        (Holder::Ours, vec![], Released::Deleted),
        (Holder::Nobody, vec![], Released::AlreadyGone),
        (Holder::Other, vec![], other()),
        (Holder::Ours, vec![Throttle, Throttle, Throttle, Throttle], Released::Deleted),
        (Holder::Ours, vec![Swallow], Released::Deleted),
        // Carried out without an answer: gone, and nobody can say by whom.
        (Holder::Ours, vec![ServeInSilence], Released::AlreadyGone),
        (Holder::Ours, vec![Fail], Released::AlreadyGone),
        // Not permitted to delete, but to see that there is nothing to delete.
        (Holder::Nobody, vec![Deny], Released::AlreadyGone),
        (Holder::Other, vec![Deny], other()),
    ] {
        assert_eq!(release_in(world(holder, treatments.clone()), PLAIN).await.0, expected, "{holder:?} {treatments:?}");
    }
    let (released, _) = release_in(world(Holder::Ours, vec![Deny]), PLAIN).await;
    assert!(matches!(released, Released::StillThere(StoreError::Denied { .. })), "{released:?}");
    let (released, _) = release_in(world(Holder::Ours, vec![Deny, Deny]), PLAIN).await;
    assert!(matches!(released, Released::Failed(StoreError::Denied { .. })), "{released:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_release_is_one_request() {
    for holder in [Holder::Nobody, Holder::Ours, Holder::Other] {
        let store = Scripted::new(world(holder, Vec::new()));
        store.release(&PLAIN).await;
        assert_eq!((store.world.into_inner().unwrap().deletes, store.start.elapsed()), (1, Duration::ZERO));
    }
}
