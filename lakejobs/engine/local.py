"""The engine in this process, on DuckDB.

Bronze reads new files to count their records, and silver needs the same records next. So the records that were counted
last are kept, and silver uses them if they include all the files it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from lakejobs.engine import (
    CsvFile,
    FileCount,
    GoldJob,
    GoldSource,
    GrainError,
    OtherDateError,
    Reading,
    SilverJob,
    partitions,
    sql,
)
from lakejobs.engine.duckdb import Connection, name_and_version
from lakejobs.messages import OnProgress, few
from lakejobs.model import Counts
from lakejobs.quality import importing
from lakejobs.quality.evaluation import Validation

GENERATED_AT = "generated_at"
"""The column that every table gets."""
OnDisk: TypeAlias = Callable[[Sequence[str]], list[str]]
"""Paths on the local disk of files, or of copies, by their paths in the store."""


class LocalEngine:
    """DuckDB, which spills to directories from `scratch`, and reads files where `on_disk` finds them."""

    def __init__(
        self,
        scratch: Callable[[str], AbstractContextManager[str]],
        memory_limit: str,
        on_disk: OnDisk,
        threads: int | None = None,
    ) -> None:
        """`threads`: None for one for each core."""
        self._scratch, self._memory_limit, self._on_disk, self._threads = scratch, memory_limit, on_disk, threads
        self._kept: Loaded | None = None
        self._to_close: list[Loaded] = []
        weakref.finalize(self, _close, self._to_close)

    @property
    def name(self) -> str:
        return name_and_version()

    @contextlib.contextmanager
    def _connect(self, name: str) -> Iterator[Connection]:
        with self._scratch(name) as spill, Connection(spill, self._memory_limit, self._threads) as connection:
            yield connection

    # -------------------------------------------------------------------------------------------- records

    def count_records(self, reading: Reading, files: Sequence[CsvFile]) -> dict[int, FileCount]:
        dates: dict[int, Counter[str]] = {file.number: Counter() for file in files}
        malformed: Counter[int] = Counter()
        with contextlib.ExitStack() as stack:
            loaded = stack.enter_context(self._load(reading, files))
            for number, day, is_malformed, count in loaded.connection.rows(
                "select file_number, partition_date, is_malformed, count(*) from loaded group by all order by all"
            ):
                dates[number][day.isoformat()] += count
                malformed[number] += count * is_malformed
            stack.pop_all()
            self._keep(loaded)
        return {number: FileCount(dict(found), malformed[number]) for number, found in dates.items()}

    def _load(self, reading: Reading, files: Sequence[CsvFile]) -> Loaded:
        # This task may need the memory that the records kept by an earlier one take up.
        self.forget()
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._connect(reading.domain.name))
            paths = self._on_disk([file.path for file in files])
            found = [dataclasses.replace(file, path=path) for file, path in zip(files, paths, strict=True)]
            in_order = connection.load_csv("loaded", found, list(reading.domain.columns), loaded_rows(reading))
            return Loaded(connection, sql.typed_rows(reading), _contents(files), in_order, stack.pop_all())

    def _loaded(self, reading: Reading, files: Sequence[CsvFile]) -> Loaded:
        """The records of files: the kept ones (perhaps of more files), or newly read ones."""
        kept = self._kept
        if kept and kept.holds(sql.typed_rows(reading), files):
            self._kept = None
            self._to_close.clear()
            return kept
        return self._load(reading, files)

    def _keep(self, loaded: Loaded) -> None:
        self._kept = loaded
        self._to_close[:] = [loaded]

    def forget(self) -> None:
        kept, self._kept = self._kept, None
        _close(self._to_close)
        del kept

    # -------------------------------------------------------------------------------------------- silver

    @contextlib.contextmanager
    def silver(self, job: SilverJob, on_progress: OnProgress) -> Iterator[LocalResult]:
        importing.import_in_background()
        on_progress(f"reading {job.new_records:,} records", 5)
        paths = self._on_disk([stored.path for stored in job.stored.values()])
        found = [dataclasses.replace(old, path=path) for old, path in zip(job.stored.values(), paths, strict=True)]
        job = dataclasses.replace(job, stored=dict(zip(job.stored, found, strict=True)))
        with self._loaded(job.reading, job.files) as loaded:
            yield judged(job, loaded.numbers(job.files), loaded.in_order, loaded.connection, on_progress)

    # -------------------------------------------------------------------------------------------- gold

    def gold(self, job: GoldJob, path: str, footer: str) -> int:
        with self._connect("gold") as connection:
            compute(job, connection, functools.partial(_read_sources, job.sources, connection, self._on_disk))
            check_grain(job.grain, connection)
            query = f"select *, timestamp '{job.generated_at.replace(tzinfo=None)}' as {GENERATED_AT} from computed"
            snapshots = self._on_disk([snapshot for snapshot, _ in job.carried])
            for number, (snapshot, (_, days)) in enumerate(zip(snapshots, job.carried, strict=True)):
                connection.read_parquet(f"carried_{number}", [snapshot])
                listed = ", ".join(f"date '{date}'" for date in days)
                query += f" union all select * from carried_{number} where date in ({listed})"
            return connection.write_parquet(
                f"select * from ({query}) as snapshot order by {', '.join(job.grain)}", path, footer
            )

    @contextlib.contextmanager
    def tables(self, paths: Mapping[str, str]) -> Iterator[Connection]:
        with self._connect("report") as connection:
            for name, path in paths.items():
                connection.read_parquet(name, self._on_disk([path]))
            yield connection


def loaded_rows(reading: Reading) -> str:
    """Query over `delivered`: the rows of `loaded`."""
    return f"select *, cast(null as string) as codes from ({sql.typed_rows(reading)}) as rows"


class Loaded:
    """The records of bronze files as the table `loaded` of a connection: `sql.typed_rows` and `row_number_`."""

    def __init__(
        self,
        connection: Connection,
        typed: str,
        by_content: dict[CsvFile, int],
        in_order: bool,
        resources: contextlib.ExitStack,
    ) -> None:
        self.connection = connection
        self.in_order = in_order
        """Whether the rows are in the order of files and records."""
        self._typed, self._by_content, self._resources = typed, by_content, resources

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._resources.__exit__(*exc)

    def close(self) -> None:
        self._resources.close()

    def holds(self, typed: str, files: Sequence[CsvFile]) -> bool:
        if self._typed != typed or not self._by_content.keys() >= _contents(files).keys():
            return False
        # Of two duplicates, the one from the later file is kept, so the order of files must still be the same.
        numbers = self.numbers(files)
        return numbers == sorted(numbers)

    def numbers(self, files: Sequence[CsvFile]) -> list[int]:
        """The file numbers of these files in `loaded`."""
        return [self._by_content[content] for content in _contents(files)]


def _contents(files: Sequence[CsvFile]) -> dict[CsvFile, int]:
    """File numbers by file, identified by everything but number and name."""
    return {dataclasses.replace(file, number=0, name=""): file.number for file in files}


def _close(kept: list[Loaded]) -> None:
    while kept:
        kept.pop().close()


def judged(
    job: SilverJob, numbers: Sequence[int], in_order: bool, connection: Connection, on_progress: OnProgress
) -> LocalResult:
    """Judge the rows of `loaded`. `numbers`: the numbers there of the job's files. `in_order`: see `Loaded`."""
    importing_it = importing.import_in_background()
    first = partitions.select(job, numbers, connection)
    partitions.deduplicate(job, connection)
    on_progress("waiting for Great Expectations", 30)
    importing_it.join()
    validation = partitions.validate(job, connection, on_progress)
    counts = partitions.judge(job, validation, connection)
    return LocalResult(job, validation, counts, first, in_order, connection)


