// Installs tfguard for the steps that follow, and leaves word for post.js. Uses nothing but Node's own modules.
"use strict";

const { execFileSync, spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

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

/** Installs the release into a directory, by the script that everybody installs it with. */
function install(dir) {
  const env = { ...process.env, TFGUARD_INSTALL_DIR: dir, TFGUARD_INSTALL_SHA256: input("sha256") };
  env.TFGUARD_INSTALL_URL = input("download-url").replace(/\/+$/, "");
  if (!env.TFGUARD_INSTALL_URL) {
    const repository = process.env.GITHUB_ACTION_REPOSITORY;
    // The runner leaves it empty for an action that is used by its path in the workspace.
    if (!repository) throw new Error("an action used by its path has no releases: set `path` or `download-url`");
    env.TFGUARD_INSTALL_REPOSITORY = `${runner("GITHUB_SERVER_URL")}/${repository}`;
  }
  const script = path.join(__dirname, "..", "install.sh");
  const { error, status, stderr } = spawnSync("sh", [script], { env, encoding: "utf8" });
  if (error) throw error;
  if (status !== 0) throw new Error(stderr.trim().replace(/^tfguard is not installed: /m, ""));
}

/** Tells the runner something in one of its files (`GITHUB_ENV` and others). */
function tell(file, line) {
  fs.appendFileSync(runner(file), `${line}\n`);
}

function main() {
  const dir = fs.mkdtempSync(path.join(runner("RUNNER_TEMP"), "tfguard-bin-"));
  try {
    const binary = path.join(dir, "tfguard");
    if (input("path")) {
      if (!fs.existsSync(input("path"))) throw new Error(`there is no ${input("path")}`);
      fs.symlinkSync(fs.realpathSync(input("path")), binary);
    } else {
      install(dir);
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

try {
  main();
} catch (error) {
  const words = `tfguard is not installed: ${error.message}`;
  // As the runner wants the text of a command escaped (`ActionCommand`).
  console.log(`::error title=tfguard::${words.replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A")}`);
  process.exitCode = 1;
}
