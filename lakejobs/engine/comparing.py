"""Comparing two versions of Parquet files, row by row."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs.engine.duckdb import Connection
from lakejobs.engine.local import GENERATED_AT

IGNORED = (GENERATED_AT, "processed_at")
"""Columns that say when a row was made, and nothing about the data."""


@dataclass(frozen=True)
class Cell:
    """A value that changed."""

    key: tuple[Any, ...]
    column: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Difference:
    """What differs between two versions of a table, in the order of its key."""

    added: Sequence[tuple[Any, ...]] = ()
    """Keys of rows that only the newer one has."""
    removed: Sequence[tuple[Any, ...]] = ()
    changed: Sequence[Cell] = ()
    new_columns: Sequence[str] = ()
    old_columns: Sequence[str] = ()
    """Columns that only the older one has."""

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.changed, self.new_columns, self.old_columns))


@dataclass(frozen=True)
class Flips:
    """What happened to the rows of silver, each identified by its file and record."""

    invalid: int = 0
    """Rows that were valid and no longer are."""
    valid: int = 0
    """Rows that were invalid and no longer are."""
    added: int = 0
    removed: int = 0
    """Rows that are there no longer, because others supersede them or their file is gone."""
    recoded: int = 0
    """Rows that stay invalid, by other rules than before."""
    changed: int = 0
    """Rows with another value that are as valid as before."""
    gained: Sequence[tuple[str, int, str]] = ()
    """Codes that more rows have: the code, the number of rows, and one of them as `file, record`."""
    lost: Sequence[tuple[str, int, str]] = ()


class Comparison:
    """Two versions of the same rows, on an open connection."""

    def __init__(self, connection: Connection, old: Sequence[str], new: Sequence[str]) -> None:
        self._connection = connection
        for name, paths in (("old", old), ("new", new)):
            if paths:
                connection.read_parquet(name, paths)
        # One that has no file has no rows, and the columns of the other.
        if not old and new:
            connection.run("create temp view old as select * from new limit 0")
        if not new and old:
            connection.run("create temp view new as select * from old limit 0")

    def difference(self, key: Sequence[str], ignored: Sequence[str] = ()) -> Difference:
        """What differs in rows that a key identifies. NULL equals NULL; rows with the same key are paired in order.

        `ignored`: columns that may differ, besides those that never count.
        """
        old, new = self._columns("old"), self._columns("new")
        added, removed, changed = [], [], []
        for at, was, now, cells in self._different_rows(key, ignored):
            if not was:
                added.append(at)
            elif not now:
                removed.append(at)
            else:
                changed += cells
        return Difference(
            added,
            removed,
            changed,
            [name for name in new if name not in old],
            [name for name in old if name not in new],
        )

    def cells(self, key: Sequence[str], day: str, before: str) -> list[Cell]:
        """The cells that differ on days before one, where the older version has rows of that day.

        A row that only one of them has differs in each value that is not NULL. `day`: the key's column of dates.
        """
        known = {found for (found,) in self._connection.rows(f"select distinct {day} from old where {day} is not null")}
        place = [*key].index(day)
        return [
            cell
            for at, _, _, cells in self._different_rows(key)
            if at[place] in known and str(at[place]) < before
            for cell in cells
        ]

    def _different_rows(
        self, key: Sequence[str], ignored: Sequence[str] = ()
    ) -> Iterator[tuple[tuple[Any, ...], bool, bool, list[Cell]]]:
        """The key of each row that differs, whether the older and the newer version have it, and its cells."""
        old, new = self._columns("old"), self._columns("new")
        if not {*key} <= {*old}:
            # Rows of another grain have no counterpart.
            self._connection.run("create or replace temp view old as select * from new limit 0")
            old = new
        shared = [name for name in new if name in old and name not in (*key, *IGNORED, *ignored)]
        picked = [f"coalesce(o.{name}, n.{name})" for name in key]
        picked += ["o.there", "n.there", *(f"{side}.{name}" for name in shared for side in ("o", "n"))]
        same = " and ".join(f"o.{name} is not distinct from n.{name}" for name in [*key, "place"])
        differs = " or ".join(f"o.{name} is distinct from n.{name}" for name in ["there", *shared])
        partition = f"partition by {', '.join(key)}" if key else ""
        place = f"row_number() over ({partition} order by {', '.join(shared) or '1'}) as place"
        for row in self._connection.rows(
            f"select {', '.join(picked)} from (select *, true as there, {place} from old) as o "
            f"full join (select *, true as there, {place} from new) as n on {same} where {differs} order by all"
        ):
            at, (was, now), values = row[: len(key)], row[len(key) : len(key) + 2], row[len(key) + 2 :]
            pairs = zip(shared, values[::2], values[1::2], strict=True)
            yield (
                at,
                bool(was),
                bool(now),
                [Cell(at, name, one, other) for name, one, other in pairs if _differ(one, other)],
            )

    def flips(self) -> Flips:
        """What differs in the rows of silver."""
        old, new = self._columns("old"), self._columns("new")
        shared = [name for name in new if name in old and name not in IGNORED]
        differs = " or ".join(f"o.{name} is distinct from n.{name}" for name in shared)
        self._connection.run(
            "create or replace temp table joined as select coalesce(o.source_file, n.source_file) as source_file, "
            "coalesce(o.source_record, n.source_record) as source_record, o.is_valid as was, n.is_valid as now, "
            "string_split(o.validation_errors, '; ') as before, string_split(n.validation_errors, '; ') as after "
            "from old as o full join new as n "
            f"on o.source_file = n.source_file and o.source_record = n.source_record where {differs}"
        )
        ((invalid, valid, added, removed, recoded, changed),) = self._connection.rows(
            "select count(*) filter (where was and not now), count(*) filter (where not was and now), "
            "count(*) filter (where was is null), count(*) filter (where now is null), "
            "count(*) filter (where was = now and before is distinct from after), "
            "count(*) filter (where was = now and before is not distinct from after) from joined"
        )

        def codes(these: str, others: str) -> list[tuple[str, int, str]]:
            return self._connection.rows(
                "select code, count(*), "
                "min_by(source_file || ', record ' || source_record, (source_file, source_record)) "
                f"from (select *, unnest({these}) as code from joined where was is not null and now is not null) "
                f"where not coalesce(list_contains({others}, code), false) group by code order by code"
            )

        return Flips(
            invalid, valid, added, removed, recoded, changed, codes("after", "before"), codes("before", "after")
        )

    def _columns(self, name: str) -> list[str]:
        return [str(column) for column, *_ in self._connection.rows(f"describe {name}")]


def _differ(old: Any, new: Any) -> bool:
    # Two NaN differ in Python, and are the same value in SQL.
    both_nan = isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new)
    return bool(old != new and not both_nan)


@contextlib.contextmanager
def comparing(spill: str, memory_limit: str, old: Sequence[str], new: Sequence[str]) -> Iterator[Comparison]:
    """Compare files on the local disk, at least one of them. `spill`: a directory for what does not fit in memory."""
    with Connection(spill, memory_limit) as connection:
        yield Comparison(connection, old, new)
