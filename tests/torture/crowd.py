"""Several runs, generators and readers at once on the same lake."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from torture.lakes import (
    DOMAINS,
    Place,
    Row,
    Workshop,
    after,
    ask,
    event,
    fork,
    movement,
    sale,
    see_run_see,
    seeded,
    wait,
)
from torture.scenarios import DAY


def rounds(short: bool, seed: int) -> Iterator[Row]:
    for runs, times in ((2, 20), (4, 20), (8, 10)):
        row = Row(f"{runs} GoldAll at once, files landing and readers globbing all the time: rounds", seed)
        with Workshop() as workshop:
            for number in range(1 if short else times):
                row.add(one_round(workshop, runs, seed, number))
        yield row


def one_round(workshop: Workshop, runs: int, seed: int, number: int) -> list[str]:
    place = workshop.new().create()
    land(place, seed, number, range(2))
    stop = place.root / "stop"
    pids = [fork(lambda: land(place, seed, number, range(2, 8)), place.log)]
    readers = {kind: place.root / f"{kind}.txt" for kind in ("duckdb", "pandas")}
    reading = [fork(lambda kind=kind: read_until(place, kind, stop), output) for kind, output in readers.items()]
    pids += [place.start() for _ in range(runs)]
    codes = [wait(pid) for pid in pids]
    stop.touch()
    codes += [wait(pid) for pid in reading]
    violations = [f"a run ended with {code}: {place.said()[-1500:]}" for code in codes if code]
    for output in readers.values():
        violations += [f"a reader: {line}" for line in output.read_text().splitlines() if not line.startswith("read ")]
        if "read 0 " in output.read_text():
            violations.append("a reader read nothing")
    found = ask(see_run_see, str(place.root))
    fresh = workshop.new().create()
    land(fresh, seed, number, range(8))
    assert fresh.run() == 0, fresh.said()
    violations += found["before"]["troubles"] + after(found, fresh.look()["content"], place.said())
    if leftovers := place.leftovers():
        violations.append(f"left behind: {leftovers}")
    for lake in (place, fresh):
        lake.remove()
    return violations


def land(place: Place, seed: int, number: int, batches: range) -> None:
    """Land files of every domain at short intervals. Keys never repeat, so no row may be lost or appear twice."""
    chance = seeded(seed, "crowd", number)
    for batch in range(batches.stop):
        moment = DAY + dt.timedelta(days=chance.randrange(3), minutes=batch)
        pause = chance.uniform(0, 0.5)
        if batch not in batches:
            continue
        if batches.start:
            time.sleep(pause)  # the pause is random on purpose
        stamp = f"{moment:%Y%m%d_%H%M%S}"
        keys = range(100 * batch, 100 * batch + 20)
        spread = [moment - dt.timedelta(days=key % 2) for key in keys]
        place.deliver("sales", f"sales_{stamp}.csv", [sale(*pair) for pair in zip(keys, spread, strict=True)])
        place.deliver(
            "inventory", f"inventory_{stamp}.csv", [movement(*pair) for pair in zip(keys, spread, strict=True)]
        )
        place.deliver(
            "customer_events", f"events_{stamp}.csv", [event(*pair) for pair in zip(keys, spread, strict=True)]
        )


def read_until(place: Place, kind: str, stop: Path) -> None:
    """Read the lake by plain globs in a loop; print every violation, and finally the number of reads."""
    times, most = 0, dict.fromkeys(DOMAINS, 0)
    while not stop.exists() or times == 0:
        for domain in DOMAINS:
            if not list(place.root.glob(f"datalake/silver/{domain}/**/*.parquet")):
                continue
            try:
                rows, keys = (by_duckdb if kind == "duckdb" else by_pandas)(place, domain)
            except Exception as error:  # noqa: BLE001 - any error of a reader is a violation
                print(f"{domain}: {type(error).__name__}: {error}".replace("\n", " "))
                continue
            times += 1
            if rows != keys:
                print(f"{domain}: {rows} rows of {keys} keys")
            if rows < most[domain]:
                print(f"{domain}: {rows} rows after {most[domain]}")
            most[domain] = rows
        for directory in sorted(place.root.glob("datalake/gold/*")):
            if not (snapshots := sorted(directory.glob("*.parquet"))):
                continue
            try:
                newest = snapshots[-1]
                duckdb.read_parquet(str(newest)).fetchall()
                times += 1
            except Exception as error:  # noqa: BLE001
                print(f"{directory.name}: {type(error).__name__}: {error}".replace("\n", " "))
        if not most["sales"] and stop.exists():
            break
    print(f"read {times} times")


def by_duckdb(place: Place, domain: str) -> tuple[int, int]:
    rows = f"'{place.root}/datalake/silver/{domain}/**/*.parquet'"
    query = f"select count(*), count(distinct {DOMAINS[domain].key}) from {rows}"
    return duckdb.sql(query).fetchall()[0]  # type: ignore[return-value]


def by_pandas(place: Place, domain: str) -> tuple[int, int]:
    import pandas as pd

    def read(path: Path) -> pd.DataFrame:
        # Given a path, pandas opens the file twice, and fails if it was replaced in between.
        with path.open("rb") as file:
            return pd.read_parquet(file)

    paths = sorted(place.root.glob(f"datalake/silver/{domain}/**/*.parquet"))
    keys = pd.concat([read(path) for path in paths])[DOMAINS[domain].key]
    return len(keys), keys.nunique()


FAMILIES = {"crowd": rounds}
