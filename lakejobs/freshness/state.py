"""The state of a domain: what every file of it should be made from now, and what it was made from.

A file is fresh when both agree. Nothing here opens a CSV, but for one that may have changed without a trace, and a
file that was seen before is not opened either.

A run works on the files that were staged when it began; what arrives later is the next run's. What other runs publish
meanwhile is noticed by the token that they leave in the domain's lock.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from lakejobs.engine import sql
from lakejobs.engine.records import content_hash
from lakejobs.freshness.facts import VERSION, Facts
from lakejobs.freshness.made_by import (
    GOLD_VERSION,
    SILVER_VERSION,
    MadeBy,
    needed_columns,
    reading_of,
)
from lakejobs.messages import LakeError, counted, few, log
from lakejobs.model import GoldFooter, Landing, Manifest, SilverFooter, digest
from lakejobs.project import broken_domains, domains
from lakejobs.storage import File, deliveries, documents
from lakejobs.storage.layout import Lake, partition_path

EMPTY = "it is empty"
"""The note of a file without a byte, or of blank lines alone."""


class DomainState:
    """What is known of one domain: its landings, its silver partitions, and footers of gold snapshots made from it."""

    def __init__(self, lake: Lake, domain: str) -> None:
        self.lake = lake
        self.domain = domain
        self.staged: dict[dt.date, list[File]] = {}
        """Deliveries that were in staging when the run began, by landing date."""
        self.ignored: list[str] = []
        """What is in staging and is no delivery, nor being written: other files, links, directories; and why."""
        self.landings: dict[dt.date, Landing] = {}
        """What is known of each bronze partition."""
        self.stale: set[dt.date] = set()
        """Landing dates with something to land or to look at."""
        self.silver: dict[dt.date, SilverFooter] = {}
        """Footers of the silver partitions, those that are whole."""
        self.present: set[dt.date] = set()
        """Dates that have a silver file, whole or damaged."""
        self.manifests: dict[dt.date, Manifest] = {}
        """What this process has written of manifests: they stay known where the files get lost."""
        self.now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        """When (UTC) the run began."""
        self.token = ""
        """What the last run to write to the domain left in its lock, as far as is known here."""
        self._expected: dict[dt.date, str] = {}
        self._contributions: dict[dt.date, list[tuple[dt.date, int, str]]] = {}
        self._facts = Facts(lake, domain)
        self._list_staging()
        self.rescan()

    # ---------------------------------------------------------------------------------------- looking

    def _list_staging(self) -> None:
        staging = self.lake.staging
        if not staging.exists():
            raise LakeError(
                f"the staging directory {staging.root} does not exist: create it, or name another one by "
                "[lake] staging or --lake-staging"
            )
        for file in staging.files(self.domain):
            if deliveries.is_delivery(file.name):
                landing = deliveries.landing_date(file.name, deliveries.modified(file, self.now))
                self.staged.setdefault(landing, []).append(file)
            elif not file.name.startswith((".", "_")) and not file.name.endswith(deliveries.BEING_WRITTEN):
                self.ignored.append(f"{file.name} (no .csv)")
        self.ignored += [f"{name} (no ordinary file)" for name in staging.others(self.domain)]
        if self.ignored:
            log.warning("%s: left alone: %s", staging.location(self.domain), few(self.ignored))

    def rescan(self) -> None:
        """Look at bronze and silver again."""
        self.token = self.lake.store.token(self.domain)
        self.reading = reading_of(domains()[self.domain])
        self.made_by = MadeBy.of(self.reading)
        self.manifests = {}
        domain = self.reading.domain
        self.scan_hash = digest([VERSION, domain.key, domain.event_time, sql.partition_dates(self.reading)])
        self.landings, self.stale = {}, set()
        bronze = self.lake.partitions("bronze", self.domain)
        for date in sorted({*bronze, *self.staged}):
            self._look_at_landing(date, bronze.get(date, []))
        self._gather()
        self.silver, self.present = {}, set()
        name = f"{self.domain}.parquet"
        for date, files in sorted(self.lake.partitions("silver", self.domain).items()):
            self._look_at_silver(date, next((file for file in files if file.name == name), None))
        self._facts.forget_others(
            (date.isoformat() for date in self.landings),
            (self.lake.silver(self.domain, date) for date in self.silver),
        )
        self.save()

    def _look_at_landing(self, date: dt.date, listed: list[File]) -> None:
        """Learn of a bronze partition, which has the files `listed`."""
        files = [file for file in listed if deliveries.is_delivery(file.name)]
        staged = self.staged.get(date, [])
        seen = digest([self.scan_hash, [[(f.name, f.version) for f in some] for some in (staged, files)]])
        known = self._facts.landing(date.isoformat())
        if known is None or known.seen != seen or not all(map(self.is_landed, known.elsewhere)):
            manifest = self.read_manifest(date)
            known = summarise(manifest, date, seen) if manifest else None
            if known is None or manifest is None or not self._describes(manifest, date, staged, files):
                # Where the only delivery is still being written there is nothing yet.
                if known or staged or files:
                    self.stale.add(date)
                if known is None:
                    self.landings.pop(date, None)
                    return
            else:
                self._facts.remember_landing(date.isoformat(), known)
        self.landings[date] = known

    def list_bronze(self, date: dt.date) -> list[File]:
        """Deliveries in a bronze partition as it is now."""
        found = self.lake.store.files(self.lake.bronze(self.domain, date))
        return [file for file in found if deliveries.is_delivery(file.name)]

    def _describes(self, manifest: Manifest, date: dt.date, staged: list[File], files: list[File]) -> bool:
        """Whether a manifest is of just these files in bronze, and every staged one has landed as it is now.

        Files that may have been written to since are read: a copied lake's once, others hardly ever.
        """
        described = {entry.name: entry for entry in manifest.files}
        if described.keys() != {file.name for file in files}:
            return False
        for file in staged:
            known = manifest.staged.get(file.name)
            if known is None or known.version != file.version:
                return False
        if not all(self.is_landed(known.landed_as) for known in manifest.staged.values()):
            return False
        for file in files:
            entry = described[file.name]
            if file.version != entry.version:
                if file.size != entry.bytes:
                    return False
                with self.lake.store.reading(f"{self.lake.bronze(self.domain, date)}/{file.name}") as handle:
                    if content_hash(handle) != entry.inspection.sha256:
                        return False
        return True

    def read_manifest(self, date: dt.date) -> Manifest | None:
        """The manifest of a bronze partition; None where it is missing, damaged, or of other settings."""
        manifest = self.manifests.get(date)
        if manifest is None:
            content = documents.read_json(self.lake.store, self.lake.manifest(self.domain, date))
            if content is None or content.get("scan") != self.scan_hash:
                return None
            manifest = Manifest.from_json(content)
        return manifest if manifest.scan == self.scan_hash else None

    def bronze_path(self, landing: dt.date, name: str) -> str:
        """A file in bronze, from the domain's directory there."""
        return f"{partition_path(landing)}/{name}"

    def shown(self, landing: dt.date, name: str) -> str:
        """A file in bronze as people call it."""
        return self.lake.location(f"{self.lake.bronze(self.domain, landing)}/{name}")

    def is_landed(self, path: str) -> bool:
        """Whether a file is in bronze, from the domain's directory there."""
        return self.lake.store.stat(f"{self.lake.layer('bronze', self.domain)}/{path}") is not None

    def _gather(self) -> None:
        self._expected = {}
        self._contributions = {}
        for landing, facts in sorted(self.landings.items()):  # an identity must not depend on the order of landing
            for date, (records, content) in facts.dates.items():
                self._contributions.setdefault(dt.date.fromisoformat(date), []).append((landing, records, content))

    def _look_at_silver(self, date: dt.date, found: File | None) -> None:
        self.silver.pop(date, None)
        self.present.discard(date)
        if footer := self._facts.silver(self.lake.silver(self.domain, date), found, SILVER_VERSION):
            self.silver[date] = footer
        if found:
            self.present.add(date)

    def gold_footer(self, path: str, found: File | None) -> GoldFooter | None:
        """The footer of a gold snapshot that is whole; None of any other."""
        return self._facts.gold(path, found, GOLD_VERSION)

    def save(self) -> None:
        """Keep what was learned."""
        self._facts.save()

    # ---------------------------------------------------------------------------------------- asking

    def stale_landings(self) -> list[dt.date]:
        """Landing dates for which `Bronze` has something to do."""
        return sorted(self.stale)

    def records(self, date: dt.date) -> int:
        """How many bronze records belong to a silver partition."""
        return sum(records for _, records, _ in self._contributions.get(date, ()))

    def landings_needed(self, dates: Iterable[dt.date]) -> list[dt.date]:
        """Bronze partitions that hold records of some silver partitions."""
        return sorted({landing for date in dates for landing, _, _ in self._contributions.get(date, ())})

    def has_manifest(self, landing: dt.date) -> bool:
        """Whether the manifest of a bronze partition is there and says what is known of it."""
        manifest = self.read_manifest(landing)
        return manifest is not None and summarise(manifest, landing, "").dates == self.landings[landing].dates

    def expected(self, date: dt.date) -> str | None:
        """The identity that a silver partition has when it is fresh; None where no records belong to it."""
        if date not in self._contributions:
            return None
        if date not in self._expected:
            made_from = [[landing.isoformat(), content] for landing, _, content in self._contributions[date]]
            self._expected[date] = digest([self.made_by.rules_hash, made_from])
        return self._expected[date]

    def is_fresh(self, date: dt.date) -> bool:
        """Whether a silver partition is what its inputs make it now; without records, whether it is gone."""
        footer = self.silver.get(date)
        if footer is None:
            return self.expected(date) is None and date not in self.present
        return (footer.identity, footer.warnings) == (self.expected(date), self.made_by.warnings_hash)

    def stale_dates(self) -> list[dt.date]:
        """Event dates for which `Silver` has something to do."""
        return [date for date in sorted({*self._contributions, *self.present}) if not self.is_fresh(date)]

    def _is_still_there(self, landing: dt.date, name: str) -> bool:
        """Whether a file that is known has not been deleted from bronze; that would make its landing date stale."""
        return landing not in self.stale or self.is_landed(self.bronze_path(landing, name))

    @property
    def rejected(self) -> list[str]:
        """Files in bronze that were not taken in, and why; one for as long as it is there."""
        return [
            f"{self.shown(date, name)} is rejected: {reason}. Delete it from bronze and staging once that is settled"
            for date, landing in sorted(self.landings.items())
            for name, reason in landing.rejected.items()
            if self._is_still_there(date, name)
        ]

    @property
    def warnings(self) -> list[str]:
        """What a person has to look at, though the lake is fresh: rejected files, and columns that deliveries lack."""
        lacking: dict[str, list[str]] = {}
        for date, landing in sorted(self.landings.items()):
            for name, columns in landing.missing.items():
                for column in columns if self._is_still_there(date, name) else ():
                    lacking.setdefault(column, []).append(self.bronze_path(date, name))
        said = [
            f"{self.shown(date, name)} is empty"
            for date, landing in sorted(self.landings.items())
            for name, notes in landing.notes.items()
            if EMPTY in notes and self._is_still_there(date, name)
        ]
        for column, why in needed_columns(self.reading.domain).items() if lacking else ():
            if files := lacking.get(column):
                without = (
                    f"{files[-1]} has"
                    if len(files) == 1
                    else f"{counted(len(files), 'file')}, {files[-1]} among them, have"
                )
                said.append(f"{self.domain}: {without} no column {column}, {why}")
        # The staging directory is all domains'; one of them tells of it.
        if self.domain == next(iter(domains())) and (strays := stray_names(self.lake)):
            said.append(f"{self.lake.staging.root}: left alone, for no domain has these names: {few(strays)}")
        return self.rejected + said

    # ---------------------------------------------------------------------------------------- publishing

    @contextlib.contextmanager
    def locked(self) -> Iterator[DomainState]:
        """Write to the domain: no other run does meanwhile, and what others published before is known."""
        with self.lake.lock(self.domain) as lease:
            if lease.token != self.token:
                self.rescan()
            try:
                yield self
            finally:
                self.token = lease.renew_token()
                self.save()

    def landed(self, dates: Iterable[dt.date]) -> None:
        """Bronze partitions have been written: look at them again."""
        for date in dates:
            self.stale.discard(date)
            self._look_at_landing(date, self.list_bronze(date))
        self._gather()

    def published(self, date: dt.date) -> None:
        """A silver partition has been written or removed: look at it again."""
        self._look_at_silver(date, self.lake.store.stat(self.lake.silver(self.domain, date)))


