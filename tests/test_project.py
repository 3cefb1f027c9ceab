"""A user's own project: its domains, gold tables and column types, the wheel, and the command `lakejobs`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DOMAINS, PROJECT, LakeUnderTest, sale

from lakejobs import project
from lakejobs.commands import testing
from lakejobs.freshness import runs
from lakejobs.model import Column, Domain
from lakejobs.quality import suite as quality
from lakejobs.tables import broken_tables, tables

LUIGI = Path(sys.executable).with_name("luigi")

ORDERS = """\
from lakejobs.model import Column, Domain

DOMAIN = Domain(
    name="orders",
    columns={
        "order_id": Column("text", "the shop's number"),
        "line": "integer",
        "timestamp": "timestamp",
        "amount": "decimal(10, 2)",
        "paid": "boolean",
        "due": "date",
    },
    key=("order_id", "line"),
    event_time="timestamp",
)
"""
HEADER = "order_id,line,timestamp,amount,paid,due"
BY_DAY = """\
-- grain: date
-- source: orders
-- One row per UTC day.
select cast(timestamp as date) as date, count(*) as lines, sum(amount) as amount from orders group by 1
"""


class Project(LakeUnderTest):
    """A project in the working directory."""

    def write(self, path: str, text: str) -> Path:
        written = self.root / path
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(text)
        return written

    def suite(self, domain: str, *rules: dict[str, Any]) -> None:
        self.write(f"expectations/{domain}.json", json.dumps({"name": domain, "expectations": rules}))

    def rows(self, date: str, domain: str = "orders") -> pd.DataFrame:
        return pd.read_parquet(self.partition(date, domain), partitioning=None)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LUIGI, "--module", "lakejobs", *arguments, "--local-scheduler"],
            cwd=self.root, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def shop(lake: LakeUnderTest, set_lake: Callable[..., None]) -> Project:
    """A project with one domain, orders, and one gold table."""
    made = Project(lake.root)
    lake.__class__ = Project  # the fixture remembers the tasks that ran in it
    made = lake
    set_lake(domains="domains", tables="gold")
    made.write("domains/orders.py", ORDERS)
    made.write("gold/orders_by_day.sql", BY_DAY)
    made.write("luigi.cfg", "[lake]\ndomains = domains\ntables = gold\n")
    made.suite("orders")
    return made


# ------------------------------------------------------------------------------------------------ domains and tables


def test_the_domains_that_come_with_lakejobs_are_in_their_order():
    assert list(project.domains()) == ["sales", "customer_events", "inventory"]
    assert project.broken_domains() == {}
    assert all(map(project.is_shipped, project.domains()))


def test_a_project_has_domains_and_tables_of_its_own(shop):
    assert list(project.domains()) == ["orders"]
    assert not project.is_shipped("orders")
    assert list(tables()) == ["orders_by_day"]
    assert tables()["orders_by_day"].path == "gold/orders_by_day.sql"
    shop.deliver("orders", "a_20261101_120000.csv", "o1,1,2026-11-01T10:00:00,1.10,yes,2026-12-01", header=HEADER)
    assert shop.run()
    assert shop.gold("orders_by_day").to_dict("records") == [
        {"date": pd.Timestamp("2026-11-01"), "lines": 1, "amount": pytest.approx(1.1)}
    ]
    assert shop.run()
    assert shop.ran == []


@pytest.mark.parametrize("merge", [True, False])
def test_a_domain_may_say_that_the_later_delivery_wins_whatever_the_timestamps(shop, set_lake, merge):
    set_lake(merge=merge)
    shop.write("domains/orders.py", ORDERS.replace("    event_time=", '    winner="delivery",\n    event_time='))
    row = "o1,1,2026-11-01T{}:00:00,{},yes,2026-12-01"
    shop.deliver("orders", "b_20261101_130000.csv", row.format(11, "2.00"), header=HEADER)
    assert shop.run()
    shop.deliver("orders", "a_20261101_120000.csv", row.format(12, "1.00"), header=HEADER)
    assert shop.run()
    assert [*shop.rows("2026-11-01")["amount"]] == [Decimal("2.00")]
    shop.deliver("orders", "a_20261101_140000.csv", row.format(9, "3.00"), row.format(8, "4.00"), header=HEADER)
    assert shop.run()
    assert [*shop.rows("2026-11-01")["amount"]] == [Decimal("4.00")]
    traced = subprocess.run(
        [LUIGI.with_name("lakejobs"), "trace", "orders", "o1", "1"],
        cwd=shop.root, capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert traced.count("that one was delivered later") == 2
    shop.write("domains/orders.py", ORDERS)
    project.load_domains.cache_clear()
    project._load_domains.cache_clear()
    assert shop.run()
    assert [*shop.rows("2026-11-01")["amount"]] == [Decimal("1.00")]


def test_a_project_can_add_to_what_comes_with_lakejobs(shop, set_lake):
    set_lake(domains="lakejobs.domains, domains", tables="lakejobs.sql.gold,./gold/")
    assert list(project.domains()) == ["sales", "customer_events", "inventory", "orders"]
    assert {"daily_sales_summary", "orders_by_day"} < set(tables())
    assert broken_tables() == {}


def test_a_module_finds_its_siblings_and_a_helper_is_no_domain(shop):
    shop.write("domains/_money.py", "AMOUNT = 'decimal(10, 2)'\n")
    shop.write("domains/_columns.py", "from _money import AMOUNT\n")
    shop.write(
        "domains/refunds.py", ORDERS.replace("orders", "refunds").replace("from", "from . import _money\nfrom", 1)
    )
    shop.write("domains/returns.py", ORDERS.replace("orders", "returns").replace("from", "import _columns\nfrom", 1))
    assert (list(project.domains()), project.broken_domains()) == (["orders", "refunds", "returns"], {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import lakejobs\n\n1 / 0\n", "domains/broken.py, line 3: ZeroDivisionError: division by zero"),
        ("DOMAIN = (\n", "domains/broken.py, line 1: '(' was never closed"),
        ("import nothing_such\n", "domains/broken.py, line 1: ModuleNotFoundError: No module named 'nothing_such'"),
        ("import _helper\n", "domains/_helper.py, line 1: NameError: name 'x' is not defined"),
        ("raise SystemExit(0)\n", "domains/broken.py, line 1: SystemExit: 0"),
        (
            "domain = 3\n",
            "domains/broken.py defines no DOMAIN; add DOMAIN = Domain(…), or, if it only helps other modules, begin "
            "its name with _: _broken.py",
        ),
        ("DOMAIN = 3\n", "domains/broken.py: expected DOMAIN to be a lakejobs.model.Domain, got int"),
        (
            ORDERS.replace('"line": "integer"', '"line": "whole"'),
            "domains/broken.py, line 3: domain orders, column line: unknown type 'whole'; expected one of text,",
        ),
        (ORDERS.replace('    event_time="timestamp",\n', ""), "domains/broken.py, line 3: TypeError"),
        (ORDERS, "domains/broken.py and domains/orders.py both define the domain orders; rename one of them"),
    ],
)
def test_a_broken_module_fails_by_itself_and_says_where(shop, set_lake, caplog, text, message):
    set_lake(domains="lakejobs.domains, domains", tables="lakejobs.sql.gold, gold")
    if "_helper" in text:
        shop.write("domains/_helper.py", "x\n")
    shop.write("domains/broken.py", text)
    shop.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert not shop.run()
    assert [line for line in caplog.messages if message in line], caplog.text
    assert "Traceback" not in caplog.text
    assert len(shop.silver("sales")) == 1
    assert len(shop.snapshots("daily_sales_summary")) == 1
    caplog.clear()
    for task in ("BronzeAll", "SilverAll"):
        assert not shop.run(getattr(__import__("lakejobs"), task)()), task
    assert "Traceback" not in caplog.text


def test_a_broken_module_fails_the_command(shop):
    shop.write("domains/broken.py", "\n\nnothing\n")
    shop.deliver("orders", "a_20261101_120000.csv", "o1,1,2026-11-01T10:00:00,1.10,yes,2026-12-01", header=HEADER)
    done = shop.command("GoldAll")
    assert done.returncode == 30, done.stderr
    assert "domains/broken.py, line 3: NameError: name 'nothing' is not defined" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(shop.snapshots("orders_by_day")) == 1
    cards = (shop.root / "datalake/quality/report.html").read_text().partition("<h2>Business</h2>")[0]
    assert "domains/broken.py, line 3: NameError" in cards
    for task in (
        "Silver --domain broken --date 2026-11-01",
        "Generate --domain broken --Generate-batch 20261101_120000",
    ):
        done = shop.command(*task.split())
        assert done.returncode != 0
        assert "domains/broken.py, line 3" in done.stderr
        assert "Traceback" not in done.stderr
    for task in ("GenerateAll --GenerateAll-batch 20261101_120000", "BronzeAll", "SilverAll", "GoldAll"):
        done = shop.command(*task.split())
        assert done.returncode == 30, done.stderr
        assert "domains/broken.py, line 3" in done.stderr
        assert "Traceback" not in done.stderr


def test_where_every_module_is_broken_a_run_says_so_once(shop):
    shop.write("domains/orders.py", "nothing\n")
    shop.write("gold/best_day.sql", "-- grain: orders\n-- source: orders_by_day\nselect max(lines) from orders_by_day")
    for task in ("GoldAll", "Gold --table best_day"):
        done = shop.command(*task.split())
        assert done.returncode == 30, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("ERROR")] == [
            "ERROR: DomainSilver(domain=orders): domains/orders.py, line 1: NameError: name 'nothing' is not defined"
        ]
        assert "Traceback" not in done.stderr
    page = (shop.root / "datalake/quality/report.html").read_text()
    assert "gold/best_day.sql: its source orders_by_day is broken" in page
    assert "gold/orders_by_day.sql: its source orders is broken" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["--lake-domains", "nowhere/at_all"],
            "[lake] domains names the directory nowhere/at_all, which does not exist",
        ),
        (["--lake-domains", "nowhere"], "[lake] domains names nowhere, which is neither a directory in "),
        (["--lake-domains", "no.where"], "[lake] domains names no.where, which is neither a directory in "),
        (["--lake-domains", ","], "[lake] domains is empty"),
        (["--lake-tables", "json.tool"], "[lake] tables names json.tool, which is a module"),
    ],
)
def test_a_place_that_is_not_there_is_said_in_a_sentence(shop, settings, message):
    done = shop.command("GoldAll", *settings)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_of_two_modules_for_a_domain_neither_is_taken_where_one_is_broken(shop, set_lake):
    set_lake(domains="lakejobs.domains, domains")
    shop.write("domains/sales.py", "nothing\n")
    assert list(project.domains()) == ["customer_events", "inventory", "orders"]
    assert list(project.broken_domains()) == ["sales"]


def test_two_tables_of_a_name_are_named_with_both_files(shop, set_lake):
    shop.write("more/orders_by_day.sql", BY_DAY)
    set_lake(tables="gold, more")
    assert broken_tables() == {
        "orders_by_day": "gold/orders_by_day.sql and more/orders_by_day.sql both define the gold table orders_by_day; "
        "rename one of them"
    }


def test_without_fake_rows_nothing_is_generated(shop, set_lake):
    done = shop.command("Generate", "--domain", "orders", "--Generate-batch", "20261101_120000")
    assert done.returncode == 30
    assert "orders has no `fake` function to generate rows with" in done.stderr
    assert "Traceback" not in done.stderr
    done = shop.command("GenerateAll", "--GenerateAll-batch", "20261101_120000")
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ keys and types


def domain(**changes: Any) -> Domain:
    return dataclasses.replace(DOMAINS["sales"], **changes)


def test_a_domain_needs_little():
    plain = Domain(name="taps", columns={"id": "text", "moment": "timestamp"}, key="id", event_time="moment")
    assert (plain.prefix, plain.rows, plain.fake, plain.description) == ("taps", 10, None, "")
    assert plain.column("id").description == ""


def test_columns_have_descriptions():
    described = domain(columns={**DOMAINS["sales"].columns, "note": Column("decimal( 5,2 )", "what it is about")})
    assert described.columns["note"] == "decimal(5,2)"
    assert described.column("note").description == "what it is about"
    for shipped in DOMAINS.values():
        assert shipped.description
        assert all(shipped.column(name).description for name in shipped.columns)


def test_words_that_sql_reserves_are_no_names():
    words = duckdb.sql("select keyword_name from duckdb_keywords()").fetchall()
    for (word,) in words:
        try:
            duckdb.sql(f"select a, {word}, b from (select 1 as a, 2 as {word}, 3 as b) as t where {word} is not null")
        except duckdb.Error:
            with pytest.raises(ValueError, match=word):
                domain(columns={**DOMAINS["sales"].columns, word: "text"})


@pytest.mark.parametrize("kind", ["decimal", "decimal(0,0)", "decimal(39,2)", "decimal(2,3)", "decimal(p, s)", "float"])
def test_a_type_that_there_is_not_is_refused(kind):
    with pytest.raises(ValueError, match="domain sales, column note: "):
        domain(columns={**DOMAINS["sales"].columns, "note": kind})


@pytest.mark.parametrize("key", [(), ("sale_id", "sale_id"), ("sale_id", "colour")])
def test_a_key_that_cannot_be_is_refused(key):
    with pytest.raises(ValueError, match="domain sales"):
        domain(key=key)


def test_rows_are_told_apart_by_the_whole_key(shop):
    shop.deliver(
        "orders",
        "a_20261101_120000.csv",
        "o1,1,2026-11-01T10:00:00,1,,",
        "o1,2,2026-11-01T10:00:00,2,,",
        "o2,1,2026-11-01T10:00:00,3,,",
        "o1,1,2026-11-01T11:00:00,4,,",
        "o3,,2026-11-01T10:00:00,5,,",
        "o3,,2026-11-01T10:00:00,6,,",
        ",1,2026-11-01T10:00:00,7,,",
        ",1,2026-11-01T10:00:00,8,,",
        header=HEADER,
    )
    assert shop.run()
    assert sorted(map(int, shop.rows("2026-11-01")["amount"])) == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("missing", ["order_id", "line", "timestamp"])
def test_a_file_without_a_part_of_the_key_is_rejected(shop, missing):
    header = ",".join(name for name in HEADER.split(",") if name != missing)
    shop.deliver("orders", "a_20261101_120000.csv", ",".join("1" * 5), header=header)
    assert shop.run()
    assert f"it has no column {missing}, which every record of orders needs" in runs.state("orders").rejected[0]


def test_a_page_tells_rows_by_their_whole_key(shop):
    shop.suite(
        "orders",
        {
            "type": "expect_column_values_to_not_be_null", "kwargs": {"column": "paid"}, "severity": "critical",
            "meta": {"code": "NULL:paid"},
        },
    )  # fmt: skip
    shop.deliver("orders", "a_20261101_120000.csv", "o17,3,2026-11-01T10:00:00,1,,", header=HEADER)
    assert shop.run()
    (stored,) = (shop.root / "datalake/quality/validations/orders").glob("orders_*.json")
    (rule,) = json.loads(stored.read_text())["meta"]["lakejobs"]["rules"]
    assert rule["examples"][0]["key"] == "o17 / 3"


YES, NO, WRONG = True, False, "wrong"
NINES = "9" * 28 + "." + "9" * 10
VALUES: dict[str, list[tuple[str, Any]]] = {
    "boolean": [
        *((text, True) for text in ("true", "TRUE", "t", "T", "yes", "Yes", "1", " true ")),
        *((text, False) for text in ("false", "False", "f", "no", "NO", "0")),
        *((text, WRONG) for text in ("y", "n", "on", "2", "10", "truee", "1.0", "-1")),
        ("", None),
    ],
    "date": [
        ("2026-11-01", dt.date(2026, 11, 1)),
        ("2024-02-29", dt.date(2024, 2, 29)),
        ("0001-01-01", dt.date(1, 1, 1)),
        ("9999-12-31", dt.date(9999, 12, 31)),
        *(
            (text, WRONG)
            for text in (
                "2026-02-29", "2026-1-1", "0000-01-01", "20261101", "2026-11-01T00:00:00", "11/01/2026", "2026-13-01",
                "-2026-11-01", "2026-11-31", "10000-01-01", "infinity", "epoch",
            )
        ),
        ("", None),
    ],
    "decimal(5,2)": [
        *(
            (text, Decimal(text))
            for text in ("0", "1", "-1.5", "+1.25", "999.99", "-999.99", "5.", ".5", "-.05", "000999.99", "1.500000")
        ),
        ("0" * 60 + "1.5" + "0" * 60, Decimal("1.5")),
        *((text, WRONG) for text in ("1000", "-1000", "1.005", "999.995", "1e2", "1,5", ".", "-", "1 0", "NaN", "0x1")),
        ("", None),
    ],
    "integer": [("10", 10), ("3.0", 3), ("1e1", WRONG), ("2.5", WRONG), ("", None)],
    "number": [("10", 10.0), ("1e1", 10.0), (".5", 0.5), ("1e", WRONG), ("", None)],
    "decimal(2,2)": [("0.99", Decimal("0.99")), (".5", Decimal("0.5")), ("1", WRONG), ("0.999", WRONG)],
    "decimal(3,0)": [("999", Decimal(999)), ("999.00", Decimal(999)), ("999.5", WRONG), ("1000", WRONG)],
    "decimal(38,10)": [(NINES, Decimal(NINES)), ("-" + NINES, Decimal("-" + NINES)), ("1" + NINES, WRONG)],
    "decimal(38,38)": [("0." + "9" * 38, Decimal("0." + "9" * 38)), ("1", WRONG), ("0." + "9" * 39, WRONG)],
}  # fmt: skip
ARROW = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "decimal(5,2)": pa.decimal128(5, 2),
}


def one_column(kind: str) -> str:
    return (
        "from lakejobs.model import Domain\n\n"
        f"DOMAIN = Domain(name='orders', columns={{'id': 'integer', 'moment': 'timestamp', 'seen': '{kind}'}}, "
        "key='id', event_time='moment')\n"
    )


@pytest.mark.parametrize("kind", VALUES)
def test_values_at_the_edges_of_their_type(shop, kind):
    shop.write("domains/orders.py", one_column(kind))
    shop.write("gold/orders_by_day.sql", "-- grain: seen\n-- source: orders\nselect distinct seen from orders\n")
    lines = [f'{n},2026-11-01,"{text}"' for n, (text, _) in enumerate(VALUES[kind])]
    shop.deliver("orders", "a_20261101_120000.csv", *lines, header="id,moment,seen")
    assert shop.run()
    table = pq.ParquetFile(shop.partition("2026-11-01", "orders")).read()
    digits = [int(n) for n in kind[8:-1].split(",")] if kind.startswith("decimal") else []
    assert table.schema.field("seen").type == (pa.decimal128(*digits) if digits else ARROW[kind])
    rows = {row["id"]: row for row in table.to_pylist()}
    for number, (text, value) in enumerate(VALUES[kind]):
        row = rows[number]
        if value is WRONG:
            assert row["seen"] is None, text
            assert (row["is_valid"], row["validation_errors"]) == (False, "TYPE:seen"), text
            assert json.loads(row["rescued_data"]) == {"seen": text}
        else:
            assert (row["seen"], row["is_valid"], row["rescued_data"]) == (value, True, None), text
    # Without rows, the table keeps its column types.
    (before,) = shop.snapshots("orders_by_day")
    next((shop.root / "datalake/bronze/orders").glob("**/a_*.csv")).unlink()
    next((shop.root / "local_output/orders").iterdir()).unlink()
    assert shop.run()
    _, after = shop.snapshots("orders_by_day")
    assert len({pq.ParquetFile(path).schema_arrow.field("seen").type for path in (before, after)}) == 1


def test_a_decimal_can_be_corrected(shop):
    shop.write(
        "domains/orders.py",
        "from lakejobs.model import Correction, Domain\n\nDOMAIN = Domain(name='orders', columns={'id': 'integer', "
        "'moment': 'timestamp', 'price': 'decimal(10,2)', 'pieces': 'integer', 'total': 'decimal(12,2)'}, key='id', "
        "event_time='moment', corrections=(Correction(column='total', operands=('price', 'pieces'), "
        "expression='price * pieces', tolerance=0.0),))\n",
    )
    shop.write(
        "gold/orders_by_day.sql",
        "-- grain: date\n-- source: orders\nselect date '2026-11-01' as date, sum(total) as t from orders\n",
    )
    lines = ["1,2026-11-01,0.10,3,0.30", "2,2026-11-01,0.10,3,0.31", "3,2026-11-01,0.10,3,", "4,2026-11-01,,3,5.00"]
    shop.deliver("orders", "a_20261101_120000.csv", *lines, header="id,moment,price,pieces,total")
    assert shop.run()
    rows = shop.rows("2026-11-01").sort_values("id")
    assert list(rows["total"]) == [Decimal("0.30")] * 3 + [Decimal("5.00")]
    assert list(rows["corrections"].fillna("")) == ["", '{"total": "0.31"}', '{"total": null}', ""]


# ------------------------------------------------------------------------------------------------ verdicts

MEASURES = """\
from lakejobs.model import Domain

