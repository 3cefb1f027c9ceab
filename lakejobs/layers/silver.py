"""Silver: typed, corrected, deduplicated and validated rows by event date.

One pass makes any number of partitions: read the bronze files that hold them, type, rescue and correct every record
(`transform`), keep the last of each key, let Great Expectations judge, write one file a date. Every bronze record
ends as a valid row, an invalid row, or a duplicate that another superseded, and the footer says how many of each.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import luigi

from lakejobs import bronze, docs, lineage, quality, transform
from lakejobs import lake as storage
from lakejobs.config import lake as settings
from lakejobs.console import LakeError, Report, counted, few, log, report, span, tell
from lakejobs.engine import CsvFile, DuckDB, text
from lakejobs.lineage import DomainState
from lakejobs.loading import Loaded
from lakejobs.model import Domain
from lakejobs.parameters import DatesParameter, DomainParameter, parse_date
from lakejobs.project import domains
from lakejobs.runs import LakeTask

WRITERS = 4
KEYS_AT_ONCE = 20
"""Times `[lake] chunk_rows`: how many keys are compared with each other at once. An engine spills what does not fit in
memory, but not without end."""
BOOKKEEPING = {
    "is_valid": "boolean",
    "validation_errors": "string",
    "corrections": "string",
    "rescued_data": "string",
    "source_file": "string",
    "processed_at": "timestamp",
}
"""The columns of silver besides a domain's own, and their types."""


class Silver(LakeTask):
    """One silver partition. Luigi joins those of a domain that are due at once to one task, one pass over the data."""

    domain = DomainParameter()
    date = DatesParameter(description="Event date (UTC), YYYY-MM-DD.")
    max_batch_size = 10_000
    priority = 3

    @classmethod
    @functools.cache
    def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]:
        """As Luigi finds them out: it asks ten times a task, and of these there are thousands."""
        found: list[tuple[str, luigi.Parameter[Any]]] = super().get_params()
        return found

    @property
    def dates(self) -> list[dt.date]:
        return [parse_date(day) for day in self.date.split(",")]

    def __repr__(self) -> str:
        return f"{self.task_family}(domain={self.domain}, date={span(self.dates)})"

    def output(self) -> list[SilverTarget]:
        return [SilverTarget(self.domain, date) for date in self.dates]

    def complete(self) -> bool:
        """As all of its targets, which would look at the lake for each of them."""
        state = lineage.state(self.domain)
        return not state.stale_landings() and all(state.is_fresh(date) for date in self.dates)

    def run(self) -> Any:
        yield [bronze.Bronze(self.domain, date.isoformat()) for date in lineage.state(self.domain).stale_landings()]
        with lineage.state(self.domain).locked() as state:
            due = [date for date in self.dates if not state.is_fresh(date)]
            if due:
                summary, page = build(state, due, lambda message, percent: report(self, message, percent))
                tell(self, summary, percent=100, link=docs.page_url(page) if page else None)


class DomainSilver(LakeTask, luigi.WrapperTask):
    """Every silver partition of a domain that is due, and everything that is waiting below them."""

    domain = DomainParameter()
    # Before any gold table: the import that it starts takes longer than they do.
    priority = 2

    def complete(self) -> bool:
        state = lineage.state(self.domain)
        if state.stale_landings() or state.stale_dates():
            return False
        # A broken suite is to be noticed before the next delivery needs it.
        with contextlib.suppress(LakeError):
            return bool(quality.load_suite(domains()[self.domain]))
        return False

    def run(self) -> Any:
        if multiprocessing.parent_process() is None:
            # It takes a second or two, and there will be something to validate.
            quality.import_in_background()
        yield [bronze.Bronze(self.domain, date.isoformat()) for date in lineage.state(self.domain).stale_landings()]
        quality.load_suite(domains()[self.domain])
        yield [Silver(self.domain, date.isoformat()) for date in lineage.state(self.domain).stale_dates()]


