"""The same lake on Spark: every cell, count, verdict and example as DuckDB alone has them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import importlib.util
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import (
    DOMAINS,
    HEADERS,
    PROJECT,
    LakeUnderTest,
    free_port,
    known_tables,
    new_lake,
    read_footer,
    sale,
    set_tables,
)  # fmt: skip
from test_golden import CASES, GOLDEN, expected_of, results
from test_merge import SUITES, add_rules, some_file

from lakejobs.engine import CsvFile, spark
from lakejobs.messages import LakeError
from lakejobs.model import Inspection

DATA = Path(__file__).parent / "data/online_retail_two_weeks.csv.xz"

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(
        importlib.util.find_spec("pyspark") is None,
        reason="needs pyspark: pip install -r scripts/requirements-spark.txt",
    ),
    pytest.mark.skipif(
        not (os.environ.get("JAVA_HOME") or shutil.which("java")), reason="needs Java: install openjdk-17-jre-headless"
    ),
]


def content(lake: LakeUnderTest) -> dict[str, Any]:
    """Everything that the engine decides about: rows in their order, footers, manifests, results of validations."""
    found: dict[str, Any] = {}
    for path in sorted((lake.root / "datalake").glob("*/**/*.parquet")):
        rows = duckdb.read_parquet(str(path), hive_partitioning=False)
        columns = [name for name in rows.columns if name not in ("processed_at", "generated_at")]
        footer = read_footer(path)
        assert footer and footer.pop("checksum")
        footer.pop("generated_at", None)
        name = path.relative_to(lake.root / "datalake")
        # A snapshot is named after the moment.
        known = str(name.parent) if name.parts[0] == "gold" else str(name)
        found[known] = [rows.types, rows.select(*columns).fetchall(), footer]
    for path in sorted((lake.root / "datalake/bronze").glob("**/_manifest.json")):
        files = json.loads(path.read_text())["files"]
        found[str(path.relative_to(lake.root))] = [{**file, "version": None} for file in files]
    for domain in DOMAINS:
        results = []
        for path in sorted((lake.root / "datalake/quality/validations" / domain).glob("[!_]*.json")):
            result = json.loads(path.read_text())
            del result["checksum"], result["meta"]["run_id"], result["meta"]["lakejobs"]["validated_at"]
            results.append(result)
        found[f"validations of {domain}"] = results
    return found


class Both:
    """Two lakes with the same deliveries, one for each engine."""

    def __init__(self, root: Path, run_in: Callable[[LakeUnderTest, str], bool]) -> None:
        self.lakes = {engine: new_lake(root / engine) for engine in ("duckdb", "spark")}
        self._run_in = run_in

    def deliver(self, domain: str, name: str, text: bytes) -> None:
        for lake in self.lakes.values():
            path = lake.deliver_bytes(domain, name, text)
            os.utime(path, (1_700_000_000, 1_700_000_000))

    def run(self) -> bool:
        """Run both, and compare them."""
        (ours, theirs) = (self._run_in(lake, engine) for engine, lake in self.lakes.items())
        expected, found = (content(lake) for lake in self.lakes.values())
        assert found.keys() == expected.keys()
        for name, known in expected.items():
            assert found[name] == known, name
        assert theirs == ours
        return theirs

    @property
    def spark(self) -> LakeUnderTest:
        return self.lakes["spark"]


@pytest.fixture
def run_in(monkeypatch, set_lake) -> Callable[[LakeUnderTest, str], bool]:
    """Runs a lake with an engine."""

    def run(lake: LakeUnderTest, engine: str) -> bool:
        monkeypatch.chdir(lake.root)
        set_lake(engine=engine, spark_master="local[2]")
        return lake.run()

    return run


@pytest.fixture
def both(tmp_path, run_in) -> Both:
    return Both(tmp_path, run_in)


@pytest.fixture
def one_table(monkeypatch) -> None:
    """Only one gold table, to save time."""
    set_tables(monkeypatch, {"daily_sales_summary": known_tables()["daily_sales_summary"]})


@pytest.fixture(scope="module")
def shop() -> bytes:
    return lzma.decompress(DATA.read_bytes())


@pytest.mark.parametrize("case", CASES)
def test_golden(both, case):
    for path in sorted((GOLDEN / case / "input").glob("*/*")):
        both.deliver(path.parent.name, path.name, path.read_bytes())
    assert both.run()
    assert results(both.spark) == expected_of(case)


def test_a_real_shop_gives_the_same_lake(both, shop, monkeypatch):
    """In one file, which is cut into several parts."""
    monkeypatch.setattr(spark, "LEAST_PORTION", 500_000)
    monkeypatch.setattr(spark, "MOST_PORTION", 500_000)
    both.deliver("sales", "online_retail.csv", shop)
    assert both.run()


@pytest.mark.parametrize("rules", SUITES)
def test_late_rows_and_corrections_are_merged_alike(both, one_table, monkeypatch, rules):
    """Dirty files of every kind, in three runs; with rules about rows, shares of rows and whole partitions."""
    draw = random.Random(rules)
    monkeypatch.setattr(spark, "LEAST_PORTION", 500)
    monkeypatch.setattr(spark, "MOST_PORTION", 500)
    for lake in both.lakes.values():
        add_rules(lake, SUITES[rules])
    for step, days in enumerate([("01", "02", "03"), ("02",), ("01",)]):
        for day in days:
            both.deliver("sales", f"sales_202611{day}_{10 + step}0000.csv", some_file(draw, step))
        both.run()


def test_a_partition_that_a_table_rule_fails_is_withheld_and_the_others_published(both, one_table, capfd):
    few = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 2}, "meta": {"code": "FEW"}}
    for lake in both.lakes.values():
        add_rules(lake, [few])
    lines = [sale(f"s{n}", f"2026-11-0{1 + n % 2}") for n in range(5)]
    both.deliver("sales", "sales_20261102_100000.csv", "\n".join([HEADERS["sales"], *lines]).encode())
    assert not both.run()
    (published,) = (both.spark.root / "datalake/silver/sales").glob("**/*.parquet")
    assert "day=02" in str(published)
    assert not list((both.spark.root / "datalake").glob("_tmp*")), "what was not published is gone"


def test_errors_of_a_task_are_told_as_those_of_the_local_engine(both, monkeypatch):
    """A gold table that cannot be computed; what was made besides is kept."""
    set_tables(
        monkeypatch,
        {"broken": "-- grain: date\n-- source: sales\n-- One row per day.\nselect date, nothing from sales"},
    )
    both.deliver("sales", "sales_20261101_100000.csv", f"{HEADERS['sales']}\n{sale()}\n".encode())
    assert not both.run()
    assert both.spark.partition("2026-11-01").exists()


def test_cells_do_not_depend_on_where_a_file_is_cut(tmp_path):
    lines = [sale(f"s{n}", "2026-11-01", category="é" * (n % 7)) for n in range(100)]
    path = tmp_path / "sales.csv"
    path.write_bytes("\r\n".join([HEADERS["sales"], *lines, "", ""]).encode())
    inspection = Inspection("", "utf-8", "CRLF", tuple(DOMAINS["sales"].columns), 101, False, True)
    day, size = dt.date(2026, 11, 1), path.stat().st_size
    file = CsvFile(str(path), 0, day, day, inspection, size=size, is_line_by_line=True)
    for most in range(50, 2_000, 177):
        parts = spark.in_portions([file], 1, cut=True) if most > size else spark._parts(file, size // most)
        assert b"".join(path.read_bytes()[start:end] for start, end in parts) == path.read_bytes().partition(b"\n")[2]
        assert all(path.read_bytes()[end - 1 : end] == b"\n" for _, end in parts)
    assert [portion.part for portion in spark.in_portions([dataclasses.replace(file, is_line_by_line=False)], 1)] == [
        None
    ]


# ------------------------------------------------------------------------------------------------ killed


@pytest.fixture(scope="module")
def expected(tmp_path_factory, shop) -> dict[str, Any]:
    """What DuckDB alone makes of the shop's file."""
    lake = shop_in(tmp_path_factory.mktemp("expected"), shop)
    assert luigi(lake).returncode == 0
    return content(lake)


