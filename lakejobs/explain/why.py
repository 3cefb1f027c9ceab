"""Why a file is fresh or due: what it was made from, what it should be made from, and the difference by name."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakejobs.explain import plan
from lakejobs.freshness import causes
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, newest_snapshot
from lakejobs.layers import bronze, silver
from lakejobs.messages import LakeError, few, quietly
from lakejobs.model import Cause
from lakejobs.project import broken_domains, domains
from lakejobs.storage import footer
from lakejobs.storage.layout import partition_date
from lakejobs.tables import Table, broken_tables, domains_of, tables

LAYERS = ("bronze", "silver", "gold")


@dataclass(frozen=True)
class Target:
    """What is asked about: a layer, or a domain or table of it, or a date of that."""

    layer: str
    name: str
    date: dt.date | None = None

    def __str__(self) -> str:
        return f"{self.layer} {self.name}" + (f" {self.date}" if self.date else "")


@dataclass(frozen=True)
class Answer:
    target: Target
    is_due: bool
    path: str
    """Where it is, or would be."""
    causes: Sequence[Cause] = ()
    """Why it is due."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """What its footer says that it was made from; empty if it has no intact file."""
    below: Sequence[Answer] = ()
    """The same for what it reads and is due too."""
    due: int = 0
    """Days of a domain that are due."""


def ask(run: Run, target: Target) -> Answer:
    """Why a target is fresh or due. Deliveries land in this run, whose store lies over the lake."""
    if reason := {**broken_domains(), **broken_tables()}.get(target.name):
        raise LakeError(reason)
    if target.layer == "gold":
        return _gold(run, tables()[target.name], target)
    state = run.state(target.name)
    if target.layer == "bronze":
        return _bronze(state, target)
    _land(run, state)
    if target.date is None:
        return _domain(state, target)
    return _silver(state, target, target.date)


def _land(run: Run, state: DomainState) -> None:
    if due := state.stale_landings():
        bronze.land(state, due, run.engine, quietly)
    silver.find_manifests(state, state.stale_dates(), run.engine, quietly)


def _bronze(state: DomainState, target: Target) -> Answer:
    dates = [target.date] if target.date else state.stale_landings()
    if target.date and target.date not in state.landings and target.date not in state.stale:
        raise LakeError(f"bronze {target.name} has no {target.date}, and nothing is staged for it")
    why = causes.merged({date: causes.of_bronze(state, date) for date in dates})
    path = state.lake.bronze(target.name, target.date) if target.date else state.lake.layer("bronze", target.name)
    manifest = state.read_manifest(target.date) if target.date else None
    files = (
        [[entry.name, entry.bytes, entry.inspection.content, entry.records] for entry in manifest.files]
        if manifest
        else []
    )
    is_due = bool(state.stale & set(dates))
    return Answer(target, is_due, state.lake.location(path), why, {"files": files} if files else {})


def _domain(state: DomainState, target: Target) -> Answer:
    due = state.stale_dates()
    why = causes.merged(causes.of_silver(state, due))
    path = state.lake.location(state.lake.layer("silver", target.name))
    dates = {*state.silver, *due}
    made_from = {"days": len(dates), "records": sum(map(state.records, dates))}
    return Answer(target, bool(due), path, why, made_from, due=len(due))


def _silver(state: DomainState, target: Target, date: dt.date) -> Answer:
    if date not in state.present and not state.expected(date):
        raise LakeError(f"silver {target.name} has no {date}: no record in bronze or staging belongs to it")
    path = state.lake.silver(target.name, date)
    content = footer.read_footer(state.lake.store, path) or {}
    why = causes.of_silver(state, [date]).get(date, [])
    made_from = dict(content.get("lineage", {}))
    return Answer(target, not state.is_fresh(date), state.lake.location(path), why, made_from)


def _gold(run: Run, table: Table, target: Target) -> Answer:
    for domain in domains_of(table):
        if domain in broken_domains():
            raise LakeError(broken_domains()[domain])
        _land(run, run.state(domain))
    should = plan.inputs(run, table)
    newest, _ = newest_snapshot(run, table)
    path = run.lake.gold(table.name, newest) if newest else run.lake.layer("gold", table.name)
    content = (footer.read_footer(run.lake.store, path) if newest else None) or {}
    why = causes.of_gold(run, table, should)
    below = [_below(run, source.name, target.date) for source in table.sources]
    if target.date:
        day = target.date.isoformat()
        known: Inputs = content.get("inputs", {})
        if not table.is_daily:
            raise LakeError(f"{table.name} has no date in its grain; ask why {table.name}")
        if not any(day in days for days in (*known.values(), *should.values())) and table.is_by_day:
            raise LakeError(f"{table.name} has no {day}: none of its sources has rows of that day")
        if table.is_by_day:
            by_day = {source.name for source in table.sources if not source.all_days}
            why = [cause for cause in why if cause.kind != "source" or cause.name not in by_day] + [
                cause
                for name in by_day & {*domains()}
                for cause in causes.of_inputs({name: _only(known, name, day)}, {name: _only(should, name, day)})
            ]
    return Answer(
        target,
        bool(why),
        run.lake.location(path),
        why,
        content,
        [answer for answer in below if answer and answer.is_due],
    )


def _only(inputs: Inputs, name: str, day: str) -> dict[str, str]:
    return {date: identity for date, identity in inputs.get(name, {}).items() if date == day}


def _below(run: Run, source: str, date: dt.date | None) -> Answer | None:
    if source not in domains():
        return _gold(run, tables()[source], Target("gold", source))
    state = run.state(source)
    if date is None:
        return _domain(state, Target("silver", source))
    if date not in state.present and not state.expected(date):
        return None
    return _silver(state, Target("silver", source, date), date)


# ------------------------------------------------------------------------------------------------ which target


def find(run: Run, words: Sequence[str]) -> Target:
    """The target that words name: a path, `silver/sales/2026-11-01`, a table, a domain, either with a day."""
    text = "/".join(words)
    root = run.lake.location("").rstrip("/")
    text = text.removeprefix(root).removeprefix(f"{root.rpartition('/')[2]}/").strip("/")
    parts = [part for part in text.split("/") if part]
    layer = parts.pop(0) if parts and parts[0] in LAYERS else None
    if not parts:
        raise LakeError(f"expected a table, a domain or a path in the lake; known: {_known()}")
    name, rest = parts[0], parts[1:]
    if layer is None:
        layer = "gold" if name in {*tables(), *broken_tables()} else "silver"
    known = {*tables(), *broken_tables()} if layer == "gold" else {*domains(), *broken_domains()}
    if name not in known:
        raise LakeError(f"unknown {'table' if layer == 'gold' else 'domain or table'} {name}; known: {_known()}")
    return Target(layer, name, _date(layer, rest))


def _date(layer: str, rest: Sequence[str]) -> dt.date | None:
    if not rest or (layer == "gold" and rest[0].endswith(".parquet")):
        return None
    try:
        return partition_date("/".join(rest)) if rest[0].startswith("year=") else dt.date.fromisoformat(rest[0])
    except (ValueError, TypeError):
        raise LakeError(f"expected a day as YYYY-MM-DD, got {'/'.join(rest)}") from None


def _known() -> str:
    return few([*domains(), *tables()], 30)
