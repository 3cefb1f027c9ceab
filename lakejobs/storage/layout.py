"""The lake on disk: where every file is.

    local_output/<domain>/<prefix>_YYYYMMDD_HHMMSS.csv                    staging, written by others or by Staging
    datalake/bronze/<domain>/year=YYYY/month=MM/day=DD/*.csv              by landing date, byte for byte; see deliveries
    datalake/bronze/<domain>/year=YYYY/month=MM/day=DD/_manifest.json     what those files hold (a cache)
    datalake/silver/<domain>/year=YYYY/month=MM/day=DD/<domain>.parquet   by event date (UTC), one file a partition
    datalake/gold/<table>/<table>_YYYYMMDD_HHMMSS_ffffff.parquet          snapshots; the newest sorts last
    datalake/quality/validations/<domain>/*.json                          Great Expectations results
    datalake/quality/validations/<domain>/_index.json                     their entries in the index (a cache)
    datalake/quality/data_docs/                                           the Data Docs site
    datalake/quality/runs/month=YYYY-MM/*.parquet                         what each run did, task by task
    datalake/quality/restatements/<table>/*.parquet                       cells of closed days that changed, for good
    datalake/quality/restatements/_brief.json                             the last of them in brief (a cache)
    datalake/quality/report.html                                          the lake report
    datalake/quality/tables/<table>.html                                  the report on each gold table
    datalake/quality/tables/_origins.json                                 where their columns come from (a cache)
    datalake/lake.duckdb                                                  views of silver and gold, for SQL tools
    datalake/_views.json                                                  what these views were made from (a cache)
    datalake/_facts_<domain>.json                                         what is known about each file (a cache)
    datalake/_lock_<domain>, _lock_data_docs, _lock_report, _lock_views   locks, held while a run writes

Names that begin with `_` or `.` are bookkeeping and never end in `.parquet` or `.csv`, so a reader's glob matches data
only. A file appears under its final name whole or not at all: it is written next to it as `_tmp-…`, synced to the disk,
then renamed. Parquet files have their lineage and checksum in the footer; caches have a checksum too, and are rebuilt
from the data when they are missing or damaged.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from lakejobs.config import lake as settings
from lakejobs.storage import File, Lease, Listing, Store
from lakejobs.storage.deliveries import is_delivery
from lakejobs.storage.local import LocalStore, absolute

Kind = TypeVar("Kind")

PARTITION_DEPTH = 3
PARTITION = re.compile(r"year=(\d{4})/month=(\d\d)/day=(\d\d)")
SNAPSHOT = r"_(\d{8}_\d{6}_\d{6})\.parquet"
STAMP = "%Y%m%d_%H%M%S_%f"
"""The UTC time in a snapshot's name."""
SILVER_GLOB = "silver/{domain}/year=*/month=*/day=*/{domain}.parquet"
SNAPSHOT_GLOB = "_" + "_".join("[0-9]" * digits for digits in (8, 6, 6)) + ".parquet"


