"""Tracing: the records of a key in files, and the rows behind rows of a gold table, computed again from exactly those.

Relations that it leaves on its connection have names that end in `_` and a number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from lakejobs.engine import CsvFile, GoldJob, GoldSource, QueryError, Reading, records, sql, unpacking
from lakejobs.engine.duckdb import Connection, Delivered, delivered_as
from lakejobs.engine.lineage import ROW, Grouping, composed, groupings
from lakejobs.engine.local import GENERATED_AT, OnDisk, compute
from lakejobs.engine.sql import text
from lakejobs.model import Domain
from lakejobs.storage.local import reading as reading_file

Row = Mapping[str, Any]
ABSENT = "no such column"
"""Stands for the value of a column that only the stored or only the computed row has."""
NO_ROW = "no such row"
"""Stands for the values of a row that was not computed again."""
DIGITS = 1e-12
"""The order of rows may change the last digits of a double, so a smaller share of it is no difference."""


@dataclass(frozen=True)
class Target:
    """A gold table, one of its snapshots, and the files of its sources."""

    name: str
    snapshot: str
    """Its path in the store."""
    job: GoldJob
    """`days` is empty if it is computed day by day, else None."""
    below: Mapping[str, Target] = field(default_factory=dict)
    """Its sources that are gold tables, by name."""


@dataclass(frozen=True)
class Difference:
    """A value of a snapshot that differs from the one computed again."""

    grain: Row
    column: str
    stored: Any
    computed: Any


@dataclass(frozen=True)
class Reached:
    """The rows of a domain that are behind rows of a gold table."""

    domain: str
    through: tuple[str, ...]
    """The gold tables from the one that reads the domain up to the one that was asked about."""
    known: tuple[str, ...]
    """The columns of the grain by which rows were selected; those of a daily table also by their day."""
    is_exact: bool
    """Whether each row counts. If not, the rows suffice, but the SQL may pass over some of them."""
    filters: tuple[str, ...]
    behind: str
    """The relation of the rows."""
    days: Sequence[str] | None
    """The days that the rows which were asked about are made from; None for all."""
    everything: str
    """The relation of all rows of these days, invalid ones too."""
    group: str | None
    """SQL that is true for those of them, `s`, that have the grain's values; None if the SQL does not tell."""


@dataclass(frozen=True)
class _Asked:
    """The rows of a gold table that were asked about, seen from a table or domain behind it."""

    cells: str
    grain: Sequence[str]
    days: Sequence[str] | None
    by: Mapping[str, str] | None = None
    """Values of its grain, over the rows of the table behind it; None for the table itself."""

    def over(self, inner: Mapping[str, str]) -> Mapping[str, str]:
        """The same over the rows of a source of that table, which has values of its grain by `inner`."""
        return inner if self.by is None else composed(self.by, inner)


@dataclass(frozen=True)
class Followed:
    """Rows of a gold table, followed down to silver and computed again from there."""

    cells: str
    """The relation of the rows as stored."""
    made: str
    """The relation of the rows as computed."""
    differences: Sequence[Difference]
    reached: Sequence[Reached]


@dataclass(frozen=True)
class Sought:
    """A record that may have the key, as delivered and as the lake reads it."""

    number: int
    file: CsvFile
    place: records.Found
    values: Row
    """As `sql.typed_rows` gives them."""


@contextlib.contextmanager
def opened(
    scratch: Callable[[str], AbstractContextManager[str]], memory_limit: str, on_disk: OnDisk
) -> Iterator[Tracer]:
    """A tracer whose relations live as long as the context."""
    with scratch("trace") as spill, Connection(spill, memory_limit) as connection:
        yield Tracer(connection, on_disk)


