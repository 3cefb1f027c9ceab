"""Bad input, as in practice: every record is accounted for, or the file is reported as rejected."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re

import duckdb
import luigi
import pandas as pd
import pytest
from conftest import DOMAINS, HEADERS, known_tables, read_json, sale, set_tables

from lakejobs import Gold
from lakejobs.config import lake as settings
from lakejobs.engine import duckdb as engine
from lakejobs.freshness.made_by import reading_of
from lakejobs.messages import LakeError
from lakejobs.storage import deliveries
from lakejobs.tables import tables


def manifest(lake, date="2026-11-01", domain="sales"):
    return read_json(lake.bronze(date, domain) / "_manifest.json")


def entry(lake, name="sales_20261101_120000.csv"):
    (found,) = [file for file in manifest(lake)["files"] if file["name"] == name]
    return found


def malformed(lake) -> list[str]:
    rows = lake.silver()
    return [json.loads(row)["_line"] for row in rows[rows["validation_errors"] == "MALFORMED_LINE"]["rescued_data"]]


def ids(lake) -> list[str]:
    rows = lake.silver()
    return sorted(rows["sale_id"].dropna()) if len(rows) else []


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("quoted", [True, False])
def test_line_ends(lake, ending, final, quoted):
    lines = [HEADERS["sales"], sale("s1"), sale('"s2"' if quoted else "s2"), sale("s3")]
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", (ending.join(lines) + (ending if final else "")).encode())
    assert lake.run()
    assert ids(lake) == ["s1", "s2", "s3"]
    assert lake.silver()["is_valid"].all()


def test_line_ends_of_all_kinds_in_one_file(lake):
    content = f"{HEADERS['sales']}\r\n{sale('s1')}\n{sale('s2')}\r{sale('s3')}\r\n\n{sale('s4')}"
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", content.encode())
    assert lake.run()
    assert ids(lake) == ["s1", "s2", "s3", "s4"]


def test_quoted_commas_line_ends_and_quotes_are_ordinary(lake):
    line = 's{},2026-11-01,C1,P1,"{}",Home,1,5,5,cash,completed'
    names = ["a, b", 'say ""hi""', "two\nlines", "CR\r\nLF", "", " padded "]
    lake.deliver("sales", "sales_20261101_120000.csv", *(line.format(n, name) for n, name in enumerate(names)))
    assert lake.run()
    got = [None if name != name else name for name in lake.silver()["product_name"]]
    assert got == ["a, b", 'say "hi"', "two\nlines", "CR\r\nLF", None, "padded"]
    assert malformed(lake) == []


def test_a_quote_inside_a_field_is_an_ordinary_character(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", category='5" pipe'), sale("s2"))
    assert lake.run()
    assert list(lake.silver()["category"]) == ['5" pipe', "Home"]


@pytest.mark.parametrize(
    "line",
    [
        "too,few",
        sale("s9") + ",surplus",
        sale("s9", category='"broken"quote'),
        sale("s9", category='"never closed'),
        "   ",
        "x" * 3_000_000,
    ],
)
def test_a_malformed_line_is_kept_as_its_raw_text_and_the_rest_is_read(lake, line):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), line, sale("s2"), sale("s3"))
    assert lake.run()
    assert ids(lake) == ["s1", "s2", "s3"]
    assert malformed(lake) == [line]
    assert entry(lake)["records"] == 4
    assert entry(lake)["malformed"] == 1


def test_a_malformed_record_of_several_lines_is_kept_whole(lake):
    record = sale("s9", category='"two\r\nlines"') + ',"more\nand more",surplus'
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), record, sale("s2"))
    assert lake.run()
    assert ids(lake) == ["s1", "s2"]
    assert malformed(lake) == [record]


def test_surplus_empty_fields_are_ignored(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1") + ",,,", sale("s2"))
    assert lake.run()
    assert ids(lake) == ["s1", "s2"]
    assert malformed(lake) == []


@pytest.mark.parametrize("name", ["café £5", "naïve “quotes” €"])
def test_windows_1252(lake, name):
    content = f"{HEADERS['sales']}\n{sale('s1', category=name)}\n{sale('s2')}\n"
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", content.encode("windows-1252"))
    assert lake.run()
    assert list(lake.silver()["category"]) == [name, "Home"]
    assert entry(lake)["notes"] == ["it is not UTF-8, so it was read as Windows-1252"]


def test_a_byte_order_mark_is_no_part_of_the_header(lake):
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", f"\ufeff{HEADERS['sales']}\n{sale('s1')}\n".encode())
    assert lake.run()
    assert ids(lake) == ["s1"]


# ------------------------------------------------------------------------------------------------ headers


def test_columns_are_matched_by_name_in_any_order_and_case(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        "10,2,5,s1,2026-11-01T10:00:00",
        header="Total_Amount, quantity ,UNIT_PRICE,sale_id,timestamp",
    )
    assert lake.run()
    row = lake.silver().iloc[0]
    assert (row["sale_id"], row["quantity"], row["unit_price"], row["total_amount"]) == ("s1", 2, 5, 10)
    assert row["validation_errors"] == "NULL:customer_id; NULL:product_id"


def test_unknown_columns_are_kept_and_do_not_spoil_the_row(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1") + ',SUMMER,"a ""b""",x',
        sale("s2") + ",,,",
        header=HEADERS["sales"] + ",promo,note,",
    )
    assert lake.run()
    rows = lake.silver()
    assert json.loads(rows["rescued_data"][0]) == {"promo": "SUMMER", "note": 'a "b"', "column 14": "x"}
    assert rows["is_valid"].all()
    manifest = json.loads((lake.bronze("2026-11-01") / "_manifest.json").read_text())
    (note,) = manifest["files"][0]["notes"]
    assert note == "it has unknown columns, kept in rescued_data: promo, note, column 14"


