"""The commands that explain a lake: what they say is what the next run does, and they change nothing."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import objectstores
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import DOMAINS, HEADERS, PROJECT, LakeUnderTest, known_tables, read_footer, sale, set_tables

import lakejobs
from lakejobs.commands import main
from lakejobs.engine import duckdb as engine
from lakejobs.freshness import made_by, restatements
from lakejobs.storage import footer
from lakejobs.storage.objects import ObjectStore
from lakejobs.tables import tables

Change = Callable[[LakeUnderTest, Callable[..., None], pytest.MonkeyPatch], None]


def ask(*words: str) -> tuple[int, str]:
    """Run a command in this process; returns its exit code and what it printed."""
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def ask_json(*words: str) -> dict[str, Any]:
    """The answer of a command in JSON."""
    done = CliRunner().invoke(main, [*words, "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def event(id: str, time: str, kind: str = "login") -> str:
    return f"{id},{time},C1,S1,{kind},P1,/,mobile"


def movement(id: str, time: str, quantity: int = 5, kind: str = "inbound") -> str:
    return f"{id},{time},P1,Lamp,W1,{kind},{quantity},2.50,Q1"


@pytest.fixture
def made(lake: LakeUnderTest) -> LakeUnderTest:
    """An up-to-date lake of three days."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", total="11.00"), sale("s3", quantity=""))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s4", "2026-11-02T09:00:00", quantity=5, total="25.00"))
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s5", "2026-11-03T09:00:00"), sale("s6"))
    lake.deliver("customer_events", "events_20261101_120000.csv", event("e1", "2026-11-01T10:00:00"))
    lake.deliver("inventory", "inventory_20261102_120000.csv", movement("m1", "2026-11-02T10:00:00"))
    assert lake.run()
    return lake


def fingerprint(root: Path) -> dict[str, str]:
    """The content and dates of every file of a lake and its staging."""
    return {
        str(path.relative_to(root)): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for directory in ("datalake", "local_output")
        for path in sorted((root / directory).glob("**/*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------ the changes


def edit_suite(change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    def apply(lake: LakeUnderTest, *_: object) -> None:
        path = lake.root / "expectations/sales.json"
        suite = json.loads(path.read_text())
        change(suite["expectations"])
        path.write_text(json.dumps(suite))

    return apply


BETWEEN = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "quantity", "max_value": 4},
    "meta": {"code": "TOO_MANY"},
}


def new_file(lake: LakeUnderTest, *_: object) -> None:
    lake.deliver(
        "sales", "sales_20261103_130000.csv", sale("s7", "2026-11-03T11:00:00"), sale("s8", "2026-11-02T11:00:00")
    )


def corrected(lake: LakeUnderTest, *_: object) -> None:
    lake.deliver("sales", "sales_20261104_120000.csv", sale("s1", quantity=3, total="15.00"))


def redelivered(lake: LakeUnderTest, *_: object) -> None:
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=7, total="35.00"))


def deleted(lake: LakeUnderTest, *_: object) -> None:
    for path in (lake.bronze("2026-11-03"), lake.root / "local_output/sales"):
        (path / "sales_20261103_120000.csv").unlink()


def edited(lake: LakeUnderTest, *_: object) -> None:
    path = lake.bronze("2026-11-02") / "sales_20261102_120000.csv"
    path.write_text(path.read_text().replace("25.00", "30.00").replace(",5,", ",6,"))


def rejected(lake: LakeUnderTest, *_: object) -> None:
    lake.deliver("sales", "sales_20261103_140000.csv", "1,2", header="a,b")


