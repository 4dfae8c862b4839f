//! All that one child's log tells, in one place.

use jiff::Timestamp;

use super::evidence::{Expectations, Refused};
use super::hclog::{Level, Record, Splitter};
use super::ledger::{Ending, Entry, Ledger, Verdict};
use super::locks;
use super::phase::{Marker, Phase, PhaseTracker};

/// Most refused records that are told of. What floods the log with them is noise, or wants to be.
const MAX_REFUSED: usize = 32;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A lock of this session is new or has come further. The caller writes it to the journal before anything else.
    Lock(Entry),
    /// A record about a lock was not believed. Told once for each ID and reason.
    Refused(Refused),
    /// Terraform does something else than before.
    Phase(Phase),
    /// An interrupt has reached Terraform's core (`terraform: Stop called, initiating interrupt sequence`,
    /// `internal/terraform/context.go`). An interrupted apply that still plans does not log this.
    CoreStopped,
}

/// Follows the log of one child.
#[derive(Debug)]
pub struct Observer {
    expectations: Expectations,
    splitter: Splitter,
    ledger: Ledger,
    tracker: PhaseTracker,
    phase: Phase,
    refused: Vec<Refused>,
    core_stopped: bool,
    under_lock: Option<Timestamp>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(expectations: Expectations) -> Self {
        Self {
            expectations,
            splitter: Splitter::default(),
            ledger: Ledger::default(),
            tracker: PhaseTracker::default(),
            phase: Phase::default(),
            refused: Vec::new(),
            core_stopped: false,
            under_lock: None,
        }
    }

    /// Takes the next bytes of the log, read at `now`; returns what they changed, in order.
    pub fn feed(&mut self, chunk: &[u8], now: Timestamp) -> Vec<Fact> {
        let mut facts = Vec::new();
        for record in self.splitter.feed(chunk) {
            self.enter(&record, now, &mut facts);
        }
        facts
    }

    /// The session's locks.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What Terraform is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When a Terraform last said that it begins what it does only once it has its lock, on whatever backend.
    pub fn under_lock(&self) -> Option<Timestamp> {
        self.under_lock
    }

    /// Judges the session's locks, once the child is dead and its log was fed to the end.
    ///
    /// A last line without a newline is not interpreted.
    pub fn verdict(&self, ending: Ending) -> Verdict {
        self.ledger.verdict(ending)
    }

    fn enter(&mut self, record: &Record, now: Timestamp, facts: &mut Vec<Fact>) {
        if let Some(marker) = Marker::read(record) {
            self.tracker.enter(marker);
            if marker.is_under_lock() {
                self.under_lock = Some(record.time);
            }
        } else if is_stop(record) {
            if !self.core_stopped {
                facts.push(Fact::CoreStopped);
            }
            self.core_stopped = true;
        } else if let Some(read) = locks::read(record) {
            let judged = read.and_then(|event| {
                self.expectations.check(record, &event, now)?;
                Ok(event)
            });
            match judged {
                Ok(event) => facts.extend(self.ledger.enter(&event).cloned().map(Fact::Lock)),
                Err(refused) => {
                    if self.refused.len() < MAX_REFUSED && !self.refused.contains(&refused) {
                        self.refused.push(refused.clone());
                        facts.push(Fact::Refused(refused));
                    }
                }
            }
        }
        let phase = self.tracker.phase(&self.ledger);
        if phase != self.phase {
            self.phase = phase;
            facts.push(Fact::Phase(phase));
        }
    }
}

fn is_stop(record: &Record) -> bool {
    record.logger == "terraform"
        && record.level == Level::Warn
        && record.message == "Stop called, initiating interrupt sequence"
}
