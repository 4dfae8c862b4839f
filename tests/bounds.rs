//! Memory, time and descriptors stay flat, whatever comes: floods of records, a journal or an answer without end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::stage::*;
use crate::support::*;

/// What a test of memory takes for little, in KiB. A guarded run has some ten thousand.
const LITTLE: u64 = 64 * 1024;

/// An actor that is called `terraform`, so that its log is tfguard's.
pub(crate) fn terraform(stage: &Stage) -> PathBuf {
    let path = stage.dir().join("terraform");
    let words: Vec<_> = stage.actor().into_iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    make_program(&path, &format!("#!/bin/sh\nexec {}\n", words.join(" ")));
    path
}

/// What the actor needs to log locks as Terraform does.
const LOGS: &str = r#"
import datetime
global log, record, held, freed
log = open(os.environ["TF_LOG_PATH"], "ab", buffering=0)
def record(message, operation, number):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    who = f"ci@{os.uname().nodename}"
    log.write(f'{now} [INFO]  backend-s3: {message}: tf_backend.lock.id=4bb7d84c-f09d-7909-0219-{number:012x} tf_backend.lock.info="" tf_backend.lock.operation=OperationTypeApply tf_backend.lock.path=b/k tf_backend.lock.version=1.11.4 tf_backend.lock.who={who} tf_backend.operation={operation} tf_backend.req_id=x tf_backend.s3.bucket=b tf_backend.s3.path=k\n'.encode())
def held(number):
    record("Attempting to lock remote state (DynamoDB only)...", "Lock", number)
    record("Locked remote state (DynamoDB only)", "Lock", number)
def freed(number):
    record("Attempting to unlock remote state (DynamoDB only)...", "Unlock", number)
    record("Unlocked remote state (DynamoDB only)", "Unlock", number)
"#;

/// Waits until the supervisor has read of a lock in the log, and with it all before.
#[track_caller]
fn wait_for_lock(stage: &Stage, number: u64) {
    let [session] = stage.session_dirs().try_into().expect("one session");
    let id = format!("4bb7d84c-f09d-7909-0219-{number:012x}");
    let deadline = Instant::now() + 2 * SOON;
    while !fs::read_to_string(session.join("journal.json")).is_ok_and(|journal| journal.contains(&id)) {
        assert!(Instant::now() < deadline, "lock {number} is not in the journal");
        thread::yield_now();
    }
}

/// The actor, once it has logged that it holds a lock and the supervisor has read that.
#[track_caller]
pub(crate) fn under_lock(stage: &Stage) -> Actor {
    let child = stage.enter();
    child.perform(LOGS);
    child.perform("held(0)");
    wait_for_lock(stage, 0);
    child
}

/// The most memory that a process had so far, in KiB.
fn memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The CPU time that a process has taken, in ticks of 10 ms.
fn ticks(pid: Pid) -> u64 {
    [11, 12].map(|field| stat(pid, field).parse::<u64>().unwrap()).iter().sum()
}

#[test]
fn ten_thousand_records_cost_no_descriptor_and_little_memory() {
    let stage = Stage::new();
    let run = stage.tfguard(&[], [terraform(&stage), "apply".into()]).start();
    let child = under_lock(&stage);
    let processes = [run.pid(), child.parent];
    let before = processes.map(descriptors);
    child.perform("for _ in range(2500): held(1), freed(1)");
    child.perform("held(2)");
    wait_for_lock(&stage, 2);
    // One that is open for a moment is no leak.
    let deadline = Instant::now() + SOON;
    while processes.map(descriptors).iter().zip(&before).any(|(now, before)| now > before) {
        assert!(Instant::now() < deadline, "{:?} descriptors, {before:?} before", processes.map(descriptors));
        thread::yield_now();
    }
    for pid in processes {
        assert!(memory(pid) < LITTLE, "{pid}: {} KiB", memory(pid));
    }
    child.perform("freed(0), freed(2)");
    child.exit(0);
    run.wait(SOON).expect_code(0);
    stage.assert_clean();
}