def other_sql(lake: LakeUnderTest, _: object, monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_tables()
    known["daily_sales_summary"] = known["daily_sales_summary"].replace("count(*)", "1 + count(*)")
    set_tables(monkeypatch, known)


def new_table(lake: LakeUnderTest, _: object, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "-- grain: date\n-- source: sales\nselect cast(timestamp as date) as date, count(*) as n from sales group by 1"
    )
    set_tables(monkeypatch, {**known_tables(), "sales_by_day": text})


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def lose_caches(lake: LakeUnderTest, *_: object) -> None:
    (lake.bronze("2026-11-01") / "_manifest.json").unlink()
    (lake.root / "datalake/_facts_sales.json").unlink()


def another_engine(lake: LakeUnderTest, _: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakejobs.engine import local

    monkeypatch.setattr(local, "name_and_version", lambda: f"{engine.name_and_version()}+1")


CHANGES: dict[str, tuple[Change, str, tuple[str, ...]]] = {
    # By name: the change, what to ask about, and what the answer has to name.
    "nothing": (lambda *_: None, "sales", ()),
    "new file": (new_file, "sales 2026-11-02", ("sales_20261103_130000.csv is new (1 record)",)),
    "correction": (corrected, "daily_sales_summary 2026-11-01", ("sales_20261104_120000.csv is new (1 record)",)),
    "redelivery": (redelivered, "sales 2026-11-01", ("sales_20261101_120000_delivered_", ".csv is new (1 record)")),
    "file deleted": (deleted, "sales 2026-11-03", ("sales_20261103_120000.csv is gone (1 record)",)),
    "file edited in bronze": (edited, "sales 2026-11-02", ("sales_20261102_120000.csv changed after it landed",)),
    "file rejected": (rejected, "bronze/sales/2026-11-03", ("sales_20261103_140000.csv is new in staging",)),
    "new rule": (
        edit_suite(lambda rules: rules.append(BETWEEN)),
        "sales 2026-11-02",
        ("rule TOO_MANY is new", '+ { "type": "expect_column_values_to_be_between"', '"max_value": 4'),
    ),
    "rule removed": (edit_suite(lambda rules: rules.pop(4)), "sales 2026-11-01", ("rule NULL:quantity was removed",)),
    "rule edited": (
        edit_suite(lambda rules: rules[4].update(severity="warning")),
        "sales 2026-11-01",
        ("rule NULL:quantity changed", '- "severity": "critical"', '+ "severity": "warning"'),
    ),
    "warning edited": (
        edit_suite(lambda rules: rules[-1]["kwargs"].update(max_value=2)),
        "sales 2026-11-01",
        ("rule WRONG_TOTAL changed", '+ "max_value": 2'),
    ),
    "rules in another order": (
        edit_suite(lambda rules: rules.insert(0, rules.pop(1))),
        "sales 2026-11-01",
        ("the order of the rules changed",),
    ),
    "earliest date": (
        lambda lake, set_lake, _: set_lake(earliest_date="2026-11-02"),
        "sales 2026-11-01",
        ("[lake] earliest_date changed", "- 1970-01-01", "+ 2026-11-02"),
    ),
    "timestamp formats": (
        lambda lake, set_lake, _: set_lake(timestamp_formats={"sales": ["%d.%m.%Y"]}),
        "sales 2026-11-01",
        ("[lake] timestamp_formats changed", '+ "%d.%m.%Y"'),
    ),
    "SQL": (
        other_sql,
        "daily_sales_summary",
        ("its SQL in sql/gold/daily_sales_summary.sql changed", "+ 1 + count(*)"),
    ),
    "new table": (new_table, "sales_by_day", ("sales_by_day has no snapshot",)),
    "silver deleted": (
        lambda lake, *_: lake.partition("2026-11-02").unlink(),
        "sales 2026-11-02",
        ("it has no file", "sales_20261102_120000.csv has records of it (1 record)"),
    ),
    "silver damaged": (
        lambda lake, *_: damage(lake.partition("2026-11-02")),
        "sales 2026-11-02",
        ("its file is damaged",),
    ),
    "gold deleted": (
        lambda lake, *_: lake.snapshots("daily_sales_summary")[0].unlink(),
        "daily_sales_summary",
        ("daily_sales_summary has no snapshot",),
    ),
    "gold damaged": (
        lambda lake, *_: damage(lake.snapshots("daily_sales_summary")[0]),
        "daily_sales_summary",
        ("daily_sales_summary has no intact snapshot",),
    ),
    "source of a gold table deleted": (
        lambda lake, *_: lake.snapshots("inventory_movement_summary")[0].unlink(),
        "inventory_movement_summary",
        ("inventory_movement_summary has no snapshot",),
    ),
    "caches lost": (lose_caches, "bronze/sales/2026-11-01", ("the manifest is missing or damaged",)),
    "version of silver": (
        lambda lake, _, monkeypatch: be_version(monkeypatch, "SILVER_VERSION", 99),
        "sales 2026-11-01",
        (f"built by an earlier version of lakejobs (version {made_by.SILVER_VERSION}, now 99)",),
    ),
    "version of gold": (
        lambda lake, _, monkeypatch: be_version(monkeypatch, "GOLD_VERSION", 99),
        "daily_sales_summary",
        (f"built by an earlier version of lakejobs (version {made_by.GOLD_VERSION}, now 99)",),
    ),
    "engine": (
        another_engine,
        "daily_sales_summary",
        (f"computed by {engine.name_and_version()}, now {engine.name_and_version()}+1",),
    ),
}  # fmt: skip


def be_version(monkeypatch: pytest.MonkeyPatch, name: str, version: int) -> None:
    for module in [module for key, module in sys.modules.items() if key.startswith("lakejobs.")]:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, version)


# ------------------------------------------------------------------------------------------------ plan equals apply


def gold(lake: LakeUnderTest) -> dict[str, pd.DataFrame]:
    """The newest intact snapshot of each table, by its grain."""
    found = {}
    for name, table in tables().items():
        for path in reversed(lake.snapshots(name)):
            if read_footer(path) is None:
                continue
            rows = duckdb.read_parquet(str(path)).df().drop(columns="generated_at")
            rows["date"] = rows["date"].astype(str) if "date" in rows else ""
            found[name] = rows.set_index(list(table.grain)) if table.grain else rows
            break
    return found


def cells(before: pd.DataFrame | None, after: pd.DataFrame) -> tuple[set[Any], set[Any], set[Any]]:
    """Keys that are new and gone, and `(key, column)` of the cells that differ."""
    key = lambda one: one if isinstance(one, tuple) else (one,)  # noqa: E731
    old = {} if before is None else {key(at): row for at, row in before.iterrows()}
    new = {key(at): row for at, row in after.iterrows()}
    changed = {
        (at, column)
        for at in old.keys() & new.keys()
        for column in after.columns
        if column != "date" and column in old[at] and repr(old[at][column]) != repr(new[at][column])
    }
    return new.keys() - old.keys(), old.keys() - new.keys(), changed


def verdicts(lake: LakeUnderTest) -> dict[tuple[str, str, int], bool]:
    found = {}
    for domain in ("sales", "customer_events", "inventory"):
        rows = lake.silver(domain) if list((lake.root / "datalake/silver" / domain).glob("**/*.parquet")) else None
        for row in rows.itertuples() if rows is not None else ():
            found[domain, row.source_file, row.source_record] = bool(row.is_valid)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_the_plan_is_what_the_next_run_does(name, made, set_lake, monkeypatch):
    change, target, named = CHANGES[name]
    change(made, set_lake, monkeypatch)
    before, judged = gold(made), verdicts(made) if name != "silver damaged" else {}
    snapshots = {table: made.snapshots(table)[-1:] for table in tables()}
    seen = fingerprint(made.root)
    planned = ask_json("plan", "--effects")
    code, answer = ask("why", *target.split())
    assert fingerprint(made.root) == seen, "asking changed the lake"
    assert all(words in answer for words in named), answer
    assert code == bool(named), answer
    assert "inputs changed" not in answer
    assert planned["problems"] == planned["effects"]["problems"] == {}

    assert made.run()
    steps = {(step["layer"], step["name"]): step for step in planned["steps"]}
    for layer, family in (("bronze", "Bronze"), ("silver", "Silver")):
        ran = {(task.domain, day) for task in made.ran if task.task_family == family for day in task.date.split(",")}
        assert ran == {(at, day) for (where, at), step in steps.items() if where == layer for day in step["dates"]}
    published = {table for table in tables() if made.snapshots(table)[-1:] != snapshots[table]}
    assert published == {at for where, at in steps if where == "gold"}
    for step in steps.values():
        assert step["causes"], step

    now = gold(made)
    for table, rows in now.items():
        new, gone, changed = cells(before.get(table), rows)
        effect = planned["effects"]["gold"].get(table, {"added": [], "removed": [], "changed": []})
        found = [{tuple(key) for key in effect[what]} for what in ("added", "removed")]
        assert found == [new, gone], table
        assert {(tuple(cell["key"]), cell["column"]) for cell in effect["changed"]} == changed, table
        for cell in effect["changed"]:
            at = tuple(cell["key"]) if len(cell["key"]) > 1 else cell["key"][0]
            assert float(rows.loc[at, cell["column"]]) == cell["new"]
            assert float(before[table].loc[at, cell["column"]]) == cell["old"]
    if name == "silver damaged":
        return
    after = verdicts(made)
    flips = planned["effects"]["silver"].values()
    assert sum(flip["invalid"] for flip in flips) == sum(
        judged[row] and not after[row] for row in judged.keys() & after
    )
    assert sum(flip["valid"] for flip in flips) == sum(not judged[row] and after[row] for row in judged.keys() & after)
    assert ask("plan") == (0, "Nothing is due: the next GoldAll has nothing to do.\n")
    assert ask("why", *target.split())[0] == (2 if name == "file deleted" else 0), "a day without records has no answer"


def test_a_rule_that_flips_rows_is_told_by_code_with_an_example(made):
    edit_suite(lambda rules: [rules.pop(4), rules.append(BETWEEN)])(made)
    code, said = ask("plan", "--effects")
    assert code == 0
    assert "silver sales: 1 row now invalid, 1 row now valid" in said
    day = "bronze/sales/year=2026/month=11/day="
    assert f"now TOO_MANY: 1 row, such as {day}02/sales_20261102_120000.csv, record 1" in said
    assert f"no longer NULL:quantity: 1 row, such as {day}01/sales_20261101_120000.csv, record 3" in said


def test_rows_that_stay_invalid_by_other_rules_are_told(made):
    edit_suite(lambda rules: rules.append({**BETWEEN, "kwargs": {"column": "unit_price", "max_value": 1}}))(made)
    said = ask("plan", "--effects")[1]
    assert "silver sales: 5 rows now invalid, 1 row invalid by other rules" in said
    assert "now TOO_MANY: 6 rows" in said


def test_a_partition_that_would_be_withheld_is_told(made):
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 1}, "meta": {"code": "MANY"}}
    edit_suite(lambda rules: rules.append(count))(made)
    code, said = ask("plan", "--effects")
    assert code == 2
    assert "sales: withheld, because critical rules fail for the whole partition: 2026-11-01: MANY" in said
    assert "daily_sales_summary: waits for sales" in said
    assert not made.run()