def test_of_a_column_that_stands_twice_the_first_is_meant(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1") + ",99", header=HEADERS["sales"] + ",quantity")
    assert lake.run()
    assert lake.silver()["quantity"][0] == 2
    assert json.loads(lake.silver()["rescued_data"][0]) == {"quantity_2": "99"}


def test_files_of_different_headers_make_one_partition(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2") + ",x", header=HEADERS["sales"] + ",promo")
    lake.deliver_bytes("sales", "sales_20261101_140000.csv", f"{HEADERS['sales']}\r\n{sale('s3')}\r\n".encode())
    assert lake.run()
    assert ids(lake) == ["s1", "s2", "s3"]


def test_ten_thousand_columns(lake):
    more = ",".join(f"extra{n}" for n in range(10_000))
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1") + ",v" * 10_000, header=f"{HEADERS['sales']},{more}")
    assert lake.run()
    assert len(json.loads(lake.silver()["rescued_data"][0])) == 10_000


# ------------------------------------------------------------------------------------------------ rejected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id;name\n1;x\n", "its header has no column of the domain"),
        (HEADERS["sales"].replace(",", ";").encode() + b"\n1;2\n", "separated by semicolons"),
        (HEADERS["sales"].replace(",", "\t").encode() + b"\n1\t2\n", "separated by tabs"),
        ((HEADERS["sales"] + "\n" + sale() + "\n").encode("utf-16"), "UTF-16"),
        (gzip.compress(HEADERS["sales"].encode() * 100), "gzip"),
        (HEADERS["sales"].encode() + b"\ns1,\0,\n", "NUL bytes"),
        (b"PK\x03\x04\0\0\0", "Excel"),
        (b"<html><body>404</body></html>\n", "no column of the domain"),
    ],
)
def test_what_is_no_csv_of_the_domain_is_rejected_and_blocks_nothing(lake, content, reason, caplog):
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", content)
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s1"))
    assert lake.run()
    assert ids(lake) == ["s1"]
    assert reason in entry(lake)["inspection"]["rejected"]
    assert any(reason in message and "sales_20261101_120000.csv" in message for message in caplog.messages)
    assert (lake.bronze("2026-11-01") / "sales_20261101_120000.csv").read_bytes() == content
    assert lake.run()
    assert lake.ran == []


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\xef\xbb\xbf\r\n", HEADERS["sales"].encode(), HEADERS["sales"].encode() + b"\r\n"]
)
def test_a_file_without_rows_is_landed(lake, content):
    lake.deliver_bytes("sales", "sales_20261101_120000.csv", content)
    assert lake.run()
    assert entry(lake)["records"] == 0
    assert entry(lake)["inspection"]["rejected"] is None
    assert lake.silver().empty
    assert lake.run()
    assert lake.ran == []


