//! All that one child's log tells, in one place.

use jiff::Timestamp;

use crate::model::{Entry, Grade, Phase, Product, TraceEntry};
use crate::observe::hclog::{Level, Record, STARTING_APPLY, Splitter};
use crate::observe::ledger::{Ending, Ledger, Left, MOST};
use crate::observe::locks;
use crate::observe::locks::{Expectations, LockEvent, Refusal, Refused};
use crate::observe::phase::{Marker, PhaseTracker};
use crate::observe::requests::{Requests, Told};
use crate::observe::resources::Resources;
use crate::observe::traces::{TraceEvent, Traces};
use crate::terraform::minor;

/// Most refused records that are told of. What floods the log with them is noise, or wants to be.
const MAX_REFUSED: usize = 32;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A lock of this session is new or has come further. The caller writes it to the journal before anything else.
    Lock(Entry),
    /// A lockfile of this session that has no known ID is new or has come further. To be written down like a lock.
    Trace(TraceEntry),
    /// A record about a lock was not believed. Told once for each ID and reason.
    Refused(Refused),
    /// Terraform does something else than before.
    Phase(Phase),
    /// A Terraform before 1.0 began. Its locks are not learned.
    Unlearned,
    /// An interrupt has reached Terraform's core (`terraform: Stop called, initiating interrupt sequence`,
    /// `internal/terraform/context.go`; OpenTofu says `tofu: ` before it, `internal/tofu/context.go`). An interrupted
    /// apply that still plans does not log this.
    CoreStopped {
        /// Nobody else has written to this log, so it is the child's. A Terraform that a provisioner calls by a path writes
        /// to the same one, and may have been interrupted by a `timeout` of its own.
        alone: bool,
    },
}

/// A state that is moved from one backend to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The type of the backend that it is moved from.
    pub from: String,
    /// The type of the other one, if that is known.
    pub to: Option<String>,
}

/// Which store a request for a lock went to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `<bucket>/<state key>` of the lock.
    pub lock_id: String,
    /// The table; none for a lockfile.
    pub table: Option<String>,
    pub region: String,
    /// The host and port.
    pub host: String,
}

/// Which records are believed to be about the child's locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// The INFO records of Terraform 1.6 and later. OpenTofu writes none, so in its log they would be somebody else's.
    pub records: bool,
    /// The DEBUG records of requests.
    pub requests: bool,
    /// Bucket and key of the states whose locks are expected: such a request can show its path in part only.
    pub states: Vec<(String, String)>,
}

/// Follows the log of one child.
#[derive(Debug, Default)]
pub struct Observer {
    expectations: Expectations,
    product: Option<(Product, String)>,
    /// All that wrote to the log are of versions whose logs tell their locks.
    tells: bool,
    migration: Option<Migration>,
    /// The log hid the place of a lock.
    masked: bool,
    records: bool,
    requests: Option<Requests>,
    splitter: Splitter,
    ledger: Ledger,
    traces: Traces,
    asked: Vec<Asked>,
    tracker: PhaseTracker,
    phase: Phase,
    /// What it changes, by its output, which is fed here too, and its log.
    pub resources: Resources,
    refused: Vec<Refused>,
    under_lock: Option<Timestamp>,
    unlearned: bool,
    /// A Terraform began and has done nothing under a lock yet.
    begun: bool,
    /// How many have begun.
    begins: u32,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(believed: Believed, expectations: Expectations) -> Self {
        Self {
            expectations,
            tells: true,
            records: believed.records,
            requests: believed.requests.then(|| Requests::new(believed.states)),
            begun: true,
            ..Self::default()
        }
    }

    /// Takes the next bytes of the log, read at `now`; returns what they changed, in order.
    pub fn feed(&mut self, chunk: &[u8], now: Timestamp) -> Vec<Fact> {
        let records = self.splitter.feed(chunk);
        self.enter_all(records, now)
    }

    /// Ends the log once everything was fed that is there up to now: the record at its end may have waited for more lines.
    pub fn finish(&mut self, now: Timestamp) -> Vec<Fact> {
        let record = self.splitter.finish();
        self.enter_all(record, now)
    }