def test_a_plan_names_what_would_fail(made):
    (made.root / "expectations/sales.json").write_text("{")
    code, said = ask("plan")
    assert code == 2
    assert "sales: expectations/sales.json is not JSON: line 1" in said
    assert "daily_sales_summary: waits for sales" in said
    assert ask("status")[0] == 2


def test_a_plan_of_the_first_run_needs_no_lake(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    code, said = ask("plan", "--effects")
    assert code == 0
    assert "There is no lake at datalake yet." in said
    assert "gold daily_sales_summary: 1 row new" in said
    assert not (lake.root / "datalake").exists()


# ------------------------------------------------------------------------------------------------ why


@pytest.mark.parametrize(
    "target",
    [
        "sales/2026-11-01",
        "silver/sales/2026-11-01",
        "datalake/silver/sales/year=2026/month=11/day=01",
        "datalake/silver/sales/year=2026/month=11/day=01/sales.parquet",
        "sales 2026-11-01",
    ],
)
def test_a_partition_has_many_names(made, target):
    code, said = ask("why", *target.split())
    assert code == 0
    assert said.startswith(
        "silver sales 2026-11-01 is fresh: it was made from 4 records of 2 files, 8 rules, the domain and the settings"
    ), said
    assert "sales_20261103_120000.csv (1 record)" in said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nosuch", "unknown domain or table nosuch; known: sales, customer_events, inventory, "),
        ("gold/sales", "unknown table sales; known: "),
        ("sales 2026-13-01", "expected a day as YYYY-MM-DD, got 2026-13-01"),
        ("sales 2020-01-01", "silver sales has no 2020-01-01: no record in bronze or staging belongs to it"),
        ("bronze/sales/2020-01-01", "bronze sales has no 2020-01-01, and nothing is staged for it"),
        ("daily_sales_summary 2020-01-01", "daily_sales_summary has no 2020-01-01"),
        ("inventory_net_position 2026-11-02", "inventory_net_position has no date in its grain"),
        ("/", "expected a table, a domain or a path in the lake"),
    ],
)
def test_a_question_without_an_answer_says_so(made, target, said):
    code, found = ask("why", *target.split())
    assert code == 2
    assert said in found


def test_a_table_is_due_because_of_what_its_source_reads(made):
    made.deliver("inventory", "inventory_20261102_130000.csv", movement("m2", "2026-11-02T11:00:00"))
    code, said = ask("why", "inventory_net_position")
    assert code == 1
    assert "gold inventory_net_position is due:\n    gold inventory_movement_summary" in said
    assert "gold inventory_movement_summary is due:\n    silver inventory: 1 day changed: 2026-11-02" in said
    assert "inventory_20261102_130000.csv is new (1 record)" in said
    assert ask("why", "daily_sales_summary")[0] == 0


