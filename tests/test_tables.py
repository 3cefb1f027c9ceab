"""Gold tables with several sources, and the charts they declare."""

from __future__ import annotations

import re
import shutil

import duckdb
import pytest
from conftest import LakeUnderTest, known_tables, sale, set_tables
from test_report import card, page

from lakejobs.tables import parse_tables

SOLD_AND_MOVED = """-- grain: date, product_id
-- sources: sales, inventory
-- One row per UTC day and product that was sold and moved on the same day.
select
    sales.date, product_id, sold, moved
from (select cast(timestamp as date) as date, product_id, cast(sum(quantity) as bigint) as sold from sales group by all) as sales
full join (select product_id, cast(sum(quantity) as bigint) as moved from inventory group by all) as stock using (product_id)
where sold is not null
"""  # noqa: E501
SHARE_OF_ALL = """-- grain: date
-- sources: sales, inventory (all days)
-- One row per UTC day.
select cast(timestamp as date) as date, count(*) as sold, (select count(*) from inventory) as movements_ever
from sales group by all
"""


def moved(id: str, day: str, product: str = "P1", quantity: int = 3) -> str:
    return f"{id},{day},{product},Lamp,W1,inbound,{quantity},1.00,S1"


@pytest.fixture
def add(monkeypatch):
    """Adds gold tables to the project's."""
    return lambda **sql: set_tables(monkeypatch, known_tables() | sql)


@pytest.fixture
def two(lake: LakeUnderTest) -> LakeUnderTest:
    """Two days of sales, and inventory on both."""
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1", "2026-11-01"), sale("s2", "2026-11-02"))
    lake.deliver("inventory", "inventory_20261102_120000.csv", moved("m1", "2026-11-01"), moved("m2", "2026-11-02"))
    return lake


def rows(lake: LakeUnderTest, table: str) -> list[tuple[object, ...]]:
    found = lake.gold(table)
    return [tuple(str(value).removesuffix(" 00:00:00") for value in row) for row in found.itertuples(index=False)]


def test_a_daily_table_sees_that_day_of_each_source(two, add, caplog):
    add(joined=SOLD_AND_MOVED)
    assert two.run()
    assert rows(two, "joined") == [("2026-11-01", "P1", "2", "3"), ("2026-11-02", "P1", "2", "3")]
    two.deliver("inventory", "inventory_20261103_120000.csv", moved("m3", "2026-11-02", quantity=10))
    assert two.run()
    assert rows(two, "joined") == [("2026-11-01", "P1", "2", "3"), ("2026-11-02", "P1", "2", "13")]
    assert "Gold(table=joined): 2 rows, 1 day computed, 1 carried over" in caplog.text
    assert two.run()
    assert two.ran == []


def test_days_that_one_source_alone_has_and_days_that_go(two, add):
    add(joined=SOLD_AND_MOVED)
    path = two.deliver("sales", "sales_20261105_120000.csv", sale("s3", "2026-11-05"))
    two.deliver("inventory", "inventory_20261104_120000.csv", moved("m3", "2026-11-04"))
    assert two.run()
    assert [row[0] for row in rows(two, "joined")] == ["2026-11-01", "2026-11-02", "2026-11-05"]
    path.unlink()
    (two.bronze("2026-11-05") / path.name).unlink()
    assert two.run()
    assert [row[0] for row in rows(two, "joined")] == ["2026-11-01", "2026-11-02"]


def test_a_source_of_all_days_recomputes_every_day(two, add, caplog):
    add(share=SHARE_OF_ALL)
    assert two.run()
    assert rows(two, "share") == [("2026-11-01", "1", "2"), ("2026-11-02", "1", "2")]
    two.deliver("inventory", "inventory_20261103_120000.csv", moved("m3", "2026-10-01"))
    assert two.run()
    assert rows(two, "share") == [("2026-11-01", "1", "3"), ("2026-11-02", "1", "3")]
    assert "Gold(table=share): 2 rows, 2 days computed, 0 carried over" in caplog.text
    two.deliver("sales", "sales_20261103_120000.csv", sale("s4", "2026-11-02"))
    assert two.run()
    assert rows(two, "share") == [("2026-11-01", "1", "3"), ("2026-11-02", "2", "3")]
    assert "Gold(table=share): 2 rows, 1 day computed, 1 carried over" in caplog.text


