"""A lake in an object store: the same tasks, typed as a user types them, give the same lake as on a local disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import objectstores
import pytest
from conftest import DOMAINS, PROJECT, LakeUnderTest, as_set, sale
from objectstores import Fault, Request

from lakejobs.messages import LakeError
from lakejobs.storage import objects
from lakejobs.storage.objects import ObjectStore


class Host:
    """A machine of its own: a working directory, a scratch directory and an environment."""

    def __init__(self, root: Path, url: str, environment: dict[str, str], lease: int = 3) -> None:
        (root / "tmp").mkdir(parents=True)
        self.root, self.url, self.lease = root, url, lease
        self.environment = {
            **os.environ, **environment, "TMPDIR": str(root / "tmp"), "LUIGI_CONFIG_PATH": str(PROJECT / "luigi.cfg")
        }  # fmt: skip
        self.said = ""

    def command(self, *arguments: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", arguments[0], "--local-scheduler",
            "--lake-root", f"{self.url}/lake", "--lake-staging", f"{self.url}/staging", "--lake-lock-lease",
            str(self.lease), *arguments[1:],
        ]  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=self.root, env=self.environment, text=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str) -> int:
        """Run a task and return the exit code. `said` then holds what it wrote to standard error."""
        with self.start(*arguments) as process:
            _, self.said = process.communicate(timeout=300)
        return process.returncode

    def deliver(self, domain: str, name: str, content: bytes) -> None:
        """Stage a file in the object store."""
        with self.store("staging").publish(f"{domain}/{name}") as path:
            Path(path).write_bytes(content)

    def deliver_all(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: self.deliver(*one[0], one[1]), inputs().items()))

    def store(self, name: str = "lake") -> ObjectStore:
        return ObjectStore(f"{self.url}/{name}", lease=3)


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[objectstores.Server]:
    server = objectstores.seaweedfs()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    yield server
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def host(tmp_path: Path, seaweedfs: objectstores.Server) -> Host:
    return Host(tmp_path / "host", objectstores.new_root(), seaweedfs.environment)


@pytest.fixture
def proxy(seaweedfs: objectstores.Server) -> Iterator[objectstores.Proxy]:
    made = objectstores.Proxy(seaweedfs)
    yield made
    made.close()


@pytest.fixture
def watched(tmp_path: Path, proxy: objectstores.Proxy) -> Host:
    """A host whose requests go through the proxy."""
    return Host(tmp_path / "watched", objectstores.new_root(), proxy.environment, lease=1)


def download(store: ObjectStore, to: Path) -> LakeUnderTest:
    """A copy of a lake on the local disk."""
    for layer in ("silver", "gold"):
        for depth in (1, 4):
            for below, listing in store.listings(layer, depth, lambda name: True).items():
                for file in listing.files():
                    path = to / "datalake" / layer / below / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with store.reading(f"{layer}/{below}/{file.path}") as handle:
                        path.write_bytes(handle.read())
    return LakeUnderTest(to)


def cells(lake: LakeUnderTest) -> dict[str, set[tuple[str, ...]]]:
    """Every cell of silver and gold, except when the rows were made."""
    found = {f"silver {domain}": as_set(lake.silver(domain)) for domain in DOMAINS}
    for directory in sorted((lake.root / "datalake/gold").glob("*")):
        found[f"gold {directory.name}"] = as_set(lake.gold(directory.name))
    assert len(found) == 10 and all(found.values())
    return {name: set(rows) for name, rows in found.items()}


def differences(one: LakeUnderTest, other: LakeUnderTest) -> list[tuple[str, tuple[str, ...]]]:
    """The rows that one of two lakes has and the other lacks."""
    ours, theirs = cells(one), cells(other)
    assert ours.keys() == theirs.keys()
    return [(name, row) for name in ours for row in ours[name] ^ theirs[name]]


def inputs() -> dict[tuple[str, str], bytes]:
    """Dirty deliveries of every domain, by domain and name: those of the golden cases."""
    found = {}
    for path in sorted((PROJECT / "tests/golden").glob("*/input/*/*.csv")):
        number = f"{len(found):02d}"
        found[path.parent.name, f"{path.stem[:-2]}{number}.csv"] = path.read_bytes()
    return found


def test_the_lake_is_the_same_as_on_a_local_disk(host, lake, command_line):
    for (domain, name), content in inputs().items():
        lake.deliver_bytes(domain, name, content)
        host.deliver(domain, name, content)
    assert lake.run()
    assert host.run("GoldAll") == 0, host.said
    assert differences(lake, download(host.store(), lake.root / "downloaded")) == []
    before = objectstores.versions(host.url)
    assert host.run("GoldAll") == 0
    assert "Did not run any tasks" in host.said
    assert objectstores.versions(host.url) == before
    # New rows are merged into what is there.
    header = ",".join(DOMAINS["sales"].columns)
    late = f"{header}\n{sale('late')}\n".encode()
    lake.deliver_bytes("sales", "sales_20261103_090000.csv", late)
    host.deliver("sales", "sales_20261103_090000.csv", late)
    assert lake.run()
    assert host.run("GoldAll") == 0, host.said
    assert differences(lake, download(host.store(), lake.root / "again")) == []


def test_a_run_costs_requests_for_what_it_touches_not_for_what_is_there(watched, proxy):
    rows = {domain: content for (domain, _), content in reversed(inputs().items())}

    def deliver(domain: str, stamp: str) -> None:
        watched.deliver(domain, f"{domain}_{stamp}.csv", b"\n".join(rows[domain].splitlines()[:2]))

    def requests() -> Counter[str]:
        proxy.requests.clear()
        # No lease is renewed meanwhile.
        assert watched.run("GoldAll", "--lake-lock-lease", "60") == 0, watched.said
        return Counter(map(objectstores.kind, proxy.requests))

    nothing, batch, landed = [], [], 0
    for days in (2, 10):
        for number in range(landed, days):
            for domain in DOMAINS:
                deliver(domain, f"202601{number + 1:02d}_120000")
        requests()
        nothing.append(requests())
        assert "Did not run any tasks" in watched.said
        deliver("sales", f"202602{days:02d}_120000")
        batch.append(requests())
        landed = days
    assert nothing[0] == nothing[1]
    assert nothing[0].total() == 25 and nothing[0].keys() == {"LIST", "GET"}, proxy.requests
    assert batch[0] == batch[1]
    # A listing shows up to 1,000 objects.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: watched.deliver("sales", f"_{number}", b"x"), range(1000)))
    requests()  # remembers that these are ignored
    assert requests() == nothing[0] + Counter(["LIST"])


# ------------------------------------------------------------------------------------------------ the store, and faults


@pytest.fixture
def direct(seaweedfs: objectstores.Server) -> ObjectStore:
    """A store with a lease of a second."""
    return ObjectStore(objectstores.new_root(), lease=1)


@pytest.fixture
def faulty(direct: ObjectStore, proxy: objectstores.Proxy, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same objects, through the proxy."""
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(direct.root, lease=20)