def test_a_change_of_the_domain_is_named(lake):
    (lake.root / "domains").mkdir()
    module = lake.root / "domains/orders.py"
    module.write_text(
        "from lakejobs.model import Domain\nDOMAIN = Domain(name='orders', key='id', event_time='seen', "
        "columns={'id': 'text', 'seen': 'timestamp', 'n': 'integer'})\n"
    )
    (lake.root / "expectations/orders.json").write_text('{"name": "orders", "expectations": []}')
    lake.deliver("orders", "orders_20261101_120000.csv", "1,2026-11-01T10:00:00,2", header="id,seen,n")
    settings = {**os.environ, "LUIGI_CONFIG_PATH": "none", "PYTHONDONTWRITEBYTECODE": "1"}

    def command(*words: str) -> str:
        asked = [str(Path(sys.executable).with_name(words[0])), *words[1:], "--lake-domains=domains"]
        done = subprocess.run(asked, cwd=lake.root, env=settings, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    (lake.root / "gold").mkdir()
    command("luigi", "--module", "lakejobs", "SilverAll", "--lake-tables=gold", "--local-scheduler")
    assert "is fresh" in command("lakejobs", "why", "orders", "--lake-tables=gold")
    module.write_text(module.read_text().replace("'integer'", "'number'"))
    said = command("lakejobs", "why", "orders", "--lake-tables=gold")
    assert "in the domain, column n changed\n      - integer\n      + number\n" in said, said


# ------------------------------------------------------------------------------------------------ status


def test_the_status_says_what_is_fresh_due_or_wrong(made):
    code, said = ask("status")
    assert code == 0
    assert (
        "fresh  sales                       3 days to 2026-11-03; 6 rows, 83.3% valid; last delivery 2026-11-03" in said
    )
    path = made.deliver("sales", "sales_20261104_120000.csv", sale("s9", "2026-11-04T09:00:00"))
    os.utime(path, (1762000000, 1762000000))
    seen = fingerprint(made.root)
    code, said = ask("status")
    assert code == 1
    assert "due    sales " in said
    assert "1 landing date to land: 2026-11-04, since 2025-11-01 12:26 UTC" in said
    assert "due    daily_sales_summary " in said
    assert "fresh  device_usage_summary " in said
    rejected(made)
    assert ask("status")[0] == 1
    assert made.run()
    code, said = ask("status")
    assert code == 2
    assert "wrong  sales " in said
    assert "1 file rejected" in said
    assert "sales_20261103_140000.csv is rejected" in said
    found = ask_json("status")
    assert found["state"] == "wrong"
    assert found["domains"][0]["rejected"] == 1
    assert seen != fingerprint(made.root)


def test_asking_needs_no_permission_to_write_and_takes_luigis_settings(made, tmp_path):
    """As root, permissions do not count, so the lake is mounted read-only where that is allowed."""
    there = tmp_path / "there"
    there.mkdir()
    mounted = subprocess.run(["mount", "--bind", made.root / "datalake", there], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", there], check=True)
        new_file(made)
        for words in (["status"], ["plan", "--effects"], ["why", "sales"], ["verify"]):
            done = subprocess.run(
                [Path(sys.executable).with_name("lakejobs"), *words, "--lake-root", there],
                cwd=made.root, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.stderr == "", words
            assert done.returncode == (1 if words[0] in ("status", "why") else 0), (words, done.stdout)
    finally:
        subprocess.run(["umount", "--lazy", there], check=True)


def test_a_broken_table_has_no_difference(made, monkeypatch):
    set_tables(monkeypatch, known_tables() | {"daily_sales_summary": "select 1 as one"})
    code, said = ask("diff", "daily_sales_summary")
    assert code == 2 and "daily_sales_summary.sql" in said


# ------------------------------------------------------------------------------------------------ verify


def test_a_lake_that_is_as_it_should_be_verifies(made):
    seen = fingerprint(made.root)
    code, said = ask("verify")
    assert (code, said) == (
        0, "5 bronze files, 5 silver partitions and 7 gold tables verified: all of them as they should be\n",
    )  # fmt: skip
    assert fingerprint(made.root) == seen


def doctor(path: Path, query: str) -> None:
    """Replace the rows of one of the lake's Parquet files; footer and checksum are as if lakejobs had written it."""
    known = read_footer(path)
    assert known is not None
    known.pop("checksum")
    text = footer.footer_text(known).replace("'", "''")
    duckdb.sql(f"copy ({query.format(path=path)}) to '{path}.new' (format parquet, kv_metadata {{lakejobs: '{text}'}})")
    os.replace(f"{path}.new", path)
    footer.seal(str(path))


def test_doctored_rows_are_found_even_under_a_right_checksum(made):
    doctor(made.partition("2026-11-02"), "select * replace (6 as quantity) from read_parquet('{path}')")
    doctor(
        made.snapshots("daily_sales_summary")[0],
        "select * replace (total_revenue + 1 as total_revenue) from read_parquet('{path}') where date > '2026-11-01'",
    )
    assert made.run()
    assert made.ran == [], "nothing is due, so nothing else notices"
    code, said = ask("verify")
    assert code == 1
    assert "silver sales 2026-11-02 (as it is → as it should be): 1 cell changed" in said
    assert "sales_20261102_120000.csv, 1: quantity 6 → 5" in said
    assert "gold daily_sales_summary (as it is → as it should be): 1 row new, 2 cells changed" in said
    assert "2026-11-02: total_revenue 26.0 → 25.0" in said
    assert "new: 2026-11-01" in said
    assert "2 differences" in said
    assert "silver sales 2026-11-02" not in ask("verify", "--days", "1")[1]


def test_bronze_that_changed_with_its_size_and_dates_is_found(made):
    path = made.bronze("2026-11-02") / "sales_20261102_120000.csv"
    known = path.stat()
    path.write_text(path.read_text().replace("Lamp", "Lump"))
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    code, said = ask("verify")
    assert code == 1
    assert f"datalake/{path.relative_to(made.root / 'datalake')} has another content than when it landed" in said


def test_what_is_damaged_or_due_is_said(made):
    damage(made.partition("2026-11-02"))
    damage(made.snapshots("payment_method_summary")[0])
    new_file(made)
    code, said = ask("verify")
    assert code == 1
    assert "silver/sales/year=2026/month=11/day=02/sales.parquet is damaged" in said
    assert "payment_method_summary_" in said and ".parquet is damaged" in said
    assert "not verified: bronze sales is due: 2026-11-03" in said
    assert "not verified: gold payment_method_summary is due" in said


# ------------------------------------------------------------------------------------------------ diff


def test_two_snapshots_differ_by_cells_and_rows(made):
    first = made.snapshots("daily_sales_summary")[-1].name
    made.deliver("sales", "sales_20261104_120000.csv", sale("s1", quantity=3, total="15.00"))
    assert made.run()
    made.deliver("sales", "sales_20261104_130000.csv", sale("s9", "2026-11-04T09:00:00"))
    assert made.run()
    second, third = (path.name for path in made.snapshots("daily_sales_summary")[-2:])
    code, said = ask("diff", "daily_sales_summary")
    assert code == 1
    table = "datalake/gold/daily_sales_summary"
    assert said.splitlines() == [
        f"- {table}/{second}",
        f"+ {table}/{third}",
        "daily_sales_summary: 1 row new",
        "    new: 2026-11-04",
    ]
    stamp = first.removeprefix("daily_sales_summary_").removesuffix(".parquet")
    code, said = ask("diff", "daily_sales_summary", stamp, second)
    assert code == 1
    assert "    2026-11-01: total_revenue 30.0 → 35.0" in said.splitlines(), said
    assert "2026-11-04" not in said
    moment = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}"
    code, said = ask("diff", "daily_sales_summary", "--as-of", moment)
    assert code == 2, "the snapshot is of some microseconds later"
    assert "no snapshot of daily_sales_summary is kept from before" in said
    found = ask_json("diff", "daily_sales_summary", stamp)["difference"]
    assert found["added"] == [["2026-11-04"]]
    assert {(*cell["key"], cell["column"], cell["old"], cell["new"]) for cell in found["changed"]} >= {
        ("2026-11-01", "total_revenue", 30.0, 35.0)
    }
    assert ask("diff", "daily_sales_summary", third, third)[0] == 0
    assert "has no snapshot 1999; there are" in ask("diff", "daily_sales_summary", "1999")[1]


def test_two_lakes_differ_by_rows_of_silver_and_gold(made, tmp_path):
    shutil.copytree(made.root / "datalake", tmp_path / "copy")
    other = str(tmp_path / "copy")
    for target in ("daily_sales_summary", "silver/sales/2026-11-01"):
        code, said = ask("diff", target, "--with", other)
        assert (code, said.splitlines()[2:]) == (0, [f"{target}: no cell changes"])
    made.deliver("sales", "sales_20261104_120000.csv", sale("s1", quantity=3, total="15.00"), sale("", category="A"))
    assert made.run()
    code, said = ask("diff", "silver/sales/2026-11-01", "--with", other)
    assert code == 1
    assert said.splitlines()[2:] == [
        "silver/sales/2026-11-01: 1 row gone, 2 cells changed",
        "    s1: quantity 3 → 2",
        "    s1: total_amount 15.0 → 10.0",
        "    gone: NULL",
    ]
    assert "2026-11-01: total_revenue 35.0 → 30.0" in ask("diff", "daily_sales_summary", "--with", other)[1]
    code, said = ask("diff", "silver/sales/2026-11-01")
    assert code == 2
    assert "silver keeps no snapshots" in said


# ------------------------------------------------------------------------------------------------ completion


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lakejobs wh", ["why"]),
        ("lakejobs why daily", ["daily_sales_summary"]),
        ("lakejobs why in", ["inventory", "inventory_movement_summary", "inventory_net_position"]),
        ("lakejobs suggest cu", ["customer_events"]),
        ("lakejobs restatements cu", ["customer_activity_summary"]),
        ("lakejobs test pay", ["payment_method_summary"]),
    ],
)
def test_the_shell_completes_commands_domains_and_tables(lake, typed, offered):
    def complete() -> subprocess.CompletedProcess[str]:
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        return subprocess.run(
            [str(Path(sys.executable).with_name("lakejobs"))], cwd=lake.root, capture_output=True, text=True,
            env={**os.environ, "_LAKEJOBS_COMPLETE": "bash_complete", **words}, timeout=60, check=False,
        )  # fmt: skip

    assert [line.partition(",")[2] for line in complete().stdout.splitlines()] == offered
    if typed.count(" ") > 1:
        (lake.root / "luigi.cfg").write_text("[lake]\ndomains = nowhere\n")
        done = complete()
        assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ restatements