class LocalResult:
    """Silver partitions on an open connection."""

    def __init__(
        self,
        job: SilverJob,
        validation: Validation,
        counts: Mapping[dt.date, Counts],
        first: Mapping[dt.date, int],
        in_order: bool,
        connection: Connection,
    ) -> None:
        self.validation, self.counts = validation, counts
        self._job, self._connection = job, connection
        self._rewrites = partitions.rewrites_codes(job, validation)
        self._in_order = partitions.InOrder(job, in_order, self._rewrites, connection)
        # The dates whose new rows all come after the stored ones.
        self._appended = {
            date for date, stored in job.stored.items() if max(stored.files.values(), default=-1) < first.get(date, 0)
        }

    def examples(self) -> dict[int | str, list[dict[str, Any]]]:
        found = partitions.failing_rows(self.validation, self._connection)
        return partitions.described(self._job, self.validation, found, self._connection)

    def write(self, date: dt.date, path: str) -> int:
        footer = partitions.footer(self._job, date, self.counts[date], self.validation.verdicts(date))
        with contextlib.ExitStack() as stack:
            connection = self._connection
            silver = stack.enter_context(self._in_order.rows(date))
            if len(self._job.dates) > 1:
                connection = stack.enter_context(connection.another())
            else:
                # Several threads that write a file in order hold most of its rows in memory, and are hardly faster.
                connection.in_one_thread()
            is_appended = date in self._appended
            return partitions.write(self._job, date, path, footer, is_appended, self._rewrites, silver, connection)


