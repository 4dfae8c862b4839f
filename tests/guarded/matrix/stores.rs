//! Stores by others than moto: dynalite for the lock table, versitygw for the bucket.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::super::*;
use super::case::{Case, Origin};
use crate::templates::tools::{node, npm_package, skip};

const DYNALITE: &str = "dynalite@4.0.0";
/// Serves it on a free port until stdin ends. Its tables are there at once, and it doesn't close what the tests keep open.
const SERVE_DYNALITE: &str = "const server = require(process.argv[1])({createTableMs: 0});
server.keepAliveTimeout = 0;
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();";

/// A store, and what it is.
pub struct Store {
    pub name: String,
    /// It is the bucket, and not the table.
    lockfile: bool,
    aws: Aws,
    // Its objects, where they are files.
    _dir: Option<tempfile::TempDir>,
}

impl Store {
    /// Those that can be had here. For each other one the reason is on stderr.
    pub fn all() -> Vec<Self> {
        let mut stores = Vec::new();
        match dynalite() {
            Ok(store) => stores.push(store),
            Err(why) => skip(&format!("no dynalite, so its lock tables are not tried: {why}")),
        }
        match Tools::get().programs(Product::Versitygw).last() {
            Some((version, program)) => stores.push(versitygw(version, &program)),
            None => skip("no versitygw, so its lockfiles are not tried: the reason is above"),
        }
        stores
    }

    /// A Terraform, and the newest OpenTofu, with what this store locks.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let (origin, terraform) = match terraform_on_path() {
            Some(on_path) => (Origin::OnPath, Some(on_path)),
            None => (Origin::Library, Tools::get().terraforms().last().map(|(v, program)| (v.to_owned(), program))),
        };
        let tofu = Tools::get().programs(Product::OpenTofu).last().map(|(v, program)| (v.to_owned(), program));
        let programs = [(Product::Terraform, origin, terraform), (Product::OpenTofu, Origin::Built, tofu)];
        let cases = programs.into_iter().filter_map(|(product, origin, found)| {
            let (version, program) = found?;
            Some(Case {
                product,
                version,
                program,
                origin,
                table: !self.lockfile,
                lockfile: self.lockfile,
                aws: &self.aws,
            })
        });
        cases.collect()
    }
}

fn dynalite() -> Result<Store, String> {
    let module = npm_package(DYNALITE)?.join("dynalite");
    let (server, url) = listening(Command::new(node()).args(["-e", SERVE_DYNALITE]).arg(module).env_clear());
    // The states are moto's.
    let aws = Aws::at(server, Aws::shared().url(), &url);
    Ok(Store { name: format!("{} (npm), table", DYNALITE.replace('@', " ")), lockfile: false, aws, _dir: None })
}

fn versitygw(version: &str, program: &Path) -> Store {
    let dir = tempfile::Builder::new().prefix("tfguard-test-").tempdir().expect("a directory can be made");
    // It takes no port 0.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let address = address.expect("loopback can be listened on");
    let [(_, access), (_, secret)] = Aws::ENV;
    let mut server = Command::new(program);
    server.args(["--port", &address.to_string(), "--access", access, "--secret", secret, "--quiet", "posix"]);
    let server = server.arg(dir.path()).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let server = server.expect("versitygw can be started");
    let start = std::time::Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < SOON, "versitygw does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let aws = Aws::at(server, &format!("http://{address}"), Aws::shared().url());
    Store { name: format!("versitygw {version}, lockfile"), lockfile: true, aws, _dir: Some(dir) }
}
