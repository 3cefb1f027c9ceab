"""Silver: typed, corrected, deduplicated and validated rows by event date.

One pass builds any number of partitions. The engine reads the bronze files that hold their records, types, rescues and
corrects every record, keeps the last of each key, and has Great Expectations validate the rows; each date is published
as one file. Every bronze record becomes a valid row, an invalid row, or a superseded duplicate; the footer counts each.

If a partition only lacks the records of some files, they are merged into what is stored. The result is the same, except
for `processed_at` of the rows that were there.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lakejobs.engine import CsvFile, Engine, SilverJob, SilverResult, Stored
from lakejobs.engine.sql import READING
from lakejobs.freshness import causes
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.made_by import SILVER_VERSION
from lakejobs.layers import bronze
from lakejobs.messages import LakeError, OnProgress, counted, few, log, percent
from lakejobs.model import Cause, Counts, ManifestEntry, SilverFooter
from lakejobs.quality.evaluation import Validation
from lakejobs.quality.suite import Suite, load_suite
from lakejobs.storage import footer

WRITERS = 4


@dataclass(frozen=True)
class Built:
    """The outcome of building silver partitions."""

    removed: Sequence[dt.date] = ()
    """Partitions that no longer have records."""
    validation: Validation | None = None
    """Of the partitions that were built, if any."""
    counts: Mapping[dt.date, Counts] = field(default_factory=dict)
    withheld: Mapping[dt.date, Sequence[str]] = field(default_factory=dict)
    """Partitions that were built but not published, and why."""
    examples: Mapping[int | str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """See `SilverResult.examples`."""
    new_records: int = 0
    """Records that were read; the others were merged with."""
    causes: Sequence[Cause] = ()
    """Why the partitions were stale."""

    def __str__(self) -> str:
        """`3 partitions, 12,345 records, 4.1% invalid, 23 duplicates`; after a merge `45 new of 12,345 records`."""
        said = []
        if self.counts:
            records, rows, invalid, duplicates = (
                sum(getattr(count, name) for count in self.counts.values())
                for name in ("records", "rows", "invalid", "duplicates")
            )
            new = f"{self.new_records:,} new of " if self.new_records < records else ""
            said.append(
                f"{counted(len(self.counts), 'partition')}, {new}{counted(records, 'record')}, "
                f"{percent(invalid / rows if rows else 0.0)} invalid, {counted(duplicates, 'duplicate')}"
            )
        if self.removed:
            said.append(f"{counted(len(self.removed), 'partition')} removed (no records left)")
        return "; ".join(said)


def build(
    state: DomainState, dates: Sequence[dt.date], engine: Engine, chunk_rows: int, merge: bool, on_progress: OnProgress
) -> Built:
    """Bring silver partitions up to date with bronze, and remove those that no longer have records.

    `chunk_rows`: how many rows are validated at once. `merge`: whether to merge new records into stored partitions
    where possible.
    """
    suite = load_suite(state.reading.domain)
    find_manifests(state, dates, engine, on_progress)
    wanted = [date for date in dates if state.expected(date)]
    removed = [date for date in dates if not state.expected(date)]
    before = causes.footers_of(state, dates)
    why = causes.of_silver(state, dates, before)
    history = causes.history(why, before)
    for reason, rebuilt in why_rebuilt(why).items():
        log.info("%s: rebuilding %s: %s", state.domain, counted(len(rebuilt), "partition"), reason)
    built = Built(removed, causes=causes.merged(why))
    if wanted:
        found = sources(state, wanted)
        merged = stored(state, suite, wanted, found) if merge else {}
        made_by = state.made_by.to_json()
        job = SilverJob(
            reading=state.reading,
            suite=suite,
            dates={date: state.records(date) for date in wanted},
            files=[file for file, entry in found if any(is_new(file, entry, date, merged) for date in wanted)],
            chunk_rows=chunk_rows,
            stored=merged,
            footers={date: footer_of(state, date) for date in wanted},
            lineages={
                date: {"files": files_of(found, date), **made_by, "history": history.get(date, [])} for date in wanted
            },
        )
        with engine.silver(job, on_progress) as result:
            withheld = result.validation.withheld()
            # Before publishing, because it reads the files that publishing replaces.
            examples = result.examples()
            published = [date for date in wanted if date not in withheld]
            publish(state, published, result, merged, on_progress)
            built = dataclasses.replace(
                built,
                validation=result.validation,
                counts=result.counts,
                withheld=withheld,
                examples=examples,
                new_records=job.new_records,
            )
    for date in removed:
        state.lake.store.remove(state.lake.silver(state.domain, date))
        state.removed[date] = [str(cause) for cause in why.get(date, ())][: causes.MOST_CAUSES]
        state.published(date)
    return built


def sources(state: DomainState, dates: Sequence[dt.date]) -> list[tuple[CsvFile, ManifestEntry]]:
    """The bronze files that hold records of these dates, each with its manifest entry.

    In order of delivery, which is also the order of their numbers.
    """
    days = {date.isoformat() for date in dates}
    entries = [
        (landing, entry)
        for landing in state.landings_needed(dates)
        if (manifest := state.read_manifest(landing))
        for entry in manifest.files
        if days & entry.dates.keys()
    ]
    entries.sort(key=lambda one: bronze.delivery_order(*one))
    return [(bronze.csv_file(state, *one, number), one[1]) for number, one in enumerate(entries)]


def stored(
    state: DomainState, suite: Suite, dates: Sequence[dt.date], files: Sequence[tuple[CsvFile, ManifestEntry]]
) -> dict[dt.date, Stored]:
    """The partitions among `dates` that only lack records of some of the `files`, whose rows are otherwise as they
    would be built now, and whose file is intact."""
    if any(rule.code.startswith(READING) for rule in suite.rules):
        return {}  # codes of rules could not be told from those that come from reading
    found = {}
    for date in dates:
        known, path = state.silver.get(date), state.lake.silver(state.domain, date)
        made_by = (SILVER_VERSION, state.made_by.rules_hash, state.made_by.warnings_hash)
        if not known or (known.version, known.rules, known.warnings) != made_by or not known.counts.rows:
            continue
        held = {tuple(lineage_of(file, entry, date)): file for file, entry in files if date.isoformat() in entry.dates}
        file, content = state.lake.store.stat(path), footer.read_footer(state.lake.store, path)
        if file is None or content is None:
            continue
        old = [tuple(one) for one in content["lineage"]["files"]]
        if not held.keys() >= {*old} or sum(records for *_, records in old) != known.counts.records:
            continue
        found[date] = Stored(
            path=path,
            version=file.version,
            counts=SilverFooter.from_json(content).counts,
            verdicts=content["verdicts"],
            files={held[one].name: held[one].number for one in old},
        )
    return found


def is_new(file: CsvFile, entry: ManifestEntry, date: dt.date, merged: Mapping[dt.date, Stored]) -> bool:
    """Whether a file holds records of a partition that are not stored there."""
    return date.isoformat() in entry.dates and not (date in merged and file.name in merged[date].files)


def footer_of(state: DomainState, date: dt.date) -> SilverFooter:
    """What a partition's footer will say before anything is counted."""
    made_by = state.made_by
    return SilverFooter(state.expected(date) or "", SILVER_VERSION, made_by.rules_hash, made_by.warnings_hash)


