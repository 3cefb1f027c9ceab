"""Where a number comes from: the fate of every record with a key, and the rows behind a row of a gold table.

Nothing is stored for it. Silver says which bronze files can hold a key, so only these are read again. The rows behind a
gold row are found by what the table's SQL tells of its grain; the proof is that the SQL, run over exactly those rows,
gives the row.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lakejobs.config import lake as settings
from lakejobs.engine import CsvFile, NotPlainError, QueryError, sql
from lakejobs.engine.local import GENERATED_AT, LocalEngine
from lakejobs.engine.tracing import Difference, Followed, Reached, Sought, Target, Tracer, opened
from lakejobs.engine.types import silver_types
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.made_by import GOLD_VERSION
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, footer, snapshots
from lakejobs.layers import bronze
from lakejobs.layers.gold import gold_job, sql_errors
from lakejobs.messages import LakeError, counted, few, span
from lakejobs.model import Domain, Manifest, ManifestEntry
from lakejobs.project import domains
from lakejobs.quality.suite import load_suite
from lakejobs.storage import footer as footers
from lakejobs.tables import Table, domains_of, tables

VALID, INVALID, SUPERSEDED, MALFORMED = "valid", "invalid", "superseded", "malformed"
PENDING, REJECTED, LOST = "pending", "rejected", "lost"
CLOSE = 3
"""Suggestions for a key that nobody knows."""
BETWEEN = ",;|\"' \t\r\n"
"""What a key in a malformed line stands between."""
LONGEST_LINE = 1 << 20
"""Bytes of a line of a rejected file that are looked at."""


# ------------------------------------------------------------------------------------------------ what is found


@dataclass(frozen=True)
class Cell:
    """A row of a gold table that a record is in, or not."""

    table: str
    grain: Mapping[str, Any]
    """The values of its grain, as far as the table's SQL tells."""
    is_in: bool
    """Whether the newest snapshot counts the record in that row."""
    note: str = ""
    """Why not, or what else is to be said of it."""


@dataclass(frozen=True)
class Record:
    """A record of a bronze file, and what became of it."""

    file: str
    """Its path, as messages show it."""
    record: int | None
    """Its number in the file: 1 is the first below the header. None in a rejected file."""
    line: int
    """The number of its first line in the file, from 1 on."""
    text: str
    """Its raw text."""
    fate: str
    """valid, invalid, superseded, malformed, pending (not in silver yet), rejected (with its file), or lost (silver
    should have it)."""
    why: str = ""
    codes: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with it: codes, and what they mean."""
    superseded_by: tuple[str, int] | None = None
    """The file and number of the record that replaced it."""
    corrections: Mapping[str, tuple[str | None, Any]] = field(default_factory=dict)
    """Reported and stored values by column."""
    rescued: Mapping[str, str] = field(default_factory=dict)
    """Text that did not fit, by column."""
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Values in silver, and what the record gives, by column, where they are not the same: silver was changed."""
    date: dt.date | None = None
    """Of its silver partition."""
    silver: str | None = None
    """The partition's file."""
    cells: Sequence[Cell] = ()


@dataclass(frozen=True)
class KeyTrace:
    """Every record of a key that bronze holds, in the order of deliveries."""

    domain: str
    key: Mapping[str, str]
    records: Sequence[Record]
    close: Sequence[str]
    """Keys that are much like it, if there is no such record."""
    notes: Sequence[str]
    """What else is to be said, such as that files are not in bronze yet."""


@dataclass(frozen=True)
class Excluded:
    """Records that are in none of a table's rows."""

    reason: str
    """A code, `superseded`, or the condition of the table's SQL."""
    records: int
    in_group: int | None
    """How many of them have the values of the grain; None if that cannot be told."""


@dataclass(frozen=True)
class Behind:
    """The rows of one domain behind a row of a gold table."""

    domain: str
    through: Sequence[str]
    """The gold tables in between, the one that reads the domain first."""
    days: Sequence[dt.date]
    """The event dates of the partitions that were looked at."""
    rows: int
    files: Sequence[tuple[str, int]]
    """Bronze files, and how many of the rows are from each; the most first."""
    known: Sequence[str]
    """The columns of the grain by which they were found."""
    is_exact: bool
    """Whether each of the rows counts; if not, the SQL may pass over some of them."""
    invalid: int
    """Invalid rows of these days. A row can have several codes."""
    excluded: Sequence[Excluded]
    relation: str
    """For `CellTrace.rows`."""


