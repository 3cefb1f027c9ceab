"""Bronze: deliveries as they came, by landing date, and a manifest of what they hold.

The manifest of a partition is a cache: it says of each file what it takes to read it and how many of its records
belong to each event date, so silver knows which files a partition is made from. It is made again from the files
where it is missing, damaged, or was made with other settings.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import luigi

from lakejobs import lake as storage
from lakejobs import lineage, records, transform
from lakejobs.console import LakeError, counted, few, log, tell
from lakejobs.domains import DOMAINS, Domain
from lakejobs.engine import CsvFile, DuckDB, match
from lakejobs.lake import File
from lakejobs.lineage import DomainState
from lakejobs.parameters import DateParameter, DomainParameter

REDELIVERED = re.compile(r"(.+)-[0-9a-f]{8}(\.csv)", re.IGNORECASE)


class Bronze(luigi.Task):
    """One bronze partition: every staged file of one landing date, byte for byte, and the manifest of them."""

    domain = DomainParameter()
    date = DateParameter(description="Landing date, YYYY-MM-DD.")

    def output(self) -> BronzeTarget:
        return BronzeTarget(self.domain, self.date)

    def run(self) -> None:
        with lineage.state(self.domain).locked() as state:
            if self.date in state.stale:
                tell(self, land(state, self.date))


class BronzeTarget(luigi.Target):
    """Exists when every staged file of the date has landed and the manifest describes what is there."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date
        self.path = storage.current().bronze(domain, date)

    def exists(self) -> bool:
        return self.date not in lineage.state(self.domain).stale

    def __str__(self) -> str:
        return self.path


def land(state: DomainState, date: dt.date) -> str:
    """Copy what is staged, look at what is new in the partition, write its manifest. Returns what was done."""
    domain = DOMAINS[state.domain]
    directory = state.lake.bronze(state.domain, date)
    storage.sweep(directory)
    before = state.read_manifest(date) or {"staged": {}, "files": []}
    staged, copied, troubles = dict(before["staged"]), 0, []
    for file in list(state.staged.get(date, ())):
        if staged.get(file.name) == [file.size, file.mtime_ns]:
            continue
        try:
            copied += _copy(state, domain, date, file)
            staged[file.name] = [file.size, file.mtime_ns]
        except StillWritten:
            state.staged[date].remove(file)
            log.info("%s: %s is still being written; it is left for the next run", state.domain, file.name)
        except LakeError as error:
            troubles.append(str(error))
    files = describe(state, domain, date, before["files"])
    if files or staged or before["files"]:
        storage.write_json(
            state.lake.manifest(state.domain, date), {"scan": state.scan_hash, "staged": staged, "files": files}
        )
    state.landed(date)
    if troubles:
        raise LakeError("; ".join(troubles))
    rejected = [file for file in files if file["inspection"]["rejected"]]
    return f"{counted(copied, 'file')} landed, {sum(file['records'] for file in files):,} records" + (
        f", {counted(len(rejected), 'file')} rejected" if rejected else ""
    )


class StillWritten(Exception):
    """A staged file changed while it was read."""


def _copy(state: DomainState, domain: Domain, date: dt.date, file: File) -> bool:
    """Land one staged file. False where the very same delivery is in bronze already.

    Same name and same content: already landed. Same name, other content: lands as `<stem>-<hash8>.csv`.
    """
    source = f"{state.lake.staging_directory(state.domain)}/{file.name}"
    target = f"{state.lake.bronze(state.domain, date)}/{file.name}"
    taken = [path for path in _namesakes(state, date, file) if storage.file(path)]
    if taken:
        content = _hash(source, file)
        for path in taken:
            if storage.file(path).size == file.size and _hash(path) == content:
                return False
        if target in taken:
            stem, dot, suffix = file.name.rpartition(".")
            target = f"{state.lake.bronze(state.domain, date)}/{stem}-{content[:8]}{dot}{suffix}"
            if storage.file(target):
                return False
    with storage.reading(source) as handle, storage.publish(target) as temporary:
        with open(temporary, "wb") as copy:
            while chunk := handle.read(records.CHUNK):
                copy.write(chunk)
        _must_be(handle, file)
    return True


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
        raise StillWritten


