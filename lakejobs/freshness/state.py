"""Lineage: what every file of the lake should be made from now, and what it was made from.

A file is fresh when both agree. Nothing here opens a CSV, and a file that was seen before is not opened either: what
was learned of it is kept in `_facts_<domain>.json` together with its size, times and inode, and holds until one of
those changes. That file is a cache; without it everything is read, verified and learned anew.

A run of Luigi's worker works on the files that were staged when it began; what arrives later is the next run's. What
other runs publish meanwhile is noticed by the token they leave in the domain's lock file.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from lakejobs import lake as storage
from lakejobs import quality, transform
from lakejobs.console import LakeError, counted, few, log
from lakejobs.lake import File, Lake
from lakejobs.model import Domain
from lakejobs.project import domains
from lakejobs.records import content_hash

VERSION = 3
"""Of the caches. Another version's caches are made anew."""
EMPTY = "it is empty"
"""The note of a file without a byte, or of blank lines alone."""
SILVER_VERSION = 2
GOLD_VERSION = 2
"""Raise one when Python code gives other rows of the same input; SQL, rules and settings have hashes of their own. A
test holds a fingerprint of the output against them."""


def digest(content: Any) -> str:
    """A short hash of JSON content, for telling whether it is the same."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:32]


class DomainState:
    """What is known of one domain: its landings, its silver partitions and its gold snapshots."""

    def __init__(self, lake: Lake, domain: str) -> None:
        self.lake = lake
        self.domain = domain
        self.staged: dict[dt.date, list[File]] = {}
        """Deliveries that were in staging when the run began, by landing date."""
        self.passed_by: list[str] = []
        """What is in staging and is no delivery, nor being written: other files, links, directories; and why."""
        self.landings: dict[dt.date, dict[str, Any]] = {}
        """Facts of each bronze partition: see `Bronze`'s manifest; without what concerns single files."""
        self.stale: set[dt.date] = set()
        """Landing dates with something to land or to look at."""
        self.silver: dict[dt.date, dict[str, Any]] = {}
        """Footers of the silver partitions, those that are whole."""
        self.present: set[dt.date] = set()
        """Dates that have a silver file, whole or damaged."""
        self.manifests: dict[dt.date, dict[str, Any]] = {}
        """What this process has written of manifests: they stay known where the files get lost."""
        self.now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        """When (UTC) the run began."""
        self.generation = b""
        self._expected: dict[dt.date, str] = {}
        self._contributions: dict[dt.date, list[tuple[dt.date, int, str]]] = {}
        self._facts = self._load_facts()
        self._changed = False
        self._list_staging()
        self.rescan()

    # ---------------------------------------------------------------------------------------- looking

    def _load_facts(self) -> dict[str, Any]:
        facts = storage.read_json(self.lake.facts(self.domain))
        if not facts or facts.get("version") != VERSION:
            facts = {"version": VERSION, "landings": {}, "parquet": {}}
        return facts

    def _list_staging(self) -> None:
        if not storage.is_directory(self.lake.staging):
            raise LakeError(
                f"the staging directory {self.lake.staging} does not exist: create it, or name another one by "
                "[lake] staging or --lake-staging"
            )
        for file in storage.files(self.lake.staging_directory(self.domain)):
            if storage.is_data(file.name):
                self.staged.setdefault(storage.landing_date(file, self.now), []).append(file)
            elif not file.name.startswith((".", "_")) and not file.name.endswith(storage.BEING_WRITTEN):
                self.passed_by.append(f"{file.name} (no .csv)")
        directory = self.lake.staging_directory(self.domain)
        self.passed_by += [f"{name} (no ordinary file)" for name in storage.odd_entries(directory)]
        if self.passed_by:
            log.warning("%s: left alone: %s", directory, few(self.passed_by))

    def rescan(self) -> None:
        """Look at bronze and silver again."""
        self.generation = generation(self.lake, self.domain)
        domain = domains()[self.domain]
        self.made_by = MadeBy.of(domain)
        self.manifests = {}
        self.scan_hash = digest([VERSION, domain.key, domain.event_time, transform.partition_dates(domain)])
        bronze = self.lake.layer("bronze", self.domain)
        self.landings, self.stale = {}, set()
        for date in sorted({*storage.partitions(bronze), *self.staged}):
            self._look_at_landing(date)
        self._gather()
        self.silver, self.present = {}, set()
        for date in storage.partitions(self.lake.layer("silver", self.domain)):
            self._look_at_silver(date)
        self._forget_the_gone()
        self.save()

    def _look_at_landing(self, date: dt.date) -> None:
        listing = self.landing_listing(date)
        seen = digest([self.scan_hash, listing])
        known = self._facts["landings"].get(date.isoformat())
        if known is None or known["seen"] != seen or not all(map(self.is_landed, known["elsewhere"])):
            manifest = self.read_manifest(date)
            known = {**summarise(manifest, date), "seen": seen} if manifest else None
            if manifest is None or not covers(manifest, listing) or not self._holds(date, manifest):
                # Where the only delivery is still being written there is nothing yet.
                if known or listing["staged"] or listing["files"]:
                    self.stale.add(date)
                if known is None:
                    self.landings.pop(date, None)
                    return
            else:
                self._facts["landings"][date.isoformat()] = known
                self._changed = True
        self.landings[date] = known

    def landing_listing(self, date: dt.date) -> dict[str, list[list[Any]]]:
        """What is there of a landing date, in staging and in bronze: names, and what tells whether they were written
        to."""
        found = storage.files(self.lake.bronze(self.domain, date))
        return {
            "staged": [[f.name, *f.signature] for f in self.staged.get(date, ())],
            "files": [[f.name, *f.signature] for f in found if storage.is_data(f.name)],
        }

    def _holds(self, date: dt.date, manifest: dict[str, Any]) -> bool:
        """Whether the files of a bronze partition hold what the manifest says, and what it says has landed elsewhere is
        there. Files that may have been written to since, though size and modification date are the same, are read: a
        copied lake's once, others hardly ever."""
        if not all(self.is_landed(known["landed_as"]) for known in manifest["staged"].values()):
            return False
        for entry in manifest["files"]:
            path = f"{self.lake.bronze(self.domain, date)}/{entry['name']}"
            found = storage.file(path)
            if found is None:
                return False
            if found.signature != entry["signature"]:
                with storage.reading(path) as handle:
                    if content_hash(handle) != entry["inspection"]["sha256"]:
                        return False
        return True

    def read_manifest(self, date: dt.date) -> dict[str, Any] | None:
        """The manifest of a bronze partition; None where it is missing, damaged, or of other settings."""
        manifest = self.manifests.get(date) or storage.read_json(self.lake.manifest(self.domain, date))
        return manifest if manifest and manifest.get("scan") == self.scan_hash else None

    def bronze_path(self, landing: dt.date, name: str) -> str:
        """A file in bronze, from the domain's directory there."""
        directory = self.lake.layer("bronze", self.domain)
        return f"{self.lake.bronze(self.domain, landing)}/{name}"[len(directory) + 1 :]

    def is_landed(self, path: str) -> bool:
        """Whether a file is in bronze, from the domain's directory there."""
        return storage.file(f"{self.lake.layer('bronze', self.domain)}/{path}") is not None

    def _gather(self) -> None:
        self._expected = {}
        self._contributions = {}
        for landing, facts in sorted(self.landings.items()):  # an identity must not depend on the order of landing
            for date, (records, content) in facts["dates"].items():
                self._contributions.setdefault(dt.date.fromisoformat(date), []).append((landing, records, content))

    def _look_at_silver(self, date: dt.date) -> None:
        self.silver.pop(date, None)
        self.present.discard(date)
        path = self.lake.silver(self.domain, date)
        if footer := self.footer(path):
            self.silver[date] = footer
        if footer or storage.file(path):
            self.present.add(date)

    def footer(self, path: str) -> dict[str, Any] | None:
        """The footer of one of our Parquet files, in brief; None unless the file is whole.

        A file whose size, times or inode are not those remembered is read once and its checksum compared.
        """
        relative = self.lake.relative(path)
        found = storage.file(path)
        if found is None:
            self._changed |= self._facts["parquet"].pop(relative, None) is not None
            return None
        known = self._facts["parquet"].get(relative)
        if known is None or known["signature"] != found.signature:
            footer = storage.read_footer(path)
            if footer is None:
                log.warning("%s is damaged or not one of ours: it is made again", path)
                return None
            known = {"signature": found.signature, "footer": brief(footer)}
            self._facts["parquet"][relative] = known
            self._changed = True
        content: dict[str, Any] = known["footer"]
        version = GOLD_VERSION if relative.startswith("gold/") else SILVER_VERSION
        if content.get("version", 0) > version:
            raise LakeError(f"{path} was written by a newer lakejobs: upgrade this one, or name another lake")
        return content

    def _forget_the_gone(self) -> None:
        landings = self._facts["landings"]
        for date in [date for date in landings if dt.date.fromisoformat(date) not in self.landings]:
            del landings[date]
            self._changed = True
        there = {self.lake.relative(self.lake.silver(self.domain, date)) for date in self.silver}
        for relative in self._facts["parquet"].keys() - there:
            if storage.file(f"{self.lake.root}/{relative}") is None:
                del self._facts["parquet"][relative]
                self._changed = True

    def save(self) -> None:
        """Keep what was learned. Losing it costs time only, so it is not forced to the disk."""
        if self._changed and os.path.isdir(self.lake.root):
            self._changed = False
            with contextlib.suppress(Exception):
                # Another run that is saving at this moment loses what it learned, no more.
                storage.sweep(self.lake.root)
                storage.write_json(self.lake.facts(self.domain), self._facts, durable=False)

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
        return manifest is not None and summarise(manifest, landing)["dates"] == self.landings[landing]["dates"]

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
        return (footer["identity"], footer.get("warnings")) == (self.expected(date), self.made_by.warnings_hash)

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
            f"{self.lake.bronze(self.domain, date)}/{name} is rejected: {reason}. Delete it from bronze and staging "
            "once that is settled"
            for date, landing in sorted(self.landings.items())
            for name, reason in landing["rejected"].items()
            if self._is_still_there(date, name)
        ]

    @property
    def warnings(self) -> list[str]:
        """What a person has to look at, though the lake is fresh: rejected files, and columns that deliveries lack."""
        lacking: dict[str, list[str]] = {}
        for date, landing in sorted(self.landings.items()):
            for name, columns in landing["missing"].items():
                for column in columns if self._is_still_there(date, name) else ():
                    lacking.setdefault(column, []).append(self.bronze_path(date, name))
        said = [
            f"{self.lake.bronze(self.domain, date)}/{name} is empty"
            for date, landing in sorted(self.landings.items())
            for name, notes in landing["notes"].items()
            if EMPTY in notes and self._is_still_there(date, name)
        ]
        for column, why in needed_columns(domains()[self.domain]).items() if lacking else ():
            if files := lacking.get(column):
                without = (
                    f"{files[-1]} has"
                    if len(files) == 1
                    else f"{counted(len(files), 'file')}, {files[-1]} among them, have"
                )
                said.append(f"{self.domain}: {without} no column {column}, {why}")
        # The staging directory is all domains'; one of them tells of it.
        if self.domain == next(iter(domains())) and (strays := stray_names(self.lake)):
            said.append(f"{self.lake.staging}: left alone, for no domain has these names: {few(strays)}")
        return self.rejected + said

    # ---------------------------------------------------------------------------------------- publishing

    @contextlib.contextmanager
    def locked(self) -> Iterator[DomainState]:
        """Write to the domain: no other run does meanwhile, and what others published before is known."""
        with storage.lock(self.lake, self.domain) as handle:
            if generation(self.lake, self.domain) != self.generation:
                self.rescan()
            try:
                yield self
            finally:
                self.generation = _bump(handle)
                self.save()

    def landed(self, dates: Iterable[dt.date]) -> None:
        """Bronze partitions have been written: look at them again."""
        for date in dates:
            self.stale.discard(date)
            self._look_at_landing(date)
        self._gather()

    def published(self, date: dt.date) -> None:
        """A silver partition has been written or removed: look at it again."""
        self._look_at_silver(date)