def test_a_table_may_read_a_domain_and_gold_tables(two, add, caplog):
    add(
        beside="-- grain: date\n-- sources: sales, inventory_movement_summary, inventory_net_position (all days)\n"
        "-- One row per day.\n"
        "select cast(timestamp as date) as date, count(*) as sold,\n"
        "(select cast(sum(total_quantity) as bigint) from inventory_movement_summary) as moved,\n"
        "(select cast(sum(net_position) as bigint) from inventory_net_position) as stock\n"
        "from sales group by all"
    )
    assert two.run()
    assert rows(two, "beside") == [("2026-11-01", "1", "3", "6"), ("2026-11-02", "1", "3", "6")]


def test_a_table_without_a_date_reads_all_of_every_source(two, add):
    add(
        total="-- grain: product_id\n-- sources: sales, inventory\n-- One row per product.\n"
        "select product_id, (select count(*) from inventory) as movements, count(*) as sold from sales group by all"
    )
    assert two.run()
    assert rows(two, "total") == [("P1", "2", "2")]


def test_a_table_waits_for_all_of_its_domains(two, add):
    add(joined=SOLD_AND_MOVED)
    suite = two.root / "expectations/inventory.json"
    whole = suite.read_text()
    suite.write_text("{")
    assert not two.run()
    assert two.snapshots("joined") == []
    assert two.snapshots("daily_sales_summary")
    assert "joined" not in (two.root / "datalake/quality/report.html").read_text().partition("<h2>Gold")[2]
    suite.write_text(whole)
    assert two.run()
    assert len(rows(two, "joined")) == 2


@pytest.mark.parametrize(
    ("head", "sql", "message"),
    [
        ("date\n-- source: sales", "select cast(timestamp as date) as date, (select 1 from inventry) as n from sales",
         "its SQL reads inventry, which its second line does not name as a source; known sources: category_sales"),
        ("date\n-- source: sales", "select cast(timestamp as date) as date from sales, inventory",
         "its SQL reads inventory, which its second line does not name as a source"),
        ("date\n-- sources: sales, inventory", "select cast(timestamp as date) as date from sales",
         "its second line names inventory as a source, but its SQL does not read it"),
        ("date\n-- sources: sales, inventory_net_position",
         "select cast(timestamp as date) as date from sales, inventory_net_position",
         "write inventory_net_position (all days) in the line of sources"),
        ("date\n-- sources: sales, nothing, nobody", "select 1",
         "its sources nothing, nobody are neither a domain nor a gold table; expected one of category_"),
        ("date\n-- sources: sales inventory", "select 1", "does not begin with the lines"),
        ("date\n-- source: sales\n-- chart: x", "select 1",
         "line 3: expected '-- chart: TITLE | COLUMN by COLUMN | NOTE'"),
        ("category\n-- source: sales\n-- chart: x | a: b", "select 1", "line 3: expected '-- chart: TITLE"),
        ("date\n-- source: sales\n-- chart with share: x | a: b", "select 1", "line 3: expected '-- chart: TITLE"),
        ("date\n-- sources: sales, inventory", "select date '2026-01-01' as date from sales, inventory",
         "it assigns events of 2026-11-01 to 2026-01-01"),
        ("date\n-- source: sales", "select cast(timestamp as date) as date, unnest([1, 2]) as n from sales",
         "its grain allows one row for each date, but its SQL computes 2 rows for date 2026-11-01. Group by the"),
        ("date, n\n-- sources: sales, inventory",
         "select cast(sales.timestamp as date) as date, null as n, unnest([1, 2]) as m from sales, inventory",
         "one row for each date, n, but its SQL computes 2 rows for date 2026-11-01, n NULL. Group by"),
        ("product_id\n-- source: sales", "select product_id from sales", "computes 2 rows for product_id P1. Group by"),
        ("Date, week\n-- source: sales", "select cast(timestamp as date) as DATE, 1 as n from sales",
         "its grain names week, but its SQL computes only DATE, n"),
    ],
)  # fmt: skip
def test_a_table_that_says_something_else_than_it_does_is_refused(two, add, caplog, head, sql, message):
    add(wrong=f"-- grain: {head}\n{sql}")
    assert not two.run()
    (said,) = [line for line in caplog.messages if "sql/gold/wrong.sql" in line]
    assert message in said
    assert "Traceback" not in caplog.text
    assert not two.snapshots("wrong")
    assert two.snapshots("daily_sales_summary"), "the others are made"


def broken_by(text: str) -> str | None:
    """Why a file is refused."""
    _, broken, _ = parse_tables((("t", "gold/t.sql", text),), ("sales",))
    return broken.get("t")


