// A step for a shared library: runs a command under tfguard and finishes, whatever happens, what it leaves.
//
//   node('terraform') {
//       sh 'terraform init -input=false'
//       tfguard 'terraform apply -input=false -auto-approve'
//       tfguard command: './deploy.sh', wait: '5m'
//   }
//
// It needs a `node` around it and does both on that one: elsewhere there is no session to find. In a declarative pipeline
// it goes into `steps`. It can be used in branches of `parallel`, on one node or on several. In one workspace all branches have
// one cookie, by which Jenkins finds what it stops: where it stops one branch alone (`timeout`, `failFast`), the Terraforms of the
// others are interrupted, too. In a directory of its own a branch has its own:
//
//   parallel network: { dir('network') { tfguard 'terraform apply -input=false -auto-approve' } },
//            cluster: { dir('cluster') { tfguard 'terraform apply -input=false -auto-approve' } }
def call(String command) {
    call(command: command)
}

def call(Map options) {
    // A place for the sessions of this call alone. Branches of `parallel` are one job to Jenkins, and the release of the
    // branch that ends first would stop the others.
    String place = "TFGUARD_DIR=${pwd(tmp: true)}/tfguard-${UUID.randomUUID()}"
    // From the others tfguard knows that after an abort it will be waited for, and how long.
    withEnv([place, 'TFGUARD_CLEANUP_STEP=1', "TFGUARD_WAIT=${options.wait ?: '10m'}"]) {
        try {
            // See Jenkinsfile on what an abort does.
            sh(script: "exec tfguard -- ${options.command}")
        } finally {
            // Its status is told instead of thrown, so that it does not hide how the command itself ended. The place goes
            // when nothing is left in it.
            int status = sh(returnStatus: true, script: 'tfguard release && { rmdir "$TFGUARD_DIR" 2> /dev/null || :; }')
            if (status != 0) {
                unstable("tfguard release ended with ${status}: see its words above")
            }
        }
    }
}
