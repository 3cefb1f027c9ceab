"""Verifying: the lake is made anew from bronze, over it, and compared with what is there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lakejobs.config import lake as settings
from lakejobs.engine.comparing import Difference, comparing
from lakejobs.engine.records import content_hash
from lakejobs.explain import plan
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Keep, footer, is_fresh, newest_snapshot, snapshots
from lakejobs.layers import gold, silver
from lakejobs.messages import LakeError, quietly, span
from lakejobs.project import broken_domains, domains
from lakejobs.storage import MissingError
from lakejobs.storage import footer as footers
from lakejobs.storage.overlay import Overlay
from lakejobs.tables import Table, broken_tables, tables

ROW = ("source_file", "source_record")
"""What identifies a row of silver."""
Watch = Callable[[str], None]


@dataclass
class Verified:
    """What was made anew, and what was found."""

    files: int = 0
    """Bronze files whose content was compared with its hash."""
    partitions: int = 0
    tables: int = 0
    damaged: list[str] = field(default_factory=list)
    """Files that are not as they were written, in words."""
    drifted: dict[str, Difference] = field(default_factory=dict)
    """Silver partitions and gold tables that differ from what is made of their inputs: old as it is, new as made."""
    skipped: list[str] = field(default_factory=list)
    """What was not verified, because it is due, in words."""
    failed: list[str] = field(default_factory=list)
    """What could not be verified, because it is broken, in words."""


def check(run: Run, days: int | None, watch: Watch) -> Verified:
    """Verify the newest `days` days of each domain, or all, and every gold table. `watch` is told what comes next."""
    found = Verified()
    found.failed += [*broken_domains().values(), *broken_tables().values()]
    for domain in domains():
        try:
            _domain(run, run.state(domain), days, found, watch)
        except LakeError as error:
            found.failed.append(f"{domain}: {error}")
    for table in tables().values():
        try:
            _table(run, table, found, watch)
        except LakeError as error:
            found.failed.append(f"{table.name}: {error}")
    return found


def _domain(run: Run, state: DomainState, days: int | None, found: Verified, watch: Watch) -> None:
    if due := state.stale_landings():
        found.skipped.append(f"bronze {state.domain} is due: {span(due)}")
    damaged = sorted(state.present - {*state.silver})
    missing = sorted(date for date in _built(run, state.domain) if date not in state.present and state.expected(date))
    for dates, what in ((damaged, "damaged"), (missing, "missing")):
        paths = [state.lake.location(state.lake.silver(state.domain, date)) for date in dates]
        found.damaged += [f"{path} is {what}" for path in paths]
    due = [date for date in state.stale_dates() if date not in damaged + missing]
    if due:
        found.skipped.append(f"silver {state.domain} is due: {span(due)}")
    newest = sorted({*state.silver, *state.stale_dates()})
    newest = newest[-days:] if days is not None else newest
    fresh = [date for date in newest if date in state.silver and state.is_fresh(date)]
    watch(f"bronze {state.domain}")
    _bronze(state, newest, found)
    if not fresh:
        return
    watch(f"silver {state.domain}")
    silver.find_manifests(state, fresh, run.engine, quietly)
    built = silver.build(state, fresh, run.engine, settings().chunk_rows, merge=False, on_progress=quietly)
    for date, reasons in built.withheld.items():
        found.skipped.append(f"silver {state.domain} {date} would be withheld: {', '.join(reasons)}")
    for date in fresh:
        if date not in built.withheld:
            found.partitions += 1
            path = state.lake.silver(state.domain, date)
            _compare(run, f"silver {state.domain} {date}", path, path, ROW, found)


def _built(run: Run, domain: str) -> set[dt.date]:
    """The dates whose silver gold was built from."""
    days: set[str] = set()
    for table in tables().values():
        newest, _ = newest_snapshot(run, table)
        content = footers.read_footer(run.lake.store, run.lake.gold(table.name, newest)) if newest else None
        days |= {*(content or {}).get("inputs", {}).get(domain, {})}
    return set(map(dt.date.fromisoformat, days))


def _bronze(state: DomainState, dates: Sequence[dt.date], found: Verified) -> None:
    for landing in state.landings_needed(dates):
        manifest = state.read_manifest(landing)
        for entry in manifest.files if manifest else ():
            found.files += 1
            path = f"{state.lake.bronze(state.domain, landing)}/{entry.name}"
            try:
                with state.lake.store.reading(path) as handle:
                    is_same = content_hash(handle) == entry.inspection.sha256
            except MissingError as error:
                found.damaged.append(str(error))
                continue
            if not is_same:
                found.damaged.append(f"{state.lake.location(path)} has another content than when it landed")


def _table(run: Run, table: Table, found: Verified, watch: Watch) -> None:
    for snapshot in snapshots(run, table):
        if not footer(run, table, snapshot):
            found.damaged.append(run.lake.location(run.lake.gold(table.name, snapshot.name)) + " is damaged")
    if not is_fresh(run, table):
        what = "needs silver that is damaged or missing" if plan.stays(run, table) else "is due"
        found.skipped.append(f"gold {table.name} {what}")
        return
    watch(f"gold {table.name}")
    newest, _ = newest_snapshot(run, table)
    assert newest is not None
    # Without a snapshot to carry rows over from, all of it is computed.
    for snapshot in snapshots(run, table):
        run.lake.store.remove(run.lake.gold(table.name, snapshot.name))
    run.forget_gold_files(table.name)
    gold.build(run, table, run.engine, Keep.as_set())
    made, _ = newest_snapshot(run, table)
    assert made is not None
    found.tables += 1
    old, new = run.lake.gold(table.name, newest), run.lake.gold(table.name, made)
    _compare(run, f"gold {table.name}", old, new, table.grain, found)


def _compare(run: Run, name: str, old: str, new: str, key: Sequence[str], found: Verified) -> None:
    over = run.lake.store
    assert isinstance(over, Overlay)
    before, after = over.base.on_disk([old]), over.on_disk([new])
    with over.scratch("verify") as spill, comparing(spill, settings().memory_limit, before, after) as compared:
        if difference := compared.difference(key):
            found.drifted[name] = difference