@pytest.mark.parametrize(
    ("line", "close"),
    [
        ("-- chrt: Sold | n by product_id", "chart"),
        ("-- Charts: Sold | n by product_id", "chart"),
        ("--chart: Sold | n by product_id", "chart"),
        ("  -- chart: Sold | n by product_id", "chart"),
        ("-- chart : Sold | n by product_id", "chart"),
        ("-- chart whit shares: Sold | n by product_id", "chart with shares"),
        ("-- chart-with-shares: Sold | n by product_id", "chart with shares"),
        ("-- chart (with shares): Sold | n by product_id", "chart with shares"),
        ("-- soruce: sales", "source"),
        ("-- grian: date", "grain"),
    ],
)
def test_a_misspelt_header_is_refused(line, close):
    text = f"-- grain: product_id\n-- source: sales\n-- One row per product.\n{line}\nselect product_id from sales"
    wrong = line[: line.index(":") + 1].strip()
    said = f"gold/t.sql, line 4: unknown header '{wrong}'; did you mean '-- {close}: …'?"
    assert broken_by(text) == said


@pytest.mark.parametrize("line", ["-- chart Sold | n: n", "-- chart with shares Sold | n by product_id | Pieces: sold"])
def test_a_chart_without_its_colon_is_refused(line):
    text = f"-- grain: product_id\n-- source: sales\n{line}\nselect product_id from sales"
    assert broken_by(text) == f"gold/t.sql, line 3: the colon after 'chart' is missing: {line!r}"


def test_a_word_that_sql_cannot_read_from_cannot_name_a_table():
    with duckdb.connect() as connection:
        words = {word for (word,) in connection.execute("select keyword_name from duckdb_keywords()").fetchall()}
        refused = set()
        for word in words:
            connection.execute(f'create view "{word}" as select 1')
            try:
                connection.execute(f"from {word}")
            except duckdb.ParserException:
                refused.add(word)
    assert refused
    for word in refused:
        sql = ((word, f"gold/{word}.sql", "-- grain: date\n-- source: sales\nselect 1"),)
        said = f"gold/{word}.sql: {word} is a word of SQL, which cannot name a table; rename the file"
        assert parse_tables(sql, ("sales",))[1] == {word: said}


def test_a_misspelt_grain_or_source_is_refused_with_its_line():
    wrong = "-- grain: date\n-- sorces: sales\nselect 1"
    assert broken_by(wrong) == "gold/t.sql, line 2: unknown header '-- sorces:'; did you mean '-- sources: …'?"


@pytest.mark.parametrize(
    "line",
    ["-- Note: the sign is unknown.", "-- Chart of accounts: see finance.", "-- Shares: in percent.",
     "-- Source: the till.", "-- A source: sales.", "-- Parts: n by product_id", "-- Course: of the day.",
     "-- Range: 1 to 3.", "-- Graph: no.", "-- See https://example.org"],
)  # fmt: skip
def test_prose_with_a_colon_is_no_header(line):
    assert broken_by(f"-- grain: product_id\n-- source: sales\n{line}\nselect product_id from sales") is None
    # Nor is anything below the description.
    assert broken_by("-- grain: product_id\n-- source: sales\n\n-- chrt: x\nselect product_id from sales") is None


def reads(source: str) -> str:
    return f"-- grain: date\n-- source: {source}\nselect date from {source}"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({"a": "a"}, "sql/gold/a.sql reads itself"),
        ({"a": "b", "b": "a"}, "gold tables read each other in a cycle: a reads b, b reads a"),
        (
            # Those that only read a cycle are not part of it.
            {"a": "b", "b": "d", "c": "b", "d": "b", "e": "c"},
            "gold tables read each other in a cycle: b reads d, d reads b",
        ),
        (
            {"a": "b", "b": "c", "c": "a", "f": "daily_sales_summary"},
            "gold tables read each other in a cycle: a reads b, b reads c, c reads a",
        ),
    ],
)
def test_a_cycle_of_tables_is_named_once_and_fails_no_other(two, add, caplog, read, message):
    add(**{name: reads(source) for name, source in read.items()})
    assert not two.run()
    (said,) = [line for line in caplog.messages if line.startswith("Gold(") and ": sql/gold" in line]
    assert message in said
    assert two.snapshots("daily_sales_summary") and not two.snapshots("a")
    assert bool(two.snapshots("f")) == ("f" in read)