class SilverTarget(luigi.Target):
    """Exists when the partition's file is whole and its lineage is that of its inputs as they are now."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date
        self.path = storage.current().silver(domain, date)

    def exists(self) -> bool:
        state = lineage.state(self.domain)
        # What is waiting below may hold rows of any date.
        return not state.stale_landings() and state.is_fresh(self.date)

    def __str__(self) -> str:
        return self.path


def build(state: DomainState, dates: list[dt.date], report: Report) -> tuple[str, str | None]:
    """Make silver partitions anew from bronze; removes those that no record belongs to any more.

    Returns what was done, and the path of the Data Docs page about it. Raises LakeError where rules withhold a
    partition, once all others are published.
    """
    domain = domains()[state.domain]
    suite = quality.load_suite(domain)
    find_manifests(state, dates, report)
    wanted = [date for date in dates if state.expected(date)]
    gone = [date for date in dates if not state.expected(date)]
    for reason, rebuilt in why_rebuilt(state, wanted).items():
        log.info("%s: %s rebuilt, because %s", state.domain, counted(len(rebuilt), "partition"), reason)
    done, page, withheld = [], "", {}
    if wanted:
        importing = quality.import_in_background()
        report(f"reading {sum(state.records(date) for date in wanted):,} records", 5)
        found = sources(state, wanted)
        with Loaded.of(state, [file for file, _ in found], (wanted[0], wanted[-1])) as loaded:
            engine = loaded.engine
            files = dict(zip(loaded.numbers([file for file, _ in found]), found, strict=True))
            select_dates(wanted, engine)
            deduplicate(domain, engine)
            report("waiting for Great Expectations", 30)
            importing.join()
            validation = validate(state, suite, wanted, engine, report)
            counts = judge(state, domain, validation, wanted, files, engine)
            withheld = validation.withheld()
            publish(state, domain, [date for date in wanted if date not in withheld], counts, files, engine, report)
            # A page tells what was published, so that has to have happened.
            page = docs.keep(state.lake, validation, counts, withheld, failing_rows(domain, validation, engine))
        done.append(summarise(counts))
    for date in gone:
        storage.remove(state.lake.silver(state.domain, date))
        state.published(date)
    if gone:
        done.append(f"{counted(len(gone), 'partition')} without records removed")
    if withheld:
        reasons = [f"{date}: {', '.join(why)}" for date, why in withheld.items()]
        raise LakeError(
            f"{domain.name}: withheld {few(withheld)}, as critical rules fail on the whole partition: "
            f"{few(reasons, 5)}. What was published of {'it' if len(withheld) == 1 else 'them'} before stays, and the "
            f"other partitions are in silver; gold of {domain.name} waits. Mend the data or the rule in {suite.path}. "
            f"See {docs.page_url(page)}"
        )
    return "; ".join(done), page or None


def summarise(counts: dict[dt.date, dict[str, Any]]) -> str:
    """What was done, in people's words: `3 partitions, 12,345 records, 4.1% invalid, 23 duplicates`."""
    records, rows, invalid, duplicates = (
        sum(count[name] for count in counts.values()) for name in ("records", "rows", "invalid", "duplicates")
    )
    share = docs.percent(invalid / rows if rows else 0.0)
    return (
        f"{counted(len(counts), 'partition')}, {counted(records, 'record')}, {share} invalid, "
        f"{counted(duplicates, 'duplicate')}"
    )


def sources(state: DomainState, dates: list[dt.date]) -> list[tuple[CsvFile, dict[str, Any]]]:
    """The bronze files that hold records of these dates, as the engine reads them and as their manifest has them.

    In the order of their delivery, which is that of their numbers.
    """
    days = {date.isoformat() for date in dates}
    entries = [
        (landing, entry)
        for landing in state.landings_needed(dates)
        for entry in (state.read_manifest(landing) or {"files": []})["files"]
        if days & set(entry["dates"])
    ]
    entries.sort(key=lambda one: bronze.delivery_order(*one))
    return [(bronze.csv_file(state, *one, number), one[1]) for number, one in enumerate(entries)]


def why_rebuilt(state: DomainState, dates: list[dt.date]) -> dict[str, list[dt.date]]:
    """Which partitions are rebuilt for another reason than their input, by that reason in words."""
    found: dict[str, list[dt.date]] = {}
    difference = None
    for date in dates:
        if footer := state.silver.get(date):
            if footer.get("version") != lineage.SILVER_VERSION:
                found.setdefault("an earlier version of lakejobs made them", []).append(date)
            elif footer["rules"] != state.made_by.rules_hash or footer["warnings"] != state.made_by.warnings_hash:
                # Told by the first of them: rules change for all at once.
                if difference is None and (old := storage.read_footer(state.lake.silver(state.domain, date))):
                    difference = state.made_by.difference(old["lineage"])
                found.setdefault(difference or "its rules changed", []).append(date)
    return found


def find_manifests(state: DomainState, dates: list[dt.date], report: Report) -> None:
    """Make the manifests anew that these dates need and that got lost, or are not those that were known."""
    while lost := [landing for landing in state.landings_needed(dates) if not state.has_manifest(landing)]:
        bronze.land(state, lost, report)


def select_dates(dates: list[dt.date], engine: DuckDB) -> None:
    """Make the view `typed`: what is loaded of these dates."""
    wanted = f"partition_date in ({', '.join(f'date {text(date.isoformat())}' for date in dates)})"
    (others,) = engine.rows(f"select count(*) from loaded where not {wanted}")[0]
    engine.run(f"create temp view typed as select * from loaded{f' where {wanted}' if others else ''}")


