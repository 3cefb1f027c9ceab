"""A file is stale exactly when something that decides its content changes; the log says what is rebuilt and why."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
import os
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import DOMAINS, HEADERS, PROJECT, LakeUnderTest, read_footer, sale

from lakejobs.engine import Reading, duckdb, sql
from lakejobs.freshness import causes, domain_state, facts, made_by, snapshots
from lakejobs.freshness.runs import Run
from lakejobs.layers import gold, silver
from lakejobs.tables import parse_tables
from lakejobs.tables import tables as gold_tables


def change_suite(lake: LakeUnderTest, change: Any, domain: str = "sales", indent: int | None = None) -> None:
    path = lake.root / f"expectations/{domain}.json"
    suite = json.loads(path.read_text())
    change(suite)
    path.write_text(json.dumps(suite, indent=indent))


@pytest.fixture
def made(lake: LakeUnderTest) -> LakeUnderTest:
    """An up-to-date lake."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", total="11.00"))
    assert lake.run()
    return lake


def reword(suite: dict[str, Any]) -> None:
    suite["notes"] = "In other words."
    suite["expectations"][0]["notes"] = "In other words."
    suite["expectations"][0]["description"] = "In other words."
    suite["expectations"] = [dict(reversed(list(rule.items()))) for rule in suite["expectations"]]


def test_notes_and_layout_of_a_suite_rebuild_nothing(made):
    change_suite(made, reword, indent=7)
    assert made.run()
    assert made.ran == []


def table_hash(text: str) -> str:
    return parse_tables((("t", "t.sql", text),), ("sales",))[0]["t"].hash


def test_comments_and_layout_of_sql_rebuild_nothing_and_all_else_does():
    def table(sql: str) -> str:
        return table_hash(f"-- grain: date\n-- source: sales\n{sql}")

    plain = table("select cast(timestamp as date) as date, 'a  --b' as x from sales")
    assert plain == table(
        "-- A row a day.\nselect\n  cast(timestamp as date) as date, /* for\nfun */ 'a  --b' as x\nfrom sales --x\n;"
    )
    for other in (
        "select cast(timestamp as date) as date, 'a --b' as x from sales",
        "select cast(timestamp as date) as date, 'a  --c' as x from sales",
        "select cast(timestamp as date) as date, 'a' as x from sales",
        'select cast(timestamp as date) as date, "a  --b" as x from sales',
    ):
        assert table(other) != plain
    assert table(r"select E'it\'s -- x' as date from sales") != table(r"select E'it\'s -- y' as date from sales")
    other = table_hash("-- grain: date, x\n-- source: sales\nselect 1 from sales")
    assert other != table_hash("-- grain: date\n-- source: sales\nselect 1 from sales")


def test_a_changed_warning_rule_reports_anew_and_rebuilds_no_gold_table(made, caplog):
    def widen(suite: dict[str, Any]) -> None:
        suite["expectations"][-1]["kwargs"]["max_value"] = 2

    change_suite(made, widen)
    assert made.run()
    assert made.ran_names("Silver") == ["2026-11-01"]
    assert len(made.snapshots("daily_sales_summary")) == 1
    assert "sales: rebuilding 1 partition: rule WRONG_TOTAL changed" in caplog.text
    page = sorted((made.root / "datalake/quality/data_docs/validations/sales").glob("*.html"))
    assert len(page) == 2
    made.run()
    assert made.ran == []


def test_a_changed_critical_rule_is_named(made, caplog):
    change_suite(made, lambda suite: suite["expectations"].pop(2))
    assert made.run()
    assert "sales: rebuilding 1 partition: rule NULL:customer_id was removed" in caplog.text
    assert len(made.ran_names("Gold")) == 3


def test_the_footer_holds_a_hash_of_each_thing_that_decides(made, set_lake, caplog):
    (footer,) = made.footers()
    made_by = footer["lineage"]
    assert list(made_by["rules"])[:2] == ["NULL:sale_id", "NULL:timestamp"]
    assert list(made_by["warnings"]) == ["WRONG_TOTAL"]
    assert set(made_by["sql"]) == {"typed", "superseded", "judged"}
    assert made_by["settings"] == {"earliest_date": "1970-01-01", "timestamp_formats": []}
    set_lake(earliest_date="2026-11-02")
    assert made.run()
    assert "rebuilding 1 partition: [lake] earliest_date changed" in caplog.text


