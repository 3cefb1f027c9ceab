"""Bronze: deliveries byte for byte, by landing date, and a manifest for each partition.

A manifest is a cache. For each file it records how to read it and how many of its records belong to each event date, so
silver knows which files a partition is built from. It is rebuilt from the files if it is missing, damaged, or was built
with other settings.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from lakejobs.engine import CsvFile, Engine, FileCount, NotPlainError, records, unpacking
from lakejobs.freshness.domain_state import EMPTY, HELD, DomainState
from lakejobs.messages import LakeError, OnProgress, counted, few, log
from lakejobs.model import Domain, Inspection, Manifest, ManifestEntry, Staged
from lakejobs.project import domains
from lakejobs.quality import contracts
from lakejobs.storage import File, Store, deliveries, documents
from lakejobs.storage.layout import partition_date
from lakejobs.storage.local import copy

LOOKS_LIKE = 0.5
"""How much two names have in common, from 0 to 1, if one may stand for the other."""


def land(state: DomainState, dates: Sequence[dt.date], engine: Engine, on_progress: OnProgress) -> str:
    """Land what is staged for some dates, inspect the new files and write the manifests. Returns a summary."""
    contracts.read(state.reading.domain)  # raises an error if they are broken
    earlier, troubles = Deliveries(state), []
    staged: dict[dt.date, dict[str, Staged]] = {}
    inspected: dict[str, Inspection] = {}  # the files that land in this call, by bronze path
    touched = list(dates)
    for date in touched:
        on_progress(f"landing {date}", 50 * len(staged) // len(touched))
        state.lake.store.sweep(state.lake.bronze(state.domain, date))
        staged[date], said = _land_staged(state, earlier, date, inspected)
        troubles += said
        # A delivery may land on a later day than its file's modification date.
        touched += sorted({partition_date(path) for path in inspected} - set(touched))
    before = {date: state.read_manifest(date) or Manifest(state.scan_hash) for date in touched}
    described = {date: describe(state, date, before[date].files, inspected) for date in touched}
    on_progress("counting records", 50)
    new = [(date, entry) for date, (_, entries) in described.items() for entry in entries]
    new.sort(key=lambda one: delivery_order(*one))
    counted_now = {(date, entry.name): entry for date, entry in count_records(state, new, engine)}
    manifests = {}
    for date, (entries, _) in described.items():
        files = tuple(counted_now.get((date, entry.name), entry) for entry in entries)
        if files or staged[date] or before[date].files:
            manifests[date] = Manifest(state.scan_hash, staged[date], files)
    for number, (date, manifest) in enumerate(manifests.items()):
        on_progress(f"describing {date}", 80 + 20 * number // len(manifests))
        documents.write_json(state.lake.store, state.lake.manifest(state.domain, date), manifest.to_json())
        state.manifests[date] = manifest
    known = set(state.warnings)
    state.landed(touched)
    warnings = [warning for warning in state.warnings if warning not in known]
    for warning in warnings:
        log.warning("%s", warning)
    if troubles:
        raise LakeError("; ".join(troubles))
    total = sum(entry.records for manifest in manifests.values() for entry in manifest.files)
    again = sum(
        entry.records for (date, name), entry in counted_now.items() if state.bronze_path(date, name) not in inspected
    )
    said = [f"{counted(len(inspected), 'file')} landed"] if inspected or not again else []
    said += [f"{counted(again, 'record')} counted again"] if again else []
    said += [f"{counted(total, 'record')} in all"] if total > again or not again else []
    return ", ".join(said) + (f"; {few(warnings, 3)}" if warnings else "")


def _land_staged(
    state: DomainState, earlier: Deliveries, date: dt.date, inspected: dict[str, Inspection]
) -> tuple[dict[str, Staged], list[str]]:
    """Land what is staged for a date. Returns the manifest's `staged` and the errors; fills `inspected`."""
    manifest = state.read_manifest(date)
    before: Mapping[str, Staged] = manifest.staged if manifest else {}
    staged: dict[str, Staged] = {}
    troubles = []
    for file in list(state.staged.get(date, ())):
        known = before.get(file.name)
        # A file that is still staged lands again if its copy in bronze is gone.
        if known and known.version == file.version and state.is_landed(known.landed_as):
            staged[file.name] = known
            continue
        try:
            landed_as, inspection = _land_file(state, earlier, date, file)
            staged[file.name] = Staged(file.version, landed_as)
            if inspection:
                inspected[landed_as] = inspection
        except StillWrittenError:
            state.staged[date].remove(file)
            log.info("%s: %s is still being written; the next run will land it", state.domain, file.name)
        except LakeError as error:
            if state.lake.staging.stat(f"{state.domain}/{file.name}"):
                troubles.append(str(error))
            else:
                state.staged[date].remove(file)
                log.warning("%s: %s was removed from staging before it landed", state.domain, file.name)
    return staged, troubles


