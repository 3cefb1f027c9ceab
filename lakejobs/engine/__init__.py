"""The engine: does the work on the data, behind a small protocol.

`Engine` is the protocol. `local` implements it in this process with `duckdb`, `spark` in the executors of a cluster;
`records` is the fallback reader, for CSV files that the engine cannot read; `sql` turns delivered text into rows, in
SQL that DuckDB and Spark share; `partitions` turns typed records into finished partitions, with paths and values alone,
so that it can run wherever the data is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from lakejobs.messages import OnProgress
from lakejobs.model import Counts, Domain, Inspection, SilverFooter
from lakejobs.quality.evaluation import Validation
from lakejobs.quality.suite import Suite


class NotPlainError(Exception):
    """A file that was taken for plain is not: the fallback reader has to read it."""


class QueryError(Exception):
    """SQL that cannot be run. The message names the line, counted from the first line of the given SQL."""


class OtherDateError(Exception):
    """A daily table assigns events of a day to another date, or to none."""

    def __init__(self, day: str, other: dt.date | None) -> None:
        super().__init__(day, other)
        self.day, self.other = day, other


class GrainError(Exception):
    """The computed rows of a table do not have its grain. The message says how."""


@dataclass(frozen=True)
class Reading:
    """How to turn the text of a domain's files into values."""

    domain: Domain
    earliest_date: dt.date
    timestamp_formats: Sequence[str] = ()
    marks: Sequence[str] = ()
    """The decimal and thousands marks that contracts name, see `Contract.marks`. They decide about rows of files with
    such a contract only, so they are part of these files' content, and of no other hash."""

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
    """Identifies the rows of this file; a file delivered later has a higher number."""
    landing_date: dt.date
    latest_date: dt.date
    """A later event in this file is out of range."""
    inspection: Inspection
    name: str = ""
    """The `source_file` of its rows."""
    size: int = field(default=0, compare=False)
    """Bytes."""
    is_line_by_line: bool = field(default=False, compare=False)
    """Whether each of its lines is known to be one record, so that it can be cut after any line."""


@dataclass(frozen=True)
class FileCount:
    """What an engine counted in a file."""

    dates: Mapping[str, int]
    """Records by event date, YYYY-MM-DD."""
    malformed: int


@dataclass(frozen=True)
class Stored:
    """A silver partition on disk that lacks only the records of some files, which are merged into it."""

    path: str
    version: str
    """The file's version when its checksum was verified."""
    counts: Counts
    verdicts: Mapping[str, Sequence[int]]
    """See `Validation.verdicts`."""
    files: Mapping[str, int]
    """The files it was made from: their numbers by `source_file`."""


@dataclass(frozen=True)
class SilverJob:
    """What silver partitions are built from."""

    reading: Reading
    suite: Suite
    dates: Mapping[dt.date, int]
    """The event dates, in order, with the number of records that belong to each."""
    files: Sequence[CsvFile]
    """The files to read, in order of delivery."""
    chunk_rows: int
    """Rows validated at once."""
    stored: Mapping[dt.date, Stored] = field(default_factory=dict)
    """The partitions into which the records of other files are merged. All others are made from files alone."""
    footers: Mapping[dt.date, SilverFooter] = field(default_factory=dict)
    """What the footer of each partition says, without counts."""
    lineages: Mapping[dt.date, Mapping[str, Any]] = field(default_factory=dict)
    """The lineage in the footer of each partition."""

    @property
    def new_records(self) -> int:
        """The number of records to read."""
        return sum(self.dates.values()) - sum(stored.counts.records for stored in self.stored.values())


class SilverResult(Protocol):
    """Silver partitions that are computed but not written yet."""

    @property
    def validation(self) -> Validation: ...

    @property
    def counts(self) -> Mapping[dt.date, Counts]: ...

    def examples(self) -> dict[int | str, list[dict[str, Any]]]:
        """A few failing rows of each rule, by the rule's position, or by code for those marked while reading.

        Call it while the job's stored partitions are still in place.

        Each has `key`, `values` (of the rule's columns, as delivered) and `source_file`.
        """

    def write(self, date: dt.date, path: str) -> int:
        """Write a partition to a local path, with its footer, whose checksum is still missing; returns the number of
        rows.

        Can be called from several threads at once, for each date once.
        """


@dataclass(frozen=True)
class GoldSource:
    """What a table's SQL reads under a name."""

    name: str
    columns: Mapping[str, str]
    """A domain's column names and types, for when it has no rows. Empty for a gold table."""
    paths: Mapping[str, str]
    """Parquet files by date, YYYY-MM-DD; for a gold table, its one file under any key."""
    is_daily: bool
    """Whether each day reads its own rows only; otherwise each day reads all rows."""


@dataclass(frozen=True)
class GoldJob:
    """What a gold snapshot is built from."""

    statement: str
    grain: Sequence[str]
    sources: Sequence[GoldSource]
    days: Sequence[str] | None
    """The days to compute; None computes the whole table from all rows of its sources."""
    carried: Sequence[tuple[str, Sequence[str]]]
    """Snapshots, and for each its days that are carried over."""
    generated_at: dt.datetime


class Rows(Protocol):
    """Gold tables that can be queried by name."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result as Python values. Raises QueryError."""


class Engine(Protocol):
    """Files to read are given by their paths in the store, files to write by paths on the local disk.

    Disk errors raise LakeError.
    """

    @property
    def name(self) -> str:
        """Its name and version, because versions compute differently. Cheap."""

    def count_records(self, reading: Reading, files: Sequence[CsvFile]) -> dict[int, FileCount]:
        """Count the records of files, by file number.

        May keep the typed records for `silver`. Raises NotPlainError if a file is not plain; then no count is known.
        """

    def silver(self, job: SilverJob, on_progress: OnProgress) -> AbstractContextManager[SilverResult]:
        """Type, correct, deduplicate and validate the records of some dates."""

    def gold(self, job: GoldJob, path: str, footer: str) -> int:
        """Write a snapshot to a local path, with `footer` as its `lakejobs` entry; returns the number of rows.

        Raises QueryError, OtherDateError and GrainError.
        """

    def tables(self, paths: Mapping[str, str]) -> AbstractContextManager[Rows]:
        """Make gold tables readable by name."""

    def forget(self) -> None:
        """Release the records that were kept."""
