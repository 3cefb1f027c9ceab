"""The status of the lake, from facts alone: no data is read, and no delivery is opened."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lakejobs.explain import plan
from lakejobs.freshness import ledger
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.ledger import Entry
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import newest_snapshot, snapshots
from lakejobs.messages import LakeError, counted, span
from lakejobs.project import broken_domains, domains
from lakejobs.quality import suite
from lakejobs.storage import deliveries
from lakejobs.tables import Table, broken_tables, domains_of, tables

FRESH, DUE, WRONG = "fresh", "due", "wrong"
FAILED = "the last run failed: "
"""How a problem begins that the last run had."""


@dataclass(frozen=True)
class DomainStatus:
    name: str
    state: str
    """`fresh`, `due`, or `wrong` if a person has to do something."""
    due: Sequence[str] = ()
    """What the next run has to do, in words."""
    due_since: dt.datetime | None = None
    """When the oldest delivery that has not landed was staged (UTC)."""
    problems: Sequence[str] = ()
    newest_event: dt.date | None = None
    newest_delivery: dt.date | None = None
    """The newest landing date."""
    days: int = 0
    rows: int = 0
    valid: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class TableStatus:
    name: str
    state: str
    problems: Sequence[str] = ()
    generated_at: dt.datetime | None = None
    """When its newest snapshot was made (UTC)."""
    snapshots: int = 0


@dataclass(frozen=True)
class Status:
    domains: Sequence[DomainStatus]
    tables: Sequence[TableStatus]
    last_run: Sequence[Entry] = ()
    """What the last run that did something did."""

    @property
    def state(self) -> str:
        """The worst state of all."""
        states = {domain.state for domain in self.domains} | {table.state for table in self.tables}
        return next((state for state in (WRONG, DUE) if state in states), FRESH)


def look(run: Run) -> Status:
    """The status of every domain and table."""
    found = [DomainStatus(name, WRONG, problems=[reason]) for name, reason in broken_domains().items()]
    for domain in domains():
        try:
            found.append(_domain(run.state(domain)))
        except LakeError as error:
            found.append(DomainStatus(domain, WRONG, problems=[str(error)]))
    broken = [TableStatus(name, WRONG, [reason]) for name, reason in broken_tables().items()]
    known = [_table(run, table) for table in tables().values()]
    last = ledger.last_run(run.lake)
    failed = {entry.name: f"{FAILED}{entry.reason}" for entry in last if entry.outcome == ledger.FAILED}
    return Status(
        [_failed(domain, failed) for domain in found], [_failed(table, failed) for table in known + broken], last
    )


Kind = TypeVar("Kind", DomainStatus, TableStatus)


def _failed(one: Kind, failed: Mapping[str, str]) -> Kind:
    """What is due because the last run failed to do it needs a person."""
    is_due = one.due if isinstance(one, DomainStatus) else one.state == DUE
    if not is_due or one.name not in failed:
        return one
    return replace(one, state=WRONG, problems=[*one.problems, failed[one.name]])


def _domain(state: DomainState) -> DomainStatus:
    problems = state.warnings
    where = state.lake.staging.location(state.domain)
    problems += [f"{where}/{name}: nobody reads it" for name in state.ignored]
    try:
        suite.load_suite(state.reading.domain)
    except LakeError as error:
        problems.append(str(error))
    due = []
    if landings := state.stale_landings():
        due.append(f"{counted(len(landings), 'landing date')} to land: {span(landings)}")
    if dates := state.stale_dates():
        due.append(f"{counted(len(dates), 'day')} of silver to rebuild: {span(dates)}")
    silver = [footer.counts for footer in state.silver.values()]
    return DomainStatus(
        state.domain,
        WRONG if problems else DUE if due else FRESH,
        due,
        _waiting_since(state, landings),
        problems,
        max(state.silver, default=None),
        max(state.landings, default=None),
        len(state.silver),
        sum(counts.rows for counts in silver),
        sum(counts.valid for counts in silver),
        sum(len(landing.rejected) for landing in state.landings.values()),
    )


def _waiting_since(state: DomainState, landings: Sequence[dt.date]) -> dt.datetime | None:
    waiting: list[dt.datetime] = []
    for landing in landings:
        manifest = state.read_manifest(landing)
        landed = manifest.staged if manifest else {}
        waiting += [
            deliveries.modified(file, state.now)
            for file in state.staged.get(landing, ())
            if file.name not in landed or landed[file.name].version != file.version
        ]
    return min(waiting, default=None)


def _table(run: Run, table: Table) -> TableStatus:
    try:
        newest, footer = newest_snapshot(run, table)
        lands = any(run.state(domain).stale_landings() for domain in domains_of(table))
        is_due = lands or not plan.stays(run, table)
        made = dt.datetime.fromisoformat(footer.generated_at).replace(tzinfo=None) if newest and footer else None
        return TableStatus(table.name, DUE if is_due else FRESH, (), made, len(snapshots(run, table)))
    except LakeError as error:
        return TableStatus(table.name, WRONG, [str(error)])
