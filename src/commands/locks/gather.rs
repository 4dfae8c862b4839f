//! Goes through the places, a page at a time, and hands each lock to the list.
//!
//! What is held: a page, the locks of directories, and the lockfiles where tables are listed as well, so that both
//! halves of a lock come together.

use std::collections::{HashMap, HashSet};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;

use crate::aws::{AwsClients, GivenSettings, S3Backend, StoreError, Surroundings};
use crate::commands::judged::{HalfLook, HalfSeen, JudgedLock, Merged, SeenLock};
use crate::commands::locks::{Args, Below, Format, ListWriter, Looked, Summary, store_of_bucket, store_of_table};
use crate::commands::target::{State, TargetError};
use crate::model::{Environment, bucket_and_key};
use crate::session::Machine;
use crate::text::in_a_line;

/// So many requests are under way at a time.
const AT_ONCE: usize = 16;
/// Of so many locks it is asked whether their state exists.
const MOST_STATES: usize = 1000;

/// Why a place was not gone through to its end.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    /// It could not be read. A hint is on a line of its own.
    #[error("{0}")]
    Unread(String),
    /// The list cannot be written, so no other place is looked at.
    #[error(transparent)]
    Unwritten(#[from] io::Error),
}

/// Goes through the places.
pub struct Gatherer<'a> {
    args: &'a Args,
    machine: &'a Machine,
    now: Timestamp,
    env: Environment,
    given: GivenSettings,
    list: Box<dyn ListWriter>,
    summary: Summary,
    /// Locks that may have another half elsewhere.
    held: Merged,
    /// By whom the buckets of directories and those that were listed are read, and by whom any other.
    readers: HashMap<String, AwsClients>,
    any_bucket: Option<AwsClients>,
    /// The backends of the directories.
    backends: Vec<S3Backend>,
    /// Buckets that cannot be asked whether a state exists.
    mute: HashSet<String>,
    states_asked: usize,
    /// Errors, each with the places that it hides.
    errors: Vec<(String, Vec<String>)>,
    progress: Progress,
}

impl<'a> Gatherer<'a> {
    pub fn new(args: &'a Args, machine: &'a Machine, list: Box<dyn ListWriter>) -> Self {
        Self {
            args,
            machine,
            now: Timestamp::now(),
            env: Environment::own(),
            given: GivenSettings { access: args.access.clone(), ..GivenSettings::default() },
            list,
            summary: Summary::default(),
            held: Merged::default(),
            readers: HashMap::new(),
            any_bucket: None,
            backends: Vec::new(),
            mute: HashSet::new(),
            states_asked: 0,
            errors: Vec::new(),
            progress: Progress::default(),
        }
    }

