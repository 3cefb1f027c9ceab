"""Gold: one table per SQL file, published as snapshots.

A table with the date in its grain computes only the days whose sources changed, and carries the other rows over from
its last snapshot. A snapshot's footer holds the identities of its inputs, the hash of its SQL and the engine that
computed it, so the next run knows what is stale.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs.engine import Engine, GoldJob, GoldSource, GrainError, OtherDateError, QueryError
from lakejobs.engine.sql import relations_read
from lakejobs.engine.types import silver_types
from lakejobs.freshness import causes, restatements
from lakejobs.freshness.made_by import GOLD_VERSION
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, Keep, footer, identity, inputs, newest_snapshot, snapshots
from lakejobs.messages import LakeError, counted, few
from lakejobs.model import Cause, GoldFooter
from lakejobs.project import domains
from lakejobs.storage import footer as footers
from lakejobs.storage.layout import snapshot_name
from lakejobs.tables import Source, Table, domains_of, tables


@dataclass(frozen=True)
class Built:
    """A snapshot that was published."""

    rows: int
    computed: int | None
    """Days that were computed; None for all of the table."""
    carried: int
    """Days that were carried over from the last snapshot."""
    restated: int
    """Cells of closed days that changed."""
    causes: Sequence[Cause]
    """Why the table was stale."""

    def __str__(self) -> str:
        """`12 rows, 1 day computed, 11 carried over; 3 cells of closed days changed`."""
        said = counted(self.rows, "row")
        if self.computed is not None:
            said += f", {counted(self.computed, 'day')} computed, {self.carried:,} carried over"
        if self.restated:
            said += f"; {counted(self.restated, 'cell')} of closed days changed"
        return "; ".join([said, *(str(cause) for cause in self.causes if cause.kind in ("sql", "version"))])


def build(run: Run, table: Table, engine: Engine, keep: Keep) -> Built:
    """Publish a new snapshot, and remove the old ones that need not be kept."""
    logged = restatements.settle(run, table)
    before, known = newest_snapshot(run, table)
    made_from = inputs(run, table)
    is_same = is_alike(table, known, engine)
    if not is_same:
        check_sources(table)
    last: dict[str, Any] = {}
    if before:
        last = footers.read_footer(run.lake.store, run.lake.gold(table.name, before)) or {}
    why = causes.of_gold(run, table, made_from, last)
    old: Inputs = last.get("inputs", {})
    computed, carried = days_to_compute(table, old if is_same else {}, made_from)
    run.lake.store.sweep(run.lake.layer("gold", table.name))
    now = dt.datetime.now(dt.UTC)
    found = snapshots(run, table)
    name = snapshot_name(table.name, found[-1].name if found else None, now)
    content: dict[str, Any] = {
        "identity": identity(run, table, made_from),
        "version": GOLD_VERSION,
        "sql": table.hash,
        "statement": table.statement,
        "engine": engine.name,
        "inputs": made_from,
        "generated_at": now.isoformat(),
    }
    paths = {source.name: _paths(run, table, source.name) for source in table.sources}
    job = gold_job(table, paths, computed, now)
    if before and carried:
        job = dataclasses.replace(job, carried=[(run.lake.gold(table.name, before), carried)])
    with run.lake.store.publish(run.lake.gold(table.name, name)) as temporary:
        rows = write(table, job, engine, temporary, footers.footer_text(content))
        footers.seal(temporary)
        restated = 0
        if before:
            it = restatements.Replacement(table, before, name, computed, old, made_from, why, logged, now)
            restated = restatements.prepare(run, it, temporary)
    run.forget_gold_files(table.name)
    if restated:
        restatements.settle(run, table)
    prune(run, table, keep)
    return Built(rows, None if computed is None else len(computed), len(carried), restated, why)


def is_alike(table: Table, known: GoldFooter | None, engine: Engine) -> bool:
    """Whether a snapshot was computed as it would be now, so that its rows can be carried over."""
    return known is not None and (known.version, known.sql, known.engine) == (GOLD_VERSION, table.hash, engine.name)


def days_to_compute(table: Table, old: Inputs, new: Inputs) -> tuple[list[str] | None, list[str]]:
    """The days to compute, and the days to carry over from the last snapshot, which was built from `old`.

    The former is None if the table is recomputed in full.
    """
    if not table.is_by_day:
        return None, []
    by_day = [source.name for source in table.sources if source.name in domains() and not source.all_days]
    others = [source.name for source in table.sources if source.name not in by_day]
    days = sorted({day for name in by_day for day in new[name]})
    if not old or any(old.get(name) != new[name] for name in others):
        return days, []

    def stays(day: str) -> bool:
        return all(old.get(name, {}).get(day) == new[name].get(day) for name in by_day)

    known = {day for name in by_day for day in old.get(name, ())}
    carried = [day for day in days if day in known and stays(day)]
    return sorted(set(days) - set(carried)), carried


def _paths(run: Run, table: Table, source: str) -> dict[str, str]:
    """The files of a source, as in `GoldSource`."""
    if source in domains():
        return {day.isoformat(): run.lake.silver(source, day) for day in sorted(run.state(source).silver)}
    newest, _ = newest_snapshot(run, tables()[source])
    if newest is None:
        raise LakeError(f"gold table {table.name} reads {source}, which has no snapshot")
    return {"": run.lake.gold(source, newest)}


def gold_job(
    table: Table, paths: Mapping[str, Mapping[str, str]], days: Sequence[str] | None, generated_at: dt.datetime
) -> GoldJob:
    """What a snapshot is built from if it carries nothing over. `paths`: files by source, as in `GoldSource`."""
    sources = [_source(table, source, paths[source.name]) for source in table.sources]
    return GoldJob(table.statement, table.grain, sources, days, (), generated_at)


def _source(table: Table, source: Source, paths: Mapping[str, str]) -> GoldSource:
    """What the SQL reads under a source's name."""
    if source.name in domains():
        return GoldSource(source.name, silver_types(domains()[source.name]), paths, not source.all_days)
    is_daily = table.is_by_day and not source.all_days
    if is_daily and not tables()[source.name].is_daily:
        raise LakeError(
            f"{table.path}: {source.name} has no date in its grain; write {source.name} (all days) in the line of "
            "sources, so that each day sees all of it"
        )
    return GoldSource(source.name, {}, paths, is_daily)