@dataclass(frozen=True)
class CellTrace:
    """A row of a gold table, and what it was computed from."""

    table: str
    grain: Mapping[str, Any]
    values: Mapping[str, Any]
    snapshot: str
    """The file, as messages show it."""
    generated_at: Any
    sources: Sequence[Behind]
    differences: Sequence[Difference]
    """Empty if the table's SQL, run over the rows behind it, gives exactly this row."""
    changes: Sequence[str]
    """What changed since the snapshot was made, so that the next run computes the row again."""
    unread: Sequence[str]
    """What the next run reads first, and may change the row."""
    damaged: Sequence[str]
    """Files that were not written by lakejobs as they are."""
    tracer: Tracer = field(repr=False)
    """Open as long as the context of `cell`."""

    @property
    def is_proven(self) -> bool:
        return not self.differences

    def rows(self, behind: Behind, most: int | None = None) -> list[dict[str, Any]]:
        """The rows behind it, as silver has them, in silver's order."""
        return self.tracer.rows(
            f"select * exclude (partition_date_, place_) from {behind.relation} order by partition_date_, place_"
            + (f" limit {most}" if most is not None else "")
        )


class NoRowError(LakeError):
    """No row of a gold table has the given values, or several have. The message says which rows there are."""

    def __init__(self, message: str, rows: Sequence[Mapping[str, Any]], is_ambiguous: bool) -> None:
        super().__init__(message)
        self.rows, self.is_ambiguous = rows, is_ambiguous


# ------------------------------------------------------------------------------------------------ a key


def key(run: Run, name: str, values: Mapping[str, str]) -> KeyTrace:
    """Trace a key of a domain. `values`: text by column of the key; blanks around it do not matter."""
    domain, state = domains()[name], run.state(name)
    sought = {column: values[column].strip(" \t") for column in domain.keys}
    if empty := [column for column, value in sought.items() if not value]:
        raise LakeError(f"{few(empty)} is empty: records without a key are not told apart")
    with traced(run) as tracer:
        # Of a damaged partition, bronze is read: it is stale.
        intact = {date.isoformat(): run.lake.silver(name, date) for date in sorted(state.silver)}
        silver = tracer.silver(intact, silver_types(domain))
        stored = [row for row in tracer.stored(state.reading, silver, sought) if _is_meant(row, sought)]
        dates = {row["partition_date_"] for row in stored} | {*state.stale_dates()}
        found = bronze_files(run, state, dates)
        records = _records(tracer, state, found, sought)
        if not records and (every := {*map(dt.date.fromisoformat, _dates_of(state))} - dates):
            # Silver should know every key; if something else changed silver, bronze still does.
            found = bronze_files(run, state, every | dates)
            records = _records(tracer, state, found, sought)
        entries = {file.number: entry for file, entry in found}
        fates = _Fates(run, state, tracer, stored, records, entries)
        told = [fates.of(one) for one in records]
        told += _in_rejected_files(state, sought)
        close = [] if told else tracer.close_keys(silver, sought, CLOSE + 1)
    return KeyTrace(
        name,
        sought,
        told,
        [text for one in close if (text := " ".join(map(str, one))) != " ".join(sought.values())][:CLOSE],
        [*_not_landed(state), *fates.notes()],
    )


def _records(
    tracer: Tracer, state: DomainState, files: Sequence[tuple[CsvFile, ManifestEntry]], key: Mapping[str, str]
) -> list[Sought]:
    some = [file for file, _ in files]
    try:
        found = tracer.records(state.reading, some, key)
    except NotPlainError:  # a file that changed just now
        careful = [replace(file, inspection=replace(file.inspection, plain=False)) for file in some]
        found = tracer.records(state.reading, careful, key)
    return [one for one in found if one.place.fields is not None or _stands_in(one.place.text, key.values())]


def _dates_of(state: DomainState) -> set[str]:
    """The event dates of all records in bronze, as far as they were counted."""
    return {day for landing in state.landings.values() for day in landing.dates}


@contextlib.contextmanager
def traced(run: Run) -> Iterator[Tracer]:
    with opened(run.lake.scratch, settings().memory_limit, run.lake.store.on_disk) as tracer:
        yield tracer


def partitions(run: Run, domain: str) -> dict[str, str]:
    """The files of a domain's silver partitions by date, damaged ones too."""
    return {date.isoformat(): run.lake.silver(domain, date) for date in sorted(run.state(domain).present)}