class Tracer:
    """Answers from Parquet and CSV files. Paths are those in the store, and `on_disk` finds the files."""

    def __init__(self, connection: Connection, on_disk: OnDisk) -> None:
        self._connection, self._on_disk = connection, on_disk
        self._numbers = itertools.count()
        self._views: dict[tuple[object, ...], str] = {}

    def _new(self, what: str) -> str:
        return f"{what}_{next(self._numbers)}"

    def rows(self, query: str) -> list[dict[str, Any]]:
        """A small result, by column."""
        names = [str(name) for name, *_ in self._connection.rows(f"describe {query}")]
        return [dict(zip(names, row, strict=True)) for row in self._connection.rows(query)]

    def columns(self, relation: str) -> dict[str, str]:
        """Names and types."""
        return {str(name).lower(): str(kind) for name, kind, *_ in self._connection.rows(f"describe {relation}")}

    def count(self, relation: str, condition: str = "true") -> int:
        ((found,),) = self._connection.rows(f"select count(*) from {relation} as {ROW} where {condition}")
        return int(found)

    # -------------------------------------------------------------------------------------------- silver

    def silver(self, paths: Mapping[str, str], columns: Mapping[str, str]) -> str:
        """The relation of all rows of silver partitions, with `partition_date_` and `place_` in the file.

        `paths`: by date. `columns`: names and types, for when there are no files.
        """
        seen = (*paths.items(), *columns)
        if seen not in self._views:
            name = self._views[seen] = self._new("silver_")
            if not paths:
                typed = ", ".join(f"cast(null as {kind}) as {column}" for column, kind in columns.items())
                self._connection.run(
                    f"create temp view {name} as "
                    f"select {typed}, cast(null as date) as partition_date_, 0 as place_ limit 0"
                )
                return name
            local = self._on_disk(list(paths.values()))
            self._connection.read_parquet(f"{name}_files", local, numbered=True, by_name=True)
            places = ", ".join(f"({text(path)}, date '{day}')" for day, path in zip(paths, local, strict=True))
            self._connection.run(
                f"create temp view {name} as select f.* exclude (filename, file_row_number), "
                f"d.day as partition_date_, f.file_row_number as place_ from {name}_files as f "
                f"join (values {places}) as d (path, day) on f.filename = d.path"
            )
        return self._views[seen]

    # -------------------------------------------------------------------------------------------- gold

    def snapshot(self, path: str) -> str:
        """The relation of a gold table's snapshot."""
        if (path,) not in self._views:
            name = self._views[(path,)] = self._new("snapshot_")
            self._connection.read_parquet(name, self._on_disk([path]))
        return self._views[(path,)]

    def cells(self, target: Target, condition: str = "true") -> str:
        """The relation of a table's stored rows `s` that meet a condition."""
        name = self._new("cells_")
        self._connection.run(
            f"create temp table {name} as select * from {self.snapshot(target.snapshot)} as {ROW} where {condition} "
            f"order by {', '.join(target.job.grain)}"
        )
        return name

    def groupings(self, target: Target) -> Mapping[str, Grouping]:
        """How the rows of a table's sources belong to its rows."""
        columns = {
            source.name: source.columns or self.columns(self.snapshot(target.below[source.name].snapshot))
            for source in target.job.sources
        }
        return groupings(target.job.statement, target.job.grain, columns)

    def follow(self, target: Target, cells: str, asked: _Asked | None = None) -> Followed:
        """Find the rows of silver behind stored rows of a table, and compute these again from them.

        If this gives other values, all rows of the days are tried (or all there are), in case the SQL was
        misunderstood; the fewer rows are reported if those do not help either.
        """
        days: list[str] | None = None
        if target.job.days is not None:
            # A timestamp may stand for a date.
            found_days = self._connection.rows(f"select distinct cast(date as date) from {cells} order by all")
            days = [str(day) for (day,) in found_days]
        asked = asked or _Asked(cells, target.job.grain, days)
        grouped = self.groupings(target)
        nothing = {name: Grouping({}) for name in grouped}
        try:
            found = self._follow(target, cells, days, grouped, asked)
        except QueryError:
            # An expression that only makes sense in its place.
            grouped = nothing
            found = self._follow(target, cells, days, grouped, asked)
        if found.differences and any(grouping.grain or grouping.filters for grouping in grouped.values()):
            whole = self._follow(target, cells, days, nothing, asked)
            if not whole.differences:
                return whole
        return found

    def _follow(
        self, target: Target, cells: str, days: list[str] | None, grouped: Mapping[str, Grouping], asked: _Asked
    ) -> Followed:
        job = target.job
        read: dict[str, tuple[str, bool]] = {}
        reached: list[Reached] = []
        for source in job.sources:
            grouping, some = grouped[source.name], days if source.is_daily else None
            if source.columns:
                found = self._reach(target, source, grouping, cells, some, asked)
                read[source.name] = (found.behind, True)
                reached.append(found)
                continue
            below = target.below[source.name]
            conditions = [*grouping.filters, *_in_group(grouping.grain, job.grain, cells)]
            if some is not None:
                conditions.append(f"{ROW}.date in ({_dates(some)})")
            inner = self.follow(
                below,
                self.cells(below, " and ".join(conditions) or "true"),
                dataclasses.replace(asked, by=asked.over(grouping.grain)),
            )
            read[source.name] = (self._as_stored(below, inner), False)
            reached += [
                dataclasses.replace(
                    one,
                    through=(*one.through, target.name),
                    is_exact=one.is_exact and grouping.is_exact,
                    known=one.known if len(grouping.grain) == len(job.grain) else (),
                )
                for one in inner.reached
            ]

        def make_readable(of: Sequence[str] | None) -> None:
            for source in job.sources:
                name, is_silver = read[source.name]
                rows = f"select * {'exclude (partition_date_, place_) ' if is_silver else ''}from {name}"
                if source.is_daily and of is not None:
                    rows += f" where {'partition_date_' if is_silver else 'date'} in ({_dates(of)})"
                self._connection.run(f"create or replace temp view {source.name} as {rows}")

        self._connection.run("drop table if exists computed")
        compute(dataclasses.replace(job, days=days), self._connection, make_readable)
        made = self._new("made_")
        self._connection.run(f"alter table computed rename to {made}")
        return Followed(cells, made, self._differences(cells, made, job.grain), reached)

    def _reach(
        self,
        target: Target,
        source: GoldSource,
        grouping: Grouping,
        cells: str,
        days: list[str] | None,
        asked: _Asked,
    ) -> Reached:
        """The rows of a domain behind stored rows of a table that reads it."""

        def of(some: Sequence[str] | None) -> str:
            paths = {day: path for day, path in source.paths.items() if some is None or day in some}
            return self.silver(paths, source.columns)

        behind = self._new("behind_")
        conditions = [f"{ROW}.is_valid", *grouping.filters, *_in_group(grouping.grain, target.job.grain, cells)]
        self._connection.run(
            f"create temp table {behind} as select * from {of(days)} as {ROW} where {' and '.join(conditions)} "
            "order by partition_date_, place_"
        )
        there = dict(asked.over(grouping.grain))
        considered = asked.days if source.is_daily else None
        if considered is not None:
            # An invalid row may lack a usable timestamp, and belongs to the day that it is filed under.
            there["date"] = f"{ROW}.partition_date_"
        is_known = {*asked.grain} <= there.keys()
        return Reached(
            domain=source.name,
            through=(target.name,),
            known=tuple(grouping.grain),
            is_exact=grouping.is_exact,
            filters=grouping.filters,
            behind=behind,
            days=considered,
            everything=of(considered),
            group=_in_group(there, asked.grain, asked.cells)[0] if is_known else None,
        )

    def _as_stored(self, target: Target, followed: Followed) -> str:
        """The relation of computed rows of a table that were asked for, with the columns that its snapshot adds."""
        name, grain = self._new("read_"), target.job.grain
        added = f", c.{GENERATED_AT}" if GENERATED_AT in self.columns(followed.cells) else ""
        self._connection.run(
            f"create temp table {name} as select m.*{added} from {followed.made} as m join {followed.cells} as c "
            f"on {_same(grain, 'm', 'c')} order by {', '.join(f'm.{column}' for column in grain)}"
        )
        return name

    def _differences(self, cells: str, made: str, grain: Sequence[str]) -> list[Difference]:
        """Values of stored rows that differ from the computed ones."""
        stored, computed = (
            [name for name in self.columns(relation) if name != GENERATED_AT] for relation in (cells, made)
        )
        found = []
        named = [name for name in stored if name not in grain]
        picked = [f"c.{_quoted(name)}" for name in stored] + [f"m.{_quoted(name)}" for name in computed]
        for is_there, *values in self._connection.rows(
            f"select m.is_there_, {', '.join(picked)} from {cells} as c "
            f"left join (select *, true as is_there_ from {made}) as m on {_same(grain, 'c', 'm')}"
        ):
            one = dict(zip(stored, values[: len(stored)], strict=True))
            other = dict(zip(computed, values[len(stored) :], strict=True))
            where = {name: one[name] for name in grain}
            if not is_there:
                found += [Difference(where, name, one[name], NO_ROW) for name in named or stored]
                continue
            for name in dict.fromkeys([*stored, *computed]):
                before, after = one.get(name, ABSENT), other.get(name, ABSENT)
                if not _equal(before, after):
                    found.append(Difference(where, name, before, after))
        return found

    # -------------------------------------------------------------------------------------------- a row's cells

    def cells_of(self, target: Target, source: str, rows: str) -> tuple[Grouping, list[dict[str, Any]]]:
        """The values of a table's grain for rows `s` of one of its sources, as far as the SQL tells."""
        grouping = self.groupings(target)[source]
        if not grouping.grain:
            return grouping, []
        picked = ", ".join(f"{expression} as {_quoted(name)}" for name, expression in grouping.grain.items())
        try:
            return grouping, self.rows(
                f"select distinct {picked} from {rows} as {ROW} where {' and '.join(grouping.filters) or 'true'}"
            )
        except QueryError:
            return Grouping({}), []

    # -------------------------------------------------------------------------------------------- records

    def typed_key(self, reading: Reading, key: Mapping[str, str]) -> dict[str, Any]:
        """The values of a key as silver stores them; None for one that does not fit its column."""
        kinds = reading.domain.columns
        picked = ", ".join(_value(reading, text(value), kinds[name]) for name, value in key.items())
        (row,) = self._connection.rows(f"select {picked}")
        return dict(zip(key, row, strict=True))

    def records(self, reading: Reading, files: Sequence[CsvFile], key: Mapping[str, str]) -> list[Sought]:
        """The records of files that have a key, and the malformed lines that contain it, in the order of files."""
        if not files:
            return []
        local = [
            dataclasses.replace(file, path=path)
            for file, path in zip(files, self._on_disk([file.path for file in files]), strict=True)
        ]
        columns, name = list(reading.domain.columns), self._new("keys_")
        self._connection.load_csv(
            name,
            local,
            columns,
            f"select file_number, source_record, {_has_key(reading, key)} as is_sought from delivered",
        )
        wanted: dict[int, set[int]] = {}
        for number, record in self._connection.rows(f"select file_number, source_record from {name} where is_sought"):
            wanted.setdefault(number, set()).add(record)
        places, delivered = [], []
        for file in local:
            if file.number in wanted:
                as_delivered = delivered_as(file, columns)
                known = file.inspection
                with (
                    reading_file(file.path) as packed,
                    unpacking.unpacked(packed, known.packed, known.contract) as handle,
                ):
                    for found in records.find(handle, known, wanted[file.number]):
                        places.append((file, found))
                        delivered.append(as_delivered(found.record, found.fields, found.text))
        if not places:
            return []
        self._connection.run(f"create or replace temp view delivered as {_as_query(delivered, columns)}")
        self._connection.run(f"create or replace temp table sought_ as {sql.typed_rows(reading)}")
        self._connection.run("drop view delivered")
        values = {(row["file_number"], row["source_record"]): row for row in self.rows("select * from sought_")}
        return [
            Sought(number, file, found, values[file.number, found.record])
            for number, (file, found) in enumerate(places)
        ]

    def delivered(
        self, files: Sequence[CsvFile], wanted: Mapping[str, Collection[int]], columns: Sequence[str]
    ) -> dict[tuple[str, int], tuple[list[str], str]]:
        """Records by the names of their files and their numbers there: the text of `columns`, '' where there is none,
        and that of the line if it is malformed, else ''."""
        found = {}
        some = [file for file in files if file.name in wanted]
        for file, path in zip(some, self._on_disk([file.path for file in some]), strict=True):
            known, as_delivered = file.inspection, delivered_as(file, columns)
            with reading_file(path) as packed, unpacking.unpacked(packed, known.packed, known.contract) as handle:
                for one in records.find(handle, known, wanted[file.name]):
                    _, _, content, line = as_delivered(one.record, one.fields, one.text)
                    values = [value or "" for value in content[1]] if content else [""] * len(columns)
                    found[file.name, one.record] = values, line or ""
        return found

    def superseded(self, domain: Domain, some: Sequence[Sought]) -> set[int]:
        """The numbers of those of some records, all with the same key, that others supersede."""
        if not some:
            return set()
        rows = ", ".join(f"({one.number}, {one.file.number}, {one.place.record})" for one in some)
        self._connection.run(
            "create or replace temp view rivals_ as select r.number as row_number_, f.partition_date, 0 as key_, "
            "f.event_time_, f.file_number as delivery_, f.source_record from sought_ as f "
            f"join (values {rows}) as r (number, file, record) on f.file_number = r.file and f.source_record = r.record"
        )
        return {number for number, _ in self._connection.rows(sql.superseded_rows(domain))}

    def stored(self, reading: Reading, silver: str, key: Mapping[str, str]) -> list[dict[str, Any]]:
        """The rows of silver that have a key, or hold a malformed line that contains it."""
        typed, kinds = self.typed_key(reading, key), reading.domain.columns
        has_key = " and ".join(
            f"json_member(rescued_data, {text(name)}) = {text(value)}"
            if typed[name] is None
            else f"{name} = {_value(reading, text(value), kinds[name])}"
            for name, value in key.items()
        )
        line = "json_member(rescued_data, '_line')"
        malformed = " and ".join(f"instr({line}, {text(value)}) > 0" for value in key.values())
        condition = f"({has_key}) or (starts_with(validation_errors, '{sql.MALFORMED}') and {malformed})"
        return self.rows(f"select * from {silver} where {condition} order by partition_date_, place_")

    def close_keys(self, silver: str, key: Mapping[str, str], most: int) -> list[tuple[Any, ...]]:
        """The keys in silver that are most like another one, and not too far from it."""
        written = " || ' ' || ".join(f"cast({name} as varchar)" for name in key)
        given = " ".join(key.values())
        names = ", ".join(key)
        return self._connection.rows(
            f"select {names} from (select distinct {names}, "
            f"levenshtein(lower({written}), lower({text(given)})) as distance_ from {silver}) as rated "
            f"where distance_ <= {1 + len(given) // 4} order by distance_, {names} limit {most}"
        )