    /// Goes through all places. One that cannot be read does not stop the others.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub async fn gather(mut self) -> io::Result<Summary> {
        let nothing_named = self.args.table.is_empty() && self.args.bucket.is_empty() && self.args.chdir.is_empty();
        let dirs = if nothing_named { vec![PathBuf::from(".")] } else { self.args.chdir.clone() };
        for dir in distinct(&dirs) {
            let looked = self.directory(dir).await;
            let place = format!("directory {}", dir.display());
            self.looked(place.clone(), place, looked)?;
        }
        if !self.args.bucket.is_empty() || !self.args.table.is_empty() {
            self.whole_places().await?;
        }
        let held = std::mem::take(&mut self.held).into_locks();
        self.hand_over(held).await?;
        self.progress.clear();
        if self.summary.state_not_asked > 0 {
            let count = self.summary.state_not_asked;
            tracing::info!("there are too many locks: of {count} it is not known whether their state exists");
        }
        for (error, places) in &self.errors {
            tracing::error!("could not read {}: {error}", places.join(", "));
        }
        self.list.end(&self.summary, self.now)?;
        Ok(self.summary)
    }

    /// Notes that a place was looked at.
    fn looked(&mut self, place: String, label: String, looked: Result<(), Stopped>) -> io::Result<()> {
        let error = match looked {
            Ok(()) => None,
            Err(Stopped::Unread(error)) => Some(error),
            Err(Stopped::Unwritten(error)) => return Err(error),
        };
        if let Some(error) = &error {
            match self.errors.iter_mut().find(|(known, _)| known == error) {
                Some((_, places)) => places.push(place.clone()),
                None => self.errors.push((error.clone(), vec![place.clone()])),
            }
        }
        let error = error.map(|error| in_a_line(&error));
        self.summary.places.push(Looked { place, label, error });
        Ok(())
    }

    async fn whole_places(&mut self) -> io::Result<()> {
        let (buckets, tables) = (outermost(&self.args.bucket), distinct(&self.args.table));
        let surroundings = Surroundings { dir: PathBuf::from("."), env: self.env.clone() };
        // For a table or a bucket as a whole.
        let backend = S3Backend::without_state(self.given.alone(), surroundings);
        let connected = async { AwsClients::connect(&backend?).await }.await;
        let clients = connected.map_err(|error| TargetError::from(self.given.named(error)).to_string());
        for below in buckets {
            let looked = match &clients {
                Ok(clients) => self.bucket(clients, &below.bucket, &below.prefix).await,
                Err(error) => Err(Stopped::Unread(error.clone())),
            };
            self.looked(below.to_string(), store_of_bucket(&below.bucket), looked)?;
        }
        for table in tables {
            let looked = match &clients {
                Ok(clients) => self.table(clients, table).await,
                Err(error) => Err(Stopped::Unread(error.clone())),
            };
            self.looked(format!("DynamoDB table {table}"), store_of_table(table), looked)?;
        }
        Ok(())
    }

    /// The lock of a directory's state, both halves, consistently.
    async fn directory(&mut self, dir: &Path) -> Result<(), Stopped> {
        let workspace = self.args.workspace.as_deref();
        let state = State::of_directory(dir, self.env.clone(), workspace, &self.given).await;
        let state = state.map_err(|error| Stopped::Unread(error.to_string()))?;
        let looks = state.look_at_lock().await;
        for half in looks.iter().filter_map(HalfLook::half) {
            self.held.add(state.lock_id(), half);
        }
        self.readers.insert(state.bucket().to_owned(), state.clients);
        self.backends.push(state.backend);
        let unread = looks.iter().filter_map(HalfLook::unread).next_back();
        unread.map_or(Ok(()), |unread| Err(Stopped::Unread(unread.on_lines())))
    }

    /// All lockfiles below a prefix.
    async fn bucket(&mut self, clients: &AwsClients, bucket: &str, prefix: &str) -> Result<(), Stopped> {
        self.readers.entry(bucket.to_owned()).or_insert_with(|| clients.clone());
        let mut pages = pin!(clients.bucket_pages(bucket, prefix));
        // Lockfiles that are listed and cannot be read, and why the first of them.
        let mut unread: Option<(usize, String)> = None;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| Stopped::Unread(error.on_lines()))?;
            self.progress.note(page.scanned, page.found.len());
            let looks = page.found.into_iter().map(|key| {
                let place = clients.backend.lockfile(bucket, &key);
                async move { (clients.look(&place).await, key, place) }
            });
            let looks: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
            let mut locks = Merged::default();
            for (look, key, place) in looks {
                match look {
                    Ok(Some(seen)) => {
                        let half = HalfSeen { place, seen, expected: true };
                        let state = format!("{bucket}/{key}");
                        let of_all = !self.args.table.is_empty();
                        if let Some(half) = self.held.absorb(&state, half) {
                            if of_all { &mut self.held } else { &mut locks }.add(state, half);
                        }
                    }
                    // Released in between.
                    Ok(None) => {}
                    Err(error) => {
                        let first = || (0, format!("{place}: {}", error.on_lines()));
                        unread.get_or_insert_with(first).0 += 1;
                    }
                }
            }
            self.hand_over(locks.into_locks()).await?;
        }
        unread.map_or(Ok(()), |(count, first)| {
            Err(Stopped::Unread(format!("reading {count} of its lockfiles failed, the first: {first}")))
        })
    }

    /// All items of a table.
    async fn table(&mut self, clients: &AwsClients, table: &str) -> Result<(), Stopped> {
        self.any_bucket = clients.knows_s3().then(|| clients.clone());
        let mut pages = pin!(clients.table_pages(table));
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| Stopped::Unread(error.on_lines()))?;
            self.progress.note(page.scanned, page.found.len());
            let mut locks = Vec::new();
            for (state, seen) in page.found {
                let half = HalfSeen { place: clients.backend.item(table, state.clone()), seen, expected: true };
                if let Some(half) = self.held.absorb(&state, half) {
                    locks.push(SeenLock { state, halves: vec![half] });
                }
            }
            self.hand_over(locks).await?;
        }
        Ok(())
    }

    /// Judges locks, counts them and hands them to the list.
    async fn hand_over(&mut self, locks: Vec<SeenLock>) -> io::Result<()> {
        let mut judged: Vec<_> =
            locks.into_iter().map(|lock| lock.judge(self.machine, self.now, self.args.older_than)).collect();
        // A metric does not tell of it.
        if self.args.format != Format::Prometheus {
            for some in judged.chunks_mut(AT_ONCE) {
                self.ask_for_states(some).await;
            }
        }
        if !judged.is_empty() {
            self.progress.clear();
        }
        for mut lock in judged {
            if self.is_nobodys(&lock.lock.state) {
                lock.notes.push("none of the directories is set up for this state".to_owned());
            }
            let is_stale = !lock.stale().is_empty();
            self.summary.locks += 1;
            self.summary.stale += usize::from(is_stale);
            match &lock.judged.verdict {
                verdict if verdict.is_alive() => self.summary.alive += 1,
                verdict if verdict.is_dead() => self.summary.dead += 1,
                _ => self.summary.unknown += 1,
            }
            if is_stale || !self.args.stale {
                self.list.write(&lock)?;
            }
        }
        Ok(())
    }

    /// Whether directories were named, and none of them has this state in any of its workspaces: then its key may have
    /// been changed.
    fn is_nobodys(&self, state: &str) -> bool {
        let of =
            |backend: &S3Backend| bucket_and_key(state).is_some_and(|(bucket, key)| backend.stores_state(bucket, key));
        !self.backends.is_empty() && !self.backends.iter().any(of)
    }

    async fn ask_for_states(&mut self, locks: &mut [JudgedLock]) {
        let left = MOST_STATES.saturating_sub(self.states_asked);
        self.summary.state_not_asked += locks.len().saturating_sub(left);
        self.states_asked += locks.len().min(left);
        let (readers, any_bucket, mute) = (&self.readers, self.any_bucket.as_ref(), &self.mute);
        let asked = locks.iter_mut().take(left).map(|lock| async move {
            let (bucket, key) = bucket_and_key(&lock.lock.state)?;
            let clients = readers.get(bucket).or(any_bucket).filter(|_| !mute.contains(bucket))?;
            match clients.state_exists(bucket, key).await {
                Ok(exists) => lock.state_exists = Some(exists),
                // It may be only this one that is missing.
                Err(StoreError::Denied { .. }) => {}
                Err(error) => {
                    tracing::debug!("whether there is a state {}: {error}", lock.lock.state);
                    return Some(bucket.to_owned());
                }
            }
            None
        });
        let mute: Vec<_> = join_all(asked).await;
        self.mute.extend(mute.into_iter().flatten());
    }
}

/// Each once, however often it is named.
fn distinct<T: PartialEq>(named: &[T]) -> Vec<&T> {
    named.iter().enumerate().filter(|(at, one)| !named[..*at].contains(one)).map(|(_, one)| one).collect()
}

/// Those that lie below no other one: what does is gone through with that.
fn outermost(named: &[Below]) -> Vec<&Below> {
    let holds = |outer: &Below, inner: &Below| {
        outer != inner && outer.bucket == inner.bucket && inner.prefix.starts_with(&outer.prefix)
    };
    distinct(named).into_iter().filter(|inner| !named.iter().any(|outer| holds(outer, inner))).collect()
}

/// How far it is, on a terminal's stderr.
#[derive(Default)]
struct Progress {
    scanned: usize,
    found: usize,
    shown: bool,
}

impl Progress {
    fn note(&mut self, scanned: usize, found: usize) {
        (self.scanned, self.found) = (self.scanned + scanned, self.found + found);
        if io::stderr().is_terminal() && tracing::enabled!(tracing::Level::INFO) {
            self.shown = true;
            let _ = write!(io::stderr(), "\r\u{1b}[Ktfguard: {} read, {} locks", self.scanned, self.found);
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