def put(store: ObjectStore, path: str, content: bytes, replaces: str | None = "any") -> None:
    with store.publish(path, replaces=replaces) as local:
        Path(local).write_bytes(content)


def get(store: ObjectStore, path: str) -> bytes:
    with store.reading(path) as handle:
        return handle.read()


def use(store: ObjectStore) -> list[object]:
    """Use everything that a store can do; returns what it answered."""
    put(store, "d/a", b"1" * 100, replaces=None)
    known = store.stat("d/a")
    assert known
    put(store, "d/a", b"2" * 100, replaces=known.version)
    put(store, "d/large", b"3" * (6 << 20))
    with store.lock("x", 30) as lease:
        put(store, "d/b", b"4" * 100)
        put(store, "d/b", b"5" * 100)
        store.remove("d/a")
        token = lease.renew_token()
    with store.lock("x", 30) as lease:
        assert lease.token == token == store.token("x")
    listed = store.listings("", 1, lambda name: True)["d"].files()
    local = [Path(path).read_bytes() for path in store.on_disk(["d/b"])]
    return [
        [file.path for file in listed], listed == store.files("d"), store.others(""), get(store, "d/b"), local,
        get(store, "d/large") == b"3" * (6 << 20), store.stat("d/a"), store.named("d", 0, "b").keys(),
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["unavailable", "slow", "cut", "drop", "lose"])
def test_a_fault_of_any_one_request_changes_no_answer(faulty, proxy, fault):
    expected = use(faulty)
    number = len(proxy.requests)
    assert number > 25
    for at in range(1, number + 1):
        proxy.requests.clear()
        proxy.decide = lambda request: fault if request.number == at else None  # noqa: B023
        assert use(ObjectStore(objectstores.new_root(), lease=20)) == expected, proxy.requests[at - 1]