def _as_query(rows: Sequence[Delivered], columns: Sequence[str]) -> str:
    """A few records as the relation `delivered`. (Arrow would do for many, but it imports pandas.)"""
    listed = []
    for file, number, content, malformed in rows:
        extra, values = content or (None, [None] * len(columns))
        marks = file.inspection.contract.marks
        texts = ", ".join("null" if not value else text(value) for value in (malformed, extra, marks, *values))
        listed.append(f"({file.number}, {number}, date '{file.landing_date}', date '{file.latest_date}', {texts})")
    own = ("malformed", "extra", "marks_", *columns)
    names = ", ".join(("file_number", "source_record", "landing_date", "latest_date", *own))
    texts = ", ".join(f"cast({name} as varchar) as {name}" for name in own)
    return (
        f"select file_number, cast(source_record as bigint) as source_record, landing_date, latest_date, {texts} "
        f"from (values {', '.join(listed)}) as rows ({names})"
    )


def _has_key(reading: Reading, key: Mapping[str, str]) -> str:
    """SQL over `delivered`: whether a record has a key, or is a malformed line that contains it."""
    conditions = []
    for name, value in key.items():
        trimmed, kind = f"nullif(btrim({name}, ' \t'), '')", reading.domain.columns[name]
        is_same = f"{trimmed} = {text(value)}"
        if kind != "text":
            typed = f"{_value(reading, trimmed, kind)} = {_value(reading, text(value), kind)}"
            is_same = f"({is_same} or coalesce({typed}, false))"
        conditions.append(is_same)
    within = " and ".join(f"instr(malformed, {text(value)}) > 0" for value in key.values())
    return f"coalesce(case when malformed is null then {' and '.join(conditions)} else {within} end, false)"


def _value(reading: Reading, value: str, kind: str) -> str:
    return value if kind == "text" else sql.typed_value(reading, value, kind)


def _in_group(known: Mapping[str, str], grain: Sequence[str], cells: str) -> list[str]:
    """The condition that a row's values of the grain are those of a stored row; none if no value is known."""
    same = [f"{known[name]} is not distinct from c_.{_quoted(name)}" for name in grain if name in known]
    return [f"exists (select 1 from {cells} as c_ where {' and '.join(same)})"] if same else []


def _same(grain: Sequence[str], one: str, other: str) -> str:
    return " and ".join(f"{one}.{_quoted(name)} is not distinct from {other}.{_quoted(name)}" for name in grain)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=DIGITS) or (math.isnan(one) and math.isnan(other))
    return bool(one == other) and (one is None) == (other is None)


def _dates(days: Sequence[str]) -> str:
    return ", ".join(f"date '{day}'" for day in days) or "null"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
