"""A task of Azure Pipelines as far as signals go. It is a Node program there; what it runs writes into its pipes."""

import os
import signal
import subprocess
import sys
import threading

way, *command = sys.argv[1:]
started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def pass_on(number, frame):
    # `killChildProcess()` of azure-pipelines-task-lib sends SIGTERM unless it is told what else.
    started.send_signal(number if way == "forwards" else signal.SIGTERM)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL if way == "dies" else pass_on)


def pump(source, sink):
    while piece := os.read(source, 65536):
        os.write(sink, piece)


pumps = [
    threading.Thread(target=pump, args=(started.stdout.fileno(), 1)),
    threading.Thread(target=pump, args=(started.stderr.fileno(), 2)),
]
for thread in pumps:
    thread.start()
code = started.wait()
for thread in pumps:
    thread.join()
sys.exit(code if code >= 0 else 1)
