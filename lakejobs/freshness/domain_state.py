"""The state of a domain: what each of its files should be built from now, and what it was built from.

A file is fresh if the two agree. No file is opened twice, except a CSV file whose version has changed but not its
size.

A run works on the files that were staged when it began; the next run takes what arrives later. Other runs leave a token
in the domain's lock, which tells a run that they have published something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
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
from lakejobs.model import Contract, GoldFooter, Landing, Manifest, SilverFooter, digest
from lakejobs.project import broken_domains, domains
from lakejobs.quality import contracts, suite
from lakejobs.quality.contracts import Contracts
from lakejobs.storage import File, Listing, deliveries, documents
from lakejobs.storage.layout import Lake, partition_path

EMPTY = "it is empty"
"""The note on a file that has no bytes, or only blank lines. Manifests store it."""
HELD = "held: "
"""How the reason begins why a file is rejected until somebody says how to read it."""


class DomainState:
    """What is known about one domain: landings, silver partitions, and footers of the gold snapshots built from it."""

    def __init__(self, lake: Lake, domain: str) -> None:
        self.lake = lake
        self.domain = domain
        self.ignored: list[str] = []
        """What is in staging but is neither a delivery nor being written (other files, links, directories), and why."""
        self.landings: dict[dt.date, Landing] = {}
        """What is known about each bronze partition."""
        self.stale: set[dt.date] = set()
        """Landing dates with files to land or to inspect."""
        self.silver: dict[dt.date, SilverFooter] = {}
        """Footers of the intact silver partitions."""
        self.present: set[dt.date] = set()
        """Dates that have a silver file, intact or damaged."""
        self.removed: dict[dt.date, list[str]] = {}
        """Why this process removed silver partitions."""
        self.manifests: dict[dt.date, Manifest] = {}
        """Manifests that this process has written, known even if their files are lost."""
        self._stale_dates: list[dt.date] | None = None
        self._identities: dict[str, str] | None = None
        self.now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        """When (UTC) the run began, and no earlier than the store says that a file was staged."""
        self.token = ""
        """The token in the domain's lock when its state was last read or written here."""
        self._expected: dict[dt.date, str] = {}
        self._contributions: dict[dt.date, list[tuple[dt.date, int, str]]] = {}
        self._facts = Facts(lake, domain)
        suite.check_directory(domain)
        self._list_staging()
        self.rescan()

    @functools.cached_property
    def staged(self) -> dict[dt.date, list[File]]:
        """Deliveries that were in staging when the run began, by landing date."""
        found: dict[dt.date, list[File]] = {}
        for file in self._in_staging.files() if self._in_staging else ():
            if deliveries.is_delivery(file.name):
                landing = deliveries.landing_date(file.name, deliveries.modified(file, self.now))
                found.setdefault(landing, []).append(file)
        return found

    # ---------------------------------------------------------------------------------------- looking

    def _list_staging(self) -> None:
        staging = self.lake.staging
        if not staging.exists():
            raise LakeError(
                f"the staging directory {staging.root} does not exist: create it, or set another one with "
                "[lake] staging or --lake-staging"
            )
        self._in_staging = staging.listings(self.domain, 0, lambda name: True).get("")
        if self._in_staging and staging.dates_files:  # the clock of this host may be behind the store's
            newest = max(file.modified_ns for file in self._in_staging.files())
            self.now = max(self.now, deliveries.EPOCH + dt.timedelta(microseconds=newest // 1000))
        known = self._facts.staging(self._in_staging.digest) if self._in_staging else {"landings": {}, "ignored": []}
        if self._in_staging and known is None:
            files = self._in_staging.files()
            known = {
                "seen": self._in_staging.digest,
                "landings": {date.isoformat(): _seen(some) for date, some in self.staged.items()},
                "ignored": [file.name for file in files if deliveries.is_stray(file.name)],
            }
            # With a modification date to come, the landing date changes from run to run.
            now = self.now.replace(tzinfo=dt.UTC).timestamp() * 1e9
            if staging.dates_files or max(file.modified_ns for file in files) < now:
                self._facts.remember_staging(known)
        assert known is not None
        self._seen_staged = {dt.date.fromisoformat(date): seen for date, seen in known["landings"].items()}
        self.ignored += [f"{name} (not a .csv file)" for name in known["ignored"]]
        self.ignored += [f"{name} (not a regular file)" for name in staging.others(self.domain)]
        if self.ignored:
            log.warning("%s: ignored: %s", staging.location(self.domain), few(self.ignored))

    def rescan(self) -> None:
        """Read the state of bronze and silver again."""
        self.token = self.lake.store.token(self.domain)
        domain = domains()[self.domain]
        try:
            self.contracts = contracts.read(domain)
        except LakeError:  # told where the suite is loaded, and before anything lands
            self.contracts = Contracts()
        self.reading = reading_of(domain, self.contracts)
        self.made_by = MadeBy.of(self.reading)
        self.manifests = {}
        plain = dataclasses.replace(self.reading, marks=())
        self.scan_hash = digest([VERSION, domain.key, domain.event_time, sql.partition_dates(plain)])
        self._contracts_hash = digest(str(self.contracts)) if self.contracts.blocks else ""
        self.landings, self.stale = {}, set()
        bronze = self.lake.landed(self.domain)
        for date in sorted({*bronze, *self._seen_staged}):
            self._look_at_landing(date, bronze.get(date))
        self._gather()
        self.silver, self.present = {}, set()
        self._identities = None
        for date, file in self.lake.published(self.domain).items():
            self._look_at_silver(date, file)
        self._facts.forget_others(
            (date.isoformat() for date in self.landings),
            (self.lake.silver(self.domain, date) for date in self.silver),
        )
        self.save()

    def _look_at_landing(self, date: dt.date, listed: Listing | None) -> None:
        """Update what is known about a bronze partition. `listed`: its deliveries."""
        seen = f"{self.scan_hash} {self._seen_staged.get(date, '')} {listed.digest if listed else ''}"
        seen += self._contracts_hash
        known = self._facts.landing(date.isoformat())
        if known is None or known.seen != seen or not all(map(self.is_landed, known.elsewhere)):
            staged, files = self.staged.get(date, []), listed.files() if listed else []
            manifest = self.read_manifest(date)
            known = summarise(manifest, date, seen) if manifest else None
            if known is None or manifest is None or not self._describes(manifest, date, staged, files):
                # If the only delivery is still being written, there is nothing to do yet.
                if known or staged or files:
                    self.stale.add(date)
                if known is None:
                    self.landings.pop(date, None)
                    return
            else:
                self._facts.remember_landing(date.isoformat(), known)
        self.landings[date] = known

    def list_bronze(self, date: dt.date) -> Listing | None:
        """The deliveries that are in a bronze partition now; None if there are none."""
        return self.lake.store.listings(self.lake.bronze(self.domain, date), 0, deliveries.is_delivery).get("")

    def _describes(self, manifest: Manifest, date: dt.date, staged: list[File], files: list[File]) -> bool:
        """Whether a manifest covers exactly these files in bronze, and every staged file has landed as it is now.

        Reads the files whose version has changed but not their size: those of a copied lake once, others hardly ever.
        """
        described = {entry.name: entry for entry in manifest.files}
        if described.keys() != {file.name for file in files} or any(
            entry.inspection.contract != self.contract_of(name) for name, entry in described.items()
        ):
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
        """The manifest of a bronze partition; None if it is missing, damaged, or was built with other settings."""
        manifest = self.manifests.get(date)
        if manifest is None:
            content = documents.read_json(self.lake.store, self.lake.manifest(self.domain, date))
            if content is None or content.get("scan") != self.scan_hash:
                return None
            manifest = Manifest.from_json(content)
        return manifest if manifest.scan == self.scan_hash else None

    def contract_of(self, name: str) -> Contract:
        """The contract of a file in bronze."""
        return self.contracts.of(deliveries.original_name(name))

    def bronze_path(self, landing: dt.date, name: str) -> str:
        """The path of a file in bronze, relative to the domain's directory there."""
        return f"{partition_path(landing)}/{name}"

    def shown(self, landing: dt.date, name: str) -> str:
        """The path of a file in bronze, as messages show it."""
        return self.lake.location(f"{self.lake.bronze(self.domain, landing)}/{name}")

    def is_landed(self, path: str) -> bool:
        """Whether a file is in bronze. `path` is relative to the domain's directory there."""
        return self.lake.store.stat(f"{self.lake.layer('bronze', self.domain)}/{path}") is not None

    def _gather(self) -> None:
        self._expected = {}
        self._contributions = {}
        self._stale_dates = None
        for landing, facts in sorted(self.landings.items()):  # an identity must not depend on the order of landing
            for date, (records, content) in facts.dates.items():
                self._contributions.setdefault(dt.date.fromisoformat(date), []).append((landing, records, content))

    def _look_at_silver(self, date: dt.date, found: File | None) -> None:
        self._stale_dates = self._identities = None
        self.silver.pop(date, None)
        self.present.discard(date)
        if footer := self._facts.silver(self.lake.silver(self.domain, date), found, SILVER_VERSION):
            self.silver[date] = footer
        if found:
            self.present.add(date)

    def gold_footer(self, path: str, found: File | None) -> GoldFooter | None:
        """The footer of an intact gold snapshot, else None."""
        return self._facts.gold(path, found, GOLD_VERSION)

    def save(self) -> None:
        """Save what was learned."""
        self._facts.save()

    # ---------------------------------------------------------------------------------------- asking

    def stale_landings(self) -> list[dt.date]:
        """Landing dates that `Bronze` has to process."""
        return sorted(self.stale)

    def records(self, date: dt.date) -> int:
        """The number of bronze records that belong to a silver partition."""
        return sum(records for _, records, _ in self._contributions.get(date, ()))

    def landings_needed(self, dates: Iterable[dt.date]) -> list[dt.date]:
        """Bronze partitions that hold records of these silver partitions."""
        return sorted({landing for date in dates for landing, _, _ in self._contributions.get(date, ())})

    def has_manifest(self, landing: dt.date) -> bool:
        """Whether a bronze partition has a manifest that agrees with what is known about it."""
        manifest = self.read_manifest(landing)
        return manifest is not None and summarise(manifest, landing, "").dates == self.landings[landing].dates

    def expected(self, date: dt.date) -> str | None:
        """The identity of a fresh silver partition; None if no records belong to it."""
        if date not in self._contributions:
            return None
        if date not in self._expected:
            made_from = [[landing.isoformat(), content] for landing, _, content in self._contributions[date]]
            self._expected[date] = digest([self.made_by.rules_hash, made_from])
        return self._expected[date]

    def is_fresh(self, date: dt.date) -> bool:
        """Whether a silver partition was built from its current inputs; without any records, whether it is gone."""
        footer = self.silver.get(date)
        if footer is None:
            return self.expected(date) is None and date not in self.present
        return (footer.identity, footer.warnings) == (self.expected(date), self.made_by.warnings_hash)

    def stale_dates(self) -> list[dt.date]:
        """Event dates that `Silver` has to process."""
        if self._stale_dates is None:  # many tasks ask
            dates = sorted({*self._contributions, *self.present})
            self._stale_dates = [date for date in dates if not self.is_fresh(date)]
        return self._stale_dates

    @property
    def identities(self) -> dict[str, str]:
        """The identities of the silver partitions, by date."""
        if self._identities is None:
            self._identities = {date.isoformat(): silver.identity for date, silver in sorted(self.silver.items())}
        return self._identities

    def _is_as_known(self, landing: dt.date, name: str) -> bool:
        """Whether a known file is still in bronze, to be read as it was. Only on a stale landing date it may not be."""
        if landing not in self.stale:
            return True
        manifest = self.read_manifest(landing)
        known = (
            next((one.inspection.contract for one in manifest.files if one.name == name), None) if manifest else None
        )
        return known in (None, self.contract_of(name)) and self.is_landed(self.bronze_path(landing, name))

    @property
    def rejected(self) -> list[str]:
        """Messages about files that are rejected or held back, for as long as they are in bronze."""
        return [
            self.shown(date, name) + _rejected(reason)
            for date, landing in sorted(self.landings.items())
            for name, reason in landing.rejected.items()
            if self._is_as_known(date, name)
        ]

    @property
    def warnings(self) -> list[str]:
        """Messages about what needs attention although the lake is fresh, such as rejected files."""
        lacking: dict[str, list[str]] = {}
        for date, landing in sorted(self.landings.items()):
            for name, columns in landing.missing.items():
                for column in columns if self._is_as_known(date, name) else ():
                    lacking.setdefault(column, []).append(self.bronze_path(date, name))
        said = [
            f"{self.shown(date, name)} is empty"
            for date, landing in sorted(self.landings.items())
            for name, notes in landing.notes.items()
            if EMPTY in notes and self._is_as_known(date, name)
        ]
        for column, why in needed_columns(self.reading.domain).items() if lacking else ():
            if files := lacking.get(column):
                without = (
                    f"{files[-1]} has"
                    if len(files) == 1
                    else f"{counted(len(files), 'file')}, including {files[-1]}, have"
                )
                said.append(f"{self.domain}: {without} no column {column}, {why}")
        # All domains share the staging directory; only the first one reports on it.
        if self.domain == next(iter(domains())) and self._strays:
            said.append(f"{self.lake.staging.root}: ignored, because no domain has these names: {few(self._strays)}")
        return self.rejected + said

    @functools.cached_property
    def _strays(self) -> list[str]:
        """What is in the staging directory and belongs to no domain, such as a misspelt one."""
        found = [file.name for file in self.lake.staging.files("")] + self.lake.staging.others("")
        known = {*domains(), *broken_domains()}
        return [name for name in found if name not in known and not name.startswith((".", "_"))]

    # ---------------------------------------------------------------------------------------- publishing

    @contextlib.contextmanager
    def locked(self) -> Iterator[DomainState]:
        """Lock the domain for writing, and read what other runs have published."""
        with self.lake.lock(self.domain) as lease:
            if lease.token != self.token:
                self.rescan()
            try:
                yield self
            finally:
                self.token = lease.renew_token()
                self.save()

    def landed(self, dates: Iterable[dt.date]) -> None:
        """Update the state after bronze partitions were written."""
        for date in dates:
            self.stale.discard(date)
            self._seen_staged[date] = _seen(self.staged.get(date, []))
            self._look_at_landing(date, self.list_bronze(date))
        self._gather()

    def published(self, date: dt.date) -> None:
        """Update the state after a silver partition was written or removed."""
        self._look_at_silver(date, self.lake.store.stat(self.lake.silver(self.domain, date)))


def _rejected(reason: str) -> str:
    if reason.startswith(HELD):
        return f" is held back: {reason.removeprefix(HELD)}, or delete it from bronze and staging"
    return f" is rejected: {reason}. Delete it from bronze and staging once this is resolved"


def _seen(staged: list[File]) -> str:
    """A hash of the files that are staged for a landing date; '' for none."""
    return digest([(file.name, file.version) for file in staged]) if staged else ""


def summarise(manifest: Manifest, landing: dt.date, seen: str) -> Landing:
    """Summarise a bronze partition from its manifest."""
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