@pytest.mark.parametrize("name", [".hidden.csv", "_draft.csv", "sales.csv.tmp", "sales.csv.part"])
def test_files_still_being_written_are_left_alone(lake, name):
    lake.deliver("sales", name, sale("s1"))
    assert lake.run()
    assert lake.silver().empty
    assert (lake.root / "local_output/sales" / name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "a'b; drop table x--.csv",
        'quo"te.csv',
        "st*r [1] ?.csv",
        "ünïcode 名.csv",
        "back\\slash.csv",
        "new\nline.csv",
        "$(touch x).csv",
        "SALES.CSV",
    ],
)
def test_strange_file_names(lake, name):
    lake.deliver("sales", name, sale("s1"), "malformed")
    assert lake.run()
    assert ids(lake) == ["s1"]
    assert malformed(lake) == ["malformed"]
    assert deliveries.original_name(lake.silver()["source_file"].iloc[0]) == name


@pytest.mark.parametrize("limit", ["CAREFUL_CHUNK", "CAREFUL_TEXT"])
def test_odd_and_plain_files_that_share_statements_keep_their_records_in_order(lake, monkeypatch, limit):
    monkeypatch.setattr(engine, "FILES_AT_ONCE", 2)
    monkeypatch.setattr(engine, limit, 3)
    expected = []
    for number in range(6):
        lines = [sale(f"s{number}-1"), "malformed", sale(f"s{number}-2")]
        if number % 2:
            lines.insert(0, sale(f"s{number}-0", category='"two\nlines"'))
        name = f"sales_20261101_12000{number}.csv"
        lake.deliver("sales", name, *lines)
        expected += [(name, record + 1) for record in range(len(lines))]
    assert lake.run()
    (path,) = (lake.root / "datalake/silver").rglob("*.parquet")
    rows = duckdb.sql(
        f"select source_file, source_record, sale_id from read_parquet('{path}') order by file_row_number"
    ).fetchall()
    assert [(file.rpartition("/")[2], record) for file, record, _ in rows] == expected
    assert [key for _, _, key in rows if key] == [
        f"s{number}-{place}" for number in range(6) for place in (range(3) if number % 2 else (1, 2))
    ]


def test_links_in_staging_are_not_followed_and_named(lake, tmp_path, capsys, monkeypatch, caplog):
    from lakejobs.commands import summary

    secret = tmp_path / "secret.csv"
    secret.write_text(f"{HEADERS['sales']}\n{sale('s1')}\n")
    (tmp_path / "local_output/sales").mkdir(parents=True)
    (tmp_path / "local_output/sales/link.csv").symlink_to(secret)
    (tmp_path / "local_output/sales/notes.txt").write_text("x")
    assert lake.run()
    assert lake.silver().empty
    assert "local_output/sales: ignored: notes.txt (not a .csv file), link.csv (not a regular file)" in caplog.text
    monkeypatch.setattr("sys.argv", ["summary"])
    summary.main()
    shown = capsys.readouterr().out
    assert "local_output/sales/link.csv (not a regular file) was ignored" in shown
    assert "local_output/sales/notes.txt (not a .csv file) was ignored" in shown


@pytest.mark.parametrize("same_date", [False, True])
@pytest.mark.parametrize("same_facts", [False, True])
def test_changed_bronze_bytes_are_noticed_and_reported(lake, caplog, same_date, same_facts):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    path = lake.bronze("2026-11-01") / "sales_20261101_120000.csv"
    known = path.stat()
    path.write_text(path.read_text().replace("C1", "C2"))
    if same_date:
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    if not same_facts:
        (lake.root / "datalake/_facts_sales.json").unlink()
    assert lake.run()
    assert any("changed after it landed" in message for message in caplog.messages)
    assert lake.silver()["customer_id"][0] == "C2"
    assert "it changed after it landed" in entry(lake)["notes"][0]


# ------------------------------------------------------------------------------------------------ suites


def broken(lake, text):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("inventory", "inventory_20261101_120000.csv", "m1,2026-11-01,P1,Lamp,W1,inbound,3,1.00,S1")
    (lake.root / "expectations/sales.json").write_text(text)


