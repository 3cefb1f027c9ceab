"""`lakejobs status`: what is fresh, due or wrong."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, print_json
from lakejobs.messages import counted, percent

if TYPE_CHECKING:
    from lakejobs.explain.status import DomainStatus, Status, TableStatus
    from lakejobs.freshness.ledger import Entry
    from lakejobs.freshness.runs import Run

CODES = {"fresh": 0, "due": 1, "wrong": 2}


@click.command(epilog=EPILOG)
@partial(asking, needs_lake=False)
def status(run: Run, as_json: bool) -> int:
    """Show what is fresh, due or wrong, for every domain and gold table.

    Reads facts only, no data. Exits 0 if all is fresh, 1 if something is due, 2 if something needs a person.
    """
    from lakejobs.explain import alerts
    from lakejobs.explain import status as statuses

    found, dead = statuses.look(run), alerts.failures(run.lake.store)
    if as_json:
        print_json({"state": found.state, **dataclasses.asdict(found), "alerts": dead})
    else:
        click.echo("\n".join(said(found) + dead))
    return CODES["wrong" if dead else found.state]


def said(found: Status) -> list[str]:
    """A status in words."""
    names = [domain.name for domain in found.domains] + [table.name for table in found.tables]
    width = max(map(len, names), default=0)
    lines = []
    for domain in found.domains:
        lines.append(f"{domain.state:5}  {domain.name:{width}}  {_domain(domain)}".rstrip())
        since = f", since {domain.due_since:%Y-%m-%d %H:%M} UTC" if domain.due_since else ""
        lines += [f"       {'':{width}}  {what}{since if 'land' in what else ''}" for what in domain.due]
        lines += [f"       {'':{width}}  {problem}" for problem in domain.problems]
    for table in found.tables:
        lines.append(f"{table.state:5}  {table.name:{width}}  {_table(table)}".rstrip())
        lines += [f"       {'':{width}}  {problem}" for problem in table.problems]
    return lines + _last_run(found.last_run)


def _last_run(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return []
    first, last = entries[0].started_at, entries[-1]
    seconds = (last.started_at - first).total_seconds() + last.seconds
    done = Counter(entry.task for entry in entries if entry.outcome == "done")
    said = ", ".join(f"{number:,} {task}" for task, number in done.items()) or "nothing"
    lines = [f"The last run that had work: {first:%Y-%m-%d %H:%M:%S} UTC, {seconds:.1f} s; done: {said}"]
    lines += [f"       {one.outcome}: {one.task} {one.name}" for one in entries if one.outcome != "done"]
    return lines


def _domain(one: DomainStatus) -> str:
    if not one.days:
        return "no rows yet"
    said = [
        f"{counted(one.days, 'day')} to {one.newest_event}",
        f"{counted(one.rows, 'row')}, {percent(one.valid / one.rows if one.rows else 1.0)} valid",
        f"last delivery {one.newest_delivery or 'not known before the next run'}",
    ]
    if one.rejected:
        said.append(f"{counted(one.rejected, 'file')} rejected")
    return "; ".join(said)


def _table(one: TableStatus) -> str:
    if one.generated_at is None:
        return "" if one.problems else "no snapshot yet"
    return f"snapshot of {one.generated_at:%Y-%m-%d %H:%M:%S} UTC; {one.snapshots:,} kept"
