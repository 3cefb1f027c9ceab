"""The lake as schemas of SQL: the relations that `lakejobs sql` reads, and a file of views for other tools.

- `bronze.<domain>`: every record of every accepted file, as delivered
- `silver.<domain>`: every row; `silver.<domain>_valid`: the valid ones
- `gold.<table>`: the newest snapshot; `gold.<table>_history`: all snapshots
- `quality.runs`: the run ledger; `quality.restatements`: what changed in days that were over

The file has no bronze, because only the lake's own reader reads delivered
files as the lake does. Its views find their files by patterns, so they stay true for a tool that has the file open. It
is written again when columns, or the place of the lake have changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from lakejobs.config import lake as settings
from lakejobs.engine import CsvFile, QueryError
from lakejobs.engine import views as sql
from lakejobs.engine.records import content_hash
from lakejobs.engine.types import silver_types
from lakejobs.engine.views import Connection
from lakejobs.freshness import ledger, restatements
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import newest_snapshot
from lakejobs.layers import bronze
from lakejobs.messages import LakeError
from lakejobs.model import Domain, digest
from lakejobs.project import domains
from lakejobs.storage import MissingError, documents
from lakejobs.storage import footer as footers
from lakejobs.storage.layout import SILVER_GLOB, SNAPSHOT_GLOB, Lake, reachable
from lakejobs.storage.local import copy
from lakejobs.tables import broken_tables, tables

VERSION = 1
"""The version of the views. A file with another version is written again."""
Relations: TypeAlias = "dict[tuple[str, str], Callable[[], str]]"
"""Queries by schema and name, made when they are needed."""


class Files(Protocol):
    """Makes the queries over the files of silver and gold."""

    def silver(self, domain: Domain, only_valid: bool) -> str: ...

    def gold(self, table: str) -> str:
        """Raises LakeError or QueryError if its columns cannot be known."""

    def history(self, table: str) -> str: ...

    def log(self, log: Log) -> str: ...


class Log(NamedTuple):
    """A log in `quality/`: files in one level of directories."""

    directory: str
    columns: Mapping[str, str]


LOGS = {"runs": Log("quality/runs", ledger.COLUMNS), "restatements": Log("quality/restatements", restatements.COLUMNS)}


def _relations(files: Files) -> Relations:
    every_table = sorted({*tables(), *broken_tables()})
    found: Relations = {}
    found |= {("silver", name): functools.partial(files.silver, domain, False) for name, domain in domains().items()}
    found |= {("gold", name): functools.partial(files.gold, name) for name in every_table}
    # Unless a domain or table has such a name itself.
    for name, domain in domains().items():
        found.setdefault(("silver", f"{name}_valid"), functools.partial(files.silver, domain, True))
    for name in every_table:
        found.setdefault(("gold", f"{name}_history"), functools.partial(files.history, name))
    found |= {("quality", name): functools.partial(files.log, log) for name, log in LOGS.items()}
    return found


def _logged(lake: Lake, log: Log) -> list[str]:
    """Paths of a log's files."""
    found = lake.store.listings(log.directory, 1, lambda name: name.endswith(".parquet"))
    return [f"{log.directory}/{below}/{file.name}" for below in sorted(found) for file in found[below].files()]


# ------------------------------------------------------------------------------------------------ queries


@contextlib.contextmanager
def reader(run: Run, query: str) -> Iterator[sql.Reader]:
    """A reader that finds everything that a query names. Raises LakeError, also for a QueryError of its user."""
    with run.lake.scratch("sql") as spill, sql.Reader(spill, settings().memory_limit) as opened:
        try:
            _provide(run, opened, query)
            yield opened
        except QueryError as error:
            raise LakeError(_in_words(error)) from error


def _provide(run: Run, opened: sql.Reader, query: str) -> None:
    """Make what a query names readable, and no more, because each relation costs reading, or even copying, files."""
    relations = _relations(Found(run.lake, opened))
    shapes = _relations(Shapes(run.lake, opened))
    is_about_all = sql.asks_what_there_is(query)
    for name, domain in domains().items():
        if _is_named(query, "bronze", name):
            opened.load_bronze(name, _bronze_files(run, name), list(domain.columns))
        elif is_about_all:
            opened.load_bronze(name, [], list(domain.columns))
    for (schema, name), relation in relations.items():
        if _is_named(query, schema, name):
            opened.view(schema, name, relation())
        elif is_about_all:
            with contextlib.suppress(LakeError, QueryError):
                opened.view(schema, name, shapes[schema, name]())


def _is_named(query: str, schema: str, name: str) -> bool:
    """Whether a query may read a relation. A name in a comment or a text only costs time."""
    return re.search(rf'\b{schema}"?\s*[.]\s*"?{re.escape(name)}\b', query, re.IGNORECASE) is not None


