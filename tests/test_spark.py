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
import re
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
import objectstores
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
from lakejobs.engine.local import LocalEngine
from lakejobs.messages import LakeError
from lakejobs.model import Inspection
from lakejobs.storage.local import LocalStore
from lakejobs.storage.objects import ObjectStore

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
    layers = [(lake.root / "datalake" / layer).glob("**/*.parquet") for layer in ("silver", "gold")]
    for path in sorted(path for layer in layers for path in layer):
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
    """In one file, which is cut into several parts; gold tables are computed in several tasks."""
    monkeypatch.setattr(spark, "LEAST_PORTION", 500_000)
    monkeypatch.setattr(spark, "MOST_PORTION", 500_000)
    monkeypatch.setattr(spark, "LEAST_DAYS", 2)
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


EXPECTATION_OF_OWN = """
import great_expectations.expectations as gxe
import lakejobs


class ExpectColumnValuesToBeOurs(gxe.ExpectColumnValuesToMatchRegex):
    regex: str = "^H"
"""


def test_executors_know_expectations_of_ones_own(tmp_path):
    lakes = [new_lake(tmp_path / engine) for engine in ("duckdb", "spark")]
    lines = [sale("s1", category="Home"), sale("s2", category="Car")]
    ours = {
        "type": "expect_column_values_to_be_ours", "kwargs": {"column": "category"}, "meta": {"code": "NOT_OURS"}
    }  # fmt: skip
    for lake, more in zip(lakes, ((), ON_SPARK), strict=True):
        (lake.root / "of_our_own.py").write_text(EXPECTATION_OF_OWN)
        os.utime(lake.deliver("sales", "sales_20261101_100000.csv", *lines), (1_700_000_000, 1_700_000_000))
        add_rules(lake, [ours])
        done = luigi(lake, *more, module="of_our_own", PYTHONPATH=str(lake.root))
        assert done.returncode == 0, done.stderr
        assert lake.silver().set_index("sale_id").validation_errors.dropna().to_dict() == {"s2": "NOT_OURS"}
    first, second = map(content, lakes)
    assert first == second


def test_errors_of_a_task_are_told_as_those_of_the_local_engine(both, monkeypatch):
    """A gold table that cannot be computed; what was made besides is kept."""
    set_tables(
        monkeypatch,
        {"broken": "-- grain: date\n-- source: sales\n-- One row per day.\nselect date, nothing from sales"},
    )
    both.deliver("sales", "sales_20261101_100000.csv", f"{HEADERS['sales']}\n{sale()}\n".encode())
    assert not both.run()
    assert both.spark.partition("2026-11-01").exists()