def restated(lake: LakeUnderTest, table: str = "daily_sales_summary") -> list[tuple[str, str, str | None, str | None]]:
    """What the log says, by a plain reader: key, column, old and new value of each cell, in order."""
    files = sorted((lake.root / f"datalake/quality/restatements/{table}").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [(json.loads(row["key"])["date"], row["column_name"], row["old"], row["new"]) for row in rows]


def test_a_late_row_restates_a_closed_day_cell_by_cell(made):
    before = gold(made)
    new_file(made)
    assert made.run()
    now = gold(made)
    for table in ("daily_sales_summary", "category_sales_summary", "payment_method_summary"):
        new, gone, changed = cells(before[table], now[table])
        assert (new, gone) == (set(), set())
        files = (made.root / f"datalake/quality/restatements/{table}").glob("*.parquet")
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert {(tuple(json.loads(row["key"]).values()), row["column_name"]) for row in rows} == changed
        for row in rows:
            key = tuple(json.loads(row["key"]).values())
            at = key if len(key) > 1 else key[0]
            assert float(row["old"]) == before[table].loc[at, row["column_name"]]
            assert float(row["new"]) == now[table].loc[at, row["column_name"]]
            assert row["cause"] == "bronze/sales/year=2026/month=11/day=03/sales_20261103_130000.csv is new"
            assert row["replaced"] == made.snapshots(table)[0].name
            assert row["snapshot"] == made.snapshots(table)[1].name
            assert str(row["date"]) == key[0]
    code, said = ask("restatements", "daily_sales_summary")
    assert code == 0
    assert "cells, because bronze/sales/year=2026/month=11/day=03/sales_20261103_130000" in said
    assert "    2026-11-02: order_count 1 → 2" in said.splitlines()
    assert ask_json("restatements")["daily_sales_summary"][0]["column_name"] == "avg_order_value"


def test_the_report_shows_what_was_restated(made):
    page = made.root / "datalake/quality/report.html"
    assert 'id="restatements"' not in page.read_text()
    new_file(made)
    assert made.run()
    shown = page.read_text().partition('id="restatements"')[2].partition("</section>")[0]
    assert "2026-11-02" in shown and "2026-11-03" in shown and "2026-11-01" not in shown
    assert "order_count 1 → 2" in shown
    assert "bronze/sales/year=2026/month=11/day=03/sales_20261103_130000.csv is new" in shown


def test_days_that_are_open_new_or_unchanged_restate_nothing(made, set_lake):
    set_lake(day_closes_after=24 * 365 * 100)
    new_file(made)
    assert made.run()
    set_lake(day_closes_after=0)
    made.deliver("sales", "sales_20261108_120000.csv", sale("s20", "2026-11-08T09:00:00"))
    made.deliver("sales", "sales_20261109_120000.csv", sale("s1"))  # again, and no cell changes
    assert made.run()
    assert not (made.root / "datalake/quality/restatements").exists()
    assert ask("restatements") == (0, "No cell of a day that was over has changed since it was published.\n")
    assert ask("restatements", "sales")[0] == 2


@pytest.mark.parametrize(
    ("hours", "now", "first_open"),
    [
        (6, "2026-11-02T05:59:59", "2026-11-01"),
        (6, "2026-11-02T06:00:00", "2026-11-02"),
        (0, "2026-11-02T00:00:00", "2026-11-02"),
        (30, "2026-11-03T05:00:00", "2026-11-01"),
    ],
)
def test_a_day_closes_some_hours_after_it_ends(lake, set_lake, hours, now, first_open):
    set_lake(day_closes_after=hours)
    assert restatements.closed_before(dt.datetime.fromisoformat(now)) == first_open


def test_every_change_since_the_last_snapshot_is_a_cause(made):
    """Silver is rebuilt twice before gold is."""
    edit_suite(lambda rules: rules.append(BETWEEN))(made)
    assert made.run(lakejobs.SilverAll())
    corrected(made)
    assert made.run(lakejobs.SilverAll())
    assert made.run()
    said = ask_json("restatements", "daily_sales_summary")["daily_sales_summary"]
    causes = {row["date"]: row["cause"] for row in said}
    new = "bronze/sales/year=2026/month=11/day=04/sales_20261104_120000.csv is new"
    assert causes == {"2026-11-01": f"rule TOO_MANY is new; {new}", "2026-11-02": "rule TOO_MANY is new"}


def test_other_sql_and_lost_days_restate(made, monkeypatch):
    other_sql(made, None, monkeypatch)
    deleted(made)
    for path in (made.bronze("2026-11-02"), made.root / "local_output/sales"):
        (path / "sales_20261102_120000.csv").unlink()
    assert made.run()
    found = ask_json("restatements", "daily_sales_summary")["daily_sales_summary"]
    sql = "its SQL in sql/gold/daily_sales_summary.sql changed"
    gone = "silver sales has no record of this day any more"
    assert ("2026-11-02", "order_count", "1", None) in {
        (row["date"], row["column_name"], row["old"], row["new"]) for row in found
    }
    assert {row["cause"] for row in found if row["date"] == "2026-11-02"} == {
        f"{sql}; {gone}; bronze/sales/year=2026/month=11/day=02/sales_20261102_120000.csv is gone"
    }
    assert any(row["cause"].startswith(f"{sql}; bronze/sales/") for row in found if row["date"] == "2026-11-01")


def unsettled(lake: LakeUnderTest) -> tuple[Path, list[tuple[str, str, str | None, str | None]]]:
    """A lake as if a run had died just after it published a snapshot; returns its log, as it should be."""
    new_file(lake)
    assert lake.run()
    directory = lake.root / "datalake/quality/restatements/daily_sales_summary"
    (log,) = directory.iterdir()
    before = restated(lake)
    log.rename(directory / f"_prepared-{log.stem}")
    return log, before


def test_what_was_prepared_by_a_run_that_died_is_logged_if_its_snapshot_is_there(made):
    log, before = unsettled(made)
    directory = log.parent
    # An earlier one died just before it published.
    (directory / "_prepared-daily_sales_summary_20260101_000000_000000").write_bytes(b"never published")
    assert restated(made) == []
    corrected(made)
    assert made.run()
    assert restated(made)[: len(before)] == before
    assert len(list(directory.iterdir())) == 2


def test_the_run_after_one_that_died_finishes_its_log_though_no_table_is_due(made):
    log, before = unsettled(made)
    (log.parent / "_tmp-1-1").write_bytes(b"half a log")
    (made.root / "datalake/quality/report.html").unlink()
    assert made.run()
    assert list(log.parent.iterdir()) == [log]
    assert restated(made) == before


def test_a_deleted_snapshot_loses_no_restatement(made):
    new_file(made)
    assert made.run()
    before = restated(made)
    made.snapshots("daily_sales_summary")[-1].unlink()
    made.deliver("sales", "sales_20261103_150000.csv", sale("s9", "2026-11-02T12:00:00"))
    assert made.run()
    again = restated(made)
    assert again[: len(before)] == before
    assert ("2026-11-02", "order_count", "2", "3") in again[len(before) :]


def test_a_restated_day_whose_silver_was_lost_names_the_files_that_came_since(made):
    made.partition("2026-11-01").unlink()
    made.deliver("sales", "sales_20261104_120000.csv", sale("s1", quantity=3, total="15.00"))
    assert made.run()
    directory = made.root / "datalake/quality/restatements/daily_sales_summary"
    (log,) = directory.iterdir()
    assert {row["cause"] for row in pq.read_table(log).to_pylist()} == {
        "silver sales was built anew, because its file was missing or damaged; "
        "bronze/sales/year=2026/month=11/day=04/sales_20261104_120000.csv came or changed since"
    }


def test_a_table_without_days_is_not_restated(made):
    made.deliver("inventory", "inventory_20261105_120000.csv", movement("m2", "2026-11-02T11:00:00"))
    assert made.run()
    logged = {path.name for path in (made.root / "datalake/quality/restatements").glob("[!_]*")}
    assert logged == {"inventory_movement_summary"}
    assert ("2026-11-02", "total_quantity", "5", "10") in restated(made, "inventory_movement_summary")


# ------------------------------------------------------------------------------------------------ suggestions


def test_what_is_suggested_holds_as_it_says_when_great_expectations_judges(lake):
    """Every suggestion becomes a critical rule; the plan then finds as many failures as the suggestion had said."""
    slice_ = lzma.decompress((PROJECT / "tests/data/online_retail_two_weeks.csv.xz").read_bytes())
    lake.deliver_bytes("sales", "online_retail.csv", slice_)
    batches = [lakejobs.Staging(domain, dt.datetime(2026, 11, day), 300) for day in (1, 2) for domain in DOMAINS]
    assert lake.run(*batches) and lake.run()
    predicted = {}
    for domain in DOMAINS:
        found = ask_json("suggest", domain)["expectations"]
        assert found, domain
        path = lake.root / f"expectations/{domain}.json"
        suite = json.loads(path.read_text())
        for rule in found:
            share, rows, flips = re.search(
                r"held on ([0-9.]+)% of ([0-9,]+) rows; would flip ([0-9,]+)", rule["notes"]
            ).groups()  # type: ignore[union-attr]
            predicted[domain, rule["meta"]["code"]] = (
                float(share),
                int(rows.replace(",", "")),
                int(flips.replace(",", "")),
            )
        suite["expectations"] += [{**rule, "severity": "critical"} for rule in found]
        path.write_text(json.dumps(suite))
    planned = ask_json("plan", "--effects")
    assert planned["problems"] == planned["effects"]["problems"] == {}
    gained = {
        (domain, code): count
        for domain, flips in planned["effects"]["silver"].items()
        for code, count, _ in flips["gained"]
    }
    assert gained.keys() <= predicted.keys()
    assert gained, "some rule fails for some row, or nothing is compared"
    for rule, (share, rows, flips) in predicted.items():
        failed = gained.get(rule, 0)
        assert share == math.floor((1 - failed / rows) * 10_000) / 100, rule
        assert flips <= failed, rule
    invalid = sum(flips["invalid"] for flips in planned["effects"]["silver"].values())
    assert max(flips for *_, flips in predicted.values()) <= invalid <= sum(flips for *_, flips in predicted.values())
    for domain in DOMAINS:
        assert ask_json("suggest", domain)["expectations"] == [], "what the suite has is not suggested"


def test_suggestions_are_written_once_and_need_rows(made):
    code, said = ask("suggest", "sales")
    assert (code, said) == (2, "sales has 6 rows in silver; suggestions need 20\n")
    assert ask("suggest", "nosuch")[0] == 2
    made.deliver("sales", "sales_20261105_120000.csv", *(sale(f"n{n}", f"2026-11-05T10:{n:02}:00") for n in range(30)))
    assert made.run()
    assert ask("suggest", "sales", "--out", "new.json")[0] == 0
    written = (made.root / "new.json").read_text()
    assert json.loads(written) == ask_json("suggest", "sales")
    code, said = ask("suggest", "sales", "--out", "new.json")
    assert (code, said) == (2, "new.json exists; name another file, because suites are not overwritten\n")
    assert (made.root / "new.json").read_text() == written


# ------------------------------------------------------------------------------------------------ the run ledger


def logged(lake: LakeUnderTest) -> pd.DataFrame:
    """The whole ledger, by a plain reader."""
    pattern = f"{lake.root}/datalake/quality/runs/*/*.parquet"
    return duckdb.sql(f"select * from read_parquet('{pattern}', hive_partitioning = false) order by started_at").df()


def test_the_ledger_has_what_each_run_did_and_why(made):
    first = logged(made)
    assert first["run"].nunique() == 1
    assert list(first.groupby("task").size().items()) == [("Bronze", 3), ("Gold", 7), ("Silver", 3)]
    assert set(first["outcome"]) == {"done"}
    new_file(made)
    assert made.run()
    entries = logged(made)[len(first) :].to_dict("records")
    assert {entry["run"] for entry in entries} != set(first["run"])
    assert len({entry["run"] for entry in entries}) == 1
    found = {(entry["task"], entry["name"]): entry for entry in entries}
    bronze, silver = found["Bronze", "sales"], found["Silver", "sales"]
    assert (bronze["dates"], bronze["rows"], bronze["reason"]) == ("2026-11-03", 4, "1 file landed, 4 records in all")
    assert (silver["dates"], silver["rows"]) == ("2026-11-02,2026-11-03", 4)
    assert silver["reason"] == "bronze/sales/year=2026/month=11/day=03/sales_20261103_130000.csv is new"
    assert found["Gold", "daily_sales_summary"]["rows"] == 3
    assert found["Gold", "daily_sales_summary"]["reason"] == "silver sales: 2 days changed: 2026-11-02, 2026-11-03"
    assert all(0 <= entry["seconds"] < 600 for entry in entries)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    assert all(now - dt.timedelta(hours=1) < entry["started_at"] <= now for entry in entries)
    assert made.run()
    assert len(logged(made)) == len(first) + len(entries), "a run with nothing to do leaves nothing"
    said = ask("status")[1]
    assert "; done: 1 Bronze, 1 Silver, 3 Gold\n" in said
    assert len(ask_json("status")["last_run"]) == 5


def test_the_logs_are_readable_in_sql_and_in_the_file_of_views(made):
    empty = ask_json("sql", "select count(*) as n from quality.restatements")
    assert empty == [{"n": 0}]
    new_file(made)
    assert made.run()
    query = "select task, count(*) as n from quality.runs group by all order by all"
    assert ask_json("sql", query) == [{"task": "Bronze", "n": 4}, {"task": "Gold", "n": 10}, {"task": "Silver", "n": 4}]
    other = "select distinct table_name from quality.restatements order by all"
    tables_restated = ["category_sales_summary", "daily_sales_summary", "payment_method_summary"]
    assert ask_json("sql", other) == [{"table_name": name} for name in tables_restated]
    with duckdb.connect(str(made.root / "datalake/lake.duckdb"), read_only=True) as views:
        assert views.sql(query).fetchall() == [("Bronze", 4), ("Gold", 10), ("Silver", 4)]
        assert [name for (name,) in views.sql(other).fetchall()] == tables_restated


def test_a_failure_is_in_the_ledger_with_its_reason(made):
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 1}, "meta": {"code": "MANY"}}
    edit_suite(lambda rules: rules.append(count))(made)
    assert not made.run()
    last = logged(made).iloc[-1]
    assert (last["task"], last["name"], last["outcome"]) == ("Silver", "sales", "failed")
    assert "withheld 2026-11-01" in last["reason"]
    said = ask("status")[1]
    assert "wrong  sales " in said
    assert "the last run failed: sales: withheld 2026-11-01" in said


