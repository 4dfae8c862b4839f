//! What a setup action's wrapper does when its Terraform has ended, done in its place: the step's outputs `stdout`, `stderr`
//! and `exitcode`, and a line that makes an error an annotation (`wrapper/terraform.js` of setup-terraform 4,
//! `wrapper/tofu.js` of setup-opentofu 2). The exit code is in [`Account::exit_code`].

use std::io;

use crate::files;
use crate::model::{Account, Ending};
use crate::report::ci;
use crate::run::plan::Plan;
use crate::session::{SessionDir, SessionFile};

/// How many bytes of a stream an output has: more than a plan of a large state prints.
const MOST: u64 = 16 * 1024 * 1024;

/// Does what the wrapper does, where this run stepped over one. Gives what it adds to stdout.
///
/// Unlike the wrapper it sets `exitcode` also of a Terraform that died (128 + n): where it is not set, GitHub's expressions
/// take it for 0.
pub fn conclude(plan: &Plan, session: &SessionDir, account: &Account) -> Option<String> {
    if !plan.wrapped {
        return None;
    }
    let code = account.ending.map_or(crate::exit::TFGUARD_FAILED, Ending::code);
    if let Some(path) = plan.wrapper_outputs() {
        let streams = [("stdout", SessionFile::Stdout), ("stderr", SessionFile::Stderr)];
        // On a terminal there are none of them.
        let streams = streams.into_iter().filter_map(|(name, file)| Some((name, end_of(session, name, file).ok()?)));
        ci::set_outputs(path, &streams.chain([("exitcode", code.to_string())]).collect::<Vec<_>>());
    }
    let name = account.product().name();
    let failed = matches!(account.ending, Some(Ending::Exited { .. })) && !matches!(code, 0 | 2);
    failed.then(|| format!("::error::{name} exited with code {code}.\n"))
}

/// What was written to a stream; of more than [`MOST`] bytes its last lines.
fn end_of(session: &SessionDir, name: &str, file: SessionFile) -> io::Result<String> {
    let file = session.open_file(file)?;
    let end = file.metadata()?.len();
    let from = end.saturating_sub(MOST);
    let bytes = files::tail(&file, MOST)?;
    if from == 0 {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    let line = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let left_out = format!("the first {} bytes of {end} are left out", from + line as u64);
    tracing::warn!("the step's output `{name}`, which the wrapper would have set: {left_out}");
    Ok(format!("[tfguard: {left_out}]\n{}", String::from_utf8_lossy(&bytes[line..])))
}
