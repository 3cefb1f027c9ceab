"""Compare the lake with other tools that do the same work, in turn: how long they take, and what they get wrong.

Each peer is a project of its own in peers/, as its documentation's first steps would have it, in an environment of its
own. All read the same CSV files of sales, apply the rules of expectations/sales.json and sum the valid sales up by day.
Every answer is checked against a computation in plain Python before its time counts.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb
from bench import DAY, HERE, PROJECT, Run, machine, measure, spread, write

MINUTE = dt.timedelta(minutes=1)
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
Answer = dict[dt.date, tuple[Decimal, int]]
"""Revenue and number of the valid sales of each day."""


@dataclass(frozen=True)
class Contestant:
    """A project that is copied from peers/ and run there."""

    name: str
    run: str
    """The command that brings what landed into the tables."""
    answer: str
    """SQL for the summary by day, whose path follows `root`."""
    rule: tuple[str, str, str]
    """An edit of one of its files that adds a rule: a quantity above 3 is invalid."""
    update: str = ""
    """The command of every later run, if it is another one."""
    restate: str = ""
    """The command for new rows of a day that it has computed before, if it is another one."""
    landing: str = "landing"
    needs: str = ""
    """A program that has to be installed."""

    @property
    def key(self) -> str:
        return self.name.partition(" ")[0].lower()


NULL_FLAG = "quantity is not null"
ATTACHED = "attach '{root}/%s' as db (read_only); select date, total_revenue, order_count from db.%s"
LAKE = Contestant(
    "lakejobs",
    "luigi --module lakejobs GoldAll --local-scheduler",
    "set variable newest = (select max(file) from glob('{root}/datalake/gold/daily_sales_summary/*.parquet')); "
    "select date, total_revenue, order_count from read_parquet(getvariable('newest'))",
    (
        "expectations/sales.json",
        '"expectations": [',
        '"expectations": [{"type": "expect_column_values_to_be_between", "severity": "critical", '
        '"kwargs": {"column": "quantity", "max_value": 3}, "meta": {"code": "QUANTITY_ABOVE_3"}},',
    ),
    landing="local_output/sales",
)
PEERS = [
    Contestant(
        "polars + pandera",
        "python pipeline.py",
        "select date, total_revenue, order_count from '{root}/lake/daily_sales_summary.parquet'",
        ("pipeline.py", "quantity: int", "quantity: int = pa.Field(le=3)"),
    ),
    Contestant(
        "Dagster + DuckDB",
        "dagster asset materialize --select * -f definitions.py",
        ATTACHED % ("sales.duckdb", "daily_sales_summary"),
        (
            "definitions.py",
            " for column in REQUIRED)\n    with",
            ' for column in REQUIRED) + " and quantity <= 3"\n    with',
        ),
    ),
    Contestant(
        "dbt + DuckDB",
        "dbt build",
        ATTACHED % ("sales.duckdb", "daily_sales_summary"),
        ("models/silver_sales.sql", NULL_FLAG, f"{NULL_FLAG} and quantity <= 3"),
    ),
    Contestant(
        "SQLMesh + DuckDB",
        "sqlmesh plan --auto-apply --no-prompts",
        ATTACHED % ("db.db", "sales.daily_sales_summary"),
        ("models/silver_sales.sql", NULL_FLAG.replace("is not null", "IS NOT NULL"), "quantity <= 3"),
        update="sqlmesh run",
        restate="sqlmesh plan --auto-apply --no-prompts --restate-model sales.silver_sales "
        f"--start {DAY:%Y-%m-%d} --end {DAY:%Y-%m-%d}",
    ),
    Contestant(
        "GX + pandas",
        "python pipeline.py",
        "select date, total_revenue, order_count from '{root}/lake/daily_sales_summary.parquet'",
        (
            "pipeline.py",
            "for column in REQUIRED]\nsuite",
            'for column in REQUIRED]\nrules.append(gx.expectations.ExpectColumnValuesToBeBetween(column="quantity", '
            "max_value=3))\nsuite",
        ),
    ),
    Contestant(
        "DQX + PySpark",
        "python pipeline.py",
        "select date, total_revenue, order_count from '{root}/lake/daily_sales_summary/*.parquet'",
        (
            "checks.yml",
            "- criticality: error",
            "- {criticality: error, check: {function: is_not_greater_than, arguments: {column: quantity, limit: 3}}}\n"
            "- criticality: error",
        ),
        needs="java",
    ),
]
ENVIRONMENT = {"DO_NOT_TRACK": "1", "GX_ANALYTICS_ENABLED": "false", "DAGSTER_DISABLE_TELEMETRY": "1"}


class Project:
    """A contestant's project in a directory of its own, with what landed there."""

    def __init__(self, contestant: Contestant, root: Path, environment: Path) -> None:
        self.contestant, self.root = contestant, root
        self.landing = root / contestant.landing
        path = f"{environment}/bin:{os.environ['PATH']}"
        self.environment = {**os.environ, **ENVIRONMENT, "PATH": path, "VIRTUAL_ENV": str(environment)}

    def create(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        if self.contestant is LAKE:
            shutil.copytree(PROJECT / "expectations", self.root / "expectations")
        else:
            shutil.copytree(HERE / "peers" / self.contestant.key, self.root)
        self.landing.mkdir(parents=True)

    def copy(self, root: Path) -> Project:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        return Project(self.contestant, root, Path(self.environment["VIRTUAL_ENV"]))

    def deliver(self, file: Path, name: str = "") -> None:
        shutil.copyfile(file, self.landing / (name or file.name))

    def command(self, step: str = "run") -> list[str]:
        return shlex.split(getattr(self.contestant, step) or self.contestant.run)

    def run(self, step: str = "run") -> Run:
        return measure(self.command(step), self.root, self.environment)

    def answer(self) -> Answer:
        return read(self.contestant.answer.format(root=self.root))

    def expected(self, most: int | None = None) -> Answer:
        return totals(sorted(self.landing.glob("*.csv")), most)


def read(sql: str) -> Answer:
    with duckdb.connect() as connection:
        rows = connection.execute(sql).fetchall()
    return {date: (round(Decimal(revenue), 2), count) for date, revenue, count in rows}


def totals(files: Iterable[Path], most: int | None = None) -> Answer:
    """Compute the answer without any of the contestants; of sales with the same id on one day, the first one counts."""
    revenue: dict[dt.date, Decimal] = defaultdict(Decimal)
    orders: dict[dt.date, int] = defaultdict(int)
    seen = set()
    for file in files:
        with file.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                known = all(row[name] for name in ("sale_id", "timestamp", "customer_id", "product_id"))
                if not (known and NUMBER.fullmatch(row["quantity"]) and NUMBER.fullmatch(row["unit_price"])):
                    continue
                if (most is not None and int(row["quantity"]) > most) or (
                    row["timestamp"][:10],
                    row["sale_id"],
                ) in seen:
                    continue
                seen.add((row["timestamp"][:10], row["sale_id"]))
                date = dt.date.fromisoformat(row["timestamp"][:10])
                revenue[date] += int(row["quantity"]) * Decimal(row["unit_price"])
                orders[date] += 1
    return {date: (round(revenue[date], 2), orders[date]) for date in orders}


# ------------------------------------------------------------------------------------------------ the work


class ContestantError(Exception):
    """A contestant did not do the work."""


class Data:
    """The files that are delivered."""

    def __init__(self, directory: Path, rows: int) -> None:
        self.one_day = write(directory / "one_day", "sales", DAY + 5 * MINUTE, rows)
        self.year = directory / self.one_day.name
        spread(self.one_day, self.year)
        self.small = write(directory / "small", "sales", DAY + 5 * MINUTE, 1000)
        self.more = write(directory / "more", "sales", DAY + 15 * MINUTE, 33)
        self.last = write(directory / "last", "sales", DAY + 20 * MINUTE, 33)
        text = self.more.read_text()
        header, first = text.splitlines()[:2]
        self.two = directory / self.more.name
        self.two.write_text(text.replace(first, ",".join([*first.split(",")[:-5], "two", *first.split(",")[-4:]])))
        late = first.replace(f"{DAY:%Y-%m-%d}", f"{DAY - 100 * dt.timedelta(days=1):%Y-%m-%d}")
        (directory / "late").mkdir()
        self.late = directory / "late" / self.more.name
        self.late.write_text(f"{header}\n{late}\n")


def three_steps(project: Project, case: str, bulk: Path, more: Path) -> list[Run]:
    """Bring in one large file, then a small one, then nothing; each answer has to be right."""
    project.create()
    name = project.contestant.name
    runs = []
    for step, file in (("run", bulk), ("restate", more), ("update", None)):
        if file:
            project.deliver(file)
            expected = project.expected()
        done = project.run(step)
        if done.code != 0:
            raise ContestantError(f"{name} ended with {done.code}:\n{done.said}")
        if project.answer() != expected:
            raise ContestantError(f"{name}, {case}, is wrong after `{step}`:\n{difference(project.answer(), expected)}")
        print(f"{name}, {case}, {step}: {done.wall:.2f} s, {done.peak:.0f} MB", file=sys.stderr, flush=True)
        runs.append(done)
    return runs


def difference(answer: Answer, expected: Answer) -> str:
    wrong = [date for date in sorted({*answer, *expected}) if answer.get(date) != expected.get(date)]
    return "\n".join(f"{date}: {answer.get(date)}, expected {expected.get(date)}" for date in wrong[:5])


# ------------------------------------------------------------------------------------------------ what goes wrong


def probe(project: Project, data: Data, large: Project) -> list[str]:
    """Return what happens to a redelivery, a late row, `two` as a quantity, a changed rule, and to readers."""
    project.create()
    project.deliver(data.small)
    if (done := project.run()).code != 0:
        raise ContestantError(f"{project.contestant.name} ended with {done.code}:\n{done.said}")
    found = []
    deliveries = (("restate", data.small, data.more.name), ("update", data.late, ""), ("restate", data.two, ""))
    for step, file, name in deliveries:
        copy = project.copy(project.root.with_name("probe"))
        copy.deliver(file, name)
        found.append(verdict(copy, copy.run(step), project.answer(), copy.expected()))
    copy = project.copy(project.root.with_name("probe"))
    path, old, new = project.contestant.rule
    text = (copy.root / path).read_text()
    if old not in text:
        raise ContestantError(f"{path} of {project.contestant.name} has no {old!r} to change")
    (copy.root / path).write_text(text.replace(old, new, 1))
    found.append(verdict(copy, copy.run(), project.answer(), copy.expected(most=3)))
    return [*found, readers(large, data)]


def verdict(project: Project, done: Run, before: Answer, expected: Answer) -> str:
    try:
        answer = project.answer()
    except duckdb.Error:
        return "fails, and the table is gone" if done.code else "the table is gone"
    if answer == expected:
        return "right" if done.code == 0 else "right, but the run fails"
    if answer == before:
        return "the run fails; nothing of the file counts" if done.code else "not noticed"
    more = sum(count for _, count in answer.values()) - sum(count for _, count in expected.values())
    return f"wrong: {abs(more):,} sales too {'many' if more > 0 else 'few'}" + (
        ", and the run fails" if done.code else ""
    )


def readers(project: Project, data: Data) -> str:
    """Read the summary again and again while a run brings in another file."""
    before = project.answer()
    project.deliver(data.last)
    after = project.expected()
    reads, refused, wrong = 0, 0, 0
    with tempfile.TemporaryFile() as output:
        writer = subprocess.Popen(
            project.command("restate"),
            cwd=project.root,
            env=project.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while writer.poll() is None:
            reads += 1
            try:
                wrong += project.answer() not in (before, after)
            except duckdb.Error:
                refused += 1
            time.sleep(0.02)
    said = [f"{refused / reads:.0%} of reads refused"] if refused else []
    said += [f"{wrong} of {reads} reads wrong"] if wrong else []
    said += ["the run fails because of the readers"] if writer.returncode else []
    if not writer.returncode and project.answer() != after:
        said.append("the answer is wrong afterwards")
    return ", ".join(said) or "right"


# ------------------------------------------------------------------------------------------------ the tables


def environment(contestant: Contestant, directory: Path) -> Path:
    """Create the contestant's environment; the lake has the one of this process."""
    if contestant is LAKE:
        return Path(sys.prefix)
    requirements = HERE / "peers" / contestant.key / "requirements.txt"
    script = 'cd "$1" && . scripts/environment.sh && environment --no-project "$2" "$3"'
    target = directory / contestant.key
    subprocess.run(["bash", "-c", script, "bash", PROJECT, target, requirements], check=True)
    return target


def versions(contestant: Contestant) -> str:
    text = (HERE / "peers" / contestant.key / "requirements.txt").read_text()
    return ", ".join(" ".join(pin) for pin in re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)$", text, re.MULTILINE))


def median(runs: Sequence[Run]) -> str:
    wall, peak = (statistics.median(values) for values in zip(*(run[:2] for run in runs), strict=True))
    return f"{wall:.1f} s, {peak:,.0f} MB"


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    keys = [peer.key for peer in PEERS]
    parser.add_argument("peers", nargs="*", choices=[*keys, []], help="the peers to compare with (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs per measurement (default: 3)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large file (default: 1,000,000)")
    parser.add_argument("--directory", help="a directory on the disk to measure (default: the system's temporary one)")
    parser.add_argument("--environments", help="a directory to keep the peers' environments in (default: none is kept)")
    arguments = parser.parse_args()
    contestants = [LAKE]
    for peer in PEERS:
        if peer.key in (arguments.peers or keys):
            if peer.needs and not shutil.which(peer.needs):
                print(f"{peer.name} is left out: it needs {peer.needs}, which is not installed.\n")
            else:
                contestants.append(peer)
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="bench-") as name:
        directory = Path(name)
        environments = Path(arguments.environments or directory / "environments").absolute()
        projects = [
            Project(contestant, directory / contestant.key, environment(contestant, environments))
            for contestant in contestants
        ]
        data = Data(directory / "data", arguments.rows)
        measured: dict[str, list[list[Run]]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for project in list(projects):
                try:
                    runs = three_steps(project, "year", data.year, data.more)
                    runs += three_steps(project, "one day", data.one_day, data.more)
                    measured[project.contestant.name].append(runs)
                except ContestantError as error:
                    print(f"{error}\n{project.contestant.name} is left out.\n")
                    measured.pop(project.contestant.name, None)
                    projects.remove(project)
        print(f"{dt.datetime.now(dt.UTC).date()}, {machine()}, medians of {arguments.rounds}\n")
        for contestant in contestants[1:]:
            print(f"- {contestant.name}: {versions(contestant)}")
        rows = f"{arguments.rows:,} rows"
        print(f"\n| | {rows} over a year | + 33 | + 0 | {rows} of one day | + 33 | + 0 |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for title, rounds in measured.items():
            print(row([title, *map(median, zip(*rounds, strict=True))]))
        print("\n| | redelivery | late row | `two` as a quantity | changed rule | reader during a run |")
        print("|---|---|---|---|---|---|", flush=True)
        for project in projects:
            small = Project(project.contestant, directory / "small", Path(project.environment["VIRTUAL_ENV"]))
            try:
                print(row([project.contestant.name, *probe(small, data, project)]), flush=True)
            except ContestantError as error:
                print(row([project.contestant.name, "not probed"]), flush=True)
                print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
