//! Real OpenTofu, Terraform up to 1.8, Terragrunt, act, Buildkite's agent, versitygw and actionlint, built once on this machine by `go`
//! from pinned modules of the Go module proxy, with the user's own settings and caches of `go`. (From 1.9 on Terraform's
//! module needs parts of its repository that are no modules of their own, so it cannot be built so.)
//!
//! `TFGUARD_TEST_TOOLS` says which of them the tests use: `ci` (the default), `all` or `none`. A build takes minutes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;

use serde_json::Value;

use super::tools::{Tools, hash, output_of, say};

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    OpenTofu,
    Terraform,
    Terragrunt,
    Act,
    Versitygw,
    BuildkiteAgent,
    Actionlint,
}

/// A version that can be built.
struct Pin {
    product: Product,
    version: &'static str,
    /// Whether it is among those of `TFGUARD_TEST_TOOLS=ci`.
    in_ci: bool,
}

const PINS: [Pin; 14] = [
    Pin { product: Product::OpenTofu, version: "1.6.3", in_ci: false },
    Pin { product: Product::OpenTofu, version: "1.8.11", in_ci: true },
    Pin { product: Product::OpenTofu, version: "1.10.10", in_ci: false },
    Pin { product: Product::OpenTofu, version: "1.12.6", in_ci: true },
    Pin { product: Product::Terraform, version: "0.12.29", in_ci: false },
    Pin { product: Product::Terraform, version: "1.5.7", in_ci: true },
    Pin { product: Product::Terraform, version: "1.6.6", in_ci: false },
    Pin { product: Product::Terraform, version: "1.7.5", in_ci: false },
    Pin { product: Product::Terraform, version: "1.8.5", in_ci: false },
    Pin { product: Product::Terragrunt, version: "1.1.3", in_ci: true },
    Pin { product: Product::Act, version: "0.2.89", in_ci: true },
    Pin { product: Product::Versitygw, version: "1.8.0", in_ci: false },
    // The last one whose modules the proxy has.
    Pin { product: Product::BuildkiteAgent, version: "3.78.0", in_ci: true },
    Pin { product: Product::Actionlint, version: "1.7.12", in_ci: true },
];

impl Product {
    /// The file name of its program.
    fn program(self) -> &'static str {
        match self {
            Self::OpenTofu => "tofu",
            Self::Terraform => "terraform",
            Self::Terragrunt => "terragrunt",
            Self::Act => "act",
            Self::Versitygw => "versitygw",
            Self::BuildkiteAgent => "buildkite-agent",
            Self::Actionlint => "actionlint",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::OpenTofu => "github.com/opentofu/opentofu",
            Self::Terraform => "github.com/hashicorp/terraform",
            Self::Terragrunt => "github.com/gruntwork-io/terragrunt",
            Self::Act => "github.com/nektos/act",
            Self::Versitygw => "github.com/versity/versitygw",
            Self::BuildkiteAgent => "github.com/buildkite/agent/v3",
            Self::Actionlint => "github.com/rhysd/actionlint",
        }
    }

    fn package(self) -> String {
        let below = match self {
            Self::OpenTofu => "/cmd/tofu",
            Self::Versitygw => "/cmd/versitygw",
            Self::Actionlint => "/cmd/actionlint",
            Self::Terraform | Self::Terragrunt | Self::Act | Self::BuildkiteAgent => "",
        };
        format!("{}{below}", self.module())
    }

    /// For the linker: what makes the program tell the version that it has, as the builds of its makers do.
    fn version_flags(self, version: &str) -> String {
        match self {
            Self::OpenTofu => format!("-X {}/version.dev=no", self.module()),
            Self::Terraform if version >= "1.6" => format!("-X {}/version.dev=no", self.module()),
            // It is in their source.
            Self::Terraform | Self::Act | Self::BuildkiteAgent => String::new(),
            Self::Terragrunt => format!("-X {}/internal/version.Version={version}", self.module()),
            Self::Versitygw => format!("-X main.Version={version}"),
            Self::Actionlint => format!("-X {}.version={version}", self.module()),
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenTofu => "OpenTofu",
            Self::Terraform => "Terraform",
            Self::Terragrunt => "Terragrunt",
            Self::Act => "act",
            Self::Versitygw => "versitygw",
            Self::BuildkiteAgent => "buildkite-agent",
            Self::Actionlint => "actionlint",
        })
    }
}