def suite(*rules):
    return json.dumps({"name": "sales", "expectations": list(rules)})


def rule(kind="expect_column_values_to_not_be_null", code="C", **more):
    arguments = more.pop("kwargs", {"column": "category"})
    return {"type": kind, "kwargs": arguments, "meta": {"code": code}, **more}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expectations/sales.json is not JSON: line 1"),
        ("[]", "is not a suite"),
        (suite({"kwargs": {}}), 'expectation 1: it has no "type"'),
        (suite({"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "category"}}), 'needs a "code"'),
        (
            suite(rule(), rule("expect_column_values_to_not_be_nul", "D")),
            "expectation 2: Great Expectations has no expectation",
        ),
        (suite(rule(kwargs="category")), 'expectation 1 (expect_column_values_to_not_be_null): "kwargs" must be an'),
        (suite({**rule(), "meta": "C"}), '"meta" must be an object'),
        (suite(rule("expect_compound_columns_to_be_unique", kwargs={"column_list": "status"})), "must be a list"),
        (suite(rule(), rule("expect_column_values_to_be_unique")), "expectations 1 and 2: both have the code 'C'"),
        (suite(rule(severity="fatal")), "severity 'fatal': expected one of critical, warning, info"),
        (suite(rule(kwargs={"column": "colour"})), "sales has no column 'colour'; it has sale_id"),
        (suite(rule("expect_column_values_to_be_between", kwargs={"column": "quantity", "min_valu": 1})), "min_valu"),
        (
            suite(rule("expect_column_values_to_match_regex", kwargs={"column": "category", "regex": "("})),
            "could not be evaluated",
        ),
        (
            suite(rule("expect_column_values_to_be_between", kwargs={"column": "category", "min_value": 5})),
            "could not be evaluated",
        ),
    ],
)
def test_a_broken_suite_fails_its_domain_by_name_and_no_other(lake, text, message, caplog):
    broken(lake, text)
    assert not lake.run()
    (said,) = [m for m in caplog.messages if message in m]
    assert said.startswith(("DomainSilver(domain=sales", "Silver(domain=sales"))
    assert "Traceback" not in caplog.text
    assert lake.silver().empty
    assert lake.gold("inventory_net_position").iloc[0]["net_position"] == 3


TOO_FEW = rule("expect_table_row_count_to_be_between", "TOO_FEW", kwargs={"min_value": 2})


def test_a_whole_table_rule_withholds_the_partition_that_fails_it_and_no_other(lake, caplog):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    before = lake.partition("2026-11-01").read_bytes()
    (lake.root / "expectations/sales.json").write_text(suite(TOO_FEW))
    lake.deliver("sales", "sales_20261102_120000.csv", *(sale(f"t{n}", "2026-11-02") for n in range(3)))
    lake.deliver("sales", "sales_20261103_120000.csv", sale("u1", "2026-11-03"))
    for _ in range(2):
        caplog.clear()
        assert not lake.run()
        assert "sales: withheld 2026-11-01, 2026-11-03" in caplog.text
        assert "2026-11-01: TOO_FEW (expect_table_row_count_to_be_between): observed 1" in caplog.text
        assert lake.partition("2026-11-01").read_bytes() == before
        assert len(pd.read_parquet(lake.partition("2026-11-02"))) == 3
        assert not lake.partition("2026-11-03").exists()
    page = sorted((lake.root / "datalake/quality/data_docs/validations/sales").glob("*.html"))[-1]
    assert f"validations/sales/{page.name}" in caplog.text
    assert "Withheld" in page.read_text()
    (lake.root / "expectations/sales.json").write_text(suite())
    assert lake.run()
    assert lake.partition("2026-11-03").exists()


@pytest.mark.parametrize(("severity", "is_withheld"), [("critical", True), ("warning", False)])
def test_mostly_says_how_many_rows_have_to_pass_for_a_partition_to_be_published(lake, caplog, severity, is_withheld):
    known = rule(code="NULL:category", kwargs={"column": "category", "mostly": 0.6}, severity=severity)
    (lake.root / "expectations/sales.json").write_text(suite(known))
    lake.deliver(
        "sales",
        "sales_20261102_120000.csv",
        *(sale(f"a{n}", "2026-11-01", category="" if n < 2 else "Home") for n in range(5)),
        *(sale(f"b{n}", "2026-11-02", category="" if n < 3 else "Home") for n in range(5)),
    )
    assert lake.run() != is_withheld
    assert lake.partition("2026-11-02").exists() != is_withheld
    assert ("NULL:category (expect_column_values_to_not_be_null): 3 of 5 rows fail" in caplog.text) == is_withheld
    rows = pd.read_parquet(lake.partition("2026-11-01"))
    assert list(rows["is_valid"]).count(False) == (2 if severity == "critical" else 0)


def test_a_partition_without_a_judged_row_withholds_nothing(lake):
    mostly = rule(code="M", kwargs={"column": "category", "mostly": 0.9})
    (lake.root / "expectations/sales.json").write_text(suite(TOO_FEW, mostly))
    lake.deliver("sales", "sales_20261102_120000.csv", "malformed")
    assert lake.run()
    assert malformed(lake) == ["malformed"]


def test_uniqueness_is_judged_within_a_partition(lake):
    (lake.root / "expectations/sales.json").write_text(
        suite(rule("expect_column_values_to_be_unique", "NOT_UNIQUE", kwargs={"column": "customer_id"}))
    )
    line = "{},{},{},P1,Lamp,Home,1,5,5,cash,completed".format
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        line("s1", "2026-11-01", "a"),
        line("s2", "2026-11-01", "a"),
        line("s3", "2026-11-01", "b"),
        line("s4", "2026-10-31", "b"),
    )
    assert lake.run()
    rows = lake.silver().set_index("sale_id")["validation_errors"]
    assert {key: value for key, value in rows.items() if isinstance(value, str)} == {
        "s1": "NOT_UNIQUE",
        "s2": "NOT_UNIQUE",
    }


