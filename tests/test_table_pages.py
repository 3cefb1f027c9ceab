"""The page of each gold table, the picture of the lineage, and the marks on days that changed after they were over."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import LakeUnderTest, known_tables, sale, set_tables

import lakejobs
from lakejobs.pages.lineage import HEIGHT, WIDTH, Box, picture, upstream_and_down
from lakejobs.tables import tables

MOVE = "{0},2026-11-01T10:00:00,P1,Lamp,W1,{1},{2},2.00,S1"


@pytest.fixture
def made(lake: LakeUnderTest) -> LakeUnderTest:
    """Two days of sales, one of which is invalid, and a movement."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", quantity=""), sale("s1", quantity=3))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s3", "2026-11-02T09:00:00", quantity="two"))
    lake.deliver("inventory", "inventory_20261101_120000.csv", MOVE.format("m1", "inbound", 5))
    assert lake.run()
    return lake


def folder(lake: LakeUnderTest) -> Path:
    return lake.root / "datalake/quality/tables"


def text(lake: LakeUnderTest, table: str) -> str:
    """The words of a table's page."""
    page = (folder(lake) / f"{table}.html").read_text()
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def card(lake: LakeUnderTest, domain: str) -> str:
    """The report's words on a domain's state."""
    report = (lake.root / "datalake/quality/report.html").read_text()
    (found,) = [part for part in re.findall(r"<article.*?</article>", report, re.DOTALL) if f"<h2>{domain}<" in part]
    return " ".join(re.sub(r"<[^>]+>", " ", found).split())


