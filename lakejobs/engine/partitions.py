"""Finished partitions of typed records: duplicates found, rows validated, fates counted, files written.

Functions of an open connection, paths and values: they read no settings and keep nothing outside the connection. Only
this module uses the relations that they leave there:

    loaded      typed records of files (`sql.typed_rows`), row_number_, and codes of the suite's rules. Rows that
                others supersede, or that no partition needs, are deleted
    typed       the same, with delivery_ (the job's number of the file) and source_file
    stored_     the rows of the stored partitions, as in their files; their row_number_ is below 0
    old_        these rows as `typed` had them (`sql.stored_rows`)
    superseded  row_number_ and partition_date of the duplicates
    all_        the rows of typed and old_ that remain
    silver      the rows that were judged, ready to be written
    sorted_     the same, of a few dates, in order

Rows are written in the order of files and records. A join loses the order of rows, a view of a single table keeps it;
so codes are put into `loaded`, and the names of files come from a list.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lakejobs.engine import SilverJob, sql
from lakejobs.engine.duckdb import Connection
from lakejobs.messages import LakeError, OnProgress, counted
from lakejobs.model import BOOKKEEPING, Counts
from lakejobs.quality.evaluation import EXAMPLE_ROWS, Validation
from lakejobs.storage.footer import footer_text

KEYS_AT_ONCE = 20
"""Keys compared at once, as a multiple of the rows validated at once. An engine can spill to disk, but not without
limit."""
FATES = ("rows", "valid", "invalid", "corrected", "rescued")
"""The counts of a partition that are counted from its rows."""
LEAST_SORTED = 150_000
"""Rows sorted at once: fewer than one row group of the engine would take twice the time."""
MOST_SORTS = 8
"""Each reads all rows."""
LONGEST_SHOWN = 200
LONGEST_RESCUED = 10_000
"""Characters of a row's rescued data that are read for examples."""


def select(job: SilverJob, numbers: Sequence[int], engine: Connection) -> dict[dt.date, int]:
    """Make the relations `typed`, `stored_` and `old_`.

    `numbers`: the numbers in `loaded` of the job's files. Returns the number of the first file that is new to a
    partition, by date.
    """
    import pyarrow as pa

    files = dict(zip(numbers, job.files, strict=True))
    known = {date: set(stored.files.values()) for date, stored in job.stored.items()}
    first: dict[dt.date, int] = {}
    needless = []
    for date, number in engine.rows("select distinct partition_date, file_number from loaded"):
        if date in job.dates and number in files and files[number].number not in known.get(date, ()):
            first[date] = min(first.get(date, files[number].number), files[number].number)
        else:
            needless.append({"partition_date": date, "file_number": number})
    if needless:
        types: Any = [("partition_date", pa.date32()), ("file_number", pa.int32())]
        engine.register("needless", pa.Table.from_pylist(needless, pa.schema(types)))
        engine.run(
            "delete from loaded_ using needless as n "
            "where n.partition_date = loaded_.partition_date and n.file_number = loaded_.file_number"
        )
    engine.set_list("deliveries_", {number: file.number for number, file in files.items()})
    engine.set_list("names_", {number: file.name for number, file in files.items()})
    engine.run(
        "create temp view typed as select *, getvariable('deliveries_')[file_number + 1] as delivery_, "
        "getvariable('names_')[file_number + 1] as source_file from loaded"
    )
    if job.stored:
        engine.read_parquet("parquet_", [stored.path for stored in job.stored.values()], numbered=True)
        places = ", ".join(
            f"({sql.text(stored.path)}, date '{date}', {_first_row(job, date)})" for date, stored in job.stored.items()
        )
        engine.run(
            "create temp view stored_ as select s.* exclude (filename, file_row_number), p.partition_date, "
            f"p.first_ - s.file_row_number as row_number_ from parquet_ as s "
            f"join (values {places}) as p (path, partition_date, first_) on s.filename = p.path"
        )
        # Not temporary, like `superseded`: several connections read it.
        named = {name: number for stored in job.stored.values() for name, number in stored.files.items()}
        engine.register(
            "named",
            pa.table({"source_file": pa.array(named, pa.string()), "delivery_": pa.array(named.values(), pa.int32())}),
        )
        engine.run("create table sources as select * from named")
        engine.run(
            "create temp view old_ as select rows.*, s.delivery_ "
            f"from ({sql.stored_rows(job.reading)}) as rows join sources as s using (source_file)"
        )
    return first


