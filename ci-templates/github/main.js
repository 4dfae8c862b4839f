// Installs tfguard for the steps that follow, and leaves word for post.js. Uses nothing but Node's own modules.
"use strict";

const { execFileSync } = require("node:child_process");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const MACHINES = { x64: "x86_64", arm64: "aarch64" };

/** The environment variable in which the runner passes an input on (`Handler.AddInputsToEnvironment`). */
function input(name) {
  return (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim();
}

/** A setting that the runner always makes. */
function runner(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: this is to be run by GitHub Actions`);
  return value;
}

async function fetched(url) {
  let trouble;
  for (let attempt = 1; attempt <= 3; attempt++) {
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(120_000) });
      if (answer.ok) return Buffer.from(await answer.arrayBuffer());
      trouble = `${answer.status} ${answer.statusText}`;
      if (answer.status < 500) break;
    } catch (error) {
      trouble = error.cause?.message ?? error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * attempt));
  }
  throw new Error(`cannot download ${url}: ${trouble}`);
}

/** Downloads the release into a directory; gives the binary's path. */
async function download(dir) {
  const machine = MACHINES[process.arch];
  if (process.platform !== "linux" || !machine) {
    throw new Error(`there is no tfguard for ${process.platform} on ${process.arch}, only for Linux on x64 and arm64`);
  }
  const version = input("version").replace(/^v/, "");
  let place = input("download-url").replace(/\/+$/, "");
  if (!place) {
    const repository = process.env.GITHUB_ACTION_REPOSITORY;
    // The runner leaves it empty for an action that is used by its path in the workspace.
    if (!repository) throw new Error("an action used by its path has no releases: set `path` or `download-url`");
    place = `${runner("GITHUB_SERVER_URL")}/${repository}/releases/download/v${version}`;
  }
  const url = `${place}/tfguard-${version}-linux-${machine}.tar.gz`;
  const tarball = await fetched(url);
  const named = input("sha256") || (await fetched(`${url}.sha256`)).toString().split(/\s/, 1)[0];
  const found = createHash("sha256").update(tarball).digest("hex");
  if (named.toLowerCase() !== found) throw new Error(`${url} has the SHA-256 ${found}, not ${named}`);
  const file = path.join(dir, "tarball");
  fs.writeFileSync(file, tarball);
  // -o: not as the files of whoever made the release, who may be somebody else on this machine.
  execFileSync("tar", ["-xozf", file, "-C", dir, "--strip-components=1"]);
  fs.rmSync(file);
  return path.join(dir, "tfguard");
}

/** Tells the runner something in one of its files (`GITHUB_ENV` and others). */
function tell(file, line) {
  fs.appendFileSync(runner(file), `${line}\n`);
}

async function main() {
  const dir = fs.mkdtempSync(path.join(runner("RUNNER_TEMP"), "tfguard-bin-"));
  try {
    const binary = path.join(dir, "tfguard");
    if (input("path")) {
      if (!fs.existsSync(input("path"))) throw new Error(`there is no ${input("path")}`);
      fs.symlinkSync(fs.realpathSync(input("path")), binary);
    } else {
      await download(dir);
    }
    console.log(execFileSync(binary, ["--version"], { encoding: "utf8" }).trim());
    const onPath = [dir];
    if (/^true$/i.test(input("shim"))) {
      const links = path.join(dir, "shim");
      execFileSync(binary, ["shim", "--dir", links]);
      onPath.push(links);
    }
    // Only now, when all of it is there and works, does the job learn of it. The last line of GITHUB_PATH is the first
    // on PATH.
    tell("GITHUB_STATE", `binary=${binary}`);
    tell("GITHUB_OUTPUT", `path=${binary}`);
    // From these tfguard knows that after a cancel it will be waited for, and how long; so does post.js.
    tell("GITHUB_ENV", "TFGUARD_CLEANUP_STEP=1");
    tell("GITHUB_ENV", `TFGUARD_WAIT=${input("wait")}`);
    onPath.forEach((entry) => tell("GITHUB_PATH", entry));
  } catch (error) {
    fs.rmSync(dir, { recursive: true, force: true });
    throw error;
  }
}

main().catch((error) => {
  const words = `tfguard is not installed: ${error.message}`;
  // As the runner wants the text of a command escaped (`ActionCommand`).
  console.log(`::error title=tfguard::${words.replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A")}`);
  process.exitCode = 1;
});