    fn enter_all(&mut self, records: impl IntoIterator<Item = Record>, now: Timestamp) -> Vec<Fact> {
        let mut facts = Vec::new();
        records.into_iter().for_each(|record| self.enter(&record, now, &mut facts));
        facts
    }

    /// Which product the child is, and of which version, as it said in its first record (`main.go` of both).
    pub fn product(&self) -> Option<(Product, &str)> {
        self.product.as_ref().map(|(product, version)| (*product, version.as_str()))
    }

    /// Whether a Terraform before 1.0 began, whose locks are not learned.
    pub fn is_unlearned(&self) -> bool {
        self.unlearned
    }

    /// Whether the log tells every lock of those that wrote to it: at the level of tfguard's own log, Terraform's from 1.6
    /// on and OpenTofu's from 1.11 on do.
    pub fn tells_locks(&self) -> bool {
        self.product.is_some() && self.tells
    }

    /// Whether its log, if it is heard, shows every lock that the one Terraform in it takes in S3. `dumps`: its
    /// environment asks for DEBUG. `lockfile`: each lock has a lockfile.
    pub fn shows_locks(&self, dumps: bool, lockfile: bool) -> bool {
        let Some((product, version)) = self.product() else { return false };
        let from = |first| minor(version).is_some_and(|version| version >= first);
        let shows = match product {
            Product::Terraform => tells_locks(product, version) || (dumps && from((1, 0))),
            Product::OpenTofu => {
                self.splitter.has_debug() && (tells_locks(product, version) || (lockfile && from((1, 10))))
            }
        };
        shows && !self.masked
    }

    /// The state that is moved, as the log says at INFO before any lock for it is taken (`backendMigrateState` in
    /// `internal/command/meta_backend_migrate.go`, Terraform 1.0 to 1.15 and OpenTofu).
    pub fn migration(&self) -> Option<&Migration> {
        self.migration.as_ref()
    }

    /// The lockfiles without a known ID that are left to account for, once the child is dead and its log was fed to
    /// the end.
    pub fn traces_left(&self, ending: Ending) -> Vec<Left<TraceEntry>> {
        self.traces.left(ending)
    }

    /// Which stores the requests for locks went to.
    pub fn asked(&self) -> &[Asked] {
        &self.asked
    }

    /// The session's locks.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When a Terraform said for the first time since one began that it does what it does only once it has its lock, on
    /// whatever backend. What it says later proves less: somebody else may have begun to wait for that lock meanwhile.
    pub fn under_lock(&self) -> Option<Timestamp> {
        self.under_lock
    }

    /// The locks that are left to account for, once the child is dead and its log was fed to the end.
    ///
    /// A last line without a newline is not interpreted.
    pub fn left(&self, ending: Ending) -> Vec<Left<Entry>> {
        self.ledger.left(ending)
    }

    fn enter(&mut self, record: &Record, now: Timestamp, facts: &mut Vec<Fact>) {
        if let Some((product, version)) = product(record) {
            self.begin(product, version, facts);
        } else if let Some(marker) = Marker::read(record) {
            self.tracker.enter(marker);
            if marker.is_under_lock() && std::mem::take(&mut self.begun) {
                self.under_lock = Some(record.time);
            }
        } else if let Some(migration) = migration(record) {
            self.migration = Some(migration);
        } else if record.logger == STARTING_APPLY {
            self.resources.note_logged(&record.message);
        } else if is_stop(record) {
            facts.push(Fact::CoreStopped { alone: self.begins <= 1 });
        } else if let Some(read) = self.records.then(|| locks::read(record)).flatten() {
            match read {
                Ok(event) => self.told(record, &Told::Lock(event), Grade::Record, now, facts),
                Err(refused) => self.refuse(refused, facts),
            }
        } else if let Some(read) = self.requests.as_mut().and_then(|requests| {
            requests.read(record, &self.ledger, |created| self.expectations.check_time(created, now))
        }) {
            match read {
                Ok(told) => told.iter().for_each(|told| self.told(record, told, Grade::Request, now, facts)),
                Err(refused) => self.refuse(refused, facts),
            }
        }
        let phase = self.tracker.phase(&self.ledger);
        if phase != self.phase {
            self.phase = phase;
            facts.push(Fact::Phase(phase));
        }
    }