def write(table: Table, job: GoldJob, engine: Engine, path: str, content: str) -> int:
    """Write a snapshot to a local path, with `content` as its footer; returns the number of rows.

    Raises LakeError if the SQL cannot be run, or its rows do not have the table's grain.
    """
    with sql_errors(table):
        return engine.gold(job, path, content)


@contextlib.contextmanager
def sql_errors(table: Table) -> Iterator[None]:
    """Raise LakeError, with the file, for what the engine says of a table's SQL."""
    try:
        yield
    except QueryError as error:
        # The engine's line numbers are one higher than the file's.
        said = re.sub(r"\bLINE (\d+)", lambda found: f"line {max(1, int(found[1]) - 1)}", str(error))
        raise LakeError(f"{table.path}: {' '.join(said.split())}") from error
    except GrainError as error:
        raise LakeError(f"{table.path}: {error}") from error
    except OtherDateError as error:
        raise LakeError(
            f"{table.path}: it assigns events of {error.day} to {error.other}, but the date in a grain is the UTC day "
            "of the event. Give that column another name, such as week, and the table is recomputed in full."
        ) from error


def check_sources(table: Table) -> None:
    """Raises LakeError if the SQL reads what the header does not name, or the other way round."""
    read = relations_read(table.statement)
    if read is None:
        return  # the engine's error message is better
    named = {source.name for source in table.sources}
    if unknown := sorted(read - named):
        there = few(sorted({*domains(), *tables()} - {table.name}), 20)
        raise LakeError(
            f"{table.path}: its SQL reads {few(unknown)}, which its second line does not name as a source; "
            f"known sources: {there}"
        )
    if unread := sorted(named - read):
        raise LakeError(f"{table.path}: its second line names {few(unread)} as a source, but its SQL does not read it")


def prune(run: Run, table: Table, keep: Keep) -> None:
    """Remove the snapshots that need not be kept, and damaged ones.

    The latter cannot be rebuilt, and readers would fail on them.
    """
    for snapshot in snapshots(run, table):
        if not footer(run, table, snapshot):
            run.lake.store.remove(run.lake.gold(table.name, snapshot.name))
            run.forget_gold_files(table.name)
    for name in keep.expired([snapshot.name for snapshot in snapshots(run, table)]):
        path = run.lake.gold(table.name, name)
        run.lake.store.remove(path)
        run.forget_gold_files(table.name)
        run.state(domains_of(table)[0]).gold_footer(path, None)  # forget it