def _is_meant(row: Mapping[str, Any], key: Mapping[str, str]) -> bool:
    """Whether a row of silver has a key; a malformed line only if it stands there by itself."""
    if not _is_malformed(row["validation_errors"]):
        return True
    return _stands_in(json.loads(row["rescued_data"])["_line"], key.values())


def _is_malformed(errors: str | None) -> bool:
    return errors is not None and errors.startswith(sql.MALFORMED)


def _stands_in(line: str, values: Iterable[str]) -> bool:
    """Whether texts stand in a line between commas, blanks, quotes or line ends."""
    for value in values:
        start = line.find(value)
        while start >= 0:
            end = start + len(value)
            before, after = line[start - 1 : start] if start else "", line[end : end + 1]
            if (not before or before in BETWEEN) and (not after or after in BETWEEN):
                break
            start = line.find(value, start + 1)
        else:
            return False
    return True


def bronze_files(run: Run, state: DomainState, dates: set[dt.date]) -> list[tuple[CsvFile, ManifestEntry]]:
    """The bronze files that can hold records of these dates, and those that no manifest knows; in order of delivery."""
    days = {date.isoformat() for date in dates}
    found: list[tuple[dt.date, ManifestEntry]] = []
    new: list[tuple[dt.date, ManifestEntry]] = []
    for landing in sorted({*state.landings_needed(dates), *state.stale}):
        manifest = state.read_manifest(landing) or Manifest(state.scan_hash)
        entries: Sequence[ManifestEntry] = manifest.files
        if landing in state.stale or not state.has_manifest(landing):
            entries, unknown = bronze.describe(state, landing, manifest.files, {})
            new += [(landing, entry) for entry in unknown]
            entries = [entry for entry in entries if entry not in unknown]
        found += [(landing, entry) for entry in entries if days & entry.dates.keys()]
    if new:
        engine = LocalEngine(run.lake.scratch, settings().memory_limit, run.lake.store.on_disk)
        found += bronze.count_records(state, new, engine)
        engine.forget()
    found.sort(key=lambda one: bronze.delivery_order(*one))
    files = [(bronze.csv_file(state, *one, number), one[1]) for number, one in enumerate(found)]
    # Numbers are positions in this list, so files without records keep theirs.
    return [one for one in files if bronze.has_records(one[0])]


def _not_landed(state: DomainState) -> list[str]:
    """A note on the staged files that no bronze partition has yet."""
    waiting = []
    for landing in sorted(state.stale):
        manifest = state.read_manifest(landing)
        landed = manifest.staged if manifest else {}
        waiting += [
            file.name
            for file in state.staged.get(landing, ())
            if file.name not in landed or landed[file.name].version != file.version
        ]
    if not waiting:
        return []
    return [
        f"not looked at, because not in bronze yet (or changed since): {counted(len(waiting), 'staged file')}, "
        f"{few(waiting, 3)}"
    ]


def _in_rejected_files(state: DomainState, key: Mapping[str, str]) -> list[Record]:
    """The lines of rejected files that contain a key. Such a file has lines, but no records."""
    found = []
    for landing, known in sorted(state.landings.items()):
        for name, reason in known.rejected.items():
            path = f"{state.lake.bronze(state.domain, landing)}/{name}"
            if not state.lake.store.stat(path):
                continue
            with state.lake.store.reading(path) as handle:
                number = 0
                while line := handle.readline(LONGEST_LINE):
                    number += 1
                    text = line.decode("utf-8", "replace").rstrip("\r\n")
                    if _stands_in(text, key.values()):
                        shown = state.shown(landing, name)
                        found.append(Record(shown, None, number, text, REJECTED, f"its file is rejected: {reason}"))
    return found


