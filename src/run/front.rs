//! The front of a detached run: the process that the CI started. It starts the supervisor, copies the child's output
//! from the spool to the CI's log, passes requests to stop on, and reports. Front and supervisor talk in JSON, one object a line,
//! over a socket pair.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::FutureExt as _;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::ci;
use crate::model::{Account, ProcessId, StopRequest};
use crate::run::job::Job;
use crate::run::lease::holder;
use crate::run::options::Supervise;
use crate::run::output::{Output, same_file, spools};
use crate::run::plan::Plan;
use crate::run::requests::Requests;
use crate::run::spool::Spool;
use crate::run::supervisor::{MOST_REQUESTS, Supervisor};
use crate::run::{Failure, conclude, new_journal, requests};
use crate::session::{Journal, POLL_INTERVAL, SessionDir, SessionFile};

/// How long the supervisor waits for the front at most when all is over.
const FRONT_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Fills the session directory and starts the supervisor in it.
fn start(plan: &Plan, session: &SessionDir) -> Result<(StdStream, Output), Failure> {
    session.create_file(SessionFile::Stdout)?;
    // The outputs of a wrapper tell them apart.
    if plan.wrapper_outputs().is_some() || !same_file(io::stdout().as_fd(), io::stderr().as_fd()) {
        session.create_file(SessionFile::Stderr)?;
    }
    new_journal(plan, session).write(session)?;
    // From here on the supervisor writes it.
    session.close_journal();
    let (ours, theirs) = StdStream::pair().map_err(Failure::Start)?;
    let spools = spools(session);
    // Kept until the supervisor has them: the relay closes its own whenever it likes.
    let watches: Vec<_> = spools.iter().flatten().filter_map(Spool::watched_by).collect();
    // First what the system may not give: nothing runs yet.
    let output = Output::relay(spools, false).map_err(Failure::Start)?;
    spawn_supervisor(plan, session, theirs.into(), &watches).map_err(Failure::Start)?;
    // Terraform's alone: who feeds it must see when it reads no more.
    let _ = null().map(dup2_stdin);
    Ok((ours, output))
}

/// Starts this program again as the supervisor: in a session of its own, not our child but the init process's, without
/// the variables by which CI systems hunt processes. Its stdout is the control socket.
///
/// It also has the descriptors `watches`, and outlives the front: the kernel takes its time where the last one of a watch is
/// closed, and the CI is not to wait for that.
fn spawn_supervisor(plan: &Plan, session: &SessionDir, socket: OwnedFd, watches: &[OwnedFd]) -> io::Result<()> {
    let mut supervisor = Command::new("/proc/self/exe");
    let watches = watches.iter().map(AsRawFd::as_raw_fd).collect();
    let supervise = Supervise { session: session.path().to_owned(), watches };
    supervisor.arg0("tfguard").args(supervise.words()).args(&plan.options.command_line);
    for name in ci::hunting_variables() {
        supervisor.env_remove(name);
    }
    let errors = session.create_file(SessionFile::SupervisorStderr).map_err(io::Error::other)?;
    supervisor.stdout(Stdio::from(socket)).stderr(Stdio::from(errors));
    // SAFETY: fcntl, setsid, fork and _exit are async-signal-safe: threads that looked up names for `--reclaim` do no harm.
    unsafe {
        supervisor.pre_exec(move || {
            for watch in &supervise.watches {
                libc::fcntl(*watch, libc::F_SETFD, 0);
            }
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            // The first child ends here, so that the second, which goes on to exec, is reparented.
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => Ok(()),
                _ => libc::_exit(0),
            }
        });
    }
    supervisor.spawn()?.wait()?;
    Ok(())
}