class StillWrittenError(Exception):
    """A staged file changed while it was being read."""


class Deliveries:
    """Earlier deliveries of a staged name, found by the names in bronze."""

    def __init__(self, state: DomainState) -> None:
        self._state = state
        self._without_stamp: dict[str, list[tuple[dt.date, str]]] | None = None

    def of(self, original: str, date: dt.date) -> list[tuple[deliveries.Delivery, str]]:
        """Deliveries of a staged name, the latest last, with their paths in bronze.

        A name with a stamp always lands on the date in it, `date`; any other name on the date it was delivered.
        """
        if deliveries.stamp(original):
            found = [(date, name) for name in self._names(date) if original in _originals(name)]
        else:
            if self._without_stamp is None:
                self._without_stamp = {}
                for landing, listing in self._state.lake.landed(self._state.domain).items():
                    for file in listing.files():
                        self._remember(landing, file.name)
            found = self._without_stamp.get(original, [])
        known = [
            (deliveries.delivery(name, landing, self._hash(landing, name)), self._state.bronze_path(landing, name))
            for landing, name in found
        ]
        return sorted(one for one in known if one[0].original == original)

    def add(self, landing: dt.date, name: str) -> None:
        """Add a file that has landed."""
        if self._without_stamp is not None:
            self._remember(landing, name)

    def _names(self, landing: dt.date) -> list[str]:
        listing = self._state.list_bronze(landing)
        return [file.name for file in listing.files()] if listing else []

    def _remember(self, landing: dt.date, name: str) -> None:
        assert self._without_stamp is not None
        for original in _originals(name):
            self._without_stamp.setdefault(original, []).append((landing, name))

    def _hash(self, landing: dt.date, name: str) -> str:
        """The content's hash if the name contains the beginning of one, else an empty string."""
        if not deliveries.DELIVERED_BY_HASH.fullmatch(name):
            return ""
        return _hash(self._state.lake.store, f"{self._state.lake.bronze(self._state.domain, landing)}/{name}")


def _originals(name: str) -> set[str]:
    """Names that a file in bronze may have been staged under; only its content's hash can tell which."""
    by_hash = deliveries.DELIVERED_BY_HASH.fullmatch(name)
    return {deliveries.original_name(name)} | ({by_hash[1] + by_hash[3]} if by_hash else set())