def files_of(files: Sequence[tuple[CsvFile, ManifestEntry]], date: dt.date) -> list[list[Any]]:
    """What a partition's footer says of the files it was made from."""
    day = date.isoformat()
    return [lineage_of(file, entry, date) for file, entry in files if day in entry.dates]


def lineage_of(file: CsvFile, entry: ManifestEntry, date: dt.date) -> list[Any]:
    """What it says of one of them: name, size, content, and its records there."""
    return [file.name, entry.bytes, entry.inspection.content, entry.dates[date.isoformat()]]


def why_rebuilt(why: Mapping[dt.date, Sequence[Cause]]) -> dict[str, list[dt.date]]:
    """Partitions that are rebuilt for a reason other than their input, by that reason."""
    found: dict[str, list[dt.date]] = {}
    for date, causes_there in why.items():
        if said := "; ".join(str(cause) for cause in causes_there if cause.kind not in ("file", "target")):
            found.setdefault(said, []).append(date)
    return found


def find_manifests(state: DomainState, dates: Sequence[dt.date], engine: Engine, on_progress: OnProgress) -> None:
    """Rebuild the manifests that these dates need, if they are lost or have changed."""
    while lost := [landing for landing in state.landings_needed(dates) if not state.has_manifest(landing)]:
        bronze.land(state, lost, engine, on_progress)


def publish(
    state: DomainState,
    dates: Sequence[dt.date],
    result: SilverResult,
    merged: Mapping[dt.date, Stored],
    on_progress: OnProgress,
) -> None:
    """Publish one file per date.

    Writes several at once, because each write waits for the disk.
    """
    store = state.lake.store

    def write(date: dt.date) -> str:
        path, rows = state.lake.silver(state.domain, date), result.counts[date].rows
        store.sweep(path.rpartition("/")[0])
        with store.publish(path) as temporary:
            written = result.write(date, temporary)
            if written != rows:
                raise LakeError(
                    f"{state.lake.location(path)}: expected to write {rows:,} rows, but wrote {written:,}; run again"
                )
            if date in merged and ((now := store.stat(path)) is None or now.version != merged[date].version):
                raise LakeError(f"{state.lake.location(path)} changed while it was read; run again")
            footer.seal(temporary)
        return path

    with ThreadPoolExecutor(WRITERS) as pool:
        paths = pool.map(write, dates) if len(dates) > 1 else map(write, dates)
        for number, (date, path) in enumerate(zip(dates, paths, strict=True)):
            if number % 20 == 0:
                on_progress(f"writing partition {number + 1:,} of {len(dates):,}", 60 + 40 * number // len(dates))
            state.published(date)
            if not state.is_fresh(date):
                raise LakeError(
                    f"{state.lake.location(path)} could not be read back as it was written; is the disk failing?"
                )


def withheld_message(domain: str, built: Built, suite_path: str, page: str) -> str:
    """The error message about withheld partitions."""
    reasons = [f"{date}: {', '.join(why)}" for date, why in built.withheld.items()]
    return (
        f"{domain}: withheld {few(built.withheld)}, because critical rules fail for the whole partition: "
        f"{few(reasons, 5)}. Earlier versions stay published, the other partitions are in silver, and gold tables that "
        f"read {domain} are not rebuilt. Fix the data, or the rule in {suite_path}. See {page}"
    )