class _Fates:
    """What became of the records of one key."""

    def __init__(
        self,
        run: Run,
        state: DomainState,
        tracer: Tracer,
        stored: Sequence[Mapping[str, Any]],
        records: Sequence[Sought],
        entries: Mapping[int, ManifestEntry],
    ) -> None:
        self._run, self._state, self._tracer = run, state, tracer
        self._stored = {(row["source_file"], row["source_record"]): row for row in stored}
        self._records, self._entries = records, entries
        self._lineages: dict[dt.date, set[tuple[Any, ...]] | None] = {}
        self._meanings = _meanings(state.reading.domain)
        self._winners: dict[int, Sought] = {}
        by_date: dict[dt.date, list[Sought]] = {}
        for one in records:
            if self._was_read(one) and all(one.values[name] is not None for name in state.reading.domain.keys):
                by_date.setdefault(one.values["partition_date"], []).append(one)
        for rivals in by_date.values():
            gone = tracer.superseded(state.reading.domain, rivals)
            (winner,) = (one for one in rivals if one.number not in gone)
            self._winners |= {one.number: winner for one in rivals if one.number in gone}

    def _was_read(self, one: Sought) -> bool:
        """Whether the record's silver partition was built from the file as it is now."""
        date = one.values["partition_date"]
        if date not in self._lineages:
            path = self._state.lake.silver(self._state.domain, date)
            content = footers.read_footer(self._state.lake.store, path) if date in self._state.silver else None
            self._lineages[date] = {tuple(file[:3]) for file in content["lineage"]["files"]} if content else None
        entry = self._entries[one.file.number]
        return (one.file.name, entry.bytes, entry.inspection.content) in (self._lineages[date] or ())

    def of(self, one: Sought) -> Record:
        lake, place, date = self._state.lake, one.place, one.values["partition_date"]
        path = lake.silver(self._state.domain, date)
        row = self._stored.get((one.file.name, place.record)) if self._was_read(one) else None
        fate, why = "", ""
        cells: Sequence[Cell] = ()
        winner = self._winners.get(one.number)
        by: tuple[str, int] | None = None
        errors = row["validation_errors"] if row else None
        if row is None and not self._was_read(one):
            fate = PENDING
            if date in self._state.present and date not in self._state.silver:
                why = f"silver for {date} is damaged; the next run rebuilds it"
            else:
                why = f"silver for {date} was not built from this file as it is now; the next run does that"
        elif winner:
            fate, why = SUPERSEDED, _reason(self._state.reading.domain, one, winner)
            by = (winner.file.name, winner.place.record)
        elif gone := self._gone(date) if row is None else None:
            fate, why, by = SUPERSEDED, "bronze does not hold that one any more, so the next run takes this one", gone
        elif row is None:
            fate, why = LOST, f"silver for {date} was built from its file, but lacks it; something else changed silver"
        elif row["is_valid"]:
            fate = VALID
        else:
            fate = MALFORMED if _is_malformed(errors) else INVALID
        if row:
            cells = _cells_of_row(self._run, self._tracer, self._state, row)
        known = row or one.values
        # The text of a malformed line is shown already.
        rescued = {} if place.fields is None else json.loads(known["rescued_data"] or "{}")
        return Record(
            file=lake.location(one.file.name),
            record=place.record,
            line=place.line,
            text=place.text,
            fate=fate,
            why=why,
            codes={code: self._meaning(code) for code in (errors or "").split("; ") if code},
            superseded_by=(lake.location(by[0]), by[1]) if by else None,
            corrections={
                name: (reported, known[name]) for name, reported in json.loads(known["corrections"] or "{}").items()
            },
            rescued=rescued,
            differs=self._differs(row, one) if row else {},
            date=date,
            silver=lake.location(path) if fate not in (PENDING, LOST) else None,
            cells=cells,
        )

    def _gone(self, date: dt.date) -> tuple[str, int] | None:
        """The file and number of the record that silver has for the key on a date, if bronze does not hold it now."""
        there = {(one.file.name, one.place.record) for one in self._records}
        for place, row in self._stored.items():
            if row["partition_date_"] == date and place not in there and not _is_malformed(row["validation_errors"]):
                return place
        return None

    def _differs(self, row: Mapping[str, Any], one: Sought) -> dict[str, tuple[Any, Any]]:
        """What silver has otherwise than it would be made now; nothing if it was made by other rules or code."""
        state, date = self._state, one.values["partition_date"]
        if state.silver[date].rules != state.made_by.rules_hash:
            return {}
        names = [*state.reading.domain.columns, "corrections", "rescued_data"]
        return {name: (row[name], one.values[name]) for name in names if row[name] != one.values[name]}

    def _meaning(self, code: str) -> str:
        kind, _, column = code.partition(":")
        if known := self._meanings.get(code):
            return known
        if kind == sql.TYPE:
            return f"{column} is not {_article(self._state.reading.domain.columns.get(column, 'value'))}"
        if code == sql.MALFORMED:
            return "too few or too many fields, or broken quoting"
        if kind == sql.OUT_OF_RANGE and column == self._state.reading.domain.event_time:
            return f"before [lake] earliest_date {self._state.reading.earliest_date}, or later than its delivery allows"
        return "the computed value does not fit the column" if kind == sql.OUT_OF_RANGE else ""

    def notes(self) -> list[str]:
        """Notes on rows of silver whose records bronze does not hold (any more)."""
        there = {(one.file.name, one.place.record) for one in self._records}
        said = []
        for (file, record), row in self._stored.items():
            if (file, record) not in there:
                said.append(
                    f"silver for {row['partition_date_']} has a row from {self._state.lake.location(file)}, record "
                    f"{record}, but bronze does not hold that record now; the next run removes it, unless something "
                    "else changed silver"
                )
        return said


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def _meanings(domain: Domain) -> dict[str, str]:
    """What the codes of a suite's rules mean: their notes, or else the expectation."""
    try:
        rules = load_suite(domain).rules
    except LakeError:
        return {}
    return {rule.code: str(rule.content.get("notes") or rule.type) for rule in rules}