def rows(lake: LakeUnderTest, table: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading of a page."""
    page = (folder(lake) / f"{table}.html").read_text()
    part = page.partition(f"<h2>{heading}")[2].partition("</table>")[0]
    found = re.findall(r"<tr.*?</tr>", part, re.DOTALL)[1:]
    return [
        [" ".join(html.unescape(re.sub(r"<[^>]+>", "", cell)).split()) for cell in re.findall(r"<td.*?</td>", row)]
        for row in found
    ]


def test_every_table_has_a_page_that_says_how_it_stands(made):
    assert {path.stem for path in folder(made).glob("*.html")} == {*tables()}
    said = text(made, "daily_sales_summary")
    assert "✔ Up to date Snapshot of 20" in said
    assert "1 row, newest date 2026-11-01, built from 2 days of silver sales" in said
    assert "built from gold inventory_movement_summary" in text(made, "inventory_net_position")
    assert tables()["daily_sales_summary"].description in said


def test_each_column_says_where_it_comes_from(made):
    found = {name: origin for name, _, origin in rows(made, "daily_sales_summary", "Columns")}
    assert found["date (grain)"] == "computed from sales.timestamp"
    assert found["total_revenue"] == "sum of sales.total_amount"
    assert found["order_count"] == "count of rows"
    assert found["refunded_amount"] == "computed from sales.status, sales.total_amount with sum"
    assert found["unique_customers"] == "count distinct of sales.customer_id"
    assert found["generated_at"] == "when the snapshot was made"
    assert [*found] == [
        f"{field.name} (grain)" if field.name == "date" else field.name
        for field in pq.read_schema(made.snapshots("daily_sales_summary")[-1])
    ]
    stock = {name: origin for name, _, origin in rows(made, "inventory_net_position", "Columns")}
    assert stock["product_id (grain)"] == "inventory_movement_summary.product_id"
    assert (
        stock["inbound"]
        == "computed from inventory_movement_summary.movement_type, inventory_movement_summary.total_quantity with sum"
    )


def test_a_table_that_is_read_and_has_no_snapshot_fails_no_page(made):
    for path in made.snapshots("inventory_movement_summary"):
        path.unlink()
    # As when another worker is still building it.
    assert made.run(lakejobs.Report())
    stock = {name: origin for name, _, origin in rows(made, "inventory_net_position", "Columns")}
    assert stock["product_id (grain)"] == "its SQL cannot be followed"
    assert made.run()
    stock = {name: origin for name, _, origin in rows(made, "inventory_net_position", "Columns")}
    assert stock["product_id (grain)"] == "inventory_movement_summary.product_id"


def test_the_rules_upstream_say_how_many_rows_they_kept_out(made):
    said = text(made, "payment_method_summary")
    assert "Valid: 1 of 3 rows. Kept out of gold: 2. Superseded: 1 of 4 records." in said
    assert "Bronze: 2 files, 0 rejected, the last landed 2026-11-02. Silver: 2 partitions" in said
    found = {code: (failing, kept_out) for code, failing, kept_out, _ in rows(made, "payment_method_summary", "sales")}
    silver = made.silver()
    codes = [code for codes in silver["validation_errors"].dropna() for code in codes.split("; ")]
    assert {code: count for code, (count, _) in found.items() if count not in ("0", "–")} == {
        code: str(codes.count(code)) for code in codes
    }
    assert found["TYPE:quantity"] == ("1", "yes")
    assert found["WRONG_TOTAL"] == ("–", "no (warning)"), "silver does not count warnings"


def test_only_pages_whose_facts_changed_are_written(made):
    before = {path.name: path.stat().st_mtime_ns for path in folder(made).glob("*.html")}
    made.deliver("inventory", "inventory_20261102_120000.csv", MOVE.format("m2", "outbound", 1))
    assert made.run()
    after = {path.name: path.stat().st_mtime_ns for path in folder(made).glob("*.html")}
    assert {name for name in before if before[name] != after[name]} == {
        "inventory_movement_summary.html",
        "inventory_net_position.html",
    }
    assert made.run()
    assert made.ran == []


def test_a_page_that_was_lost_comes_back_and_one_of_no_table_goes(made):
    (folder(made) / "daily_sales_summary.html").unlink()
    (folder(made) / "retired.html").write_text("a page of a table that is no more")
    (folder(made) / "_tmp-1-1").write_text("half a page")
    assert made.run()
    assert {path.name for path in folder(made).iterdir()} == {*(f"{name}.html" for name in tables()), "_origins.json"}
    assert "Up to date" in text(made, "daily_sales_summary")


@pytest.mark.parametrize("text_of", [str.upper, lambda page: page[:100], lambda _: ""], ids=["same", "cut", "empty"])
def test_a_page_of_another_size_is_written_again(made, text_of):
    page = folder(made) / "daily_sales_summary.html"
    whole = page.read_text()
    page.write_text(text_of(whole))
    assert made.run()
    is_seen = len(text_of(whole).encode()) != len(whole.encode())
    assert ("Up to date" in page.read_text()) == is_seen, "what has the same size is not read"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{}")], ids=["lost", "damaged"])
def test_what_is_remembered_of_columns_can_be_lost(made, spoil):
    before = rows(made, "daily_sales_summary", "Columns")
    spoil(folder(made) / "_origins.json")
    (folder(made) / "daily_sales_summary.html").unlink()
    assert made.run()
    assert rows(made, "daily_sales_summary", "Columns") == before


def test_a_table_that_cannot_be_built_says_so_on_its_page(made, monkeypatch):
    known = known_tables()
    set_tables(
        monkeypatch, known | {"daily_sales_summary": known["daily_sales_summary"].replace("-- grain", "-- grian")}
    )
    assert not made.run()
    assert "✘" in text(made, "daily_sales_summary")
    assert "sql/gold/daily_sales_summary.sql" in text(made, "daily_sales_summary")
    assert "Its last snapshot, of 20" in text(made, "daily_sales_summary")
    assert [row[2] for row in rows(made, "daily_sales_summary", "Snapshots")] == [
        f"gold/daily_sales_summary/{path.name}" for path in made.snapshots("daily_sales_summary")
    ]
    assert "Up to date" not in text(made, "daily_sales_summary")
    set_tables(
        monkeypatch, known | {"daily_sales_summary": known["daily_sales_summary"].replace("from sums", "from suns")}
    )
    assert not made.run()
    said = text(made, "daily_sales_summary")
    assert "✘ Not up to date its SQL in sql/gold/daily_sales_summary.sql changed" in said
    assert "The figures are older: snapshot of 20" in said
    movements = known["inventory_movement_summary"].replace("count(*)", "count(nothing)")
    set_tables(monkeypatch, known | {"inventory_movement_summary": movements})
    assert not made.run()
    assert "✘ Not up to date gold inventory_movement_summary is not up to date" in text(made, "inventory_net_position")
    set_tables(monkeypatch, {name: sql for name, sql in known.items() if name != "daily_sales_summary"})
    assert made.run()
    assert not (folder(made) / "daily_sales_summary.html").exists()


def test_what_the_last_run_failed_by_is_on_the_pages_and_cards(made, monkeypatch):
    def broken(count: str) -> dict[str, str]:
        return known_tables() | {"daily_sales_summary": original.replace("count(*)", count)}

    original = known_tables()["daily_sales_summary"]
    for column in ("nothing_here", "nor_here"):
        set_tables(monkeypatch, broken(f"count({column})"))
        assert not made.run()
        assert "The last run failed: sql/gold/daily_sales_summary.sql" in text(made, "daily_sales_summary")
        assert column in text(made, "daily_sales_summary").partition("lakejobs why")[0]
        assert column in card(made, "sales")
    found = {name: origin for name, _, origin in rows(made, "daily_sales_summary", "Columns")}
    assert found["order_count"] == "count of rows", "by the SQL that computed the snapshot"
    set_tables(monkeypatch, broken("count(*)"))
    few = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 2}, "meta": {"code": "FEW"}}
    suite = made.root / "expectations/inventory.json"
    content = json.loads(suite.read_text())
    suite.write_text(json.dumps(content | {"expectations": [*content["expectations"], few]}))
    assert not made.run()
    for table in ("inventory_movement_summary", "inventory_net_position"):
        assert "The last run failed: inventory: withheld 2026-11-01" in text(made, table)
    assert "withheld 2026-11-01" in card(made, "inventory") and "Run GoldAll" not in card(made, "inventory")
    suite.write_text(json.dumps(content))
    assert made.run()
    assert "failed" not in text(made, "inventory_net_position")


def test_a_rejected_file_is_on_the_pages_of_its_tables(made):
    made.deliver("sales", "sales_20261103_120000.csv", "1,2", header="a,b")
    assert made.run()
    said = text(made, "daily_sales_summary")
    assert "⚠ Up to date, with warnings" in said
    assert "sales_20261103_120000.csv" in said.partition("lakejobs why")[0]
    assert "✔ Up to date" in text(made, "inventory_net_position")


def test_no_table_is_green_while_what_it_reads_is_not_up_to_date(made):
    suite = made.root / "expectations/inventory.json"
    whole = suite.read_text()
    suite.write_text("{")
    made.deliver("inventory", "inventory_20261102_120000.csv", MOVE.format("m2", "outbound", 1))
    assert not made.run()
    for table in ("inventory_movement_summary", "inventory_net_position"):
        assert "✘ Not up to date silver inventory is not up to date: 1 event date (2026-11-01)" in text(made, table)
    assert "✔ Up to date" in text(made, "daily_sales_summary")
    report = (made.root / "datalake/quality/report.html").read_text()
    (row,) = [
        row for row in re.findall(r"<tr>.*?</tr>", report, re.DOTALL) if ">inventory_net_position</a></td>" in row
    ]
    assert "✘" in row
    suite.write_text(whole)
    assert made.run()
    assert "✔ Up to date" in text(made, "inventory_net_position")


def test_a_table_whose_domain_cannot_be_read_says_why(made):
    (made.root / "datalake/silver/customer_events").write_text("a file")
    assert not made.run()
    assert "✘" in text(made, "customer_activity_summary")
    assert "expected a directory, but found a file" in text(made, "customer_activity_summary")
    assert "Up to date" in text(made, "daily_sales_summary")


def test_what_the_page_offers_to_run_runs(made):
    made.deliver("sales", "sales_20261102_130000.csv", sale("s4", "2026-11-02T10:00:00"))
    assert made.run()
    page = (folder(made) / "daily_sales_summary.html").read_text()
    offered = re.findall(r"<code>lakejobs ([^<]+)</code>", page)
    assert [words.split()[0] for words in offered] == ["why", "diff"]
    for words in offered:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("lakejobs")), *words.split()],
            cwd=made.root, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert "daily_sales_summary" in done.stdout
    kept = [path.name for path in made.snapshots("daily_sales_summary")]
    assert re.findall(r"gold/daily_sales_summary/([^<]+)<", page) == kept[::-1]


# ------------------------------------------------------------------------------------------------ restated days


def test_restated_days_are_marked_in_the_charts_and_the_marks_lead_to_the_cells(made):
    assert 'class="mark"' not in (folder(made) / "daily_sales_summary.html").read_text()
    made.deliver("sales", "sales_20261103_120000.csv", sale("s5", category="Garden"))
    assert made.run()
    page = (folder(made) / "daily_sales_summary.html").read_text()
    (mark,) = re.findall(r'<a class="mark".*?</a>', page, re.DOTALL)
    assert 'href="#restated-2026-11-01"' in mark
    assert 'title="2026-11-01: changed after it was over' in mark and "sales_20261103_120000.csv is new" in mark
    (title,) = re.findall(r'title="([^"]*)"', mark)
    assert title.count(" more") <= 1
    assert 'id="restated-2026-11-01"' in page
    ((day, _, cells, cause),) = rows(made, "daily_sales_summary", "Days that changed")
    assert day == "2026-11-01" and "order_count 1 → 2" in cells and "sales_20261103_120000.csv is new" in cause
    report = (made.root / "datalake/quality/report.html").read_text()
    assert 'href="tables/daily_sales_summary.html#restated-2026-11-01"' in report
    ((_, _, cells, _),) = rows(made, "category_sales_summary", "Days that changed")
    assert "Garden, category_orders NULL → 1" in cells, "a row of a longer grain says which"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{}")], ids=["lost", "damaged"])
def test_the_brief_of_restatements_can_be_lost(made, spoil):
    for number in (3, 4):
        made.deliver("sales", f"sales_2026110{number}_120000.csv", sale(f"s{number}0"))
        assert made.run()
    before = rows(made, "daily_sales_summary", "Days that changed")
    assert len(before) == 2
    spoil(made.root / "datalake/quality/restatements/_brief.json")
    (folder(made) / "daily_sales_summary.html").unlink()
    assert made.run()
    assert rows(made, "daily_sales_summary", "Days that changed") == before


# ------------------------------------------------------------------------------------------------ lineage


def test_the_picture_has_every_domain_and_table_and_links_that_lead_somewhere(made):
    quality = made.root / "datalake/quality"
    for page in (quality / "report.html", *folder(made).glob("*.html")):
        content = page.read_text()
        drawn = re.search(r'<svg class="lineage".*?</svg>', content, re.DOTALL)
        assert drawn
        for link in re.findall(r'<a href="([^"#]+)', drawn[0]):
            assert (page.parent / link).exists(), (page.name, link)
    drawn = re.search(r'<svg class="lineage".*?</svg>', (quality / "report.html").read_text(), re.DOTALL)
    titles = re.findall(r"<title>(\w+ \w+): ([^<]+)</title>", drawn[0])
    assert {name for name, _ in titles} == {
        f"{layer} {name}" for layer in ("bronze", "silver") for name in ("sales", "customer_events", "inventory")
    } | {f"gold {name}" for name in tables()}
    assert dict(titles)["silver sales"] == "1 of 3 rows valid"
    assert len(re.findall("<path", drawn[0])) == 3 + 7
    stock = (folder(made) / "inventory_movement_summary.html").read_text()
    assert len(re.findall(r"<title>\w+ \w+: ", stock)) == 4


def test_boxes_of_a_picture_do_not_cover_each_other():
    boxes = {f"d{number}": Box("silver", f"d{number}", "", "good") for number in range(4)}
    for number in range(30):
        reads = [f"d{number % 4}", f"t{number - 7}"] if number > 7 else [f"d{number % 3}"]
        boxes[f"t{number}"] = Box("gold", f"t{number}", "", "good", reads)
    drawn = picture(boxes)
    places = [(box["x"], box["y"]) for box in drawn["boxes"]]
    for number, (x, y) in enumerate(places):
        assert 0 <= x <= drawn["width"] - WIDTH and 0 <= y <= drawn["height"] - HEIGHT
        for other_x, other_y in places[:number]:
            assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT
    assert len(drawn["lines"]) == sum(len(box.reads) for box in boxes.values())
    some = upstream_and_down(boxes, "t8")
    assert {*some} == {"d0", "d1", "t1", "t8", "t15", "t22", "t29"}
    assert picture({})["boxes"] == []
