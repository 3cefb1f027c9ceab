"""Restatements: cells of gold that changed although their day was over and had been published.

`quality/restatements/<table>/` has a file for each snapshot that changed such cells, under its name: the old and the
new value of each, and the cause. It is prepared under a hidden name before the snapshot is published, and gets its own
name after that; if a run dies in between, the next one does it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs.config import lake as settings
from lakejobs.engine import QueryError, logs
from lakejobs.engine.comparing import Cell, comparing
from lakejobs.freshness import causes
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, moment
from lakejobs.messages import log
from lakejobs.model import Cause
from lakejobs.project import domains
from lakejobs.storage import footer
from lakejobs.storage.local import copy
from lakejobs.tables import Table, tables

PREPARED = "_prepared-"
SUFFIX = ".parquet"
COLUMNS = {
    "table_name": "varchar",
    "date": "date",
    "key": "varchar",
    "column_name": "varchar",
    "old": "varchar",
    "new": "varchar",
    "cause": "varchar",
    "restated_at": "timestamp",
    "replaced": "varchar",
    "snapshot": "varchar",
}
"""`key`: the values of the grain as a JSON object. `old` and `new`: as text; NULL also if there was or is no such row.
`replaced` and `snapshot`: names of the old and the new snapshot."""


def closed_before(now: dt.datetime) -> str:
    """The first day (UTC) that is still open: others may be restated."""
    return (now - dt.timedelta(hours=settings().day_closes_after)).date().isoformat()


@dataclass(frozen=True)
class Replacement:
    """A snapshot that is about to replace another one of its table."""

    table: Table
    replaced: str
    """The old snapshot's name."""
    snapshot: str
    """The new one's."""
    days: Sequence[str] | None
    """The days that were computed; None for all."""
    before: Inputs
    now: Inputs
    """What the two were built from."""
    causes: Sequence[Cause]
    """Why the table was stale."""
    logged: Sequence[str]
    """The snapshots that its log has."""
    moment: dt.datetime

    def touched(self) -> Iterable[str]:
        """The days whose rows may differ."""
        before, now = ({day for days in inputs.values() for day in days} for inputs in (self.before, self.now))
        return before if self.days is None else {*self.days, *(before - now)}


def prepare(run: Run, it: Replacement, temporary: str) -> int:
    """Write down what a snapshot restates, before it is published; returns the number of cells.

    `temporary`: its local file.
    """
    closed, store = closed_before(it.moment), run.lake.store
    if not it.table.is_daily:
        return 0
    # Snapshots after the last intact one are damaged or were removed; what they had changed has been logged.
    logged = _read(run, [f"{run.lake.restatements(it.table.name)}/{name}" for name in it.logged if name > it.replaced])
    if not logged and not any(day < closed for day in it.touched()):
        return 0
    old = run.lake.gold(it.table.name, it.replaced)
    with (
        run.lake.scratch("restatements") as spill,
        comparing(spill, settings().memory_limit, store.on_disk([old]), [temporary]) as compared,
    ):
        cells = compared.cells(it.table.grain, "date", closed)
    rows = _rows(run, it, cells)
    if logged:
        rows = _beyond(it, rows, logged)
    if rows:
        directory = run.lake.restatements(it.table.name)
        with store.publish(f"{directory}/{PREPARED}{it.snapshot.removesuffix(SUFFIX)}") as target:
            logs.write(target, COLUMNS, rows)
    return len(rows)


def settle(run: Run, table: Table) -> list[str]:
    """Log what was prepared for snapshots that have been published, and forget what was prepared for others.

    Returns the snapshots that the log has. Needs the locks of the table's domains.
    """
    if not table.is_daily:
        return []
    store, directory = run.lake.store, run.lake.restatements(table.name)
    store.sweep(directory)
    found = [file.name for file in store.files(directory)]
    for name in [name for name in found if name.startswith(PREPARED)]:
        prepared, snapshot = f"{directory}/{name}", name.removeprefix(PREPARED) + SUFFIX
        if store.stat(run.lake.gold(table.name, snapshot)):
            with store.reading(prepared) as handle, store.publish(f"{directory}/{snapshot}") as target:
                copy(handle, target)
            found.append(snapshot)
        store.remove(prepared)
    return sorted(name for name in found if name.endswith(SUFFIX))


def unsettled(run: Run) -> list[Table]:
    """Tables whose log a run that died left unfinished, or another run is writing just now."""
    there = run.lake.store.listings("quality/restatements", 1, lambda name: name.startswith("_"))
    return [table for name, table in tables().items() if name in there]