impl Tools {
    /// The chosen versions of a product that can be had here, oldest first.
    pub fn programs(&'static self, product: Product) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let pins = PINS.iter().filter(move |pin| pin.product == product);
        pins.filter_map(|pin| Some((pin.version, self.built(pin)?)))
    }

    /// The program of a pin. `None`, with the reason on stderr, where it was not chosen or cannot be had: no `go`, one that is
    /// too old, no module proxy.
    fn built(&self, pin: &Pin) -> Option<PathBuf> {
        let name = format!("{} {}", pin.product, pin.version);
        // Held while one is built: two builds at once would only take longer.
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = built.get(&name) {
            return known.clone();
        }
        let found =
            build(self, pin).inspect_err(|why| say(&format!("NO {name}, what needs it is skipped: {why}"))).ok();
        built.insert(name, found.clone());
        found
    }
}

/// Builds a program unless that was done or it is not among those chosen.
fn build(tools: &Tools, pin: &Pin) -> Result<PathBuf, String> {
    let chosen = std::env::var("TFGUARD_TEST_TOOLS").unwrap_or_default();
    match chosen.as_str() {
        "all" => {}
        "" | "ci" if pin.in_ci => {}
        "" | "ci" => return Err("TFGUARD_TEST_TOOLS=all takes it".to_owned()),
        "none" => return Err("TFGUARD_TEST_TOOLS=none".to_owned()),
        other => panic!("TFGUARD_TEST_TOOLS={other}: it is one of `ci`, `all` and `none`"),
    }
    let Pin { product, version, .. } = pin;
    let (program, module, package) = (product.program(), product.module(), product.package());
    // Symbols and debugging data are two thirds of it. Old versions use names of the standard library that Go's linker
    // refuses from 1.23 on.
    let flags = format!("-s -w -checklinkname=0 {}", product.version_flags(version));
    let pins = hash(&[&package, version, &flags]);
    let dir = tools.make(&format!("{}-{version}", product.to_string().to_lowercase()), pins, |dir, _| {
        fs::write(dir.join("go.mod"), main_module(dir, module, version)?).map_err(|error| error.to_string())?;
        // The tests that run meanwhile have bounds on how long they wait.
        let mut build = Command::new("nice");
        go(build.arg("go"), dir);
        output_of(build.args(["build", "-mod=mod", "-ldflags", &flags, "-o", program, &package]))?;
        // Without the user's configuration, of which they would tell.
        let mut probe = Command::new(dir.join(program));
        probe.arg("--version").env_clear().env("HOME", "/nonexistent").env("CHECKPOINT_DISABLE", "1");
        let said = output_of(&mut probe)?;
        // Behind a `+` is the number of a build.
        let told = said.lines().next().and_then(|line| line.split('+').next());
        match told.is_some_and(|told| told.ends_with(version)) {
            true => Ok(()),
            false => Err(format!("{package} is not of version {version}: {said}")),
        }
    })?;
    Ok(dir.join(program))
}

/// A `go.mod` that requires a module and replaces what it replaces: only those of the main module count.
fn main_module(dir: &Path, module: &str, version: &str) -> Result<String, String> {
    let json = |args: &[&str]| {
        let said = output_of(go(&mut Command::new("go"), dir).arg("mod").args(args))?;
        serde_json::from_str::<Value>(&said).map_err(|error| format!("go mod {args:?}: {error}: {said}"))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let downloaded = json(&["download", "-json", &format!("{module}@v{version}")])?;
    let theirs = json(&["edit", "-json", &text(&downloaded["GoMod"])])?;
    let mut ours = format!("module testbed\n\ngo {}\n\nrequire {module} v{version}\n", text(&theirs["Go"]));
    for replace in theirs["Replace"].as_array().into_iter().flatten() {
        let [old, old_version, new, new_version] =
            [("Old", "Path"), ("Old", "Version"), ("New", "Path"), ("New", "Version")]
                .map(|(side, what)| text(&replace[side][what]));
        // Without a version it is a folder of their repository, for what the program does not need.
        if !new_version.is_empty() {
            ours.push_str(&format!("replace {old} {old_version} => {new} {new_version}\n"));
        }
    }
    Ok(ours)
}

/// A `go` that works in this folder and no other.
fn go<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command.current_dir(dir).env("GOWORK", "off").env("GO111MODULE", "on")
}
