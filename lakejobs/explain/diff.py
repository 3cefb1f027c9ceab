"""What differs between two snapshots of a gold table, or between two lakes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lakejobs.config import lake as settings
from lakejobs.engine.comparing import Difference, comparing
from lakejobs.explain import why
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import footer, moment, newest_snapshot, snapshots
from lakejobs.messages import LakeError, few
from lakejobs.project import domains
from lakejobs.storage import Store, layout
from lakejobs.storage.layout import SNAPSHOT
from lakejobs.tables import Table, broken_tables, tables


@dataclass(frozen=True)
class Compared:
    """Two versions, by where they are, and what differs."""

    older: str
    newer: str
    difference: Difference


def find(
    run: Run, target: str, older: str | None, newer: str | None, as_of: dt.datetime | None, other: str | None
) -> Compared:
    """Compare two snapshots of a table, or, with the root of another lake, what is in both."""
    asked = why.find(run, [target])
    if asked.layer == "gold":
        if reason := broken_tables().get(asked.name):
            raise LakeError(reason)
        table = tables()[asked.name]
        if other is not None:
            return _with_lake(run, table, other)
        return _snapshots(run, table, older, newer, as_of)
    if other is None or asked.layer != "silver" or asked.date is None:
        raise LakeError(
            f"{target} is not a gold table, and silver keeps no snapshots; to compare with another lake, name a day: "
            f"lakejobs diff silver/{asked.name}/2026-11-01 --with OTHER_ROOT"
        )
    store = layout.open_store(other, settings().lock_lease)
    path = run.lake.silver(asked.name, asked.date)
    if not run.lake.store.stat(path) and not store.stat(path):
        raise LakeError(f"neither lake has {path}")
    # The files there may have other names.
    keys, names = domains()[asked.name].keys, ("source_file", "source_record")
    return _compare(run, run.lake.store, path, store, path, keys, names)


def _with_lake(run: Run, table: Table, root: str) -> Compared:
    store = layout.open_store(root, settings().lock_lease)
    newest, _ = newest_snapshot(run, table)
    there = [file.name for file in store.files(run.lake.layer("gold", table.name)) if _is_snapshot(table, file.name)]
    for lake, found in ((run.lake.store.root, newest), (root, there)):
        if not found:
            raise LakeError(f"the lake at {lake} has no snapshot of {table.name}")
    assert newest is not None
    return _compare(
        run, run.lake.store, run.lake.gold(table.name, newest), store, run.lake.gold(table.name, there[-1]), table.grain
    )


def _snapshots(run: Run, table: Table, older: str | None, newer: str | None, as_of: dt.datetime | None) -> Compared:
    there = [file.name for file in snapshots(run, table)]
    if not there:
        raise LakeError(f"{table.name} has no snapshot yet")
    if as_of is not None:
        if older is not None:
            raise LakeError("give either --as-of or snapshots")
        before = [name for name in there if moment(name) <= as_of]
        if not before:
            raise LakeError(f"no snapshot of {table.name} is kept from before {as_of}; the oldest is {there[0]}")
        first, second = before[-1], there[-1]
    elif older is None and len(there) == 1:
        raise LakeError(f"{table.name} has one snapshot only, {there[0]}")
    else:
        first = _named(table, there, older) if older else there[-2]
        second = _named(table, there, newer) if newer else there[-1]
    for file in snapshots(run, table):
        if file.name in (first, second) and not footer(run, table, file):
            raise LakeError(f"{run.lake.location(run.lake.gold(table.name, file.name))} is damaged; name another one")
    store = run.lake.store
    return _compare(run, store, run.lake.gold(table.name, first), store, run.lake.gold(table.name, second), table.grain)


def _named(table: Table, there: Sequence[str], text: str) -> str:
    """The snapshot that a name, a stamp or the beginning of one means: the last that begins so."""
    start = text.rpartition("/")[2].removeprefix(f"{table.name}_").removesuffix(".parquet")
    found = [name for name in there if name.removeprefix(f"{table.name}_").startswith(start)]
    if not found:
        raise LakeError(f"{table.name} has no snapshot {text}; there are {few(reversed(there), 20)}")
    return found[-1]


def _is_snapshot(table: Table, name: str) -> bool:
    return re.fullmatch(table.name + SNAPSHOT, name) is not None


def _compare(
    run: Run, one: Store, old: str, other: Store, new: str, key: Sequence[str], ignored: Sequence[str] = ()
) -> Compared:
    before, after = ([path] if store.stat(path) else [] for store, path in ((one, old), (other, new)))
    with (
        run.lake.scratch("diff") as spill,
        comparing(spill, settings().memory_limit, one.on_disk(before), other.on_disk(after)) as compared,
    ):
        return Compared(one.location(old), other.location(new), compared.difference(key, ignored))