def _first_row(job: SilverJob, date: dt.date) -> int:
    """The row_number_ of a stored partition's first row; those of the next rows are one less each."""
    return -1 - sum(stored.counts.rows for other, stored in job.stored.items() if other < date)


def deduplicate(job: SilverJob, engine: Connection) -> None:
    """Make the relations `superseded` and `all_`, and delete superseded rows from `loaded`.

    Rows that lack any part of the key are never merged.
    """
    domain = job.reading.domain
    key = ", ".join(domain.keys)
    has_key = " and ".join(f"{name} is not null" for name in domain.keys)
    (rows,) = engine.rows("select count(*) from loaded")[0]
    parts = 1 + (rows + sum(stored.counts.rows for stored in job.stored.values())) // (KEYS_AT_ONCE * job.chunk_rows)
    engine.run("create table superseded (row_number_ bigint, partition_date date)")
    for part in range(parts):
        some = f" and abs(hash({key})) % {parts} = {part}" if parts > 1 else ""
        # Sort repeated keys only: there are few.
        repeated = (
            f"select partition_date, {key} from loaded where {has_key}{some} "
            f"group by partition_date, {key} having count(*) > 1"
        )
        rivals = (
            "select r.row_number_, r.partition_date, k.key_, r.event_time_, r.delivery_, r.source_record from {} as r "
        )
        rivals += f"join repeated as k on {_same(domain.keys, 'r', 'k')}"
        if job.stored:
            repeated += (
                f" union select partition_date, {key} from old_ as o where {has_key}{some} "
                f"and exists (select 1 from loaded as n where {_same(domain.keys, 'n', 'o')})"
            )
        engine.run(f"create or replace temp table repeated as select row_number() over () as key_, * from ({repeated})")
        if engine.rows("select 1 from repeated limit 1"):
            both = " union all ".join(rivals.format(name) for name in ("typed", *(["old_"] if job.stored else [])))
            engine.run(f"create or replace temp view rivals_ as {both}")
            engine.run(f"insert into superseded {sql.superseded_rows(domain)}")
    engine.run("delete from loaded_ using superseded as s where s.row_number_ = loaded_.rowid")
    columns = ", ".join(
        (
            *("row_number_", "partition_date", "delivery_", "source_file", "source_record", "event_time_"),
            *("is_malformed", "type_errors", "corrections", "rescued_data", *domain.rule_columns),
        )
    )
    rows_ = f"select {columns} from typed"
    if job.stored:
        rows_ += f" union all select {columns} from old_ where row_number_ not in (select row_number_ from superseded)"
    engine.run(f"create temp view all_ as {rows_}")


def _same(keys: Sequence[str], one: str, other: str) -> str:
    return " and ".join(f"{one}.{name} = {other}.{name}" for name in ("partition_date", *keys))


