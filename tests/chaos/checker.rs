//! Compares what was seen from outside with the promises of docs/guarantees.md. Reads nothing but the evidence, one JSON object a
//! line, and shares no code with tfguard or with what acts in a schedule.
//!
//! | `kind` | What it is, and its fields |
//! |---|---|
//! | `run` | A guarded run: `run`, its credentials; `attached`; `limited`, its Terraform may fail of what it lacks or of what it runs; `reclaim`, it may take over what a dead run holds by a lease |
//! | `request` | What changed, or might have changed, something in the API; see `api.py` |
//! | `process` | A Terraform's life: `run`, `pid`, `born`, `seen` (when it lived for sure), `gone` (no number: it lives) |
//! | `said` | What a Terraform wrote: `run`, `pid`, `text` |
//! | `signal` | What was sent: `run`, `at`, `signal`, `pid`, `to`: `front`, `supervisor`, `terraform` or `other` |
//! | `end` | What tfguard said: `run`, `what` (`run`, `release` or `last`, the release after which nothing is to be left), `at`, `code`, `signal`, `text` |
//! | `hang` | What did not end in time: `run`, `what` |
//! | `alive` | What lives after the last release: `run`, `pid`, `name` |
//! | `living` | What lived when the CI had done all it does: `run`, `pid` |
//! | `left` | What lies in a lock's place: `place`, `content`, and `when`: `over`, when the CI had done all it does, or at the `end` |
//!
//! Times are nanoseconds of the machine's monotonic clock.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// How much later than it happened the end of a process may be seen.
const SEEN_LATE: u64 = 1_000_000_000;
/// What is signalled together is signalled within this time.
const TOGETHER: u64 = 200_000_000;
/// So long after Terraform's death its uploads are waited for.
const UPLOADS: u64 = 2_000_000_000;
/// Whoever stood still as a whole acts within this time once it goes on.
const WAKES: u64 = 2_000_000_000;

/// What the evidence shows.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Each with the name of its rule.
    pub violations: Vec<(&'static str, String)>,
    pub figures: Figures,
}

/// How much there was to check.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub runs: usize,
    pub terraforms: usize,
    /// All requests, and those of tfguard's that may change something.
    pub requests: usize,
    pub changes: usize,
    /// Locks of a run's own that tfguard deleted.
    pub deleted: usize,
    /// Deletes of tfguard's that the API refused, mostly because the lock had changed hands.
    pub refused: usize,
    /// Terraforms that said that they were interrupted.
    pub interrupted: usize,
    /// Runs that were asked to stop.
    pub stopped: usize,
    /// Locks that were left for the last release, and said to be.
    pub left: usize,
    pub foreign: usize,
    /// State uploads that were carried out after the death of their Terraform.
    pub late_uploads: usize,
    /// Renewals of leases, and locks of others that were deleted because nobody renewed theirs.
    pub beats: usize,
    pub reclaimed: usize,
}

