"""`lakejobs trace`, compared with a plain reading of the CSV files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import lzma
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from conftest import HEADERS, LakeUnderTest, new_lake, sale, set_tables

from lakejobs import SilverAll
from lakejobs.commands.asking import settings_given, untouched
from lakejobs.explain import trace as tracing
from lakejobs.storage import footer
from lakejobs.tables import tables

DATA = Path(__file__).parent / "data"
LAKEJOBS = Path(sys.executable).with_name("lakejobs")
LUIGI = Path(sys.executable).with_name("luigi")
SALES = "bronze/sales/year=2026/month=11/day=01/sales_20261101_{}.csv"


def trace(lake: LakeUnderTest, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([LAKEJOBS, "trace", *arguments], cwd=lake.root, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def traced(lake: LakeUnderTest, *arguments: str, code: int = 0):
    done = trace(lake, *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def record(lake: LakeUnderTest, *arguments: str, code: int = 0):
    """The only record of a key."""
    (found,) = traced(lake, *arguments, code=code)["records"]
    return found


@contextlib.contextmanager
def run_of(lake: LakeUnderTest):
    """The run that the command has, in this process."""
    before = Path.cwd()
    os.chdir(lake.root)
    try:
        with settings_given({}), untouched() as run:
            yield run
    finally:
        os.chdir(before)


def every_cell(lake: LakeUnderTest, table: str) -> list[dict[str, str | None]]:
    """The grain of every row of a table, as it is given to the command."""
    grain = ", ".join(f"cast({name} as varchar) as {name}" for name in tables()[table].grain)
    found = duckdb.sql(f"select {grain} from '{lake.snapshots(table)[-1]}'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def line_of(lake: LakeUnderTest, found) -> str:
    """The line that a record is said to begin on, by an editor's way of counting."""
    text = (lake.root / found["file"]).read_bytes().decode("utf-8-sig")
    return re.split("\r\n|\n|\r", text)[found["line"] - 1]


# ------------------------------------------------------------------------------------------------ all cells


@pytest.fixture(scope="module")
def two_weeks(tmp_path_factory):
    """Two weeks of a real shop, and generated events and movements of two days."""
    lake = new_lake(tmp_path_factory.mktemp("two_weeks"))
    lake.deliver_bytes(
        "sales", "online_retail.csv", lzma.decompress((DATA / "online_retail_two_weeks.csv.xz").read_bytes())
    )

    def luigi(*arguments: str) -> None:
        command = [LUIGI, "--module", "lakejobs", *arguments, "--local-scheduler"]
        subprocess.run(command, cwd=lake.root, check=True, capture_output=True, timeout=120)

    for domain in ("inventory", "customer_events"):
        for batch in ("20261101_120000", "20261102_120000"):
            luigi("Staging", "--domain", domain, "--Staging-batch", batch, "--rows", "40")
    luigi("GoldAll")
    return lake


@pytest.mark.parametrize("table", tables())
def test_every_cell_of_every_shipped_table_is_proven(two_weeks, table):
    """One by one, and all at once; and the rows behind the cells are the valid rows, each behind exactly one cell."""
    cells = every_cell(two_weeks, table)
    assert cells
    (domain,) = {source for source in ("sales", "inventory", "customer_events") if source in domains_behind(table)}
    behind: Counter[tuple[str, int]] = Counter()
    with run_of(two_weeks) as run:
        for grain in cells:
            with tracing.cell(run, table, grain) as found:
                assert found.is_proven, (grain, found.differences)
                (source,) = found.sources
                assert source.is_exact
                assert not found.changes
                assert not found.damaged
                behind.update((row["source_file"], row["source_record"]) for row in found.rows(source))
        assert tracing.prove(run, table) == (len(cells), [])
    assert {*behind.values()} == {1}
    valid = duckdb.sql(
        f"select source_file, source_record from '{two_weeks.root}/datalake/silver/{domain}/**/*.parquet' "
        "where is_valid"
    ).fetchall()
    assert behind.keys() == {*valid}


def domains_behind(table: str) -> set[str]:
    found = set()
    for source in tables()[table].sources:
        found |= domains_behind(source.name) if source.name in tables() else {source.name}
    return found


