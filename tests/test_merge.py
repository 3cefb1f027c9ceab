"""Merging new records into stored partitions gives the same files as building them from bronze."""

from __future__ import annotations

import json
import random
from typing import Any

import duckdb
import pytest
from conftest import HEADERS, LakeUnderTest, new_lake, partition_date, read_footer, sale

from lakejobs.engine import partitions

COLUMN = "expect_column_values_to_"
SUITES: dict[str, list[dict[str, Any]]] = {
    "shipped": [],
    "shares": [
        {"type": f"{COLUMN}be_between", "kwargs": {"column": "quantity", "max_value": 5, "mostly": 0.1},
         "meta": {"code": "MANY"}},
        {"type": f"{COLUMN}be_between", "severity": "warning",
         "kwargs": {"column": "unit_price", "max_value": 5, "mostly": 0.99}, "meta": {"code": "DEAR"}},
        {"type": f"{COLUMN}not_be_null", "severity": "warning", "meta": {"code": "NO_CATEGORY"},
         "kwargs": {"column": "category", "row_condition": "quantity > 2", "condition_parser": "pandas"}},
        {"type": "expect_column_pair_values_a_to_be_greater_than_b", "severity": "warning",
         "kwargs": {"column_A": "total_amount", "column_B": "unit_price", "or_equal": True, "mostly": 0.2,
                    "ignore_row_if": "either_value_is_missing"}, "meta": {"code": "CHEAP"}},
    ],
    "whole": [
        {"type": "expect_compound_columns_to_be_unique", "meta": {"code": "TWICE"},
         "kwargs": {"column_list": ["timestamp", "quantity", "category", "total_amount"], "mostly": 0.01}},
        {"type": "expect_column_value_z_scores_to_be_less_than", "severity": "warning",
         "kwargs": {"column": "total_amount_difference", "threshold": 1, "double_sided": True},
         "meta": {"code": "FAR"}},
        {"type": "expect_table_row_count_to_be_between", "severity": "warning", "kwargs": {"max_value": 20},
         "meta": {"code": "ROWS"}},
    ],
}  # fmt: skip


def add_rules(lake: LakeUnderTest, rules: list[dict[str, Any]]) -> None:
    path = lake.root / "expectations/sales.json"
    suite = json.loads(path.read_text())
    suite["expectations"][2:2] = rules
    path.write_text(json.dumps(suite))


def some_file(draw: random.Random, number: int) -> bytes:
    """A file with good rows, corrections of earlier ones, and everything that can be wrong with a row."""
    lines = []
    for _ in range(draw.randint(1, 25)):
        price = draw.choice(["5.00", "5.00", "1.10", "999999999999999", "", "x"])
        lines.append(
            sale(
                draw.choice([f"s{draw.randint(1, 40)}", f"n{number}-{len(lines)}", ""]),
                draw.choice(
                    [f"2026-11-0{draw.randint(1, 3)}T1{draw.randint(0, 2)}:00:00"] * 6
                    + ["", "soon", "1850-01-01T10:00:00", "2031-01-01T10:00:00", "2026-11-02"]
                ),
                draw.choice([1, 2, 3, 7, "", "two", "2.0"]),
                price,
                draw.choice(["10.00", "5.00", "15", "", "lots", "9.99", "10.02", '"1e1"']),
                draw.choice(["Home", "", ' "total_amount": "3"', "a\\\\b"]).replace('"', '""').join('""'),
                draw.choice(["completed", "refunded", ""]),
            )
        )
        if draw.random() < 0.05:
            lines.append(draw.choice(["only,three,fields", '"broken,quote', "", "a,b,c,d,e,f,g,h,i,j,k,l,m"]))
    header = HEADERS["sales"]
    if draw.random() < 0.3:
        header, lines = f"{header},note", [f'{line},"{draw.choice(["", "n", "_line"])}"' for line in lines]
    if draw.random() < 0.4:
        lines = [line.replace('"', "") for line in lines]
    end = draw.choice(["\n", "\n", "\r\n"])
    text = end.join([header, *lines]) + end
    if draw.random() < 0.2:
        return text.replace("Lamp", "Lämp").encode("windows-1252")
    return text.encode()


