//! Compares what was seen from outside with the promises of docs/guarantees.md. Reads nothing but the evidence, one JSON object a
//! line, and shares no code with tfguard or with what acts in a schedule.
//!
//! | `kind` | What it is, and its fields |
//! |---|---|
//! | `run` | A guarded run: `run`, its credentials; `attached`; `limited`, its Terraform may fail of what it lacks or of what it runs |
//! | `request` | What changed, or might have changed, something in the API; see `api.py` |
//! | `process` | A Terraform's life: `run`, `pid`, `born`, `gone` (no number: it lives) |
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
        verdict: Verdict::default(),
    };
    checker.lines.sort_by_key(|line| number(line, "applied"));
    checker.requests();
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
        for request in requests.iter().filter(|request| request["changes"] == true) {
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
        if is_object && !place.ends_with(".tflock") {
            return self.breaks("P1 kind", format!("nothing but a lock's object is tfguard's to change: {what}"));
        }
        if let Some(lock) = before.filter(|lock| after != Some(lock))
            && !self.is_own(run, lock)
        {
            self.breaks("P1 foreign", format!("lock {lock} is not of run {run}: {what}"));
        }
        if !is.is_null() && (was["Info"] != is["Info"] || was["body"] != is["body"]) {
            self.breaks("P1 content", format!("the lock was changed: {what}"));
        }
        let named: Vec<String> = match (text(request, "method"), text(request, "operation")) {
            (_, "DeleteItem" | "UpdateItem") => in_condition(request).into_iter().collect(),
            ("PUT", "") if text(request, "query").contains("tagging") => return,
            ("DELETE", "") => match request["if_match"].as_str() {
                Some(etag) => self.etags.get(etag.trim_matches('"')).into_iter().flatten().cloned().collect(),
                None => Vec::new(),
            },
            _ => return self.breaks("P1 kind", format!("tfguard sends no such request: {what}")),
        };
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
        if text(request, "place").contains(".tflock.tfguard-") {
            return;
        }
        let at_once = request["alive"].as_array().cloned().unwrap_or_default();
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

fn shown(request: &Value) -> String {
    let fields =
        ["run", "method", "operation", "place", "query", "if_match", "body", "before", "after", "status", "applied"];
    let fields = fields.map(|name| format!("{name}: {}", request[name]));
    format!("{{ {} }}", fields.join(", "))
}