def _in_words(error: QueryError) -> str:
    """What is wrong with a query; if it names an unknown table, the known ones."""
    unknown = sql.unknown_table(error)
    if unknown is None:
        return sql.in_words(error)
    known = {"bronze": [*domains()], "silver": [*domains()], "gold": [*tables()]}
    wanted = unknown.lower().rpartition(".")[2]
    close = difflib.get_close_matches(wanted, [*domains(), *tables()], 1)
    likely = " or ".join(f"{schema}.{name}" for schema, names in known.items() for name in names if name in close)
    return (
        f"there is no table {unknown}{f'; did you mean {likely}?' if likely else '.'} There are:\n"
        f"  bronze.  {', '.join(domains())}\n"
        f"  silver.  {', '.join(domains())}; the valid rows: <domain>_valid\n"
        f"  gold.    {', '.join(sorted(tables()))}; all snapshots: <table>_history"
    )


def _bronze_files(run: Run, domain: str) -> list[CsvFile]:
    """The accepted files of a domain, at their paths on the local disk, in order of delivery.

    They are the ones that are in bronze now, whether or not a run has seen them.
    """
    state = run.state(domain)
    found, unseen = [], []
    for date in run.lake.landed(domain):
        manifest = state.read_manifest(date)
        entries, new = bronze.describe(state, date, manifest.files if manifest else (), {})
        found += [(date, entry) for entry in entries if entry not in new]
        unseen += [(date, entry) for entry in new]
    found += bronze.count_records(state, unseen, run.engine)
    found.sort(key=lambda one: bronze.delivery_order(*one))
    files = [bronze.csv_file(state, *one, number) for number, one in enumerate(found)]
    files = [file for file in files if bronze.has_records(file)]
    paths = run.lake.store.on_disk([file.path for file in files])
    return [dataclasses.replace(file, path=path) for file, path in zip(files, paths, strict=True)]


class Found:
    """The files that are there now, at their paths on the local disk."""

    def __init__(self, lake: Lake, connection: Connection) -> None:
        self._lake, self._connection = lake, connection

    def silver(self, domain: Domain, only_valid: bool) -> str:
        paths = [self._lake.silver(domain.name, date) for date in self._lake.published(domain.name)]
        return sql.silver(silver_types(domain), self._patterns(paths), only_valid=only_valid)

    def gold(self, table: str) -> str:
        if newest := next(_intact(self._lake, table), None):
            return sql.parquet(self._patterns([self._lake.gold(table, newest)]))
        return sql.nothing(_planned(table, self._connection))

    def history(self, table: str) -> str:
        if not (snapshots := [*_intact(self._lake, table)]):
            return sql.nothing({"snapshot": "timestamp", **_planned(table, self._connection)})
        paths = self._lake.store.on_disk([self._lake.gold(table, name) for name in snapshots])
        moments = {path: name[len(table) + 1 :].partition(".")[0] for path, name in zip(paths, snapshots, strict=True)}
        return sql.history([sql.pattern(path) for path in paths], moments)

    def log(self, log: Log) -> str:
        return sql.parquet_or_nothing(log.columns, self._patterns(_logged(self._lake, log)))

    def _patterns(self, paths: Sequence[str]) -> list[str]:
        return [sql.pattern(path) for path in self._lake.store.on_disk(paths)]


class Shapes(Found):
    """The same without the rows of silver."""

    def silver(self, domain: Domain, only_valid: bool) -> str:
        return sql.nothing(silver_types(domain))


def _intact(lake: Lake, table: str) -> Iterator[str]:
    """Names of the intact snapshots of a table, the newest first."""
    for snapshot in reversed(lake.snapshots(table)):
        if footers.read_footer(lake.store, lake.gold(table, snapshot.name)):
            yield snapshot.name


def _planned(table: str, connection: Connection) -> dict[str, str]:
    """The columns that a gold table without snapshots will have. Raises LakeError if its SQL is broken."""
    if table not in tables():
        raise LakeError(f"gold.{table} has no snapshot: {broken_tables()[table]}")
    sources = {
        source.name: silver_types(domains()[source.name])
        if source.name in domains()
        else _planned(source.name, connection)
        for source in tables()[table].sources
    }
    try:
        return sql.planned(connection, tables()[table].statement, sources)
    except QueryError as error:
        raise LakeError(f"gold.{table} has no snapshot, and its SQL is broken: {error}") from error


# ------------------------------------------------------------------------------------------------ the file of views


