//! Writes the man pages of tfguard and its commands into a directory: `cargo run --example man -- <DIR>`.

use clap::CommandFactory as _;
use tfguard::cli::Cli;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).expect("usage: cargo run --example man -- <DIR>");
    std::fs::create_dir_all(&directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}