def files(lake: LakeUnderTest) -> dict[str, Any]:
    """Every silver file: its rows in order without `processed_at`, and its footer without the checksum."""
    found = {}
    for path in sorted((lake.root / "datalake/silver/sales").glob("**/*.parquet")):
        rows = duckdb.read_parquet(str(path), hive_partitioning=False)
        columns = [name for name in rows.columns if name != "processed_at"]
        footer = read_footer(path)
        assert footer and footer.pop("checksum")
        found[str(partition_date(path))] = [rows.select(*columns).fetchall(), footer]
    return found


@pytest.fixture
def merged(monkeypatch) -> list[Any]:
    """The partitions that were merged into, one entry for each task."""
    seen: list[Any] = []
    original = partitions.select

    def select(job, *arguments):
        seen.append(sorted(job.stored))
        return original(job, *arguments)

    monkeypatch.setattr(partitions, "select", select)
    return seen


@pytest.mark.parametrize("rules", SUITES)
@pytest.mark.parametrize("seed", range(2))
def test_a_merged_partition_is_the_same_as_one_from_bronze(tmp_path, monkeypatch, set_lake, merged, rules, seed):
    draw = random.Random(f"{rules} {seed}")
    lakes = {name: new_lake(tmp_path / name) for name in ("merging", "building", "mixed")}
    for lake in lakes.values():
        add_rules(lake, SUITES[rules])
    monkeypatch.setattr(partitions, "LEAST_SORTED", 10)  # sort in parts, as many rows are
    for step in range(6):
        content = some_file(draw, step)
        # Some deliveries sort before earlier ones.
        day, hour = draw.choice([("03", 10 + step), ("03", 10 + step), ("02", step)])
        name = f"sales_202611{day}_{hour:02d}0000.csv"
        found = {}
        for kind, lake in lakes.items():
            monkeypatch.chdir(lake.root)
            chunk_rows = draw.choice([3, 500_000]) if kind == "merging" else 500_000
            set_lake(merge=kind == "merging" or (kind == "mixed" and draw.random() < 0.5), chunk_rows=chunk_rows)
            lake.deliver_bytes("sales", name, content)
            lake.run()
            found[kind] = files(lake)
        for kind in ("merging", "mixed"):
            assert found[kind].keys() == found["building"].keys()
            for date, (rows, footer) in found["building"].items():
                assert found[kind][date][0] == rows
                assert found[kind][date][1] == footer
    assert any(merged)


@pytest.mark.parametrize("customers", [("ann", "bob", "cid", "cid"), ("ann", "cid", "cid", "bob")])
def test_examples_of_stored_rows_are_those_rows(lake, customers):
    """A merge puts a partition's rows into other places; examples of rules that see all rows are looked up there."""
    add_rules(
        lake,
        [{"type": f"{COLUMN}be_unique", "kwargs": {"column": "customer_id"}, "severity": "warning",
          "meta": {"code": "TWICE"}}],
    )  # fmt: skip
    rows = [sale(f"s{number}").replace("C1", name) for number, name in enumerate(customers)]
    lake.deliver("sales", "sales_20261101_100000.csv", *rows)
    assert lake.run()
    lake.deliver("sales", "sales_20261101_110000.csv", sale("s0", quantity=1).replace("C1", "eve"))
    assert lake.run()
    newest = max((lake.root / "datalake/quality/validations/sales").glob("sales_*.json"))
    rules = json.loads(newest.read_text())["meta"]["lakejobs"]["rules"]
    (examples,) = [rule["examples"] for rule in rules if rule["code"] == "TWICE"]
    assert [(row["key"], row["values"]["customer_id"]) for row in examples] == [
        (f"s{number}", "cid") for number, name in enumerate(customers) if name == "cid"
    ]


