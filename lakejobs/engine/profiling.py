"""What the rows of silver have in common, and how well a condition holds on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs.engine.duckdb import Connection
from lakejobs.engine.sql import text

NUMBERS = ("integer", "number", "decimal")
ORDERED = (*NUMBERS, "date", "timestamp")


@dataclass(frozen=True)
class Column:
    """What is known about a column's values that are not NULL."""

    name: str
    values: int
    nulls: int
    distinct: int
    """Approximately."""
    minimum: Any
    maximum: Any


@dataclass(frozen=True)
class Held:
    """How a condition held."""

    rows: int
    """Rows that it was asked of."""
    failed: int
    flips: int
    """Rows that failed and are valid now."""
    worst: str
    """The day with the most failures, YYYY-MM-DD; '' if there are none."""
    worst_failed: int

    @property
    def share(self) -> float:
        return 1 - self.failed / self.rows if self.rows else 1.0


class Profile:
    """All rows of a domain's silver, on an open connection, as `rows_`: also `day_` and `place_`, their order in it."""

    def __init__(self, connection: Connection, columns: Mapping[str, str], paths: Mapping[str, str]) -> None:
        """`columns`: types by name. `paths`: local files by date, YYYY-MM-DD."""
        self._connection = connection
        days = ", ".join(f"{text(path)}: {text(day)}" for day, path in paths.items())
        connection.read_parquet("silver_", list(paths.values()), numbered=True)
        connection.run(
            f"create temp table rows_ as select {', '.join(columns)}, is_valid, "
            f"map {{{days}}}[filename] as day_, file_row_number as place_ from silver_"
        )

    def column(self, name: str) -> Column:
        ((values, nulls, distinct, minimum, maximum),) = self._connection.rows(
            f"select count({name}), count(*) - count({name}), approx_count_distinct({name}), min({name}), max({name}) "
            "from rows_"
        )
        return Column(name, values, nulls, distinct, minimum, maximum)

    def frequent(self, name: str, most: int) -> list[tuple[Any, int]]:
        """The most frequent values, and how often they occur."""
        return [
            (value, count)
            for value, count in self._connection.rows(
                f"select {name}, count(*) as n from rows_ where {name} is not null group by 1 "
                f"order by n desc, 1 limit {most}"
            )
        ]

    def shapes(self, name: str, most: int) -> list[tuple[str, int, int, int]]:
        """The most frequent shapes of a text: with 9 for digits, A and a for letters, once for each run of them.

        Each with the number of values, and their least and greatest length.
        """
        shape = name
        for kind, one in (("[0-9]+", "9"), ("[A-Z]+", "A"), ("[a-z]+", "a")):
            shape = f"regexp_replace({shape}, '{kind}', '{one}', 'g')"
        return [
            (found, count, least, greatest)
            for found, count, least, greatest in self._connection.rows(
                f"select {shape} as s, count(*) as n, min(length({name})), max(length({name})) from rows_ "
                f"where {name} is not null group by 1 order by n desc, 1 limit {most}"
            )
        ]

    def quantile(self, name: str, share: float) -> float:
        ((found,),) = self._connection.rows(f"select quantile_cont(cast({name} as double), {share}) from rows_")
        return float(found)

    def held(self, passes: str, asked: str = "true") -> Held:
        """How a condition held on the rows that were asked. Both are SQL, which may have windows."""
        found = self._connection.rows(
            f"select day_, count(*) filter (asked_), count(*) filter (asked_ and not passes_), "
            "count(*) filter (asked_ and not passes_ and is_valid) from ("
            f"select day_, is_valid, {asked} as asked_, coalesce({passes}, false) as passes_ from rows_) group by day_"
        )
        worst = max(found, key=lambda row: (row[2], row[0]), default=("", 0, 0, 0))
        return Held(
            sum(row[1] for row in found),
            sum(row[2] for row in found),
            sum(row[3] for row in found),
            worst[0] if worst[2] else "",
            worst[2],
        )


@contextlib.contextmanager
def profiling(spill: str, memory_limit: str, columns: Mapping[str, str], paths: Mapping[str, str]) -> Iterator[Profile]:
    """Profile files on the local disk, at least one. `spill`: a directory for what does not fit in memory."""
    with Connection(spill, memory_limit) as connection:
        yield Profile(connection, columns, paths)


def is_among(name: str, values: Sequence[Any]) -> str:
    """A condition for a text to be one of these."""
    return f"{name} in ({', '.join(map(text, values))})"


def matches(name: str, pattern: str) -> str:
    """A condition for a text to match a pattern from its beginning, as Python's `re.match`."""
    return f"regexp_matches({name}, {text(pattern)})"