def test_what_is_counted_again_is_not_said_to_land(lake, set_lake, caplog):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2"))
    assert lake.run()
    assert "Bronze(domain=sales, date=2026-11-01): 1 file landed, 2 records in all" in caplog.text
    set_lake(earliest_date="2026-10-01")
    assert lake.run()
    assert "Bronze(domain=sales, date=2026-11-01): 2 records counted again" in caplog.text
    set_lake(earliest_date="2026-10-02")
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s3"))
    assert lake.run()
    assert "1 file landed, 2 records counted again, 3 records in all" in caplog.text
    (lake.bronze("2026-11-01") / "_manifest.json").unlink()
    (lake.root / "datalake/_facts_sales.json").unlink()
    assert lake.run()
    assert "Bronze(domain=sales, date=2026-11-01): 3 records counted again" in caplog.text
    assert "0 files landed" not in caplog.text


@pytest.mark.parametrize("query", ["typed_rows", "superseded_rows", "judged_rows"])
def test_all_sql_of_silver_belongs_to_its_identity(made, monkeypatch, query):
    original = getattr(sql, query)
    monkeypatch.setattr(sql, query, lambda *about: original(*about).replace("desc", "asc").replace(" as ", "  as "))
    assert made.run()
    assert made.ran_names("Silver") == ["2026-11-01"]


def be_version(monkeypatch, layer: str, version: int) -> None:
    for module in (made_by, facts, domain_state, snapshots, causes, silver, gold):
        if hasattr(module, layer):
            monkeypatch.setattr(module, layer, version)


@pytest.mark.parametrize("changed", [{"earliest_date": dt.date(2000, 1, 1)}, {"timestamp_formats": ("%Y",)}])
def test_every_setting_that_is_noted_as_deciding_rows_does(changed, monkeypatch):
    monkeypatch.chdir(PROJECT)
    reading = Reading(DOMAINS["sales"], dt.date(1970, 1, 1))
    other = dataclasses.replace(reading, **changed)
    assert {name for name in reading.settings if reading.settings[name] != other.settings[name]} == {*changed}
    assert made_by.MadeBy.of(reading).rules_hash != made_by.MadeBy.of(other).rules_hash
    assert {field.name for field in dataclasses.fields(Reading)} - {"domain", "marks"} == {*reading.settings}


def test_what_an_earlier_version_made_is_made_anew_and_said_so(made, monkeypatch, caplog):
    be_version(monkeypatch, "SILVER_VERSION", made_by.SILVER_VERSION + 1)
    be_version(monkeypatch, "GOLD_VERSION", made_by.GOLD_VERSION + 1)
    assert made.run()
    assert "sales: rebuilding 1 partition: built by an earlier version of lakejobs" in caplog.text
    assert "; built by an earlier version of lakejobs (version " in caplog.text
    made.run()
    assert made.ran == []


def test_another_version_of_the_engine_rebuilds_gold_and_says_so(made, monkeypatch, caplog):
    engine = f"DuckDB {importlib.metadata.version('duckdb')}"
    footer = read_footer(made.snapshots("daily_sales_summary")[-1])
    assert footer["engine"] == engine
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.1")
    duckdb.name_and_version.cache_clear()
    assert made.run()
    assert made.ran_names("Gold") == sorted(gold_tables())
    assert made.ran_names("Silver") == []
    assert f"1 day computed, 0 carried over; computed by {engine}, now DuckDB 99.1" in caplog.text
    made.run()
    assert made.ran == []
    duckdb.name_and_version.cache_clear()


@pytest.mark.parametrize("layer", ["SILVER_VERSION", "GOLD_VERSION"])
def test_a_lake_that_a_newer_version_wrote_is_refused(made, monkeypatch, caplog, layer):
    before = {path: path.stat().st_mtime_ns for path in (made.root / "datalake").glob("**/*.parquet")}
    be_version(monkeypatch, layer, getattr(made_by, layer) - 1)
    assert not made.run()
    assert "was written by a newer lakejobs" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (made.root / "datalake").glob("**/*.parquet")} == before