@dataclass(frozen=True)
class MadeBy:
    """All that decides what stands in the silver files of a domain, besides their bronze files."""

    rules: Mapping[str, str]
    """Hashes of the critical rules by code, in the suite's order."""
    warnings: Mapping[str, str]
    """Hashes of the other rules: they change what is reported, and no row."""
    sql: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, domain: Domain) -> MadeBy:
        rules, warnings = quality.rule_hashes(domain.name)
        return cls(rules, warnings, transform.hashes(domain), transform.settings_of(domain))

    @property
    def rules_hash(self) -> str:
        return digest([SILVER_VERSION, list(self.rules.items()), list(self.sql.items())])

    @property
    def warnings_hash(self) -> str:
        return digest(list(self.warnings.items()))

    def to_json(self) -> dict[str, Any]:
        return {"version": SILVER_VERSION, **asdict(self)}

    def difference(self, old: Mapping[str, Any]) -> str:
        """What changed since a file with this lineage was made, in words."""
        said = []
        before, now = {**old["rules"], **old["warnings"]}, {**self.rules, **self.warnings}
        for what, codes in (
            ("new", [code for code in now if code not in before]),
            ("removed", [code for code in before if code not in now]),
            ("changed", [code for code in now if code in before and now[code] != before[code]]),
        ):
            if codes := [code for code in codes if code]:
                said.append(f"{what} rule{'s' if len(codes) > 1 else ''} {few(codes)}")
        changed = [name for name, value in self.settings.items() if old["settings"].get(name) != value]
        if changed:
            said.append(f"[lake] {few(changed)} changed")
        elif dict(self.sql) != old["sql"]:
            said.append("the domain or lakejobs itself changed")
        return "; ".join(said) or "the order of the rules changed"


