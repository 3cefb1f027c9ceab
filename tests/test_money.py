"""Money is exact: every amount in silver and gold is the double nearest to the exact result, rounded half up.

Checked against fractions, from the smallest amounts to the largest that a number may be.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from fractions import Fraction

import pytest
from conftest import LakeUnderTest, sale

DRAWN = 3_000
TIES = [(1, "1.005"), (1, "-1.005"), (1, "2.675"), (3, "0.335"), (1, "0.285"), (1, "1.115"), (1, "0.000001")]
FINE = [(300000, "0.333333333333"), (1000000, "0.1234567"), (5000000, "0.000000001"), (1000000, "123456789.1234567")]
"""Many pieces at a price of many decimals."""
LARGE = [(1, "17500000000.1"), (2, "52076209271314.585"), (1, "999999999999999.8"), (-1, "123456789012345.13")]


def exact(value: float) -> Fraction:
    """The amount that a double stands for: the shortest decimal that it is printed as."""
    return Fraction(repr(value))


def rounded(value: Fraction, places: int) -> Fraction:
    """Rounded half away from zero."""
    units = abs(value) * 10**places
    whole = units.numerator // units.denominator
    return Fraction((whole + (units - whole >= Fraction(1, 2))) * (1 if value > 0 else -1), 10**places)


def nearest(value: Fraction) -> float:
    return value.numerator / value.denominator  # Python rounds the quotient of whole numbers correctly.


def drawn(draw: random.Random) -> tuple[int, str]:
    """A quantity and a price."""
    size = 10 ** draw.uniform(-2, 14)
    places = draw.choice([0, 1, 2, 2, 3, 6, 9, 15])
    most = min(10**9, 10**14 / size)
    quantity = draw.choice([1, 1, 2, 3, -1, max(1, int(10 ** draw.uniform(0, math.log10(most))))])
    return quantity, f"{draw.uniform(0, size):.{places}f}"


@pytest.fixture
def lines() -> list[tuple[int, str]]:
    draw = random.Random(20261101)
    return [*TIES, *FINE, *LARGE, *(drawn(draw) for _ in range(DRAWN))]


def test_amounts_of_sales(lake: LakeUnderTest, lines: list[tuple[int, str]]):
    draw = random.Random(20261102)
    days, categories, prices = defaultdict(list), defaultdict(list), defaultdict(list)
    delivered, totals = [], {}
    for number, (quantity, price) in enumerate(lines):
        total = rounded(quantity * exact(float(price)), 2)
        # One cent more is tolerated, two are not.
        reported = nearest(total + draw.choice([Fraction(0), Fraction(1, 100), Fraction(2, 100)]))
        kept = reported if abs(exact(reported) - exact(nearest(total))) <= Fraction(1, 100) else nearest(total)
        day, category = f"2026-10-{draw.randint(1, 28):02d}", f"c{draw.randint(0, 2000)}"
        totals[f"s{number}"] = kept
        days[day].append(exact(kept))
        categories[day, category].append(exact(kept))
        prices[day, category].append(rounded(exact(float(price)), 6))
        delivered.append(sale(f"s{number}", day, quantity, price, repr(reported), category))
    lake.deliver("sales", "sales_20261101_120000.csv", *delivered)
    assert lake.run()
    rows = lake.silver()
    assert dict(zip(rows["sale_id"], rows["total_amount"], strict=True)) == totals
    daily, by_category = lake.gold("daily_sales_summary"), lake.gold("category_sales_summary")
    assert by_day(daily, "total_revenue") == {day: amount(some) for day, some in days.items()}
    assert by_day(daily, "net_revenue") == by_day(daily, "total_revenue")
    assert by_day(daily, "avg_order_value") == {day: amount(some, len(some)) for day, some in days.items()}
    assert by_day(daily, "total_revenue") == by_day(lake.gold("payment_method_summary"), "payment_revenue")
    keys = [*zip(by_category["date"].astype(str), by_category["category"], strict=True)]
    for column, expected in (
        ("category_revenue", {key: amount(some) for key, some in categories.items()}),
        ("avg_unit_price", {key: amount(some, len(some)) for key, some in prices.items()}),
    ):
        assert dict(zip(keys, by_category[column], strict=True)) == expected


def test_a_total_that_is_too_large_is_not_taken_as_reported(lake: LakeUnderTest):
    lake.deliver("sales", "a.csv", sale("s1", "2026-10-01", 999999, "999999999999.99", "1.01"))
    assert lake.run()
    lake.deliver("sales", "b.csv", sale("s2", "2026-10-01", 2, "5.00", "10.00"))
    assert lake.run()
    rows = lake.silver().sort_values("sale_id")
    assert rows["validation_errors"].fillna("").to_list() == ["OUT_OF_RANGE:total_amount", ""]
    assert rows["total_amount"].to_list() == [1.01, 10]
    assert by_day(lake.gold("daily_sales_summary"), "total_revenue") == {"2026-10-01": 10}


@pytest.mark.parametrize("total", ["10.01000001", "9.98999999", "10.010000000001"])
def test_a_total_is_corrected_if_it_differs_by_more_than_a_cent_however_little_more(lake: LakeUnderTest, total: str):
    lake.deliver(
        "sales", "a.csv", sale("s1", "2026-10-01", 1, "10.00", total), sale("s2", "2026-10-01", 1, "5", "5.01")
    )
    assert lake.run()
    assert lake.silver().sort_values("sale_id")["total_amount"].to_list() == [10, 5.01]


def test_costs_of_movements(lake: LakeUnderTest, lines: list[tuple[int, str]]):
    draw = random.Random(20261103)
    costs, delivered = defaultdict(list), []
    for number, (quantity, cost) in enumerate(lines):
        product = f"P{draw.randint(0, 2000)}"
        costs[product].append(rounded(abs(quantity) * exact(float(cost)), 6))
        delivered.append(f"m{number},2026-10-01,{product},Lamp,W1,inbound,{abs(quantity)},{cost},S1")
    lake.deliver("inventory", "inventory_20261101_120000.csv", *delivered)
    assert lake.run()
    made = lake.gold("inventory_movement_summary")
    found = dict(zip(made["product_id"], made["total_cost"], strict=True))
    assert found == {product: amount(some) for product, some in costs.items()}


def by_day(rows, column: str) -> dict[str, float]:
    return dict(zip(rows["date"].astype(str), rows[column], strict=True))


def amount(some: list[Fraction], count: int = 1) -> float:
    """A sum or an average as gold publishes it."""
    return nearest(rounded(sum(some, Fraction(0)) / count, 2))