def _beyond(it: Replacement, rows: list[dict[str, Any]], logged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What remains to be logged if these changes, the last one last, have been logged already."""
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for row in logged:
        before = known.get((row["key"], row["column_name"]), row)
        known[row["key"], row["column_name"]] = {**row, "old": before["old"]}
    found = []
    for row in rows:
        last = known.pop((row["key"], row["column_name"]), None)
        if last is None or last["new"] != row["new"]:
            found.append({**row, "old": last["new"]} if last else row)
    # What the damaged ones had changed, and the new one has as it was before.
    back = {
        "cause": f"it is again as in {it.replaced}; the snapshots since then are damaged or gone",
        "restated_at": it.moment.replace(tzinfo=None),
        "snapshot": it.snapshot,
    }
    return found + [{**row, **back, "old": row["new"], "new": row["old"]} for row in known.values()]


def _rows(run: Run, it: Replacement, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    place = it.table.grain.index("date")
    shared = [str(cause) for cause in it.causes if cause.kind in ("sql", "version")]
    why = {
        day: "; ".join([*shared, *_of_day(run, it, str(day))]) or "unknown"
        for day in dict.fromkeys(cell.key[place] for cell in cells)
    }
    return [
        {
            "table_name": it.table.name,
            "date": cell.key[place],
            "key": json.dumps(dict(zip(it.table.grain, cell.key, strict=True)), default=str, ensure_ascii=False),
            "column_name": cell.column,
            "old": None if cell.old is None else str(cell.old),
            "new": None if cell.new is None else str(cell.new),
            "cause": why[cell.key[place]],
            "restated_at": it.moment.replace(tzinfo=None),
            "replaced": it.replaced,
            "snapshot": it.snapshot,
        }
        for cell in cells
    ]


def _of_day(run: Run, it: Replacement, day: str) -> list[str]:
    """Why the rows that a day was computed from changed, by the footers of silver."""
    said: list[str] = []
    for source in it.table.sources:
        was, made = it.before.get(source.name, {}), it.now.get(source.name, {})
        if source.name not in domains() or source.all_days:
            layer = "silver" if source.name in domains() else "gold"
            said += [f"{layer} {source.name} changed"] if was != made else []
        elif day not in made and day in was:
            gone = run.state(source.name).removed.get(dt.date.fromisoformat(day), ())
            said += [f"silver {source.name} has no record of this day any more", *gone]
        elif day in made and day not in was:
            said.append(f"silver {source.name} had no record of this day before")
        elif was.get(day) != made.get(day):
            path = run.lake.silver(source.name, dt.date.fromisoformat(day))
            content = footer.read_footer(run.lake.store, path, verify=False) or {}
            said += causes.since(content, was[day]) or _anew(run, it, source.name, content)
    return said


def _anew(run: Run, it: Replacement, domain: str, content: Mapping[str, Any]) -> list[str]:
    """Why a partition changed whose footer does not know what it was, because that file was lost."""
    since = moment(it.replaced).replace(tzinfo=dt.UTC).timestamp() * 1e9
    paths = [path for path, *_ in content.get("lineage", {}).get("files", ())]
    landed = [file for path in paths if (file := run.lake.store.stat(path)) and file.modified_ns > since]
    lost = f"silver {domain} was built anew, because its file was missing or damaged"
    return [lost, *(f"{file.path} came or changed since" for file in landed)]


def read(run: Run, tables: Iterable[str]) -> list[dict[str, Any]]:
    """The log of tables, the latest restatement last."""
    there = run.lake.store.listings("quality/restatements", 1, lambda name: name.endswith(SUFFIX))
    files = [(table, file.name) for table in tables if table in there for file in there[table].files()]
    return _read(run, [f"{run.lake.restatements(table)}/{name}" for table, name in files])


def read_snapshot(run: Run, table: str, snapshot: str) -> list[dict[str, Any]]:
    """What one snapshot restated."""
    return _read(run, [f"{run.lake.restatements(table)}/{snapshot}"])


def _read(run: Run, paths: Sequence[str]) -> list[dict[str, Any]]:
    try:
        found = logs.read(run.lake.store.on_disk(paths))
    except QueryError as error:
        log.warning("the log of restatements cannot be read: %s", error)
        return []
    return sorted(found, key=lambda row: (row["restated_at"], row["date"], row["key"], row["column_name"]))
