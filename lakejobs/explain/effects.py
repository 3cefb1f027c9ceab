"""The effects of a plan: what it would change in rows and cells, found by carrying it out over the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lakejobs.config import lake as settings
from lakejobs.engine.comparing import Difference, Flips, comparing
from lakejobs.explain.plan import Plan
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Keep, newest_snapshot, snapshots
from lakejobs.layers import gold, silver
from lakejobs.messages import LakeError, quietly
from lakejobs.project import domains
from lakejobs.storage import Store
from lakejobs.storage.overlay import Overlay
from lakejobs.tables import domains_of, tables


@dataclass(frozen=True)
class Effects:
    silver: Mapping[str, Flips]
    """By domain, over all days that are rebuilt."""
    gold: Mapping[str, Difference]
    """By table."""
    compared_with: Mapping[str, str] = field(default_factory=dict)
    """The snapshot that a table was compared with, where the newest is damaged."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """What fails while it is carried out, by domain or table."""


def find(run: Run, plan: Plan) -> Effects:
    """Carry out a plan in the run that it was made in, whose store lies over the lake, and compare with that."""
    assert isinstance(run.lake.store, Overlay)
    lake = run.lake.store.base
    problems: dict[str, str] = {}
    others: dict[str, str] = {}
    rows: dict[str, Flips] = {}
    cells: dict[str, Difference] = {}
    for domain in domains():
        dates = sorted(
            dt.date.fromisoformat(day) for step in plan.of("silver") if step.name == domain for day in step.dates
        )
        if not dates:
            continue
        try:
            rows[domain] = _silver(run, domain, dates, lake, problems)
        except LakeError as error:
            problems[domain] = str(error)
    for step in plan.of("gold"):
        table = tables()[step.name]
        if waiting := [name for name in (*domains_of(table), *(one.name for one in table.sources)) if name in problems]:
            problems[table.name] = f"waits for {', '.join(dict.fromkeys(waiting))}"
            continue
        before, _ = newest_snapshot(run, table)
        old = [run.lake.gold(table.name, before)] if before else []
        if before and snapshots(run, table)[-1].name != before:
            others[table.name] = before
        try:
            gold.build(run, table, run.engine, Keep.as_set())
        except LakeError as error:
            problems[table.name] = str(error)
            continue
        now, _ = newest_snapshot(run, table)
        new = [run.lake.gold(table.name, now)] if now else []
        with (
            run.lake.scratch("compare") as spill,
            comparing(spill, settings().memory_limit, lake.on_disk(old), run.lake.store.on_disk(new)) as compared,
        ):
            cells[table.name] = compared.difference(table.grain)
    return Effects(rows, cells, others, problems)


def _silver(run: Run, domain: str, dates: Sequence[dt.date], lake: Store, problems: dict[str, str]) -> Flips:
    section, state = settings(), run.state(domain)
    intact = [date for date in dates if date in state.silver]
    damaged = state.present - {*intact}
    built = silver.build(state, dates, run.engine, section.chunk_rows, section.merge, quietly)
    if built.withheld:
        reasons = [f"{date}: {', '.join(why)}" for date, why in built.withheld.items()]
        problems[domain] = f"withheld, because critical rules fail for the whole partition: {'; '.join(reasons)}"
    old = [run.lake.silver(domain, date) for date in intact]
    # What a damaged partition held cannot be known.
    new = [run.lake.silver(domain, date) for date in dates if date in state.silver and date not in damaged]
    if not old and not new:
        return Flips()
    with (
        run.lake.scratch("compare") as spill,
        comparing(spill, section.memory_limit, lake.on_disk(old), run.lake.store.on_disk(new)) as compared,
    ):
        return compared.flips()