def test_the_rows_behind_a_day_are_those_that_a_plain_reading_of_the_file_gives(two_weeks):
    found = traced(two_weeks, "daily_sales_summary", "date=2010-12-06", "--all")
    text = lzma.decompress((DATA / "online_retail_two_weeks.csv.xz").read_bytes()).decode()
    records = [
        (number, row)
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 1)
        if row["timestamp"].startswith("2010-12-06")
    ]
    last = {row["sale_id"]: number for number, row in records}
    kept = {number for number, row in records if last[row["sale_id"]] == number}
    valid = {number for number, row in records if number in kept and row["customer_id"]}
    (source,) = found["sources"]
    assert {row["source_record"] for row in source["examples"]} == valid
    assert source["rows"] == len(valid)
    assert source["files"] == [{"file": source["files"][0]["file"], "rows": len(valid), "share": 1.0}]
    assert source["invalid"] == len(kept) - len(valid)
    excluded = {one["reason"]: one["records"] for one in source["excluded"]}
    assert excluded["NULL:customer_id"] == len([number for number in kept if number not in valid])
    assert excluded.get("superseded", 0) == len(records) - len(kept)
    assert found["is_proven"]
    cells = found["values"]
    assert cells["order_count"] == len(valid)
    assert cells["total_revenue"] == round(sum(float(row["total_amount"]) for n, row in records if n in valid), 2)


def test_every_tenth_invoice_line_is_where_the_trace_says(two_weeks):
    text = lzma.decompress((DATA / "online_retail_two_weeks.csv.xz").read_bytes()).decode()
    lines = text.splitlines()
    for number in (1, 9_999, 31_102):
        found = traced(two_weeks, "sales", lines[number].partition(",")[0])["records"]
        assert (number + 1, number, lines[number]) in {(one["line"], one["record"], one["text"]) for one in found}


def test_a_table_of_another_table_is_traced_to_silver(two_weeks):
    cell = every_cell(two_weeks, "inventory_net_position")[0]
    found = traced(two_weeks, "inventory_net_position", *(f"{name}={value}" for name, value in cell.items()))
    (source,) = found["sources"]
    assert (source["domain"], source["through"]) == ("inventory", ["inventory_movement_summary"])
    rows = []
    for path in two_weeks.root.glob("datalake/bronze/inventory/**/*.csv"):
        rows += [
            row for row in csv.DictReader(path.open()) if (row["product_id"], row["warehouse_id"]) == (*cell.values(),)
        ]
    valid = [row for row in rows if row["movement_type"] != "TRANSFER" and row["quantity"] not in ("", "0")]
    assert source["rows"] == len(valid)
    assert {row["movement_id"] for row in source["examples"]} <= {row["movement_id"] for row in valid}
    invalid = [one for one in rows if one not in valid]
    assert sum(one["in_group"] for one in source["excluded"]) == sum(
        (row["movement_type"] == "TRANSFER") + (row["quantity"] in ("", "0")) for row in invalid
    )


# ------------------------------------------------------------------------------------------------ fates

EARLY, LATE = "120000", "130000"


@pytest.fixture(scope="module")
def fates(tmp_path_factory):
    """Records of all fates, in a few files."""
    lake = new_lake(tmp_path_factory.mktemp("fates"))
    lake.deliver(
        "sales",
        f"sales_20261101_{EARLY}.csv",
        sale("corrected", total="3.00"),
        sale("wrong", quantity="two"),
        sale("twice", time="2026-11-01T10:00:00"),
        sale("twice", time="2026-11-01T09:00:00"),
        sale("same", total="10.00"),
        sale("same", total="10.00", category="Toys"),
        sale("delivered"),
        "broken,2026-11-01T10:00:00,C1",
        sale("days", time="2026-10-30T10:00:00"),
    )
    lake.deliver("sales", f"sales_20261101_{LATE}.csv", sale("delivered", category="Toys"), sale("days"))
    lake.deliver("sales", "sales_20261101_140000.csv", "rejected;x", header="sale_id;timestamp")
    command = [LUIGI, "--module", "lakejobs", "GoldAll", "--local-scheduler"]
    subprocess.run(command, cwd=lake.root, check=True, capture_output=True, timeout=120)
    return lake


def test_a_valid_record_says_where_it_went_and_what_was_corrected(fates):
    found = record(fates, "sales", "corrected")
    assert (found["fate"], found["record"], found["line"]) == ("valid", 1, 2)
    assert found["file"] == "datalake/" + SALES.format(EARLY)
    assert found["text"] == line_of(fates, found) == sale("corrected", total="3.00")
    assert found["corrections"] == {"total_amount": {"reported": "3.00", "stored": 10.0}}
    assert found["silver"] == str(fates.partition("2026-11-01").relative_to(fates.root))
    assert [(one["table"], one["grain"], one["is_in"]) for one in found["gold"]] == [
        ("category_sales_summary", {"date": "2026-11-01", "category": "Home"}, True),
        ("daily_sales_summary", {"date": "2026-11-01"}, True),
        ("payment_method_summary", {"date": "2026-11-01", "payment_method": "cash"}, True),
    ]


def test_the_words_say_the_same(fates):
    said = trace(fates, "sales", "corrected").stdout
    assert "record 1, line 2" in said
    assert f"  | {sale('corrected', total='3.00')}\n  valid, in datalake/silver/sales/" in said
    assert "corrected: total_amount was 3.00, is 10.0" in said
    assert "gold: category_sales_summary date=2026-11-01 category=Home\n" in said