def test_a_store_that_never_answers_well_is_an_error_not_a_missing_file(faulty, proxy):
    put(faulty, "a", b"1")
    proxy.decide = lambda request: "unavailable"
    with pytest.raises(LakeError, match=r"cannot read s3://.*/a: .*503|SlowDown"):
        faulty.stat("a")


# ------------------------------------------------------------------------------------------------ leases


class Frozen:
    """Lets a holder's requests through until one of a certain kind; that and all later ones wait for `thaw`."""

    def __init__(self, proxy: objectstores.Proxy, method: str, path: str) -> None:
        self.has_come, self.thaw = threading.Event(), threading.Event()

        def decide(request: Request) -> None:
            if self.has_come.is_set() or (request.method == method and path in request.path):
                self.has_come.set()
                assert self.thaw.wait(60)

        proxy.decide = decide


@pytest.mark.parametrize("was_there", [True, False])
def test_what_a_late_holder_publishes_is_refused(faulty, direct, proxy, was_there):
    if was_there:
        put(direct, "d/a", b"old")
    frozen = Frozen(proxy, "PUT", "/d/a")
    late = begin(faulty, lambda: put(faulty, "d/a", b"late"))
    assert frozen.has_come.wait(60)
    with direct.lock("x", 60):
        put(direct, "d/a", b"new")
        frozen.thaw.set()
        with pytest.raises(LakeError, match="x: lost the lock"):
            late.result(60)
        assert get(direct, "d/a") == b"new"
        put(direct, "d/b", b"the new holder still holds it")


def test_what_a_late_holder_removes_stays_if_it_was_made_anew(faulty, direct, proxy):
    put(direct, "d/a", b"old")
    frozen = Frozen(proxy, "DELETE", "/d/a")
    late = begin(faulty, lambda: faulty.remove("d/a"))
    assert frozen.has_come.wait(60)
    with direct.lock("x", 60):
        put(direct, "d/a", b"new")
        frozen.thaw.set()
        with pytest.raises(LakeError, match=r"changed by another run|lost the lock"):
            late.result(60)
        assert get(direct, "d/a") == b"new"


def test_a_late_holder_that_harms_nothing_fails_too(faulty, direct, proxy):
    frozen = Frozen(proxy, "PUT", "/d/a")
    late = begin(faulty, lambda: put(faulty, "d/a", b"late"))
    assert frozen.has_come.wait(60)
    with direct.lock("x", 60):
        frozen.thaw.set()
        with pytest.raises(LakeError, match="x: lost the lock"):
            late.result(60)


def test_a_waiter_counts_from_when_it_saw_the_lock_however_late_the_answer(direct, monkeypatch):
    passed = 0.0

    def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(objects, "_clock", lambda: passed)
    monkeypatch.setattr(objects.time, "sleep", sleep)
    holder = objects.ObjectLease(direct, "x")
    holder.acquire(0)
    waiter = ObjectStore(direct.root, lease=1)
    read, looks = waiter.read_lock, 0

    def read_late(name: str) -> object:
        nonlocal looks
        looks += 1
        if looks == 1:  # the request takes most of a lease; meanwhile, the lock is renewed
            sleep(0.7)
            holder.check()
            holder._write()
        return read(name)

    monkeypatch.setattr(waiter, "read_lock", read_late)
    objects.ObjectLease(waiter, "x").acquire(10)
    assert passed > holder._until, "the lock was taken over while its holder could still hold it"


def test_once_a_store_does_not_answer_each_request_is_made_once_until_it_does(faulty, proxy, monkeypatch):
    put(faulty, "a", b"1")
    proxy.decide = lambda request: "drop"
    for _ in range(2):
        proxy.requests.clear()
        with pytest.raises(LakeError, match=r"cannot read s3://.*/a: no answer from http"):
            faulty.stat("a")
    assert len(proxy.requests) <= 2, "the client repeats a request once if a connection that it kept turns out closed"
    proxy.requests.clear()
    with pytest.raises(LakeError, match=r"cannot remove s3://.*/a: no answer from http"):
        faulty._delete("a", {"e_tag": "x"})
    assert len(proxy.requests) <= 2
    proxy.requests.clear()
    proxy.decide = lambda request: "drop" if request.number in (2, 3, 4) else None
    assert faulty.stat("a")
    assert faulty.stat("a"), "requests are repeated again"
    assert len(proxy.requests) == 5


def begin(store: ObjectStore, act: Callable[[], None]) -> Future[None]:
    """Take a lease of a second, then do something, in a thread."""
    store.lease = 1

    def run() -> None:
        with store.lock("x", 10):
            act()

    return ThreadPoolExecutor(1).submit(run)