def _land_file(state: DomainState, earlier: Deliveries, date: dt.date, file: File) -> tuple[str, Inspection | None]:
    """Land a staged file unless it has landed already. Returns its path in bronze, and the inspection of a new file.

    Content equal to the latest delivery of the name has landed already. Other content is a new delivery, later than all
    before it. A name that bronze assigned already contains its delivery time.
    """
    source = f"{state.domain}/{file.name}"
    original = deliveries.original_name(file.name)
    before = earlier.of(original, date)
    rival = before[-1][1] if before else None
    says_when = deliveries.stamp(original) is not None
    if file.name != original:
        own = state.bronze_path(date, file.name)
        rival = own if any(path == own for _, path in before) else None
        says_when = True
    if rival and _same(state, source, file, rival):
        return rival, None
    name = file.name
    if rival or not says_when:
        moment = deliveries.modified(file, state.now)
        if before:
            moment = max(moment, before[-1][0].moment + dt.timedelta(microseconds=1))
        name = deliveries.delivered_name(original, moment)
    landing = deliveries.landing_date(name, deliveries.modified(file, state.now))
    path = f"{state.lake.bronze(state.domain, landing)}/{name}"
    staging, store = state.lake.staging, state.lake.store
    with staging.reading(source) as handle, staging.reading(source) as again, store.publish(path) as temporary:
        with ThreadPoolExecutor(1) as pool:
            # The kernel copies a large file while it is being inspected.
            copying = pool.submit(copy, handle, temporary) if file.size > records.CHUNK else None
            inspection = inspect(again, state, name)
            if copying:
                copying.result()
        if not copying:
            copy(handle, temporary)
        _must_be(staging, handle, file)
        _must_be(staging, again, file)
    earlier.add(landing, name)
    return state.bronze_path(landing, name), inspection


def _same(state: DomainState, source: str, file: File, landed_as: str) -> bool:
    """Whether a staged file has the same content as a file in bronze."""
    path = f"{state.lake.layer('bronze', state.domain)}/{landed_as}"
    there = state.lake.store.stat(path)
    return (
        there is not None
        and there.size == file.size
        and _hash(state.lake.store, path) == _hash(state.lake.staging, source, file)
    )


def _hash(store: Store, path: str, expected: File | None = None) -> str:
    with store.reading(path) as handle:
        digest = records.content_hash(handle)
        if expected:
            _must_be(store, handle, expected)
    return digest


def _must_be(store: Store, handle: BinaryIO, file: File) -> None:
    if store.version(handle) != file.version:
        raise StillWrittenError


# ------------------------------------------------------------------------------------------------ manifest


def describe(
    state: DomainState, date: dt.date, before: Sequence[ManifestEntry], inspected: Mapping[str, Inspection]
) -> tuple[list[ManifestEntry], list[ManifestEntry]]:
    """The manifest entries for the files of a partition, in order of delivery, and which of them are new.

    Keeps the entries of unchanged files; the records of new ones are not counted yet. `inspected` holds the inspections
    of files that have just landed, by their path in bronze. Warns of files that changed or were deleted after landing.
    """
    domain, directory = state.reading.domain, state.lake.bronze(state.domain, date)
    known = {entry.name: entry for entry in before}
    entries: list[ManifestEntry] = []
    new: list[ManifestEntry] = []
    listing = state.list_bronze(date)
    for file in listing.files() if listing else ():
        old = known.pop(file.name, None)
        is_read_alike = old is not None and old.inspection.contract == state.contract_of(file.name)
        if old and old.version == file.version and is_read_alike:
            entries.append(old)
            continue
        if landed := inspected.get(state.bronze_path(date, file.name)):
            inspection = landed
        else:
            with state.lake.store.reading(f"{directory}/{file.name}") as handle:
                inspection = inspect(handle, state, file.name)
        is_edited = old is not None and old.inspection.sha256 != inspection.sha256
        if old and not is_edited and is_read_alike:
            entries.append(dataclasses.replace(old, version=file.version))
            continue
        notes = _notes(inspection, domain)
        if old and is_edited:
            notes.append(f"it changed after it landed; its SHA-256 began with {old.inspection.sha256[:12]}")
            log.warning("%s changed after it landed; silver will use its new content", state.shown(date, file.name))
        missing = missing_columns(inspection, domain)
        entry = ManifestEntry(file.name, file.size, file.version, inspection, tuple(notes), tuple(missing))
        entries.append(entry)
        new.append(entry)
    for name in known:
        log.warning("%s was deleted; silver will no longer include it", state.shown(date, name))
    entries.sort(key=lambda entry: delivery_order(date, entry))
    return entries, new


