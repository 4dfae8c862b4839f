//! A breadth-first search over all that can happen in a world.

use std::collections::HashMap;
use std::fmt::Write;

use super::world::{Setting, Step, World};

/// What a search has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub states: usize,
    pub steps: usize,
    /// How many states have a dead holder and an observer at work, and the most ticks until its lock is gone.
    pub dead: usize,
    pub slowest: u32,
}

/// A promise that can be broken, and the shortest way there.
#[derive(Debug)]
pub(super) struct Violation {
    pub promise: String,
    pub trace: Vec<Step>,
    pub states: usize,
}

impl Violation {
    pub fn story(&self) -> String {
        let mut story = String::new();
        for steps in self.trace.chunk_by(|one, other| (*one == Step::Tick) == (*other == Step::Tick)) {
            match steps {
                [Step::Tick, ..] => write!(story, " +{}t", steps.len()).unwrap(),
                _ => steps.iter().for_each(|step| write!(story, " {step:?}").unwrap()),
            }
        }
        format!("{}: {} steps, {} states:{story}", self.promise, self.trace.len(), self.states)
    }
}

/// How many ticks a lock of a dead holder may be left when nothing goes wrong any more.
fn bound(setting: &Setting) -> u32 {
    // A look under way, the wait, and the requests that reclaim it.
    let ticks = setting.times.wait.as_millis().div_ceil(super::world::TICK.as_millis() * 98 / 100);
    ticks as u32 + 4
}

/// Looks at every state.
///
/// # Errors
/// The first promise that is broken.
pub(super) fn search(setting: Setting) -> Result<Seen, Box<Violation>> {
    let start = World::new(setting);
    // By state: the state before it, the step from there, and, where it was asked for, the ticks until a lock is reclaimed.
    let mut index = HashMap::from([(start.key(), 0_u32)]);
    let mut ways: Vec<(u32, Step)> = vec![(0, Step::Tick)];
    let mut ticks: HashMap<u128, u32> = HashMap::new();
    let mut seen = Seen::default();
    let mut layer = vec![(0_u32, start)];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (at, world) in layer {
            for step in world.steps() {
                seen.steps += 1;
                let mut then = world.clone();
                let broken = then.take(step).err();
                let key = then.key();
                if broken.is_none() && index.contains_key(&key) {
                    continue;
                }
                let broken = match broken {
                    Some(promise) => Err((promise, Vec::new())),
                    None => reclaimed(&then, key, &mut ticks, &mut seen, bound(&setting)),
                };
                let number = u32::try_from(ways.len()).expect("few enough");
                ways.push((at, step));
                if let Err((promise, then)) = broken {
                    let mut trace = Vec::new();
                    let mut at = number;
                    while at != 0 {
                        let (before, step) = ways[at as usize];
                        trace.insert(0, step);
                        at = before;
                    }
                    trace.extend(then);
                    return Err(Box::new(Violation { promise, trace, states: ways.len() }));
                }
                index.insert(key, number);
                next.push((number, then));
            }
        }
        layer = next;
    }
    seen.states = ways.len();
    Ok(seen)
}

/// Goes one way at random, and says how many steps it has taken.
///
/// # Errors
/// The first promise that is broken.
pub(super) fn walk(setting: Setting, seed: u64, length: usize) -> Result<usize, Box<Violation>> {
    let mut random = seed;
    let mut draw = |below: usize| {
        // SplitMix64.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % below
    };
    let mut world = World::new(setting);
    let mut trace = Vec::new();
    let (mut ticks, mut seen) = (HashMap::new(), Seen::default());
    while trace.len() < length {
        let mut steps = world.steps();
        // Faults are rare, and a day goes by without any.
        if draw(10) > 0 && steps.iter().any(|step| !step.is_fault()) {
            steps.retain(|step| !step.is_fault());
        }
        if steps.is_empty() {
            break;
        }
        let step = steps[draw(steps.len())];
        trace.push(step);
        let broken = match world.take(step) {
            Err(promise) => Err((promise, Vec::new())),
            Ok(()) => reclaimed(&world, world.key(), &mut ticks, &mut seen, bound(&setting)),
        };
        if let Err((promise, then)) = broken {
            trace.extend(then);
            return Err(Box::new(Violation { promise, trace, states: 0 }));
        }
    }
    Ok(trace.len())
}

/// From here on nothing goes wrong: is the lock of a dead holder gone in time?
///
/// # Errors
/// The promise that is broken, and the way there.
fn reclaimed(
    world: &World,
    key: u128,
    ticks: &mut HashMap<u128, u32>,
    seen: &mut Seen,
    bound: u32,
) -> Result<(), (String, Vec<Step>)> {
    let steps = |way: &[(u128, Step)]| way.iter().map(|(_, step)| *step).collect();
    let mut way = Vec::new();
    let mut world = world.clone();
    let mut key = key;
    let mut left = 0;
    while let Some(step) = world.next_to_reclaim() {
        if let Some(known) = ticks.get(&key) {
            left = *known;
            break;
        }
        way.push((key, step));
        if way.len() > 8 * bound as usize {
            return Err(("the lock of a dead holder is never reclaimed".to_owned(), steps(&way)));
        }
        world.take(step).map_err(|promise| (promise, steps(&way)))?;
        key = world.key();
    }
    seen.dead += way.len();
    for (key, step) in way.iter().rev() {
        left += u32::from(*step == Step::Tick);
        ticks.insert(*key, left);
    }
    seen.slowest = seen.slowest.max(left);
    if left > bound {
        return Err((format!("the lock of a dead holder is reclaimed only after {left} ticks"), steps(&way)));
    }
    Ok(())
}
