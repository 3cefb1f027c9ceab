"""The lake in SQL: `lakejobs sql`, and the file of views for other tools."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import duckdb
import objectstores
import pytest
from conftest import HEADERS, PROJECT, as_set, new_lake, sale, set_tables

LAKEJOBS = Path(sys.executable).with_name("lakejobs")
LUIGI = Path(sys.executable).with_name("luigi")


@pytest.fixture
def sql(lake, command_line):
    """Runs `lakejobs sql …` in the lake's directory."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(LAKEJOBS), "sql", *arguments],
            **{"cwd": lake.root, "env": command_line, "capture_output": True, "text": True, "timeout": 60, **options},
        )

    return run


@pytest.fixture
def answer(sql):
    """The rows that a query gives, as dictionaries."""

    def rows(query: str) -> list[dict[str, object]]:
        done = sql("--json", query)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return rows


def views(lake) -> duckdb.DuckDBPyConnection:
    """The file of views, as another tool opens it."""
    return duckdb.connect(str(lake.root / "datalake/lake.duckdb"), read_only=True)


def content(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory: its bytes and when it was written."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------ queries


def deliver_oddities(lake):
    """Files of every kind: plain, with quoted line ends, with malformed lines, with fewer columns and with others."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), "s2,broken", sale("s3"), sale("s3"))
    quoted = sale("q1").replace("Lamp", '"La\nmp"')
    lake.deliver("sales", "sales_20261101_120100.csv", quoted, "q2,too,few", sale("q3", quantity="two"))
    lake.deliver(
        "sales", "sales_20261102_120000.csv", "x1,2026-11-02T10:00:00, C9 ,odd",
        header="sale_id,timestamp,customer_id,shelf",
    )  # fmt: skip
    lake.deliver("sales", "sales_20261102_120200.csv", "nothing", header="of,the,domain")
    lake.deliver("inventory", "inventory_20261101_120000.csv", "m1,2026-11-01T10:00:00,P1,Lamp,W1,inbound,3,1.50")


def test_bronze_is_what_silver_was_made_from(lake, answer):
    deliver_oddities(lake)
    assert lake.run()
    rows = answer("select * from bronze.sales order by source_file, source_record")
    assert [(row["sale_id"], row["source_record"], row["malformed"]) for row in rows] == [
        ("s1", 1, None), (None, 2, "s2,broken"), ("s3", 3, None), ("s3", 4, None),
        ("q1", 1, None), (None, 2, "q2,too,few"), ("q3", 3, None),
        ("x1", 1, None),
    ]  # fmt: skip
    assert (rows[4]["product_name"], rows[6]["quantity"]) == ("La\nmp", "two"), "as delivered"
    odd = rows[7]
    assert (odd["customer_id"], odd["category"], odd["extra"]) == (" C9 ", None, '"shelf": "odd"')
    assert odd["landing_date"] == "2026-11-02"
    assert {type(value) for row in rows for name, value in row.items() if name != "source_record"} <= {str, type(None)}
    # Every row of silver is one record of bronze; the only other record was superseded.
    (joined,) = answer(
        """
        select count(*) as silver, count(b.source_file) as found, (select count(*) from bronze.sales) as bronze,
            count(*) filter (b.malformed is not null and s.validation_errors = 'MALFORMED_LINE') as malformed
        from silver.sales as s left join bronze.sales as b using (source_file, source_record)
        """
    )
    assert joined == {"silver": 7, "found": 7, "bronze": 8, "malformed": 2}


def test_two_domains_in_one_query_keep_their_records_apart(lake, answer):
    deliver_oddities(lake)
    assert lake.run()
    (row,) = answer(
        "select (select list(source_record order by source_file, source_record) from bronze.sales) as sales, "
        "(select list(source_record) from bronze.inventory) as inventory, "
        "(select list(source_file) from bronze.inventory) = (select list(source_file) from silver.inventory) as same"
    )
    assert row == {"sales": [1, 2, 3, 4, 1, 2, 3, 1], "inventory": [1], "same": True}


def test_bronze_without_manifests_and_before_any_run(lake, answer):
    deliver_oddities(lake)
    assert lake.run()
    query = "select * from bronze.sales order by source_file, source_record"
    before = answer(query)
    for manifest in lake.root.glob("datalake/bronze/**/_manifest.json"):
        manifest.unlink()
    shutil.copy(
        next(lake.root.glob("datalake/bronze/inventory/**/*.csv")),
        lake.bronze("2026-11-01", "inventory") / "by_hand.csv",
    )
    was = content(lake.root)
    assert answer(query) == before
    assert answer("select count(*) as records from bronze.inventory") == [{"records": 2}]
    assert content(lake.root) == was


def test_silver_and_gold_are_what_the_files_say(lake, answer):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", total="NULL"), sale("s3", quantity=""))
    assert lake.run()
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s4", price="7.00", total="14.00"))
    assert lake.run()
    first, last = lake.snapshots("daily_sales_summary")
    assert answer("select sale_id, is_valid from silver.sales order by 1") == [
        {"sale_id": "s1", "is_valid": True}, {"sale_id": "s2", "is_valid": False},
        {"sale_id": "s3", "is_valid": False}, {"sale_id": "s4", "is_valid": True},
    ]  # fmt: skip
    assert answer("select list(sale_id order by sale_id) as ids from silver.sales_valid") == [{"ids": ["s1", "s4"]}]
    assert answer("select total_revenue from gold.daily_sales_summary") == [{"total_revenue": 24.0}]
    moments = [path.stem.removeprefix("daily_sales_summary_") for path in (first, last)]
    assert answer(
        "select strftime(snapshot, '%Y%m%d_%H%M%S_%f') as moment, total_revenue from gold.daily_sales_summary_history "
        "order by snapshot"
    ) == [{"moment": moments[0], "total_revenue": 10.0}, {"moment": moments[1], "total_revenue": 24.0}]
    # A damaged snapshot is none; a file of somebody else's neither.
    shutil.copy(first, first.with_name("daily_sales_summary_zzz.parquet"))
    last.write_bytes(last.read_bytes()[:-20])
    assert answer("select total_revenue from gold.daily_sales_summary") == [{"total_revenue": 10.0}]
    assert answer("select count(*) as snapshots from gold.daily_sales_summary_history") == [{"snapshots": 1}]


def test_every_table_is_there_in_an_empty_lake_with_the_columns_of_a_full_one(lake, answer):
    (lake.root / "datalake").mkdir()
    query = "select table_schema, table_name, column_name, data_type from information_schema.columns order by all"
    empty = answer(query)
    assert {(row["table_schema"], row["table_name"]) for row in empty} >= {
        ("bronze", "sales"), ("silver", "inventory"), ("silver", "inventory_valid"), ("gold", "inventory_net_position"),
        ("gold", "inventory_net_position_history"),
    }  # fmt: skip
    for table in ("bronze.sales", "silver.sales", "silver.sales_valid", "gold.daily_sales_summary",
                  "gold.inventory_net_position_history"):  # fmt: skip
        assert answer(f"select * from {table}") == []
    deliver_oddities(lake)
    assert lake.run()
    assert answer(query) == empty
    # What is read has the columns that the catalogue names.
    for table in ("bronze.inventory", "silver.sales", "gold.daily_sales_summary"):
        described = {row["column_name"]: row["column_type"] for row in answer(f"describe select * from {table}")}
        assert described == {
            row["column_name"]: row["data_type"]
            for row in empty
            if f"{row['table_schema']}.{row['table_name']}" == table
        }


def test_a_snapshot_from_before_a_column_was_added(lake, answer, monkeypatch, tmp_path):
    tables = tmp_path / "gold"
    tables.mkdir()
    header = "-- grain: date\n-- source: sales\n-- One row per day."
    (tables / "totals.sql").write_text(f"{header}\n"
        "select cast(timestamp as date) as date, count(*) as n, 1 as snapshot from sales group by all")  # fmt: skip
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(tmp_path / "luigi.cfg"))
    options = ["--lake-tables", str(tables)]

    def run() -> None:
        done = subprocess.run(
            [str(LUIGI), "--module", "lakejobs", "GoldAll", "--local-scheduler", *options], cwd=lake.root,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def ask(query: str) -> list[dict[str, object]]:
        done = subprocess.run([str(LAKEJOBS), "sql", "--json", query, *options], cwd=lake.root,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run()
    (tables / "totals.sql").write_text(f"{header}\n"
        "select cast(timestamp as date) as date, count(*) + 0.5 as n, 'x' as added from sales group by 1")  # fmt: skip
    run()
    rows = ask("select n, added, snapshot_1 from gold.totals_history order by snapshot")
    assert [tuple(row.values()) for row in rows] == [
        (1.0, None, 1), (1.5, "x", None)
    ]  # fmt: skip
    (row,) = ask("select * exclude (generated_at) from gold.totals")
    assert row == {"date": "2026-11-01", "n": 1.5, "added": "x"}
    with views(lake) as connection:
        found = connection.sql("select * exclude (generated_at) from gold.totals")
        assert (found.columns, found.fetchall()[0][1:]) == (["date", "n", "added"], (1.5, "x"))
        assert connection.sql("select n, added from gold.totals_history order by snapshot").fetchall() == [
            (1.0, None), (1.5, "x")
        ]  # fmt: skip


def test_a_table_reads_well_and_tells_null_from_text(sql, lake):
    (lake.root / "datalake").mkdir()
    done = sql(
        "select * from (values ('a', 1, 1.50::decimal(9, 2), null), ('NULL', 1234, null, E'two\\nlines'), "
        "('', -5, 0.25, ' blank'), ('Ü''', 0, 10, '''quoted''')) as t (text, whole, amount, \"a note\")"
    )
    assert done.stdout == textwrap.dedent("""\
        text    whole  amount  a note
        ------  -----  ------  ----------
        a           1    1.50  NULL
        'NULL'   1234    NULL  two\\nlines
        ''         -5    0.25  ' blank'
        Ü'          0   10.00  ''quoted''
        (4 rows)
    """)
    assert sql("select timestamp with time zone '2026-11-01 12:00:00+02' as t").stdout.splitlines()[2] == (
        "2026-11-01 10:00:00+00"
    )


def test_json_and_csv_say_the_same(sql, lake):
    (lake.root / "datalake").mkdir()
    query = (
        "select * from (values ('a,\"b', 1, 1.50::decimal(9, 2), date '2026-11-01', true, 'nan'::double, [1, 2]), "
        "('', null, null, null, false, 2.5, null)) as t (text, whole, amount, day, flag, number, list)"
    )
    done = sql("--json", query)
    assert json.loads(done.stdout, parse_constant=pytest.fail) == [
        {"text": 'a,"b', "whole": 1, "amount": 1.5, "day": "2026-11-01", "flag": True, "number": None, "list": [1, 2]},
        {"text": "", "whole": None, "amount": None, "day": None, "flag": False, "number": 2.5, "list": None},
    ]
    done = sql("--csv", query)
    assert done.stdout.splitlines()[2] == '"",,,,false,2.5,', "an empty text is not NULL"
    assert [*csv.reader(io.StringIO(done.stdout))][:2] == [
        ["text", "whole", "amount", "day", "flag", "number", "list"],
        ['a,"b', "1", "1.50", "2026-11-01", "true", "nan", "[1, 2]"],
    ]
    assert json.loads(sql("--json", "select 1 where false").stdout) == []
    assert json.loads(sql("--json", "select 1 as a, 2 as a").stdout) == [{"a": 1, "a_1": 2}]


def test_a_long_result_says_what_it_leaves_out(sql, lake):
    (lake.root / "datalake").mkdir()
    lines = sql("select * from range(12345) order by range desc").stdout.splitlines()
    assert (len(lines), lines[2].strip(), lines[-1]) == (
        103, "12344", "(100 rows of 12,345; --rows 0, --csv and --json print all)"
    )  # fmt: skip
    lines = sql("--rows", "0", "select * from range(12345)").stdout.splitlines()
    assert (len(lines), lines[-1]) == (12345 + 3, "(12345 rows)".replace("12345", "12,345"))
    assert len(sql("--csv", "select * from range(12345)").stdout.splitlines()) == 12346
    assert sql("select * from range(100)").stdout.splitlines()[-1] == "(100 rows)"


def test_a_wide_row_goes_down_a_terminal(lake, command_line):
    (lake.root / "datalake").mkdir()
    import pty

    ours, theirs = pty.openpty()
    columns = ", ".join(f"'{'x' * 20}' as column_{number}" for number in range(10))
    subprocess.run(
        [str(LAKEJOBS), "sql", f"select {columns}"], cwd=lake.root, env={**command_line, "COLUMNS": "80"},
        stdout=theirs, timeout=60, check=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with pytest.raises(OSError):
        while True:
            said += os.read(ours, 1 << 16)
    lines = said.decode().split("\r\n")
    assert lines[:2] == ["-- row 1", f"column_0  {'x' * 20}"]
    assert max(map(len, lines)) <= 80


def test_a_query_from_standard_input_and_none_at_all(sql, lake):
    (lake.root / "datalake").mkdir()
    assert sql("-", input="-- a comment\nselect 'ü;' as a; -- the end\n").stdout.splitlines()[2] == "ü;"
    for arguments in ([], [""], [" "]):
        done = sql(*arguments)
        assert done.returncode == 2 and 'lakejobs sql "show all tables"' in done.stderr
    for query in ("-- nothing", "select 1; select 2"):
        done = sql("-", input=query)
        assert (done.returncode, done.stdout) == (2, "") and "expected one query, got " in done.stderr


WRITES = [
    "create table gold.mine as select 1 as a",
    "create view silver.sales as select 1 as a",
    "insert into gold.daily_sales_summary select * from gold.daily_sales_summary",
    "delete from silver.sales",
    "drop view gold.daily_sales_summary",
    "copy gold.daily_sales_summary to 'datalake/gold/copied.parquet'",
    "copy (from (pivot silver.sales on status using count(*))) to 'datalake/copied.csv'",
    "with x as (copy (select 1) to 'datalake/copied.csv') select * from x",
    "select * from query('with x as (copy (select 1) to ''datalake/copied.csv'') select * from x')",
    "explain analyze copy (select 1) to 'datalake/copied.csv'",
    "select 1) to 'datalake/copied.csv'; --",
    "select 1) as x; copy (select 1) to 'datalake/copied.csv'; select * from (select 1",
    "attach 'datalake/other.duckdb' as other",
    "export database 'datalake/exported'",
    "set autoinstall_known_extensions = true",
    "install httpfs",
]


def test_nothing_is_written(sql, lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    before = content(lake.root)
    for query in WRITES:
        done = sql(query)
        assert (done.returncode, done.stdout) == (2, ""), query
        assert done.stderr.strip() and "Traceback" not in done.stderr
        assert content(lake.root) == before, query


def test_what_writes_is_refused_in_words(sql, lake):
    (lake.root / "datalake").mkdir()
    done = sql("create table gold.mine as select 1")
    assert done.stderr.startswith("the lake can only be read: expected a query (select, ") and "CREATE" in done.stderr


def test_no_network_and_no_extension(sql, lake):
    (lake.root / "datalake").mkdir()
    for query in ("select * from 'https://example.com/a.csv'", "select st_point(1, 2)"):
        started = time.monotonic()
        done = sql(query)
        assert done.returncode == 2
        assert "nor is anything read from the network" in done.stderr and "INSTALL" not in done.stderr
        assert time.monotonic() - started < 20


def test_mistakes_are_explained(sql, lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()

    def said(query: str) -> str:
        done = sql(query)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
        return done.stderr

    assert said("select * from gold.daily_sale_summary").splitlines()[0] == (
        "there is no table gold.daily_sale_summary; did you mean gold.daily_sales_summary? There are:"
    )
    unqualified = said("select * from sales")
    assert "did you mean bronze.sales or silver.sales?" in unqualified
    assert "gold.    category_sales_summary, customer_activity_summary" in unqualified
    assert "there is no table query" in said("select * from query"), "a variable of the program is no table"
    assert "LINE 2: from silver.sales wher" in said("select 1\nfrom silver.sales wher true, x")
    unknown = said("select\n  missing\nfrom silver.sales")
    assert 'column "missing" not found' in unknown and "LINE 2:   missing" in unknown
    assert "exclude each other" in sql("--csv", "--json", "select 1").stderr


def test_starting_up_imports_no_more_than_needed(lake, command_line):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    query = "select * from gold.daily_sales_summary"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(LAKEJOBS), "sql", query], cwd=lake.root, env=command_line,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "2026-11-01" in done.stdout
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "duckdb" in modules
    assert not modules & {"great_expectations", "pandas", "pyarrow", "numpy", "faker", "sqlglot"}


def test_quoted_names_and_joins_between_schemas(lake, answer):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", quantity=-1))
    assert lake.run()
    (row,) = answer(
        """
        with daily as (from "gold"."daily_sales_summary")
        select order_count, count(*) as rows, count(*) filter (is_valid) as valid
        from daily d join SILVER . Sales s on cast(s.timestamp as date) = d.date
        join memory.bronze.sales b on b.sale_id = s.sale_id group by all
        """
    )
    assert row["rows"] == 2 and row["valid"] == row["order_count"]
    (row,) = answer("from (pivot (select status from silver.sales) on status using count(*))")
    assert row == {"completed": 2}
    assert answer("pivot (select status from silver.sales) on status using count(*)") == [{"completed": 2}]


def test_a_lake_in_an_object_store(tmp_path, monkeypatch):
    for name, value in objectstores.moto().environment.items():
        monkeypatch.setenv(name, value)
    url = objectstores.new_root()
    options = ["--lake-root", f"{url}/lake"]
    staging = tmp_path / "local_output/sales"
    staging.mkdir(parents=True)
    shutil.copytree(PROJECT / "expectations", tmp_path / "expectations")

    def call(*command: str) -> str:
        done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for number in (1, 2):
        line = sale(f"s{number}")
        (staging / f"sales_2026110{number}_120000.csv").write_text(f"{HEADERS['sales']}\n{line}\nbroken\n")
        call(str(LUIGI), "--module", "lakejobs", "GoldAll", "--local-scheduler")
    before = objectstores.versions(f"{url}/lake")
    assert not [key for key in before if "duckdb" in key or "_views" in key]

    def ask(query: str) -> list[dict[str, object]]:
        return json.loads(call(str(LAKEJOBS), "sql", "--json", query))

    assert ask("select sum(order_count) as n from gold.daily_sales_summary") == [{"n": 2}]
    assert ask("select count(distinct snapshot) as n, min(snapshot) > '2026-01-01' as is_time "
               "from gold.daily_sales_summary_history") == [{"n": 2, "is_time": True}]  # fmt: skip
    assert ask("select count(*) as n, count(malformed) as m from bronze.sales join silver.sales using "
               "(source_file, source_record)") == [{"n": 4, "m": 2}]  # fmt: skip
    assert len(ask("show all tables")) == 25
    assert objectstores.versions(f"{url}/lake") == before


# ------------------------------------------------------------------------------------------------ the file of views

TOOL = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read_only")
print("open", flush=True)
for query in sys.stdin:
    print(connection.sql(query).fetchall(), flush=True)
"""


class Tool:
    """Another program that has the file of views open."""

    def __init__(self, lake, mode: str) -> None:
        path = str(lake.root / "datalake/lake.duckdb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", TOOL, path, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "open\n"

    def ask(self, query: str) -> str:
        self.process.stdin.write(f"{query}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def relations(connection: duckdb.DuckDBPyConnection) -> set[str]:
    found = connection.sql("select table_schema || '.' || table_name from information_schema.tables").fetchall()
    return {name for (name,) in found}


def test_the_views_show_the_lake(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", total=""), sale("s3", quantity=""))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s4", time="2026-11-02T10:00:00"))
    assert lake.run()
    with views(lake) as connection:
        assert relations(connection) >= {
            "silver.sales", "silver.sales_valid", "silver.inventory", "gold.daily_sales_summary",
            "gold.daily_sales_summary_history", "gold.inventory_net_position",
        }  # fmt: skip
        assert not [name for name in relations(connection) if name.startswith("bronze")]
        assert connection.sql("select sale_id from silver.sales order by 1").fetchall() == [
            ("s1",), ("s2",), ("s3",), ("s4",)
        ]  # fmt: skip
        assert len(connection.sql("from silver.sales_valid")) == 3
        assert connection.sql("from silver.inventory").fetchall() == []
        newest = str(lake.snapshots("daily_sales_summary")[-1])
        assert as_set(connection.sql("from gold.daily_sales_summary").df()) == as_set(duckdb.read_parquet(newest).df())
    # Under another name, as a tool does that attaches it.
    with duckdb.connect() as connection:
        connection.execute(f"attach '{lake.root}/datalake/lake.duckdb' as other (read_only)")
        assert len(connection.sql("from other.silver.sales_valid")) == 3


def test_a_run_with_nothing_to_do_leaves_the_views_alone(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    before = content(lake.root / "datalake")
    assert lake.run() and lake.ran == []
    assert content(lake.root / "datalake") == before


def test_earlier_versions_of_the_engine_can_open_the_views(lake):
    assert lake.run()
    head = (lake.root / "datalake/lake.duckdb").read_bytes()[:20]
    # After the checksum: a mark, and the version of the format. 64 is the one since 0.10, which 1.0 to 2.0 read.
    assert (head[8:12], int.from_bytes(head[12:20], "little")) == (b"DUCK", 64)


@pytest.mark.parametrize("mode", ["read_only", "read_write"])
def test_a_tool_that_has_it_open_sees_what_later_runs_publish(lake, mode):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    with Tool(lake, mode) as tool:
        for number in (2, 3):
            lake.deliver(
                "sales", f"sales_2026110{number}_120000.csv", sale(f"s{number}", f"2026-11-0{number}T10:00:00")
            )
            assert lake.run()
            assert tool.ask("select count(*) from silver.sales") == f"[({number},)]"
            assert tool.ask("select count(*), sum(order_count) from gold.daily_sales_summary") == (
                f"[({number}, {number})]"
            )
            assert tool.ask("select count(distinct snapshot) from gold.daily_sales_summary_history") == f"[({number},)]"
            if mode == "read_only":  # who may write keeps all others out
                with views(lake) as connection:
                    assert len(connection.sql("from silver.sales")) == number
        assert lake.run() and lake.ran == []


def test_old_snapshots_may_be_removed_while_it_is_open(lake, set_lake):
    set_lake(keep_snapshots=0)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    with Tool(lake, "read_only") as tool:
        assert tool.ask("select order_count from gold.daily_sales_summary") == "[(1,)]"
        lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
        assert lake.run() and len(lake.snapshots("daily_sales_summary")) == 1
        assert tool.ask("select order_count from gold.daily_sales_summary") == "[(2,)]"


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_lake_that_was_moved_or_copied_is_repaired(lake, move, tmp_path, monkeypatch):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    there = new_lake(tmp_path / "its [new] pl*ce, 'quoted' \"too\"")
    there.root.joinpath("local_output").rmdir()
    move(lake.root / "local_output", there.root / "local_output")
    move(lake.root / "datalake", there.root / "datalake")
    monkeypatch.chdir(there.root)
    assert there.run()
    if (lake.root / "datalake").exists():
        shutil.rmtree(lake.root / "datalake")
    with views(there) as connection:
        assert len(connection.sql("from silver.sales")) == 1
        assert len(connection.sql("from gold.daily_sales_summary")) == 1
    assert there.run() and there.ran == []


def remove(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def change(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("drop view silver.sales; create table mine as select 1")


def change_and_die(path: Path) -> None:
    """Change it without bringing the change from the log into the file."""
    script = "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('drop view silver.sales'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert Path(f"{path}.wal").exists()


@pytest.mark.parametrize("how", [remove, cut_off, change, change_and_die])
def test_damaged_views_are_repaired(lake, how):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    how(lake.root / "datalake/lake.duckdb")
    assert lake.run()
    assert {task.task_family for task in lake.ran} == {"Views", "GoldAll"}
    with views(lake) as connection:
        assert len(connection.sql("from silver.sales")) == 1
        assert "main.mine" not in relations(connection)
    assert lake.run() and lake.ran == []


def test_a_broken_table_keeps_its_last_snapshot_and_new_ones_appear(lake, monkeypatch):
    daily = "-- grain: date\n-- source: sales\n-- One row.\nselect {} as date, count(*) as n from sales group by all"
    good = daily.format("cast(timestamp as date)")
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    set_tables(monkeypatch, {"one": good})
    assert lake.run()
    set_tables(monkeypatch, {"one": daily.format("cast(nothing as date)"), "two": good, "three": daily.format("a b c")})
    assert not lake.run()
    with views(lake) as connection:
        assert relations(connection) >= {"gold.one", "gold.one_history", "gold.two", "gold.two_history"}
        assert "gold.three" not in relations(connection)
        assert connection.sql("select n from gold.one").fetchall() == [(1,)]
        assert connection.sql("select n from gold.two").fetchall() == [(1,)]


def test_a_partition_from_before_a_column_was_added(lake):
    """As after a rule has withheld the new one."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s2", "2026-11-02T10:00:00"))
    assert lake.run()
    old = lake.partition("2026-11-01")
    duckdb.sql(f"copy (select * exclude (category), 1 as former from '{old}') to '{old}.new' (format parquet)")
    os.rename(f"{old}.new", old)
    with views(lake) as connection:
        rows = connection.sql("select sale_id, category, is_valid from silver.sales_valid order by 1")
        assert rows.fetchall() == [("s1", None, True), ("s2", "Home", True)]
        assert "former" not in connection.sql("from silver.sales").columns


def test_queries_and_views_hold_while_runs_publish(lake, set_lake, command_line):
    """Readers only ever see whole lakes: every sale of a day, or none of a later one."""
    set_lake(keep_snapshots=2)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        with views(lake) as connection:
            while not done.is_set():
                (found,) = connection.sql("select count(*), count(distinct sale_id) from silver.sales").fetchall()
                wrong.extend([found] if found[0] != found[1] else [])
                asked = subprocess.run(
                    [str(LAKEJOBS), "sql", "--json", "select count(*) as n from gold.daily_sales_summary"],
                    cwd=lake.root, env=command_line, capture_output=True, text=True,
                )  # fmt: skip
                if asked.returncode or json.loads(asked.stdout)[0]["n"] < 1:
                    wrong.append(asked.stderr)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(2, 8):
            lake.deliver(
                "sales", f"sales_2026110{number}_120000.csv", sale(f"s{number}", f"2026-11-0{number}T10:00:00")
            )
            assert lake.run()
    finally:
        done.set()
        reader.join()
    assert not wrong


def test_a_view_shows_a_whole_snapshot_at_the_moment_another_one_appears(lake):
    """It lists the snapshots twice, for the newest name and to read them; what appears in between must not be it."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    (first,) = lake.snapshots("daily_sales_summary")
    done = threading.Event()

    def publish() -> None:
        for number in range(300):
            temporary = first.with_name("_tmp-1-1")
            shutil.copy(first, temporary)
            temporary.rename(first.with_name(f"daily_sales_summary_20990101_000000_{number:06d}.parquet"))
            time.sleep(0.005)
        done.set()

    publisher = threading.Thread(target=publish)
    publisher.start()
    found = set()
    with views(lake) as connection:
        while not done.is_set():
            found |= {*connection.sql("select count(*) from gold.daily_sales_summary").fetchall()}
    publisher.join()
    assert found == {(1,)}