impl Figures {
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.terraforms += other.terraforms;
        self.requests += other.requests;
        self.changes += other.changes;
        self.deleted += other.deleted;
        self.refused += other.refused;
        self.interrupted += other.interrupted;
        self.stopped += other.stopped;
        self.left += other.left;
        self.foreign += other.foreign;
        self.late_uploads += other.late_uploads;
        self.beats += other.beats;
        self.reclaimed += other.reclaimed;
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

/// The ID of the lock in an item or an object, if there is one.
fn lock_in(content: &Value) -> Option<String> {
    let written = content["Info"].as_str().or(content["body"].as_str())?;
    lock_of(written)
}

fn lock_of(written: &str) -> Option<String> {
    let lock: Value = serde_json::from_str(written).ok()?;
    // A state has neither.
    lock["Operation"].as_str()?;
    lock["ID"].as_str().map(str::to_owned)
}

/// A lease as it lies in an item, or in the object beside a lockfile.
#[derive(Clone, PartialEq)]
struct Lease {
    lock: String,
    version: String,
    /// For so long, in nanoseconds, its lock is watched before it is deleted.
    wait: u64,
}

fn lease_in(content: &Value) -> Option<Lease> {
    lease_of(content["TfguardLease"].as_str().or(content["body"].as_str())?)
}

fn lease_of(written: &str) -> Option<Lease> {
    let lease: Value = serde_json::from_str(written).ok()?;
    let length = lease["length_ms"].as_u64()?;
    let (lock, version) = (lease["lock"].as_str()?.to_owned(), lease["version"].as_str()?.to_owned());
    Some(Lease { lock, version, wait: (length + length / 10 + 5000) * 1_000_000 })
}

/// The lease that lies there since then, as somebody saw it or as the API has it.
struct Seen {
    lease: Lease,
    since: u64,
    /// Who wrote it.
    by: String,
}

fn is_by_tfguard(request: &Value) -> bool {
    text(request, "agent").contains("aws-sdk-rust")
}

struct Checker {
    lines: Vec<Value>,
    /// The locks that the Terraforms of each run made.
    own: BTreeMap<String, BTreeSet<String>>,
    /// Which locks lay in objects of these ETags.
    etags: BTreeMap<String, BTreeSet<String>>,
    /// What tfguard made to see whether the store keeps conditions.
    examined: BTreeSet<(String, String)>,
    /// The runs that may take over.
    reclaiming: BTreeSet<String>,
    /// The lease in each place, and what each of those runs saw there.
    leases: BTreeMap<String, Seen>,
    looks: BTreeMap<(String, String), Seen>,
    /// The lock in each place.
    held: BTreeMap<String, String>,
    /// Who has made sure that the holder of a lockfile cannot renew its lease any more.
    fenced: BTreeSet<(String, String)>,
    verdict: Verdict,
}

/// Checks the evidence of one schedule.
pub fn check(evidence: &str) -> Verdict {
    let lines =
        evidence.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    let mut checker = Checker {
        lines: lines.collect(),
        own: BTreeMap::new(),
        etags: BTreeMap::new(),
        examined: BTreeSet::new(),
        reclaiming: BTreeSet::new(),
        leases: BTreeMap::new(),
        looks: BTreeMap::new(),
        held: BTreeMap::new(),
        fenced: BTreeSet::new(),
        verdict: Verdict::default(),
    };
    checker.lines.sort_by_key(|line| number(line, "applied"));
    let reclaiming = checker.of("run").into_iter().filter(|told| told["reclaim"] == true);
    checker.reclaiming = reclaiming.map(|told| text(&told, "run").to_owned()).collect();
    checker.requests();
    checker.uploads();
    checker.interrupts();
    checker.endings();
    checker.verdict
}

impl Checker {
    fn of(&self, kind: &str) -> Vec<Value> {
        self.lines.iter().filter(|line| text(line, "kind") == kind).cloned().collect()
    }

    fn of_run(&self, kind: &str, run: &str) -> Vec<Value> {
        self.of(kind).into_iter().filter(|line| text(line, "run") == run).collect()
    }

    fn breaks(&mut self, rule: &'static str, why: String) {
        self.verdict.violations.push((rule, why));
    }

    fn is_own(&self, run: &str, lock: &str) -> bool {
        self.own.get(run).is_some_and(|own| own.contains(lock))
    }