def test_warnings_leave_rows_valid(lake):
    (lake.root / "expectations/sales.json").write_text(
        suite(
            rule(code="A", severity="warning"),
            rule(code="B", severity="info"),
            rule(code="C", kwargs={"column": "status"}),
        )
    )
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", category=""), sale("s2", category="", status=""))
    assert lake.run()
    assert list(lake.silver()["is_valid"]) == [True, False]
    assert lake.silver()["validation_errors"][1] == "C"


def test_an_empty_suite_finds_every_row_valid(lake):
    (lake.root / "expectations/sales.json").write_text(suite())
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=""))
    assert lake.run()
    assert lake.silver()["is_valid"].all()


@pytest.mark.parametrize(
    "content",
    [
        rule("expect_column_values_to_match_regex", "R", kwargs={"column": "sale_id", "regex": "^good"}),
        rule(
            "expect_column_value_lengths_to_be_between",
            "R",
            kwargs={"column": "sale_id", "min_value": 4, "max_value": 5},
        ),
        rule(
            "expect_column_pair_values_a_to_be_greater_than_b",
            "R",
            kwargs={
                "column_A": "unit_price",
                "column_B": "quantity",
                "or_equal": True,
                "ignore_row_if": "either_value_is_missing",
            },
        ),
        rule(
            "expect_column_values_to_be_in_set",
            "R",
            kwargs={
                "column": "category",
                "value_set": ["good"],
                "row_condition": 'status == "completed"',
                "condition_parser": "pandas",
            },
        ),
        rule(
            "expect_column_values_to_be_between",
            "R",
            kwargs={"column": "timestamp", "min_value": "2026-11-01T12:00:00"},
        ),
        rule(
            "expect_column_values_to_be_in_set",
            "R",
            kwargs={"column": "category", "value_set": ["good"], "mostly": 0.1},
        ),
        rule("expect_column_values_to_match_regex", "R", kwargs={"column": "quantity", "regex": "^[0-8]$"}),
        rule(
            "expect_column_values_to_be_between",
            "R",
            kwargs={
                "column": "quantity",
                "max_value": 3,
                "row_condition": "quantity > 1",
                "condition_parser": "pandas",
            },
        ),
        rule(
            "expect_multicolumn_sum_to_equal",
            "R",
            kwargs={
                "column_list": ["quantity", "unit_price"],
                "sum_total": 7,
                "ignore_row_if": "any_value_is_missing",
            },
        ),
        rule("expect_column_values_to_be_null", "R", kwargs={"column": "product_name"}),
        rule(
            "expect_select_column_values_to_be_unique_within_record",
            "R",
            kwargs={"column_list": ["customer_id", "product_id"]},
        ),
    ],
    ids=lambda rule: rule["type"].removeprefix("expect_"),
)
@pytest.mark.parametrize("chunk_rows", [1, 100])
@pytest.mark.parametrize("neighbour", [True, False], ids=["beside NULLs", "alone"])
def test_any_row_level_expectation_marks_the_rows_it_finds(lake, content, chunk_rows, neighbour, set_lake):
    set_lake(chunk_rows=chunk_rows)
    (lake.root / "expectations/sales.json").write_text(suite(content))
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        "good1,2026-11-01T13:00:00,C1,P1,,good,2,5,10,cash,completed",
        "bad,2026-11-01T11:00:00,P1,P1,x,bad,9,5,45,cash,completed",
        *(["none,2026-11-01T14:00:00,,,,,,,,,"] if neighbour else []),
    )
    assert lake.run()
    verdicts = dict(zip(lake.silver()["sale_id"], lake.silver()["is_valid"], strict=True))
    assert (verdicts["good1"], verdicts["bad"]) == (True, False)