def validate(job: SilverJob, engine: Connection, on_progress: OnProgress) -> Validation:
    """Have Great Expectations validate the rows, except malformed lines, which have no values.

    Rules that validate each row by itself see the new rows, and the stored rows that new ones supersede, to take back
    what was counted for them.
    """
    validation = Validation(job.suite, job.reading.domain)
    for date, stored in job.stored.items():
        validation.add_verdicts(date, stored.verdicts)
    new, done = job.new_records, 0
    if validation.columns:
        # Passing on text is the most expensive part, and most columns of text are only checked for NULL.
        picked = ", ".join(
            f"case when {c} is not null then cast(1 as tinyint) end as {c}" if c in validation.presence_columns else c
            for c in validation.columns
        )
        query = f"select row_number_, partition_date, {picked} from"
        for chunk in engine.chunks(f"{query} loaded where not is_malformed", job.chunk_rows):
            on_progress(f"validating row {done + 1:,} of {new:,}", 40 + 15 * done // max(1, new))
            validation.add_rows(chunk.column(0), chunk.column(1), chunk.select(validation.columns))
            done += chunk.num_rows
        if _has_superseded_stored(engine):
            gone = f"{query} old_ where row_number_ in (select row_number_ from superseded where row_number_ < 0)"
            for chunk in engine.chunks(gone, job.chunk_rows):
                validation.remove_rows(chunk.column(0), chunk.column(1), chunk.select(validation.columns))
    if rewrites_codes(job, validation):
        codes = engine.arrow("select row_number_, codes from old_ where codes is not null")
        validation.add_codes(codes.column(0), codes.column(1))
    if (whole := validation.whole_columns) is not None:
        for date in job.dates:
            table = engine.arrow(
                f"select {', '.join(['row_number_', *whole])} from all_ "
                f"where not is_malformed and partition_date = date '{date}' order by delivery_, source_record"
            )
            validation.add_partition(date, table.column(0), table.select(whole))
    return validation


def rewrites_codes(job: SilverJob, validation: Validation) -> bool:
    """Whether the stored rows get new codes: whether they pass a rule about a whole partition may have changed."""
    return bool(job.stored) and validation.marks_by_partition


def _has_superseded_stored(engine: Connection) -> bool:
    return bool(engine.rows("select 1 from superseded where row_number_ < 0 limit 1"))


def judge(job: SilverJob, validation: Validation, engine: Connection) -> dict[dt.date, Counts]:
    """Make the relation `silver`, ready to be written, and count the fates of every date's records.

    Raises LakeError if the fates do not add up to the records in bronze: no record may be lost silently.
    """
    domain = job.reading.domain
    rewrites = rewrites_codes(job, validation)
    engine.register("failed", validation.failed_rows())
    if rewrites:
        engine.run(
            "create temp view judged_ as select r.*, f.codes from all_ as r left join failed as f using (row_number_)"
        )
    else:
        engine.run("update loaded_ set codes = f.codes from failed as f where f.row_number_ = loaded_.rowid")
        engine.run("create temp view judged_ as select * from typed")
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    query = f"select *, timestamp '{now}' as processed_at from ({sql.judged_rows(domain)}) as judged"
    engine.run(f"create temp view silver as {query}")
    found: dict[dt.date, Counter[str]] = {date: Counter() for date in job.dates}
    failures: dict[dt.date, Counter[str]] = {date: Counter() for date in job.dates}
    for date, stored in job.stored.items():
        found[date]["duplicates"] = stored.counts.duplicates
        if not rewrites:
            found[date].update({name: getattr(stored.counts, name) for name in FATES})
            failures[date].update(stored.counts.failures)
    changes = [(1, "silver")]
    if job.stored and not rewrites and _has_superseded_stored(engine):
        changes.append((-1, "stored_ where row_number_ in (select row_number_ from superseded where row_number_ < 0)"))
    for sign, rows in changes:
        for date, valid, wrong, total, corrected, rescued in engine.rows(
            "select partition_date, is_valid, validation_errors, count(*), count(corrections), count(rescued_data) "
            f"from {rows} group by all"
        ):
            found[date]["rows"] += sign * total
            found[date]["valid" if valid else "invalid"] += sign * total
            found[date]["corrected"] += sign * corrected
            found[date]["rescued"] += sign * rescued
            for code in wrong.split("; ") if wrong else ():
                failures[date][code] += sign * total
    for date, duplicates in engine.rows("select partition_date, count(*) from superseded group by all"):
        found[date]["duplicates"] += duplicates
    counts = {
        date: Counts(
            records=records,
            failures={code: rows for code, rows in sorted(failures[date].items()) if rows},
            duplicates=found[date]["duplicates"],
            **{name: found[date][name] for name in FATES},
        )
        for date, records in job.dates.items()
    }
    for date, fates in counts.items():
        if fates.records != fates.rows + fates.duplicates:
            raise LakeError(
                f"{domain.name} {date}: expected {counted(fates.records, 'record')} from bronze, but got "
                f"{counted(fates.rows, 'row')} and {counted(fates.duplicates, 'duplicate')}. A bronze file changed "
                "during the run; run again."
            )
    return counts


class InOrder:
    """The rows of `silver` in the order that they are written in, for several threads.

    `is_sorted`: whether the rows of `loaded` are in the order of files and records. `rewrites`: see `write`.
    """

    def __init__(self, job: SilverJob, is_sorted: bool, rewrites: bool, engine: Connection) -> None:
        self._engine, self._lock = engine, threading.Lock()
        dates = list(job.dates)
        parts = 0
        if len(dates) > 1 or not is_sorted or rewrites:
            rows = sum(job.dates.values()) if rewrites else job.new_records
            parts = min(len(dates), MOST_SORTS, 1 + rows // LEAST_SORTED)
        bounds = [part * len(dates) // parts for part in range(parts)] if parts else []
        self._parts = [dates[first:last] for first, last in itertools.pairwise([*bounds, len(dates)])]
        self._waiting: dict[int, set[dt.date]] = {}

    @contextlib.contextmanager
    def rows(self, date: dt.date) -> Iterator[str]:
        """The name of a relation that has the rows of a date in order.

        Sorts a few dates at a time, because that takes twice the memory of what is sorted, and drops them again.
        """
        part = next((number for number, dates in enumerate(self._parts) if date in dates), None)
        if part is None:
            yield "silver"
            return
        # Not a temporary table: several connections read it.
        name, dates = f"sorted_{part}", self._parts[part]
        with self._lock:
            if part not in self._waiting:
                self._engine.run(
                    f"create table {name} as select * from silver where partition_date between date '{dates[0]}' "
                    f"and date '{dates[-1]}' order by partition_date, delivery_, source_record"
                )
                self._waiting[part] = set(dates)
        yield name
        with self._lock:
            self._waiting[part].remove(date)
            if not self._waiting[part]:
                self._engine.run(f"drop table {name}")


def failing_rows(validation: Validation, engine: Connection) -> dict[int | str, list[int]]:
    """The numbers of a few failing rows of each rule, by the rule's position, or by code for those marked while
    reading."""
    marked = engine.rows(
        f"select type_errors, min(row_number_, {EXAMPLE_ROWS}) from loaded "
        "where type_errors is not null group by type_errors"
    )
    read: dict[str, set[int]] = {}
    for codes, numbers in marked:
        for code in codes.split("; "):
            read.setdefault(code, set()).update(numbers)
    numbers_of: dict[int | str, list[int]] = dict(validation.example_rows.items())
    numbers_of |= {code: sorted(numbers)[:EXAMPLE_ROWS] for code, numbers in read.items()}
    return numbers_of


def places(rows: Iterable[int], engine: Connection) -> dict[int, tuple[dt.date, int, int]]:
    """Where rows are: partition_date, delivery_ and source_record by row number."""
    listed = ", ".join(map(str, sorted({*rows}))) or "null"
    found = engine.rows(
        f"select row_number_, partition_date, delivery_, source_record from all_ where row_number_ in ({listed})"
    )
    return {row: (date, delivery, record) for row, date, delivery, record in found}


def described(
    job: SilverJob, validation: Validation, numbers_of: Mapping[int | str, Sequence[int]], engine: Connection
) -> dict[int | str, list[dict[str, Any]]]:
    """The rows that `failing_rows` found, as `SilverResult.examples` shows them.

    Each has its key, its source file and the values of the rule's columns as delivered: in silver, a value that did not
    fit its type is NULL, and a corrected one is different.
    """
    domain = job.reading.domain
    wanted = {number for numbers in numbers_of.values() for number in numbers}
    if not wanted:
        return {}
    found = {
        row[0]: row[1:]
        for row in engine.rows(
            # A malformed line can be as long as its file.
            f"select row_number_, source_file, substr(rescued_data, 1, {LONGEST_RESCUED}), corrections, "
            f"{', '.join(domain.rule_columns)} from {'all_' if min(wanted) < 0 else 'typed'} "
            f"where row_number_ in ({', '.join(map(str, sorted(wanted)))})"
        )
    }
    rules = {rule.position: rule for rule in validation.suite.rules}
    # A difference says little without the reported value.
    reported = {correction.difference: correction.column for correction in domain.corrections}
    examples: dict[int | str, list[dict[str, Any]]] = {}
    for about, numbers in numbers_of.items():
        if isinstance(about, int):
            names = [part for name in rules[about].columns for part in (reported.get(name), name) if part]
        else:
            names = ["_line"] if about == sql.MALFORMED else [about.partition(":")[2]]
        for number in numbers:
            source_file, rescued, corrections, *values = found[number]
            typed = dict(zip(domain.rule_columns, values, strict=True))
            given = {**typed, **rescued_values(rescued), **rescued_values(corrections)}
            key = " / ".join(shown(given[name]) for name in domain.keys)
            examples.setdefault(about, []).append(
                {
                    "key": None if about == sql.MALFORMED else key,
                    "values": {name: shown(given.get(name)) for name in names if name not in domain.keys},
                    "source_file": source_file,
                }
            )
    return examples


def write(
    job: SilverJob,
    date: dt.date,
    path: str,
    footer: str,
    is_appended: bool,
    rewrites: bool,
    silver: str,
    engine: Connection,
) -> int:
    """Write a partition's rows to a local path, in the order of files and records; returns the number of rows.

    `is_appended`: whether all new rows follow after the stored ones. `rewrites`: whether `silver` has the stored rows.
    `silver`: the relation that has its rows in order, see `InOrder`.
    """
    columns = ", ".join([*job.reading.domain.columns, *BOOKKEEPING])
    rows = f"from {silver} where partition_date = date '{date}'"
    stored = job.stored.get(date)
    if stored is None or rewrites:
        return engine.write_parquet(f"select {columns} {rows}", path, footer)
    engine.read_parquet("one_", [stored.path], numbered=True)
    old = "from one_ as o"
    first = _first_row(job, date)
    if gone := engine.rows(
        f"select {first} - row_number_ from superseded where row_number_ < 0 and partition_date = date '{date}'"
    ):
        # A filter on a single table keeps the order of rows, a join does not.
        bits = bytearray(b"0" * stored.counts.rows)
        for (place,) in gone:
            bits[place] = ord("1")
        engine.set_bits("gone_", bits.decode())
        old += " where get_bit(getvariable('gone_'), cast(o.file_row_number as integer)) = 0"
    if is_appended:
        query = f"select {columns} {old} union all select {columns} {rows}"
    else:
        query = (
            f"select {columns} from (select o.*, s.delivery_ from (select * {old}) as o join sources as s "
            f"using (source_file) union all by name select {columns}, delivery_ {rows}) as merged "
            "order by delivery_, source_record"
        )
    return engine.write_parquet(query, path, footer)


def footer(job: SilverJob, date: dt.date, counts: Counts, verdicts: Mapping[str, Sequence[int]]) -> str:
    """A partition's `lakejobs` entry in its file's footer."""
    known = dataclasses.replace(job.footers[date], counts=counts)
    return footer_text({**known.to_json(), "lineage": job.lineages[date], "verdicts": verdicts})


def rescued_values(text: str | None) -> dict[str, Any]:
    """The members of a row's `rescued_data` or `corrections`: column → text. `text` may be truncated."""
    if not text:
        return {}
    # An escape sequence may have been cut in two.
    for end in (len(text), *range(len(text), max(0, len(text) - 12), -1)):
        for mended in (text[:end], f'{text[:end]}…"}}'):
            try:
                found: dict[str, Any] = json.loads(mended)
            except ValueError:
                continue
            return found
    return {}


def shown(value: Any) -> str:
    """A value as a page shows it, truncated if it is long."""
    text = "NULL" if value is None else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
