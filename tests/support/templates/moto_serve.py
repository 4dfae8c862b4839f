"""Serves moto (DynamoDB, S3, STS) on a free loopback port until stdin reaches its end.

The port is the first line on stdout. The end of stdin, and not only a signal, ends the server: so it
goes with the process that started it, however that one ended. An argument names a Python file whose `wrap` is put
around the application.

Served by waitress: werkzeug's own server closes the connection after every answer, and under load
clients saw it closed before they had read the answer, which looks like the faults that the tests inject.
"""

import logging
import os
import runpy
import sys
import threading

import waitress
from moto.s3.responses import S3Response
from moto.server import DomainDispatcherApplication, create_backend_app

# moto names the root of these answers after the operation, S3 after what it holds; the SDK for Rust reads only the latter.
ROOTS = {
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketEncryption": "ServerSideEncryptionConfiguration",
    "GetObjectLockConfiguration": "ObjectLockConfiguration",
    "GetObjectTagging": "Tagging",
}
serialized = S3Response.serialized


def with_the_roots_of_s3(self, result):
    status, headers, body = serialized(self, result)
    action = self._get_action()
    if action in ROOTS:
        text = body.decode() if isinstance(body, bytes) else body
        body = text.replace(f"{action}Response", ROOTS[action])
    return status, headers, body


S3Response.serialized = with_the_roots_of_s3

logging.getLogger("waitress").setLevel(logging.ERROR)

application = DomainDispatcherApplication(create_backend_app)
for wrapper in sys.argv[1:]:
    application = runpy.run_path(wrapper)["wrap"](application)

server = waitress.create_server(
    application,
    host="127.0.0.1",
    port=0,
    threads=16,
    # An answer with its head in one packet: the DynamoDB client of Terraform sometimes loses a body that comes later.
    send_bytes=18000,
)
threading.Thread(target=server.run, daemon=True).start()
print(server.effective_port, flush=True)
sys.stdin.buffer.read()
os._exit(0)
