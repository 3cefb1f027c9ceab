"""The engine: what does the work on the data, behind a protocol of four calls.

`Engine` is the protocol. `local` implements it in this process, by `duckdb`; `records` reads the CSV files that only a
careful reader understands; `sql` is what becomes of a record, in SQL that DuckDB and Spark share; `partitions` makes
finished partitions of typed records, from paths and values alone, so that it can be called wherever the data is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from lakejobs.messages import OnProgress
from lakejobs.model import Counts, Domain, Inspection
from lakejobs.quality.evaluation import Validation
from lakejobs.quality.suite import Suite


class NotPlainError(Exception):
    """A file that was taken for plain is not: it has to be read carefully."""


class QueryError(Exception):
    """SQL that cannot be run. The message names the line, counted from the first of the SQL that was given."""


class OtherDateError(Exception):
    """A daily table counts events of a day to another date, or to none."""

    def __init__(self, day: str, other: dt.date | None) -> None:
        super().__init__(f"{day} {other}")
        self.day, self.other = day, other


@dataclass(frozen=True)
class Reading:
    """How the text of a domain's files becomes values."""

    domain: Domain
    earliest_date: dt.date
    timestamp_formats: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "earliest_date": self.earliest_date.isoformat(),
            "timestamp_formats": list(self.timestamp_formats),
        }


@dataclass(frozen=True)
class CsvFile:
    """A CSV file to read."""

    path: str
    number: int
    """Tells the rows of this file apart; a later delivered file has a higher number."""
    landing_date: dt.date
    latest_date: dt.date
    """No event of this file can be later."""
    inspection: Inspection
    name: str = ""
    """What `source_file` of its rows says."""


@dataclass(frozen=True)
class FileCount:
    """What an engine found in a file."""

    dates: Mapping[str, int]
    """Records by event date, YYYY-MM-DD."""
    malformed: int


@dataclass(frozen=True)
class SilverJob:
    """What silver partitions are made of."""

    reading: Reading
    suite: Suite
    dates: Mapping[dt.date, int]
    """The event dates, in order, and how many records of the files belong to each."""
    files: Sequence[CsvFile]
    """In the order of their delivery."""
    chunk_rows: int
    """How many rows are validated at once."""


class SilverResult(Protocol):
    """Silver partitions that are made, and not yet written."""

    @property
    def validation(self) -> Validation: ...

    @property
    def counts(self) -> Mapping[dt.date, Counts]: ...

    def examples(self) -> dict[int | str, list[dict[str, Any]]]:
        """A few rows that fail each rule, by the rule's position, or by the code where reading marked them.

        Each with `key`, `values` (of the rule's columns, as they were delivered) and `source_file`.
        """

    def write(self, date: dt.date, path: str, footer: str) -> int:
        """Write a partition to a local path, `footer` as its entry `lakejobs`; returns its rows.

        May be called in several threads at once.
        """


@dataclass(frozen=True)
class GoldSource:
    """What a table's SQL reads under a name."""

    name: str
    columns: Mapping[str, str]
    """Of a domain: names and types, for when there are no rows. Empty for a gold table."""
    paths: Mapping[str, str]
    """Parquet files by date, YYYY-MM-DD; a gold table's one file by any key."""
    is_daily: bool
    """Whether each day sees its own rows; else every day sees all."""


@dataclass(frozen=True)
class GoldJob:
    """What a gold snapshot is made of."""

    statement: str
    grain: Sequence[str]
    sources: Sequence[GoldSource]
    days: Sequence[str] | None
    """The days to compute; None computes the table whole, from all that its sources have."""
    carried: tuple[str, Sequence[str]] | None
    """A snapshot, and the days of it that stay as they are."""
    generated_at: dt.datetime


class Rows(Protocol):
    """Gold tables that can be asked, each under its name."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result as Python values. Raises QueryError."""


class Engine(Protocol):
    """Paths are what the stores call their files. What fails for the disk raises LakeError."""

    def count_records(self, reading: Reading, files: Sequence[CsvFile]) -> dict[int, FileCount]:
        """Records of files, by the file's number.

        The typed records may be kept for `silver`. Raises NotPlainError where none of the counts can be had.
        """

    def silver(self, job: SilverJob, on_progress: OnProgress) -> AbstractContextManager[SilverResult]:
        """Type, correct, deduplicate and judge the records of some dates."""

    def gold(self, job: GoldJob, path: str, footer: str) -> int:
        """Write a snapshot to a local path, `footer` as its entry `lakejobs`; returns its rows. Raises QueryError."""

    def tables(self, paths: Mapping[str, str]) -> AbstractContextManager[Rows]:
        """Make gold tables readable under their names."""

    def forget(self) -> None:
        """Give back what was kept."""