class Patterns:
    """The files that will be there whenever a view is read."""

    def __init__(self, run: Run, connection: Connection) -> None:
        self._run, self._lake, self._connection = run, run.lake, connection
        self._root = sql.pattern(reachable(run.lake.store.root))

    def silver(self, domain: Domain, only_valid: bool) -> str:
        files = f"{self._root}/{SILVER_GLOB.format(domain=domain.name)}"
        found = [files] if _has_silver(self._run, domain.name) else []
        return sql.silver(silver_types(domain), found, only_valid=only_valid)

    def gold(self, table: str) -> str:
        newest = next(_intact(self._lake, table), None)
        if newest is None:
            return sql.nothing(_planned(table, self._connection))
        (path,) = self._lake.store.on_disk([self._lake.gold(table, newest)])
        return sql.newest(self._connection.columns(sql.parquet([sql.pattern(path)])), self._snapshots(table))

    def history(self, table: str) -> str:
        if not self._lake.snapshots(table):
            return sql.nothing({"snapshot": "timestamp", **_planned(table, self._connection)})
        return sql.history([self._snapshots(table)])

    def log(self, log: Log) -> str:
        files = [f"{self._root}/{log.directory}/*/*.parquet"] if _logged(self._lake, log) else []
        return sql.parquet_or_nothing(log.columns, files)

    def _snapshots(self, table: str) -> str:
        return f"{self._root}/{self._lake.gold(sql.pattern(table), sql.pattern(table) + SNAPSHOT_GLOB)}"


def publish(run: Run) -> bool:
    """Publish the file of views, unless it is fresh or the lake is not on a disk. Returns whether it did."""
    lake = run.lake
    if lake.views is None:
        return False
    with lake.lock("views"):
        lake.store.sweep("")  # a killed run may have left its file, and without new facts nobody else sweeps here
        made_from = _identity(run)
        if _is_made_from(lake, made_from):
            return False
        # Not where it will be: another run may sweep the lake's unfinished files meanwhile.
        with lake.store.shared("views") as directory:
            made = f"{directory}/made"
            with Connection(lake.location(directory), settings().memory_limit) as connection:
                sql.write(lake.location(made), _relations(Patterns(run, connection)), connection)
            with lake.store.reading(made) as handle, lake.store.publish(lake.views, durable=False) as temporary:
                copy(handle, temporary)
        lake.store.remove(_log_of(lake))  # the old file's does not fit the new one
        documents.write_json(lake.store, lake.views_made_from, _known(lake, made_from), durable=False)
    return True


def is_of_now(run: Run) -> bool:
    """Whether the file of views is fresh and nothing is stale that may change it; or the lake is not on a disk."""
    return run.lake.views is None or (not _is_due(run) and _is_made_from(run.lake, _identity(run)))


def _is_due(run: Run) -> bool:
    """Whether this run has to build silver, and so gold. Where only gold is stale, the identity has changed too."""
    with contextlib.suppress(LakeError):
        return any(run.state(name).stale_landings() or run.state(name).stale_dates() for name in domains())
    return True


def _is_made_from(lake: Lake, made_from: str) -> bool:
    """Whether the file of views is there, made from this, and nobody has changed it."""
    return documents.read_json(lake.store, lake.views_made_from) == _known(lake, made_from)


def _known(lake: Lake, made_from: str) -> dict[str, str | None]:
    """What is known about the file of views as it is now."""
    found = None
    # With a log, a tool has changed what the file says without changing the file.
    if lake.views and lake.store.stat(_log_of(lake)) is None:
        with contextlib.suppress(MissingError), lake.store.reading(lake.views) as handle:
            found = content_hash(handle)
    return {"identity": made_from, "sha256": found}


def _log_of(lake: Lake) -> str:
    """Where a tool that writes to the file of views keeps what is not in the file yet."""
    return f"{lake.views}.wal"


def _identity(run: Run) -> str:
    """A hash of everything that decides what the views are."""
    silver = [[name, [*silver_types(domain).items()], _has_silver(run, name)] for name, domain in domains().items()]
    gold = [[name, *_made_by(run, name)] for name in sorted({*tables(), *broken_tables()})]
    logs = [bool(_logged(run.lake, log)) for log in LOGS.values()]
    return digest([VERSION, run.engine.name, reachable(run.lake.store.root), silver, gold, logs])


def _made_by(run: Run, table: str) -> list[object]:
    """What the columns of a table's newest snapshot depend on, and whether there is one."""
    if table not in tables():
        return [bool(run.lake.snapshots(table))]
    _, known = newest_snapshot(run, tables()[table])
    return [tables()[table].hash, known.sql if known else None]


def _has_silver(run: Run, domain: str) -> bool:
    try:
        return bool(run.state(domain).present)
    except LakeError:
        return bool(run.lake.published(domain))
