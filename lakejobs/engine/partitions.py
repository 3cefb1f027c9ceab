"""Finished partitions of typed records: duplicates decided, rows judged, fates counted, files written.

Functions of an open connection, paths and values: they read no settings and keep nothing outside the connection. Only
this module uses the relations that they leave there:

    loaded      typed records of files (`sql.typed_rows`) and row_number_
    typed       those of the dates that are built
    superseded  row_number_ and partition_date of the duplicates
    kept        the remaining rows of typed
    failed      row_number_ and the codes of the rows that fail a rule
    sources     file_number and source_file
    silver      the rows of the partitions, ready to be written
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lakejobs.engine import SilverJob, sql
from lakejobs.engine.duckdb import Connection
from lakejobs.messages import LakeError, OnProgress, counted
from lakejobs.model import BOOKKEEPING, Counts, Domain
from lakejobs.quality.evaluation import EXAMPLE_ROWS, Validation

KEYS_AT_ONCE = 20
"""Keys compared at once, as a multiple of the rows validated at once. An engine can spill to disk, but not without
limit."""
LEAST_SORTED = 150_000
"""Rows sorted at once: fewer than one row group of the engine would take twice the time."""
MOST_SORTS = 8
"""Each reads all rows."""
LONGEST_SHOWN = 200
LONGEST_RESCUED = 10_000
"""Characters of a row's rescued data that are read for examples."""


def select_dates(dates: list[dt.date], engine: Connection) -> None:
    """Make the view `typed`: the loaded records of these dates."""
    wanted = f"partition_date in ({', '.join(f'date {sql.text(date.isoformat())}' for date in dates)})"
    (others,) = engine.rows(f"select count(*) from loaded where not {wanted}")[0]
    engine.run(f"create temp view typed as select * from loaded{f' where {wanted}' if others else ''}")


def deduplicate(domain: Domain, chunk_rows: int, engine: Connection) -> None:
    """Make the relations `superseded` (row_number_, partition_date) and `kept`.

    Rows that lack any part of the key are never merged.
    """
    key = ", ".join(domain.keys)
    has_key = " and ".join(f"{name} is not null" for name in domain.keys)
    (rows,) = engine.rows("select count(*) from typed")[0]
    parts = 1 + rows // (KEYS_AT_ONCE * chunk_rows)
    engine.run("create temp table superseded as select row_number_, partition_date from typed limit 0")
    for part in range(parts):
        some = f" and abs(hash({key})) % {parts} = {part}" if parts > 1 else ""
        # Sort repeated keys only: there are few.
        engine.run(
            f"create or replace temp table repeated as select partition_date, {key} from typed "
            f"where {has_key}{some} group by partition_date, {key} having count(*) > 1"
        )
        engine.run(f"insert into superseded {sql.superseded_rows(domain)}")
    (superseded,) = engine.rows("select count(*) from superseded")[0]
    kept = "select * from typed"
    if superseded:
        kept += " where not exists (select 1 from superseded where superseded.row_number_ = typed.row_number_)"
    engine.run(f"create temp view kept as {kept}")