def test_an_invalid_record_says_by_which_rules_and_is_in_no_gold_table(fates):
    found = record(fates, "sales", "wrong")
    assert (found["fate"], found["line"]) == ("invalid", 3)
    assert {*found["codes"]} == {"TYPE:quantity", "NULL:quantity"}
    assert found["codes"]["NULL:quantity"] == "Without a quantity, the total cannot be checked."
    assert found["rescued"] == {"quantity": "two"}
    assert {(one["is_in"], one["note"]) for one in found["gold"]} == {(False, "excluded, because it is invalid")}
    assert len(found["gold"]) == 3
    assert "gold: in no row of category_sales_summary, daily_sales_summary" in trace(fates, "sales", "wrong").stdout


@pytest.mark.parametrize(
    ("key", "loser", "winner", "why"),
    [
        (
            "twice",
            (EARLY, 4),
            (EARLY, 3),
            "that one has a later timestamp: 2026-11-01 10:00:00 instead of 2026-11-01 09",
        ),
        ("same", (EARLY, 5), (EARLY, 6), "that one comes later in the file"),
        ("delivered", (EARLY, 7), (LATE, 1), "that one was delivered later"),
    ],
)
def test_a_superseded_record_says_by_which_one_and_why(fates, key, loser, winner, why):
    found = {one["fate"]: one for one in traced(fates, "sales", key)["records"]}
    assert {*found} == {"valid", "superseded"}
    gone, kept = found["superseded"], found["valid"]
    assert (gone["file"], gone["record"]) == ("datalake/" + SALES.format(loser[0]), loser[1])
    assert (kept["file"], kept["record"]) == ("datalake/" + SALES.format(winner[0]), winner[1])
    assert gone["superseded_by"] == {"file": kept["file"], "record": kept["record"]}
    assert gone["why"].startswith(why)
    assert gone["gold"] == []
    assert gone["text"] == line_of(fates, gone)


def test_the_same_key_on_another_day_is_another_row(fates):
    found = traced(fates, "sales", "days")["records"]
    assert [(one["fate"], one["date"]) for one in found] == [("valid", "2026-10-30"), ("valid", "2026-11-01")]


def test_a_malformed_line_that_contains_the_key_is_shown(fates):
    found = record(fates, "sales", "broken")
    assert (found["fate"], found["record"], found["line"]) == ("malformed", 8, 9)
    assert found["text"] == "broken,2026-11-01T10:00:00,C1"
    assert {*found["codes"]} == {"MALFORMED_LINE"}
    assert trace(fates, "sales", "broke").returncode == 1, "a part of what stands there is another key"


def test_a_line_of_a_rejected_file_is_shown(fates):
    found = record(fates, "sales", "rejected")
    assert (found["fate"], found["record"], found["line"]) == ("rejected", None, 2)
    assert "its fields are separated by semicolons" in found["why"]


def test_a_key_nobody_knows_exits_1_with_close_ones(fates):
    done = trace(fates, "sales", "Corected")
    assert done.returncode == 1
    assert done.stdout == "sales Corected: no record in bronze has this key; did you mean corrected?\n"
    assert traced(fates, "sales", "Corected", code=1)["close"] == ["corrected"]


def test_the_key_is_trimmed_as_silver_trims_it(fates):
    assert record(fates, "sales", "  corrected\t")["record"] == 1


def test_nothing_in_the_lake_changes(fates):
    def seen():
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in (fates.root / "datalake").glob("**/*")
        }

    before = seen()
    trace(fates, "sales", "same")
    trace(fates, "daily_sales_summary", "date=2026-11-01")
    assert seen() == before


def test_only_files_that_can_hold_the_key_are_read(two_weeks):
    with run_of(two_weeks) as run:
        state = run.state("inventory")
        days = sorted(state.silver)
        files = [file.name for file, _ in tracing.bronze_files(run, state, {days[-1]})]
        assert len(files) < len(list((two_weeks.root / "datalake/bronze/inventory").glob("**/*.csv")))