DOMAIN = Domain(
    name="orders",
    columns={
        "id": "integer", "moment": "timestamp", "paid": "boolean", "due": "date", "amount": "decimal(12,2)",
        "exact": "decimal(38,10)", "price": "number",
    },
    key="id",
    event_time="moment",
)
"""
# Numbers that no double can hold, values that differ only in digits beyond a double's precision, and NULLs.
LINES = [
    "true,2026-11-01,1.10,1234567890123456789.0000000001,1.1",
    "false,2026-11-02,1.09,1234567890123456789.0000000002,1.09",
    ",,,,",
    "true,2026-11-03,1.11,0.3,1.2",
    "true,2026-11-04,2.20,0.1,2.2",
    ",2026-11-04,-3.30,0.1,-3.3",
    "false,0001-01-01,1.10,2.5,1.1",
    ",9999-12-31,9999999999.99,-7,9999999999.99",
]
PAIRS = {"column_A": "amount", "column_B": "price", "ignore_row_if": "either_value_is_missing"}
UNIQUE, NOT_NULL = "expect_column_values_to_be_unique", "expect_column_values_to_not_be_null"
BETWEEN, IN_SET = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
D = dt.date
VERDICTS: list[tuple[str, dict[str, Any], Callable[[pd.Series], pd.Series] | None]] = [
    *((kind, {"column": column}, None) for column in ("paid", "due", "amount", "exact") for kind in (NOT_NULL, UNIQUE)),
    (IN_SET, {"column": "paid", "value_set": [True]}, lambda v: v == True),  # noqa: E712
    (IN_SET, {"column": "paid", "value_set": [True, False]}, lambda v: v.isin([True, False])),
    (BETWEEN, {"column": "paid", "min_value": 1}, lambda v: v == True),  # noqa: E712
    (IN_SET, {"column": "due", "value_set": ["2026-11-01", "2026-11-04"]},
     lambda v: v.isin([D(2026, 11, 1), D(2026, 11, 4)])),
    ("expect_column_values_to_not_be_in_set", {"column": "due", "value_set": ["9999-12-31"]},
     lambda v: v != D(9999, 12, 31)),
    (BETWEEN, {"column": "due", "min_value": "2026-11-02", "max_value": "2026-11-04"},
     lambda v: v.between(D(2026, 11, 2), D(2026, 11, 4))),
    (BETWEEN, {"column": "due", "max_value": "2026-11-02", "strict_max": True}, lambda v: v < D(2026, 11, 2)),
    (IN_SET, {"column": "amount", "value_set": [1.1, "2.20", -3.3]},
     lambda v: v.isin([Decimal("1.10"), Decimal("2.2"), Decimal("-3.3")])),
    (BETWEEN, {"column": "amount", "min_value": 1.1, "max_value": 2.2},
     lambda v: v.between(Decimal("1.1"), Decimal("2.2"))),
    (BETWEEN, {"column": "amount", "min_value": 1.1, "strict_min": True}, lambda v: v > Decimal("1.1")),
    (BETWEEN, {"column": "exact", "max_value": 0.3}, lambda v: v <= Decimal("0.3")),
    (IN_SET, {"column": "exact", "value_set": [0.1, 0.3, 2.5]},
     lambda v: v.isin([Decimal("0.1"), Decimal("0.3"), Decimal("2.5")])),
    ("expect_column_values_to_match_regex", {"column": "amount", "regex": r"\.[0-9]0$"}, None),
    ("expect_column_pair_values_to_be_equal", PAIRS, None),
]  # fmt: skip


@pytest.mark.parametrize("rows_in_a_piece", [2, 500_000])
def test_verdicts_on_booleans_dates_and_decimals_are_right_in_pieces_and_whole(shop, set_lake, rows_in_a_piece):
    from test_registry import plain

    set_lake(chunk_rows=rows_in_a_piece)
    shop.write("domains/orders.py", MEASURES)
    shop.write("gold/orders_by_day.sql", BY_DAY.replace("timestamp as", "moment as"))
    rules = [
        {"type": kind, "kwargs": kwargs, "severity": "critical", "meta": {"code": f"R{number}"}}
        for number, (kind, kwargs, _) in enumerate(VERDICTS)
    ]
    # The same rules again with `mostly`, which is counted for each day.
    rules += [
        {**rule, "kwargs": {**rule["kwargs"], "mostly": 0.0}, "meta": {"code": f"M{number}"}}
        for number, rule in enumerate(rules)
    ]
    shop.suite("orders", *rules)
    lines = [f"{n},2026-11-01T10:00:00,{line}" for n, line in enumerate(LINES)]
    shop.deliver("orders", "a_20261101_120000.csv", *lines, header="id,moment,paid,due,amount,exact,price")
    assert shop.run()
    rows = shop.rows("2026-11-01").sort_values("id").reset_index(drop=True)
    codes = rows["validation_errors"].fillna("").str.split("; ")
    for number, (kind, kwargs, passes) in enumerate(VERDICTS):
        if passes:
            values = rows[kwargs["column"]].dropna()
            expected = list(values[~passes(values).astype(bool)].index)
        elif "column" in kwargs:
            expected = plain(rows, {kind: kwargs})[kind].result["unexpected_index_list"] or []
        else:
            both = rows[rows["amount"].notna()]
            expected = list(both[both["amount"].astype(float) != both["price"]].index)
        for code in (f"R{number}", f"M{number}"):
            assert [n for n, found in enumerate(codes) if code in found] == sorted(expected), (kind, kwargs)


TABLE_RULES: list[tuple[str, dict[str, Any], bool]] = [
    ("expect_column_max_to_be_between", {"column": "due", "max_value": "9999-12-31"}, True),
    ("expect_column_max_to_be_between", {"column": "due", "max_value": "9999-12-30"}, False),
    ("expect_column_sum_to_be_between", {"column": "amount", "min_value": 10000000003.28, "max_value": 10000000003.30},
     True),
    ("expect_column_mean_to_be_between", {"column": "amount", "max_value": 3}, False),
    ("expect_column_stdev_to_be_between", {"column": "amount", "min_value": 1}, True),
    ("expect_column_median_to_be_between", {"column": "exact", "min_value": 0.3, "max_value": 0.3}, True),
    ("expect_column_distinct_values_to_be_in_set", {"column": "paid", "value_set": [True, False]}, True),
    ("expect_column_distinct_values_to_be_in_set", {"column": "amount", "value_set": [1.1]}, False),
    ("expect_column_unique_value_count_to_be_between", {"column": "due", "min_value": 6, "max_value": 6}, True),
    ("expect_column_quantile_values_to_be_between",
     {"column": "amount", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[1.1, 1.1]]}}, True),
]  # fmt: skip


def test_rules_about_whole_columns_can_judge_every_type(shop):
    shop.write("domains/orders.py", MEASURES)
    shop.write("gold/orders_by_day.sql", BY_DAY.replace("timestamp as", "moment as"))
    shop.suite(
        "orders",
        *(
            {"type": kind, "kwargs": kwargs, "severity": "warning", "meta": {"code": f"R{number}"}}
            for number, (kind, kwargs, _) in enumerate(TABLE_RULES)
        ),
    )
    lines = [f"{n},2026-11-01T10:00:00,{line}" for n, line in enumerate(LINES)]
    shop.deliver("orders", "a_20261101_120000.csv", *lines, header="id,moment,paid,due,amount,exact,price")
    assert shop.run()
    (stored,) = (shop.root / "datalake/quality/validations/orders").glob("orders_*.json")
    found = json.loads(stored.read_text())["results"]
    assert [(rule["success"], rule["result"]) for rule in found if rule["success"] is None] == []
    for (kind, kwargs, success), rule in zip(TABLE_RULES, found, strict=True):
        assert rule["success"] == success, (kind, kwargs, rule["result"])


# ------------------------------------------------------------------------------------------------ the wheel


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' directory of an environment with the wheel installed, but not the checkout.

    Links to the dependencies of the current environment, so that nothing is downloaded.
    """
    directory = tmp_path_factory.mktemp("installed")
    source = directory / "source"
    left_out = shutil.ignore_patterns(".*", "datalake", "*.egg-info", "build")
    shutil.copytree(PROJECT, source, symlinks=True, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory, source], check=True
    )
    (wheel,) = directory.glob("*.whl")
    venv.create(directory / "venv", symlinks=True)
    python = directory / "venv/bin/python"
    (site,) = (directory / "venv").glob("lib/python*/site-packages")
    for dependency in Path(pytest.__file__).parent.parent.iterdir():
        if "lakejobs" not in dependency.name and dependency.suffix != ".pth":
            (site / dependency.name).symlink_to(dependency)
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    entry = "import sys; from luigi.cmdline import luigi_run; sys.exit(luigi_run())"
    command = python.with_name("luigi")
    command.write_text(f"#!{python}\n{entry}\n")
    command.chmod(0o755)
    return python.parent