/// Runs a command detached; gives tfguard's exit code.
pub async fn front(
    plan: &Plan,
    session: &SessionDir,
    to_us: UnboundedSender<StopRequest>,
    mut requests: Requests,
) -> Result<u8, Failure> {
    let (socket, output) = start(plan, session).inspect_err(|_| {
        crate::log::directly();
        session.remove();
    })?;
    reap_as_init().map_err(Failure::Start)?;

    let (mut incoming, mut outgoing) = open_socket(socket).map_err(Failure::Start)?;
    let mut passed_on = Vec::new();
    let suspended = holder::suspended_supervisor(session, plan.lease);
    let told = converse(&mut incoming, &mut outgoing, &mut requests, &mut passed_on, suspended).await;
    let account = match told {
        Some(told) => told,
        None => {
            for request in passed_on {
                let _ = to_us.send(request);
            }
            let taken_over = take_over(plan, session, &mut requests).await;
            let is_removed = !session.exists();
            taken_over.map_err(|failure| match failure {
                _ if is_removed => Failure::FinishedByRelease,
                Failure::SupervisorDied | Failure::NotTakenOver(_) => failure,
                failure => Failure::NotTakenOver(failure.to_string().lines().next().unwrap_or_default().to_owned()),
            })
        }
    };
    let account = match account {
        Ok(account) => account,
        Err(failure) => {
            // Where the dead supervisor's session cannot be used, its command may run: somebody will want to look.
            if matches!(failure, Failure::NotStarted { .. } | Failure::SupervisorDied) {
                session.remove();
            }
            // The words go the way of all words: through the relay.
            crate::log::mute(false);
            tracing::error!("{failure}");
            output.finish(&mut requests).await;
            return Ok(failure.exit_code());
        }
    };
    let (summary, heard) = output.finish_with(plan, session, &account, &mut requests).await;
    // What this process says may be read by nobody (a step of GitHub's in a container), so `tfguard release` says it, too.
    if !session.is_attended() {
        crate::run::clean_up(session, &account, plan.outer.is_some() || (!heard && account.is_noteworthy()));
    }
    if plan.outer.is_none() {
        plan.publisher.publish(&[summary]).await;
    }
    Ok(account.exit_code())
}

/// Passes on what is asked and said until the supervisor tells how it ended. None if it was killed. `passed_on`: what it may
/// never have read. `suspended`: gives the supervisor once it is to be replaced because it stands still.
async fn converse(
    incoming: &mut Incoming,
    outgoing: &mut OwnedWriteHalf,
    requests: &mut Requests,
    passed_on: &mut Vec<StopRequest>,
    suspended: impl Future<Output = ProcessId>,
) -> Option<Result<Account, Failure>> {
    let mut suspended = std::pin::pin!(suspended.fuse());
    loop {
        tokio::select! {
            message = next(incoming) => match message? {
                ToFront::Say(line) => crate::log::raw(crate::log::painted(&line)),
                ToFront::NotStarted { error, code } => return Some(Err(Failure::NotStarted { error, code })),
                ToFront::Ended(account) => {
                    // As PID 1 of a container this process must not end before the supervisor has.
                    while next::<ToFront>(incoming).await.is_some() {}
                    return Some(Ok(*account));
                }
            },
            // More than the socket takes would wait for a supervisor that stands still.
            Some(request) = requests.recv() => if passed_on.len() < MOST_REQUESTS {
                send(outgoing, &request).await;
                passed_on.push(request);
            },
            supervisor = &mut suspended => {
                tracing::warn!(
                    "tfguard's supervisor (process {}) is suspended, so nobody renews the lease of the lock: killing it",
                    supervisor.pid
                );
                supervisor.signal(Signal::SIGKILL);
            }
        }
    }
}

/// The supervisor was killed. Terraform may be alive: this process supervises it from here on.
async fn take_over(plan: &Plan, session: &SessionDir, requests: &mut Requests) -> Result<Account, Failure> {
    let words = session.read_file(SessionFile::SupervisorStderr).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    tracing::warn!(
        "tfguard's supervisor was killed; this process takes its place{}{words}",
        if words.is_empty() { "" } else { ": " }
    );
    let _claim = loop {
        if let Some(claim) = session.claim()? {
            break claim;
        }
        // `tfguard release` was quicker; it may be killed too. Or a child that is just becoming its command has a copy
        // of the dead supervisor's claim for a moment.
        match Journal::read(session)?.supervisor.filter(|other| other.is_alive()) {
            Some(other) => other.gone().await,
            None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    };
    let journal = Journal::read(session)?;
    if journal.account.ended.is_some() {
        // Its supervisor may not have come so far.
        conclude(plan, session, &journal.account);
        return Ok(journal.account);
    }
    let job = Job::new(plan, session.clone(), &journal);
    let supervisor = Supervisor::take_over(&job, journal);
    let supervisor = supervisor.map_err(|error| Failure::NotTakenOver(error.to_string()))?;
    let supervisor = supervisor.ok_or(Failure::SupervisorDied)?;
    let account = supervisor.run(requests).await;
    conclude(plan, session, &account);
    Ok(account)
}

/// As PID 1 of a container, buries every orphan.
fn reap_as_init() -> io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let mut children = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
    tokio::spawn(async move {
        while children.recv().await.is_some() {
            while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
        }
    });
    Ok(())
}