    /// P1 and P2: what was sent, and to what it was applied.
    fn requests(&mut self) {
        let requests = self.of("request");
        let lives = self.of("process");
        self.verdict.figures.requests = requests.len();
        for request in &requests {
            if request["changes"] != true {
                self.look(request);
                continue;
            }
            let (before, after) = (lock_in(&request["before"]), lock_in(&request["after"]));
            let run = text(request, "run");
            if let Some(lock) = after.clone().filter(|lock| before.as_ref() != Some(lock)) {
                if !is_by_tfguard(request) {
                    self.own.entry(run.to_owned()).or_default().insert(lock.clone());
                }
                if let Some(etag) = request["after"]["etag"].as_str() {
                    self.etags.entry(etag.trim_matches('"').to_owned()).or_default().insert(lock);
                }
            }
            if is_by_tfguard(request) {
                self.verdict.figures.changes += 1;
                self.change(request, before.as_deref(), after.as_deref());
                if is_delete(request) {
                    self.under_the_living(request, &lives);
                }
            }
            self.note_lease(request);
            match after {
                Some(lock) => _ = self.held.insert(text(request, "place").to_owned(), lock),
                None => _ = self.held.remove(text(request, "place")),
            }
        }
    }

    /// What a request of tfguard's may be: a delete of a lock by a condition that names it, a record beside a lock, or about
    /// an object of its own.
    fn change(&mut self, request: &Value, before: Option<&str>, after: Option<&str>) {
        let run = text(request, "run");
        let what = shown(request);
        let place = text(request, "place");
        let (was, is) = (&request["before"], &request["after"]);
        // Of a digest, of a state, or of several at once, it changes nothing.
        if place.ends_with("-md5") || was["Digest"] != is["Digest"] {
            return self.breaks("P1 digest", format!("tfguard may write no digest: {what}"));
        }
        let is_object = text(request, "operation").is_empty();
        if is_object && place.contains(".tflock.tfguard-") {
            return self.examination(request, &what);
        }
        if is_object && place.ends_with(".tflock.lease") {
            return self.lease_object(request, &what);
        }
        if is_object && !place.ends_with(".tflock") {
            return self.breaks("P1 kind", format!("nothing but a lock's object is tfguard's to change: {what}"));
        }
        if is_delete(request) && self.reclaiming.contains(run) {
            let named = self.named(request);
            if let Some(lock) = named.iter().find(|lock| !self.is_own(run, lock)) {
                return self.takes_over(request, lock, before.is_some() && is.is_null(), &what);
            }
        }
        if let Some(lock) = before.filter(|lock| after != Some(lock))
            && !self.is_own(run, lock)
        {
            self.breaks("P1 foreign", format!("lock {lock} is not of run {run}: {what}"));
        }
        if !is.is_null() && (was["Info"] != is["Info"] || was["body"] != is["body"]) {
            self.breaks("P1 content", format!("the lock was changed: {what}"));
        }
        match (text(request, "method"), text(request, "operation")) {
            (_, "DeleteItem" | "UpdateItem") | ("DELETE", "") => {}
            ("PUT", "") if text(request, "query").contains("tagging") => return,
            _ => return self.breaks("P1 kind", format!("tfguard sends no such request: {what}")),
        }
        let named = self.named(request);
        if was["TfguardLease"] != is["TfguardLease"] && !is.is_null() {
            self.verdict.figures.beats += usize::from(is["TfguardLease"].is_string());
            let names_none = text(request, "body").contains("attribute_not_exists(TfguardLease)");
            if named_lease(request) != lease_in(was) || (lease_in(was).is_none() && !names_none) {
                self.breaks("P1 lease", format!("no condition names the lease that was there: {what}"));
            }
        }
        if named.is_empty() {
            self.breaks("P1 condition", format!("no condition names a lock: {what}"));
        } else if !named.iter().any(|lock| self.is_own(run, lock)) {
            self.breaks("P1 condition", format!("the condition names {named:?}, which are not of run {run}: {what}"));
        }
        if is_delete(request) {
            let is_gone = before.is_some() && is.is_null();
            *if is_gone { &mut self.verdict.figures.deleted } else { &mut self.verdict.figures.refused } += 1;
        }
    }