def test_no_heavy_package_is_imported(two_weeks):
    script = (
        "import sys\nfrom lakejobs.commands import main\ntry:\n    main()\nfinally:\n"
        "    print(sorted({'pandas', 'great_expectations', 'pyspark'} & {*sys.modules}), file=sys.stderr)"
    )
    for arguments in (["sales", "536365-85123A-1"], ["daily_sales_summary", "date=2010-12-06"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "trace", *arguments], cwd=two_weeks.root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == "[]\n"


# ------------------------------------------------------------------------------------------------ odd files

HEADER = HEADERS["sales"]
ODD = {  # a key, the records of a file, which of them has the key, and the line that it begins on
    "quotes": ('say "hi"', [HEADER, sale("a"), sale('"say ""hi"""')], 2, 3),
    "comma": ("a,b", [HEADER, sale('"a,b"'), sale("a")], 1, 2),
    "blanks": ("a b", [HEADER, "", sale("x"), "", "", sale("  a b ")], 5, 6),
    "apostrophe": ("it's; drop", [HEADER, sale("it's; drop")], 1, 2),
    "dash": ("-1", [HEADER, sale("-1")], 1, 2),
    "newlines before": ("last", [HEADER, sale('"2\n"'), sale("b", category='"x\ny\nz"'), sale("last")], 3, 7),
    "newline": ("two\nlines", [HEADER, sale("a"), sale('"two\nlines"'), sale("c")], 2, 3),
    "letters": ("Zoë", [HEADER, sale("a"), sale("Zoë")], 2, 3),
    "malformed before": ("good", [HEADER, "x,y", "", 'broken "quote', sale("good")], 4, 5),
    "equals": ("sale_id=7", [HEADER, sale("sale_id=7")], 1, 2),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_line_and_text_are_right_in_odd_files(lake, ending, start):
    for number, (_, rows, _, _) in enumerate(ODD.values()):
        content = "".join(row.replace("\n", ending) + ending for row in rows)
        lake.deliver_bytes("sales", f"sales_20261101_1200{number:02}.csv", start + content.encode())
    assert lake.run(SilverAll())
    with run_of(lake) as run:
        for number, (key, rows, position, line) in enumerate(ODD.values()):
            (found,) = tracing.key(run, "sales", {"sale_id": key.replace("\n", ending)}).records
            assert (found.fate, found.line) == ("valid", line)
            assert found.file.endswith(f"_1200{number:02}.csv")
            assert found.text == rows[position].replace("\n", ending)


def test_odd_keys_pass_through_the_shell(lake):
    keys = ["-1", 'say "hi"', "a,b", "two\nlines", "sale_id=7", "it's"]
    rows = [sale('"' + key.replace('"', '""') + '"') for key in keys]
    lake.deliver("sales", f"sales_20261101_{EARLY}.csv", *rows)
    assert lake.run(SilverAll())
    for number, key in enumerate(keys):
        done = trace(lake, "sales", "--json", "--", f"sale_id={key}" if "=" in key else key)
        (found,) = json.loads(done.stdout)["records"]
        assert (found["record"], found["text"]) == (number + 1, rows[number])


@pytest.mark.parametrize(
    ("encoding", "ending", "final"),
    [("cp1252", "\n", "\n"), ("cp1252", "\r\n", ""), ("utf-8", "\r", "\r"), ("utf-8", "mixed", "")],
)
def test_line_and_text_are_right_in_files_for_the_fallback_reader(lake, encoding, ending, final):
    rows = [HEADER, sale("first"), "", sale("Café"), sale("last", category="Größe")]
    endings = ["\r\n", "\n", "\r", "\r\n"] if ending == "mixed" else [ending] * 4
    content = "".join(row + end for row, end in zip(rows, [*endings, final], strict=True))
    lake.deliver_bytes("sales", f"sales_20261101_{EARLY}.csv", content.encode(encoding))
    assert lake.run(SilverAll())
    with run_of(lake) as run:
        for key, number in (("first", 2), ("Café", 4), ("last", 5)):
            (found,) = tracing.key(run, "sales", {"sale_id": key}).records
            assert (found.line, found.record) == (number, number - 1 - (number > 2))
            assert found.text == rows[number - 1]


# ------------------------------------------------------------------------------------------------ keys

COUNTS = """
from lakejobs.model import Domain

DOMAIN = Domain(
    name="counts",
    columns={"shop": "text", "number": "integer", "moment": "timestamp", "pieces": "integer"},
    key=("shop", "number"),
    event_time="moment",
)
"""


@pytest.fixture
def counts(lake, set_lake):
    """A project whose domain has a key of two columns, one of them a number."""
    for path, text in {
        "domains/counts.py": COUNTS,
        "expectations/counts.json": '{"name": "counts", "expectations": []}',
        "gold/by_shop.sql": "-- grain: shop\n-- source: counts\nselect shop, count(*) as n from counts group by shop\n",
        "luigi.cfg": "[lake]\ndomains = domains\ntables = gold\n",
    }.items():
        (lake.root / path).parent.mkdir(exist_ok=True)
        (lake.root / path).write_text(text)
    set_lake(domains="domains", tables="gold")
    lake.deliver(
        "counts", "counts_20261101_120000.csv",
        "north,7,2026-11-01T10:00:00,1", "north,7.0,2026-11-01T11:00:00,2", "south,7,2026-11-01T10:00:00,3",
        "north,seven,2026-11-01T10:00:00,4", "north,8,2026-11-01T10:00:00,x",
        header="shop,number,moment,pieces",
    )  # fmt: skip
    assert lake.run()
    return lake


@pytest.mark.parametrize(
    "values", [("north", "7"), ("number=7", "shop=north"), ("number=+07.", "north"), ("north", " 7.0 ")]
)
def test_a_key_of_several_columns_is_compared_as_silver_stores_it(counts, values):
    found = traced(counts, "counts", *values)["records"]
    assert [(one["record"], one["fate"]) for one in found] == [(1, "superseded"), (2, "valid")]


def test_a_key_that_does_not_fit_its_type_is_found_by_its_text(counts):
    found = record(counts, "counts", "north", "seven")
    assert (found["record"], found["fate"], {*found["codes"]}) == (4, "invalid", {"TYPE:number"})
    assert found["codes"]["TYPE:number"] == "number is not an integer"


def test_too_few_or_too_many_values_name_the_key(counts):
    for values in (("north",), ("north", "7", "8"), ()):
        done = trace(counts, "counts", *values)
        assert done.returncode == 2
        assert done.stderr == "the key of counts is shop, number: lakejobs trace counts SHOP NUMBER\n"


# ------------------------------------------------------------------------------------------------ a cell


def test_values_of_a_grain_may_be_left_out_while_they_name_one_row(two_weeks):
    assert traced(two_weeks, "category_sales_summary", "2010-12-06")["grain"] == {
        "date": "2010-12-06",
        "category": None,
    }
    for category in ("category=NULL", "NULL"):
        assert traced(two_weeks, "category_sales_summary", "date=2010-12-06", category)["is_proven"]
    done = trace(two_weeks, "category_sales_summary", "category=NULL")
    assert done.returncode == 1
    assert "12 rows of category_sales_summary have these values; give more of date, category\n" in done.stdout
    assert "  date=2010-12-06 category=NULL\n" in done.stdout


def test_a_row_that_is_not_there_is_said_to_be_missing_with_the_reason(two_weeks):
    done = trace(two_weeks, "daily_sales_summary", "date=2010-12-04")
    assert done.returncode == 1
    assert "no row with date=2010-12-04; there is no record of sales on 2010-12-04. Rows like it: date=" in done.stdout
    done = trace(two_weeks, "category_sales_summary", "date=2010-12-06", "category=Toys")
    assert done.returncode == 1
    assert "Rows like it: date=2010-12-06 category=NULL" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("salez", "x"), "there is no domain or gold table salez; did you mean sales?"),
        (("daily_sales_summary", "day=2010-12-06"), "daily_sales_summary has no column day in its grain; it has date"),
        (("daily_sales_summary", "date=soon"), "daily_sales_summary has date as date, which 'soon' does not fit"),
        (("daily_sales_summary", "2010-12-06", "x"), "daily_sales_summary has one row for each date; got 2 values"),
        (("sales", ""), "sale_id is empty: records without a key are not told apart"),
        (
            ("sales", "x", "--all"),
            "--all and --csv are for rows of a gold table; of a key, all records are shown anyway",
        ),
        (("daily_sales_summary", "2010-12-06", "--csv", "no/such/place"), "no/such/place cannot be written: No such"),
        (("sales", "x", "--lake-root", "nowhere"), "there is no lake at nowhere; make one with luigi"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_in_a_sentence(two_weeks, arguments, message):
    done = trace(two_weeks, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_all_rows_are_written_as_csv(two_weeks):
    (source,) = traced(two_weeks, "daily_sales_summary", "2010-12-06", "--all")["sources"]
    done = trace(two_weeks, "daily_sales_summary", "2010-12-06", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["sale_id"] for row in rows] == [row["sale_id"] for row in source["examples"]]
    assert {row["is_valid"] for row in rows} == {"True"}
    said = trace(two_weeks, "daily_sales_summary", "2010-12-06", "--csv", "rows.csv").stdout
    assert said.endswith(f"Wrote {len(rows):,} rows to rows.csv.\n")
    assert (two_weeks.root / "rows.csv").read_text() == done.stdout
    shown = trace(two_weeks, "daily_sales_summary", "2010-12-06", "--all").stdout
    assert all(row["sale_id"] in shown for row in rows)


# ------------------------------------------------------------------------------------------------ other SQL

DAY = "cast(timestamp as date)"
SQL = {
    "where": (
        "date, category", "sales",
        f"select {DAY} as date, category, count(*) as n from sales where quantity > 1 group by all",
        True,
    ),
    "a timestamp for a date": (
        "date, category", "sales",
        "select date_trunc('day', timestamp) as date, category, count(*) as n from sales group by all",
        True,
    ),
    "not by day": (
        "week", "sales",
        "select date_trunc('week', timestamp) as week, cast(sum(quantity) as bigint) as n from sales group by week",
        True,
    ),
    "share of the day": (
        "date, category", "sales",
        f"with counts as (select {DAY} as date, category, count(*) as orders from sales group by all) "
        "select date, category, orders / sum(orders) over (partition by date) as share from counts",
        False,
    ),
    "latest of each customer": (
        "date", "sales",
        "with ranked as (select *, row_number() over (partition by customer_id order by timestamp desc, sale_id) as n "
        f"from sales) select {DAY} as date, count(*) as customers from ranked where n = 1 group by all",
        False,
    ),
    "join": (
        "date, category", "sales, inventory",
        "select cast(s.timestamp as date) as date, s.category, count(distinct s.sale_id) as n, "
        "count(distinct i.movement_id) as moves from sales as s left join inventory as i using (product_id) "
        "group by all",
        False,
    ),
    "union": (
        "date, what", "sales, inventory",
        f"select {DAY} as date, 'sold' as what, count(*) as n from sales group by all "
        f"union all select {DAY}, 'moved', count(*) from inventory group by all",
        False,
    ),
    "rollup": (
        "category", "sales",
        "select category, count(*) as n from sales where category is not null group by rollup (category)",
        False,
    ),
    "groups that are dropped": (
        "category", "sales",
        "select category, orders from (select category, quantity, count(*) as orders from sales "
        "group by category, quantity having count(*) > 1) where quantity in (2, 4)",
        False,
    ),
    "having": (
        "category", "sales",
        "select category, count(*) as n from sales group by category having count(*) > 1",
        True,
    ),
    "no group": (
        "sale_id, date", "sales",
        f"select sale_id, {DAY} as date, quantity * 2 as twice from sales where quantity > 1",
        True,
    ),
    "subquery": (
        "date", "sales",
        f"select {DAY} as date, count(*) as n from sales where quantity >= (select avg(quantity) from sales) "
        "group by all",
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SQL)
def test_other_sql_is_proven_and_no_more_is_claimed_than_the_sql_tells(lake, monkeypatch, name):
    grain, sources, statement, is_exact = SQL[name]
    set_tables(monkeypatch, {"mine": f"-- grain: {grain}\n-- source: {sources}\n{statement}\n"})
    lake.deliver(
        "sales", "sales_20261101_120000.csv",
        *(
            sale(f"s{day}{number}", f"2026-11-{day:02}T1{number}:00:00", number, "1.00", f"{number}.00", category)
            for day in (1, 2, 9) for number, category in ((1, "Home"), (2, "Home"), (2, "Toys"), (3, "Toys"), (4, ""))
        ),
    )  # fmt: skip
    lake.deliver(
        "inventory", "inventory_20261101_120000.csv",
        *(f"m{day},2026-11-{day:02}T10:00:00,P1,Lamp,W1,inbound,3,1.00,S1" for day in (1, 2, 9)),
    )  # fmt: skip
    # The files are of the ninth day's eve, so that no event is too late.
    for path in lake.root.glob("local_output/*/*.csv"):
        path.rename(path.with_name(path.name.replace("20261101", "20261109")))
    assert lake.run()
    cells = every_cell(lake, "mine")
    assert cells
    with run_of(lake) as run:
        assert tracing.prove(run, "mine") == (len(cells), [])
        for given in cells:
            with tracing.cell(run, "mine", given) as found:
                assert found.is_proven, (given, found.differences)
                assert all(source.is_exact == is_exact for source in found.sources)
                if is_exact and "n" in found.values and name != "not by day":
                    assert sum(source.rows for source in found.sources) == found.values["n"]


def test_what_the_sql_passes_over_is_excluded_with_its_condition(lake, monkeypatch):
    sql = f"select {DAY} as date, count(*) as n from sales where quantity > 1 group by 1"
    set_tables(monkeypatch, {"mine": f"-- grain: date\n-- source: sales\n{sql}"})
    lake.deliver("sales", f"sales_20261101_{EARLY}.csv", sale("a"), sale("b", quantity=1, total="5.00"), sale("c"))
    assert lake.run()
    with run_of(lake) as run:
        with tracing.cell(run, "mine", {"date": "2026-11-01"}) as found:
            (source,) = found.sources
            assert source.rows == found.values["n"] == 2
            assert [(one.reason, one.records) for one in source.excluded] == [("valid, but not quantity > 1", 1)]
        (one,) = tracing.key(run, "sales", {"sale_id": "b"}).records
        assert [(cell.is_in, cell.note) for cell in one.cells] == [(False, "its SQL passes over this record")]


# ------------------------------------------------------------------------------------------------ doctored, stale


@pytest.fixture
def small(lake):
    lake.deliver("sales", f"sales_20261101_{EARLY}.csv", sale("s1"), sale("s2"), sale("s3", time="2026-10-31T10:00:00"))
    assert lake.run()
    return lake


def test_several_domains_are_told_apart(small):
    name = "gold/mine.sql"
    (small.root / "gold").mkdir()
    (small.root / name).write_text(f"-- grain: date, what\n-- source: sales, inventory\n{SQL['union'][2]}\n")
    (small.root / "luigi.cfg").write_text("[lake]\ntables = gold\n")
    small.deliver("inventory", f"inventory_20261101_{EARLY}.csv", "m1,2026-11-01T10:00:00,P1,Lamp,W1,inbound,3,1.00,S1")
    subprocess.run(
        [LUIGI, "--module", "lakejobs", "GoldAll", "--local-scheduler"], cwd=small.root, check=True, capture_output=True
    )
    said = trace(small, "mine", "2026-11-01", "moved").stdout
    assert "2 valid rows of sales are behind it: all of 2026-11-01. The SQL reads these, but it cannot be told" in said
    assert "1 valid row of inventory is behind it: all of 2026-11-01." in said
    rows = list(csv.DictReader(io.StringIO(trace(small, "mine", "2026-11-01", "moved", "--csv", "-").stdout)))
    assert [(row["domain"], row["sale_id"], row["movement_id"]) for row in rows] == [
        ("sales", "s1", ""), ("sales", "s2", ""), ("inventory", "", "m1"),
    ]  # fmt: skip
    (cell,) = record(small, "sales", "s1")["gold"]
    assert cell["grain"] == {"date": "2026-11-01"}
    assert cell["note"] == "perhaps: its SQL does not tell which of its rows read this record"


def doctor(path: Path, replaced: str, *, sealed: bool) -> None:
    """Change values of a Parquet file, and, if `sealed`, its checksum too, as only lakejobs does."""
    (entry,) = [
        value.decode()
        for key, value in duckdb.sql(f"select key, value from parquet_kv_metadata('{path}')").fetchall()
        if key == b"lakejobs"
    ]
    if sealed:
        entry = re.sub('"checksum": "[0-9a-f]{64}"', f'"checksum": "{footer.NO_CHECKSUM}"', entry)
    metadata = f"kv_metadata {{lakejobs: '{entry.replace(chr(39), chr(39) * 2)}'}}"
    new = path.with_suffix(".new")
    duckdb.sql(f"copy (select * replace ({replaced}) from '{path}') to '{new}' (format parquet, {metadata})")
    if sealed:
        footer.seal(str(new))
    new.rename(path)


def test_a_doctored_gold_file_is_told_with_both_values(small):
    doctor(small.snapshots("daily_sales_summary")[-1], "total_revenue + 1 as total_revenue", sealed=True)
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 1
    assert "NOT PROVEN" in done.stdout
    assert "total_revenue: the snapshot has 21.0, computed again it is 20.0" in done.stdout
    assert "something else changed the snapshot or silver" in done.stdout
    found = traced(small, "daily_sales_summary", "2026-11-01", code=1)
    assert [(one["column"], one["stored"], one["computed"]) for one in found["differences"]] == [
        ("total_revenue", 21.0, 20.0)
    ]


def test_a_gold_file_whose_checksum_is_wrong_is_said_to_be_damaged(small):
    doctor(small.snapshots("daily_sales_summary")[-1], "total_revenue + 1 as total_revenue", sealed=False)
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 1
    assert "the snapshot has 21.0, computed again it is 20.0" in done.stdout
    assert "DAMAGED: datalake/gold/daily_sales_summary/" in done.stdout


@pytest.mark.parametrize("sealed", [True, False])
def test_a_doctored_silver_file_is_told(small, sealed):
    doctor(small.partition("2026-11-01"), "total_amount + 1 as total_amount", sealed=sealed)
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 1
    assert "total_revenue: the snapshot has 20.0, computed again it is 22.0" in done.stdout
    assert ("DAMAGED: datalake/silver/sales/" in done.stdout) != sealed
    assert trace(small, "daily_sales_summary", "2026-10-31").returncode == 0, "the other day is as it was"
    if sealed:
        assert record(small, "sales", "s1", code=1)["differs"] == {"total_amount": {"silver": 11.0, "record": 10.0}}
    else:
        found = record(small, "sales", "s1")
        assert (found["fate"], found["why"]) == (
            "pending",
            "silver for 2026-11-01 is damaged; the next run rebuilds it",
        )


def test_a_row_that_something_else_removed_from_silver_is_lost(small):
    path = small.partition("2026-11-01")
    doctor(path, "nullif(sale_id, 's1') as sale_id", sealed=True)
    found = record(small, "sales", "s1", code=1)
    assert found["fate"] == "lost"
    assert "something else changed silver" in found["why"]


def test_a_cell_whose_silver_is_gone_is_told(small):
    small.partition("2026-11-01").unlink()
    found = traced(small, "daily_sales_summary", "2026-11-01", code=1)
    assert {one["computed"] for one in found["differences"]} == {"no such row"}
    assert found["changes"] == [
        "silver of sales changed since the snapshot was made: 2026-11-01",
        "silver of sales is not up to date with bronze: 2026-11-01",
    ]
    assert "0 valid rows of sales are behind it.\n" in trace(small, "daily_sales_summary", "2026-11-01").stdout


def test_a_file_that_is_no_parquet_is_told(small):
    small.partition("2026-11-01").write_bytes(b"nothing")
    assert record(small, "sales", "s1")["why"] == "silver for 2026-11-01 is damaged; the next run rebuilds it"
    assert record(small, "sales", "s3")["fate"] == "valid"
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 2
    assert str(small.partition("2026-11-01").relative_to(small.root)) in done.stderr
    small.snapshots("daily_sales_summary")[-1].write_bytes(b"nothing")
    notes = {cell["table"]: cell["note"] for cell in record(small, "sales", "s3")["gold"]}
    assert notes["daily_sales_summary"].startswith("cannot be told: ")
    assert notes["category_sales_summary"] == ""
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 2
    assert "datalake/gold/daily_sales_summary/" in done.stderr


def test_a_cell_of_a_snapshot_that_is_older_than_silver_says_so(small):
    small.deliver("sales", f"sales_20261101_{LATE}.csv", sale("s4"))
    assert small.run(SilverAll())
    found = traced(small, "daily_sales_summary", "2026-11-01", code=1)
    assert found["changes"] == ["silver of sales changed since the snapshot was made: 2026-11-01"]
    assert {one["column"]: (one["stored"], one["computed"]) for one in found["differences"]}["order_count"] == (2, 3)
    assert traced(small, "daily_sales_summary", "2026-10-31")["changes"] == []
    (cell, *_) = record(small, "sales", "s4")["gold"]
    assert not cell["is_in"]
    assert "the snapshot is older than silver" in cell["note"]


def test_what_is_not_in_silver_or_bronze_yet_is_said_to_be_so(small):
    small.deliver("sales", f"sales_20261101_{LATE}.csv", sale("s4"))
    found = traced(small, "sales", "s4", code=1)
    assert found["notes"] == [
        f"not looked at, because not in bronze yet (or changed since): 1 staged file, sales_20261101_{LATE}.csv"
    ]
    (small.bronze("2026-11-01") / "by_hand.csv").write_text(f"{HEADER}\n{sale('s5')}\n")
    found = record(small, "sales", "s5")
    assert (found["fate"], found["line"], found["record"]) == ("pending", 2, 1)
    assert "was not built from this file as it is now; the next run does that" in found["why"]
    assert record(small, "sales", "s1")["fate"] == "valid"
    cell = traced(small, "daily_sales_summary", "2026-11-01")
    assert cell["is_proven"]
    assert (cell["changes"], cell["unread"]) == ([], ["files of sales that land on 2026-11-01"])


def test_a_bronze_file_that_changed_under_silver_is_told(small):
    (path,) = small.bronze("2026-11-01").glob("*.csv")
    path.write_text(f"{HEADER}\n{sale('s0')}\n{sale('s1')}\n")
    found = record(small, "sales", "s1")
    assert (found["fate"], found["record"]) == ("pending", 2)
    path.unlink()
    (small.root / f"local_output/sales/{path.name}").unlink()
    found = traced(small, "sales", "s1", code=1)
    assert found["records"] == []
    assert "s1" not in found["close"]
    assert "bronze does not hold that record now" in found["notes"][0]


def test_a_record_whose_winner_was_deleted_from_bronze_is_superseded_until_the_next_run(small):
    later = small.deliver("sales", f"sales_20261101_{LATE}.csv", sale("s1", category="Toys"))
    assert small.run(SilverAll())
    later.unlink()
    (small.bronze("2026-11-01") / later.name).unlink()
    found = record(small, "sales", "s1")
    assert (found["fate"], found["superseded_by"]["record"]) == ("superseded", 1)
    assert found["why"] == "bronze does not hold that one any more, so the next run takes this one"
    assert small.run(SilverAll())
    assert record(small, "sales", "s1")["fate"] == "valid"


def test_a_lake_without_gold_or_without_caches_is_traced_all_the_same(small):
    for cache in ("bronze/**/_manifest.json", "_facts_*"):
        for path in small.root.glob(f"datalake/{cache}"):
            path.unlink()
        assert record(small, "sales", "s1")["fate"] == "valid"
    for path in small.root.glob("datalake/gold/*/*.parquet"):
        path.unlink()
    assert {cell["note"] for cell in record(small, "sales", "s1")["gold"]} == {"it has no snapshot yet"}
    done = trace(small, "daily_sales_summary", "2026-11-01")
    assert done.returncode == 2
    assert "has no snapshot yet; run luigi --module lakejobs GoldAll" in done.stderr