# ------------------------------------------------------------------------------------------------ gold


def compute(job: GoldJob, connection: Connection, read: Callable[[Sequence[str] | None], None]) -> None:
    """Make the relation `computed`: the rows of a table that are computed, not carried over.

    `read` makes the sources readable by name, daily ones with the rows of some days only, or of all days for None.
    """
    days = job.days
    statement = f"(\n{job.statement}\n) as computed"
    if days is None or sum(source.is_daily for source in job.sources) == len(job.sources) == 1:
        # The rows of a single source belong to their own day, so all days can be computed at once.
        read(days)
        connection.run(f"create temp table computed as select * from {statement}")
        if days is not None:
            _check_dates(job, days, connection, read)
        return
    read([])
    connection.run(f"create temp table computed as select * from {statement} limit 0")
    for day in days:
        read([day])
        _refuse_other_dates(statement, [day], connection)
        connection.run(f"insert into computed select * from {statement}")


def _read_sources(
    sources: Sequence[GoldSource], connection: Connection, on_disk: OnDisk, days: Sequence[str] | None
) -> None:
    """Make sources readable by name: the valid rows of a domain, or all rows of a gold table.

    `days` restricts daily sources to these days; None reads all days.
    """
    for source in sources:
        some = source.is_daily and days is not None
        if not source.columns:
            ((path),) = set(source.paths.values())
            connection.read_parquet(f"{source.name}_all", on_disk([path]))
            listed = ", ".join(f"date '{day}'" for day in days or ()) or "null"
            rows = f"select * from {source.name}_all" + (f" where date in ({listed})" if some else "")
            connection.run(f"create or replace temp view {source.name} as {rows}")
            continue
        paths = [path for day, path in source.paths.items() if not some or day in set(days or ())]
        if paths:
            connection.read_parquet(f"{source.name}_partitions", on_disk(paths))
            connection.run(
                f"create or replace temp view {source.name} as select * from {source.name}_partitions where is_valid"
            )
        else:
            typed = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in source.columns.items())
            connection.run(f"create or replace temp view {source.name} as select {typed} limit 0")


def check_grain(grain: Sequence[str], connection: Connection) -> None:
    """Raise GrainError unless `computed` has all columns of a grain, and at most one row for each of their values.

    Rows that are carried over need no check: they have other dates, and passed it when they were computed.
    """
    there = [str(name) for name, *_ in connection.rows("describe computed")]
    if missing := [name for name in grain if name not in map(str.lower, there)]:
        raise GrainError(f"its grain names {few(missing)}, but its SQL computes only {few(there, 50)}")
    if GENERATED_AT in map(str.lower, there):
        raise GrainError(f"its SQL computes {GENERATED_AT}, which the lake adds itself; give that column another name")
    columns = ", ".join(grain)
    repeated = connection.rows(
        f"select {columns}, count(*) from computed group by {columns} having count(*) > 1 order by all limit 1"
    )
    for *values, count in repeated:
        value = ", ".join(
            f"{name} {'NULL' if value is None else value}" for name, value in zip(grain, values, strict=True)
        )
        raise GrainError(
            f"its grain allows one row for each {columns}, but its SQL computes {count:,} rows for {value}. Group by "
            "the columns of the grain, or add the column that tells these rows apart to the line '-- grain: …'"
        )


def _check_dates(
    job: GoldJob, days: Sequence[str], connection: Connection, read: Callable[[Sequence[str] | None], None]
) -> None:
    """Refuse a table that assigns an event to a date other than its UTC day.

    Carried over day by day, its rows would be lost or doubled. Checks all days together, and the last two one by one.
    """
    _refuse_other_dates("computed", days, connection)
    for day in days[-2:] if len(days) > 1 else []:
        read([day])
        _refuse_other_dates(f"(\n{job.statement}\n) as computed", [day], connection)


def _refuse_other_dates(rows: str, days: Sequence[str], connection: Connection) -> None:
    if not days:
        return
    known = "".join(f" and date <> date '{day}'" for day in days)
    for (other,) in connection.rows(f"select date from {rows} where date is null or (true{known}) limit 1"):
        raise OtherDateError(days[-1], other)
