"""The same dirty data through DuckDB, Spark in one process, a Spark cluster, and a cluster on an object store.

Every silver and gold row that one lake has and the DuckDB lake lacks, or the other way round, is a violation. Then
Spark's processes are killed amid runs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import objectstores

from torture.lakes import DOMAINS, PROJECT, Place, Row, ask, say

ROWS = {"sales": 3_000_000, "customer_events": 1_000_000, "inventory": 1_000_000}
SHORT_ROWS = dict.fromkeys(ROWS, 3_000)
REAL = {"sales": ("online_retail_sales", "online_retail_two_weeks"), "inventory": ("adventureworks_inventory",)}
"""Names of real data by domain: in the directory that LAKEJOBS_DATA names, or in tests/data."""
DAY = dt.datetime(2026, 11, 1, 10)
LATE = 0.002
"""Share of a domain's lines that come again in a second file, some with other values."""
TIMEOUT = 3_600
CORES = "1"
"""Of each of the cluster's two workers."""
SPECULATION = """
[spark]
spark.speculation = true
spark.speculation.multiplier = 1.01
spark.speculation.quantile = 0.1
spark.speculation.minTaskRuntime = 0
"""
"""Makes Spark start tasks again that take longer than others, so that both attempts leave files."""


def missing() -> str | None:
    """Why Spark cannot be tried here."""
    if importlib.util.find_spec("pyspark") is None:
        return "it needs pyspark: pip install -r scripts/requirements-spark.txt"
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        return "it needs Java: install openjdk-17-jre-headless"
    return None