    /// The locks of which one is named by a request's condition.
    fn named(&self, request: &Value) -> Vec<String> {
        if !text(request, "operation").is_empty() {
            return in_condition(request).into_iter().collect();
        }
        let etag = request["if_match"].as_str().and_then(|etag| self.etags.get(etag.trim_matches('"')));
        etag.into_iter().flatten().cloned().collect()
    }

    /// What a run that may take over saw of a lease.
    fn look(&mut self, request: &Value) {
        let (run, place) = (text(request, "run"), text(request, "place"));
        let is_lease = text(request, "operation") == "GetItem" || place.ends_with(".tflock.lease");
        if !is_lease || !is_by_tfguard(request) || !self.reclaiming.contains(run) {
            return;
        }
        let answer = text(request, "answer");
        let item =
            || Some(serde_json::from_str::<Value>(answer).ok()?["Item"]["TfguardLease"]["S"].as_str()?.to_owned());
        let lease = lease_of(answer).or_else(|| lease_of(&item()?));
        let key = (run.to_owned(), place.to_owned());
        match lease {
            Some(lease) if self.looks.get(&key).is_some_and(|seen| seen.lease == lease) => {}
            Some(lease) => {
                let seen = Seen { lease, since: number(request, "applied"), by: String::new() };
                _ = self.looks.insert(key, seen);
            }
            None => _ = self.looks.remove(&key),
        }
    }

    fn note_lease(&mut self, request: &Value) {
        let place = text(request, "place");
        match lease_in(&request["after"]) {
            Some(lease) if self.leases.get(place).is_some_and(|seen| seen.lease == lease) => {}
            Some(lease) => {
                let (since, by) = (number(request, "applied"), text(request, "run").to_owned());
                _ = self.leases.insert(place.to_owned(), Seen { lease, since, by });
            }
            None => _ = self.leases.remove(place),
        }
    }

    /// A write of the object that is the lease of a lockfile: a renewal, what ends the renewals of a dead holder, or a removal.
    fn lease_object(&mut self, request: &Value, what: &str) {
        let run = text(request, "run");
        if request["if_match"].is_null() && request["if_none_match"].is_null() {
            return self.breaks("P1 lease", format!("no condition names what was there: {what}"));
        }
        let (was, is) = (&request["before"], &request["after"]);
        if was == is {
            return;
        }
        let lock = |lease: Option<Lease>| lease.map(|lease| lease.lock).unwrap_or_default();
        let (old, new) = (lock(lease_in(was)), lock(lease_in(is)));
        let lockfile = text(request, "place").trim_end_matches(".lease");
        if is.is_null() {
            let holds = self.held.get(lockfile).is_some_and(|held| *held == old);
            if holds && !self.is_own(run, &old) {
                self.breaks("P1 lease", format!("the lease of lock {old}, which is not of run {run}, is gone: {what}"));
            }
        } else if self.is_own(run, &new) {
            self.verdict.figures.beats += 1;
        } else if self.reclaiming.contains(run) && !new.is_empty() {
            self.waited_for(request, &new, what);
            self.fenced.insert((run.to_owned(), new));
        } else {
            self.breaks("P1 lease", format!("the lease of a lock that is not of run {run}: {what}"));
        }
    }

