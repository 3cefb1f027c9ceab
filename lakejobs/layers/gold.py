"""Gold: one table per SQL file, published as snapshots.

A table whose grain has the date recomputes only the days whose silver changed and carries the other rows over from
its last snapshot. The footer of a snapshot holds the identity of every silver partition it was made from and the
hash of its SQL, so the next run knows what is left to do.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import luigi

from lakejobs import docs, lineage
from lakejobs import lake as storage
from lakejobs.config import lake as settings
from lakejobs.console import LakeError, counted, tell
from lakejobs.engine import DuckDB
from lakejobs.lineage import DomainState
from lakejobs.parameters import NameParameter
from lakejobs.project import domains
from lakejobs.runs import LakeTask
from lakejobs.silver import BOOKKEEPING, DomainSilver

HEADER = re.compile(r"-- grain: (?P<grain>[a-z0-9_, ]+)\s*\n-- source: (?P<source>[a-z0-9_]+)\s*\n", re.IGNORECASE)
# Quoted text is taken whole, so that nothing in it is taken for a comment.
CODE = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"""
    r"""|(?P<nothing>(?:\s|--[^\n]*|/\*.*?\*/)+)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Table:
    """A gold table, as its SQL file describes it."""

    name: str
    grain: tuple[str, ...]
    source: str
    """A domain, whose valid silver rows the SQL reads under this name; or another gold table."""
    sql: str

    @property
    def hash(self) -> str:
        """Changes with the grain, the source and the SQL, and not with its comments or white space."""
        code = CODE.sub(lambda found: " " if found["nothing"] else found[0], self.statement)
        return lineage.digest([self.grain, self.source, code.strip()])

    @property
    def statement(self) -> str:
        """The SQL without what may stand behind a statement."""
        return self.sql.rstrip().rstrip(";")

    @property
    def is_daily(self) -> bool:
        return "date" in self.grain


def tables() -> dict[str, Table]:
    """Every gold table by name, without those whose SQL file is broken."""
    return parse_tables(read_sql())[0]


def broken_tables() -> dict[str, str]:
    """What is wrong with the SQL files of the other tables, by the table's name."""
    return parse_tables(read_sql())[1]


@cache
def read_sql() -> tuple[tuple[str, str], ...]:
    """Name and text of every SQL file."""
    files = importlib.resources.files("lakejobs").joinpath("sql/gold").iterdir()
    sql = {file.name.removesuffix(".sql"): file for file in files if file.name.endswith(".sql")}
    return tuple((name, sql[name].read_text(encoding="utf-8")) for name in sorted(sql))


@cache
def parse_tables(sql: tuple[tuple[str, str], ...]) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables that SQL files describe, and what is wrong with the others."""
    found, broken = {}, {}
    for name, text in sql:
        header = HEADER.match(text)
        if header:
            grain = tuple(column.strip().lower() for column in header["grain"].split(","))
            found[name] = Table(name, grain, header["source"].lower(), text)
        else:
            broken[name] = f"sql/gold/{name}.sql does not begin with the lines '-- grain: …' and '-- source: …'"
    made: dict[str, Table] = {}
    while ready := [table for table in found.values() if table.source in domains() or table.source in made]:
        made |= {table.name: found.pop(table.name) for table in ready}
    for table in found.values():
        broken[table.name] = (
            f"sql/gold/{table.name}.sql: its source {table.source} is neither a domain nor a gold table that works"
        )
    return made, broken


def domain_of(table: Table) -> str:
    """The domain a table is made from, directly or by way of other tables."""
    return table.source if table.source in domains() else domain_of(tables()[table.source])


class TableParameter(NameParameter):
    def __init__(self) -> None:
        super().__init__("gold table", lambda: (name for name, _ in read_sql()))


class Gold(LakeTask):
    """The newest snapshot of one gold table."""

    table = TableParameter()
    priority = 1

    def requires(self) -> list[luigi.Task]:
        if self.table in broken_tables():
            return []
        source = tables()[self.table].source
        return [DomainSilver(source)] if source in domains() else [Gold(source)]

    def output(self) -> GoldTarget | list[GoldTarget]:
        return [] if self.table in broken_tables() else GoldTarget(self.table)

    def complete(self) -> bool:
        return self.table not in broken_tables() and super().complete()

    def run(self) -> None:
        if self.table in broken_tables():
            raise LakeError(broken_tables()[self.table])
        table = tables()[self.table]
        with lineage.state(domain_of(table)).locked() as state:
            if not is_fresh(state, table):
                tell(self, build(state, table), percent=100, link=docs.page_url(state.lake.report))


class GoldTarget(luigi.Target):
    """Exists when the newest snapshot was made from what silver holds now, and nothing is waiting below."""

    def __init__(self, table: str) -> None:
        self.table = tables()[table]

    @property
    def path(self) -> str:
        """The newest snapshot, or the directory of the table where there is none yet."""
        state = lineage.state(domain_of(self.table))
        newest, _ = newest_snapshot(state, self.table)
        return state.lake.gold(self.table.name, newest) if newest else state.lake.layer("gold", self.table.name)

    def exists(self) -> bool:
        state = lineage.state(domain_of(self.table))
        fresh = not state.stale_landings() and not state.stale_dates() and is_fresh(state, self.table)
        # Where this run has nothing to publish, nobody else keeps what was learned of the snapshot.
        state.save()
        return fresh

    def __str__(self) -> str:
        return self.path


def snapshots(state: DomainState, table: Table) -> list[str]:
    """Names of a table's snapshots, the newest last."""
    found = storage.files(state.lake.layer("gold", table.name))
    return [file.name for file in found if re.fullmatch(table.name + storage.SNAPSHOT, file.name)]


