#!/usr/bin/env python3
"""Measures tfguard beside its peers: nothing at all, tini, dumb-init, GNU timeout, a bash trap, a Node wrapper.

    benches/run.py [--tfguard PATH] [--quick] [--write] [PART...]

Parts: overhead, latency, stop, release, memory, throughput, scale, locks, terraform. All of them take less than ten minutes.
Each part runs its candidates in turn, round after round, so that whatever else the machine does meets all of them alike, and
prints medians and minima as ratios, in Markdown; --write puts that into docs/performance.md. Peers are taken from PATH; one
that is not there is skipped, and that is said. Needs Linux and Python 3.8. AWS is a stand-in on loopback; nothing leaves the machine. No result fails: these are not tests.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
TRAP = 'trap "kill -TERM \\$child" TERM INT; "$@" & child=$!; wait $child'
NODE = """const c = require('child_process').spawn(process.argv[1], process.argv.slice(2), {stdio: 'inherit'});
for (const s of ['SIGINT', 'SIGTERM']) process.on(s, () => c.kill(s));
c.on('exit', (code, signal) => process.exit(signal ? 1 : code));"""
# Writes the time, in nanoseconds of the monotonic clock, as often as it is told, and dies without further ado.
CLOCK = """import os, sys, time
times, pause = int(sys.argv[1]), float(sys.argv[2])
for _ in range(times):
    time.sleep(pause)
    os.write(1, b'%d\\n' % time.monotonic_ns())