def test_a_missing_whole_number_is_marked_and_shown(lake):
    line = "m{0},2026-11-01,P1,Lamp,W1,inbound,{1},1.00,S1".format
    lake.deliver("inventory", "inventory_20261101_120000.csv", line(1, ""), line(2, 0), line(3, 5))
    assert lake.run()
    errors = lake.silver("inventory")["validation_errors"]
    assert list(errors.fillna("")) == ["NULL:quantity", "NON_POSITIVE_QUANTITY", ""]
    (page,) = lake.root.glob("datalake/quality/data_docs/validations/inventory/*.html")
    assert "quantity = NULL" in page.read_text()


def test_very_many_malformed_lines_behind_an_open_quote_are_not_for_the_engine(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), '"', *["x" * 20] * 1000, sale("s2"))
    assert lake.run()
    assert not entry(lake)["inspection"]["plain"], "it would keep ten kilobytes of each"
    assert entry(lake)["records"] == 1003
    assert ids(lake) == ["s1", "s2"]


def test_a_day_is_compared_with_a_moment_as_its_beginning(lake):
    days = {"column": "timestamp", "min_value": "2026-11-01", "max_value": "2026-11-02"}
    (lake.root / "expectations/sales.json").write_text(
        suite(rule("expect_column_values_to_be_between", "R", kwargs=days))
    )
    lake.deliver(
        "sales", "sales_20261103_120000.csv", sale("s1", "2026-11-02T00:00:00"), sale("s2", "2026-11-02T00:00:01")
    )
    assert lake.run()
    assert list(lake.silver()["is_valid"]) == [True, False]


def test_a_rule_about_the_values_of_a_column_is_about_the_table(lake):
    kwargs = {"column": "status", "value_set": ["completed"]}
    (lake.root / "expectations/sales.json").write_text(
        suite(rule("expect_column_distinct_values_to_be_in_set", "R", kwargs=kwargs, severity="warning"))
    )
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", status="refunded"))
    assert lake.run()
    assert lake.silver()["is_valid"].all()


