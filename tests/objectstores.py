"""Object stores to test on: moto and a real SeaweedFS, each a process of its own, and a proxy that injects faults.

Both speak S3, on loopback unless told otherwise; `environment` holds the variables by which every S3 client finds them.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

KEY, SECRET, BUCKET = "lakejobs", "lakejobs-secret", "lake"


@dataclass(frozen=True)
class Server:
    """A running S3 server with an empty bucket."""

    port: int
    address: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The usual variables, as a user would set them for a store at this address."""
        return environment(self.port, self.address)


def environment(port: int, address: str = "127.0.0.1") -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def new_root() -> str:
    """The URL of an empty prefix."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@functools.cache
def seaweedfs(address: str = "127.0.0.1", *, users: bool = False) -> Server:
    """SeaweedFS, started once for all tests of this process; with `users`, another one that has a user management."""
    directory = Path(tempfile.mkdtemp(prefix="lakejobs-seaweedfs-"))
    identity = {
        "name": "lakejobs",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (directory / "data").mkdir()
    master, volume, filer, s3 = free_ports(4)
    command = [
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={directory}/data", f"-ip={address}",
        f"-ip.bind={address}", f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
        "-s3", f"-s3.port={s3}", f"-s3.config={directory}/s3.json", f"-s3.iam={str(users).lower()}",
        "-s3.iam.readOnly=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256", "-volume.max=50",
    ]  # fmt: skip
    return _started(command, Server(s3, address), directory)


@functools.cache
def moto() -> Server:
    """moto, in server mode, started once for all tests of this process."""
    directory = Path(tempfile.mkdtemp(prefix="lakejobs-moto-"))
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("moto_server")), "--host", "127.0.0.1", "--port", str(port)]
    return _started(command, Server(port), directory)


def _started(command: list[str], server: Server, directory: Path) -> Server:
    """Start a server, wait until it has made the bucket, and kill it when this process ends."""
    # Whoever holds its standard input keeps it alive: it ends with this process, even if that is killed. SeaweedFS
    # takes half a minute to heed SIGTERM.
    script = '"$@" </dev/null & cat; kill -9 $!'
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", script, "sh", *command], cwd=directory, stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    owner = os.getpid()

    def stop() -> None:
        if os.getpid() == owner:
            assert process.stdin
            process.stdin.close()
            process.wait()
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(stop)
    deadline = time.monotonic() + 120
    while not _makes_bucket(server):
        assert time.monotonic() < deadline, (directory / "log").read_text("utf-8", "replace")
        time.sleep(0.1)
    return server


def _makes_bucket(server: Server) -> bool:
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=server.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=20),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
        client.delete_object(Bucket=BUCKET, Key="probe")
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return False
    return True


def versions(url: str) -> dict[str, str]:
    """The etags of all objects below a URL, by key."""
    from obstore.store import from_url

    listed = from_url(url).list().collect()
    return {found["path"]: str(found["e_tag"]) for found in listed}


def free_ports(count: int) -> list[int]:
    """Free ports whose gRPC twins (10,000 higher, as SeaweedFS derives them) are free too."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            probe = socket.socket()
            probe.bind(("127.0.0.1", 0))
            held.append(probe)
            port = probe.getsockname()[1]
            twin = socket.socket()
            held.append(twin)
            try:
                twin.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            ports.append(port)
    finally:
        for probe in held:
            probe.close()
    return ports


# ------------------------------------------------------------------------------------------------ the proxy

Fault: TypeAlias = Literal["unavailable", "slow", "cut", "drop", "lose"]
"""What befalls a request: an answer 503; a late answer; an answer cut off amid its body; no answer, and the request
does not reach the store; no answer, although the request took effect."""


class Request(NamedTuple):
    number: int
    """From 1."""
    method: str
    path: str
    """With the query."""


def kind(request: Request) -> str:
    """A request's method, or LIST."""
    return "LIST" if request.method == "GET" and "list-type=" in request.path else request.method


class Proxy:
    """Passes requests on to a server, counts them, and injects what `decide` says."""

    def __init__(self, server: Server) -> None:
        self.decide: Callable[[Request], Fault | None] = lambda request: None
        self.requests: list[Request] = []
        self._counting = threading.Lock()
        self._server = http.server.ThreadingHTTPServer((server.address, 0), _handler(self, server))
        self._server.daemon_threads = True
        self.address, self.port = server.address, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.port, self.address)

    @property
    def methods(self) -> Counter[str]:
        """How many requests there were, by method."""
        return Counter(request.method for request in self.requests)

    def count(self, method: str, path: str) -> Request:
        with self._counting:
            request = Request(len(self.requests) + 1, method, path)
            self.requests.append(request)
        return request

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(proxy: Proxy, server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # otherwise a body waits 40 ms for its headers to be acknowledged

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):  # whoever asked is dead
                self.close_connection = True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.decide(proxy.count(self.command, self.path))
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "unavailable":
                self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>", b"")
                return
            upstream = http.client.HTTPConnection(server.address, server.port, timeout=60)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            found = upstream.getresponse()
            content = found.read()
            upstream.close()
            if fault == "slow":
                time.sleep(0.1)
            if fault == "lose" or (fault == "cut" and not content):
                self.close_connection = True
                return
            size = found.getheader("Content-Length") if self.command == "HEAD" else None
            shown = content[: len(content) // 2] if fault == "cut" else content
            self.answer(found.status, found.getheaders(), shown, content, size)
            self.close_connection |= fault == "cut"

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

        def answer(
            self, status: int, headers: list[tuple[str, str]], shown: bytes, whole: bytes, size: str | None = None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", size or str(len(whole or shown)))
            self.end_headers()
            self.wfile.write(shown)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