def deduplicate(domain: Domain, engine: DuckDB) -> None:
    """Make the relations `superseded` (row_number_, partition_date) and `kept`. Rows without a key are never merged."""
    key = domain.key
    (rows,) = engine.rows("select count(*) from typed")[0]
    lots = 1 + rows // (KEYS_AT_ONCE * settings().chunk_rows)
    engine.run("create temp table superseded as select row_number_, partition_date from typed limit 0")
    for lot in range(lots):
        some = f" and abs(hash({key})) % {lots} = {lot}" if lots > 1 else ""
        # Sorting only keys that repeat: hardly any do.
        engine.run(
            f"create or replace temp table repeated as select partition_date, {key} from typed "
            f"where {key} is not null{some} group by partition_date, {key} having count(*) > 1"
        )
        engine.run(f"insert into superseded {transform.superseded_rows(domain)}")
    (superseded,) = engine.rows("select count(*) from superseded")[0]
    kept = "select * from typed"
    if superseded:
        kept += " where not exists (select 1 from superseded where superseded.row_number_ = typed.row_number_)"
    engine.run(f"create temp view kept as {kept}")


def validate(
    state: DomainState, suite: quality.Suite, dates: list[dt.date], engine: DuckDB, report: Report
) -> quality.Validation:
    """Let Great Expectations judge the kept rows, malformed lines apart: those have nothing to judge."""
    validation = quality.Validation(suite, domains()[state.domain])
    records, done = sum(state.records(date) for date in dates), 0

    judged = "from kept where not is_malformed"
    if validation.columns:
        # Text costs more to hand over than all else does, and most of it is only asked whether it is there.
        picked = ", ".join(
            f"case when {c} is not null then cast(1 as tinyint) end as {c}" if c in validation.presence_columns else c
            for c in validation.columns
        )
        for piece in engine.pieces(f"select row_number_, partition_date, {picked} {judged}", settings().chunk_rows):
            report(f"validating row {done + 1:,} of {records:,}", 40 + 15 * done // max(1, records))
            validation.add_rows(piece.column(0), piece.column(1), piece.select(validation.columns))
            done += piece.num_rows
    if (whole := validation.whole_columns) is not None:
        for date in dates:
            table = engine.arrow(
                f"select {', '.join(['row_number_', *whole])} {judged} and partition_date = date '{date}' "
                "order by row_number_"
            )
            validation.add_partition(date, table.column(0), table.select(whole))
    return validation


def judge(
    state: DomainState,
    domain: Domain,
    validation: quality.Validation,
    dates: list[dt.date],
    files: dict[int, tuple[CsvFile, dict[str, Any]]],
    engine: DuckDB,
) -> dict[dt.date, dict[str, Any]]:
    """Make the relation `silver`, ready to be written, and count the fates of every date's records.

    Raises LakeError where they do not add up to what bronze holds: nothing may be lost without a word.
    """
    import pyarrow as pa

    engine.register("failed", validation.failed_rows())
    sources = {number: state.lake.relative(file.path) for number, (file, _) in files.items()}
    engine.register(
        "sources",
        pa.table(
            {
                "file_number": pa.array(list(sources), pa.int32()),
                "source_file": pa.array(list(sources.values()), pa.string()),
            }
        ),
    )
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    query = f"select *, timestamp '{now}' as processed_at from ({transform.judged_rows(domain)}) as judged"
    if len(dates) == 1:
        engine.run(f"create temp view silver as {query}")
    else:
        # Not a temporary one: several connections read it.
        engine.run(f"create table silver as {query} order by partition_date")
    counts: dict[dt.date, dict[str, Any]] = {
        date: {
            "records": state.records(date),
            "rows": 0,
            "valid": 0,
            "invalid": 0,
            "duplicates": 0,
            "corrected": 0,
            "rescued": 0,
            "failures": {},
        }
        for date in dates
    }
    for date, valid, wrong, total, corrected, rescued in engine.rows(
        "select partition_date, is_valid, validation_errors, count(*), count(corrections), count(rescued_data) "
        "from silver group by all"
    ):
        count = counts[date]
        count["rows"] += total
        count["valid" if valid else "invalid"] += total
        count["corrected"] += corrected
        count["rescued"] += rescued
        for code in (wrong or "").split("; ") if wrong else ():
            count["failures"][code] = count["failures"].get(code, 0) + total
    for date, duplicates in engine.rows("select partition_date, count(*) from superseded group by all"):
        counts[date]["duplicates"] = duplicates
    for date, count in counts.items():
        if count["records"] != count["rows"] + count["duplicates"]:
            raise LakeError(
                f"{domain.name} {date}: bronze holds {counted(count['records'], 'record')}, but "
                f"{counted(count['rows'], 'row')} and {counted(count['duplicates'], 'duplicate')} were found. A bronze "
                "file changed meanwhile; run again."
            )
    return counts


def failing_rows(
    domain: Domain, validation: quality.Validation, engine: DuckDB
) -> dict[int | str, list[dict[str, Any]]]:
    """A few rows that fail each rule, by the rule's position, or by the code where reading marked them.

    Each with key, source file and the values of the rule's columns as they were delivered: what did not fit its
    type, and what was corrected, is NULL or another value in silver.
    """
    marked = engine.rows(
        f"select type_errors, min(row_number_, {quality.EXAMPLE_ROWS}) from kept "
        "where type_errors is not null group by type_errors"
    )
    read: dict[str, set[int]] = {}
    for codes, numbers in marked:
        for code in codes.split("; "):
            read.setdefault(code, set()).update(numbers)
    numbers_of: dict[int | str, list[int]] = dict(validation.example_rows.items())
    numbers_of |= {code: sorted(numbers)[: quality.EXAMPLE_ROWS] for code, numbers in read.items()}
    wanted = {number for numbers in numbers_of.values() for number in numbers}
    if not wanted:
        return {}
    columns = ", ".join(f"k.{name}" for name in domain.rule_columns)
    found = {
        row[0]: row[1:]
        for row in engine.rows(
            # A malformed line may be as long as its file.
            f"select k.row_number_, s.source_file, substr(k.rescued_data, 1, {docs.LONGEST_RESCUED}), k.corrections, "
            f"{columns} from kept as k join sources as s "
            f"on k.file_number = s.file_number where k.row_number_ in ({', '.join(map(str, sorted(wanted)))})"
        )
    }
    rules = {rule.position: rule for rule in validation.suite.rules}
    # A difference says little without the value that it is of.
    reported = {correction.difference: correction.column for correction in domain.corrections}
    examples: dict[int | str, list[dict[str, Any]]] = {}
    for about, numbers in numbers_of.items():
        if isinstance(about, int):
            names = [part for name in rules[about].columns for part in (reported.get(name), name) if part]
        else:
            names = ["_line"] if about == transform.MALFORMED else [about.partition(":")[2]]
        for number in numbers:
            source_file, rescued, corrections, *values = found[number]
            typed = dict(zip(domain.rule_columns, values, strict=True))
            given = {**typed, **docs.rescued_values(rescued), **docs.rescued_values(corrections)}
            examples.setdefault(about, []).append(
                {
                    "key": None if about == transform.MALFORMED else docs.shown(given[domain.key]),
                    "values": {name: docs.shown(given.get(name)) for name in names if name != domain.key},
                    "source_file": source_file,
                }
            )
    return examples


def publish(
    state: DomainState,
    domain: Domain,
    dates: list[dt.date],
    counts: dict[dt.date, dict[str, Any]],
    files: dict[int, tuple[CsvFile, dict[str, Any]]],
    engine: DuckDB,
    report: Report,
) -> None:
    """Write one file a date, its lineage and counts in the footer.

    Several at once where there are several, because each has to wait for the disk.
    """
    columns = ", ".join([*domain.columns, *BOOKKEEPING])
    made_by = state.made_by

    def write(date: dt.date, engine: DuckDB) -> str:
        path = state.lake.silver(domain.name, date)
        made_from = [
            [state.lake.relative(file.path), entry["bytes"], entry["inspection"]["sha256"]]
            for file, entry in files.values()
            if date.isoformat() in entry["dates"]
        ]
        footer = {
            "identity": state.expected(date),
            "version": lineage.SILVER_VERSION,
            "rules": made_by.rules_hash,
            "warnings": made_by.warnings_hash,
            **counts[date],
            "lineage": {"files": made_from, **made_by.to_json()},
        }
        storage.sweep(path.rpartition("/")[0])
        with storage.publish(path) as temporary:
            written = engine.write_parquet(
                f"select {columns} from silver where partition_date = date '{date}'",
                temporary,
                storage.footer_text(footer),
            )
            if written != counts[date]["rows"]:
                raise LakeError(
                    f"{path}: {counts[date]['rows']:,} rows were to be written, but {written:,} were; run again"
                )
            storage.seal(temporary)
        return path

    def write_beside(date: dt.date) -> str:
        with engine.another() as own:
            return write(date, own)

    with ThreadPoolExecutor(WRITERS) as pool:
        paths = pool.map(write_beside, dates) if len(dates) > 1 else (write(date, engine) for date in dates)
        for number, (date, path) in enumerate(zip(dates, paths, strict=True)):
            if number % 20 == 0:
                report(f"writing partition {number + 1:,} of {len(dates):,}", 60 + 40 * number // len(dates))
            state.published(date)
            if not state.is_fresh(date):
                raise LakeError(f"{path} cannot be read back as it was written; is the disk failing?")