def test_two_cycles_are_both_named(two, add, caplog):
    both = "-- grain: date\n-- sources: p, r\nselect date from p, r"
    add(p=reads("q"), q=both, r=reads("q"), s=reads("t"), t=reads("s"))
    assert not two.run()
    said = [line.partition("cycle: ")[2].partition(";")[0] for line in caplog.messages if "in a cycle" in line]
    assert sorted(said) == ["p reads q, q reads p", "q reads r, r reads q", "s reads t, t reads s"]


def test_a_table_cannot_have_the_name_of_a_domain(two, add, caplog):
    add(inventory="-- grain: date\n-- source: sales\nselect cast(timestamp as date) as date from sales group by all")
    assert not two.run()
    assert "sql/gold/inventory.sql: there is a domain inventory; rename the table" in caplog.text
    assert two.snapshots("inventory_movement_summary")


def test_a_common_table_expression_is_no_source(two, add):
    add(
        named="-- grain: date\n-- source: sales\n-- One row per day.\n"
        "with days as (select cast(timestamp as date) as date from sales)\n"
        "select date, count(*) as n from days group by all"
    )
    assert two.run()
    assert len(rows(two, "named")) == 2


def test_a_stale_table_is_on_the_cards_of_all_its_domains_and_once_in_the_list(two, add):
    add(joined=SOLD_AND_MOVED)
    assert two.run()
    add(joined=SOLD_AND_MOVED.replace("sold, moved", "sold, mooved"))
    assert not two.run()
    assert "gold: joined" in card(two, "sales")
    assert "gold: joined" in card(two, "inventory")
    assert "Up to date" not in card(two, "sales") + card(two, "inventory")
    assert "joined" not in card(two, "customer_events")
    assert page(two).count('<td class="title"><a href="tables/joined.html">joined</a></td>') == 1


def test_a_table_is_stale_while_one_of_its_domains_cannot_be_read(two, add):
    add(joined=SOLD_AND_MOVED)
    assert two.run()
    shutil.rmtree(two.root / "datalake/silver/inventory")
    (two.root / "datalake/silver/inventory").write_text("a file")
    assert not two.run()
    assert "expected a directory, but found a file" in card(two, "inventory")
    assert "gold: joined" in card(two, "sales")


# ------------------------------------------------------------------------------------------------ charts


def charted(lake: LakeUnderTest) -> dict[str, str]:
    """The report's charts, by title."""
    page = (lake.root / "datalake/quality/report.html").read_text()
    business = page.partition("<h2>Business</h2>")[2].partition("<h2>Quality</h2>")[0]
    panels = business.split('<section class="panel">')[1:]
    return {re.findall("<h3>(.*?)</h3>", panel)[0]: panel for panel in panels}


def test_a_table_says_how_it_is_charted(two, add):
    add(
        own="-- grain: date, product_id, status\n-- source: sales\n-- One row per day and product.\n"
        "-- chart: Pieces | pieces by product_id or status, status | Not <b>money</b>.\n"
        "-- chart: Both | all: pieces, sale lines: lines\n"
        "select cast(timestamp as date) as date, product_id, status, cast(sum(quantity) as bigint) as pieces,\n"
        "count(*) as lines from sales group by all",
        ranked="-- grain: product_id\n-- source: sales\n-- chart: Best | n by product_id\n"
        "select product_id, count(*) as n from sales group by all",
    )
    assert two.run()
    found = charted(two)
    assert "<th>P1 · completed</th>" in found["Pieces"] and ">2<" in found["Pieces"]
    assert "Not &lt;b&gt;money&lt;/b&gt;." in found["Pieces"]
    assert "<th>all</th>" in found["Both"] and "<th>sale lines</th>" in found["Both"]
    assert "The highest and lowest of 1; 0 below zero." in found["Best"]
    assert list(found)[:2] == ["Revenue", "Best"], "by domain, the coarser tables first"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("a: nothing, b: N", "line 3: own has no column nothing to chart; it has date, status, n, ratio, generated_at"),
        ("n by nobody or status", "line 3: own has no column nobody to chart; it has date, status, n, ratio"),
        ("a: status", "line 3: this chart cannot be drawn: "),
        ("a: ratio", "line 3: this chart cannot be drawn: ratio is infinite or no number in "),
    ],
)
def test_a_chart_that_cannot_be_drawn_says_so_in_the_report_and_in_the_log(two, add, caplog, columns, message):
    add(
        own=f"-- grain: date, status\n-- source: sales\n-- chart: Wrong | {columns}\n"
        "select cast(timestamp as date) as date, status, count(*) as n, 1 / sum(0 * quantity) as ratio from sales "
        "group by all"
    )
    assert two.run()
    assert f"sql/gold/own.sql, {message}" in charted(two)["Wrong"]
    (warning,) = [record for record in caplog.records if "own.sql" in record.message]
    assert warning.levelname == "WARNING"
    assert warning.message.startswith(f"sql/gold/own.sql, {message}")