    /// A delete of another run's lock: only if nobody renewed its lease for all the wait, and nothing of that run lives.
    fn takes_over(&mut self, request: &Value, lock: &str, is_gone: bool, what: &str) {
        let run = text(request, "run");
        if text(request, "operation").is_empty() {
            if !self.fenced.contains(&(run.to_owned(), lock.to_owned())) {
                self.breaks("lease kept", format!("the holder of lock {lock} could still renew its lease: {what}"));
            }
        } else {
            let (named, was) = (named_lease(request), lease_in(&request["before"]));
            if named.as_ref().is_none_or(|lease| lease.lock != lock) || (is_gone && named != was) {
                self.breaks("lease kept", format!("the holder of lock {lock} could still renew its lease: {what}"));
            }
            if is_gone {
                self.waited_for(request, lock, what);
            }
        }
        self.verdict.figures.reclaimed += usize::from(is_gone);
        self.verdict.figures.refused += usize::from(!is_gone);
        let Some(owner) = self.own.iter().find(|(_, own)| own.contains(lock)).map(|(run, _)| run.clone()) else {
            return;
        };
        let alive = request["alive"].as_array().cloned().unwrap_or_default();
        let of_owner = |name: &str| {
            let is_it = |process: &&Value| text(process, "run") == owner && text(process, "name").starts_with(name);
            alive.iter().filter(is_it).cloned().collect::<Vec<_>>()
        };
        let (terraforms, guards) = (of_owner("terraform"), of_owner("tfguard"));
        if is_gone
            && !terraforms.is_empty()
            && !self.is_excused(&owner, &guards, &terraforms, number(request, "applied"))
        {
            self.breaks("lease alive", format!("{terraforms:?} of run {owner} lived, whose lock was {lock}: {what}"));
        }
    }

    /// Whether docs/lease.md says openly that a Terraform may live then: nobody of its tfguards does, or all of the run stood
    /// still, and had no time yet since it goes on.
    fn is_excused(&self, owner: &str, guards: &[Value], terraforms: &[Value], at: u64) -> bool {
        let goes_on = self.of_run("signal", owner).iter().any(|signal| {
            let sent = number(signal, "at");
            let is_it = text(signal, "signal") == "SIGCONT" && text(signal, "to") == "supervisor";
            is_it && sent < at && at < sent + WAKES
        });
        goes_on || guards.is_empty() || guards.iter().chain(terraforms).all(|process| process["stopped"] == true)
    }

    /// The lease of this lock must have been the same for all the wait, in the API and as the run saw it, in each place.
    fn waited_for(&mut self, request: &Value, lock: &str, what: &str) {
        let (run, at, place) = (text(request, "run"), number(request, "applied"), text(request, "place"));
        if lease_in(&request["before"]).is_none_or(|lease| lease.lock != lock) {
            return self.breaks("lease none", format!("lock {lock} had no lease: {what}"));
        }
        let mut broken = Vec::new();
        for (other, Seen { lease, since, by }) in self.leases.iter().filter(|(_, seen)| seen.lease.lock == lock) {
            if self.is_own(by, lock) && since + lease.wait > at {
                broken.push((
                    "lease renewed",
                    format!("it was renewed in {other} {} ms before", (at - since) / 1_000_000),
                ));
            }
        }
        let was = lease_in(&request["before"]);
        let look = self.looks.get(&(run.to_owned(), place.to_owned()));
        // What it wrote itself it need not see.
        let is_its = self.leases.get(place).is_some_and(|seen| seen.by == run);
        let seen = look.filter(|seen| Some(&seen.lease) == was.as_ref());
        if !is_its && seen.is_none_or(|seen| seen.since + seen.lease.wait > at) {
            let since = seen.map(|seen| (at - seen.since) / 1_000_000);
            broken.push(("lease watched", format!("it was seen for {since:?} ms")));
        }
        for (rule, why) in broken {
            self.breaks(rule, format!("the lease of lock {lock} was not waited for, {why}: {what}"));
        }
    }

