"""`docker exec -i`, the client and the engine. The client passes output on and no signal: what was started is the
engine's child and does not notice when the client is gone."""

import os
import signal
import subprocess
import sys
import threading


def pump(source, sink):
    while piece := os.read(source, 65536):
        try:
            os.write(sink, piece)
        except BrokenPipeError:
            pass


def pump_all(*pairs):
    threads = [threading.Thread(target=pump, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


out, err, status = os.pipe(), os.pipe(), os.pipe()
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for reader, _ in (out, err, status):
        os.close(reader)
    started = subprocess.Popen(sys.argv[1:], stdin=null, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pump_all((started.stdout.fileno(), out[1]), (started.stderr.fileno(), err[1]))
    code = started.wait()
    # What died of a signal has the exit code that a shell gives it.
    os.write(status[1], bytes([code if code >= 0 else 128 - code]))
    os._exit(0)

for handled in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
    signal.signal(handled, signal.SIG_DFL)
for _, writer in (out, err, status):
    os.close(writer)
pump_all((out[0], 1), (err[0], 2))
os._exit(os.read(status[0], 1)[0])
