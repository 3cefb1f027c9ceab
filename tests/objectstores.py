"""Object stores to test on: moto and a real SeaweedFS, each a process of its own, and a proxy that injects faults.

Both speak S3 on loopback; `environment` holds the variables by which every S3 client finds them.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET, BUCKET = "lakejobs", "lakejobs-secret", "lake"


@dataclass(frozen=True)
class Server:
    """A running S3 server with an empty bucket."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The usual variables, as a user would set them for a store on this machine."""
        return environment(self.port)


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def new_root() -> str:
    """The URL of an empty prefix."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@functools.cache
def seaweedfs() -> Server:
    """SeaweedFS, started once for all tests of this process."""
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
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={directory}/data", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
        "-s3", f"-s3.port={s3}", f"-s3.config={directory}/s3.json", "-s3.iam=false", "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256", "-volume.max=50",
    ]  # fmt: skip
    return _started(command, s3, directory)


@functools.cache
def moto() -> Server:
    """moto, in server mode, started once for all tests of this process."""
    directory = Path(tempfile.mkdtemp(prefix="lakejobs-moto-"))
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("moto_server")), "--host", "127.0.0.1", "--port", str(port)]
    return _started(command, port, directory)


def _started(command: list[str], port: int, directory: Path) -> Server:
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
    while not _makes_bucket(port):
        assert time.monotonic() < deadline, (directory / "log").read_text("utf-8", "replace")
        time.sleep(0.1)
    return Server(port)


def _makes_bucket(port: int) -> bool:
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=20),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
        client.delete_object(Bucket=BUCKET, Key="probe")
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return False
    return True


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