    /// P2: a state upload that was under way when its Terraform died is waited for, within what is promised. One that comes
    /// after the lock's delete meets the next holder's state.
    fn uploads(&mut self) {
        let (requests, lives) = (self.of("request"), self.of("process"));
        for upload in requests.iter().filter(|request| is_upload(request)) {
            let (run, at) = (text(upload, "run"), number(upload, "applied"));
            let of_run: Vec<_> = lives.iter().filter(|life| text(life, "run") == run).collect();
            if of_run.iter().any(|life| life["gone"].as_u64().is_none_or(|gone| gone > at)) {
                continue;
            }
            let Some(died) = of_run.iter().map(|life| number(life, "seen")).max() else { continue };
            self.verdict.figures.late_uploads += 1;
            let deletes = |request: &&Value| {
                is_by_tfguard(request)
                    && is_delete(request)
                    && lock_in(&request["before"]).is_some_and(|lock| self.is_own(run, &lock))
                    && request["after"].is_null()
                    && text(request, "run") == run
                    && number(request, "applied") < at
            };
            if at < died + UPLOADS
                && let Some(delete) = requests.iter().find(deletes)
            {
                let since = (at - died) / 1_000_000;
                let why = format!(
                    "a state of run {run} came {since} ms after its Terraform lived, and after {}",
                    shown(delete)
                );
                self.breaks("P2 upload", why);
            }
        }
    }

    /// An object that tfguard made itself to see whether deletes keep their conditions here.
    fn examination(&mut self, request: &Value, what: &str) {
        let object = (text(request, "run").to_owned(), text(request, "place").to_owned());
        match text(request, "method") {
            "PUT" if request["if_none_match"] == "*" => _ = self.examined.insert(object),
            "DELETE" if request["before"].is_null() || self.examined.contains(&object) => {}
            _ => self.breaks("P1 condition", format!("an object that tfguard did not make: {what}")),
        }
    }

    fn under_the_living(&mut self, request: &Value, lives: &[Value]) {
        let (run, at, what) = (text(request, "run"), number(request, "applied"), shown(request));
        // What examines the store deletes no lock.
        if [".tflock.tfguard-", ".tflock.lease"].iter().any(|name| text(request, "place").contains(name)) {
            return;
        }
        let is_its = |process: &&Value| text(process, "run") == run && text(process, "name").starts_with("terraform");
        let at_once: Vec<_> = request["alive"].as_array().into_iter().flatten().filter(is_its).cloned().collect();
        if !at_once.is_empty() {
            return self.breaks("P2 alive", format!("{at_once:?} of run {run} lived: {what}"));
        }
        let lived = |life: &&Value| {
            text(life, "run") == run
                && number(life, "born") < at
                && life["gone"].as_u64().is_none_or(|gone| gone > at + SEEN_LATE)
        };
        if let Some(life) = lives.iter().find(lived) {
            self.breaks("P2 life time", format!("{life} covers {at}: {what}"));
        }
    }

    /// P3, by Terraform's own words.
    fn interrupts(&mut self) {
        let runs = self.of("run");
        for told in &runs {
            let run = text(told, "run");
            let signals = self.of_run("signal", run);
            let ends = self.of_run("end", run);
            let over = ends.iter().filter(|end| text(end, "what") == "run").map(|end| number(end, "at")).max();
            let stop = first_stop(&signals, &ends);
            self.verdict.figures.stopped += usize::from(stop.is_some_and(|stop| over.is_none_or(|over| stop < over)));
            let mut said = self.of_run("said", run);
            if told["attached"] == true {
                // There Terraform's words are among the run's.
                let terraform = self.of_run("process", run).first().map(|life| life["pid"].clone());
                let words = ends.iter().find(|end| text(end, "what") == "run").map(|end| end["text"].clone());
                said = vec![serde_json::json!({ "run": run, "pid": terraform, "text": words })];
            }
            for said in &said {
                self.interrupts_of(told, said, &signals, stop);
            }
        }
    }