def _reason(domain: Domain, loser: Sought, winner: Sought) -> str:
    """Why a record supersedes another one with its key."""
    before, after = loser.values["event_time_"], winner.values["event_time_"]
    if domain.winner == "timestamp" and after is not None and (before is None or after > before):
        return f"that one has a later timestamp: {after} instead of {before or 'none that is usable'}"
    if winner.file.number != loser.file.number:
        return "that one was delivered later"
    return "that one comes later in the file"


def _cells_of_row(run: Run, tracer: Tracer, state: DomainState, row: Mapping[str, Any]) -> list[Cell]:
    """The rows of all gold tables that a row of silver is in, directly or through other tables."""
    domain, date = state.domain, row["partition_date_"]
    silver = tracer.silver({date.isoformat(): state.lake.silver(domain, date)}, {})
    # Where the row is in what the tables read: relations by source, None if that cannot be told.
    places: dict[str, str | None] = {domain: f"(select * from {silver} where place_ = {row['place_']})"}
    found: dict[str, Cell] = {}
    for table in tables().values():
        if domain not in domains_of(table):
            continue
        if not row["is_valid"]:
            cells = [Cell(table.name, {}, False, "excluded, because it is invalid")]
        else:
            try:
                cells = _cells_in(run, tracer, table, (domain, date), places)
            except (LakeError, QueryError) as error:
                cells = [Cell(table.name, {}, False, f"cannot be told: {error}")]
        places.setdefault(table.name, None)
        found |= {f"{cell.table} {cell.grain}": cell for cell in cells}
    return list(found.values())


def _cells_in(
    run: Run, tracer: Tracer, table: Table, partition: tuple[str, dt.date], places: dict[str, str | None]
) -> list[Cell]:
    """The rows of a gold table that a row of a partition is in. Adds where they are to `places`."""
    newest = _newest(run, table)
    if newest is None:
        return [Cell(table.name, {}, False, "it has no snapshot yet")]
    target = _target(run, table, newest)
    found = []
    for source in table.sources:
        if source.name not in places:
            continue
        place = places[source.name]
        if place is None:
            found.append(Cell(table.name, {}, False, f"see {source.name}, which it reads"))
            continue
        grouping, grains = tracer.cells_of(target, source.name, place)
        if grouping.is_exact and not grains:
            found.append(Cell(table.name, {}, False, "its SQL passes over this record"))
        elif len(grouping.grain) < len(table.grain):
            known = dict(grains[0]) if len(grains) == 1 else {}
            if table.is_by_day and not source.all_days and source.name in domains():
                known["date"] = partition[1]
            why = "perhaps: its SQL does not tell which of its rows read this record"
            found.append(Cell(table.name, known, True, why))
        for grain in grains if len(grouping.grain) == len(table.grain) else ():
            condition = _has_values(grain, tracer.columns(tracer.snapshot(newest.path)))
            places[table.name] = cells = tracer.cells(target, condition)
            found.append(_cell(run, tracer, table, newest, grain, cells, grouping.is_exact, partition))
    return found


def _cell(
    run: Run,
    tracer: Tracer,
    table: Table,
    newest: _Newest,
    grain: Mapping[str, Any],
    cells: str,
    is_exact: bool,
    partition: tuple[str, dt.date],
) -> Cell:
    """A row of a gold table that a row of a partition belongs to."""
    grain = {name: grain[name] for name in table.grain}
    if _changed_days(run, newest, [partition[1]]).get(partition[0]):
        return Cell(table.name, grain, False, "not as it is now: the snapshot is older than silver; the next run will")
    if not tracer.count(cells):
        return Cell(table.name, grain, False, f"{run.lake.location(newest.path)} has no such row")
    return Cell(table.name, grain, True, "" if is_exact else "perhaps: its SQL decides which rows of the group count")