def test_the_wheel_holds_all_that_a_run_needs(installed):
    (wheel,) = (installed.parent.parent).glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in [*(PROJECT / "lakejobs").glob("**/*"), *(PROJECT / "lakejobs/expectations").iterdir()]:
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(PROJECT)) in names
    assert {name.partition("/")[0] for name in names} == {"lakejobs", "lakejobs-0.1.0.dist-info"}


def run_installed(installed: Path, directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LUIGI_CONFIG_PATH")}
    return subprocess.run(
        [installed / command[0], *command[1:]],
        cwd=directory, capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


def test_an_installed_lakejobs_makes_a_project_that_runs(installed, tmp_path):
    done = run_installed(installed, tmp_path, "lakejobs", "init", "shop")
    assert done.returncode == 0, done.stderr
    shop = tmp_path / "shop"
    gold_all = ("luigi", "--module", "lakejobs", "GoldAll", "--local-scheduler")
    done = run_installed(installed, shop, *gold_all)
    assert done.returncode == 0, done.stderr
    (snapshot,) = (shop / "datalake/gold/orders_by_day").glob("*.parquet")
    rows = duckdb.sql(f"select * exclude (generated_at) from '{snapshot}' order by date").fetchall()
    assert rows == [(dt.date(2026, 11, 1), 3, 8, 70.9, 1), (dt.date(2026, 11, 2), 1, 1, 24.9, 1)]
    assert run_installed(installed, shop, *gold_all).returncode == 0
    assert len(list((shop / "datalake/gold/orders_by_day").iterdir())) == 1
    page = (shop / "datalake/quality/report.html").read_text()
    described = "<strong>orders_by_day</strong>, gold table: One row per UTC day with at least one valid order line.<"
    assert described in page
    tested = run_installed(installed, shop, "lakejobs", "test")
    assert tested.returncode == 0, tested.stdout
    assert tested.stdout.count("ok ") == 3
    tested = run_installed(installed, shop, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "3 passed" in tested.stdout, tested.stdout


def test_what_comes_with_lakejobs_runs_in_an_empty_directory(installed, tmp_path):
    luigi = ("luigi", "--module", "lakejobs")
    done = run_installed(
        installed, tmp_path, *luigi, "GenerateAll", "--GenerateAll-batch", "20261101_120000", "--local-scheduler"
    )
    assert done.returncode == 0, done.stderr
    done = run_installed(installed, tmp_path, *luigi, "GoldAll", "--local-scheduler")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "datalake/gold").iterdir()} == set(tables())
    page = (tmp_path / "datalake/quality/report.html").read_text()
    assert "WRONG_TOTAL" in page or "NULL:" in page


def test_a_suite_of_ones_own_goes_before_the_one_that_comes_with_the_domain(lake):
    assert quality.suite_path("sales") == "expectations/sales.json"
    (lake.root / "expectations/sales.json").unlink()
    assert Path(quality.suite_path("sales")).samefile(PROJECT / "expectations/sales.json")
    assert quality.load_suite(DOMAINS["sales"]).rules


def test_a_domain_of_ones_own_without_a_suite_is_noticed_before_it_has_rows(shop, caplog):
    (shop.root / "expectations/orders.json").unlink()
    assert not shop.run()
    assert "expectations/orders.json is missing: every domain needs a suite of rules" in caplog.text


@pytest.mark.parametrize("shipped", [True, False])
def test_a_directory_of_suites_that_does_not_exist_is_said_once(shop, shipped):
    settings = ["--lake-expectations", "rules/here"]
    if shipped:  # whoever names a directory wants its suites, not those that come with the domains
        settings += ["--lake-domains", "lakejobs.domains", "--lake-tables", "lakejobs.sql.gold"]
    shop.deliver("orders", "a_20261101_120000.csv", "o1,1,2026-11-01T10:00:00,1.10,yes,2026-12-01", header=HEADER)
    done = shop.command("GoldAll", *settings)
    assert done.returncode == 35
    assert [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "WARNING"))] == [
        "WARNING: the directory rules/here does not exist: create it, with a suite for each domain, "
        "rules/here/<domain>.json, or set another one with [lake] expectations or --lake-expectations"
    ]
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def lakejobs(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in a temporary directory, or in another one."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("lakejobs"), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)

    return run


def test_the_command_says_its_version(lakejobs):
    assert lakejobs("--version").stdout == "lakejobs 0.1.0\n"


def test_a_new_project_is_made_where_nothing_is(lakejobs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full/of").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for directory in ("empty", "new", "deep/new", "with a blank"):
        done = lakejobs("init", directory)
        assert done.returncode == 0, done.stderr
        named = shlex.quote(directory)
        assert done.stdout.startswith(f"Created a project in {named}.")
        assert f"cd {named}\n" in done.stdout
        there = tmp_path / directory
        made = {str(path.relative_to(there)) for path in there.glob("**/*") if path.is_file()}
        assert made == {
            ".gitignore", "README.md", "luigi.cfg", "domains/orders.py", "expectations/orders.json",
            "gold/orders_by_day.sql", "gold/orders_by_day.test.yaml", "local_output/orders/orders_20261102_060000.csv",
            "tests/conftest.py", "tests/test_gold.py",
        }  # fmt: skip
    for directory, reason in (("full", "full is not empty"), ("file", "file is a file"), ("new", "new is not empty")):
        done = lakejobs("init", directory)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(reason)
        assert len(done.stderr.splitlines()) == 1


def test_every_table_that_comes_with_lakejobs_has_examples_that_hold(monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert {case.table for case in testing.cases()} == set(tables())
    for case in testing.cases():
        case.check()


CASE = """\
- name: one
  given:
    orders:
      - {order_id: a, line: 1, timestamp: 2026-11-01 10:00:00, amount: 1.10}
  expect:
    - {date: 2026-11-01, lines: 1, amount: 1.1}
"""


def example(project: Project, text: str, table: str = "orders_by_day") -> subprocess.CompletedProcess[str]:
    project.write(f"gold/{table}.test.yaml", text)
    return subprocess.run(
        [Path(sys.executable).with_name("lakejobs"), "test"], cwd=project.root, capture_output=True, text=True
    )


def own_tests(project: Project) -> str:
    """What pytest says about a project with the tests that `lakejobs init` writes."""
    for name in ("conftest.py", "test_gold.py"):
        project.write(f"tests/{name}", (PROJECT / "lakejobs/commands/new_project/tests" / name).read_text())
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=project.root, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lines: 1, amount: 1.1", "amount: 1.1"), None),
        (("1.10}", "'1.10'}"), None),
        (("10:00:00,", "23:30:00-01:00,"), "2026-11-02"),
        (("lines: 1", "lines: 2"), "expected, but missing:"),
        (("lines: 1", "lines: 1.5"), "2026-11-01  1.5"),
        (("1.10}", "1.10, is_valid: false}"), "expected, but missing:"),
        (("line: 1", "line: 1e0"), None),
        (("1.10}", "1.10, paid: yes, due: 2026-12-01}"), None),
        (("1.10}", "1.10, due: 2026-12-01 10:00:00}"), "row 1: due 2026-12-01 10:00:00 does not fit date"),
        (("1.10}", "1.105}"), "given orders, row 1: amount 1.105 does not fit decimal(10,2)"),
        (("1.10}", "99999999.995}"), "given orders, row 1: amount 99999999.995 does not fit decimal(10,2)"),
        (("line: 1", "line: 1.5"), "given orders, row 1: line 1.5 does not fit bigint"),
        (("    - {date", "    - {date: 2026-11-01, lines: 1}\n    - {date"), "line 1: all expected rows must name"),
        (("lines: 1", "linse: 1"), "orders_by_day has no column linse; it has date, lines, amount"),
        (("amount: 1.10", "amuont: 1.10"), "given orders, row 1: orders has no column amuont; it has order_id, line"),
        (("amount: 1.10", "amount: much"), "given orders, row 1: amount much does not fit decimal(10,2)"),
        (("    orders:", "    sales:"), "orders_by_day does not read sales; it reads orders"),
        (("lines: 1", "lines: [1]"), "2026-11-01  [1]"),
        (("lines: 1, amount", "date: 1, amount"), 'gold/orders_by_day.test.yaml, line 6: found duplicate key "date"'),
        (("{date: 2026-11-01", "{date: 2026-11-31"), "gold/orders_by_day.test.yaml, line 1: day is out of range"),
        (("  given:", "  gives:"), "line 1: unknown gives; expected the keys name, given, expect"),
        (("- name: one\n  given:", "- given:"), "line 1: missing name; expected the keys name, given, expect"),
        ((CASE, "- one"), "line 1: expected a case with the keys name, given, expect, got 'one'"),
        (("- {date", "{date"), "gold/orders_by_day.test.yaml, line 1: expect must be a list of rows"),
        (("- {date", "- [date"), "gold/orders_by_day.test.yaml, line 6: "),
        ((CASE, "one: two"), "gold/orders_by_day.test.yaml: expected a list of cases"),
    ],
)  # fmt: skip
def test_an_example_that_does_not_hold_says_why(shop, change, message):
    text = CASE.replace(*change)
    assert text != CASE
    done = example(shop, text)
    assert "Traceback" not in done.stderr + done.stdout
    if message is None:
        assert (done.returncode, done.stdout) == (0, "ok      orders_by_day: one\n")
    else:
        assert done.returncode == 1
        assert message in done.stdout
        assert done.stderr == "1 failure\n"


def test_what_is_broken_fails_the_examples_too(shop, lakejobs):
    shop.write("domains/broken.py", "x\n")
    shop.write("gold/other.sql", "-- grains: date\n")
    shop.write("gold/third.sql", BY_DAY + "from where")
    shop.write("gold/third.test.yaml", CASE)
    done = example(shop, CASE)
    assert done.returncode == 1
    assert "FAILED  domains/broken.py, line 1: NameError" in done.stdout
    assert "FAILED  other: broken\n  gold/other.sql, line 1: unknown header '-- grains:'; did you mean" in done.stdout
    assert "FAILED  third: broken\n  gold/third.sql: Parser Error" in done.stdout
    assert "ok      orders_by_day: one" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr == "3 failures\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("-- One", "-- chart: Lines | lines: linse\n-- One"),
         "gold/orders_by_day.sql, line 3: orders_by_day has no column linse to chart; it has date, lines, amount"),
        (("source: orders", "source: orders, sails"), "its source sails is neither a domain nor a gold table"),
        (("count(*) as lines", "unnest([1, 2]) as lines"), "computes 2 rows for date 2026-11-01"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_examples", [True, False])
def test_a_table_that_would_fail_fails_the_examples(shop, change, message, has_examples):
    shop.write("gold/other.sql", BY_DAY)
    shop.write("gold/orders_by_day.sql", BY_DAY.replace(*change))
    done = example(shop, CASE if has_examples else "[]")
    assert "Traceback" not in done.stderr + done.stdout
    if not has_examples and "[1, 2]" in change[1]:
        return  # only rows can tell
    assert (done.returncode, done.stderr) == (1, "1 failure\n")
    assert message in done.stdout
    tested = own_tests(shop)
    assert "1 failed" in tested, tested
    assert message in tested


@pytest.mark.parametrize("has_examples", [True, False])
def test_a_table_whose_sql_cannot_be_run_is_one_failure(shop, has_examples):
    shop.write("gold/orders_by_day.sql", BY_DAY.replace("count(*)", "cuont(*)"))
    done = example(shop, CASE + CASE.replace("one", "two") if has_examples else "[]")
    assert (done.returncode, done.stderr) == (1, "1 failure\n")
    assert done.stdout.startswith(
        "FAILED  orders_by_day: broken\n  gold/orders_by_day.sql: Catalog Error: Scalar Function"
    )
    tested = own_tests(shop)
    assert "1 failed" in tested and "passed" not in tested, tested


LONG = "12345678901234567890.123456789012345678"


@pytest.mark.parametrize(
    ("given", "expected", "holds"),
    [
        (LONG, LONG, True),
        (LONG, LONG[:-1] + "9", False),
        ("-" + LONG, "-" + LONG, True),
        ("+.10", "0.1", True),
        ("0.12345678901234567890", "0.12345678901234567890", None),
        ("1.5e3", "1500", True),
        ("9007199254740993.0", "9007199254740993", True),
    ],
)
def test_decimals_in_an_example_keep_all_digits(shop, given, expected, holds):
    shop.write("domains/orders.py", ORDERS.replace("decimal(10, 2)", "decimal(38, 18)"))
    done = example(shop, CASE.replace("1.10}", f"{given}}}").replace("1.1}", f"{expected}}}"))
    assert done.returncode == (0 if holds else 1), done.stdout
    if holds is None:
        assert f"row 1: amount {given} does not fit decimal(38,18)" in done.stdout
    elif not holds:
        assert f"2026-11-01  1      {expected}" in done.stdout


def test_numbers_in_an_example_are_as_they_are_written(shop):
    """Text that looks like a number keeps its zeros, and a list of numbers equals a computed one."""
    shop.write("domains/orders.py", ORDERS.replace('"paid": "boolean"', '"paid": "text"'))
    shop.write(
        "gold/orders_by_day.sql", BY_DAY.replace("count(*)", "min(paid)").replace("sum(amount)", "[1.5, 0.25e0]")
    )
    text = CASE.replace("amount: 1.10", "paid: 1.10").replace(
        "lines: 1, amount: 1.1", "lines: 1.10, amount: [1.5, 0.25]"
    )
    done = example(shop, text)
    assert done.returncode == 0, done.stdout


RETURNS = ORDERS.replace('"orders"', '"returns"')
SHARED = """\
-- grain: date
-- sources: orders, returns
-- One row per UTC day: the orders, and how many of them came back.
select cast(orders.timestamp as date) as date, count(distinct orders.order_id) as ordered,
count(returns.order_id) as back
from orders left join returns using (order_id) group by 1
"""
TWO_DAYS = """\
- name: an order that comes back the next day
  given:
    orders:
      - {order_id: a, timestamp: 2026-11-01 10:00:00}
      - {order_id: b, timestamp: 2026-11-02 10:00:00}
    returns:
      - {order_id: a, timestamp: 2026-11-02 10:00:00}
      - {order_id: b, timestamp: 2026-11-02 11:00:00}
  expect:
    - {date: 2026-11-01, ordered: 1, back: 0}
    - {date: 2026-11-02, ordered: 1, back: 1}
"""


@pytest.fixture
def returns(shop) -> Project:
    """The shop with a second domain, and a table that reads both, day by day."""
    shop.write("domains/returns.py", RETURNS)
    shop.suite("returns")
    (shop.root / "gold/orders_by_day.sql").unlink()
    shop.write("gold/returned.sql", SHARED)
    return shop


def test_an_example_computes_each_day_from_the_rows_of_that_day_as_the_lake_does(returns):
    for domain, lines in (("orders", ["a,,2026-11-01T10:00:00,,,", "b,,2026-11-02T10:00:00,,,"]),
                          ("returns", ["a,,2026-11-02T10:00:00,,,", "b,,2026-11-02T11:00:00,,,"])):  # fmt: skip
        returns.deliver(domain, "a_20261102_120000.csv", *lines, header=HEADER)
    assert returns.run()
    made = returns.gold("returned").to_dict("records")
    assert [(row["ordered"], row["back"]) for row in made] == [(1, 0), (1, 1)]
    done = example(returns, TWO_DAYS, "returned")
    assert (done.returncode, done.stdout) == (0, "ok      returned: an order that comes back the next day\n")
    returns.write("gold/returned.sql", SHARED.replace("returns\n", "returns (all days)\n"))
    done = example(returns, TWO_DAYS, "returned")
    assert "computed, but not expected:\n    date        ordered  back\n    2026-11-01  1        1\n" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cast(orders.timestamp as date)", "cast(orders.timestamp as date) + 1"),
         "gold/returned.sql: it assigns events of 2026-11-01 to 2026-11-02"),
        (("sources: orders, returns", "source: orders"),
         "gold/returned.sql: its SQL reads returns, which its second line does not name as a source"),
    ],
)  # fmt: skip
def test_an_example_fails_where_the_lake_would_fail(returns, change, message):
    returns.write("gold/returned.sql", SHARED.replace(*change))
    done = example(returns, TWO_DAYS, "returned")
    assert done.returncode == 1
    assert message in done.stdout