def test_a_page_says_what_is_new_and_what_the_partition_holds(lake, caplog):
    lake.deliver("sales", "sales_20261101_100000.csv", sale("s1"), sale("s2", quantity=""), sale("s3", quantity=""))
    assert lake.run()
    lake.deliver("sales", "sales_20261101_110000.csv", sale("s2"), sale("s4", quantity=""))
    assert lake.run()
    assert "1 partition, 2 new of 5 records, 50.0% invalid, 1 duplicate" in caplog.text
    newest = max((lake.root / "datalake/quality/validations/sales").glob("sales_*.json"))
    summary = json.loads(newest.read_text())["meta"]["lakejobs"]
    (rule,) = [rule for rule in summary["rules"] if rule["code"] == "NULL:quantity"]
    assert (rule["unexpected"], rule["new_unexpected"], rule["share"]) == (2, 1, 0.5)
    assert [example["key"] for example in rule["examples"]] == ["s4"]
    page = lake.root / f"datalake/quality/data_docs/validations/sales/{newest.stem}.html"
    assert "2 of these 5 records are new" in page.read_text()


@pytest.mark.parametrize(
    "change", ["damage", "rule", "warning", "setting", "bronze changed", "bronze deleted", "reserved code"]
)
def test_only_partitions_that_lack_nothing_but_new_files_are_merged(lake, set_lake, merged, change):
    first = lake.deliver("sales", "sales_20261101_100000.csv", sale("s1"), sale("s2"))
    lake.deliver("sales", "sales_20261101_110000.csv", sale("s3"))
    if change == "reserved code":
        add_rules(lake, [{"type": f"{COLUMN}not_be_null", "kwargs": {"column": "status"}, "meta": {"code": "TYPE:x"}}])
    assert lake.run()
    first.unlink()
    landed = lake.bronze("2026-11-01") / first.name
    path = lake.partition("2026-11-01")
    if change == "damage":
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    elif change in ("rule", "warning"):
        rule = {"type": f"{COLUMN}not_be_null", "kwargs": {"column": "status"}, "meta": {"code": "NO_STATUS"}}
        add_rules(lake, [{**rule, "severity": "warning" if change == "warning" else "critical"}])
    elif change == "setting":
        set_lake(earliest_date="2001-01-01")
    elif change == "bronze changed":
        landed.write_text(landed.read_text().replace("s2", "s9"))
    elif change == "bronze deleted":
        landed.unlink()
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s4"))
    assert lake.run()
    assert merged == [[], []]
    expected = {"bronze changed": ["s1", "s3", "s4", "s9"], "bronze deleted": ["s3", "s4"]}
    assert sorted(lake.silver()["sale_id"]) == expected.get(change, ["s1", "s2", "s3", "s4"])
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s5"))
    assert lake.run()
    assert len(merged[-1]) == (change != "reserved code")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_know_their_record_and_keep_the_order_of_records(lake, end):
    """A record's number is its place below the header, also among malformed and empty lines; each key says it here."""
    draw = random.Random(end)
    for number, rows in enumerate([200_000, 300, 40_000, 50]):
        lines = [sale(f"{number}-{record}", quantity=draw.choice([1, 2, ""])) for record in range(1, rows + 1)]
        for record in draw.sample(range(rows), 40):
            lines[record] = "malformed,line"
        if number == 1:  # only the fallback reader can read this file
            lines[7] = sale("1-8", category='"two' + end + 'lines"')
        lines[10] += end * 3
        text = end * (number == 3) + end.join([HEADERS["sales"], *lines]) + end * 2
        lake.deliver_bytes("sales", f"sales_20261101_10000{number}.csv", text.encode())
        if number != 0:
            assert lake.run()
    rows = duckdb.read_parquet(str(lake.partition("2026-11-01"))).df()
    files = rows["source_file"].str.extract(r"10000(\d)\.csv$")[0]
    read = rows[rows["sale_id"].notna()]
    assert len(rows) == 240_350
    assert len(read) == 240_350 - 4 * 40
    assert (read["sale_id"] == files[read.index] + "-" + read["source_record"].astype(str)).all()
    assert (files.astype(int) * 1_000_000 + rows["source_record"]).is_monotonic_increasing
