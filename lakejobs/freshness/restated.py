"""Restated days in brief, for the pages: a day, a table and a cause each, with some of the cells.

The log of restatements is kept for good, in a file for each snapshot that restated something. What its files say is
remembered in `quality/restatements/_brief.json` (a cache), so that a run reads only new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lakejobs.freshness import restatements
from lakejobs.freshness.runs import Run
from lakejobs.storage import documents

MOST_DAYS = 300
"""How many of the latest are kept of each table."""
MOST_CELLS = 6


@dataclass(frozen=True)
class RestatedDay:
    """What one snapshot changed of a day that was over."""

    table: str
    date: str
    """YYYY-MM-DD."""
    at: str
    """When it was restated (UTC), YYYY-MM-DD HH:MM:SS."""
    replaced: str
    snapshot: str
    """Names of the old and the new snapshot."""
    cause: str
    count: int
    """Cells that changed."""
    cells: list[str]
    """The first of them in words."""


def restated_days(run: Run, tables: Iterable[str]) -> dict[str, list[RestatedDay]]:
    """The last restated days of tables, the latest first. Requires the report's lock."""
    store, path = run.lake.store, run.lake.restated_in_brief
    there = store.listings("quality/restatements", 1, lambda name: name.endswith(restatements.SUFFIX))
    known = (documents.read_json(store, path) or {}).get("snapshots", {}) if there else {}
    found: dict[str, dict[str, list[RestatedDay]]] = {table: {} for table in tables}
    is_new = False
    for table, by_snapshot in found.items():
        for snapshot in [file.name for file in there[table].files()][::-1] if table in there else []:
            try:
                days = [RestatedDay(**day) for day in known[table][snapshot]]
            except (KeyError, TypeError):
                days = _days(restatements.read_snapshot(run, table, snapshot))
                is_new |= bool(days)
            if days:
                by_snapshot[snapshot] = days
            if sum(map(len, by_snapshot.values())) >= MOST_DAYS:
                break
    if is_new:
        content = {
            table: {snapshot: [asdict(day) for day in days] for snapshot, days in by_snapshot.items()}
            for table, by_snapshot in found.items()
        }
        documents.write_json(store, path, {"snapshots": content}, durable=False)
    return {table: [day for days in of.values() for day in days][:MOST_DAYS] for table, of in found.items()}


def _days(cells: Iterable[dict[str, Any]]) -> list[RestatedDay]:
    """The days of one snapshot's cells, the latest first."""
    by_day: dict[tuple[Any, str], list[dict[str, Any]]] = {}
    for cell in cells:
        by_day.setdefault((cell["date"], cell["cause"]), []).append(cell)
    found = [
        RestatedDay(
            table=of_day[0]["table_name"],
            date=str(of_day[0]["date"]),
            at=f"{of_day[0]['restated_at']:%Y-%m-%d %H:%M:%S}",
            replaced=of_day[0]["replaced"],
            snapshot=of_day[0]["snapshot"],
            cause=of_day[0]["cause"],
            count=len(of_day),
            cells=[_said(cell) for cell in of_day[:MOST_CELLS]],
        )
        for of_day in by_day.values()
    ]
    return sorted(found, key=lambda day: day.date, reverse=True)


def _said(cell: dict[str, Any]) -> str:
    """`order_count 1924 → 3064`, or with the rest of the grain: `Home, order_count 12 → 13`."""
    grain = [shown(value) for name, value in json.loads(cell["key"]).items() if name != "date"]
    return ", ".join([*grain, f"{cell['column_name']} {shown(cell['old'])} → {shown(cell['new'])}"])


def shown(value: object) -> str:
    return "NULL" if value is None else str(value)