@dataclass(frozen=True)
class Lake:
    """A lake: its two stores and the paths in them. Paths are relative to the root of their store."""

    store: Store
    staging: Store
    lock_timeout: float
    """Seconds."""

    def staged(self, prefix: str, domain: str, batch: dt.datetime) -> str:
        """The path of a generated batch in staging."""
        return f"{domain}/{prefix}_{batch:%Y%m%d_%H%M%S}.csv"

    def layer(self, layer: str, name: str) -> str:
        """Directory of a domain in bronze or silver, or of a table in gold."""
        return f"{layer}/{name}"

    def bronze(self, domain: str, date: dt.date) -> str:
        return f"bronze/{domain}/{partition_path(date)}"

    def manifest(self, domain: str, date: dt.date) -> str:
        return f"{self.bronze(domain, date)}/_manifest.json"

    def silver(self, domain: str, date: dt.date) -> str:
        return f"silver/{domain}/{partition_path(date)}/{domain}.parquet"

    def gold(self, table: str, snapshot: str) -> str:
        return f"gold/{table}/{snapshot}"

    def validations(self, domain: str) -> str:
        return f"quality/validations/{domain}"

    def run_log(self, began: dt.datetime, run: str, process: int) -> str:
        """The ledger of one process of a run."""
        return f"quality/runs/month={began:%Y-%m}/{began.strftime(STAMP)}_{run}_{process}.parquet"

    def run_logs(self) -> list[str]:
        """The directories of the ledger, the latest last."""
        found = self.store.listings("quality/runs", 1, lambda name: name.endswith(".parquet"))
        return [f"quality/runs/{month}" for month in sorted(found)]

    def restatements(self, table: str) -> str:
        return f"quality/restatements/{table}"

    @property
    def restated_in_brief(self) -> str:
        return "quality/restatements/_brief.json"

    @property
    def data_docs(self) -> str:
        return "quality/data_docs"

    @property
    def report(self) -> str:
        return "quality/report.html"

    @property
    def table_pages(self) -> str:
        return "quality/tables"

    def table_page(self, table: str) -> str:
        return f"{self.table_pages}/{table}.html"

    @property
    def origins(self) -> str:
        return f"{self.table_pages}/_origins.json"

    @property
    def views(self) -> str | None:
        """The file of views; None in an object store, which the tools that open it could not read."""
        return None if "://" in self.store.root else "lake.duckdb"

    @property
    def views_made_from(self) -> str:
        return "_views.json"

    def facts(self, domain: str) -> str:
        return f"_facts_{domain}.json"

    def location(self, path: str) -> str:
        """The location of a file of the lake, as people know it."""
        return self.store.location(path)

    def lock(self, name: str) -> AbstractContextManager[Lease]:
        """Hold the lock for writing to a domain, or to whatever else has this name."""
        return self.store.lock(name, self.lock_timeout)

    def scratch(self, name: str) -> AbstractContextManager[str]:
        """A directory for what does not fit in memory."""
        return self.store.scratch(name)

    def landed(self, domain: str) -> dict[dt.date, Listing]:
        """The deliveries in all of a domain's bronze partitions, by date."""
        return by_date(self.store.listings(self.layer("bronze", domain), PARTITION_DEPTH, is_delivery))

    def snapshots(self, table: str) -> list[File]:
        """The snapshots of a gold table, the newest last."""
        found = self.store.files(self.layer("gold", table))
        return [file for file in found if re.fullmatch(re.escape(table) + SNAPSHOT, file.name)]

    def published(self, domain: str) -> dict[dt.date, File]:
        """The files of all of a domain's silver partitions, by date."""
        return by_date(self.store.named(self.layer("silver", domain), PARTITION_DEPTH, f"{domain}.parquet"))


def current() -> Lake:
    """The lake that the settings point to."""
    section = settings()
    return Lake(
        open_store(section.root, section.lock_lease),
        open_store(section.staging, section.lock_lease),
        section.lock_timeout,
    )


def open_store(root: str, lease: float) -> Store:
    """The store at a path on disk, or at the URL of an object store. `lease`: see `ObjectStore`."""
    root = root.rstrip("/") or "/"
    if "://" not in root:
        return LocalStore(root)
    from lakejobs.storage.objects import ObjectStore

    return ObjectStore(root, lease)


def reachable(root: str) -> str:
    """The root of a store, for other processes, whose working directory is another."""
    return root if "://" in root else absolute(root)


def by_date(found: Mapping[str, Kind]) -> dict[dt.date, Kind]:
    """What was found in partitions, by their dates. Ignores what was found elsewhere."""
    dated = {}
    for directory in sorted(found):
        if place := PARTITION.fullmatch(directory):
            try:
                date = dt.date(int(place[1]), int(place[2]), int(place[3]))
            except ValueError:
                continue
            dated[date] = found[directory]
    return dated


def partition_path(date: dt.date) -> str:
    """A partition's directory, relative to its domain's."""
    return f"year={date.year:04d}/month={date.month:02d}/day={date.day:02d}"


def partition_date(path: str) -> dt.date:
    """The date of a file's partition. `path` is relative to its domain's directory."""
    return dt.date(*(int(part.partition("=")[2]) for part in path.split("/")[:3]))


def snapshot_name(table: str, last: str | None, now: dt.datetime) -> str:
    """A name that sorts after the last snapshot's, even if the clock was set back."""
    if last and (found := re.search(f"{SNAPSHOT}$", last)):
        previous = dt.datetime.strptime(found[1], STAMP).replace(tzinfo=dt.UTC)
        now = max(now, previous + dt.timedelta(microseconds=1))
    return f"{table}_{now.strftime(STAMP)}.parquet"