def newest_snapshot(state: DomainState, table: Table) -> tuple[str | None, dict[str, Any] | None]:
    """The newest snapshot that is whole, and its footer."""
    for name in reversed(snapshots(state, table)):
        if footer := state.footer(state.lake.gold(table.name, name)):
            return name, footer
    return None, None


def inputs(state: DomainState, table: Table) -> dict[str, str]:
    """What a table is made from now: the identity of each silver partition by date, or of its source table."""
    if table.source in domains():
        return {date.isoformat(): footer["identity"] for date, footer in sorted(state.silver.items())}
    _, footer = newest_snapshot(state, tables()[table.source])
    return {table.source: footer["identity"]} if footer else {}


def identity(table: Table, made_from: dict[str, str]) -> str:
    """What a snapshot has in its footer that was made from these inputs."""
    return lineage.digest([lineage.GOLD_VERSION, table.hash, made_from])


def is_fresh(state: DomainState, table: Table) -> bool:
    """Whether the newest file of a table is whole and was made from its inputs as they are."""
    if table.source not in domains() and not is_fresh(state, tables()[table.source]):
        return False
    names = snapshots(state, table)
    footer = state.footer(state.lake.gold(table.name, names[-1])) if names else None
    return footer is not None and footer["identity"] == identity(table, inputs(state, table))


def build(state: DomainState, table: Table) -> str:
    """Publish a new snapshot. Returns what was done."""
    before, footer = newest_snapshot(state, table)
    made_from = inputs(state, table)
    old = {}
    if before and footer and (footer.get("version"), footer["sql"]) == (lineage.GOLD_VERSION, table.hash):
        old = (storage.read_footer(state.lake.gold(table.name, before)) or {}).get("inputs", {})
    directory = state.lake.layer("gold", table.name)
    storage.sweep(directory)
    docs.sweep(state.lake, state.domain)
    with storage.scratch(state.lake, state.domain) as spill, DuckDB(spill) as engine:
        if table.is_daily and table.source in domains():
            changed = sorted(date for date in made_from if old.get(date) != made_from[date])
            carried = sorted(date for date in old if old[date] == made_from.get(date))
        else:
            changed, carried = sorted(made_from), []
        _read_source(state, table, changed, engine)
        now = dt.datetime.now(dt.UTC)
        stamp = f"timestamp '{now.replace(tzinfo=None)}' as generated_at"
        with _explained(table):
            engine.run(f"create temp table computed as select * from (\n{table.statement}\n) as computed")
            if table.is_daily and table.source in domains():
                _check_dates(state, table, changed, engine)
        query = f"select *, {stamp} from computed"
        if carried and before:
            engine.read_parquet("carried", [state.lake.gold(table.name, before)])
            days = ", ".join(f"date '{date}'" for date in carried)
            query += f" union all select * from carried where date in ({days})"
        names = snapshots(state, table)
        name = storage.snapshot_name(table.name, names[-1] if names else None, now)
        content = {
            "identity": identity(table, made_from),
            "version": lineage.GOLD_VERSION,
            "sql": table.hash,
            "inputs": made_from,
            "generated_at": now.isoformat(),
        }
        with _explained(table), storage.publish(state.lake.gold(table.name, name)) as temporary:
            rows = engine.write_parquet(
                f"select * from ({query}) as snapshot order by {', '.join(table.grain)}",
                temporary,
                storage.footer_text(content),
            )
            storage.seal(temporary)
    prune(state, table)
    said = counted(rows, "row")
    if table.is_daily:
        said += f", {counted(len(changed), 'day')} computed, {len(carried):,} carried over"
    if footer and footer.get("version") != lineage.GOLD_VERSION:
        said += "; made anew because an earlier version of lakejobs made it before"
    elif footer and footer["sql"] != table.hash:
        said += "; made anew because its SQL changed"
    return said