def delivery_order(landing: dt.date, entry: ManifestEntry) -> tuple[deliveries.Delivery, str]:
    """Sort key for a domain's manifest entries, by delivery: time, staged name, content hash."""
    sha256 = entry.inspection.sha256
    return deliveries.delivery(entry.name, landing, sha256), sha256


def inspect(source: BinaryIO, state: DomainState, name: str) -> Inspection:
    """Inspect a file's bytes. `name`: its name in bronze.

    Reject it if it lacks a column of the key or the event time. Hold it back if another column may be what it lacks.
    """
    domain, columns = state.reading.domain, list(state.reading.domain.columns)
    contract, packed = state.contract_of(name), deliveries.packed(name)
    inspection = records.inspect(source, columns, contract, packed, contracts.path_of(domain.name))
    if inspection.rejected or not inspection.header:
        return inspection
    by_name, others = records.match(inspection.header, columns)
    missing = [column for column in dict.fromkeys((*domain.keys, domain.event_time)) if column not in by_name]
    if not missing:
        alike = _alike(missing_columns(inspection, domain), others)
        return (
            dataclasses.replace(inspection, header=(), plain=False, rejected=_held(domain, name, alike))
            if alike
            else inspection
        )
    reason = f"it has no column {' or '.join(missing)}, which every record of {domain.name} needs"
    header = {name.casefold() for name in inspection.header}
    for other in domains().values():
        if other is not domain and {*other.columns} <= header:
            reason += f"; it has all the columns of {other.name}"
            break
    else:
        if alike := _alike(missing, others):
            said = ", ".join(f"{other} looks like {column}" for column, other in alike.items())
            reason += f"; {said}. Accept it with: {_accept(domain, name, alike)}"
    return dataclasses.replace(inspection, header=(), plain=False, rejected=reason)


def header_of(state: DomainState, name: str) -> tuple[str, ...]:
    """The header of the last file that was staged under a name, as its contract reads it. Raises LakeError."""
    domain, places = state.reading.domain, []
    if state.lake.staging.stat(f"{state.domain}/{name}"):
        places.append((state.lake.staging, f"{state.domain}/{name}"))
    for landing, listing in state.lake.landed(state.domain).items():
        names = [file.name for file in listing.files() if name in (file.name, deliveries.original_name(file.name))]
        places += [(state.lake.store, f"{state.lake.bronze(state.domain, landing)}/{found}") for found in names]
    if not places:
        raise LakeError(f"{domain.name} has no file {name}, neither in staging nor in bronze")
    store, path = places[-1]
    contract = state.contract_of(name)
    with store.reading(path) as handle:
        found = records.inspect(handle, list(domain.columns), contract, deliveries.packed(name))
    if found.rejected or not found.header:
        raise LakeError(f"{store.location(path)} cannot be accepted: {found.rejected or 'it is empty'}")
    return found.header


def missing_columns(inspection: Inspection, domain: Domain) -> list[str]:
    """Columns of the domain that an accepted file lacks although its contract does not say so."""
    if inspection.rejected or not inspection.header:
        return []
    by_name, _ = records.match(inspection.header, list(domain.columns))
    return [name for name in domain.columns if name not in by_name and name not in inspection.contract.absent]


def _alike(missing: Sequence[str], others: Iterable[str]) -> dict[str, str]:
    """The unknown columns of a header that may be missing ones under another name, by the missing ones."""
    unknown = {name.casefold(): name for name in others}
    found = {}
    for name in missing:
        if close := difflib.get_close_matches(name, unknown, 1, LOOKS_LIKE):
            found[name] = unknown.pop(close[0])
    return found


