//! The `tfguard` binary.

use std::process::ExitCode;

use tfguard::cli::{Action, Cli};
use tfguard::commands::release;
use tfguard::model::Environment;
use tfguard::run::Plan;
use tfguard::{ci, exit, log, run, terraform};
use tracing::level_filters::LevelFilter;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    exit::at_a_panic();
    heed_signals();
    let env = Environment::own();
    let parsed = match std::env::args_os().next().and_then(|called| terraform::called_for(&called, &env)) {
        None => Cli::parse_all(),
        Some(Ok(real)) => match run::pass_on(&real, &env) {
            Ok(()) => Cli::of_shim(real.into()),
            Err(failure) => {
                eprintln!("tfguard: error: {failure}");
                return ExitCode::from(failure.exit_code());
            }
        },
        Some(Err(error)) => {
            eprintln!("tfguard: error: {error}");
            return ExitCode::from(exit::NOT_FOUND);
        }
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(refusal) => return ExitCode::from(refusal.tell()),
    };
    let level = match (cli.output.quiet, cli.output.verbose) {
        (true, _) => LevelFilter::WARN,
        (false, true) => LevelFilter::DEBUG,
        (false, false) => LevelFilter::INFO,
    };
    log::set_up(cli.output.log_format, level, ci::colours_messages(std::io::stderr()));
    for warning in &cli.warnings {
        tracing::warn!("{warning}");
    }
    let cleanup = match &cli.action {
        Some(Action::Task(command)) => {
            return command.run().map_or_else(|failure| fail(&failure, exit::TFGUARD_FAILED), ExitCode::from);
        }
        Some(Action::Completions { shell }) => {
            return Cli::completions(*shell)
                .map_or_else(|failure| fail(&failure, exit::TFGUARD_FAILED), ExitCode::from);
        }
        Some(Action::Release(asked)) => Some(*asked),
        None => None,
    };
    let ended = Plan::new(&cli.run).and_then(|plan| match (cleanup, &cli.run.supervise) {
        (Some(cleanup), _) => release::run(&plan, cleanup),
        (None, Some(supervise)) => run::supervise(&plan, supervise),
        (None, None) => run::run(plan),
    });
    ended.map_or_else(|failure| fail(&failure, failure.exit_code()), ExitCode::from)
}

fn fail(why: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Also one that leaves the telling to the guard around it.
    log::mute(false);
    tracing::error!("{why}");
    ExitCode::from(code)
}

/// Whoever started this process may have blocked every signal, so that no request to stop would be heard, or ignore SIGCHLD,
/// so that the kernel would keep the end of no child. Both are inherited.
fn heed_signals() {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    let _ = SigSet::all().thread_unblock();
    // SAFETY: no handler is set, and nothing else runs yet.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}