def test_a_row_that_is_read_by_day_needs_its_day(returns):
    done = example(returns, TWO_DAYS.replace("a, timestamp: 2026-11-02 10:00:00", "a"), "returned")
    assert done.returncode == 1
    assert "given returns, row 1: it needs a timestamp, because returned reads returns day by day" in done.stdout


def test_an_example_gives_rows_to_gold_tables_day_by_day_or_all(returns):
    returns.write(
        "gold/reader.sql",
        "-- grain: date\n-- sources: orders, returned, returns (all days)\n-- One row per day.\n"
        "select max(cast(orders.timestamp as date)) as date, (select sum(ordered) from returned) as ordered,\n"
        "(select count(*) from returns) as ever from orders having count(*) > 0\n",
    )
    text = """\
- name: one
  given:
    orders: [{timestamp: 2026-11-01 10:00:00}, {timestamp: 2026-11-02 10:00:00}]
    returned: [{date: 2026-11-01, ordered: 3}, {date: 2026-11-02, ordered: 4}]
    returns: [{order_id: a}, {order_id: b}]
  expect:
    - {date: 2026-11-01, ordered: 3, ever: 2}
    - {date: 2026-11-02, ordered: 4, ever: 2}
"""
    returns.write("gold/returned.test.yaml", TWO_DAYS)
    done = example(returns, text, "reader")
    assert (done.returncode, done.stdout.count("ok ")) == (0, 2), done.stdout