    fn interrupts_of(&mut self, told: &Value, said: &Value, signals: &[Value], stop: Option<u64>) {
        let run = text(told, "run");
        let words = text(said, "text");
        let (ones, twos) =
            (words.matches("Interrupt received.").count(), words.matches("Two interrupts received").count());
        self.verdict.figures.interrupted += usize::from(ones > 0);
        let sent = |names: &[&str]| {
            let is_it = |signal: &&Value| signal["pid"] == said["pid"] && names.contains(&text(signal, "signal"));
            signals.iter().filter(is_it).map(|signal| number(signal, "at")).collect::<Vec<_>>()
        };
        let by_others = sent(&["SIGINT", "SIGTERM"]);
        // Who was suspended is told late, and who else interrupts it after tfguard did makes the second one himself.
        let is_theirs = match by_others[..] {
            [] => false,
            [at] => told["attached"] == true || stop.is_some_and(|stop| stop + TOGETHER < at),
            _ => true,
        };
        if (ones > 1 || twos > 0) && !is_theirs {
            self.breaks(
                "P3 two",
                format!("Terraform {} of run {run} was interrupted {} times", said["pid"], ones + twos),
            );
        }
        // None lost: it held its lock, was asked to stop, and was ended by nobody but tfguard.
        let Some(stop) = stop.filter(|_| ones == 0 && told["limited"] != true) else { return };
        let own = self.own.get(run).cloned().unwrap_or_default();
        let requests = self.of_run("request", run);
        let of_terraform = || requests.iter().filter(|request| !is_by_tfguard(request) && request["changes"] == true);
        let takes = |request: &&Value| {
            lock_in(&request["after"]).is_some_and(|lock| own.contains(&lock)) && lock_in(&request["before"]).is_none()
        };
        let Some(took) = of_terraform().filter(takes).map(|request| number(request, "applied")).max() else { return };
        let gave_back = of_terraform().any(|request| is_delete(request) && number(request, "arrived") > took);
        let lives = self.of_run("process", run);
        let gone = lives.iter().filter(|life| life["pid"] == said["pid"]).map(|life| number(life, "gone")).max();
        let helped = !sent(&["SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM"]).is_empty()
            || signals.iter().any(|signal| match text(signal, "signal") {
                "SIGKILL" => text(signal, "to") == "supervisor",
                "SIGSTOP" => ["front", "supervisor"].contains(&text(signal, "to")),
                _ => false,
            });
        // Its errors are in what its guard passed on.
        let failed = self.of_run("end", run).iter().any(|end| text(end, "text").contains("Error"));
        let ended_by_itself = failed || words.contains("complete!") || gave_back;
        if took < stop && gone.is_some_and(|gone| gone > stop) && !helped && !ended_by_itself {
            self.breaks("P3 lost", format!("Terraform {} of run {run} was killed without an interrupt", said["pid"]));
        }
    }

    /// P4: what is left was said to be.
    fn endings(&mut self) {
        for hang in self.of("hang") {
            self.breaks("P4 end", format!("{} of run {} did not end", hang["what"], text(&hang, "run")));
        }
        for end in self.of("end").iter().filter(|end| text(end, "text").contains("panicked at")) {
            self.breaks("P4 panic", format!("{} of run {} panicked", end["what"], text(end, "run")));
        }
        for alive in self.of("alive") {
            self.breaks("P4 alive", format!("after the last release there is {alive}"));
        }
        let lives = self.of("process");
        let runs = self.of("run");
        self.verdict.figures.runs = runs.len();
        self.verdict.figures.terraforms = lives.len();
        for told in &runs {
            let run = text(told, "run");
            let ends = self.of_run("end", run);
            for what in ["run", "last"] {
                if !ends.iter().any(|end| text(end, "what") == what) {
                    self.breaks("P4 end", format!("nothing is known of the end of run {run} ({what})"));
                }
            }
        }
        for left in self.of("left") {
            let Some(lock) = lock_in(&left["content"]) else { continue };
            let Some(run) = self.own.iter().find(|(_, own)| own.contains(&lock)).map(|(run, _)| run.clone()) else {
                continue;
            };
            let place = &left["place"];
            // Also others than guarded runs have locks.
            let is_guarded = runs.iter().any(|told| text(told, "run") == run);
            if left["when"] == "end" {
                if is_guarded {
                    self.breaks("P4 left", format!("lock {lock} of run {run} is left in {place}"));
                } else {
                    self.verdict.figures.foreign += 1;
                }
            } else if is_guarded && self.is_over(&run) {
                // What was killed says nothing, whatever a shell above it ends with, and a release not what came after it.
                let signals = self.of_run("signal", &run);
                let kills = signals.iter().filter(|signal| {
                    text(signal, "signal") == "SIGKILL" && ["front", "supervisor"].contains(&text(signal, "to"))
                });
                let killed = kills.map(|signal| number(signal, "at")).max();
                let ends = self.of_run("end", &run);
                let ends: Vec<_> = ends.iter().filter(|end| text(end, "what") != "last").collect();
                let says_so = |end: &Value| {
                    let code = end["code"].as_u64();
                    code == Some(120) || (code == Some(125) && text(end, "what") == "release")
                };
                let could_say = |end: &Value| {
                    let is_last = text(end, "what") == "release" && killed.is_none_or(|at| at < number(end, "began"));
                    end["code"].is_u64() && (killed.is_none() || is_last)
                };
                let names_it = ends.iter().any(|end| text(end, "text").contains(&lock));
                if names_it && ends.iter().any(|end| says_so(end)) {
                    self.verdict.figures.left += 1;
                } else if ends.iter().any(|end| could_say(end)) {
                    let why = format!("lock {lock} of run {run} was left in {place}, and nobody said so");
                    self.breaks("P4 unsaid", why);
                }
            }
        }
    }