def summarise(manifest: Manifest, landing: dt.date, seen: str) -> Landing:
    """What a manifest says of its partition as a whole."""
    files, here = manifest.files, partition_path(landing)
    dates: dict[str, list[Any]] = {}
    for date in sorted({date for file in files for date in file.dates}):
        holding = [file for file in files if date in file.dates]
        dates[date] = [sum(file.dates[date] for file in holding), digest([file.identity for file in holding])]
    return Landing(
        seen=seen,
        dates=dates,
        files=len(files),
        bytes=sum(file.bytes for file in files),
        records=sum(file.records for file in files),
        malformed=sum(file.malformed for file in files),
        elsewhere=sorted(
            known.landed_as for known in manifest.staged.values() if known.landed_as.rpartition("/")[0] != here
        ),
        rejected={file.name: file.inspection.rejected for file in files if file.inspection.rejected},
        missing={file.name: file.missing for file in files if file.missing and file.records},
        notes={file.name: file.notes for file in files if file.notes},
    )


def stray_names(lake: Lake) -> list[str]:
    """What is in the staging directory beside the domains' own: a misspelt domain, or a file of none."""
    found = [file.name for file in lake.staging.files("")] + lake.staging.others("")
    known = {*domains(), *broken_domains()}
    return [name for name in found if name not in known and not name.startswith((".", "_"))]
