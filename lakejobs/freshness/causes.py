"""Causes: why a file is stale, by the names of what differs between what it was made from and what it should be."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.made_by import GOLD_VERSION
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, newest_snapshot, snapshots
from lakejobs.messages import counted, few, span
from lakejobs.model import Cause, Staged
from lakejobs.storage import documents, footer
from lakejobs.tables import Table

MOST_CAUSES = 20
MOST_CHANGES = 20
"""What a footer remembers."""

# ------------------------------------------------------------------------------------------------ bronze


def of_bronze(state: DomainState, date: dt.date) -> list[Cause]:
    """Why a landing date is stale: what differs between staging, bronze and the manifest. Nothing if it is fresh."""
    if date not in state.stale:
        return []
    staged = {file.name: file for file in state.staged.get(date, ())}
    listing = state.list_bronze(date)
    there = {file.name: file for file in listing.files()} if listing else {}
    manifest = state.read_manifest(date)
    content = documents.read_json(state.lake.store, state.lake.manifest(state.domain, date))
    # One that was made with other settings still says what has landed; one of an earlier version may not.
    landed: dict[str, Staged] = {}
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        landed = {name: Staged(**known) for name, known in (content or {"staged": {}})["staged"].items()}
    described = {entry.name: entry for entry in manifest.files} if manifest else {}
    found = []
    for name, file in staged.items():
        known = landed.get(name)
        if known is None and (content or name not in there):
            found.append(Cause("file", name, f"{name} is new in staging"))
        elif known and known.version != file.version:
            found.append(Cause("file", name, f"{name} was written or touched in staging"))
        elif known and not state.is_landed(known.landed_as):
            found.append(Cause("file", name, f"{name} is in staging, but no longer in bronze"))
    if manifest is None and there:
        what = "was made with other settings or another domain" if content else "is missing or damaged"
        found.append(Cause("manifest", "", f"the manifest {what}, so records are counted again"))
    if manifest:
        for name in {**described, **there}:
            if name not in there:
                found.append(Cause("file", name, f"{name} was deleted from bronze"))
            elif name not in described:
                found.append(Cause("file", name, f"{name} was put into bronze"))
            elif there[name].version != described[name].version:
                found.append(Cause("file", name, f"{name} was written or touched in bronze"))
    return found


# ------------------------------------------------------------------------------------------------ silver


def footers_of(state: DomainState, dates: Iterable[dt.date]) -> dict[dt.date, dict[str, Any]]:
    """The whole footers of the intact silver partitions among these, whose checksums the state has verified."""
    found = {}
    for date in dates:
        path = state.lake.silver(state.domain, date)
        if date in state.silver and (content := footer.read_footer(state.lake.store, path, verify=False)):
            found[date] = content
    return found


def of_silver(
    state: DomainState, dates: Iterable[dt.date], footers: Mapping[dt.date, Mapping[str, Any]] | None = None
) -> dict[dt.date, list[Cause]]:
    """Why silver partitions are stale, by date; nothing for those that are fresh. Needs the manifests.

    `footers`: see `footers_of`; None reads them.
    """
    stale = [date for date in dates if not state.is_fresh(date)]
    if footers is None:
        footers = footers_of(state, stale)
    now = files_of(state, stale)
    found: dict[dt.date, list[Cause]] = {}
    # Most partitions share their rules, and comparing these again for each would take longer than reading footers.
    rules: dict[tuple[int, str, str], list[Cause]] = {}
    for date in stale:
        known, content = state.silver.get(date), footers.get(date)
        if known is None or content is None:
            if date in state.present:
                found[date] = [Cause("target", "", "its file is damaged")]
                continue
            there = [Cause("file", path, f"{path} has records of it", records=now[date][path][2]) for path in now[date]]
            found[date] = [Cause("target", "", "it has no file"), *there]
            continue
        made_by = (known.version, known.rules, known.warnings)
        if made_by not in rules:
            rules[made_by] = state.made_by.causes(content["lineage"])
        before = {name: tuple(rest) for name, *rest in content["lineage"]["files"]}
        found[date] = rules[made_by] + _files(state, before, now[date], rules[made_by])
    return found


def history(
    why: Mapping[dt.date, Sequence[Cause]], footers: Mapping[dt.date, Mapping[str, Any]]
) -> dict[dt.date, list[tuple[str, list[str]]]]:
    """What became of the rows of silver partitions, the last change last: what they were before, and the causes.

    It goes into the footer of what is built now, because gold may have seen any of the earlier versions.
    """
    found = {}
    for date, causes in why.items():
        if content := footers.get(date):
            before = content["lineage"].get("history", [])
            said = [str(cause) for cause in causes[:MOST_CAUSES]]
            if len(causes) > MOST_CAUSES:
                said.append(f"{len(causes) - MOST_CAUSES:,} more")
            found[date] = [*before, (content["identity"], said)][-MOST_CHANGES:]
    return found


def since(content: Mapping[str, Any], identity: str) -> list[str]:
    """Why the rows of a silver partition changed since they had this identity, by its footer; nothing if unknown."""
    changes = content.get("lineage", {}).get("history", [])
    # The last time that it had it: rows may change and change back.
    first = max((number for number, (before, _) in enumerate(changes) if before == identity), default=len(changes))
    return list(dict.fromkeys(said for _, causes in changes[first:] for said in causes))


def files_of(state: DomainState, dates: Sequence[dt.date]) -> dict[dt.date, dict[str, tuple[Any, ...]]]:
    """The files that hold records of these dates now: size, content hash and records there, by date and path."""
    found: dict[dt.date, dict[str, tuple[Any, ...]]] = {date: {} for date in dates}
    for landing in state.landings_needed(dates):
        manifest = state.read_manifest(landing)
        for entry in manifest.files if manifest else ():
            path = f"{state.lake.bronze(state.domain, landing)}/{entry.name}"
            for day, records in entry.dates.items():
                date = dt.date.fromisoformat(day)
                if date in found:
                    found[date][path] = (entry.bytes, entry.inspection.content, records)
    return found


def _files(
    state: DomainState,
    before: Mapping[str, Sequence[Any]],
    now: Mapping[str, Sequence[Any]],
    others: Sequence[Cause],
) -> list[Cause]:
    """What differs in the files of a date. `others`: the other causes, which may move records from day to day."""
    found = []
    is_moved = any(cause.kind in ("setting", "domain", "version") for cause in others)
    for path in {**before, **now}:
        old, new = before.get(path), now.get(path)
        if old == new:
            continue
        if old is None and new:
            what = "has records of it now" if is_moved else "is new"
            found.append(Cause("file", path, f"{path} {what}", records=new[2]))
        elif new is None and old:
            what = "has no record of it any more" if state.lake.store.stat(path) else "is gone"
            found.append(Cause("file", path, f"{path} {what}", records=old[2]))
        elif old and new and old[:2] == new[:2]:
            found.append(Cause("file", path, f"{path} is read differently", records=new[2]))
        elif old and new and old[1].partition("-")[0] == new[1].partition("-")[0]:
            found.append(Cause("file", path, f"the contract of {path} changed", records=new[2]))
        elif new:
            found.append(Cause("file", path, f"{path} changed after it landed", records=new[2]))
    return found


def merged(by_date: Mapping[dt.date, Sequence[Cause]]) -> list[Cause]:
    """The causes of several dates, each once, with its dates and all of its records there."""
    found: dict[Cause, tuple[list[str], int]] = {}
    for date, causes in by_date.items():
        for cause in causes:
            dates, records = found.get(alike := dataclasses.replace(cause, records=0), ([], 0))
            found[alike] = [*dates, date.isoformat()], records + cause.records
    return [
        dataclasses.replace(cause, dates=tuple(dates), records=records) for cause, (dates, records) in found.items()
    ]


# ------------------------------------------------------------------------------------------------ gold


def of_gold(run: Run, table: Table, should: Inputs, content: Mapping[str, Any] | None = None) -> list[Cause]:
    """Why a table is stale, if `should` is what it should be built from; nothing if it is fresh.

    `content`: the whole footer of its newest intact snapshot; None reads it.
    """
    found = snapshots(run, table)
    newest, known = newest_snapshot(run, table)
    if newest is None or known is None:
        return [Cause("target", "", f"{table.name} has no {'intact ' if found else ''}snapshot")]
    said = []
    if found[-1].name != newest:
        # What that was made from cannot be known, and the one before it was replaced for other reasons.
        return [Cause("target", found[-1].name, f"its newest snapshot {found[-1].name} is damaged")]
    if content is None:
        content = footer.read_footer(run.lake.store, run.lake.gold(table.name, newest), verify=False) or {}
    if known.version != GOLD_VERSION:
        version = f"version {known.version}, now {GOLD_VERSION}"
        said.append(Cause("version", "gold", f"built by an earlier version of lakejobs ({version})"))
    if known.sql != table.hash:
        old = content.get("statement")
        said.append(Cause("sql", table.name, f"its SQL in {table.path} changed", old, table.statement))
    if known.engine != run.engine.name:
        said.append(Cause("version", "engine", f"computed by {known.engine}, now {run.engine.name}"))
    return said + of_inputs(content.get("inputs", {}), should)


def of_inputs(before: Inputs, now: Inputs) -> list[Cause]:
    """What differs between what a table was built from and what it should be built from."""
    found = []
    for source, should in now.items():
        was = before.get(source, {})
        if source in should or source in was:
            if was != should:
                found.append(Cause("source", source, f"gold {source} was rebuilt or will be"))
            continue
        said = []
        for what, days in (
            ("new", [day for day in should if day not in was]),
            ("changed", [day for day in should if day in was and was[day] != should[day]]),
            ("gone", [day for day in was if day not in should]),
        ):
            if days:
                dates = span([dt.date.fromisoformat(day) for day in sorted(days)])
                said.append(f"{counted(len(days), 'day')} {what}: {dates}")
        if said:
            found.append(Cause("source", source, f"silver {source}: {few(said)}"))
    return found + [Cause("source", name, f"it no longer reads {name}") for name in before if name not in now]