# ------------------------------------------------------------------------------------------------ a gold row


@dataclass(frozen=True)
class _Newest:
    """The newest snapshot of a table, as a reader finds it."""

    path: str
    is_intact: bool
    content: Mapping[str, Any]
    """Its footer; empty if it is damaged."""
    below: Mapping[str, _Newest]
    """The snapshots it was made from, or the newest ones."""

    def all(self) -> Iterator[_Newest]:
        yield self
        for one in self.below.values():
            yield from one.all()

    @property
    def inputs(self) -> Inputs:
        return dict(self.content.get("inputs", {}))


def _newest(run: Run, table: Table, identity: str | None = None) -> _Newest | None:
    """A table's newest snapshot, or the newest one with this identity if there still is one."""
    found = snapshots(run, table)
    if not found:
        return None
    file, known = found[-1], footer(run, table, found[-1])
    if identity and (known is None or known.identity != identity):
        for one in reversed(found[:-1]):
            if (old := footer(run, table, one)) and old.identity == identity:
                file, known = one, old
                break
    path = run.lake.gold(table.name, file.name)
    content = (footers.read_footer(run.lake.store, path) or {}) if known else {}
    below = {}
    for source in table.sources:
        if source.name not in domains():
            made_from = content.get("inputs", {}).get(source.name, {}).get(source.name)
            inner = _newest(run, tables()[source.name], made_from)
            if inner is None:
                raise LakeError(f"gold table {table.name} reads {source.name}, which has no snapshot")
            below[source.name] = inner
    return _Newest(path, known is not None, content, below)


def _target(run: Run, table: Table, newest: _Newest) -> Target:
    paths = {
        source.name: partitions(run, source.name) if source.name in domains() else {"": newest.below[source.name].path}
        for source in table.sources
    }
    job = gold_job(table, paths, [] if table.is_by_day else None, dt.datetime.now(dt.UTC))
    below = {name: _target(run, tables()[name], one) for name, one in newest.below.items()}
    return Target(table.name, newest.path, job, below)


@contextlib.contextmanager
def cell(run: Run, name: str, values: Mapping[str, str | None]) -> Iterator[CellTrace]:
    """Trace a row of a gold table's newest snapshot. `values`: text by column of the grain, None for NULL.

    Raises NoRowError if they name no row or several.
    """
    table = tables()[name]
    newest = _newest(run, table)
    if newest is None:
        raise LakeError(f"gold table {name} has no snapshot yet; run luigi --module lakejobs GoldAll")
    with traced(run) as tracer, sql_errors(table):
        target = _target(run, table, newest)
        try:
            snapshot = tracer.snapshot(newest.path)
            condition = _given(tracer, table, snapshot, values)
            cells = tracer.cells(target, condition)
        except QueryError as error:
            why = f": {error}" if newest.is_intact else "; it is damaged, and the next GoldAll replaces it"
            raise LakeError(f"{run.lake.location(newest.path)} cannot be read{why}") from error
        grain = ", ".join(table.grain)
        there = tracer.rows(f"select {grain} from {cells} order by {grain}")
        if len(there) != 1:
            if not there:
                there = _alike(tracer, table, snapshot, values)
                raise NoRowError(_no_row(run, newest, table, values, there), there, False)
            which = "have these values" if values else "are there"
            raise NoRowError(f"{counted(len(there), 'row')} of {name} {which}; give more of {grain}", there, True)
        try:
            followed = tracer.follow(target, cells)
        except QueryError as error:
            if broken := [path for name in domains_of(table) for path in _damaged_partitions(run, name)]:
                raise LakeError(
                    f"{few(broken, 3)} cannot be read; the next run of luigi --module lakejobs GoldAll rebuilds it"
                ) from error
            raise
        (row,) = tracer.rows(f"select * from {cells}")
        generated_at = row.pop(GENERATED_AT, None)
        days = {one.domain: _days(run, one) for one in followed.reached}
        yield CellTrace(
            table=name,
            grain={column: row.pop(column) for column in table.grain},
            values=row,
            snapshot=run.lake.location(newest.path),
            generated_at=generated_at,
            sources=[_behind(run, tracer, one) for one in followed.reached],
            differences=followed.differences,
            changes=_changes(run, table, newest, days),
            unread=_unread(run, table),
            damaged=_damaged(run, newest, days),
            tracer=tracer,
        )