# ------------------------------------------------------------------------------------------------ hosts


def staged(host: Host, to: Path) -> None:
    """Copy what is staged in the object store to the local disk."""
    for domain, listing in host.store("staging").listings("", 1, lambda name: True).items():
        for file in listing.files():
            path = to / "local_output" / domain / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with host.store("staging").reading(f"{domain}/{file.path}") as handle:
                path.write_bytes(handle.read())


def test_two_hosts_work_on_one_lake_at_once(host, lake, tmp_path, seaweedfs):
    other = Host(tmp_path / "other", host.url, seaweedfs.environment)
    running = []
    for number in range(3):
        batch = f"2026110{number + 1}_120000"
        running += [host.start("GoldAll"), other.start("GenerateAll", "--GenerateAll-batch", batch)]
        running.append(other.start("GoldAll"))
        for process in running[-3:]:
            _, said = process.communicate(timeout=300)
            # A lake without anything staged is complete, or waits; nothing may fail.
            assert process.returncode == 0, said
    assert host.run("GoldAll") == 0, host.said
    staged(host, lake.root)
    assert lake.run()
    assert differences(lake, download(host.store(), lake.root / "downloaded")) == []


def test_the_order_of_deliveries_does_not_depend_on_a_hosts_clock(host, lake):
    script = """
import datetime, sys, types
from luigi.cmdline import luigi_run
from lakejobs.freshness import domain_state

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(minutes=10)

domain_state.dt = types.SimpleNamespace(**{**vars(datetime), "datetime": Clock})
luigi_run(sys.argv[1:])
"""
    header = ",".join(DOMAINS["sales"].columns)
    host.deliver("sales", "first.csv", f"{header}\n{sale('s1', quantity=1, total='5.00')}\n".encode())
    assert host.run("GoldAll") == 0, host.said
    host.deliver("sales", "a correction.csv", f"{header}\n{sale('s1', quantity=3, total='15.00')}\n".encode())
    behind = [sys.executable, "-c", script, *host.command("GoldAll")[1:]]
    done = subprocess.run(behind, cwd=host.root, env=host.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(download(host.store(), lake.root / "downloaded").silver()["quantity"]) == [3]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, seaweedfs: objectstores.Server) -> tuple[LakeUnderTest, int]:
    """A copy of the lake that an undisturbed run makes (see the first test), and how many requests that took."""
    root, proxy = tmp_path_factory.mktemp("undisturbed"), objectstores.Proxy(seaweedfs)
    host = Host(root / "host", objectstores.new_root(), proxy.environment)
    host.deliver_all()
    assert host.run("GoldAll") == 0, host.said
    proxy.close()
    return download(host.store(), root), len(proxy.requests)


@pytest.mark.parametrize("at", [0.3, 0.7])
def test_a_host_that_is_stopped_beyond_its_lease_does_no_harm(undisturbed, watched, proxy, seaweedfs, tmp_path, at):
    expected, requests = undisturbed
    other = Host(tmp_path / "other", watched.url, seaweedfs.environment, lease=1)
    other.deliver_all()
    has_stopped, go_on = threading.Event(), threading.Event()
    processes: list[subprocess.Popen[str]] = []

    def decide(request: Request) -> None:
        if request.number == int(requests * at):
            processes[0].send_signal(signal.SIGSTOP)
            has_stopped.set()
            assert go_on.wait(300)

    proxy.decide = decide
    processes.append(watched.start("GoldAll"))
    assert has_stopped.wait(120)
    assert other.run("GoldAll") == 0, other.said
    assert differences(expected, download(other.store(), tmp_path / "taken over")) == []
    go_on.set()
    processes[0].send_signal(signal.SIGCONT)
    _, said = processes[0].communicate(timeout=300)
    # What it was about to do may be refused, or a request may have waited too long for its answer.
    assert processes[0].returncode == 0 or "run again" in said or "no answer from" in said, said
    assert other.run("GoldAll") == 0, other.said
    assert differences(expected, download(other.store(), tmp_path / "at the end")) == []