os._exit(0)"""
# A Terraform that has its lock, applies, and tells the time at which it is interrupted, or kills itself.
TERRAFORM = """#!{python}
import datetime, getpass, json, os, platform, signal, sys, time
log = open(os.environ.get('TF_LOG_PATH') or os.environ['TF_TEMP_LOG_PATH'], 'a', buffering=1)
def say(message):
    now = datetime.datetime.now(datetime.timezone.utc)
    log.write(now.strftime('%Y-%m-%dT%H:%M:%S.') + '%03dZ [INFO]  %s\\n' % (now.microsecond // 1000, message))
say('Terraform version: 1.11.4')
if sys.argv[1:] == ['stop']:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.write(1, b'up\\n')
    signal.sigwait([signal.SIGINT])
    os.write(1, b'%d\\n' % time.monotonic_ns())
    os._exit(0)
who, marks = getpass.getuser() + '@' + platform.node(), ['starting Apply operation', 'apply calling Plan']
lock = {{'ID': sys.argv[1], 'Operation': 'OperationTypeApply', 'Info': '', 'Who': who, 'Version': '1.11.4',
         'Created': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%dT%H:%M:%S.%f') + 'Z', 'Path': 'bench/state'}}
json.dump(lock, open('lock.json', 'w'))
fields = ('tf_backend.lock.id=%s tf_backend.lock.info="" tf_backend.lock.operation=OperationTypeApply '
          'tf_backend.lock.path=bench/state tf_backend.lock.version=1.11.4 tf_backend.lock.who=%s '
          'tf_backend.operation=Lock tf_backend.req_id=628eb0fa-739f-6181-c73c-ced792726fa8 '
          'tf_backend.s3.bucket=bench tf_backend.s3.path=state' % (lock['ID'], who))
say('backend/local: starting Apply operation')
say('backend-s3: Attempting to lock remote state (DynamoDB only)...: ' + fields)
say('backend-s3: Locked remote state (DynamoDB only): ' + fields)
say('backend/local: apply calling Plan')
say('backend/local: apply calling Apply')
time.sleep(0.5)
os.write(1, b'%d\\n' % time.monotonic_ns())
os.kill(os.getpid(), signal.SIGKILL)
"""


# --- running -------------------------------------------------------------------------------------------------------------

class Bench:
    def __init__(self, tfguard, quick):
        self.quick = quick
        self.dir = tempfile.mkdtemp(prefix="tfguard-bench-")
        # A copy, as an installation makes one. What a linker has just written starts more slowly.
        tfguard = self.tfguard = shutil.copy2(tfguard, os.path.join(self.dir, "tfguard"))
        self.env = {"PATH": os.environ["PATH"], "HOME": self.dir, "TFGUARD_DIR": self.dir, "LANG": "C.UTF-8"}
        found = {name: shutil.which(name) for name in ("tini", "dumb-init", "timeout", "bash", "node")}
        for name, path in found.items():
            if not path:
                print(f"SKIPPED: {name} is not on PATH.\n")
        ways = {
            "bare": [],
            "tini": [found["tini"], "-s", "--"],
            "dumb-init": [found["dumb-init"], "--"],
            "timeout": [found["timeout"], "3600"],
            "bash trap": [found["bash"], "-c", TRAP, "trap"],
            "node wrapper": [found["node"], "-e", NODE],
            "tfguard attached": [tfguard, "--attach", "--"],
            "tfguard detached": [tfguard, "--detach", "--"],
        }
        self.ways = {name: words for name, words in ways.items() if not words or words[0]}

    def rounds(self, many):
        return max(3, many // 5) if self.quick else many

    def start(self, words, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stderr", subprocess.DEVNULL)
        more.setdefault("env", self.env)
        return subprocess.Popen(words, **more)

    def in_turn(self, many, ways, measure):
        """Measures each way once a round, beginning with another one each time."""
        found = {name: [] for name in ways}
        names = list(ways)
        for turn in range(self.rounds(many)):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                found[name] += measure(ways[name])
        return found

    def left_behind(self):
        """Sessions and processes of tfguard that are still there, a while after the last run."""
        deadline = time.monotonic() + 5
        while True:
            sessions = sum(len(dirs) for root, dirs, _ in os.walk(self.dir) if root.endswith(".tfguard-sessions"))
            running = [pid for pid in os.listdir("/proc") if pid.isdigit() and self.is_ours(pid)]
            if not (sessions or running) or time.monotonic() > deadline:
                return sessions, len(running)
            time.sleep(0.05)

    def is_ours(self, pid):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            return b"--supervise" in words and any(word.startswith(self.dir.encode()) for word in words)
        except OSError:
            return False


def show(title, found, unit=1e6, name="ms", base="bare", beside="tini"):
    """A table: minimum, median and 99th percentile of each way, and what its minimum and its median cost over those of the
    base, in costs of the peer. Without a base: no costs."""
    head = [f"min {name}", f"median {name}", f"p99 {name}"]
    lows = {way: min(times) for way, times in found.items() if times}
    middles = {way: statistics.median(times) for way, times in found.items() if times}
    costs = [lows, middles] if base in found else []
    times_peer = f" (× {beside})" if beside in found else ""
    head += [f"{what} over {base}{times_peer}" for what in ("min", "median")] if costs else []
    print(f"\n{title}:\n\n| | " + " | ".join(head) + " |\n|---|" + "---:|" * len(head))
    for way, times in found.items():
        if not times:
            continue
        times = sorted(times)
        row = [lows[way], middles[way], times[min(len(times) - 1, len(times) * 99 // 100)]]
        cells = [f"{cell / unit:.2f}" for cell in row]
        for cost in costs:
            over, peer = cost[way] - cost[base], cost.get(beside, 0) - cost[base]
            # A peer that costs nothing is nothing to compare with.
            cells.append(f"{over / unit:.2f}" + (f" ({over / peer:.1f})" if peer > unit / 20 else ""))
        print(f"| {way} | " + " | ".join(cells) + " |")
    sys.stdout.flush()


# --- parts ---------------------------------------------------------------------------------------------------------------

def overhead(bench):
    true = shutil.which("true")

    def measure(words):
        begun = time.monotonic_ns()
        child = bench.start([*words, true], stdout=subprocess.DEVNULL)
        child.wait()
        return [time.monotonic_ns() - begun]

    show("Overhead of one run of /bin/true", bench.in_turn(150, bench.ways, measure))


def latency(bench):
    clock = [sys.executable, "-I", "-S", "-c", CLOCK]

    def first_bytes(words):
        child = bench.start([*words, *clock, "5", "0.03"], stdout=subprocess.PIPE, bufsize=0)
        late = []
        for line in iter(child.stdout.readline, b""):
            late.append(time.monotonic_ns() - int(line))
        child.wait()
        return late

    def ends(pause):
        def measure(words):
            child = bench.start([*words, *clock, "1", pause], stdout=subprocess.PIPE)
            said = int(child.stdout.readline())
            child.wait()
            ended = time.monotonic_ns()
            child.stdout.close()
            return [ended - said]
        return measure

    show("From a write of the child to its reader", bench.in_turn(40, bench.ways, first_bytes))
    show("From the child's last word to the wrapper's exit, after 20 ms", bench.in_turn(50, bench.ways, ends("0.02")))
    show("The same after 300 ms", bench.in_turn(30, bench.ways, ends("0.3")))


def fake_terraform(bench):
    path = os.path.join(bench.dir, "terraform")
    with open(path, "w") as script:
        script.write(TERRAFORM.format(python=sys.executable))
    os.chmod(path, 0o755)
    return path


def stop(bench):
    terraform = fake_terraform(bench)

    def measure(words):
        child = bench.start([*words, terraform, "stop"], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.1)
        begun = time.monotonic_ns()
        child.terminate()
        interrupted = int(child.stdout.readline())
        child.wait()
        child.stdout.close()
        return [interrupted - begun - 300_000_000]

    ways = {name: words for name, words in bench.ways.items() if name.startswith("tfguard")}
    found = bench.in_turn(60, ways, measure)
    show("From a request to stop to SIGINT, beyond the look of 300 ms", found, base=None)


def release(bench):
    terraform = fake_terraform(bench)
    with Server(bench.dir) as server:
        os.makedirs(os.path.join(bench.dir, ".terraform"), exist_ok=True)
        config = {"bucket": "bench", "key": "state", "region": "us-east-1", "dynamodb_table": "locks"}
        recorded = {"version": 3, "backend": {"type": "s3", "config": config, "hash": 0}}
        with open(os.path.join(bench.dir, ".terraform", "terraform.tfstate"), "w") as file:
            json.dump(recorded, file)
        env = {**bench.env, **server.env}
        found = []
        for turn in range(bench.rounds(10)):
            lock = f"00000000-0000-0000-0000-{turn:012d}"
            words = [*bench.ways["tfguard detached"], terraform, lock]
            child = bench.start(words, stdout=subprocess.PIPE, cwd=bench.dir, env=env)
            died = int(child.stdout.readline())
            child.wait()
            child.stdout.close()
            deletes = [at for at, what in server.requests() if "DeleteItem" in what and at > died]
            if not deletes:
                print(f"SKIPPED: no delete (exit code {child.returncode})")
                break
            found.append(deletes[0] - died - 2_000_000_000)
    title = "From Terraform's death to the first delete, without TLS, beyond the 2 s for an upload under way"
    show(title, {"tfguard detached": found}, base=None)


def memory(bench):
    child = bench.start([*bench.ways["tfguard detached"], "sleep", "3600"], stdout=subprocess.PIPE)
    time.sleep(3)
    supervisors = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and bench.is_ours(pid)]
    pids = [child.pid, *supervisors]

    def used(pid):
        fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
        switches = sum(int(line.split()[1]) for task in os.listdir(f"/proc/{pid}/task")
                       for line in open(f"/proc/{pid}/task/{task}/status") if "ctxt_switches" in line)
        return int(fields[11]) + int(fields[12]), switches

    before = [used(pid) for pid in pids]
    seconds = 10 if bench.quick else 60
    time.sleep(seconds)
    print(f"\nAn idle run, detached, for {seconds} s:\n\n| | RSS MB | PSS MB | threads | CPU ticks of 10 ms | times it ran |")
    print("|---|---:|---:|---:|---:|---:|")
    total = [0, 0]
    for name, pid, was in zip(["front", "supervisor"], pids, before):
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if "kB" in line}
        threads = len(os.listdir(f"/proc/{pid}/task"))
        now = used(pid)
        total = [total[0] + sizes["Rss"], total[1] + sizes["Pss"]]
        print(f"| {name} | {sizes['Rss'] / 1024:.1f} | {sizes['Pss'] / 1024:.1f} | {threads} | {now[0] - was[0]} | "
              f"{now[1] - was[1]} |")
    print(f"| together | {total[0] / 1024:.1f} | {total[1] / 1024:.1f} | | | |")
    size = os.path.getsize(bench.tfguard) / 1e6
    print(f"\nThe binary has {size:.2f} MB.")
    child.terminate()
    child.wait()
    child.stdout.close()


def throughput(bench):
    size = 100_000_000 if bench.quick else 1_000_000_000
    head = f"head -c {size} /dev/zero"
    env, tfguard = bench.env, bench.tfguard
    pipes = {"cat \\| cat": f"{head} | cat | cat > /dev/null"}
    for mode in ("detach", "attach"):
        pipes[f"tfguard {mode}ed"] = f"{tfguard} --{mode} -- {head} | cat > /dev/null"
    highest = {}

    def measure(command):
        begun = time.monotonic_ns()
        child = subprocess.Popen(["sh", "-c", command], env=env)
        _, _, usage = os.wait4(child.pid, 0)
        highest[command] = max(highest.get(command, 0), usage.ru_maxrss)
        return [time.monotonic_ns() - begun]

    found = bench.in_turn(6, pipes, measure)
    show(f"{size / 1e9:g} GB from the command to a pipe", found, base=None)
    print(f"\nThe largest process of tfguard's pipes had {max(highest.values()) / 1024:.1f} MB.")


def scale(bench):
    many = 20 if bench.quick else 100
    begun = time.monotonic()
    running = [bench.start([*bench.ways["tfguard detached"], "sh", "-c", "sleep 1; exit 7"], stdout=subprocess.DEVNULL)
               for _ in range(many)]
    codes = [child.wait() for child in running]
    print(f"\n{many} runs of 1 s at once: {codes.count(7)} ended as their command did, in {time.monotonic() - begun:.1f} s; "
          "left: %d sessions, %d processes" % bench.left_behind())
    many, times = 100 if bench.quick else 1000, []
    for _ in range(many):
        begun = time.monotonic_ns()
        child = bench.start([*bench.ways["tfguard detached"], "sh", "-c", "exit 7"], stdout=subprocess.DEVNULL)
        times.append((time.monotonic_ns() - begun, child.wait(), time.monotonic_ns() - begun)[1:])
    tenth = many // 10
    first, last = ([time for _, time in some] for some in (times[:tenth], times[-tenth:]))
    print(f"{many} runs in sequence: {sum(code == 7 for code, _ in times)} ended as their command did; median of the first "
          f"tenth {statistics.median(first) / 1e6:.1f} ms, of the last {statistics.median(last) / 1e6:.1f} ms; "
          "left: %d sessions, %d processes" % bench.left_behind())


def locks(bench):
    with Server(bench.dir) as server:
        env = {**bench.env, **server.env}
        print("\n`tfguard locks`, beside reading the same pages and no more:\n")
        print("| | pages s | tfguard s | ratio | its CPU ms a page | largest MB |\n|---|---:|---:|---:|---:|---:|")
        for what, option in (("100 000 items of a table, each a lock", "--table"), ("1 000 000 keys of a bucket", "--bucket")):
            server.read_pages(option)
            begun = time.monotonic()
            server.read_pages(option)
            plain = time.monotonic() - begun
            begun = time.monotonic()
            words = [bench.tfguard, "locks", option, "many", "--format", "json"]
            child = bench.start(words, stdout=subprocess.DEVNULL, env=env)
            _, status, usage = os.wait4(child.pid, 0)
            took = time.monotonic() - begun
            child.returncode = os.waitstatus_to_exitcode(status) if hasattr(os, "waitstatus_to_exitcode") else status
            code = "" if child.returncode == 0 else f" (exit code {child.returncode})"
            cpu = (usage.ru_utime + usage.ru_stime) / PAGES[option] * 1000
            print(f"| {what}{code} | {plain:.2f} | {took:.2f} | {took / plain:.1f} | {cpu:.1f} | "
                  f"{usage.ru_maxrss / 1024:.1f} |", flush=True)


def terraform(bench):
    program = shutil.which("terraform")
    if not program:
        print("\nSKIPPED: terraform is not on PATH.")
        return
    work = os.path.join(bench.dir, "plan")
    os.mkdir(work)
    with open(os.path.join(work, "main.tf"), "w") as file:
        file.write('resource "terraform_data" "many" {\n  count = 2000\n  input = count.index\n}\n')
    subprocess.run([program, "init", "-input=false"], cwd=work, env=bench.env, stdout=subprocess.DEVNULL, check=True)

    def measure(words):
        begun = time.monotonic_ns()
        child = bench.start([*words, program, "plan", "-input=false"], stdout=subprocess.DEVNULL, cwd=work)
        child.wait()
        return [time.monotonic_ns() - begun]

    channel = ["env", "TF_LOG_CORE=info", f"TF_LOG_PATH={os.path.join(bench.dir, 'plan.log')}"]
    ways = {"bare": [], "bare, logging as below tfguard": channel}
    ways.update((name, words) for name, words in bench.ways.items() if name.startswith("tfguard"))
    show("A plan of 2 000 resources, with the log channel and without", bench.in_turn(10, ways, measure), 1e9, "s")


# --- a stand-in for AWS --------------------------------------------------------------------------------------------------

ITEMS, ITEMS_A_PAGE, KEYS_A_PAGE = 100_000, 1000, 1000
PAGES = {"--table": ITEMS // ITEMS_A_PAGE, "--bucket": 1_000_000 // KEYS_A_PAGE}
SOME_LOCK = {"ID": "", "Operation": "OperationTypeApply", "Info": "", "Who": "ci@runner", "Version": "1.11.4",
             "Created": "2026-11-20T06:00:00.3Z", "Path": ""}


def scan(page):
    def item(number):
        lock = {**SOME_LOCK, "ID": f"00000000-0000-0000-0000-{number:012d}", "Path": f"many/env/{number}/terraform.tfstate"}
        return {"LockID": {"S": lock["Path"]}, "Info": {"S": json.dumps(lock)}}
    items = [item(number) for number in range(page * ITEMS_A_PAGE, (page + 1) * ITEMS_A_PAGE)]
    answer = {"Items": items, "Count": len(items), "ScannedCount": len(items)}
    if page + 1 < PAGES["--table"]:
        answer["LastEvaluatedKey"] = {"LockID": {"S": f"{page + 1}"}}
    return json.dumps(answer).encode()


def listing(page):
    def entry(number):
        key = f"env/{page:04d}/{number:04d}/terraform.tfstate"
        # A lock on every hundredth page.
        key += ".tflock" if page % 100 == 0 and number == 500 else ""
        return (f"<Contents><Key>{key}</Key><LastModified>2026-11-20T06:00:00.000Z</LastModified>"
                f"<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>200</Size></Contents>")
    more = page + 1 < PAGES["--bucket"]
    token = f"<NextContinuationToken>{page + 1}</NextContinuationToken>" if more else ""
    return (f"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Name>many</Name>"
            f"<KeyCount>{KEYS_A_PAGE}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            + "".join(map(entry, range(KEYS_A_PAGE))) + "</ListBucketResult>").encode()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    made = {}

    def log_message(self, *_):
        pass

    def note(self, what):
        with open("requests", "a") as file:
            file.write(f"{time.monotonic_ns()} {what}\n")

    def answer(self, body, kind="application/json", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def page(self, make, number):
        """Made once, so that the second who reads all pages meets the same server as the first."""
        return self.made.get((make, number)) or self.made.setdefault((make, number), make(number))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        action = self.headers.get("X-Amz-Target", "").rsplit(".", 1)[-1]
        if action == "Scan":
            start = body.get("ExclusiveStartKey", {}).get("LockID", {}).get("S", "0")
            return self.answer(self.page(scan, int(start)))
        self.note(action)
        if action == "GetItem":
            lock = json.load(open("lock.json"))
            return self.answer(json.dumps({"Item": {"LockID": {"S": lock["Path"]}, "Info": {"S": json.dumps(lock)}}}).encode())
        return self.answer(b"{}")

    def do_GET(self):
        where = urlsplit(self.path)
        words = parse_qs(where.query)
        if "list-type" in words:
            return self.answer(self.page(listing, int(words.get("continuation-token", ["0"])[0])), "application/xml")
        if where.path.endswith(".tflock"):
            return self.answer(json.dumps({**SOME_LOCK, "ID": "00000000-0000-0000-0000-000000000000",
                                           "Path": where.path[1:-len(".tflock")]}).encode())
        return self.answer(b"<Error><Code>NoSuchKey</Code></Error>", "application/xml", 404)

    def do_HEAD(self):
        self.answer(b"")


class Server:
    def __init__(self, directory):
        self.directory = directory

    def __enter__(self):
        words = [sys.executable, os.path.abspath(__file__), "--serve"]
        self.process = subprocess.Popen(words, cwd=self.directory, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        self.env = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL_DYNAMODB": self.address, "AWS_ENDPOINT_URL_S3": self.address}
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def requests(self):
        with open(os.path.join(self.directory, "requests")) as file:
            return [(int(at), what) for at, what in (line.split(" ", 1) for line in file)]

    def read_pages(self, option):
        """Reads all pages, one after the other over one connection. The first time they are made."""
        import http.client
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc)
        for page in range(PAGES[option]):
            if option == "--table":
                key = {"ExclusiveStartKey": {"LockID": {"S": str(page)}}} if page else {}
                connection.request("POST", "/", json.dumps(key), {"X-Amz-Target": "DynamoDB_20120810.Scan"})
            else:
                connection.request("GET", f"/many?list-type=2&continuation-token={page}")
            connection.getresponse().read()
        connection.close()


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    # Ends with whoever measures.
    parent = os.getppid()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.5)


# --- main ----------------------------------------------------------------------------------------------------------------

PARTS = {part.__name__: part
         for part in (overhead, latency, stop, release, memory, throughput, scale, locks, terraform)}


class Both:
    """Prints, and keeps what is printed."""

    def __init__(self, out):
        self.out, self.text = out, ""

    def write(self, text):
        self.text += text
        self.out.write(text)

    def flush(self):
        self.out.flush()


def write_figures(text):
    """Puts the text in place of all that stands below the last heading of the document."""
    path = os.path.join(os.path.dirname(HERE), "docs", "performance.md")
    with open(path) as file:
        above, heading, _ = file.read().partition("\n## Figures\n")
    with open(path, "w") as file:
        file.write(above + heading + "\n" + text.strip() + "\n")


def newest_binary():
    target = os.path.join(os.path.dirname(HERE), "target")
    machine = platform.machine()
    paths = [os.path.join(target, f"{machine}-unknown-linux-musl", "release", "tfguard"),
             os.path.join(target, "release", "tfguard")]
    return max((path for path in paths if os.path.exists(path)), key=os.path.getmtime, default=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tfguard", default=newest_binary(), help="the release build to measure (default: the newest here)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("part", nargs="*", help=", ".join(PARTS))
    args = parser.parse_args()
    if args.serve:
        return serve()
    if unknown := [part for part in args.part if part not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    if not args.tfguard:
        parser.error("no release build here: run `cargo build --release --locked` or .ci/build, or give --tfguard")
    if args.write:
        sys.stdout = Both(sys.stdout)
    bench = Bench(os.path.abspath(args.tfguard), args.quick)
    version = subprocess.run([bench.tfguard, "--version"], capture_output=True, text=True).stdout.strip()
    load = " ".join(open("/proc/loadavg").read().split()[:3])
    print(f"{time.strftime('%Y-%m-%d')}, {version}, on {os.cpu_count()} cores, Linux {'.'.join(platform.release().split('.')[:2])}"
          f"{', a fifth of the rounds' if args.quick else ''}.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for name in args.part or PARTS:
            PARTS[name](bench)
    finally:
        shutil.rmtree(bench.dir, ignore_errors=True)
    print(f"\nThe load was {load} at the beginning, {' '.join(open('/proc/loadavg').read().split()[:3])} at the end.")
    if args.write:
        write_figures(sys.stdout.text)


if __name__ == "__main__":
    main()