def test_shares_are_for_what_adds_up_and_overlapping_columns_are_not_stacked(two, add):
    add(
        own="-- grain: date\n-- source: sales\n"
        "-- chart: Overlapping | all: n, with two pieces: two\n"
        "-- chart with shares: Parts | two pieces: two, other: others\n"
        "select cast(timestamp as date) as date, count(*) as n, count(case when quantity = 2 then 1 end) as two,\n"
        "count(case when quantity <> 2 then 1 end) as others from sales group by all",
        best="-- grain: product_id\n-- source: sales\n-- chart: Best | n by product_id\n"
        "-- chart with shares: Shares | n by product_id\n"
        "select product_id, count(*) as n from sales group by all",
    )
    two.deliver("sales", "sales_20261103_120000.csv", sale("s3", "2026-11-02", quantity=3, total="15.00"))
    assert two.run()
    found = charted(two)
    assert re.findall(r"[\d.]+%(?=</td>)", found["Parts"]) == ["66.7%", "33.3%"]
    assert re.findall(r"[\d.]+%(?=</td>)", found["Shares"]) == ["100.0%"]
    assert "%</td>" not in found["Overlapping"] + found["Best"]
    # 2026-11-02: two of two pieces and one other are 2 high in a stack; 2 and 1 side by side
    bars = [re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', found[title])
            for title in ("Parts", "Overlapping")]  # fmt: skip
    assert bars[0] == [("0.1", "50.0", "0.8", "50.0"), ("1.1", "50.0", "0.8", "50.0"), ("1.1", "0.0", "0.8", "50.0")]
    assert bars[1] == [
        ("0.1", "50.0", "0.4", "50.0"), ("0.5", "50.0", "0.4", "50.0"),
        ("1.1", "0.0", "0.4", "100.0"), ("1.5", "50.0", "0.4", "50.0"),
    ]  # fmt: skip


def test_only_parts_of_a_whole_are_added_up(lake, add):
    """Averages are averaged, over the rows of a group and over the days of a month, and never stacked."""
    add(
        own="-- grain: date, category, status\n-- source: sales\n"
        "-- chart: Price | price by category | In euros.\n-- chart with shares: Pieces | n by category\n"
        "select cast(timestamp as date) as date, category, status, avg(unit_price) as price, sum(quantity) as n\n"
        "from sales group by all",
    )
    days = [f"2026-{month:02d}-{day:02d}" for month in range(1, 11) for day in (1, 2)]
    lines = [sale(f"{name}{day}", time=day, category=category, price=price, total=total, status=status)
             for day in days
             for name, category, price, total, status in (
                 ("a", "Lamp", "10.00", "20.00", "completed"), ("b", "Lamp", "20.00", "40.00", "refunded"),
                 *((f"c{n}", f"Mug {n}", f"{n}.00", f"{2 * n}.00", "completed") for n in range(1, 7)),
             )]  # fmt: skip
    lake.deliver("sales", "sales_20261101_120000.csv", *lines)
    assert lake.run()
    found = charted(lake)
    price = found["Price"]
    assert "In euros. Each figure is the average of its rows. Over time, the first 5 are shown." in price
    assert re.findall(r'<th>(.*?)</th>\s*<td class="number">(.*?)</td>', price)[:2] == [("Lamp", "15"), ("Mug 6", "6")]
    by_month = price.partition("by month")[2]
    assert by_month.count("2026-01\nLamp: 15\nMug 6: 6\nMug 5: 5\nMug 4: 4\nMug 3: 3</title>") == 1
    assert "(others)" not in price and "%</td>" not in price
    assert set(re.findall(r'width="([\d.]+)" height', price)) == {"0.16"}, "side by side"
    pieces = found["Pieces"]
    assert "average" not in pieces
    assert re.findall(r'<th>(.*?)</th>\s*<td class="number">(.*?)</td>', pieces)[0] == ("Lamp", "80")
    assert "2026-01\nLamp: 8\n" in pieces.partition("by month")[2] and "(others): 8</title>" in pieces