@contextlib.contextmanager
def _explained(table: Table) -> Iterator[None]:
    """Turn an error of the table's SQL into a message that names the file."""
    import duckdb

    try:
        yield
    except duckdb.IOException:
        raise
    except duckdb.Error as error:
        said = re.sub(r"\bLINE (\d+)", lambda found: f"line {max(1, int(found[1]) - 1)}", str(error).strip())
        raise LakeError(f"sql/gold/{table.name}.sql: {' '.join(said.split())}") from error


def _check_dates(state: DomainState, table: Table, dates: list[str], engine: DuckDB) -> None:
    """Refuse a table that counts an event to another date than its UTC day: carried over day by day, its rows would be
    lost or stand twice. Judged by all days together, and by each of the last two alone."""
    _refuse_other_dates(table, "computed", dates, engine)
    for date in dates[-2:] if len(dates) > 1 else []:
        engine.run(f"drop view {table.source}")
        _read_source(state, table, [date], engine)
        _refuse_other_dates(table, f"(\n{table.statement}\n)", [date], engine)


def _refuse_other_dates(table: Table, rows: str, dates: list[str], engine: DuckDB) -> None:
    known = "".join(f" and date <> date '{date}'" for date in dates)
    for (other,) in engine.rows(f"select date from {rows} as computed where date is null or (true{known}) limit 1"):
        raise LakeError(
            f"sql/gold/{table.name}.sql: it counts events of {dates[-1]} to {other}, but the date in a grain is the "
            "UTC day of the event. Name that column otherwise, such as week; then the table is computed whole."
        )


def _read_source(state: DomainState, table: Table, dates: list[str], engine: DuckDB) -> None:
    """Make the table's source readable under its name: the valid silver rows of some dates, or another table."""
    if table.source not in domains():
        newest, _ = newest_snapshot(state, tables()[table.source])
        if newest is None:
            raise LakeError(f"gold table {table.name} reads {table.source}, which has no snapshot")
        engine.read_parquet(table.source, [state.lake.gold(table.source, newest)])
        return
    if not dates:
        engine.run(f"create temp view {table.source} as select {empty_row(table.source)} limit 0")
        return
    engine.read_parquet("partitions", [state.lake.silver(state.domain, dt.date.fromisoformat(date)) for date in dates])
    engine.run(f"create temp view {table.source} as select * from partitions where is_valid")


def empty_row(domain: str) -> str:
    """A domain's columns, typed, for a table without rows."""
    types = {"text": "string", "integer": "bigint", "number": "double", "timestamp": "timestamp"}
    columns = {name: types[kind] for name, kind in domains()[domain].columns.items()} | BOOKKEEPING
    return ", ".join(f"cast(null as {kind}) as {name}" for name, kind in columns.items())


def prune(state: DomainState, table: Table) -> None:
    """Keep the newest snapshots, `[lake] keep_snapshots` of them besides the one just made, and none that is damaged:
    there is nothing to make it again from, and readers would stumble over it."""
    for name in snapshots(state, table):
        path = state.lake.gold(table.name, name)
        if not state.footer(path):
            storage.remove(path)
    for name in snapshots(state, table)[: -1 - max(0, settings().keep_snapshots)]:
        storage.remove(state.lake.gold(table.name, name))
        state.footer(state.lake.gold(table.name, name))  # is not to be remembered
