"""A lake in an object store: the same tasks, typed as a user types them, give the same lake as on a local disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import objectstores
import pytest
from conftest import DOMAINS, PROJECT, LakeUnderTest, as_set, sale

from lakejobs.storage.objects import ObjectStore


class Host:
    """A machine of its own: a working directory, a scratch directory and an environment."""

    def __init__(self, root: Path, url: str, environment: dict[str, str]) -> None:
        (root / "tmp").mkdir(parents=True)
        self.root, self.url = root, url
        self.environment = {
            **os.environ, **environment, "TMPDIR": str(root / "tmp"), "LUIGI_CONFIG_PATH": str(PROJECT / "luigi.cfg")
        }  # fmt: skip
        self.said = ""

    def command(self, *arguments: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", *arguments, "--local-scheduler",
            "--lake-root", f"{self.url}/lake", "--lake-staging", f"{self.url}/staging", "--lake-lock-lease", "3",
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
    return Host(tmp_path / "watched", objectstores.new_root(), proxy.environment)


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


def test_a_run_with_nothing_to_do_costs_few_requests(watched, proxy):
    counts = []
    for days in (2, 4):
        for domain in DOMAINS:
            row = inputs()[next((name, file) for name, file in inputs() if name == domain)].splitlines()[:2]
            for day in range(1, days + 1):
                watched.deliver(domain, f"{domain}_202601{day:02d}_120000.csv", b"\n".join(row))
        assert watched.run("GoldAll") == 0, watched.said
        proxy.requests.clear()
        assert watched.run("GoldAll") == 0, watched.said
        assert "Did not run any tasks" in watched.said
        counts.append(proxy.methods)
    assert counts[0] == counts[1], "the number does not depend on the number of partitions"
    assert counts[0].total() <= 30, proxy.requests
    assert counts[0].keys() == {"GET"}
