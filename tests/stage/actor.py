"""A process that tells the test what happens to it and does what the test says.

Reports each signal it receives. A signal is reported when it is delivered, so two are two.
"""

import json, os, select, signal, socket, subprocess, sys

REPORTED = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"]

# What a test asks for: the signals that were ignored on entry, and code to run when one comes.
ignored = [name for name in REPORTED if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN]
on = {}

test = socket.socket(socket.AF_UNIX)
test.connect(sys.argv[1])
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
for name in REPORTED:
    if name == "SIGHUP" and name in ignored:
        # As Go has it: what was ignored stays so.
        continue
    signal.signal(getattr(signal, name), lambda *_: None)


def tell(**facts):
    test.sendall(json.dumps(facts).encode() + b"\n")


def another(**options):
    """Starts an actor below this one."""
    return subprocess.Popen([sys.executable, *sys.argv], **options).pid


tell(pid=os.getpid(), parent=os.getppid(), group=os.getpgrp(), session=os.getsid(0), ignored=ignored)
lines = test.makefile("r")
while True:
    ready, _, _ = select.select([woken, test], [], [])
    if woken in ready:
        for number in os.read(woken, 1024):
            tell(signal=signal.Signals(number).name)
            if number in on:
                exec(on[number])
    if test in ready:
        line = lines.readline()
        if not line:
            # The test is gone or done with this actor.
            os._exit(99)
        kind, code = json.loads(line)
        if kind == "do":
            exec(code)
            tell(answer=None)
        else:
            tell(answer=eval(code))