def test_a_broken_suite_is_in_the_ledger_too(made):
    (made.root / "expectations/sales.json").write_text("{")
    new_file(made)
    assert not made.run()
    last = logged(made).iloc[-1]
    assert (last["task"], last["name"], last["outcome"]) == ("Silver", "sales", "failed")
    assert "expectations/sales.json is not JSON" in last["reason"]


def test_worker_processes_leave_their_own_part_of_the_ledger(made):
    first = logged(made)
    for domain, line in (
        ("sales", sale("s7", "2026-11-05T10:00:00")),
        ("inventory", movement("m7", "2026-11-05T10:00:00")),
    ):
        made.deliver(domain, f"{domain}_20261105_120000.csv", line)
    assert made.run(workers=2)
    entries = logged(made)[len(first) :]
    assert entries["run"].nunique() == 1
    assert sorted(zip(entries["task"], entries["name"], strict=True)) == [
        ("Bronze", "inventory"), ("Bronze", "sales"), ("Gold", "category_sales_summary"),
        ("Gold", "daily_sales_summary"), ("Gold", "inventory_movement_summary"), ("Gold", "inventory_net_position"),
        ("Gold", "payment_method_summary"), ("Silver", "inventory"), ("Silver", "sales"),
    ]  # fmt: skip
    assert len(ask_json("status")["last_run"]) == 9


