"""The four runs to interrupt: a first run, late rows, a changed suite, a backfill."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from torture.lakes import Place, Workshop, add_rule, event, movement, sale

DAY = dt.datetime(2026, 11, 1, 8)
NEW_RULES = {
    "sales": {
        "type": "expect_column_values_to_not_be_in_set",
        "kwargs": {"column": "customer_id", "value_set": ["C1", "C2"]},
        "meta": {"code": "BARRED_CUSTOMER"},
        "severity": "critical",
    },
    "inventory": {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "unit_cost", "max_value": 1},
        "meta": {"code": "DEAR"},
        "severity": "critical",
    },
}


def nothing(place: Place) -> None:
    """An empty lake."""


def one_batch(place: Place) -> None:
    """One file of each domain, with rows of the day before, a repeated row, bad values and a malformed line."""
    late = DAY - dt.timedelta(days=1)
    sales = [sale(n, DAY) for n in range(6)]
    place.deliver("sales", "sales_20261101_080000.csv", [*sales, sales[0], sale(6, late), sale(7, DAY, "two"), "x,y"])
    place.deliver("inventory", "inventory_20261101_080000.csv", [movement(n, DAY) for n in range(6)])
    place.deliver("customer_events", "events_20261101_080000.csv", [event(n, DAY) for n in range(6)])


def three_days(place: Place) -> None:
    """A lake of three days."""
    one_batch(place)
    for day in (1, 2):
        moment = DAY + dt.timedelta(days=day)
        stamp = moment.strftime("%Y%m%d_%H%M%S")
        place.deliver("sales", f"sales_{stamp}.csv", [sale(100 * day + n, moment) for n in range(5)])
        place.deliver("inventory", f"inventory_{stamp}.csv", [movement(100 * day + n, moment) for n in range(5)])
        place.deliver("customer_events", f"events_{stamp}.csv", [event(100 * day + n, moment) for n in range(5)])
    assert place.run() == 0, place.said()


def late_rows(place: Place) -> None:
    """The fourth day's files, with rows of the first and second day, one of them delivered before."""
    moment = DAY + dt.timedelta(days=3)
    place.deliver(
        "sales",
        "sales_20261104_080000.csv",
        [*(sale(300 + n, moment) for n in range(4)), sale(310, DAY), sale(2, DAY, 3, "5.00", "15.00"), sale(102, DAY)],
    )
    place.deliver("inventory", "inventory_20261104_080000.csv", [movement(300, moment), movement(301, DAY)])
    # The same name with other content, as from systems that export a day twice.
    place.deliver("sales", "sales_20261101_080000.csv", [sale(n, DAY) for n in range(9)])


def other_rules(place: Place) -> None:
    """Add a rule to two suites."""
    for domain, rule in NEW_RULES.items():
        add_rule(place, domain, rule)


def ten_days(place: Place) -> None:
    """A file of ten days, and one of four."""
    place.deliver("sales", "export.csv", [sale(n, DAY + dt.timedelta(days=n % 10)) for n in range(40)])
    place.deliver("inventory", "movements.csv", [movement(n, DAY + dt.timedelta(days=n % 4)) for n in range(12)])


@dataclass(frozen=True)
class Scenario:
    """A lake, and what happens to it before the run to interrupt."""

    name: str
    before: Callable[[Place], None]
    change: Callable[[Place], None]


SCENARIOS = [
    Scenario("first run", nothing, one_batch),
    Scenario("late rows", three_days, late_rows),
    Scenario("changed suite", three_days, other_rules),
    Scenario("backfill", nothing, ten_days),
]


class Prepared:
    """A scenario prepared up to the run to interrupt, and what readers find before and after that run."""

    def __init__(self, scenario: Scenario, workshop: Workshop) -> None:
        self.name, self._workshop = scenario.name, workshop
        self.base = workshop.new().create()
        scenario.before(self.base)
        self.old = self.base.look()["content"]
        scenario.change(self.base)
        self.base.log.unlink(missing_ok=True)
        done = self.base.copy(workshop.new().root)
        assert done.run() == 0, done.said()
        seen = done.look()
        assert not seen["troubles"], seen["troubles"]
        self.new = seen["content"]
        assert self.new != self.old
        done.remove()

    def place(self) -> Place:
        """A copy of the lake just before the run."""
        return self.base.copy(self._workshop.new().root)
