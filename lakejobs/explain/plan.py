"""The plan: what the next `GoldAll` would do, with the cause of each step.

Deliveries land and are counted on a store that lies over the lake, by the functions that the run itself would call.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lakejobs.config import lake as settings
from lakejobs.freshness import causes
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Inputs, identity, newest_snapshot, snapshots
from lakejobs.freshness.snapshots import footer as gold_footer
from lakejobs.layers import bronze, gold, silver
from lakejobs.messages import LakeError, quietly
from lakejobs.model import Cause
from lakejobs.project import broken_domains, domains
from lakejobs.quality import suite
from lakejobs.storage import footer
from lakejobs.tables import Table, broken_tables, domains_of, tables


@dataclass(frozen=True)
class Step:
    """What is done to one domain or table in one layer."""

    layer: str
    name: str
    """The domain or table."""
    dates: tuple[str, ...]
    """Landing dates of bronze, event dates of silver, days to compute of a gold table by day."""
    causes: tuple[Cause, ...]
    records: int = 0
    """Records in the silver partitions."""
    days: int | None = None
    """All days of a gold table by day; None for other tables, which are computed in full."""
    leads_to: tuple[str, ...] = ()
    """Gold tables that are rebuilt in consequence."""


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    problems: Mapping[str, str]
    """What fails, by domain or table, and why; and what waits for it."""

    def of(self, layer: str) -> list[Step]:
        return [step for step in self.steps if step.layer == layer]


def make(run: Run) -> Plan:
    """The plan of a run over a lake that it does not change. Afterwards, the deliveries have landed in that run."""
    steps: list[Step] = []
    problems, refused = {**broken_domains(), **broken_tables()}, dict[str, str]()
    for domain in domains():
        try:
            state = run.state(domain)
            steps += _bronze(run, state)
            suite.load_suite(state.reading.domain)
            silver.find_manifests(state, state.stale_dates(), run.engine, quietly)
            steps += _silver(state)
            if settings().rejected == "fail" and state.rejected:
                refused[f"{domain}, at the end"] = "; ".join(state.rejected)
        except LakeError as error:
            problems[domain] = str(error)
    for table in tables().values():
        if waiting := [domain for domain in domains_of(table) if domain in problems]:
            problems[table.name] = f"waits for {', '.join(waiting)}"
        elif step := _gold(run, table):
            steps.append(step)
    return Plan(tuple(_with_consequences(step, steps) for step in steps), problems | refused)


def _bronze(run: Run, state: DomainState) -> list[Step]:
    due = state.stale_landings()
    if not due:
        return []
    why = causes.merged({date: causes.of_bronze(state, date) for date in due})
    bronze.land(state, due, run.engine, quietly)
    return [Step("bronze", state.domain, _days(due), tuple(why))]


def _silver(state: DomainState) -> list[Step]:
    due = state.stale_dates()
    if not due:
        return []
    why = causes.merged(causes.of_silver(state, due))
    return [Step("silver", state.domain, _days(due), tuple(why), sum(map(state.records, due)))]


def _days(dates: Sequence[dt.date]) -> tuple[str, ...]:
    return tuple(date.isoformat() for date in dates)


def _gold(run: Run, table: Table) -> Step | None:
    should = inputs(run, table)
    why = causes.of_gold(run, table, should)
    if not why:
        return None
    newest, known = newest_snapshot(run, table)
    old: Inputs = {}
    if newest and gold.is_alike(table, known, run.engine):
        old = (footer.read_footer(run.lake.store, run.lake.gold(table.name, newest)) or {}).get("inputs", {})
    computed, carried = gold.days_to_compute(table, old, should)
    days = None if computed is None else len(computed) + len(carried)
    return Step("gold", table.name, tuple(computed or ()), tuple(why), days=days)


def inputs(run: Run, table: Table) -> Inputs:
    """What a table will be built from, once nothing that it reads is stale."""
    found: Inputs = {}
    for source in table.sources:
        if source.name in domains():
            found[source.name] = should_be(run.state(source.name))
        else:
            below = tables()[source.name]
            found[source.name] = {source.name: identity(run, below, inputs(run, below))}
    return found


def stays(run: Run, table: Table) -> bool:
    """Whether a table's newest snapshot is intact, and still will be its newest once nothing that it reads is stale."""
    found = snapshots(run, table)
    known = gold_footer(run, table, found[-1]) if found else None
    return known is not None and known.identity == identity(run, table, inputs(run, table))


def should_be(state: DomainState) -> dict[str, str]:
    """The identities that the silver partitions of a domain will have, by date."""
    dates = sorted({*state.silver, *state.stale_dates()})
    return {date.isoformat(): made_from for date in dates if (made_from := state.expected(date))}


def _with_consequences(step: Step, steps: Sequence[Step]) -> Step:
    if step.layer != "silver":
        return step
    due = {other.name for other in steps if other.layer == "gold"}
    reading = tuple(name for name, table in tables().items() if name in due and step.name in domains_of(table))
    return dataclasses.replace(step, leads_to=reading)