/// A log that grows faster than it is read must not keep out a request to stop.
#[test]
fn a_log_that_is_never_read_to_its_end_keeps_no_stop_out() {
    let stage = Stage::new();
    let run = stage.tfguard(&[], [terraform(&stage), "apply".into()]).start();
    let child = under_lock(&stage);
    // Of a file full of holes, which costs the child nothing.
    child.perform(
        "import threading, time\n\
         global grower, enough\n\
         enough = threading.Event()\n\
         def grow():\n\
         \x20   while not enough.wait(0.1): log.truncate(os.fstat(log.fileno()).st_size + (1 << 28))\n\
         grower = threading.Thread(target=grow)\n\
         grower.start()",
    );
    run.signal(Signal::SIGTERM);
    child.wait_for_signal(Signal::SIGINT);
    child.perform("enough.set(), grower.join(), log.write(b'\\n')");
    child.perform("freed(0)");
    child.exit(1);
    run.wait(2 * SOON).expect_code(1);
    stage.assert_clean();
}

/// A tfguard that may have so much memory, in KiB, and is killed where it wants more.
fn in_memory(stage: &Stage, most: u64) -> Run {
    stage.run("sh").args(["-c", &format!("ulimit -v {most}; exec \"$@\""), "sh", TFGUARD])
}

#[test]
fn a_journal_of_a_gigabyte_is_refused_at_once() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let [session] = stage.session_dirs().try_into().unwrap();
    let path = session.join("journal.json");
    let journal = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    run.kill_with_supervisor(&journal);
    child.exit(0);
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let exit = in_memory(&stage, 400_000).args(["release", "--wait", "1s"]).start().wait(SOON).expect_code(125);
    assert!(exit.err().contains(path.to_str().unwrap()) && exit.err().contains("bytes"), "{exit}");
    assert_eq!(stage.session_dirs(), [session], "nobody knows what it was");
}