class Cluster:
    """A master and two workers on loopback."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = {**os.environ, "CLUSTER_HOME": str(home), "CLUSTER_CORES": CORES, "COLUMNS": "80"}

    def script(self, what: str) -> None:
        with tempfile.TemporaryFile("w+") as said:
            code = subprocess.run(
                [PROJECT / "scripts/cluster", what], env=self._environment, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, timeout=300,
            ).returncode  # fmt: skip
            said.seek(0)
            assert code == 0, said.read()

    def start(self) -> None:
        """Start it on another port: somebody may have taken the last one."""
        (port,) = objectstores.free_ports(1)
        self._environment["CLUSTER_PORT"] = str(port)
        self.options = ("--lake-engine", "spark", "--lake-spark-master", f"spark://127.0.0.1:{port}")
        self.script("start")

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.script("stop")

    def worker(self, number: int) -> int:
        return int((self.home / f"worker{number}.pid").read_text())

    def executors(self, number: int) -> list[int]:
        return children(self.worker(number))


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


def below(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = children(process)
    return [*found, *(one for child in found for one in below(child))]


class Lake(Place):
    """A lake that is run by commands of their own, with an engine."""

    def __init__(self, root: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        super().__init__(root)
        self.create()
        settings = self.root / "luigi.cfg"
        settings.write_text((PROJECT / "luigi.cfg").read_text() + SPECULATION)
        self._options = options
        self._environment = {**os.environ, "LUIGI_CONFIG_PATH": str(settings), **(environment or {})}

    def begin(self) -> subprocess.Popen[bytes]:
        command = [
            str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", "GoldAll", "--local-scheduler",
            *self._options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=self.root, env=self._environment, stdout=log, stderr=log)

    def finish(self) -> list[str]:
        """Run to the end; returns what went wrong."""
        before = len(self.said())
        code = self.begin().wait(TIMEOUT)
        return [] if code == 0 else [f"a run ended with {code}: {self.said()[before:][-2_000:]}"]


class StoredLake(Lake):
    """Its files are in an object store; `fetch` brings them to the local disk."""

    def __init__(self, root: Path, *options: str, server: objectstores.Server) -> None:
        self._url = objectstores.new_root()
        self._server = server
        stores = ("--lake-root", f"{self._url}/datalake", "--lake-staging", f"{self._url}/local_output")
        super().__init__(root, *options, *stores, environment=server.environment)

    def deliver(self, domain: str, name: str, content: bytes | Sequence[str]) -> None:
        super().deliver(domain, name, content)
        ask(
            _upload, self._server.environment, f"{self._url}/local_output", str(self.root / "local_output"), timeout=600
        )

    def fetch(self) -> None:
        shutil.rmtree(self.root / "datalake", ignore_errors=True)
        ask(_download, self._server.environment, f"{self._url}/datalake", str(self.root / "datalake"), timeout=600)


def _upload(environment: dict[str, str], url: str, directory: str) -> None:
    from lakejobs.storage.objects import ObjectStore

    os.environ.update(environment)
    for path in Path(directory).glob("*/*"):
        with ObjectStore(url).publish(str(path.relative_to(directory))) as temporary:
            shutil.copy(path, temporary)


def _download(environment: dict[str, str], url: str, directory: str) -> None:
    import obstore
    from obstore.store import from_url

    os.environ.update(environment)
    store = from_url(url)
    for found in store.list().collect():
        path = Path(directory) / found["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(obstore.get(store, found["path"]).bytes()))


# ------------------------------------------------------------------------------------------------ the matrix


def matrix(short: bool, seed: int) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="lakejobs-engines-") as directory,
        Cluster(Path(directory, "cluster")) as it,
    ):
        root, server = Path(directory), objectstores.seaweedfs()
        lakes: dict[str, Lake] = {
            "DuckDB": Lake(root / "duckdb"),
            "a cluster on SeaweedFS": StoredLake(root / "stored", *it.options, server=server),
        }
        if not short:
            in_one_process = ("--lake-engine", "spark", "--lake-spark-master", "local[2]")
            lakes["Spark in one process"] = Lake(root / "local", *in_one_process)
            lakes["a cluster"] = Lake(root / "cluster_lake", *it.options)
        files = inputs(root / "inputs", SHORT_ROWS if short else ROWS, random.Random(seed))
        violations: dict[str, list[str]] = {name: [] for name in lakes}
        for name, lake in lakes.items():
            for step in files:
                for path in step:
                    lake.deliver(path.parent.name, path.name, path.read_bytes())
                begin = time.monotonic()
                violations[name] += lake.finish()
                say(f"engines: {name}: {time.monotonic() - begin:.0f} s")
            if isinstance(lake, StoredLake):
                lake.fetch()
            violations[name] += [f"{leftover} is left" for leftover in lake.leftovers()]
        expected = lakes.pop("DuckDB")
        for name, lake in lakes.items():
            rows, differing = ask(compare, str(expected.root), str(lake.root), timeout=TIMEOUT)
            row = Row(f"rows of silver and gold, compared both ways: DuckDB and {name}", seed)
            row.add([*violations["DuckDB"], *violations[name], *differing], rows)
            yield row
        yield from kills(short, seed, root / "kills", it)


def inputs(directory: Path, rows: dict[str, int], draw: random.Random) -> list[list[Path]]:
    """The files of two runs: generated and real ones; then late, repeated and corrected lines of them."""
    place = Lake(directory)
    found: list[list[Path]] = [[], []]
    for domain, count in rows.items():
        ask(_generate, str(directory), domain, count, timeout=TIMEOUT)
        for name in REAL.get(domain, ()):
            for path in (
                Path(os.environ.get("LAKEJOBS_DATA", ""), f"{name}.csv.xz"),
                PROJECT / f"tests/data/{name}.csv.xz",
            ):
                if path.is_file():
                    import lzma

                    place.deliver(domain, f"{name}_{DAY:%Y%m%d}_090000.csv", lzma.decompress(path.read_bytes()))
                    break
        given = sorted((directory / "local_output" / domain).glob("*.csv"))
        found[0] += given
        lines = given[0].read_text().splitlines()
        again = draw.sample(lines[1:], max(1, int(LATE * len(lines))))
        late = directory / "local_output" / domain / f"{DOMAINS[domain].prefix}_{DAY:%Y%m%d}_235959.csv"
        late.write_text("\n".join([lines[0], *(changed(line, draw) for line in again), "not, a line", ""]))
        found[1].append(late)
    return found


def _generate(directory: str, domain: str, rows: int) -> None:
    Place(directory).generate(DAY, rows, [domain])


def changed(line: str, draw: random.Random) -> str:
    """A line as it is, with a field emptied, or with a field doubled."""
    fields = line.split(",")
    place = draw.randrange(1, len(fields))
    return ",".join(draw.choice([fields, [*fields[:place], "", *fields[place + 1 :]], [*fields[:-1], fields[-1] * 2]]))


def compare(one: str, other: str) -> tuple[int, list[str]]:
    """The number of rows of the first lake's tables, and how many of each table only one of two lakes has."""
    import duckdb

    total, found = 0, []
    names = [f"silver/{domain}" for domain in DOMAINS]
    names += sorted(f"gold/{path.name}" for root in (one, other) for path in Path(root).glob("datalake/gold/*"))
    for name in dict.fromkeys(names):
        with contextlib.closing(duckdb.connect()) as connection:
            files = [sorted(Path(root, "datalake", name).glob("**/*.parquet")) for root in (one, other)]
            if not all(files):
                found += [f"only one lake has {name}"] if any(files) else []
                continue
            for number, paths in enumerate(files):
                made = "processed_at" if name.startswith("silver") else "generated_at"
                newest = paths[-1:] if name.startswith("gold") else paths
                rows = f"select * exclude ({made}) from read_parquet($1, hive_partitioning = false)"
                connection.execute(f"create table t{number} as {rows}", [[str(path) for path in newest]])
            ((count,),) = connection.execute("select count(*) from t0").fetchall()
            total += count
            for first, second in (("t0", "t1"), ("t1", "t0")):
                only = connection.execute(f"from {first} except all from {second}").fetchall()
                found += [f"{name}: only in {first}: {row}" for row in only[:5]]
                found += [f"{name}: {len(only):,} rows only in {first}"] if only else []
    return total, found