# ------------------------------------------------------------------------------------------------ what strangers tried


def test_a_rule_that_was_changed_and_changed_back_is_no_cause(made):
    edit_suite(lambda rules: rules.append(BETWEEN))(made)
    assert made.run()
    edit_suite(lambda rules: rules.pop())(made)
    assert made.run()
    new_file(made)
    assert made.run()
    last = ask_json("restatements", "daily_sales_summary")["daily_sales_summary"][-1]
    assert last["cause"] == "bronze/sales/year=2026/month=11/day=03/sales_20261103_130000.csv is new"


def test_a_damaged_snapshot_loses_no_restatement_and_is_not_compared(made):
    new_file(made)
    assert made.run()
    before = restated(made)
    damage(made.snapshots("daily_sales_summary")[-1])
    code, said = ask("diff", "daily_sales_summary")
    assert code == 2 and "is damaged; name another one" in said
    said = ask("plan")[1]
    assert "is damaged" in said and "silver sales:" not in said
    assert made.run()
    assert restated(made) == before, "what had been logged stays, and nothing else changed"
    damage(made.snapshots("daily_sales_summary")[-1])
    corrected(made)
    assert made.run()
    again = restated(made)
    assert again[: len(before)] == before
    columns = ("avg_order_value", "net_revenue", "total_revenue")
    assert {row[:2] for row in again[len(before) :]} == {("2026-11-01", column) for column in columns}


def test_what_a_damaged_snapshot_had_changed_and_the_next_one_takes_back_is_logged(made):
    new_file(made)
    assert made.run()
    there = restated(made)
    damage(made.snapshots("daily_sales_summary")[-1])
    for path in (made.bronze("2026-11-03"), made.root / "local_output/sales"):
        (path / "sales_20261103_130000.csv").unlink()
    assert made.run()
    back = restated(made)[len(there) :]
    assert sorted(back) == sorted((day, column, new, old) for day, column, old, new in there)


def test_damaged_and_missing_partitions_are_not_news(made):
    damage(made.partition("2026-11-02"))
    planned = ask_json("plan", "--effects")
    (step,) = [step for step in planned["steps"] if step["layer"] == "silver"]
    assert [cause["said"] for cause in step["causes"]] == ["its file is damaged"]
    assert planned["effects"]["silver"]["sales"]["added"] == 0
    assert made.run()
    made.partition("2026-11-02").unlink()
    code, said = ask("verify")
    assert code == 1
    assert "silver/sales/year=2026/month=11/day=02/sales.parquet is missing" in said


def test_a_trace_over_a_damaged_partition_tells_it_apart_from_a_change(made):
    damage(made.partition("2026-11-03"))
    said = ask("trace", "inventory_movement_summary")[1] + ask("trace", "daily_sales_summary", "date=2026-11-02")[1]
    assert "changed since the snapshot was made" not in said
    path = made.partition("2026-11-02")
    path.write_bytes(path.read_bytes()[:500])
    code, said = ask("trace", "daily_sales_summary", "date=2026-11-02")
    assert code == 2
    assert "silver/sales/year=2026/month=11/day=02/sales.parquet" in said
    assert "cannot be read; the next run" in said


def test_why_a_day_went_is_logged(made, set_lake):
    made.deliver("sales", "sales_20261104_120000.csv", sale("old", "2026-10-15T10:00:00"))
    assert made.run()
    set_lake(earliest_date="2026-11-01")
    planned = ask_json("plan")
    said = {cause["said"] for step in planned["steps"] for cause in step["causes"]}
    assert not any("is gone" in one or "is new" in one for one in said), said
    assert made.run()
    found = ask_json("restatements", "daily_sales_summary")["daily_sales_summary"]
    (cause,) = {row["cause"] for row in found if row["date"] == "2026-10-15" and row["new"] is None}
    assert "silver sales has no record of this day any more; [lake] earliest_date changed" in cause


def test_a_broken_suite_is_the_cause_and_stops_no_hashing(made):
    (made.root / "expectations/sales.json").write_text("{")
    code, said = ask("why", "sales")
    assert code == 1
    assert "expectations/sales.json is not JSON" in said
    assert "was removed" not in said
    said = ask("verify")[1]
    assert said.startswith("not verified: silver sales is due"), said
    assert "5 bronze files, 2 silver partitions and 7 gold tables verified" in said
    assert "; the rest was not verified" in said


def test_a_run_that_refuses_rejected_files_is_planned_to_fail(made, set_lake):
    rejected(made)
    set_lake(rejected="fail")
    code, said = ask("plan")
    assert code == 2
    assert "sales, at the end: " in said and "sales_20261103_140000.csv is rejected" in said
    assert not made.run()
    assert ask("plan")[0] == 2


def test_a_file_that_nobody_reads_is_wrong(made):
    (made.root / "local_output/sales/x.csv.zip").write_bytes(b"x")
    code, said = ask("status")
    assert code == 2
    assert "local_output/sales/x.csv.zip (not a .csv file): nobody reads it" in said


