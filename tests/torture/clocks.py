"""Clocks that go back, stand still, or pass midnight and the end of February."""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Callable, Iterator

from lakejobs.engine import partitions
from lakejobs.layers import gold
from lakejobs.pages import data_docs
from torture.lakes import Place, Row, Workshop, ask, differences, fork, sale, seeded, wait

MODULES = (data_docs, gold, partitions)
"""The modules that read the clock."""


def at(moments: Iterator[dt.datetime], command: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command, for a forked child, so that its clock returns these moments in turn."""

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return next(moments).astimezone(tz)

    def run() -> None:
        for module in MODULES:
            module.dt = types.SimpleNamespace(**{**vars(dt), "datetime": Clock})  # type: ignore[assignment]
        command()

    return run


def standing(moment: dt.datetime) -> Iterator[dt.datetime]:
    while True:
        yield moment


def clocks(short: bool, seed: int) -> Iterator[Row]:
    runs = 4 if short else 30
    chance = seeded(seed, "clock")
    now = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
    for name, moments in {
        "the clock set back and forth by up to two years between runs": [
            now + dt.timedelta(days=chance.uniform(-730, 730)) for _ in range(runs)
        ],
        "runs within one microsecond of a clock that stands still": [now] * runs,
        "runs just before and after midnight UTC of 28 and 29 February": [
            dt.datetime(2024, 2, 29, tzinfo=dt.UTC) + dt.timedelta(days=n // 2 % 2, microseconds=-(n % 2))
            for n in range(runs)
        ],
    }.items():
        row = Row(name, seed)
        with Workshop() as workshop:
            row.add(after_each(workshop, moments), len(moments))
        yield row
    with Workshop() as workshop:
        row = Row("events and files at midnight UTC and on 29 February", seed)
        row.add(*days(workshop.new().create()))
        yield row


def after_each(workshop: Workshop, moments: list[dt.datetime]) -> list[str]:
    """Deliver and run at each moment. Each run's snapshot must sort last, and none may be overwritten."""
    place, violations, lines = workshop.new().create(), [], []
    fresh = workshop.new().create()
    for number, moment in enumerate(moments):
        lines.append(sale(number, dt.datetime(2026, 11, 1, 10, number)))
        for lake in (place, fresh):
            lake.deliver("sales", f"sales_20261101_{number:06d}.csv", lines[-1:])
        before = {path.name for path in place.gold_files()}
        code = wait(fork(at(standing(moment), place.command())))
        after = {path.name for path in place.gold_files()}
        added = after - before
        if code:
            violations.append(f"the run ended with {code}: {place.said()[-800:]}")
        for table in {name.rpartition("_20")[0] for name in added}:
            mine = [sorted(name for name in names if name.startswith(f"{table}_20")) for names in (before, added)]
            if len(mine[1]) != 1 or mine[1][0] <= max(mine[0], default=""):
                violations.append(f"run {number} added {mine[1]} to {mine[0]}")
        orders = ask(newest_orders, str(place.root))
        if orders != number + 1:
            violations.append(f"after run {number} the newest snapshot counts {orders} sales")
        if len(list(place.root.glob("datalake/quality/validations/sales/[!_]*.json"))) != number + 1:
            violations.append(f"the validations of run {number} took the place of others")
    wait(fork(at(standing(moments[-1]), place.command())))
    if "Did not run any tasks" not in place.said()[-500:]:
        violations.append("the lake is not complete afterwards")
    assert fresh.run() == 0
    return violations + differences(place.look()["content"], fresh.look()["content"])


def newest_orders(root: str) -> int:
    import pyarrow.parquet as pq

    newest = max(Place(root).root.glob("datalake/gold/daily_sales_summary/*.parquet"))
    return sum(pq.ParquetFile(newest).read().to_pydict()["order_count"])


def days(place: Place) -> tuple[list[str], int]:
    """Check the partition of timestamps around midnight and the end of February.

    Returns the violations and the number of timestamps checked.
    """
    expected = {
        "2024-02-28T23:59:59.999999": "2024-02-28",
        "2024-02-29T00:00:00": "2024-02-29",
        "2024-02-29": "2024-02-29",
        "2024-02-29T23:59:59.999999Z": "2024-02-29",
        "2024-02-29T23:59:59.9999999": "2024-02-29",
        "2024-03-01T00:59:59+01:00": "2024-02-29",
        "2024-02-29T23:30:00-01:00": "2024-03-01",
        "2023-12-31T23:59:59.999999": "2023-12-31",
        "2024-01-01T00:00:00+00:00": "2024-01-01",
        # No such day or hour exists: these rows go to their landing date.
        "2023-02-29T12:00:00": "2024-03-01",
        "2024-02-30": "2024-03-01",
        "2024-02-29T24:00:00": "2024-03-01",
        "2016-12-31T23:59:60": "2024-03-01",
        # A file may hold events up to the day after the date in its name, whenever it is delivered.
        "2024-03-02T23:59:59": "2024-03-02",
        "2024-03-03T00:00:00": "2024-03-01",
        "9999-12-31T23:59:59.999999": "2024-03-01",
    }
    line = "S{},{},C1,P1,Lamp,Home,1,5.00,5.00,card,completed".format
    place.deliver("sales", "sales_20240301_000000.csv", [line(n, moment) for n, moment in enumerate(expected)])
    # An impossible date in a name is not a stamp: the file's modification date counts, and both files land.
    place.deliver("sales", "sales_20230229_120000.csv", [line(100, "2024-02-29T10:00:00")])
    place.deliver("sales", "sales_20240229_120000.csv", [line(101, "2024-02-29T10:00:00")])
    code = place.run()
    found = ask(partitions, str(place.root))
    violations = [] if code == 0 else [f"the run ended with {code}: {place.said()[-800:]}"]
    wanted = {f"S{n}": day for n, day in enumerate(expected.values())} | {"S100": "2024-02-29", "S101": "2024-02-29"}
    violations += [f"{key}: in {found.get(key)}, not {day}" for key, day in wanted.items() if found.get(key) != day]
    if not (place.root / "datalake/bronze/sales/year=2024/month=02/day=29").exists():
        violations.append("the file of 29 February did not land on its day")
    return violations, len(wanted)


def partitions(root: str) -> dict[str, str]:
    """Map each sale to the date of its partition."""
    import pyarrow.parquet as pq

    found = {}
    for path in Place(root).silver_files():
        day = "-".join(part.partition("=")[2] for part in path.parts[-4:-1])
        found |= dict.fromkeys(pq.ParquetFile(path).read(["sale_id"]).to_pydict()["sale_id"], day)
    return found


FAMILIES = {"clock": clocks}