def shop_in(root: Path, shop: bytes) -> LakeUnderTest:
    lake = new_lake(root)
    os.utime(lake.deliver_bytes("sales", "online_retail.csv", shop), (1_700_000_000, 1_700_000_000))
    return lake


def command(*more: str) -> list[str]:
    luigi = str(Path(sys.executable).with_name("luigi"))
    return [luigi, "--module", "lakejobs", "GoldAll", "--local-scheduler", *more]


ON_SPARK = ("--lake-engine", "spark", "--lake-spark-master", "local[2]")


def luigi(lake: LakeUnderTest, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*more), cwd=lake.root, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def await_written(lake: LakeUnderTest, is_over: Callable[[], bool]) -> None:
    """Wait until executors have written a partition, which the driver has not published yet."""
    while not is_over():
        # What is found may be gone before it is looked at.
        with contextlib.suppress(FileNotFoundError):
            if list((lake.root / "datalake").glob("_tmp-spill_sales_*/2010-*")):
                return
        time.sleep(0.01)


def workers() -> Iterator[int]:
    """Spark's Python workers below this process: forks of its daemon."""
    parents, daemons = {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if b"pyspark.daemon" in (process / "cmdline").read_bytes():
                daemons.add(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    for process in daemons:
        line = [process]
        while line[-1] in parents:
            line.append(parents[line[-1]])
        if os.getpid() in line and parents[process] in daemons:
            yield process


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_killed_workers_change_nothing(tmp_path, shop, expected, run_in):
    lake, killed = shop_in(tmp_path, shop), []
    is_over = threading.Event()

    def kill() -> None:
        await_written(lake, is_over.is_set)
        for process in workers():
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    assert run_in(lake, "spark")
    is_over.set()
    killer.join()
    assert killed
    assert content(lake) == expected
    assert not list((lake.root / "datalake").glob("_tmp*"))


def test_a_killed_driver_leaves_nothing_that_the_next_run_does_not_mend(tmp_path, shop, expected, run_in):
    lake = shop_in(tmp_path, shop)
    with subprocess.Popen(
        command(*ON_SPARK), cwd=lake.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        await_written(lake, lambda: driver.poll() is not None)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    assert run_in(lake, "spark")
    found = content(lake)
    # It may have published some partitions, which were not validated again.
    for name in ("validations of sales",):
        del found[name]
    assert found == {name: known for name, known in expected.items() if name in found}
    assert len(found) == len(expected) - 1
    assert not list((lake.root / "datalake").glob("_tmp*"))


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[str, Path]]:
    """A real cluster: the URL of its master, and the directory with the ids of its processes."""
    port, home = str(free_port()), tmp_path / "cluster"
    environment = {**os.environ, "CLUSTER_PORT": port, "CLUSTER_HOME": str(home)}

    def script(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROJECT / "scripts/cluster", what], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip

    done = script("start")
    assert done.returncode == 0, done.stdout
    assert script("status").returncode == 0
    yield f"spark://127.0.0.1:{port}", home
    assert script("stop").returncode == 0
    assert script("status").returncode == 1


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


def test_a_cluster_gives_the_same_lake_though_an_executor_is_killed(tmp_path, shop, expected, cluster):
    master, home = cluster
    lake = shop_in(tmp_path / "lake", shop)
    killed = []
    with subprocess.Popen(
        command("--lake-engine", "spark", "--lake-spark-master", master),
        cwd=lake.root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        await_written(lake, lambda: driver.poll() is not None)
        for executor in children(int((home / "worker1.pid").read_text())):
            os.kill(executor, signal.SIGKILL)
            killed.append(executor)
        _, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    assert killed
    assert content(lake) == expected
    assert not list((lake.root / "datalake").glob("_tmp*"))


# ------------------------------------------------------------------------------------------------ settings


def test_a_run_with_nothing_to_do_needs_no_spark(tmp_path):
    """Nor does another engine: it computes the same cells, and nothing is stale."""
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261101_100000.csv", sale())
    assert luigi(lake).returncode == 0
    said = luigi(lake, *ON_SPARK, PATH="", JAVA_HOME="")
    assert said.returncode == 0, said.stderr
    assert "Did not run any tasks" in said.stderr
    look = "import sys; from lakejobs.freshness import runs; print(runs.Run().engine.name, 'pyspark' in sys.modules)"
    (tmp_path / "luigi.cfg").write_text("[lake]\nengine = spark\n")
    done = subprocess.run([sys.executable, "-c", look], cwd=lake.root, capture_output=True, text=True)
    assert done.stdout == f"DuckDB {duckdb.__version__} False\n", done.stderr
    lake.deliver("sales", "sales_20261101_110000.csv", sale("s2"))
    said = luigi(lake, *ON_SPARK, PATH="", JAVA_HOME="")
    assert said.returncode == 30
    assert "needs Java 17 or later, but there is none on the PATH; install it" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"master": "nowhere"}, "spark_master=nowhere: Spark does not start: Could not parse Master URL: 'nowhere'"),
        ({"master": "spark://somewhere:7077", "is_lake_on_disk": False}, "cannot read a lake in an object store yet"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    usual = {"master": "local[2]", "settings": {}, "memory_limit": "1GB", "is_lake_on_disk": True}
    with pytest.raises(LakeError, match=message.replace("[", r"\[")):
        spark.Cluster(**{**usual, **settings}).context()


def test_a_missing_package_is_explained(monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(LakeError, match=r"engine = spark needs the package pyspark: .*\[spark\]"):
        spark.Cluster("local[3]", {}, "1GB", True).context()


def test_the_section_spark_is_sparks_own(set_lake, both, one_table, monkeypatch):
    import luigi as its

    config = its.configuration.get_config()
    config.add_section("spark")
    try:
        config.set("spark", "spark.app.name", "of my own")
        config.set("spark", "spark.task.maxDirectResultSize", "100")
        both.deliver("sales", "sales_20261101_100000.csv", f"{HEADERS['sales']}\n{sale()}\n".encode())
        assert both.run()
        assert spark._context and spark._context[1].appName == "of my own"
        assert spark._context[1].getConf().get("spark.task.maxDirectResultSize") == "100"
        config.set("spark", "executor.memory", "4g")
        with pytest.raises(LakeError, match=r"\[spark\] executor.memory; expected names of Spark's own configuration"):
            both._run_in(both.spark, "spark")
            from lakejobs.config import spark_settings

            spark_settings()
    finally:
        config.remove_section("spark")


def test_a_machine_with_other_packages_is_refused(tmp_path):
    site = spark.Site("1GB", str(tmp_path))
    site.check()
    other = dataclasses.replace(site, versions=("1.0", *site.versions[1:]))
    with pytest.raises(LakeError, match=r"has duckdb .*, but the driver has 1\.0: install the same versions"):
        other.check()
    with pytest.raises(LakeError, match="does not exist there; on a cluster, every machine must see the lake"):
        dataclasses.replace(site, shared=f"{tmp_path}/elsewhere").check()
