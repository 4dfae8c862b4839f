"""The API's own record of each request, put around moto: one JSON object a line, in a file for each schedule.

Requests that may change something are carried out one after the other, so the content that was in place before and after
each is what it was applied to. With each delete of tfguard's goes what of the schedule's runs was alive when it was applied.
"""

import contextlib
import io
import json
import os
import re
import threading
import time

from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.s3.models import s3_backends

ACCOUNT, REGION = "123456789012", "us-east-1"
DIRECTORY = os.environ["CHAOS_RECORDS"]
# What the AWS SDK for Rust, and so tfguard, calls itself.
TFGUARD = "aws-sdk-rust"
PF_EXITING = 0x4
READS = ("Get", "BatchGet", "Query", "Scan", "Describe", "List")
ONE_AT_A_TIME = threading.Lock()


def wrap(application):
    def recorded(environ, start_response):
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = io.BytesIO(body)
        request = describe(environ, body)
        place = place_of(request)
        with ONE_AT_A_TIME if request["changes"] else contextlib.nullcontext():
            if request["changes"]:
                request["before"] = content(place)
                if TFGUARD in request["agent"] and "DELETE" in (request["method"], request["operation"][:6].upper()):
                    request["alive"] = alive(request["run"][:-4])
            request["applied"] = time.monotonic_ns()
            statuses = []

            def start(status, headers, *rest):
                statuses.append(int(status.split()[0]))
                return start_response(status, headers, *rest)

            with contextlib.closing(application(environ, start)) as parts:
                answer = b"".join(parts)
            if request["changes"]:
                request["after"] = content(place)
            request["status"] = statuses[-1]
            request["answer"] = answer[:20000].decode("utf-8", "replace")
            write(request)
        return [answer]

    return recorded


def describe(environ, body):
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    run = re.search(r"Credential=([^/]*)/", authorization)
    operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    method = environ["REQUEST_METHOD"]
    reads = operation.startswith(READS) if operation else method in ("GET", "HEAD")
    return {
        "kind": "request",
        "arrived": time.monotonic_ns(),
        "run": run.group(1) if run else "",
        "agent": environ.get("HTTP_USER_AGENT", ""),
        "method": method,
        "path": environ.get("PATH_INFO", ""),
        "query": environ.get("QUERY_STRING", ""),
        "operation": operation,
        "if_match": environ.get("HTTP_IF_MATCH"),
        "if_none_match": environ.get("HTTP_IF_NONE_MATCH"),
        "body": body[:20000].decode("utf-8", "replace"),
        "changes": not reads,
    }


def place_of(request):
    """Names the item or object that a request is about, within the record too."""
    if request["operation"]:
        parsed = json.loads(request["body"] or "{}")
        key = parsed.get("Item") or parsed.get("Key") or {}
        request["table"] = parsed.get("TableName", "")
        request["place"] = f"{request['table']}:{key.get('LockID', {}).get('S', '')}"
    else:
        request["table"] = None
        request["place"] = request["path"].lstrip("/")
    return request["table"], request["place"]


def content(place):
    """What moto has there now."""
    table, name = place
    if table is not None:
        known = dynamodb_backends[ACCOUNT][REGION].tables.get(table)
        item = known.items.get(DynamoType({"S": name[len(table) + 1 :]})) if known else None
        return item and {name: value.value for name, value in item.attrs.items() if value.type == "S"}
    bucket, _, key = name.partition("/")
    known = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
    found = known.keys.get(key) if known else None
    value = getattr(found, "value", None)
    return None if value is None else {"etag": found.etag, "body": value[:20000].decode("utf-8", "replace")}


def alive(schedule):
    """The Terraforms, their providers and the tfguards of a schedule's runs that are not dead or dying."""
    mark = b"AWS_ACCESS_KEY_ID="
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            if not name.startswith(("terraform", "tfguard")):
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                runs = [entry[len(mark) :].decode() for entry in file.read().split(b"\0") if entry.startswith(mark)]
            if not runs or not runs[0].startswith(schedule):
                continue
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(") ")[2].split()
            if fields[0] not in "ZX" and not int(fields[6]) & PF_EXITING:
                found.append({"run": runs[0], "pid": int(pid), "name": name, "stopped": fields[0] in "Tt"})
    return found


def write(request):
    line = json.dumps(request) + "\n"
    # A run's credentials are its schedule's and four letters more.
    path = os.path.join(DIRECTORY, request["run"][:-4] or "nobody")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
