"""Serves moto (DynamoDB, S3, STS) on a free loopback port until stdin reaches its end.

The port is the first line on stdout. The end of stdin, and not only a signal, ends the server: so it
goes with the process that started it, however that one ended.
"""

import logging
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)


class Handler(WSGIRequestHandler):
    # Keep-alive, as AWS has it.
    protocol_version = "HTTP/1.1"


server = make_server(
    "127.0.0.1",
    0,
    DomainDispatcherApplication(create_backend_app),
    threaded=True,
    request_handler=Handler,
)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.buffer.read()
os._exit(0)
