//! Watches the machine's processes from outside: when each Terraform of a guarded run was born and gone, and what it wrote.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// Between two looks. Nothing that matters is that quick: what must be exact, `api.py` looks at itself.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A process that has no mark by then is none of ours.
const LOOKS: u32 = 4;

/// Nanoseconds of the clock that all processes share.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// A process, as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// File name of its program.
    pub program: String,
    pub line: String,
    /// The credentials that it was started with: its run's.
    pub run: String,
}

/// Field `at` of `/proc/PID/stat`, counted from 1, from the third on (proc_pid_stat(5)). None of what is dead.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect();
    (!matches!(fields.first()?.as_str(), "Z" | "X")).then_some(fields)
}

fn program(pid: i32) -> Option<String> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(program.file_name()?.to_string_lossy().into_owned())
}

fn run_of(pid: i32) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"AWS_ACCESS_KEY_ID="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn process(pid: i32) -> Option<Process> {
    let run = run_of(pid)?;
    let fields = stat(pid)?;
    let field = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(Process {
        pid,
        parent: field(1)?,
        group: field(2)?,
        program: program(pid)?,
        line: String::from_utf8_lossy(&line).replace('\0', " "),
        run,
    })
}

/// What lives now of the runs whose credentials begin so.
pub fn processes(run: &str) -> Vec<Process> {
    pids().filter_map(process).filter(|process| process.run.starts_with(run)).collect()
}

struct Life {
    run: String,
    pid: i32,
    started: String,
    born: u64,
    /// When it was seen last.
    seen: u64,
    gone: Option<u64>,
    /// The file that it writes to, where that is one: it can be read also when it was unlinked.
    output: Option<File>,
}

/// Looks until it is dropped.
pub struct Recorder {
    lives: Arc<Mutex<Vec<Life>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Recorder {
    pub fn start() -> Self {
        let (lives, stop) = (Arc::<Mutex<Vec<Life>>>::default(), Arc::<AtomicBool>::default());
        let (shared, stopped) = (Arc::clone(&lives), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (here, mut strangers) = (super::bed::credentials_here(), HashMap::new());
            while !stopped.load(Ordering::Relaxed) {
                look(&here, &shared, &mut strangers);
                thread::sleep(LOOK_EVERY);
            }
        });
        Self { lives, stop, thread: Some(thread) }
    }

    /// Takes what is known of the schedule whose credentials begin so.
    pub fn take(&self, schedule: &str) -> Vec<Value> {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, kept) = lives.drain(..).partition(|life| life.run.starts_with(schedule));
        *lives = kept;
        let taken: Vec<Life> = taken;
        let lines = taken.iter().flat_map(|life| {
            let Life { run, pid, born, seen, gone, .. } = life;
            let alive = json!({ "kind": "process", "run": run, "pid": pid, "born": born, "seen": seen, "gone": gone });
            [Some(alive), said(life)]
        });
        lines.flatten().collect()
    }

    /// Whether a Terraform of the run has written this.
    pub fn has_said(&self, run: &str, text: &str) -> bool {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = lives.iter().filter(|life| life.run == run);
        of_run.filter_map(said).any(|said| said["text"].as_str().is_some_and(|said| said.contains(text)))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn said(life: &Life) -> Option<Value> {
    let file = life.output.as_ref()?;
    let mut bytes = vec![0; 1 << 16];
    let length = file.read_at(&mut bytes, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    Some(json!({ "kind": "said", "run": life.run, "pid": life.pid, "text": text }))
}

fn look(here: &str, lives: &Mutex<Vec<Life>>, strangers: &mut HashMap<i32, u32>) {
    let now = now();
    let alive: Vec<_> = pids().collect();
    strangers.retain(|pid, _| alive.contains(pid));
    let mut known = Vec::new();
    {
        let mut lives = lives.lock().unwrap_or_else(PoisonError::into_inner);
        for life in lives.iter_mut().filter(|life| life.gone.is_none()) {
            let lives_on = stat(life.pid).is_some_and(|fields| fields.get(19) == Some(&life.started));
            if lives_on {
                life.seen = now;
                known.push(life.pid);
            } else {
                life.gone = Some(now);
            }
        }
    }
    for pid in alive {
        if known.contains(&pid) || strangers.get(&pid).is_some_and(|looks| *looks > LOOKS) {
            continue;
        }
        // What is tfguard now may be about to become a Terraform.
        let Some(run) = run_of(pid).filter(|run| run.starts_with(here)) else {
            *strangers.entry(pid).or_default() += 1;
            continue;
        };
        match program(pid) {
            Some(program) if program == "terraform" => {
                let Some(started) = stat(pid).and_then(|fields| fields.get(19).cloned()) else { continue };
                let output = Path::new("/proc").join(pid.to_string()).join("fd/1");
                let output = fs::metadata(&output).is_ok_and(|file| file.is_file()).then(|| File::open(output).ok());
                let life = Life { run, pid, started, born: now, seen: now, gone: None, output: output.flatten() };
                lives.lock().unwrap_or_else(PoisonError::into_inner).push(life);
            }
            Some(program) if program == "tfguard" => {}
            _ => *strangers.entry(pid).or_default() += 1,
        }
    }
}
