"""Bronze: deliveries as they came, by landing date, and a manifest of what they hold.

The manifest of a partition is a cache: it says of each file what it takes to read it and how many of its records
belong to each event date, so silver knows which files a partition is made from. It is made again from the files
where it is missing, damaged, or was made with other settings.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import luigi

from lakejobs import lake as storage
from lakejobs import lineage, records
from lakejobs.console import LakeError, Report, counted, few, log, report, span, tell
from lakejobs.domains import DOMAINS, Domain
from lakejobs.engine import CsvFile, match
from lakejobs.lake import File
from lakejobs.lineage import DomainState
from lakejobs.loading import Loaded
from lakejobs.parameters import DatesParameter, DomainParameter, parse_date
from lakejobs.runs import LakeTask

REDELIVERED = re.compile(r"(.+)-[0-9a-f]{8}(\.csv)", re.IGNORECASE)


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
    domain = DOMAINS[state.domain]
    copied, troubles = 0, []
    partitions: dict[dt.date, dict[str, Any]] = {}
    new: list[tuple[dt.date, dict[str, Any]]] = []
    for number, date in enumerate(dates):
        report(f"landing {date}", 50 * number // len(dates))
        storage.sweep(state.lake.bronze(state.domain, date))
        before = state.read_manifest(date) or {"staged": {}, "files": []}
        there = {file.name for file in storage.files(state.lake.bronze(state.domain, date))}
        gone = {entry["name"] for entry in before["files"]} - there
        # What is still staged lands again where its file in bronze is gone.
        staged = {name: known for name, known in before["staged"].items() if not gone & {name, *_again(name, gone)}}
        inspected: dict[str, records.Inspection] = {}
        for file in list(state.staged.get(date, ())):
            if staged.get(file.name) == [file.size, file.mtime_ns]:
                continue
            try:
                inspected |= _copy(state, domain, date, file)
                staged[file.name] = [file.size, file.mtime_ns]
            except StillWrittenError:
                state.staged[date].remove(file)
                log.info("%s: %s is still being written; it is left for the next run", state.domain, file.name)
            except LakeError as error:
                troubles.append(str(error))
        copied += len(inspected)
        files, unknown = describe(state, domain, date, before["files"], inspected)
        new += [(date, entry) for entry in unknown]
        if files or staged or before["files"]:
            partitions[date] = {"scan": state.scan_hash, "staged": staged, "files": files}
    report("counting records", 50)
    count_records(state, new)
    for number, (date, content) in enumerate(partitions.items()):
        report(f"describing {date}", 80 + 20 * number // len(partitions))
        storage.write_json(state.lake.manifest(state.domain, date), content)
    state.landed(dates)
    if troubles:
        raise LakeError("; ".join(troubles))
    entries = [entry for content in partitions.values() for entry in content["files"]]
    rejected = sum(entry["inspection"]["rejected"] is not None for entry in entries)
    return f"{counted(copied, 'file')} landed, {counted(sum(e['records'] for e in entries), 'record')} in all" + (
        f", {counted(rejected, 'file')} rejected" if rejected else ""
    )


class StillWrittenError(Exception):
    """A staged file changed while it was read."""


def _copy(state: DomainState, domain: Domain, date: dt.date, file: File) -> dict[str, records.Inspection]:
    """Land one staged file. Returns what is known of it by its name in bronze; nothing where it is there already.

    Same name and same content: already landed. Same name, other content: lands as `<stem>-<hash8>.csv`.
    """
    source = f"{state.lake.staging_directory(state.domain)}/{file.name}"
    target = f"{state.lake.bronze(state.domain, date)}/{file.name}"
    taken = [path for path in _namesakes(state, date, file) if storage.file(path)]
    if taken:
        content = _hash(source, file)
        for path in taken:
            there = storage.file(path)
            if there and there.size == file.size and _hash(path) == content:
                return {}
        if target in taken:
            stem, dot, suffix = file.name.rpartition(".")
            target = f"{state.lake.bronze(state.domain, date)}/{stem}-{content[:8]}{dot}{suffix}"
            if storage.file(target):
                return {}
    with storage.reading(source) as handle, storage.reading(source) as again, storage.publish(target) as temporary:
        with ThreadPoolExecutor(1) as pool:
            # The kernel copies a large file while it is looked at.
            copying = pool.submit(storage.copy, handle, temporary) if file.size > records.CHUNK else None
            inspection = records.inspect(again, list(domain.columns))
            if copying:
                copying.result()
        if not copying:
            storage.copy(handle, temporary)
        _must_be(handle, file)
        _must_be(again, file)
    return {target.rpartition("/")[2]: inspection}


def _namesakes(state: DomainState, date: dt.date, file: File) -> Iterator[str]:
    """Where a delivery of this name may have landed before: without a stamp in its name, on any date."""
    yield f"{state.lake.bronze(state.domain, date)}/{file.name}"
    if not storage.STAMP.search(file.name):
        for landing in state.landings:
            if landing != date:
                yield f"{state.lake.bronze(state.domain, landing)}/{file.name}"


def _hash(path: str, expected: File | None = None) -> str:
    with storage.reading(path) as handle:
        digest = records.content_hash(handle)
        if expected:
            _must_be(handle, expected)
    return digest


def _must_be(handle: Any, file: File) -> None:
    status = storage.status(handle)
    if (status.size, status.mtime_ns) != (file.size, file.mtime_ns):
        raise StillWrittenError


# ------------------------------------------------------------------------------------------------ manifest


def describe(
    state: DomainState,
    domain: Domain,
    date: dt.date,
    before: Sequence[dict[str, Any]],
    inspected: Mapping[str, records.Inspection],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The manifest's entries for the files of a partition, in the order they landed, and which of them are new.

    Entries whose file is the same as before are kept; the records of the new ones have not been counted yet. Of files
    that landed just now, `inspected` says what is known. Reports files that changed or went after they had landed.
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
        if file.name in inspected:
            inspection = inspected[file.name]
        else:
            with storage.reading(f"{directory}/{file.name}") as handle:
                inspection = records.inspect(handle, list(domain.columns))
        if old and old["inspection"]["sha256"] == inspection.sha256:
            entries.append({**old, "mtime_ns": file.mtime_ns, "signature": file.signature})
            continue
        notes = _notes(inspection, domain)
        if old:
            notes.append(f"its bytes changed after it landed; it was {old['inspection']['sha256'][:12]} before")
            log.warning("%s/%s changed after it landed: silver follows what it holds now", directory, file.name)
        if inspection.rejected:
            log.warning("%s/%s is rejected: %s", directory, file.name, inspection.rejected)
        entry = {
            "name": file.name,
            "bytes": file.size,
            "mtime_ns": file.mtime_ns,
            "signature": file.signature,
            "landed_ns": old["landed_ns"] if old else file.mtime_ns,
            "inspection": inspection.to_json(),
            "notes": notes,
            "records": 0,
            "malformed": 0,
            "dates": {},
        }
        entries.append(entry)
        new.append(entry)
    for name in known:
        log.warning("%s/%s has gone: its rows leave silver", directory, name)
    names = {entry["name"] for entry in entries}
    entries.sort(key=lambda entry: _landing_order(entry, names))
    new.sort(key=lambda entry: _landing_order(entry, names))
    return entries, new


def _again(name: str, among: Iterable[str]) -> list[str]:
    """Those of some bronze files that a delivery of this name may have become, besides the one of its own name."""
    return [other for other in among if (found := REDELIVERED.fullmatch(other)) and found[1] + found[2] == name]


def _landing_order(entry: dict[str, Any], names: set[str]) -> tuple[Any, ...]:
    """By name, for names hold stamps; another delivery of the same name behind the first, the later one last."""
    again = REDELIVERED.fullmatch(entry["name"])
    if again and (first := again[1] + again[2]) in names:
        return (first, 1, entry["landed_ns"], entry["name"])
    return (entry["name"], 0, 0, "")


def _notes(inspection: records.Inspection, domain: Domain) -> list[str]:
    """What a person should know of a file that was accepted."""
    if inspection.rejected:
        return []
    if not inspection.header:
        return ["it is empty"]
    notes = []
    by_name, others = match(inspection.header, list(domain.columns))
    if inspection.encoding != "utf-8":
        notes.append("it is not UTF-8 and was read as Windows-1252")
    if missing := [name for name in domain.columns if name not in by_name]:
        notes.append(f"it has no column {few(missing)}")
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
    landed = dt.datetime.fromtimestamp(entry["landed_ns"] / 1e9, dt.UTC).date()
    return CsvFile(
        path=f"{state.lake.bronze(state.domain, date)}/{entry['name']}",
        number=number,
        landing_date=date,
        latest_date=max(date, landed) + dt.timedelta(days=1),
        inspection=records.Inspection.from_json(entry["inspection"]),
    )


def has_records(file: CsvFile) -> bool:
    """Whether there is anything to read below a header. Only plain files have had their lines counted exactly."""
    known = file.inspection
    return known.rejected is None and bool(known.header) and (not known.plain or known.lines > 1)