def test_changing_a_chart_makes_the_report_anew_and_no_table(two, add):
    assert two.run()
    add(device_usage_summary=known_tables()["device_usage_summary"].replace("Sessions by device", "Devices"))
    assert two.run()
    assert two.ran_names("Gold") == []
    assert {task.task_family for task in two.ran} == {"Report", "GoldAll"}


def test_the_header_of_a_table_may_have_one_source_or_several():
    def sources(line: str) -> list[tuple[str, bool]]:
        made, broken, _ = parse_tables((("t", "t.sql", f"-- grain: date\n{line}\nselect 1"),), ("a", "b"))
        assert not broken, broken
        return [(source.name, source.all_days) for source in made["t"].sources]

    assert sources("-- source: a") == [("a", False)]
    assert sources("-- sources: a, B (all days)") == [("a", False), ("b", True)]
    assert sources("-- Sources: a( All days ),b  ") == [("a", True), ("b", False)]


# ------------------------------------------------------------------------------------------------ the catalogue


def test_the_report_tells_what_domains_tables_and_columns_mean(lake):
    assert lake.run()
    catalogue = (lake.root / "datalake/quality/report.html").read_text().partition("<h2>Catalogue</h2>")[2]
    assert "<li><code>quantity</code> integer: pieces sold</li>" in catalogue
    assert "One row per sale_id, and the UTC day of timestamp." in catalogue
    assert "One row per UTC day with at least one valid sale." in catalogue
    assert "Built from inventory_movement_summary." in catalogue
    assert "-- chart" not in catalogue and "chart:" not in catalogue


def test_a_table_whose_file_is_broken_is_in_the_report(two, add):
    add(wrong="select 1")
    assert not two.run()
    page = (two.root / "datalake/quality/report.html").read_text()
    assert "sql/gold/wrong.sql does not begin with the lines" in page.partition("<h2>Freshness</h2>")[2]
    assert "their files or sources are broken: wrong." in page.partition('<section class="cards">')[0]


def test_a_broken_table_is_on_the_cards_of_the_domains_it_reads(two, add):
    add(
        wrong="select 1 from inventory_net_position",
        further="-- grain: date\n-- sources: sales, wrong\nselect 1 from sales, wrong;",
    )
    assert not two.run()
    page = (two.root / "datalake/quality/report.html").read_text()
    cards = {re.findall("<h2>(.*?)</h2>", card)[0]: card for card in page.split("<article")[1:]}
    assert 'class="card quiet"' in cards["customer_events"]
    for domain, names in (("sales", "further"), ("inventory", "further, wrong")):
        assert 'class="card bad"' in cards[domain]
        assert f"<li>gold: {names}</li>" in cards[domain]
        assert "sql/gold/further.sql: its source wrong is broken" in cards[domain]
    assert "sql/gold/wrong.sql does not begin with the lines" in cards["inventory"]
    assert "sql/gold/wrong.sql" not in cards["sales"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "select *, (select count(*) from read_parquet('datalake/silver/**/*.parquet')) as n from sales",
            "its SQL reads read_parquet, which its second line does not name as a source",
        ),
        ("select * from sales, glob('*')", "its SQL reads glob, which"),
        (
            "select sale_id, now() as generated_at from sales",
            "its SQL computes generated_at, which the lake adds itself",
        ),
    ],
)
def test_what_a_table_must_not_read_or_compute_is_refused(two, add, caplog, sql, message):
    add(own=f"-- grain: sale_id\n-- source: sales\n{sql}")
    assert not two.run()
    assert any("own.sql: " in one.message and message in one.message for one in caplog.records)


def test_functions_that_read_nothing_are_no_sources(two, add):
    add(own="-- grain: n\n-- source: sales\nselect distinct n from sales, unnest([1, 2]) as l(n), range(3) as r(m)")
    assert two.run()
    assert sorted(two.gold("own")["n"]) == [1, 2]


def test_values_are_added_up_only_where_the_chart_says_so(two, add):
    add(
        own="-- grain: date\n-- source: sales\n-- chart: Average | n: n\n-- chart with totals: Sum | n: n\n"
        "select cast(timestamp as date) as date, sum(quantity) as n from sales group by all"
    )
    two.deliver("sales", "sales_20261103_120000.csv", sale("s8", "2026-11-02", quantity=40, total="200.00"))
    assert two.run()
    days = [int(n) for n in two.gold("own")["n"]]
    found = charted(two)
    assert len(days) > 1
    assert f">{sum(days)}<" in found["Sum"] and "average" not in found["Sum"]
    assert f">{sum(days)}<" not in found["Average"] and "Each figure is the average of its rows." in found["Average"]