def _held(domain: Domain, name: str, alike: Mapping[str, str]) -> str:
    said = "; ".join(f"column {column} is missing, and {other} looks like it" for column, other in alike.items())
    original = deliveries.original_name(name)
    return (
        f"{HELD}{said}. Accept it with: {_accept(domain, name, alike)} (or, if they are not the same, with: lakejobs "
        f"accept {domain.name} {shlex.quote(original)})"
    )


def _accept(domain: Domain, name: str, alike: Mapping[str, str]) -> str:
    """The command that accepts a file whose columns have other names."""
    aliases = " ".join(f"--alias {shlex.quote(f'{other}={column}')}" for column, other in alike.items())
    return f"lakejobs accept {domain.name} {shlex.quote(deliveries.original_name(name))} {aliases}"


def _notes(inspection: Inspection, domain: Domain) -> list[str]:
    """Notes on an accepted file, for people."""
    if inspection.rejected:
        return []
    if not inspection.header:
        return [EMPTY]
    notes = []
    _, others = records.match(inspection.header, list(domain.columns))
    if inspection.encoding != "utf-8":
        notes.append("it is not UTF-8, so it was read as Windows-1252")
    if missing := missing_columns(inspection, domain):
        notes.append(f"it has no column {few(missing)}")
    if others:
        notes.append(f"it has unknown columns, kept in rescued_data: {few(others)}")
    return notes


def count_records(
    state: DomainState, entries: Sequence[tuple[dt.date, ManifestEntry]], engine: Engine
) -> list[tuple[dt.date, ManifestEntry]]:
    """Fill in `records`, `malformed` and `dates` of manifest entries from their files.

    If the engine's count of a file differs from its number of lines, the fallback reader reads the file, now and later.
    """
    files = [csv_file(state, date, entry, number) for number, (date, entry) in enumerate(entries)]
    files = [file for file in files if has_records(file)]
    try:
        found = engine.count_records(state.reading, files) if files else {}
    except NotPlainError:
        if all(not file.inspection.plain for file in files):
            raise
        found = {}
    doubtful = [
        dataclasses.replace(file, inspection=dataclasses.replace(file.inspection, plain=False))
        for file in files
        if _is_doubtful(file, found.get(file.number))
    ]
    if doubtful:
        found |= engine.count_records(state.reading, doubtful)
    inspections = {file.number: file.inspection for file in [*files, *doubtful]}
    return [
        (
            date,
            dataclasses.replace(
                entry,
                inspection=inspections[number],
                records=sum(found[number].dates.values()),
                malformed=found[number].malformed,
                dates=found[number].dates,
            )
            if number in found
            else entry,
        )
        for number, (date, entry) in enumerate(entries)
    ]


def _is_doubtful(file: CsvFile, found: FileCount | None) -> bool:
    """Whether a file's count cannot be trusted."""
    inspection = file.inspection
    if found is None:
        return True
    lines = sum(found.dates.values())
    return inspection.plain and (lines != inspection.lines - 1 or (inspection.quoted and found.malformed > 0))


def csv_file(state: DomainState, date: dt.date, entry: ManifestEntry, number: int) -> CsvFile:
    """A manifest entry as a file for the engine to read."""
    delivered = deliveries.delivery(entry.name, date, entry.inspection.sha256).moment.date()
    path = f"{state.lake.bronze(state.domain, date)}/{entry.name}"
    return CsvFile(
        path=path,
        number=number,
        landing_date=date,
        latest_date=min(max(date, delivered), dt.date.max - dt.timedelta(days=1)) + dt.timedelta(days=1),
        inspection=entry.inspection,
        name=path,
        size=entry.bytes,
        is_line_by_line=entry.inspection.plain
        and not unpacking.is_needed(entry.inspection.packed, entry.inspection.contract)
        and not entry.malformed
        and entry.records == entry.inspection.lines - 1,
    )


def has_records(file: CsvFile) -> bool:
    """Whether there is anything to read below the header. The line count is exact for plain files only."""
    known = file.inspection
    return known.rejected is None and bool(known.header) and (not known.plain or known.lines > 1)
