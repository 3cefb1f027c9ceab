"""Gold snapshots: which ones exist, what they were built from, and what they should be built from now."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lakejobs.config import lake as settings
from lakejobs.freshness.made_by import GOLD_VERSION
from lakejobs.freshness.runs import Run
from lakejobs.model import GoldFooter, digest
from lakejobs.project import domains
from lakejobs.storage import File
from lakejobs.storage.layout import SNAPSHOT, STAMP
from lakejobs.tables import Table, domains_of, tables

Inputs: TypeAlias = "dict[str, dict[str, str]]"
"""By source: identities of a domain's silver partitions by date, or of a gold table's snapshot by its name."""


@dataclass(frozen=True)
class Keep:
    """Which snapshots of a table stay, besides the newest."""

    older: int
    """The number of those before it."""
    days: int
    """For how many days before the newest the last one of each day stays."""
    months: int

    @classmethod
    def as_set(cls) -> Keep:
        section = settings()
        return cls(section.keep_snapshots, section.keep_daily, section.keep_monthly)

    def expired(self, names: Sequence[str]) -> list[str]:
        """The names to remove among those of a table's snapshots, the newest last."""
        if not names:
            return []
        newest = moment(names[-1]).date()
        month = 12 * newest.year + newest.month
        last_of: dict[object, str] = {}
        for name in names:
            date = moment(name).date()
            if (newest - date).days <= self.days:
                last_of[date] = name
            if month - (12 * date.year + date.month) <= self.months:
                last_of[date.year, date.month] = name
        stay = {*names[-1 - self.older :], *last_of.values()}
        return [name for name in names if name not in stay]


def moment(snapshot: str) -> dt.datetime:
    """When (UTC) a snapshot was made, by its name."""
    found = re.search(f"{SNAPSHOT}$", snapshot)
    assert found is not None
    return dt.datetime.strptime(found[1], STAMP)


def snapshots(run: Run, table: Table) -> list[File]:
    """A table's snapshots, the newest last."""
    found = run.gold_files(table.name, domains_of(table))
    return [file for file in found if re.fullmatch(table.name + SNAPSHOT, file.name)]


def footer(run: Run, table: Table, snapshot: File) -> GoldFooter | None:
    """The footer of an intact snapshot, else None."""
    state = run.state(domains_of(table)[0])
    return state.gold_footer(run.lake.gold(table.name, snapshot.name), snapshot)


def newest_snapshot(run: Run, table: Table) -> tuple[str | None, GoldFooter | None]:
    """The newest intact snapshot and its footer."""
    for snapshot in reversed(snapshots(run, table)):
        if found := footer(run, table, snapshot):
            return snapshot.name, found
    return None, None


def inputs(run: Run, table: Table) -> Inputs:
    """What a table should be built from now."""
    made_from: Inputs = {}
    for source in table.sources:
        if source.name in domains():
            made_from[source.name] = run.state(source.name).identities
        else:
            _, gold = newest_snapshot(run, tables()[source.name])
            made_from[source.name] = {source.name: gold.identity} if gold else {}
    return made_from


def identity(run: Run, table: Table, made_from: Mapping[str, Mapping[str, str]]) -> str:
    """The identity of a snapshot built from these inputs."""
    return digest([GOLD_VERSION, run.engine.name, table.hash, made_from])


def is_fresh(run: Run, table: Table) -> bool:
    """Whether a table's newest snapshot is intact and was built from its current inputs."""
    if not all(is_fresh(run, tables()[source.name]) for source in table.sources if source.name not in domains()):
        return False
    found = snapshots(run, table)
    known = footer(run, table, found[-1]) if found else None
    return known is not None and known.identity == identity(run, table, inputs(run, table))