/// The supervisor's process: everything after its start by the front.
pub fn supervise(plan: &Plan, Supervise { session, watches }: &Supervise) -> Result<u8, Failure> {
    for watch in watches {
        // SAFETY: sets a flag of a descriptor that this process inherited, so that the command does not.
        unsafe { libc::fcntl(*watch, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // By its path it is `exe` for `ps` and `top`.
    let _ = nix::sys::prctl::set_name(c"tfguard");
    let session = SessionDir::open(session)?;
    let Some(claim) = session.claim_first()? else { return Err(Failure::SupervisorDied) };
    let socket = take_stdout().map_err(Failure::Start)?;
    // The kernel frees a long output when the last who has it open ends. Nobody waits for this process.
    let _held = [SessionFile::Stdout, SessionFile::Stderr].map(|spool| session.open_file(spool));
    let runtime = super::runtime().map_err(Failure::Start)?;
    runtime.block_on(async {
        let (mut incoming, mut outgoing) = open_socket(socket).map_err(Failure::Start)?;
        let (to_front, mut messages) = unbounded_channel::<ToFront>();
        let says = to_front.clone();
        crate::log::through(move |line| drop(says.send(ToFront::Say(line))));
        let sender = tokio::spawn(async move {
            // The front may be gone; what is said then stays in the journal.
            while let Some(message) = messages.recv().await {
                let last = matches!(message, ToFront::Ended(_) | ToFront::NotStarted { .. });
                send(&mut outgoing, &message).await;
                if last {
                    return;
                }
            }
        });
        let (to_us, mut requests) = unbounded_channel();
        requests::from_signals(to_us.clone(), plan.heed_hangup, true, plan.outer.clone()).map_err(Failure::Start)?;
        crate::log::mute(plan.is_muted());
        let mut journal = Journal::read(&session)?;
        journal.supervisor = ProcessId::own();
        let job = Job::new(plan, session.clone(), &journal);
        let mut front = None;
        let message = match started(&job, journal) {
            Ok(supervisor) => {
                requests::once_started(plan, &job, &to_us);
                front = Some(tokio::spawn(async move {
                    while let Some(request) = next(&mut incoming).await {
                        let _ = to_us.send(request);
                    }
                    let _ = to_us.send(StopRequest::FrontDied);
                }));
                let account = supervisor.run(&mut requests).await;
                conclude(plan, &session, &account);
                ToFront::Ended(Box::new(account))
            }
            Err(failure) => ToFront::NotStarted { error: failure.to_string(), code: failure.exit_code() },
        };
        session.close_journal();
        drop(claim);
        let _ = to_front.send(message);
        let _ = sender.await;
        if let Some(front) = front {
            let _ = tokio::time::timeout(FRONT_ENDS_WITHIN, front).await;
        }
        Ok(0)
    })
}

fn started(job: &Job, mut journal: Journal) -> Result<Supervisor<'_>, Failure> {
    journal.create_log(&job.session)?;
    let stdout = job.session.append_to(SessionFile::Stdout).map_err(Failure::Start)?;
    let stderr = job.session.append_to(SessionFile::Stderr).ok();
    let supervisor = Supervisor::start(job, journal, crate::run::child::Output::Spool { stdout, stderr })?;
    // Terraform has its own copy; ours would keep the CI's pipe open after the front is gone.
    let _ = null().map(dup2_stdin);
    Ok(supervisor)
}

/// Takes the control socket from stdout, where the front put it, and leaves /dev/null there.
fn take_stdout() -> io::Result<StdStream> {
    let socket = io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(null()?)?;
    Ok(socket.into())
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// From the supervisor to the front.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ToFront {
    /// It could not be started; nothing happened.
    NotStarted {
        /// Why.
        error: String,
        /// The exit code that says it.
        code: u8,
    },
    /// A line for the user, ready to be printed.
    Say(String),
    /// Everything is accounted for. The spool is complete.
    Ended(Box<Account>),
}

/// The messages of the other side, one a line.
type Incoming = Lines<BufReader<OwnedReadHalf>>;

/// Makes both ends of a side's socket.
fn open_socket(socket: StdStream) -> io::Result<(Incoming, OwnedWriteHalf)> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    Ok((BufReader::new(read).lines(), write))
}

/// The next message; none when the other side is gone. What isn't a message (a newer tfguard's) is passed over.
async fn next<T: DeserializeOwned>(incoming: &mut Incoming) -> Option<T> {
    loop {
        let line = incoming.next_line().await.ok()??;
        match serde_json::from_str(&line) {
            Ok(message) => return Some(message),
            Err(error) => tracing::debug!("message not understood: {error}"),
        }
    }
}

/// Sends a message, if the other side is there.
async fn send(outgoing: &mut OwnedWriteHalf, message: &impl Serialize) {
    let Ok(mut line) = serde_json::to_vec(message) else { return };
    line.push(b'\n');
    let _ = outgoing.write_all(&line).await;
}
