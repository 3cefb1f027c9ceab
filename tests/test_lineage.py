"""Where the columns of a table come from, by its SQL."""

from __future__ import annotations

import pytest

from lakejobs.engine.lineage import Origin, origins

COLUMNS = {
    "sales": {"sale_id": "varchar", "timestamp": "timestamp", "status": "varchar", "quantity": "bigint"},
    "events": {"customer_id": "varchar", "timestamp": "timestamp", "event_type": "varchar"},
}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select status from sales", Origin((("sales", "status"),), (), is_same=True)),
        ("select s.status as state from (select * from sales) s", Origin((("sales", "status"),), (), is_same=True)),
        ("select upper(status) as state from sales", Origin((("sales", "status"),), (), is_same=False)),
        ("select count(*) as n from sales", Origin((), ("count",), is_same=False, is_aggregate=True)),
        ("select 1 as one from sales", Origin((), (), is_same=False)),
        (
            "with q as (select timestamp::date d, quantity * 2 as q from sales) select sum(q) / count(*) as m from q",
            Origin((("sales", "quantity"),), ("count", "sum"), is_same=False),
        ),
        (
            "select status as x from sales union all select event_type from events",
            Origin((("events", "event_type"), ("sales", "status")), (), is_same=False),
        ),
        (
            "select e.n from sales s join (select customer_id, count(distinct event_type) n from events group by 1) e"
            " on s.sale_id = e.customer_id",
            Origin((("events", "event_type"),), ("count distinct",), is_same=False, is_aggregate=True),
        ),
        (
            "select cast(round(sum(cast(quantity as decimal(9, 2))), 1) as double) as total from sales",
            Origin((("sales", "quantity"),), ("sum",), is_same=False, is_aggregate=True),
        ),
        ("select -sum(quantity) as total from sales", Origin((("sales", "quantity"),), ("sum",), is_same=False)),
        ("select max(quantity) > 5 as large from sales", Origin((("sales", "quantity"),), ("max",), is_same=False)),
        (
            "select count(status) / count(*) as part from sales",
            Origin((("sales", "status"),), ("count",), is_same=False),
        ),
        (
            "select count(*) filter (where status = 'a') as n from sales",
            Origin((("sales", "status"),), ("count",), is_same=False),
        ),
        ("select max('a') as constant from sales", Origin((), ("max",), is_same=False)),
    ],
)
def test_a_column_comes_from(sql, expected):
    (found,) = origins(sql, COLUMNS).values()
    assert found == expected


def test_sql_that_cannot_be_followed_says_nothing():
    assert origins("this is no SQL", COLUMNS) == {}
    assert origins("select unknown from sales", COLUMNS) == {}
    assert (
        origins("select exists (select 1 from events e where e.customer_id = s.status) as x from sales s", COLUMNS)
        == {}
    )