def test_all_files_of_a_domain_and_of_a_table_have_one_schema(lake):
    """Columns without a NULL used to be `not null`, which failed readers of several files."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", "2026-10-31T10:00:00", quantity=""))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s3", "2026-11-02T10:00:00", "two", "", ""), ",,,,,,,,,,")
    assert lake.run()
    silver = {
        pq.read_schema(path).remove_metadata() for path in (lake.root / "datalake/silver/sales").glob("**/*.parquet")
    }
    assert len(silver) == 1
    assert all(field.nullable for field in silver.pop())
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s4", "2026-11-03T10:00:00", category="", status=""))
    assert lake.run()
    for table in gold_tables():
        schemas = {pq.read_schema(path).remove_metadata() for path in lake.snapshots(table)}
        assert len(schemas) == 1, table
        assert all(field.nullable for field in schemas.pop())


# ------------------------------------------------------------------------------------------------ wrong files and drift


def warnings(lake: LakeUnderTest, domain: str = "sales") -> list[str]:
    return Run().state(domain).warnings


def test_a_file_of_another_domain_is_rejected_and_says_so_until_it_is_gone(lake, caplog):
    header = HEADERS["inventory"]
    path = lake.deliver("sales", "sales_20261101_120000.csv", "M1,2026-11-01,P1,Lamp,W1,inbound,1,1,S1", header=header)
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s1"))
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s1"]
    reason = "it has no column sale_id, which every record of sales needs; it has all the columns of inventory"
    assert reason in caplog.text
    caplog.clear()
    assert lake.run()
    assert lake.ran == []
    assert reason in caplog.text
    path.unlink()
    (lake.bronze("2026-11-01") / path.name).unlink()
    assert lake.run()
    assert warnings(lake) == []


@pytest.mark.parametrize(("column", "renamed"), [("sale_id", "saleid"), ("timestamp", "time_stamp")])
def test_a_file_without_key_or_event_time_is_rejected_with_a_guess(lake, column, renamed):
    header = HEADERS["sales"].replace(column, renamed)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), header=header)
    assert lake.run()
    assert lake.silver().empty
    (warning,) = warnings(lake)
    assert f"it has no column {column}" in warning
    assert f"{renamed} looks like {column}" in warning


@pytest.mark.parametrize(
    ("column", "renamed", "said"),
    [
        ("customer_id", "who", "which the rule NULL:customer_id needs"),
        ("total_amount", "sum", "so it is computed where possible"),
        ("payment_method", "paid_by", None),
    ],
)
def test_a_column_that_a_rule_or_a_correction_needs_is_missed_aloud(lake, caplog, column, renamed, said):
    header = HEADERS["sales"].replace(column, renamed)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), header=header)
    assert lake.run()
    wanted = (
        [f"sales: year=2026/month=11/day=01/sales_20261101_120000.csv has no column {column}, {said}"] if said else []
    )
    assert warnings(lake) == wanted
    assert all(warning in caplog.text for warning in wanted)


def test_a_header_without_rows_lacks_nothing(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", header="sale_id,timestamp")
    assert lake.run()
    assert warnings(lake) == []


def test_a_file_without_a_byte_is_warned_of(lake):
    path = lake.deliver_bytes("sales", "sales_20261101_120000.csv", b"")
    assert lake.run()
    (warning,) = warnings(lake)
    assert warning.endswith(f"{path.name} is empty")


def test_each_run_says_what_it_ignores_in_staging(made, caplog):
    (made.root / "local_output/sales/notes.txt").write_text("x")
    for _ in range(2):
        caplog.clear()
        assert made.run()
        assert "local_output/sales: ignored: notes.txt (not a .csv file)" in caplog.text
    assert made.ran == []


def test_a_change_in_staging_is_noticed_though_size_and_date_stay(made):
    path = made.root / "local_output/sales/sales_20261101_120000.csv"
    for customer in ("C2", "C3"):
        known = path.stat()
        path.write_text(path.read_text().replace("C1", "C2").replace("C2", customer))
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
        assert made.run()
        assert set(made.silver()["customer_id"]) == {customer}
        assert made.run()
        assert made.ran == []


def test_what_is_staged_for_no_domain_is_named(lake, caplog):
    sent = lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    for name in ("Sales", "sale"):
        (lake.root / "local_output" / name).mkdir()
    sent.rename(lake.root / "local_output/x.csv")
    assert lake.run()
    said = "local_output: ignored, because no domain has these names: x.csv, Sales, sale"
    assert said in caplog.text
    assert said in (lake.root / "datalake/quality/report.html").read_text()


def test_a_rejected_file_that_was_deleted_is_not_warned_of_once_more(lake, caplog):
    path = lake.deliver("sales", "sales_20261101_120000.csv", "1", header="a")
    assert lake.run()
    path.unlink()
    (lake.bronze("2026-11-01") / path.name).unlink()
    caplog.clear()
    assert lake.run()
    assert "rejected" not in caplog.text


def test_rejected_files_fail_a_run_where_they_are_told_to(lake, set_lake, caplog):
    set_lake(rejected="fail")
    path = lake.deliver("sales", "sales_20261101_120000.csv", "1", header="a")
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s1"))
    assert not lake.run()
    assert len(lake.gold("daily_sales_summary")) == 1
    assert (lake.root / "datalake/quality/report.html").exists()
    assert not lake.run()
    path.unlink()
    (lake.bronze("2026-11-01") / path.name).unlink()
    assert lake.run()


def test_a_staging_directory_that_does_not_exist_is_an_error(lake, caplog):
    (lake.root / "local_output").rmdir()
    assert not lake.run()
    assert "the staging directory local_output does not exist: create it, or set another one" in caplog.text
    assert not (lake.root / "datalake/gold").exists()