def validate(job: SilverJob, engine: Connection, on_progress: OnProgress) -> Validation:
    """Have Great Expectations judge the kept rows, except malformed lines, which have no values to judge."""
    validation = Validation(job.suite, job.reading.domain)
    records, done = sum(job.dates.values()), 0

    judged = "from kept where not is_malformed"
    if validation.columns:
        # Passing on text is the most expensive part, and most columns of text are only checked for NULL.
        picked = ", ".join(
            f"case when {c} is not null then cast(1 as tinyint) end as {c}" if c in validation.presence_columns else c
            for c in validation.columns
        )
        for chunk in engine.chunks(f"select row_number_, partition_date, {picked} {judged}", job.chunk_rows):
            on_progress(f"validating row {done + 1:,} of {records:,}", 40 + 15 * done // max(1, records))
            validation.add_rows(chunk.column(0), chunk.column(1), chunk.select(validation.columns))
            done += chunk.num_rows
    if (whole := validation.whole_columns) is not None:
        for date in job.dates:
            table = engine.arrow(
                f"select {', '.join(['row_number_', *whole])} {judged} and partition_date = date '{date}' "
                "order by row_number_"
            )
            validation.add_partition(date, table.column(0), table.select(whole))
    return validation


def judge(
    job: SilverJob, validation: Validation, source_files: Mapping[int, str], engine: Connection
) -> dict[dt.date, Counts]:
    """Make the relation `silver`, ready to be written, and count the fates of every date's records.

    `source_files`: `source_file` by file number. Raises LakeError if the fates do not add up to the records in bronze:
    no record may be lost silently.
    """
    import pyarrow as pa

    domain = job.reading.domain
    engine.register("failed", validation.failed_rows())
    engine.register(
        "sources",
        pa.table(
            {
                "file_number": pa.array(list(source_files), pa.int32()),
                "source_file": pa.array(list(source_files.values()), pa.string()),
            }
        ),
    )
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    query = f"select *, timestamp '{now}' as processed_at from ({sql.judged_rows(domain)}) as judged"
    if len(job.dates) == 1:
        engine.run(f"create temp view silver as {query}")
    else:
        _sort(query, list(job.dates), sum(job.dates.values()), engine)
    found: dict[dt.date, dict[str, int]] = {
        date: {"rows": 0, "valid": 0, "invalid": 0, "duplicates": 0, "corrected": 0, "rescued": 0} for date in job.dates
    }
    failures: dict[dt.date, dict[str, int]] = {date: {} for date in job.dates}
    for date, valid, wrong, total, corrected, rescued in engine.rows(
        "select partition_date, is_valid, validation_errors, count(*), count(corrections), count(rescued_data) "
        "from silver group by all"
    ):
        count = found[date]
        count["rows"] += total
        count["valid" if valid else "invalid"] += total
        count["corrected"] += corrected
        count["rescued"] += rescued
        for code in (wrong or "").split("; ") if wrong else ():
            failures[date][code] = failures[date].get(code, 0) + total
    for date, duplicates in engine.rows("select partition_date, count(*) from superseded group by all"):
        found[date]["duplicates"] = duplicates
    counts = {
        date: Counts(records=records, failures=failures[date], **found[date]) for date, records in job.dates.items()
    }
    for date, fates in counts.items():
        if fates.records != fates.rows + fates.duplicates:
            raise LakeError(
                f"{domain.name} {date}: expected {counted(fates.records, 'record')} from bronze, but got "
                f"{counted(fates.rows, 'row')} and {counted(fates.duplicates, 'duplicate')}. A bronze file changed "
                "during the run; run again."
            )
    return counts


def _sort(query: str, dates: Sequence[dt.date], rows: int, engine: Connection) -> None:
    """Make the table `silver` of a query's rows, sorted. Sorts a few dates at a time, because it takes twice the memory
    of what is sorted."""
    # Not a temporary table: several connections read it.
    engine.run(f"create table silver as select * from ({query}) as judged limit 0")
    parts = min(len(dates), MOST_SORTS, 1 + rows // LEAST_SORTED)
    for part in range(parts):
        some = dates[part * len(dates) // parts : (part + 1) * len(dates) // parts]
        between = f"partition_date between date '{some[0]}' and date '{some[-1]}'"
        engine.run(f"insert into silver select * from ({query}) as judged where {between} order by partition_date")


def failing_rows(domain: Domain, validation: Validation, engine: Connection) -> dict[int | str, list[dict[str, Any]]]:
    """A few failing rows of each rule, by the rule's position, or by code for those marked while reading.

    Each has its key, its source file and the values of the rule's columns as delivered: in silver, a value that did not
    fit its type is NULL, and a corrected one is different.
    """
    marked = engine.rows(
        f"select type_errors, min(row_number_, {EXAMPLE_ROWS}) from kept "
        "where type_errors is not null group by type_errors"
    )
    read: dict[str, set[int]] = {}
    for codes, numbers in marked:
        for code in codes.split("; "):
            read.setdefault(code, set()).update(numbers)
    numbers_of: dict[int | str, list[int]] = dict(validation.example_rows.items())
    numbers_of |= {code: sorted(numbers)[:EXAMPLE_ROWS] for code, numbers in read.items()}
    wanted = {number for numbers in numbers_of.values() for number in numbers}
    if not wanted:
        return {}
    columns = ", ".join(f"k.{name}" for name in domain.rule_columns)
    found = {
        row[0]: row[1:]
        for row in engine.rows(
            # A malformed line can be as long as its file.
            f"select k.row_number_, s.source_file, substr(k.rescued_data, 1, {LONGEST_RESCUED}), k.corrections, "
            f"{columns} from kept as k join sources as s "
            f"on k.file_number = s.file_number where k.row_number_ in ({', '.join(map(str, sorted(wanted)))})"
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


def write(domain: Domain, date: dt.date, path: str, footer: str, engine: Connection) -> int:
    """Write a partition's rows to a local path; returns the number of rows."""
    columns = ", ".join([*domain.columns, *BOOKKEEPING])
    return engine.write_parquet(f"select {columns} from silver where partition_date = date '{date}'", path, footer)


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