# ------------------------------------------------------------------------------------------------ settings and tables


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_rows": 0}, "chunk_rows=0: expected 1 or more"),
        *(
            ({"memory_limit": size}, f"[lake] memory_limit={size}: expected a size such as 4GB, or a share such as 50%")
            for size in ("5 bananas", "lots", "", "4", "GB", "-1GB", "0GB", "0%", "101%", "1e3GB", "4GBs")
        ),
        ({"timestamp_formats": {"sales": "%m/%d/%Y"}}, 'expected a list of formats for sales: {"sales": ["%m/%d/%Y"]}'),
        ({"timestamp_formats": {"sales": ["%Q"]}}, "for sales, got '%Q'"),
        ({"timestamp_formats": {"sale": ["%Y"]}}, "unknown domain sale"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(lake, set_lake, settings, message, caplog):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    set_lake(**settings)
    with pytest.raises(LakeError, match=re.escape(message)):
        for domain in DOMAINS.values():
            reading_of(domain)


@pytest.mark.parametrize("size", ["4GB", "50%", "4 gb", "1.5GiB", ".5TB", "100%", "0.9%", "500M", "900000KB"])
def test_a_memory_limit_that_is_accepted_is_one_for_the_engine(set_lake, tmp_path, size):
    set_lake(memory_limit=size)
    with engine.Connection(str(tmp_path), settings().memory_limit) as connection:
        assert connection.rows("select 1") == [(1,)]


def test_a_format_with_an_offset_gives_the_same_type(lake, set_lake):
    set_lake(timestamp_formats={"sales": ["%m/%d/%Y %H:%M %z"]})
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", "11/01/2026 01:30 +0200"))
    assert lake.run()
    path = lake.partition("2026-10-31")
    assert duckdb.sql(f"select typeof(timestamp), timestamp::text from '{path}'").fetchall() == [
        ("TIMESTAMP", "2026-10-31 23:30:00")
    ]


@pytest.fixture
def add_table(monkeypatch):
    """Adds a gold table to the project's."""

    def add(name: str, sql: str) -> None:
        set_tables(monkeypatch, known_tables() | {name: sql})

    return add


HEAD = "-- grain: {}\n-- source: sales\n-- One row per …\n"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("-- groups: category\nselect 1", "does not begin with the lines"),
        (
            "-- grain: date\n-- source: nothing\nselect 1",
            "its source nothing is neither a domain nor a gold table",
        ),
        ("-- grain: date\n-- source: more\nselect 1", "sql/gold/more.sql reads itself"),
        (HEAD.format("category") + "select category,\ncount(nothing) as n from sales group by category", "line 5"),
        (
            HEAD.format("date") + "select cast(date_trunc('week', timestamp) as date) as date, count(*) as n "
            "from sales group by all",
            "it assigns events of 2026-11-04 to 2026-11-02",
        ),
    ],
)
def test_a_broken_table_fails_alone_and_names_its_file(lake, add_table, sql, message, caplog):
    add_table("more", sql)
    lake.deliver(
        "sales",
        "sales_20261105_120000.csv",
        sale("s1", "2026-11-03"),
        sale("s2", "2026-11-04"),
        sale("s3", "2026-11-05"),
    )
    assert not lake.run()
    (said,) = [line for line in caplog.messages if "sql/gold/more.sql" in line]
    assert message.replace("of 2026-11-04", "of 2026-11-05") in said
    assert said.startswith("Gold(table=more)")
    assert "Traceback" not in caplog.text
    assert lake.ran_names("Gold") == sorted(set(tables()) - {"more"})
    assert not any(target.exists() for target in luigi.task.flatten(Gold("more").output()))


def test_a_table_by_week_is_not_one_by_date_though_the_week_has_a_first_day(lake, add_table, caplog):
    week = "select cast(date_trunc('week', timestamp) as date) as date, count(*) as n from sales group by all"
    add_table("more", HEAD.format("date") + week)
    days = ["2026-11-02", "2026-11-03", "2026-11-04"]  # the first is a Monday
    lake.deliver("sales", "sales_20261104_120000.csv", *(sale(f"s{day}", day) for day in days))
    assert not lake.run()
    assert any("it assigns events of 2026-11-03 to 2026-11-02" in line for line in caplog.messages)


def test_a_table_may_end_in_a_semicolon_and_ask_for_bookkeeping_of_no_rows(lake, add_table):
    sql = "select cast(timestamp as date) as date, count(corrections) as corrected from sales group by all;\n"
    add_table("more", HEAD.format("date") + sql)
    assert lake.run()
    assert lake.gold("more").empty
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", "2026-11-03", total=""))
    assert lake.run()
    assert list(lake.gold("more")["corrected"]) == [1]


@pytest.mark.parametrize("name", ["order", "source_file", "extra", "quantity_text", "total_amount_expected", "odd_"])
def test_a_column_cannot_have_a_name_that_is_taken(name):
    sales = DOMAINS["sales"]
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(sales, columns={**sales.columns, name: "text"})