    /// Nothing of a run lived any more when its CI had done all it does.
    fn is_over(&self, run: &str) -> bool {
        self.of_run("living", run).is_empty()
    }
}

/// When a run was asked to stop first: a signal to tfguard, the death of its front, or a release.
fn first_stop(signals: &[Value], ends: &[Value]) -> Option<u64> {
    let asks = |signal: &&Value| {
        ["front", "supervisor"].contains(&text(signal, "to"))
            && ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL"].contains(&text(signal, "signal"))
    };
    let signalled = signals.iter().filter(asks).map(|signal| number(signal, "at"));
    let released = ends.iter().filter(|end| text(end, "what") != "run").map(|end| number(end, "began"));
    signalled.chain(released).min()
}

fn is_delete(request: &Value) -> bool {
    text(request, "operation") == "DeleteItem"
        || (text(request, "operation").is_empty() && text(request, "method") == "DELETE")
}

/// The lock that the condition of a request to a table names: one that holds only while `Info` is as given.
fn in_condition(request: &Value) -> Option<String> {
    let body: Value = serde_json::from_str(text(request, "body")).ok()?;
    let condition = text(&body, "ConditionExpression");
    if [" OR ", "NOT ", "(Info", "<>"].iter().any(|word| condition.contains(word)) {
        return None;
    }
    let name = condition.split(" AND ").find_map(|part| part.trim().strip_prefix("Info = "))?;
    lock_of(body["ExpressionAttributeValues"][name]["S"].as_str()?)
}

/// The lease that the condition of a request to a table names.
fn named_lease(request: &Value) -> Option<Lease> {
    let body: Value = serde_json::from_str(text(request, "body")).ok()?;
    let condition = text(&body, "ConditionExpression");
    let name = condition.split(" AND ").find_map(|part| part.trim().strip_prefix("TfguardLease = "))?;
    lease_of(body["ExpressionAttributeValues"][name]["S"].as_str()?)
}

/// A state that a Terraform wrote.
fn is_upload(request: &Value) -> bool {
    request["changes"] == true
        && !is_by_tfguard(request)
        && text(request, "method") == "PUT"
        && text(request, "operation").is_empty()
        && text(request, "place").ends_with(".tfstate")
}

fn shown(request: &Value) -> String {
    let fields =
        ["run", "method", "operation", "place", "query", "if_match", "body", "before", "after", "status", "applied"];
    let fields = fields.map(|name| format!("{name}: {}", request[name]));
    format!("{{ {} }}", fields.join(", "))
}