# ------------------------------------------------------------------------------------------------ killed


def kills(short: bool, seed: int, root: Path, cluster: Cluster) -> Iterator[Row]:
    """Kill a process of Spark amid the job; the run, or else the next one, must give the same lake."""
    draw = random.Random(seed)
    files = inputs(root / "inputs", {"sales": 20_000}, draw)[0]

    def new(name: str, *options: str) -> Lake:
        lake = Lake(root / name, *options)
        for path in files:
            lake.deliver(path.parent.name, path.name, path.read_bytes())
        return lake

    expected = new("expected")
    assert not expected.finish()

    def python_worker(driver: int) -> list[int]:
        return [process for process in below(cluster.worker(draw.choice([1, 2]))) if is_python(process)]

    def executor(driver: int) -> list[int]:
        return cluster.executors(draw.choice([1, 2]))

    def worker(driver: int) -> list[int]:
        process = cluster.worker(draw.choice([1, 2]))
        return [process, *below(process)]

    victims: dict[str, tuple[Callable[[int], list[int]], bool]] = {
        "a Python worker": (python_worker, True),
        "an executor": (executor, True),
        "a worker with its executor": (worker, True),
        "the driver": (lambda driver: [driver, *below(driver)], False),
    }
    if short:
        victims = {name: victims[name] for name in ("a worker with its executor",)}
    for victim, (find, goes_on) in victims.items():
        row = Row(f"SIGKILL of {victim} amid a run on a cluster", seed)
        for attempt in range(1 if short else 8):
            lake = new(f"{victim.replace(' ', '_')}_{attempt}", *cluster.options)
            driver = lake.begin()
            left = draw.choice([0, 0, 1, 3])
            killed = []
            if await_left(lake, left, driver):
                killed = find(driver.pid)
                for process in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            code = driver.wait(TIMEOUT)
            problems = [] if not goes_on or code == 0 else [f"the run ended with {code}: {lake.said()[-1_000:]}"]
            if not goes_on:
                problems += [] if code == -signal.SIGKILL else [f"the driver was not killed: {code}"]
                problems += lake.finish()
            rows, differing = ask(compare, str(expected.root), str(lake.root), timeout=TIMEOUT)
            problems += [] if rows and killed else ["nothing was killed"]
            row.add([*problems, *differing, *(f"{leftover} is left" for leftover in lake.leftovers())])
            lake.remove()
            if victim.startswith("a worker"):
                cluster.script("stop")
                cluster.start()
        yield row


def is_python(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"pyspark" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def await_left(lake: Lake, count: int, driver: subprocess.Popen[bytes]) -> bool:
    """Wait until executors work, or have left more than so many partitions; returns whether that was before the end."""
    while driver.poll() is None:
        # What is found may be gone before it is looked at.
        with contextlib.suppress(FileNotFoundError):
            spills = list(lake.root.glob("datalake/_tmp-spill_sales_*"))
            if spills and len(list(spills[0].glob("20*"))) >= count:
                return True
        time.sleep(0.01)
    return False


FAMILIES = {"engines": matrix}
NEEDS = {"engines": missing}
