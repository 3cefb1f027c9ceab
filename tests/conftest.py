"""A lake in a temporary directory, with real Luigi runs."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import luigi
import pandas as pd
import pytest
from luigi.task_register import Register

import lakejobs
from lakejobs import tables
from lakejobs.freshness.domain_state import summarise
from lakejobs.model import Landing, Manifest
from lakejobs.project import domains
from lakejobs.storage import documents, footer
from lakejobs.storage.layout import Lake
from lakejobs.storage.local import LocalStore

PROJECT = Path(__file__).parent.parent

DOMAINS = domains()
HEADERS = {name: ",".join(domain.columns) for name, domain in DOMAINS.items()}

SALE = "{id},{time},C1,P1,Lamp,{category},{quantity},{price},{total},cash,{status}"


def sale(
    id: str = "s1",
    time: str = "2026-11-01T10:00:00",
    quantity: object = 2,
    price: object = "5.00",
    total: object = "10.00",
    category: str = "Home",
    status: str = "completed",
) -> str:
    """One line of a sales file."""
    return SALE.format(**locals())


class LakeUnderTest:
    """Delivers files, runs tasks, reads results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[luigi.Task] = []

    def deliver(self, domain: str, name: str, *lines: str, header: str | None = None) -> Path:
        """Stage a CSV file with these lines below the domain's header, or below another one."""
        return self.deliver_bytes(
            domain, name, "".join(f"{line}\n" for line in [header or HEADERS[domain], *lines]).encode()
        )

    def deliver_bytes(self, domain: str, name: str, content: bytes) -> Path:
        path = self.root / "local_output" / domain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)
        part.rename(path)
        return path

    def run(self, *tasks: luigi.Task, workers: int = 1) -> bool:
        """Run tasks (default: GoldAll) and return whether all succeeded. `ran` then holds the tasks that ran."""
        self.ran = []
        Register.clear_instance_cache()
        result = luigi.build(
            list(tasks) or [lakejobs.GoldAll()], local_scheduler=True, detailed_summary=True, workers=workers
        )
        return result.status in (
            luigi.LuigiStatusCode.SUCCESS,
            luigi.LuigiStatusCode.SUCCESS_WITH_RETRY,
        )

    def ran_names(self, family: str) -> list[str]:
        """The event dates, landing dates or tables that tasks of a family ran for."""
        names = []
        for task in self.ran:
            if task.task_family == family:
                names += str(getattr(task, "date", getattr(task, "table", ""))).split(",")
        return sorted(names)

    def silver(self, domain: str = "sales") -> pd.DataFrame:
        """All silver rows of a domain, sorted, with their partition's date and without `processed_at`."""
        files = sorted((self.root / "datalake/silver" / domain).glob("**/*.parquet"))
        if not files:
            return pd.DataFrame()
        frames = []
        for file in files:
            rows = duckdb.read_parquet(str(file), hive_partitioning=False).df()
            frames.append(rows.assign(partition=partition_date(file)))
        rows = pd.concat(frames, ignore_index=True).drop(columns="processed_at")
        rows["source_file"] = rows["source_file"].str.rpartition("/")[2]
        key = DOMAINS[domain].key
        return rows.sort_values(["partition", key, "rescued_data", "source_file"]).reset_index(drop=True)

    def gold(self, table: str) -> pd.DataFrame:
        """The newest snapshot of a table, without `generated_at`."""
        newest = self.snapshots(table)[-1]
        return duckdb.read_parquet(str(newest)).df().drop(columns="generated_at")

    def snapshots(self, table: str) -> list[Path]:
        return sorted((self.root / "datalake/gold" / table).glob("*.parquet"))

    def partition(self, date: str, domain: str = "sales") -> Path:
        year, month, day = date.split("-")
        return self.root / f"datalake/silver/{domain}/year={year}/month={month}/day={day}/{domain}.parquet"

    def bronze(self, date: str, domain: str = "sales") -> Path:
        year, month, day = date.split("-")
        return self.root / f"datalake/bronze/{domain}/year={year}/month={month}/day={day}"

    def landings(self, domain: str = "sales") -> list[Landing]:
        """Summaries of the manifests, one for each bronze partition."""
        paths = sorted((self.root / "datalake/bronze" / domain).glob("**/_manifest.json"))
        return [summarise(Manifest.from_json(read_json(path)), partition_date(path), "") for path in paths]

    def footers(self, domain: str = "sales") -> list[dict[str, Any]]:
        """The lake's entry in the footer of each silver partition."""
        paths = sorted((self.root / "datalake/silver" / domain).glob("**/*.parquet"))
        return [read_footer(path) for path in paths]

    def content(self) -> dict[str, list[tuple[object, ...]]]:
        """The rows of silver by domain, and of each gold table's newest snapshot, to compare lakes by."""
        found = {}
        for domain in DOMAINS:
            found[f"silver {domain}"] = as_set(
                self.silver(domain).drop(columns=["source_file", "source_record"], errors="ignore")
            )
        for directory in sorted((self.root / "datalake/gold").glob("*")):
            found[f"gold {directory.name}"] = as_set(self.gold(directory.name))
        return found