# ------------------------------------------------------------------------------------------------ manifest


def describe(
    state: DomainState, domain: Domain, date: dt.date, before: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The manifest's entries for the files of a partition, in the order they landed.

    Entries whose file is the same as before are kept. Reports files that changed or went after they had landed.
    """
    directory = state.lake.bronze(state.domain, date)
    known = {entry["name"]: entry for entry in before}
    entries, new = [], []
    for file in storage.files(directory):
        if not storage.is_data(file.name):
            continue
        old = known.pop(file.name, None)
        if old and [old["bytes"], old["mtime_ns"]] == [file.size, file.mtime_ns]:
            entries.append(old)
            continue
        with storage.reading(f"{directory}/{file.name}") as handle:
            inspection = records.inspect(handle, list(domain.columns))
        entry = {
            "name": file.name,
            "bytes": file.size,
            "mtime_ns": file.mtime_ns,
            "landed_ns": old["landed_ns"] if old else file.mtime_ns,
            "inspection": inspection.to_json(),
            "notes": _notes(inspection, domain),
        }
        if old and old["inspection"]["sha256"] == inspection.sha256:
            entries.append({**old, "mtime_ns": file.mtime_ns})
            continue
        if old:
            entry["notes"].append(
                f"its bytes changed after it landed; it was {old['inspection']['sha256'][:12]} before"
            )
            log.warning("%s/%s changed after it landed: silver follows what it holds now", directory, file.name)
        entries.append(entry)
        new.append(entry)
    for name in known:
        log.warning("%s/%s has gone: its rows leave silver", directory, name)
    if new:
        count_records(state, domain, date, new)
    for entry in new:
        if entry["inspection"]["rejected"]:
            log.warning("%s/%s is rejected: %s", directory, entry["name"], entry["inspection"]["rejected"])
    return sorted(entries, key=lambda entry: _landing_order(entry, {e["name"] for e in entries}))


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


def count_records(state: DomainState, domain: Domain, date: dt.date, entries: Iterable[dict[str, Any]]) -> None:
    """Fill in `records`, `malformed` and `dates` (records by event date) of manifest entries, from their files.

    The engine's count is held against the number of lines; a file where they differ is read carefully from now on.
    """
    by_number = dict(enumerate(entries))
    for entry in by_number.values():
        entry.update(records=0, malformed=0, dates={})
    files = [csv_file(state, date, entry, number) for number, entry in by_number.items()]
    again = _count_records(state, domain, by_number, [file for file in files if has_records(file)])
    if again:
        for file in again:
            by_number[file.number]["inspection"]["plain"] = False
        careful = [dataclasses.replace(f, inspection=dataclasses.replace(f.inspection, plain=False)) for f in again]
        _count_records(state, domain, by_number, careful)


def _count_records(
    state: DomainState, domain: Domain, by_number: dict[int, dict[str, Any]], files: list[CsvFile]
) -> list[CsvFile]:
    """Returns the files whose count is not to be trusted."""
    if not files:
        return []
    import duckdb

    dates: dict[int, Counter[str]] = {file.number: Counter() for file in files}
    malformed: Counter[int] = Counter()
    with storage.scratch(state.lake, state.domain) as spill, DuckDB(spill) as engine:
        try:
            engine.load_csv("counted", files, list(domain.columns), transform.partition_dates(domain))
        except duckdb.InvalidInputException:
            if all(not file.inspection.plain for file in files):
                raise
            return files
        for number, day, is_malformed, count in engine.rows(
            "select file_number, partition_date, is_malformed, count(*) from counted group by all order by all"
        ):
            dates[number][day.isoformat()] += count
            malformed[number] += count * is_malformed
    doubtful = []
    for file in files:
        found, inspection = dates[file.number].total(), file.inspection
        if inspection.plain and (found != inspection.lines - 1 or (inspection.quoted and malformed[file.number])):
            doubtful.append(file)
        else:
            by_number[file.number].update(
                records=found, malformed=malformed[file.number], dates=dict(dates[file.number])
            )
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
