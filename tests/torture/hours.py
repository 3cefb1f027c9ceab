"""A day on a schedule: each hour brings files of every domain and a run through a luigid with default settings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from torture import model
from torture.lakes import Row, Workshop
from torture.life import BASE, HEADERS, PREFIXES, ChangeSuite, Deliver, Run, Step, Twice, Violation, live

OLDER = (0, 1, 2, 5, 9)
"""The age of a file's events, in days."""


def hour(number: int) -> list[Step]:
    """Deliver a file of every domain with rows of today, yesterday and older days, and one row of the previous hour
    again."""
    moment = BASE + dt.timedelta(hours=number)
    steps: list[Step] = []
    for domain, prefix in PREFIXES.items():
        lines = [line(domain, f"{prefix[0]}{number}-{days}", moment - dt.timedelta(days=days)) for days in OLDER]
        if number:
            lines.append(line(domain, f"{prefix[0]}{number - 1}-0", moment - dt.timedelta(hours=1)))
        steps.append(Deliver(domain, f"{prefix}_{moment:%Y%m%d_%H%M%S}.csv", (HEADERS[domain], *lines), age(moment)))
    return steps


def line(domain: str, key: str, moment: dt.datetime, quantity: int = 2) -> str:
    kind = sum(map(ord, key))
    if domain == "sales":
        return f"{key},{moment.isoformat()},C{kind % 5},P1,Lamp,Home,{quantity},5.00,,card,completed"
    if domain == "inventory":
        movement = ("inbound", "outbound", "TRANSFER")[kind % 3]
        return f"{key},{moment.isoformat()},P{kind % 3},Lamp,WH1,{movement},{quantity},1.25,SUP1"
    return f"{key},{moment.isoformat()},C{kind % 5},SES{kind % 3},browse,P1,/p/1,desktop"


def age(moment: dt.datetime) -> int:
    return (moment - BASE) // model.MICROSECOND


def correction(number: int) -> Deliver:
    """Correct the quantity of a sale of the previous hour: same key and timestamp, in a file whose name sorts first."""
    moment = BASE + dt.timedelta(hours=number - 1)
    corrected = line("sales", f"s{number - 1}-0", moment, quantity=7)
    return Deliver("sales", "a correction.csv", (HEADERS["sales"], corrected), age(moment + dt.timedelta(minutes=30)))


def day(hours: int) -> list[Step]:
    """A day in which a rule changes at one hour and a correction comes at another. Some runs are separate commands, as
    in production; the others are forks, which are faster."""
    steps: list[Step] = []
    for number in range(hours):
        steps += hour(number)
        if number == hours // 3:
            steps.append(ChangeSuite("sales", "add"))
        if number == hours // 2:
            steps.append(correction(number))
        steps.append(Run(command=number % 4 == 1, again=number % 6 == 5))
    return steps


def crowded(rounds: int) -> list[Step]:
    steps: list[Step] = []
    for number in range(rounds):
        steps += [*hour(number), Twice(workers=1 + number % 2)]
    return steps


def hours(short: bool, seed: int) -> Iterator[Row]:
    many, rounds = (4, 1) if short else (24, 12)
    for injected, count, steps in (
        (
            "an hour: new, late and repeated rows of every domain, then a run through a luigid with default settings",
            many,
            day(many),
        ),
        ("two runs at once through a luigid with default settings", rounds, crowded(rounds)),
    ):
        row = Row(injected, seed)
        with Workshop() as workshop:
            try:
                live(workshop.new(), "luigid", steps)
                row.add([], count)
            except Violation as error:
                row.add([str(error)], count)
        yield row


FAMILIES = {"hours": hours}
