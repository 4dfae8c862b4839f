//! The `tfguard` binary.

use std::process::ExitCode;

use clap::error::ErrorKind;
use tfguard::cli::{Cli, Instead};
use tfguard::exit;
use tfguard::run::{self, Plan};
use tfguard::say::{self, Volume};

fn main() -> ExitCode {
    let cli = match Cli::parse_all() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { exit::TFGUARD_FAILED });
        }
    };
    let volume = match (cli.quiet, cli.verbose) {
        (true, _) => Volume::Quiet,
        (false, true) => Volume::Verbose,
        (false, false) => Volume::Normal,
    };
    say::set_up(cli.log_format, volume);
    let ended = Plan::new(&cli).map_err(run::Failure::from).and_then(|plan| match (&cli.instead, &cli.supervise) {
        (Some(Instead::Release { wait }), _) => run::finish(&plan, *wait),
        (None, Some(session)) => run::supervise(&plan, session),
        (None, None) => run::run(&plan),
    });
    ended.map_or_else(
        |failure| {
            tracing::error!("{failure}");
            ExitCode::from(failure.exit_code())
        },
        ExitCode::from,
    )
}