def test_examples_of_a_new_project_run_from_every_directory(lakejobs, tmp_path):
    assert lakejobs("init", "shop").returncode == 0
    for directory, arguments in (("shop", []), ("shop/tests", []), ("shop/tests", ["test_gold.py"]), (".", ["shop"])):
        tested = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path / directory, capture_output=True, text=True,
        )  # fmt: skip
        assert "3 passed" in tested.stdout, tested.stdout


def test_a_boolean_is_compared_with_anything(shop):
    shop.write("gold/orders_by_day.sql", BY_DAY.replace("sum(amount) as amount", "true as amount"))
    assert example(shop, CASE.replace("amount: 1.1}", "amount: true}")).returncode == 0
    done = example(shop, CASE.replace("amount: 1.1}", "amount: [true]}"))
    assert (done.returncode, done.stderr) == (1, "1 failure\n")


def test_a_file_of_examples_fails_by_itself(shop):
    shop.write("gold/stray.test.yaml", CASE)
    for name in ("broken", "mangled", "partly"):
        shop.write(f"gold/{name}.sql", BY_DAY)
    shop.write("gold/broken.test.yaml", "- name: one\n  given: [\n")
    (shop.root / "gold/mangled.test.yaml").write_bytes(b"\xff")
    # Of several cases, the second and the third are broken.
    wrong = CASE.replace("one", "two").replace("expect:", "expects:")
    shop.write("gold/partly.test.yaml", CASE + wrong + CASE.replace("2026-11-01,", "2026-13-01,"))
    done = example(shop, CASE)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAILED  broken: unreadable examples",
        "  gold/broken.test.yaml, line 3: expected the node content, but found '<stream end>'",
        "FAILED  mangled: unreadable examples",
        "  gold/mangled.test.yaml is not UTF-8 text",
        "ok      orders_by_day: one",
        "ok      partly: one",
        "FAILED  partly: two",
        "  gold/partly.test.yaml, line 7: unknown expects; expected the keys name, given, expect",
        "FAILED  partly: case 3",
        "  gold/partly.test.yaml, line 13: month must be in 1..12",
        "FAILED  stray: no such table",
        "  gold/stray.test.yaml belongs to no gold table; expected one of broken, mangled, orders_by_day, partly",
    ]
    assert done.stderr == "5 failures\n"
    tested = own_tests(shop)
    assert "5 failed, 2 passed" in tested, tested
    assert "gold/partly.test.yaml, line 7: unknown expects; expected the keys name, given, expect" in tested
    named = subprocess.run(
        [Path(sys.executable).with_name("lakejobs"), "test", "orders_by_day"],
        cwd=shop.root, capture_output=True, text=True,
    )  # fmt: skip
    assert (named.returncode, named.stdout) == (0, "ok      orders_by_day: one\n")


def test_start_up_loads_nothing_that_only_commands_need(shop):
    shop.deliver("orders", "a_20261101_120000.csv", "o1,1,2026-11-01T10:00:00,1.10,yes,2026-12-01", header=HEADER)
    assert shop.command("GoldAll").returncode == 0
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", LUIGI, "--module", "lakejobs", "GoldAll", "--local-scheduler"],
        cwd=shop.root, capture_output=True, text=True,
    ).stderr  # fmt: skip
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in loaded.splitlines()}
    assert "luigi" in modules
    assert not modules & {"click", "ruamel", "sqlglot", "yaml", "rich", "duckdb", "pyarrow", "great_expectations"}