def prove(run: Run, name: str) -> tuple[int, Sequence[Difference]]:
    """Prove all rows of a gold table's newest snapshot at once, as `cell` proves one: how many, and what differs."""
    table = tables()[name]
    newest = _newest(run, table)
    if newest is None:
        raise LakeError(f"gold table {name} has no snapshot yet")
    with traced(run) as tracer, sql_errors(table):
        target = _target(run, table, newest)
        followed: Followed = tracer.follow(target, tracer.cells(target))
        return tracer.count(followed.cells), followed.differences


def _given(tracer: Tracer, table: Table, snapshot: str, values: Mapping[str, str | None]) -> str:
    """The condition that a stored row `s` has the given values. Raises LakeError for one that does not fit."""
    kinds = tracer.columns(snapshot)
    for name, value in values.items():
        fits = value is None or tracer.count(
            f"(select try_cast({sql.text(value)} as {kinds[name]}) as value)", "s.value is not null"
        )
        if not fits:
            raise LakeError(f"{table.name} has {name} as {kinds[name].lower()}, which {value!r} does not fit")
    return _has_values(values, kinds)


def _has_values(values: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    """The condition that a stored row `s` has these values."""
    return (
        " and ".join(
            f's."{name}" is null' if value is None else f's."{name}" = cast({sql.text(str(value))} as {kinds[name]})'
            for name, value in values.items()
        )
        or "true"
    )


def _alike(tracer: Tracer, table: Table, snapshot: str, values: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """A few rows that have most of the given values, and others that are much like them."""
    grain = ", ".join(table.grain)
    unlike = " + ".join(
        f"case when {name} is null then 0 else 99 end"
        if value is None
        else f"coalesce(levenshtein(lower(cast({name} as varchar)), lower({sql.text(value)})), 99)"
        for name, value in values.items()
    )
    return tracer.rows(f"select {grain} from {snapshot} order by {unlike or '0'}, {grain} limit {CLOSE}")


def _no_row(
    run: Run,
    newest: _Newest,
    table: Table,
    values: Mapping[str, str | None],
    alike: Sequence[Mapping[str, Any]],
) -> str:
    given = " ".join(f"{name}={'NULL' if value is None else value}" for name, value in values.items())
    said = f"{table.name} has no row with {given}"
    if not newest.is_intact:
        said += f"; {run.lake.location(newest.path)} is damaged or was not written by lakejobs"
    date = values.get("date") or ""
    for domain in domains_of(table) if date and table.is_daily else ():
        state = run.state(domain)
        with contextlib.suppress(ValueError):
            day = dt.date.fromisoformat(date)
            if known := state.silver.get(day):
                said += (
                    f"; silver has {counted(known.counts.rows, 'row')} of {domain} on {day}, {known.counts.valid:,} of "
                    "them valid"
                )
            elif not state.is_fresh(day):
                said += f"; bronze has records of {domain} on {day} that are not in silver yet"
            else:
                said += f"; there is no record of {domain} on {day}"
    if alike:
        said += ". Rows like it: " + "; ".join(
            " ".join(f"{name}={'NULL' if value is None else value}" for name, value in row.items()) for row in alike
        )
    return said


def _days(run: Run, reached: Reached) -> list[dt.date]:
    """The dates of the partitions that rows were looked for in."""
    if reached.days is None:
        return sorted(run.state(reached.domain).present)
    return [dt.date.fromisoformat(day) for day in reached.days]


def _behind(run: Run, tracer: Tracer, reached: Reached) -> Behind:
    """What a domain contributes to a row, and what of these days it does not."""
    state, days = run.state(reached.domain), _days(run, reached)
    invalid: dict[str, int] = {}
    in_group: dict[str, int] = {}
    total = 0
    # A malformed line has no values, so nobody knows its group.
    group = reached.group and (
        f"case when not starts_with(s.validation_errors, '{sql.MALFORMED}') then {reached.group} end"
    )
    for found in tracer.rows(
        f"select validation_errors as codes, {group or 'null'} as in_group, count(*) as records "
        f"from {reached.everything} as s where not is_valid group by all"
    ):
        total += found["records"]
        for code in str(found["codes"]).split("; "):
            invalid[code] = invalid.get(code, 0) + found["records"]
            in_group[code] = in_group.get(code, 0) + found["records"] * bool(found["in_group"])
    excluded = [
        Excluded(code, records, in_group[code] if group and code != sql.MALFORMED else None)
        for code, records in sorted(invalid.items(), key=lambda one: (-one[1], one[0]))
    ]
    files = tracer.rows(
        f"select source_file, count(*) as records from {reached.behind} group by all order by records desc, source_file"
    )
    rows = sum(one["records"] for one in files)
    if reached.is_exact and reached.group:
        valid = tracer.count(reached.everything, f"s.is_valid and {reached.group}")
        if valid > rows:
            conditions = " and ".join(reached.filters).replace('"s".', "").replace('"', "")
            excluded.append(Excluded(f"valid, but not {conditions or 'read by the SQL'}", valid - rows, valid - rows))
    duplicates = sum(state.silver[day].counts.duplicates for day in days if day in state.silver)
    if duplicates:
        excluded.append(Excluded(SUPERSEDED, duplicates, None))
    return Behind(
        domain=reached.domain,
        through=reached.through[:-1],
        days=days,
        rows=rows,
        files=[(run.lake.location(one["source_file"]), one["records"]) for one in files],
        known=reached.known,
        is_exact=reached.is_exact,
        invalid=total,
        excluded=excluded,
        relation=reached.behind,
    )


def _changed_days(run: Run, newest: _Newest, days: Sequence[dt.date] | None) -> dict[str, list[dt.date]]:
    """The days whose silver is not the one that a snapshot was made from, by domain. `days`: None for all."""
    found: dict[str, set[dt.date]] = {}
    for snapshot in newest.all():
        if not snapshot.content:
            continue
        for source, identities in snapshot.inputs.items():
            if source in domains():
                now = _identities(run, source)
                for day in {*identities, *now}:
                    date = dt.date.fromisoformat(day)
                    if (days is None or date in days) and identities.get(day) != now.get(day):
                        found.setdefault(source, set()).add(date)
    return {source: sorted(some) for source, some in found.items()}


def _changes(run: Run, table: Table, newest: _Newest, days: Mapping[str, Sequence[dt.date]]) -> list[str]:
    """Why the next run computes a row again."""
    said = []
    for name, one in [(table.name, newest), *newest.below.items()]:
        if one.content and (one.content.get("sql"), one.content.get("version")) != (tables()[name].hash, GOLD_VERSION):
            said.append(f"the SQL of {name}, or lakejobs, changed since the snapshot was made")
        elif one.content and one.content.get("engine") != run.engine.name:
            said.append(f"{name} was computed by {one.content.get('engine')}, not by {run.engine.name}")
    for source, one in newest.below.items():
        files = snapshots(run, tables()[source])
        if files and one.path != run.lake.gold(source, files[-1].name):
            said.append(f"{source} has a newer snapshot")
    # Whatever changes in a table that another one reads in full makes the next run compute all of it.
    is_daily = table.is_by_day and not newest.below
    every = {day for some in days.values() for day in some}
    changed = _changed_days(run, newest, sorted(every) if is_daily else None)
    for domain in domains_of(table):
        state, known = run.state(domain), {*days.get(domain, ())}
        if some := changed.get(domain):
            said.append(f"silver of {domain} changed since the snapshot was made: {span(some)}")
        damaged = state.present - {*state.silver}
        if some := [day for day in state.stale_dates() if (day in known or not is_daily) and day not in damaged]:
            said.append(f"silver of {domain} is not up to date with bronze: {span(some)}")
    return said


def _unread(run: Run, table: Table) -> list[str]:
    """The files that bronze has to read first."""
    stale = {domain: sorted(run.state(domain).stale) for domain in domains_of(table)}
    return [f"files of {domain} that land on {span(dates)}" for domain, dates in stale.items() if dates]


def _identities(run: Run, domain: str) -> dict[str, str]:
    """The identities of a domain's silver partitions by date; of damaged ones, which are rebuilt, what they will be."""
    state = run.state(domain)
    rebuilt = {date.isoformat(): state.expected(date) or "" for date in state.present - {*state.silver}}
    return {**state.identities, **rebuilt}


def _damaged_partitions(run: Run, domain: str) -> list[str]:
    state = run.state(domain)
    return [run.lake.location(run.lake.silver(domain, date)) for date in sorted(state.present - {*state.silver})]


def _damaged(run: Run, newest: _Newest, days: Mapping[str, Sequence[dt.date]]) -> list[str]:
    """The files behind a row that are not as lakejobs wrote them."""
    found = [one.path for one in newest.all() if not one.is_intact]
    for domain, some in days.items():
        state = run.state(domain)
        found += [run.lake.silver(domain, day) for day in some if day in state.present and day not in state.silver]
    return [run.lake.location(path) for path in found]