def read_json(path: Path) -> dict[str, Any] | None:
    """Read one of the lake's JSON files; None if it is damaged."""
    return documents.read_json(LocalStore(str(path.parent)), path.name)


def read_footer(path: Path) -> dict[str, Any] | None:
    """Read the lake's entry in a Parquet file's footer; None if it is damaged."""
    return footer.read_footer(LocalStore(str(path.parent)), path.name)


def lake_in(root: Path) -> Lake:
    """The lake in a directory, as a `Lake` object."""
    return Lake(LocalStore(str(root / "datalake")), LocalStore(str(root / "local_output")), 3600)


def set_tables(monkeypatch: pytest.MonkeyPatch, sql: dict[str, str]) -> None:
    """Replace the gold tables by these, given as SQL by name."""
    known = tuple((name, f"sql/gold/{name}.sql", sql[name]) for name in sorted(sql))
    monkeypatch.setattr(tables, "read_sql", lambda: known)


def known_tables() -> dict[str, str]:
    """The SQL of the existing gold tables, by name."""
    return {name: sql for name, _, sql in tables.read_sql()}


def partition_date(path: Path) -> dt.date:
    """The date of a file's partition."""
    year, month, day = (int(part.partition("=")[2]) for part in path.parts[-4:-1])
    return dt.date(year, month, day)


class Operated:
    """A lake with its own luigid and docs server."""

    def __init__(self, root: Path) -> None:
        self.lake = new_lake(root / "lake")
        shutil.copy(PROJECT / "luigi.cfg", self.lake.root)
        self.ports = {"LUIGID_PORT": str(free_port()), "DOCS_PORT": str(free_port())}
        self.environment = {
            **os.environ, **self.ports, "LUIGID_HOME": str(root / "luigid"), "DOCS_HOME": str(root / "docs"),
            "LUIGID_METRICS": "prometheus",
        }  # fmt: skip
        self.visualiser = f"http://127.0.0.1:{self.ports['LUIGID_PORT']}"
        self.served = f"http://127.0.0.1:{self.ports['DOCS_PORT']}"
        self.on_disk = f"file://{self.lake.root}/datalake/quality"

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROJECT / "scripts" / arguments[0]), *arguments[1:]],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120,
        )  # fmt: skip

    def start(self) -> None:
        for command in (["luigid", "start"], ["docs", "start", str(self.lake.root / "datalake")]):
            done = self.script(*command)
            assert done.returncode == 0, done.stdout

    def stop(self) -> None:
        self.script("luigid", "stop")
        self.script("docs", "stop")

    def command(self, task: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", task,
            "--scheduler-port", self.ports["LUIGID_PORT"], "--lake-docs-url", self.served,
        ]  # fmt: skip

    def run(self, task: str = "GoldAll") -> int:
        """Run a task and return the exit code. `said` then holds what it wrote to standard error."""
        done = subprocess.run(
            self.command(task), cwd=self.lake.root, capture_output=True, text=True, timeout=120, check=False
        )
        self.said = done.stderr
        return done.returncode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_set(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Rows sorted by content, as text in which a missing value differs from any string."""
    return sorted(
        tuple(map(repr, row)) for row in rows.astype(object).where(rows.notna(), None).itertuples(index=False)
    )


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeUnderTest:
    """An empty lake with the project's suites; its directory becomes the working directory."""
    made = new_lake(tmp_path)
    monkeypatch.chdir(tmp_path)

    def remember(task: luigi.Task) -> None:
        made.ran.append(task)

    luigi.Task.event_handler(luigi.Event.SUCCESS)(remember)
    yield made
    luigi.Task._event_callbacks.clear()


def new_lake(root: Path) -> LakeUnderTest:
    (root / "local_output").mkdir(parents=True, exist_ok=True)
    shutil.copytree(PROJECT / "expectations", root / "expectations")
    return LakeUnderTest(root)


@pytest.fixture
def set_lake() -> Iterator[Callable[..., None]]:
    """Changes settings of [lake] during a test."""
    config = luigi.configuration.get_config()
    before = {}

    def change(**settings: object) -> None:
        for name, value in settings.items():
            before.setdefault(name, config.get("lake", name, None))
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            config.set("lake", name, text.replace("%", "%%"))

    yield change
    for name, value in before.items():
        if value is None:
            config.remove_option("lake", name)
        else:
            config.set("lake", name, str(value).replace("%", "%%"))


@pytest.fixture
def command_line() -> dict[str, str]:
    """The environment of a command as a user types it."""
    return {**os.environ, "LUIGI_CONFIG_PATH": str(PROJECT / "luigi.cfg")}