def test_cells_do_not_depend_on_where_a_file_is_cut(tmp_path, monkeypatch):
    lines = [sale(f"s{n}", "2026-11-01", category="é" * (n % 7)) for n in range(100)]
    path = tmp_path / "sales.csv"
    path.write_bytes("\r\n".join([HEADERS["sales"], *lines, "", ""]).encode())
    inspection = Inspection("", "utf-8", "CRLF", tuple(DOMAINS["sales"].columns), 101, False, True)
    day, size = dt.date(2026, 11, 1), path.stat().st_size
    file = CsvFile(str(path), 0, day, day, inspection, size=size, is_line_by_line=True)
    store = LocalStore("")
    monkeypatch.setattr(spark, "LINE_AT_ONCE", 7)
    for most in range(50, 2_000, 177):
        parts = spark._parts(file, size // most, store)
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


def command(*more: str, module: str = "lakejobs") -> list[str]:
    luigi = str(Path(sys.executable).with_name("luigi"))
    return [luigi, "--module", module, "GoldAll", "--local-scheduler", *more]


ON_SPARK = ("--lake-engine", "spark", "--lake-spark-master", "local[2]")


def luigi(
    lake: LakeUnderTest, *more: str, module: str = "lakejobs", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*more, module=module), cwd=lake.root, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


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
    with running_cluster(tmp_path) as (master, home, _):
        yield master, home


@contextlib.contextmanager
def running_cluster(tmp_path: Path) -> Iterator[tuple[str, Path, Callable[[str], Any]]]:
    """A real cluster, and what calls its script."""
    port, home = str(free_port()), tmp_path / "cluster"
    # Its environment need not be active.
    path = ":".join(one for one in os.environ["PATH"].split(":") if not Path(one, "spark-class").exists())
    # Terminals may export their width, at which `ps` would cut what it says.
    environment = {**os.environ, "PATH": path, "CLUSTER_PORT": port, "CLUSTER_HOME": str(home), "COLUMNS": "80"}

    def script(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROJECT / "scripts/cluster", what], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip

    done = script("start")
    assert done.returncode == 0, done.stdout
    assert script("status").returncode == 0
    yield f"spark://127.0.0.1:{port}", home, script
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


def test_a_run_whose_cluster_is_stopped_fails_and_says_so(tmp_path, shop, expected, run_in):
    with running_cluster(tmp_path) as (master, _, script):
        lake = shop_in(tmp_path / "lake", shop)
        with subprocess.Popen(
            command("--lake-engine", "spark", "--lake-spark-master", master),
            cwd=lake.root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as driver:  # fmt: skip
            await_written(lake, lambda: driver.poll() is not None)
            assert script("stop").returncode == 0
            _, said = driver.communicate(timeout=240)
    assert driver.returncode == 30, said
    assert re.search(r"Silver.*executors are gone, and so was the master; check that the cluster runs", said), said
    assert "Traceback" not in said
    assert luigi(lake).returncode == 0
    assert {name: rows for name, rows in content(lake).items() if name.startswith(("silver", "gold"))} == {
        name: rows for name, rows in expected.items() if name.startswith(("silver", "gold"))
    }


def test_a_cluster_works_on_a_lake_in_an_object_store(tmp_path, shop, cluster, monkeypatch):
    """The same cells, in two runs; a second one has late rows, corrections and rejected values to merge."""
    pytest.importorskip("obstore")
    master, _ = cluster
    server = objectstores.seaweedfs()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url, header, *lines = objectstores.new_root(), *shop.decode().splitlines()
    settings = ("--lake-root", f"{url}/lake", "--lake-staging", f"{url}/staging")
    on_disk, in_store = new_lake(tmp_path / "disk"), new_lake(tmp_path / "store")
    draw = random.Random(4)
    late = [line.replace(",", ",,", 1) if draw.random() < 0.1 else line for line in draw.sample(lines, 2_000)]
    for number, given in enumerate([draw.sample(lines, len(lines) - 1_000), late]):
        name, text = f"sales_2010121{number}_000000.csv", "\n".join([header, *given]).encode()
        on_disk.deliver_bytes("sales", name, text)
        with ObjectStore(f"{url}/staging").publish(f"sales/{name}") as path:
            Path(path).write_bytes(text)
        assert luigi(on_disk).returncode == 0
        done = luigi(in_store, "--lake-engine", "spark", "--lake-spark-master", master, *settings)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        found = objectstores.versions(f"{url}/lake")
        assert not [path for path in found if "_tmp" in path]
        for path in found:
            target = in_store.root / "datalake" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with ObjectStore(f"{url}/lake").reading(path) as handle:
                target.write_bytes(handle.read())
        assert content(in_store) == content(on_disk)


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


def test_a_wrong_master_is_explained():
    with pytest.raises(
        LakeError, match=r"spark_master=nowhere: expected local\[\*\], spark://host:7077, yarn or k8s://"
    ):
        spark.Cluster("nowhere", {}, "1GB").context()


def test_spark_that_has_stopped_fails_a_run_at_once_but_not_the_next(both, one_table):
    both.deliver("sales", "sales_20261101_100000.csv", f"{HEADERS['sales']}\n{sale()}\n".encode())
    assert both.run()
    assert spark._context
    cluster, context = spark._context
    engine = spark.SparkEngine(
        LocalStore(""), 60, cluster, LocalEngine(lambda name: contextlib.nullcontext(""), "1GB", list)
    )
    assert engine._spark() is context
    context._jsc.sc().stop()
    with pytest.raises(LakeError, match=r"spark_master=local\[2\]: Spark has stopped"):
        engine._spark()
    both.deliver("sales", "sales_20261101_110000.csv", f"{HEADERS['sales']}\n{sale('s2')}\n".encode())
    assert both.run()


def test_a_master_that_does_not_answer_is_told_at_once():
    other = f"spark://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with pytest.raises(LakeError, match=rf"spark_master={other}: no master answers there; check the address"):
        spark.Cluster(other, {}, "1GB").context()


def test_a_missing_package_is_explained(monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(LakeError, match=r"engine = spark needs the package pyspark: .*\[spark\]"):
        spark.Cluster("local[3]", {}, "1GB").context()


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
    site = spark.Site(str(tmp_path), 60, ".", "1GB")
    site.check()
    other = dataclasses.replace(site, versions=("1.0", *site.versions[1:]))
    with pytest.raises(LakeError, match=r"has duckdb .*, but the driver has 1\.0: install the same versions"):
        other.check()
    with pytest.raises(LakeError, match="elsewhere does not exist there; a cluster needs a lake in an object store"):
        dataclasses.replace(site, shared="elsewhere").check()
