"""Gold: one table per SQL file, published as snapshots.

A table with the date in its grain computes only the days whose sources changed, and carries the other rows over from
its last snapshot. A snapshot's footer holds the identities of its inputs, the hash of its SQL and the engine that
computed it, so the next run knows what is stale.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lakejobs.engine import Engine, GoldJob, GoldSource, GrainError, OtherDateError, QueryError
from lakejobs.engine.sql import relations_read
from lakejobs.engine.types import sql_type
from lakejobs.freshness.made_by import GOLD_VERSION
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, footer, identity, inputs, newest_snapshot, snapshots
from lakejobs.messages import LakeError, counted, few
from lakejobs.model import BOOKKEEPING, Domain
from lakejobs.project import domains
from lakejobs.storage import footer as footers
from lakejobs.storage.layout import snapshot_name
from lakejobs.tables import Source, Table, domains_of, tables


def build(run: Run, table: Table, engine: Engine, keep: int) -> str:
    """Publish a new snapshot, and keep `keep` older ones. Returns a summary."""
    before, known = newest_snapshot(run, table)
    made_from = inputs(run, table)
    made_by = (GOLD_VERSION, table.hash, engine.name)
    is_same = known is not None and (known.version, known.sql, known.engine) == made_by
    if not is_same:
        check_sources(table)
    old: Inputs = {}
    if before and is_same:
        old = (footers.read_footer(run.lake.store, run.lake.gold(table.name, before)) or {}).get("inputs", {})
    computed, carried = days_to_compute(table, old, made_from)
    run.lake.store.sweep(run.lake.layer("gold", table.name))
    now = dt.datetime.now(dt.UTC)
    found = snapshots(run, table)
    name = snapshot_name(table.name, found[-1].name if found else None, now)
    content: dict[str, Any] = {
        "identity": identity(run, table, made_from),
        "version": GOLD_VERSION,
        "sql": table.hash,
        "engine": engine.name,
        "inputs": made_from,
        "generated_at": now.isoformat(),
    }
    paths = {source.name: _paths(run, table, source.name) for source in table.sources}
    job = gold_job(table, paths, computed, now)
    if before and carried:
        job = dataclasses.replace(job, carried=(run.lake.gold(table.name, before), carried))
    with run.lake.store.publish(run.lake.gold(table.name, name)) as temporary:
        rows = write(table, job, engine, temporary, footers.footer_text(content))
        footers.seal(temporary)
    run.forget_gold_files(table.name)
    prune(run, table, keep)
    said = counted(rows, "row")
    if computed is not None:
        said += f", {counted(len(computed), 'day')} computed, {len(carried):,} carried over"
    if known and known.version != GOLD_VERSION:
        said += "; rebuilt because an earlier version of lakejobs made it"
    elif known and known.sql != table.hash:
        said += "; rebuilt because its SQL changed"
    elif known and known.engine != engine.name:
        said += f"; rebuilt by another engine: {known.engine} → {engine.name}"
    return said


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
    return GoldJob(table.statement, table.grain, sources, days, None, generated_at)


def _source(table: Table, source: Source, paths: Mapping[str, str]) -> GoldSource:
    """What the SQL reads under a source's name."""
    if source.name in domains():
        return GoldSource(source.name, sql_types(domains()[source.name]), paths, not source.all_days)
    is_daily = table.is_by_day and not source.all_days
    if is_daily and not tables()[source.name].is_daily:
        raise LakeError(
            f"{table.path}: {source.name} has no date in its grain; write {source.name} (all days) in the line of "
            "sources, so that each day sees all of it"
        )
    return GoldSource(source.name, {}, paths, is_daily)


def sql_types(domain: Domain) -> dict[str, str]:
    """The columns of a domain's silver and their SQL types."""
    return {name: sql_type(kind) for name, kind in domain.columns.items()} | BOOKKEEPING


def write(table: Table, job: GoldJob, engine: Engine, path: str, content: str) -> int:
    """Write a snapshot to a local path, with `content` as its footer; returns the number of rows.

    Raises LakeError if the SQL cannot be run, or its rows do not have the table's grain.
    """
    try:
        return engine.gold(job, path, content)
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


def prune(run: Run, table: Table, keep: int) -> None:
    """Keep the newest snapshot and `keep` older ones.

    Also removes damaged snapshots: they cannot be rebuilt, and readers would fail on them.
    """
    for snapshot in snapshots(run, table):
        if not footer(run, table, snapshot):
            run.lake.store.remove(run.lake.gold(table.name, snapshot.name))
            run.forget_gold_files(table.name)
    for snapshot in snapshots(run, table)[: -1 - max(0, keep)]:
        path = run.lake.gold(table.name, snapshot.name)
        run.lake.store.remove(path)
        run.forget_gold_files(table.name)
        run.state(domains_of(table)[0]).gold_footer(path, None)  # forget it
