"""Bronze: deliveries as they came, by landing date, and a manifest of what they hold.

The manifest of a partition is a cache: it says of each file what it takes to read it and how many of its records
belong to each event date, so silver knows which files a partition is made from. It is made again from the files
where it is missing, damaged, or was made with other settings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import luigi

from lakejobs import lake as storage
from lakejobs import lineage, records
from lakejobs.console import LakeError, Report, counted, few, log, report, span, tell
from lakejobs.engine import CsvFile, match
from lakejobs.lake import File
from lakejobs.lineage import DomainState
from lakejobs.loading import Loaded
from lakejobs.model import Domain
from lakejobs.parameters import DatesParameter, DomainParameter, parse_date
from lakejobs.project import domains
from lakejobs.runs import LakeTask

NOTHING: dict[str, Any] = {"staged": {}, "files": []}


class Bronze(LakeTask):
    """One bronze partition: every staged file of one landing date, byte for byte, and the manifest of them.

    Luigi joins those of a domain that are due at once to one task, so that their files are read in one pass.
    """

    domain = DomainParameter()
    date = DatesParameter(description="Landing date, YYYY-MM-DD.")
    max_batch_size = 10_000
    # Silver goes on with what its bronze has read: before another domain is begun.
    priority = 3

    @property
    def dates(self) -> list[dt.date]:
        return [parse_date(day) for day in self.date.split(",")]

    def __repr__(self) -> str:
        return f"{self.task_family}(domain={self.domain}, date={span(self.dates)})"

    def output(self) -> list[BronzeTarget]:
        return [BronzeTarget(self.domain, date) for date in self.dates]

    def complete(self) -> bool:
        """As all of its targets, which would look at the lake for each of them."""
        return not lineage.state(self.domain).stale & set(self.dates)

    def run(self) -> None:
        with lineage.state(self.domain).locked() as state:
            due = [date for date in self.dates if date in state.stale]
            if due:
                tell(self, land(state, due, lambda message, percent: report(self, message, percent)), percent=100)


class BronzeTarget(luigi.Target):
    """Exists when every staged file of the date has landed and the manifest describes what is there."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date
        self.path = storage.current().bronze(domain, date)

    def exists(self) -> bool:
        return self.date not in lineage.state(self.domain).stale

    def __str__(self) -> str:
        return self.path