@pytest.mark.parametrize("fault", ["drop", "lose"])
@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_run_that_is_killed_at_a_request_needs_no_repair(undisturbed, watched, proxy, seaweedfs, tmp_path, fault, at):
    expected, requests = undisturbed
    other = Host(tmp_path / "other", watched.url, seaweedfs.environment, lease=1)
    other.deliver_all()
    processes: list[subprocess.Popen[str]] = []

    def decide(request: Request) -> Fault | None:
        if request.number != int(requests * at):
            return None
        processes[0].kill()
        processes[0].wait()
        return fault

    proxy.decide = decide
    processes.append(watched.start("GoldAll"))
    processes[0].communicate(timeout=300)
    assert processes[0].returncode == -signal.SIGKILL
    assert other.run("GoldAll") == 0, other.said
    assert differences(expected, download(other.store(), tmp_path / "at the end")) == []


# ------------------------------------------------------------------------------------------------ what people meet


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, [], "permission denied (SignatureDoesNotMatch); check the credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, [], "no answer from http://127.0.0.1:9; check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, [], "AWS_ENDPOINT_URL=nonsense: expected a URL"),
        ({}, ["--lake-root", "s3://no-such-bucket/lake"], "the bucket does not exist; create it"),
        ({}, ["--lake-root", "ftp://host/lake"], "ftp://host/lake is not the URL of an object store"),
    ],
)
def test_what_is_wrong_with_the_store_is_said_in_a_sentence(host, changes, arguments, message):
    host.environment |= changes
    assert host.run("GoldAll", *arguments) in (30, 35)
    assert message in host.said
    assert "Traceback" not in host.said


def test_a_refusal_because_of_a_wrong_clock_says_so():
    # A real answer of SeaweedFS to a host whose clock was three hours fast.
    said = (
        "Generic S3 error: ... 403 Forbidden: <Error><Code>RequestTimeTooSkewed</Code><Message>The difference between "
        "the request time and the server&#39;s time is too large.</Message></Error>"
    )
    assert objects._reason(said) == (
        "the store refuses this host, because its clock is wrong (RequestTimeTooSkewed); set it, for example by NTP"
    )


def test_several_workers_are_refused_instead_of_hanging(host):
    for (domain, name), content in inputs().items():
        host.deliver(domain, name, content)
    assert host.run("GoldAll", "--workers", "2") != 0
    assert "run with --workers 1" in host.said


def test_a_local_lake_does_not_import_the_library(lake, command_line):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    script = "import luigi, sys; luigi.run(['--module', 'lakejobs', 'GoldAll', '--local-scheduler'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print('obstore' in sys.modules)"],
        capture_output=True, text=True, env=command_line,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_script_runs_a_store_to_try(host, tmp_path):
    # Five ports in a row, each with a twin 10,000 above it.
    first = next(
        port
        for port in range(20_000, 22_000, 5)
        if all(map(is_free, [*range(port, port + 5), *range(port + 10_000, port + 10_005)]))
    )
    environment = {**os.environ, "STORE_PORT": str(first), "STORE_HOME": str(tmp_path / "store")}

    def script(what: str) -> tuple[int, str]:
        done = subprocess.run(
            [PROJECT / "scripts/store", what],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.returncode, done.stdout

    # What it starts would keep a pipe open.
    assert subprocess.run([PROJECT / "scripts/store"], env=environment, stdout=subprocess.DEVNULL).returncode == 0
    try:
        assert script("status") == (0, f"the store runs: http://127.0.0.1:{first}\n")
        variables = dict(one.split("=", 1) for one in script("env")[1].removeprefix("export ").split())
        user = Host(tmp_path / "user", "s3://lake", variables)
        assert user.run("Staging", "--domain", "sales", "--Staging-batch", "20261101_100000") == 0, user.said
        assert user.run("GoldAll") == 0, user.said
    finally:
        script("stop")
    assert script("status") == (1, "the store does not run\n")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_the_pages_are_published_and_served(host):
    for (domain, name), content in inputs().items():
        host.deliver(domain, name, content)
    assert host.run("GoldAll") == 0, host.said
    (port,) = objectstores.free_ports(1)
    environment = {**host.environment, "DOCS_PORT": str(port), "DOCS_HOME": str(host.root / "docs")}
    script = str(PROJECT / "scripts/docs")
    try:
        # Not captured: the server would keep the pipe open.
        started = subprocess.run([script, "start", f"{host.url}/lake"], env=environment, stdout=subprocess.DEVNULL)
        assert started.returncode == 0
        for path, text in (("report.html", "Gold"), ("data_docs/index.html", "sales")):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
                assert text in answer.read().decode()
        for path in ("nothing.html", "../_facts_sales.json", "%2e%2e/_facts_sales.json"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}")
    finally:
        subprocess.run([script, "stop"], env=environment)