def brief(footer: dict[str, Any]) -> dict[str, Any]:
    """A footer without what is seldom asked for: what the file was made from, one by one."""
    return {key: value for key, value in footer.items() if key not in ("checksum", "lineage", "inputs")}


def summarise(manifest: dict[str, Any], landing: dt.date) -> dict[str, Any]:
    """What a manifest says of its partition as a whole. `dates`: records and a hash of their files by event date;
    `elsewhere`: where files that are staged for this date had landed before."""
    files, here = manifest["files"], storage.partition_path(landing)
    dates: dict[str, list[Any]] = {}
    for date in sorted({date for file in files for date in file["dates"]}):
        holding = [file for file in files if date in file["dates"]]
        dates[date] = [sum(file["dates"][date] for file in holding), digest([identity(file) for file in holding])]
    return {
        "dates": dates,
        "files": len(files),
        "bytes": sum(file["bytes"] for file in files),
        "records": sum(file["records"] for file in files),
        "malformed": sum(file["malformed"] for file in files),
        "elsewhere": sorted(
            known["landed_as"] for known in manifest["staged"].values() if known["landed_as"].rpartition("/")[0] != here
        ),
        "rejected": {file["name"]: file["inspection"]["rejected"] for file in files if file["inspection"]["rejected"]},
        "missing": {file["name"]: file["missing"] for file in files if file["missing"] and file["records"]},
        "notes": {file["name"]: file["notes"] for file in files if file["notes"]},
    }