def land(state: DomainState, dates: Sequence[dt.date], report: Report) -> str:
    """Copy what is staged for some dates, look at what is new there, write the manifests. Returns what was done."""
    domain = domains()[state.domain]
    deliveries, troubles = Deliveries(state), []
    staged: dict[dt.date, dict[str, Any]] = {}
    inspected: dict[str, records.Inspection] = {}  # of files that landed just now, by their path in bronze
    touched = list(dates)
    for date in touched:
        report(f"landing {date}", 50 * len(staged) // len(touched))
        storage.sweep(state.lake.bronze(state.domain, date))
        staged[date], said = _land_staged(state, domain, deliveries, date, inspected)
        troubles += said
        # A delivery may turn out to be of a later day than its file's modification date.
        touched += sorted({storage.partition_date(path) for path in inspected} - set(touched))
    partitions: dict[dt.date, dict[str, Any]] = {}
    new: list[tuple[dt.date, dict[str, Any]]] = []
    for date in touched:
        before = (state.read_manifest(date) or NOTHING)["files"]
        files, unknown = describe(state, domain, date, before, inspected)
        new += [(date, entry) for entry in unknown]
        if files or staged[date] or before:
            partitions[date] = {"scan": state.scan_hash, "staged": staged[date], "files": files}
    report("counting records", 50)
    new.sort(key=lambda one: delivery_order(*one))
    count_records(state, new)
    for number, (date, content) in enumerate(partitions.items()):
        report(f"describing {date}", 80 + 20 * number // len(partitions))
        storage.write_json(state.lake.manifest(state.domain, date), content)
        state.manifests[date] = content
    known = set(state.warnings)
    state.landed(touched)
    warnings = [warning for warning in state.warnings if warning not in known]
    for warning in warnings:
        log.warning("%s", warning)
    if troubles:
        raise LakeError("; ".join(troubles))
    entries = [entry for content in partitions.values() for entry in content["files"]]
    return (
        f"{counted(len(inspected), 'file')} landed, {counted(sum(e['records'] for e in entries), 'record')} in all"
        + (f"; {few(warnings, 3)}" if warnings else "")
    )


def _land_staged(
    state: DomainState, domain: Domain, deliveries: Deliveries, date: dt.date, inspected: dict[str, records.Inspection]
) -> tuple[dict[str, Any], list[str]]:
    """Land what is staged for a date. Returns the manifest's account of it, and what went wrong; fills `inspected`."""
    before = (state.read_manifest(date) or NOTHING)["staged"]
    staged, troubles = {}, []
    for file in list(state.staged.get(date, ())):
        known = before.get(file.name)
        # What is still staged lands again where its file in bronze is gone.
        if known and known["signature"] == file.signature and state.is_landed(known["landed_as"]):
            staged[file.name] = known
            continue
        try:
            landed_as, inspection = _land_file(state, domain, deliveries, date, file)
            staged[file.name] = {"signature": file.signature, "landed_as": landed_as}
            if inspection:
                inspected[landed_as] = inspection
        except StillWrittenError:
            state.staged[date].remove(file)
            log.info("%s: %s is still being written; it is left for the next run", state.domain, file.name)
        except LakeError as error:
            if storage.file(f"{state.lake.staging_directory(state.domain)}/{file.name}"):
                troubles.append(str(error))
            else:
                state.staged[date].remove(file)
                log.warning("%s: %s was taken out of staging before it landed", state.domain, file.name)
    return staged, troubles


class StillWrittenError(Exception):
    """A staged file changed while it was read."""


class Deliveries:
    """What was delivered before under a name, by the names in bronze."""

    def __init__(self, state: DomainState) -> None:
        self._state = state
        self._without_stamp: dict[str, list[tuple[dt.date, str]]] | None = None

    def of(self, original: str, date: dt.date) -> list[tuple[storage.Delivery, str]]:
        """Deliveries of a staged name, the latest last, and where in bronze they are.

        A name with a stamp lands on its own date, `date`, every time; any other on the date it was delivered on.
        """
        if storage.stamp(original):
            found = [(date, name) for name in self._names(date) if original in _originals(name)]
        else:
            if self._without_stamp is None:
                self._without_stamp = {}
                for landing in storage.partitions(self._state.lake.layer("bronze", self._state.domain)):
                    for name in self._names(landing):
                        self._remember(landing, name)
            found = self._without_stamp.get(original, [])
        known = [
            (storage.delivery(name, landing, self._hash(landing, name)), self._state.bronze_path(landing, name))
            for landing, name in found
        ]
        return sorted(one for one in known if one[0].original == original)

    def add(self, landing: dt.date, name: str) -> None:
        """A file has landed."""
        if self._without_stamp is not None:
            self._remember(landing, name)

    def _names(self, landing: dt.date) -> list[str]:
        found = storage.files(self._state.lake.bronze(self._state.domain, landing))
        return [file.name for file in found if storage.is_data(file.name)]

    def _remember(self, landing: dt.date, name: str) -> None:
        assert self._without_stamp is not None
        for original in _originals(name):
            self._without_stamp.setdefault(original, []).append((landing, name))

    def _hash(self, landing: dt.date, name: str) -> str:
        """The content's hash, where the name holds the beginning of one."""
        if not storage.DELIVERED_BY_HASH.fullmatch(name):
            return ""
        return _hash(f"{self._state.lake.bronze(self._state.domain, landing)}/{name}")


def _originals(name: str) -> set[str]:
    """Names under which a file in bronze may have been staged; only its content's hash tells for sure."""
    by_hash = storage.DELIVERED_BY_HASH.fullmatch(name)
    return {storage.original_name(name)} | ({by_hash[1] + by_hash[3]} if by_hash else set())


def _land_file(
    state: DomainState, domain: Domain, deliveries: Deliveries, date: dt.date, file: File
) -> tuple[str, records.Inspection | None]:
    """Land one staged file, unless it has landed. Returns which file in bronze it is, and what is known of a new one.

    Content equal to the latest delivery of the name has landed. Other content is a new delivery, later than all before
    it. A name that bronze gave says by itself when its content was delivered.
    """
    source = f"{state.lake.staging_directory(state.domain)}/{file.name}"
    original = storage.original_name(file.name)
    before = deliveries.of(original, date)
    rival = before[-1][1] if before else None
    says_when = storage.stamp(original) is not None
    if file.name != original:
        own = state.bronze_path(date, file.name)
        rival = own if any(path == own for _, path in before) else None
        says_when = True
    if rival and _same(state, source, file, rival):
        return rival, None
    name = file.name
    if rival or not says_when:
        moment = storage.modified(file, state.now)
        if before:
            moment = max(moment, before[-1][0].moment + dt.timedelta(microseconds=1))
        name = storage.delivered_name(original, moment)
    landing = storage.landing_date(file._replace(name=name), state.now)
    path = f"{state.lake.bronze(state.domain, landing)}/{name}"
    with storage.reading(source) as handle, storage.reading(source) as again, storage.publish(path) as temporary:
        with ThreadPoolExecutor(1) as pool:
            # The kernel copies a large file while it is looked at.
            copying = pool.submit(storage.copy, handle, temporary) if file.size > records.CHUNK else None
            inspection = inspect(again, domain)
            if copying:
                copying.result()
        if not copying:
            storage.copy(handle, temporary)
        _must_be(handle, file)
        _must_be(again, file)
    deliveries.add(landing, name)
    return state.bronze_path(landing, name), inspection


def _same(state: DomainState, source: str, file: File, landed_as: str) -> bool:
    """Whether a staged file has the content of one in bronze."""
    path = f"{state.lake.layer('bronze', state.domain)}/{landed_as}"
    there = storage.file(path)
    return there is not None and there.size == file.size and _hash(path) == _hash(source, file)


def _hash(path: str, expected: File | None = None) -> str:
    with storage.reading(path) as handle:
        digest = records.content_hash(handle)
        if expected:
            _must_be(handle, expected)
    return digest


def _must_be(handle: Any, file: File) -> None:
    status = storage.status(handle)
    if status.signature != file.signature:
        raise StillWrittenError


# ------------------------------------------------------------------------------------------------ manifest


def describe(
    state: DomainState,
    domain: Domain,
    date: dt.date,
    before: Sequence[dict[str, Any]],
    inspected: Mapping[str, records.Inspection],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The manifest's entries for the files of a partition, in the order of their delivery, and which of them are new.

    Entries whose file is the same as before are kept; the records of the new ones have not been counted yet. Of files
    that landed just now, `inspected` says what is known, by their path in bronze. Reports files that changed or were
    deleted after they had landed.
    """
    directory = state.lake.bronze(state.domain, date)
    known = {entry["name"]: entry for entry in before}
    entries: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    for file in storage.files(directory):
        if not storage.is_data(file.name):
            continue
        old = known.pop(file.name, None)
        if old and old["signature"] == file.signature:
            entries.append(old)
            continue
        if landed := inspected.get(state.bronze_path(date, file.name)):
            inspection = landed
        else:
            with storage.reading(f"{directory}/{file.name}") as handle:
                inspection = inspect(handle, domain)
        if old and old["inspection"]["sha256"] == inspection.sha256:
            entries.append({**old, "mtime_ns": file.mtime_ns, "signature": file.signature})
            continue
        notes = _notes(inspection, domain)
        if old:
            notes.append(f"its bytes changed after it landed; it was {old['inspection']['sha256'][:12]} before")
            log.warning("%s/%s changed after it landed: silver follows what it holds now", directory, file.name)
        entry = {
            "name": file.name,
            "bytes": file.size,
            "mtime_ns": file.mtime_ns,
            "signature": file.signature,
            "inspection": inspection.to_json(),
            "notes": notes,
            "missing": missing_columns(inspection, domain),
            "records": 0,
            "malformed": 0,
            "dates": {},
        }
        entries.append(entry)
        new.append(entry)
    for name in known:
        log.warning("%s/%s was deleted: silver follows", directory, name)
    entries.sort(key=lambda entry: delivery_order(date, entry))
    return entries, new


def delivery_order(landing: dt.date, entry: dict[str, Any]) -> tuple[storage.Delivery, str]:
    """Sorts manifest entries of a domain by their delivery: its moment, the name staged, the content's hash."""
    sha256 = entry["inspection"]["sha256"]
    return storage.delivery(entry["name"], landing, sha256), sha256


def inspect(source: BinaryIO, domain: Domain) -> records.Inspection:
    """Look at a file's bytes, and refuse it where its records could not be told apart or belong to no moment."""
    inspection = records.inspect(source, list(domain.columns))
    if inspection.rejected or not inspection.header:
        return inspection
    by_name, others = match(inspection.header, list(domain.columns))
    missing = [name for name in (domain.key, domain.event_time) if name not in by_name]
    if not missing:
        return inspection
    reason = f"it has no column {' and no column '.join(missing)}, which every record of {domain.name} needs"
    header = {name.casefold() for name in inspection.header}
    for other in domains().values():
        if other is not domain and {other.key, *other.columns} <= header:
            reason += f"; it looks like a file of {other.name}"
            break
    else:
        reason += _guess(missing, others)
    return dataclasses.replace(inspection, header=(), plain=False, rejected=reason)


def missing_columns(inspection: records.Inspection, domain: Domain) -> list[str]:
    """Columns of the domain that an accepted file does not have."""
    if inspection.rejected or not inspection.header:
        return []
    by_name, _ = match(inspection.header, list(domain.columns))
    return [name for name in domain.columns if name not in by_name]


def _guess(missing: Sequence[str], others: Iterable[str]) -> str:
    """Which of a header's unknown columns may be a missing one under another name."""
    unknown = {name.casefold(): name for name in others}
    alike = [
        f"{unknown[found[0]]} looks like {name}"
        for name in missing
        if (found := difflib.get_close_matches(name, unknown, 1, 0.5))
    ]
    return f"; {', '.join(alike)}" if alike else ""


def _notes(inspection: records.Inspection, domain: Domain) -> list[str]:
    """What a person should know of a file that was accepted."""
    if inspection.rejected:
        return []
    if not inspection.header:
        return [lineage.EMPTY]
    notes = []
    _, others = match(inspection.header, list(domain.columns))
    if inspection.encoding != "utf-8":
        notes.append("it is not UTF-8 and was read as Windows-1252")
    if missing := missing_columns(inspection, domain):
        notes.append(f"it has no column {few(missing)}{_guess(missing, others)}")
    if others:
        notes.append(f"it has columns besides the domain's, kept in rescued_data: {few(others)}")
    return notes


def count_records(state: DomainState, entries: Sequence[tuple[dt.date, dict[str, Any]]]) -> None:
    """Fill in `records`, `malformed` and `dates` (records by event date) of manifest entries, from their files.

    The engine's count is held against the number of lines; a file where they differ is read carefully from now on.
    """
    files = [csv_file(state, date, entry, number) for number, (date, entry) in enumerate(entries)]
    again = _count_records(state, entries, [file for file in files if has_records(file)])
    for file in again:
        entries[file.number][1]["inspection"]["plain"] = False
    _count_records(state, entries, [csv_file(state, *entries[file.number], file.number) for file in again])


def _count_records(
    state: DomainState, entries: Sequence[tuple[dt.date, dict[str, Any]]], files: list[CsvFile]
) -> list[CsvFile]:
    """Returns the files whose count is not to be trusted."""
    if not files:
        return []
    import duckdb

    try:
        loaded = Loaded(state, files, None)
    except duckdb.InvalidInputException:
        if all(not file.inspection.plain for file in files):
            raise
        return files
    dates: dict[int, Counter[str]] = {file.number: Counter() for file in files}
    malformed: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        stack.push(loaded)
        for number, day, is_malformed, count in loaded.engine.rows(
            "select file_number, partition_date, is_malformed, count(*) from loaded group by all order by all"
        ):
            dates[number][day.isoformat()] += count
            malformed[number] += count * is_malformed
        doubtful = []
        for file in files:
            found, inspection = dates[file.number].total(), file.inspection
            if inspection.plain and (found != inspection.lines - 1 or (inspection.quoted and malformed[file.number])):
                doubtful.append(file)
            else:
                entries[file.number][1].update(
                    records=found, malformed=malformed[file.number], dates=dict(dates[file.number])
                )
        if not doubtful:
            stack.pop_all()
            loaded.keep()
    return doubtful


def csv_file(state: DomainState, date: dt.date, entry: dict[str, Any], number: int) -> CsvFile:
    """A manifest's entry as the engine reads it."""
    delivered = storage.delivery(entry["name"], date, entry["inspection"]["sha256"]).moment.date()
    return CsvFile(
        path=f"{state.lake.bronze(state.domain, date)}/{entry['name']}",
        number=number,
        landing_date=date,
        latest_date=min(max(date, delivered), dt.date.max - dt.timedelta(days=1)) + dt.timedelta(days=1),
        inspection=records.Inspection.from_json(entry["inspection"]),
    )


def has_records(file: CsvFile) -> bool:
    """Whether there is anything to read below a header. Only plain files have had their lines counted exactly."""
    known = file.inspection
    return known.rejected is None and bool(known.header) and (not known.plain or known.lines > 1)