/// A server on loopback whose answers have no end.
struct Endless {
    url: String,
    closing: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Endless {
    /// `head`: of each answer. `piece`: what its body consists of.
    fn start(head: &'static str, piece: &'static [u8]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (closing, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_closing, counts) = (closing.clone(), sent.clone());
        let thread = thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                if is_closing.load(Ordering::Relaxed) {
                    break;
                }
                let counts = counts.clone();
                // It ends when the client goes away.
                thread::spawn(move || {
                    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let begun = connection.write_all(head.as_bytes());
                    let body = piece.repeat(64 * 1024 / piece.len());
                    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
                    while begun.is_ok() && connection.write_all(&chunk).is_ok() {
                        counts.fetch_add(body.len() as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { url, closing, sent, thread: Some(thread) }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if TcpStream::connect(self.url.trim_start_matches("http://")).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[test]
fn an_answer_without_end_is_given_up_in_little_memory() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Type: application/x-amz-json-1.0\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
    let server = Endless::start(HEAD, b" ");
    let stage = Stage::new();
    let record = serde_json::json!({"version": 3, "backend": {"type": "s3", "hash": 1, "config": {
        "bucket": "b", "key": "k", "region": "eu-west-1", "use_lockfile": true, "dynamodb_table": "t",
        "endpoints": {"s3": server.url, "dynamodb": server.url}, "use_path_style": true,
    }}});
    fs::create_dir(stage.work().join(".terraform")).unwrap();
    fs::write(stage.work().join(".terraform/terraform.tfstate"), record.to_string()).unwrap();
    let commands: [&[&str]; 3] = [&["inspect"], &["locks", "--bucket", "b"], &["locks", "--table", "t"]];
    for command in commands {
        let before = server.sent.load(Ordering::Relaxed);
        let run = in_memory(&stage, 600_000).args(command).env("AWS_ENDPOINT_URL", &server.url);
        let run = run.env("AWS_REGION", "eu-west-1").env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        let exit = run.start().wait(2 * SOON);
        assert!(exit.code.is_some_and(|code| code > 0), "{command:?}: {exit}");
        let sent = server.sent.load(Ordering::Relaxed) - before;
        assert!(sent > 0 && sent < 512 * 1024 * 1024, "{command:?}: {sent} bytes were taken, {exit}");
    }
}

/// What stands in the documents. With `TFGUARD_TEST_STATIC` of the binary that users have.
#[test]
#[ignore = "it measures for minutes"]
fn figures() {
    let program = std::env::var_os("TFGUARD_TEST_STATIC").unwrap_or_else(|| TFGUARD.into());
    let measure = |what: &str, code: &str, reads_log: bool| {
        let stage = Stage::new();
        let mut run = stage.run(&program).arg("--").arg(terraform(&stage)).arg("apply").hand_stdout().start();
        let mut output = run.take_stdout();
        let reader = thread::spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0_u64);
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                bytes += length as u64;
            }
            bytes
        });
        let child = under_lock(&stage);
        let processes = [run.pid(), child.parent];
        let (before, cpu, began) = (processes.map(descriptors), processes.map(ticks), Instant::now());
        child.begin(&format!("exec({code:?})"));
        child.answer();
        let written = began.elapsed();
        if reads_log {
            child.perform("held(2)");
            wait_for_lock(&stage, 2);
        }
        let read = began.elapsed();
        let cpu = [0, 1].map(|at| 10 * (ticks(processes[at]) - cpu[at]));
        println!(
            "{what}: written in {written:.1?}, read after {read:.1?}; front {} KiB, {} ms of CPU; supervisor {} KiB, {} ms of \
             CPU; descriptors {before:?}, then {:?}",
            memory(processes[0]),
            cpu[0],
            memory(processes[1]),
            cpu[1],
            processes.map(descriptors),
        );
        child.perform("freed(0), freed(2)");
        child.exit(0);
        run.wait(2 * SOON).expect_code(0);
        println!("  and {} bytes were passed on", reader.join().unwrap());
        stage.assert_clean();
    };
    measure("idle for 30 s", "__import__('time').sleep(30)", false);
    measure("10 000 records of locks", "for _ in range(2500): held(1), freed(1)", true);
    let lines =
        "b'2026-11-20T05:59:16.043Z [DEBUG] provider.terraform-provider-aws: said: key=value other=more\\n' * 10000";
    measure("1 GB of log", &format!("for piece in [{lines}] * 1075: log.write(piece)"), true);
    measure("5 GB of log in one line", "log.truncate(5 << 30), log.write(b'\\n')", true);
    measure("1 GB of output", "for piece in [b'x' * 1023 + b'\\n'] * (1 << 20): os.write(1, piece)", true);
}

/// Something that the command leaves behind, and that makes a file longer for ever, with nothing on the disk.
fn flood(file: &str) -> String {
    format!("(while :; do truncate -s +4M {file}; done) & while [ ! -s {file} ]; do :; done")
}

/// Guards against a run that goes on for as long as a background process writes faster than the output is read.
#[test]
fn a_flood_of_output_that_outlives_the_command_is_not_waited_for() {
    let stage = Stage::new();
    let guarded = ["sh", "-c", "\"$@\" | cat > /dev/null", "sh"];
    let run = stage.run(guarded[0]).args(&guarded[1..]).args([TFGUARD, "--detach", "--", "sh", "-c"]);
    run.arg(flood("/dev/stdout")).start().wait(SOON).expect_code(0);
}

/// The same for who writes to the log.
#[test]
fn nor_is_one_into_the_log() {
    let stage = Stage::new();
    let script = flood("\"$TF_TEMP_LOG_PATH\"");
    stage.tfguard(&[], ["sh", "-c", &script]).start().wait(SOON).expect_code(0);
}

/// Guards against a supervisor that takes thirty times what a flood of short lines has, to look who has the lock.
#[test]
fn short_lines_take_no_more_memory_than_long_ones() {
    let stage = Stage::new();
    let run = stage.run("sh").args(["-c", "ulimit -d 20480; exec \"$@\"", "sh", TFGUARD, "--detach", "--", "sh", "-c"]);
    let exit = run.arg("yes '' | head -c 1048576 >&2; exit 1").run().expect_code(1);
    assert!(!exit.err().contains("supervisor"), "{exit}");
}