def needed_columns(domain: Domain) -> dict[str, str]:
    """Columns without which a file means something else than it seems to, and why."""
    needed = {correction.column: "so it is computed where that can be done" for correction in domain.corrections}
    with contextlib.suppress(LakeError):  # a broken suite is told of where it is needed
        for rule in quality.load_suite(domain).rules:
            if rule.severity == "critical":
                for column in rule.columns:
                    needed.setdefault(column, f"which the rule {rule.code} asks for")
    return needed


def identity(file: dict[str, Any]) -> list[Any]:
    """What makes a bronze file the same file: name, size, content hash."""
    return [file["name"], file["bytes"], file["inspection"]["sha256"]]


def covers(manifest: dict[str, Any], listing: dict[str, list[list[Any]]]) -> bool:
    """Whether a manifest is of just these files in bronze, and every staged one has been landed as it is now."""
    described = sorted([file["name"], file["bytes"], file["mtime_ns"]] for file in manifest["files"])
    return described == sorted(file[:3] for file in listing["files"]) and all(
        manifest["staged"].get(name, {}).get("signature") == signature for name, *signature in listing["staged"]
    )


# ------------------------------------------------------------------------------------------------ runs

_states: dict[str, tuple[object, DomainState]] = {}


def state(domain: str) -> DomainState:
    """The state of a domain of the current lake, looked at once a run and again when another one published."""
    run = _run()
    known_run, known = _states.get(domain, (None, None))
    if known is None or known_run is not run or run is None:
        known = DomainState(storage.current(), domain)
        _states[domain] = (run, known)
        if run is not None:
            for warning in known.warnings:
                log.warning("%s", warning)
    elif generation(known.lake, domain) != known.generation:
        known.rescan()
    return known


def stray_names(lake: Lake) -> list[str]:
    """What is in the staging directory beside the domains' own: a misspelt domain, or a file of none."""
    found = [file.name for file in storage.files(lake.staging)] + storage.odd_entries(lake.staging)
    return [name for name in found if name not in domains() and not name.startswith((".", "_"))]


_inherited: object = None


def _run() -> object:
    """What tells one run of a Luigi worker from the next: the thread that keeps in touch with the scheduler.

    A worker's child process goes on with its parent's run. None outside a worker: then nothing is remembered.
    """
    global _inherited
    if multiprocessing.parent_process() is not None and _inherited is not None:
        return _inherited
    from luigi.worker import KeepAliveThread

    _inherited = next((t for t in threading.enumerate() if isinstance(t, KeepAliveThread)), None)
    return _inherited


def generation(lake: Lake, domain: str) -> bytes:
    """The token that the last run to write to the domain left in its lock file."""
    try:
        with open(f"{lake.root}/_lock_{domain}", "rb") as handle:
            return handle.read()
    except OSError:
        return b""


def _bump(handle: BinaryIO) -> bytes:
    token = f"{os.getpid()} {os.urandom(8).hex()}".encode()
    # On a full disk the token is lost, and others learn of this run's work when they next look by themselves.
    with contextlib.suppress(OSError):
        handle.truncate(0)
        handle.write(token)
        handle.flush()
    return token