    fn begin(&mut self, product: Product, version: String, facts: &mut Vec<Fact>) {
        if product == Product::Terraform && minor(&version).is_some_and(|minor| minor < (1, 0)) {
            // A request in this log may be its own from here on.
            self.requests = None;
            self.unlearned = true;
            facts.push(Fact::Unlearned);
        }
        self.tells &= tells_locks(product, &version);
        self.product.get_or_insert((product, version));
        self.tracker.begin();
        self.begun = true;
        self.begins = self.begins.saturating_add(1);
    }

    /// Enters what a record, a request or its answer told.
    fn told(&mut self, record: &Record, told: &Told, grade: Grade, now: Timestamp, facts: &mut Vec<Fact>) {
        let judged = match told {
            Told::Lock(event) => self.expectations.check(record.time, event, now),
            Told::Trace(_) => {
                self.expectations.check_time(record.time, now).map_err(|reason| Refused::of(None, reason))
            }
        };
        if judged.is_ok()
            && grade == Grade::Request
            && let Some(asked) = asked(record, told)
            && !self.asked.contains(&asked)
            && self.asked.len() < MOST
        {
            self.asked.push(asked);
        }
        let news: Result<Vec<_>, _> = judged.and_then(|()| match told {
            Told::Lock(event) => Ok(self.ledger.enter(event, grade)?.cloned().map(Fact::Lock).into_iter().collect()),
            Told::Trace(event) => Ok(self.traces.enter(event)?.into_iter().map(Fact::Trace).collect()),
        });
        match news {
            Ok(news) => facts.extend(news),
            Err(refused) => self.refuse(refused, facts),
        }
    }

    fn refuse(&mut self, refused: Refused, facts: &mut Vec<Fact>) {
        self.masked |= refused.reason == Refusal::MaskedPath;
        if self.refused.len() < MAX_REFUSED && !self.refused.contains(&refused) {
            self.refused.push(refused.clone());
            facts.push(Fact::Refused(refused));
        }
    }
}

fn product(record: &Record) -> Option<(Product, String)> {
    let product = match record.logger.as_str() {
        "Terraform version" => Product::Terraform,
        "OpenTofu version" => Product::OpenTofu,
        _ => return None,
    };
    // Behind it there may be a prerelease and a commit.
    Some((product, record.message.split(' ').next()?.to_owned()))
}

fn tells_locks(product: Product, version: &str) -> bool {
    let first = match product {
        Product::Terraform => (1, 6),
        Product::OpenTofu => (1, 11),
    };
    minor(version).is_some_and(|version| version >= first)
}

fn asked(record: &Record, told: &Told) -> Option<Asked> {
    let (lock_id, table) = match told {
        Told::Lock(LockEvent::Take { claim, done: false }) => {
            let names = record.field("aws.dynamodb.table_names")?;
            (claim.lock_id(), Some(names.strip_prefix("[\"")?.strip_suffix("\"]")?.to_owned()))
        }
        Told::Trace(TraceEvent::Take { trace, done: false }) => (trace.lock_id(), None),
        _ => return None,
    };
    let (_, address) = record.field("http.url")?.split_once("://")?;
    let host = address.split('/').next()?.to_owned();
    Some(Asked { lock_id, table, region: record.field("aws.region")?.to_owned(), host })
}

fn migration(record: &Record) -> Option<Migration> {
    let is_it = record.logger == "backendMigrateState" && record.level == Level::Info;
    let types = record.message.strip_prefix("need to migrate from \"").filter(|_| is_it)?;
    let (from, to) = types.strip_suffix("\" backend config")?.split_once("\" to \"")?;
    Some(Migration { from: from.to_owned(), to: Some(to.to_owned()) })
}

fn is_stop(record: &Record) -> bool {
    matches!(record.logger.as_str(), "terraform" | "tofu")
        && record.level == Level::Warn
        && record.message == "Stop called, initiating interrupt sequence"
}
