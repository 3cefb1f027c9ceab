"""Runs killed before, amid and after each call that changes the disk, and at random moments."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Iterator

from torture import calls
from torture.lakes import (
    TIMEOUT,
    Place,
    Row,
    Workshop,
    after,
    ask,
    is_old_or_new,
    movement,
    sale,
    see_run_see,
    seeded,
    spread,
    wait,
)
from torture.scenarios import DAY, SCENARIOS, Prepared


def at_every_call(short: bool, seed: int) -> Iterator[Row]:
    """Kill a run before and amid each call in turn; then read, run again, and compare with a run never killed."""
    for scenario in SCENARIOS:
        with Workshop() as workshop:
            prepared = Prepared(scenario, workshop)
            points = kill_points(prepared)
            row = Row(f"SIGKILL before, amid or after a call of a run, {scenario.name}", seed)
            if short:
                points = seeded(seed, scenario.name).sample(points, 5)
            row.add(spread(lambda point: kill_at(prepared, point), points), len(points))  # noqa: B023
            yield row


def kill_points(prepared: Prepared) -> list[tuple[int, str]]:
    """Every point to kill a run at: the number of a call, and before or amid it. After a call is before the next one;
    after the last call nothing is left to interrupt."""
    place, points = prepared.place(), []

    def count(call: calls.Call) -> None:
        if call.changes:
            points.append((len(points), calls.KILL, call.name))

    assert calls.supervise(place.command(), count, [f"{place.root}/datalake"], TIMEOUT) == 0, place.said()
    place.remove()
    halves = [(number, calls.HALF) for number, _, name in points if name in calls.WRITES]
    return [(number, how) for number, how, _ in points] + halves


def kill_at(prepared: Prepared, point: tuple[int, str]) -> list[str]:
    number, how = point
    place, seen = prepared.place(), -1

    def decide(call: calls.Call) -> str | None:
        nonlocal seen
        seen += call.changes
        if not call.changes or seen != number:
            return None
        return how if how == calls.KILL or call.name in calls.WRITES else calls.KILL

    code = calls.supervise(place.command(), decide, [f"{place.root}/datalake"], TIMEOUT)
    # Two runs do not make exactly the same calls; one that made fewer ends without being killed.
    if code not in (0, -signal.SIGKILL):
        return [f"the run ended with {code}: {place.said()[-1000:]}"]
    found = ask(see_run_see, str(place.root))
    violations = [
        *found["before"]["troubles"],
        *is_old_or_new(found["before"]["content"], prepared.old, prepared.new),
        *after(found, prepared.new, place.said()),
        # Spill directories are removed by the next run that uses the engine.
        *(f"{name} is left behind" for name in place.leftovers() if "_tmp-spill_" not in name),
    ]
    place.remove()
    return violations


# ------------------------------------------------------------------------------------------------ at any moment


def at_any_moment(short: bool, seed: int) -> Iterator[Row]:
    """Kill runs at random moments: first runs, runs that recover from a kill, and one or both of two parallel runs."""
    rounds = 3 if short else 60
    row = Row("SIGKILL at a random moment, during recovery and of one or both of two runs", seed)
    kills = 6 if short else 10
    with Workshop() as workshop:
        row.add(spread(lambda number: random_kills(workshop, seed, number, kills), range(rounds)), rounds * kills)
    yield row


def random_kills(workshop: Workshop, seed: int, number: int, kills: int) -> list[str]:
    """In one lake, deliver files and kill runs, also while they recover; finally let one run finish."""
    chance = seeded(seed, "kills", number)
    place, delivered, violations = workshop.new().create(), 0, []
    killed = 0
    while killed < kills:
        if chance.random() < 0.5:
            deliver_some(place, delivered, chance.randrange(5))
            delivered += 1
        pids = [place.start() for _ in range(chance.choice([1, 1, 2]))]
        for pid in pids[: chance.choice([1, 2])]:
            # The time of the kill is random on purpose.
            time.sleep(chance.uniform(0, 0.9 * len(pids)) * chance.choice([0.3, 1]))
            os.kill(pid, signal.SIGKILL)
        codes = [wait(pid) for pid in pids]
        killed += codes.count(-signal.SIGKILL)  # the others had already ended
        if set(codes) - {0, -signal.SIGKILL}:
            violations.append(f"a run that was let through ended with {codes}: {place.said()[-1000:]}")
        violations += place.look()["troubles"]
    if delivered == 0:
        deliver_some(place, 0, 0)
    found = ask(see_run_see, str(place.root))
    fresh = workshop.new().create()
    for path in sorted(place.root.glob("local_output/*/*.csv")):
        fresh.deliver(path.parent.name, path.name, path.read_bytes())
    assert fresh.run() == 0, fresh.said()
    violations += after(found, fresh.look()["content"], place.said())
    for lake in (place, fresh):
        lake.remove()
    return violations


def deliver_some(place: Place, number: int, day: int) -> None:
    moment = DAY + dt.timedelta(days=day, minutes=number)
    early = [sale(n, moment - dt.timedelta(days=2)) for n in range(10 * number, 10 * number + 3)]
    lines = [sale(n, moment) for n in range(10 * number, 10 * number + 10)]
    place.deliver("sales", f"sales_{moment:%Y%m%d_%H%M%S}.csv", lines + early)
    if number % 2:
        place.deliver("inventory", f"inventory_{moment:%Y%m%d_%H%M%S}.csv", [movement(number, moment)])


FAMILIES = {"kill-points": at_every_call, "kills": at_any_moment}
NEEDS_CALLS = {"kill-points"}