@pytest.mark.parametrize("option", ["--lake-earliest-date=foo", "--lake-chunk-rows=0"])
def test_a_setting_that_cannot_be_read_is_no_answer(made, option):
    done = subprocess.run(
        [Path(sys.executable).with_name("lakejobs"), "why", "sales", option],
        cwd=made.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_questions_need_no_cluster(made):
    new_file(made)
    for words in (["plan", "--effects"], ["verify"], ["why", "daily_sales_summary"]):
        asked = [*words, "--lake-engine=spark", "--lake-spark-master=spark://127.0.0.1:9"]
        assert ask(*asked) == ask(*words), words


def test_ctrl_c_ends_a_query_that_the_engine_would_go_on_with(made, tmp_path):
    many = "range(1000000000)"
    query = f"select count(*) from {many} a, {many} b, {many} c where a.range + b.range < c.range"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # However this test was started, the command must not ignore the signal.
    start = "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = str(Path(sys.executable).with_name("lakejobs"))
    process = subprocess.Popen(
        [sys.executable, "-c", start, command, "sql", query], cwd=made.root, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    while not list(scratch.glob("lakejobs-*/_tmp-spill*")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None and process.stderr.read() == "Interrupted.\n"
    assert process.wait(timeout=30) == 130
    assert not list(scratch.glob("lakejobs-*"))


def test_a_missing_partition_makes_no_table_due_and_hides_no_bronze(made):
    made.partition("2026-11-02").unlink()
    said = ask("status")[1]
    assert "fresh  daily_sales_summary" in said
    said = ask("verify")[1]
    assert "gold daily_sales_summary needs silver that is damaged or missing" in said
    assert "5 bronze files, 4 silver partitions" in said
    assert ask("why", "daily_sales_summary")[0] == 0


def test_a_rule_about_the_table_needs_no_column(made):
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 1}, "meta": {"code": "MANY"}}
    edit_suite(lambda rules: rules.append(count))(made)
    lines = [f"{key},2026-11-05T10:00:00,C,P,1,5,5" for key in "xy"]
    header = "sale_id,timestamp,customer_id,product_id,quantity,unit_price,total_amount"
    made.deliver("sales", "sales_20261105_120000.csv", *lines, header=header)
    assert not made.run()
    said = ask("status")[1]
    assert "MANY needs" not in said
    assert "the last run failed: sales: withheld" in said


def test_ctrl_c_between_two_tasks_keeps_the_ledger(made):
    new_file(made)
    start = "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", "GoldAll", "--local-scheduler"]
    first = len(logged(made))
    process = subprocess.Popen(
        [sys.executable, "-c", start, *command],
        cwd=made.root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "Gold(table=" in line:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    entries = logged(made)[first:]
    assert {"Bronze", "Silver", "Gold"} <= set(entries["task"])
    assert set(entries["outcome"]) <= {"done", "interrupted"}


# ------------------------------------------------------------------------------------------------ in an object store


def test_a_lake_in_an_object_store_answers_and_gets_no_write(lake, set_lake, monkeypatch):
    for name, value in objectstores.moto().environment.items():
        monkeypatch.setenv(name, value)
    root = objectstores.new_root()
    set_lake(root=root)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", total="11.00"))
    assert lake.run()
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1", quantity=3, total="15.00"))
    store = ObjectStore(root, lease=60)

    def objects() -> dict[str, str]:
        found = {}
        for depth in range(7):
            for directory, listing in store.listings("", depth, lambda name: True).items():
                found |= {f"{directory}/{file.name}": file.version for file in listing.files()}
        return found

    seen = objects()
    assert ask("status")[0] == 1
    code, said = ask("plan", "--effects")
    assert code == 0
    assert "2026-11-01: total_revenue 20.0 → 25.0" in said
    code, said = ask("why", f"{root}/silver/sales/year=2026/month=11/day=01")
    assert code == 1
    assert "bronze/sales/year=2026/month=11/day=02/sales_20261102_120000.csv is new (1 record)" in said
    assert objects() == seen
    assert lake.run()
    assert "2026-11-01: total_revenue 20.0 → 25.0" in ask("restatements", "daily_sales_summary")[1]
    assert "2026-11-01: total_revenue 20.0 → 25.0" in ask("diff", "daily_sales_summary")[1]
    assert (
        ask("verify")[1]
        == "2 bronze files, 1 silver partition and 7 gold tables verified: all of them as they should be\n"
    )


# ------------------------------------------------------------------------------------------------ invalid


def test_invalid_rows_are_given_as_delivered(lake, monkeypatch):
    (lake.root / "expectations/sales.deliveries.toml").write_text('[[source]]\nfiles = "a*"\ndelimiter = ";"\n')
    line = "s{};2026-11-0{}T10:00:00;{};P1;Lamp;  Home;2;5.00;10.00;cash;completed"
    lake.deliver_bytes(
        "sales",
        "a_20261102_120000.csv.gz",
        gzip.compress("\n".join([HEADERS["sales"].replace(",", ";"), line.format(1, 1, ""), "s2;broken",
                                 line.format(3, 2, ""), line.format(4, 2, "C1"), ""]).encode()),
    )  # fmt: skip
    lake.deliver("sales", "b_20261102_130000.csv", sale("s5", quantity="two"))
    assert lake.run()
    code, said = ask("invalid", "sales", "--out", "fix.csv")
    assert code == 1
    assert said.splitlines() == [
        "           2  NULL:customer_id, 2026-11-01 … 2026-11-02",
        "           1  TYPE:quantity, 2026-11-01",
        "           1  NULL:quantity, 2026-11-01",
        "           1  MALFORMED_LINE, 2026-11-02",
        "4 invalid rows of sales in fix.csv",
    ]
    first, fifth, broken, third = csv.DictReader((lake.root / "fix.csv").open())
    bronze = "bronze/sales/year=2026/month=11/day=02"
    assert (first["sale_id"], first["category"], first["_errors"]) == ("s1", "  Home", "NULL:customer_id")
    assert (fifth["quantity"], fifth["_errors"]) == ("two", "TYPE:quantity; NULL:quantity")
    assert (fifth["_file"], fifth["_record"]) == (f"{bronze}/b_20261102_130000.csv", "1")
    assert (broken["_line"], broken["sale_id"], broken["_record"]) == ("s2;broken", "", "2")
    assert third["_file"] == f"{bronze}/a_20261102_120000.csv.gz"
    assert ask("invalid", "sales", "--since", "2026-11-02", "--code", "NULL:customer_id")[1].endswith(
        "1 invalid row of sales\n"
    )
    assert "fix.csv exists" in ask("invalid", "sales", "--out", "fix.csv")[1]
    assert ask("invalid", "inventory") == (0, "0 invalid rows of inventory\n")
    # Corrected, and without what cannot be corrected, the file is a delivery.
    lines = (lake.root / "fix.csv").read_text().splitlines()
    fixed = [
        line.replace("T10:00:00,,", "T10:00:00,C7,").replace(",two,", ",2,") for line in lines if "broken" not in line
    ]
    lake.deliver("sales", "fix.csv", *fixed[1:], header=fixed[0])
    assert lake.run()
    rows = lake.silver()
    assert {*rows[rows["is_valid"]]["sale_id"]} == {"s1", "s3", "s4", "s5"}
    assert ask("invalid", "sales")[1].endswith("1 invalid row of sales\n")
