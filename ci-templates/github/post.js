// Finishes what runs of this job left: waits for a Terraform that is still alive, releases the lock of a dead one.
"use strict";

const { spawn } = require("node:child_process");

// Not there if the installation failed, and then nothing ran under tfguard either.
const binary = process.env.STATE_binary;
if (binary) {
  // Node would die of them and leave the release alone.
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => release.kill(signal));
  const release = spawn(binary, ["release"], { stdio: ["ignore", "inherit", "inherit"] });
  release.on("error", (error) => {
    console.log(`::error title=tfguard::cannot run ${binary}: ${error.message}`);
    process.exitCode = 1;
  });
  // 120, a lock that is left, fails the job.
  release.on("exit", (code) => (process.exitCode = code ?? 1));
}
