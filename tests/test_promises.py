"""The lake's promises, one behaviour a test, on real files with real Luigi runs."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil

import duckdb
import luigi
import pyarrow.parquet as pq
import pytest
from conftest import LakeUnderTest, known_tables, read_json, sale, set_tables

from lakejobs import Bronze, Gold, GoldAll, Silver
from lakejobs.freshness.snapshots import Keep
from lakejobs.storage.layout import snapshot_name


def failures(lake: LakeUnderTest, domain: str = "sales") -> dict[str, str | None]:
    rows = lake.silver(domain)
    return {
        key: errors if isinstance(errors, str) else None
        for key, errors in zip(rows.iloc[:, 0], rows["validation_errors"], strict=True)
    }


# ------------------------------------------------------------------------------------------------ delivered again


def test_the_same_sale_in_two_files_counts_once(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2"))
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s1"), sale("s3"))
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s1", "s2", "s3"]
    assert lake.gold("daily_sales_summary").iloc[0]["order_count"] == 3


def test_the_same_sale_in_two_runs_counts_once(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s1"))
    assert lake.run()
    assert lake.gold("daily_sales_summary").iloc[0]["order_count"] == 1


def test_the_same_sale_in_two_days_deliveries_counts_once(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1"))
    assert lake.run()
    assert list(lake.silver()["partition"]) == [dt.date(2026, 11, 1)]
    assert lake.gold("daily_sales_summary")["order_count"].sum() == 1


def test_the_latest_timestamp_wins_then_the_later_file_then_the_later_line(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("time", "2026-11-01T11:00:00", 1, 1, 1),
        sale("file", quantity=1, total=5),
    )
    lake.deliver(
        "sales",
        "sales_20261101_130000.csv",
        sale("time", "2026-11-01T10:00:00", 9, 1, 9),
        sale("file", quantity=2, total=10),
    )
    lake.deliver(
        "sales", "sales_20261101_140000.csv", sale("line", quantity=3, total=15), sale("line", quantity=4, total=20)
    )
    assert lake.run()
    assert dict(zip(lake.silver()["sale_id"], lake.silver()["quantity"], strict=True)) == {
        "time": 1,
        "file": 2,
        "line": 4,
    }


def test_a_null_id_is_not_a_duplicate_of_another(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale(""), sale(""), sale("s1"))
    assert lake.run()
    assert len(lake.silver()) == 3
    assert list(lake.silver()["is_valid"]).count(False) == 2


def test_a_file_delivered_again_under_its_name_is_landed_beside_the_first(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=1, total=5))
    assert lake.run()
    for quantity in (2, 3, 4):
        lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=quantity, total=5 * quantity))
        assert lake.run()
        assert list(lake.silver()["quantity"]) == [quantity], "the last delivery counts"
    names = sorted(path.name for path in lake.bronze("2026-11-01").glob("*.csv"))
    assert len(names) == 4
    assert "sales_20261101_120000.csv" in names


def test_the_same_file_delivered_again_is_not_landed_again(lake):
    path = lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    os.utime(path, (path.stat().st_atime + 5, path.stat().st_mtime + 5))
    assert lake.run()
    assert [p.name for p in lake.bronze("2026-11-01").glob("*.csv")] == ["sales_20261101_120000.csv"]
    assert lake.run()
    assert lake.ran == []


def test_the_second_content_of_a_name_delivered_again_is_not_landed_again(lake):
    for quantity in (2, 3, 3):
        path = lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=quantity, total=5 * quantity))
        os.utime(path, (path.stat().st_atime + quantity, path.stat().st_mtime + quantity))
        assert lake.run()
    os.utime(path, (path.stat().st_atime + 9, path.stat().st_mtime + 9))
    assert lake.run()
    assert len(list(lake.bronze("2026-11-01").glob("*.csv"))) == 2
    assert list(lake.silver()["quantity"]) == [3]
    assert lake.run()
    assert lake.ran == []


def test_a_file_that_grows_while_it_is_landed_is_left_for_the_next_run(lake):
    path = lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))

    def grow(task):
        if "s2" not in path.read_text():
            path.write_text(path.read_text() + sale("s2") + "\n")

    Bronze.event_handler(luigi.Event.START)(grow)
    assert lake.run()
    assert lake.silver().empty
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s1", "s2"]


def test_a_file_without_a_stamp_touched_on_another_day_is_not_landed_again(lake):
    path = lake.deliver("sales", "export.csv", sale("s1"))
    os.utime(path, (1793620800, 1793620800))  # 2026-11-02 12:00 UTC
    assert lake.run()
    os.utime(path, (1793793600, 1793793600))  # two days later
    assert lake.run()
    assert len(list((lake.root / "datalake/bronze/sales").glob("**/*.csv"))) == 1
    assert lake.run()
    assert lake.ran == []


# ------------------------------------------------------------------------------------------------ freshness


def test_a_second_run_does_nothing(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    assert lake.ran
    before = {path: path.stat().st_mtime_ns for path in (lake.root / "datalake").glob("**/*") if path.is_file()}
    assert lake.run()
    assert lake.ran == []
    assert before == {path: path.stat().st_mtime_ns for path in (lake.root / "datalake").glob("**/*") if path.is_file()}


def test_a_late_row_changes_its_own_day_and_nothing_else(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s2", "2026-11-02T10:00:00"))
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s3", "2026-11-03T10:00:00"))
    assert lake.run()
    untouched = {day: lake.partition(day).read_bytes() for day in ("2026-11-01", "2026-11-03")}
    generated = duckdb.sql(f"select date, generated_at from '{lake.snapshots('daily_sales_summary')[-1]}'").fetchall()
    lake.deliver("sales", "sales_20261104_120000.csv", sale("late", "2026-11-02T23:59:59.999"))
    assert lake.run()
    assert lake.ran_names("Silver") == ["2026-11-02"]
    assert untouched == {day: lake.partition(day).read_bytes() for day in ("2026-11-01", "2026-11-03")}
    rows = lake.gold("daily_sales_summary")
    assert list(rows["order_count"]) == [1, 2, 1]
    again = duckdb.sql(f"select date, generated_at from '{lake.snapshots('daily_sales_summary')[-1]}'").fetchall()
    assert [a == b for a, b in zip(generated, again, strict=True)] == [True, False, True]
    assert lake.run()
    assert lake.ran == []


def test_landings_that_came_in_any_order_leave_nothing_to_do(lake):
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1"))
    assert lake.run()
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s2"))
    assert lake.run()
    assert lake.run()
    assert lake.ran == []


def test_a_changed_suite_validates_again(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", status="lost"), sale("s2"))
    lake.deliver("inventory", "inventory_20261101_120000.csv", "m1,2026-11-01,P1,Lamp,W1,inbound,3,1.00,S1")
    assert lake.run()
    assert failures(lake) == {"s1": None, "s2": None}
    suite = lake.root / "expectations/sales.json"
    content = json.loads(suite.read_text())
    content["expectations"].append(
        {
            "type": "expect_column_values_to_not_be_in_set",
            "kwargs": {"column": "status", "value_set": ["lost"]},
            "meta": {"code": "LOST"},
            "severity": "critical",
        }
    )
    suite.write_text(json.dumps(content))
    assert lake.run()
    assert {task.domain for task in lake.ran if task.task_family == "Silver"} == {"sales"}
    assert failures(lake) == {"s1": "LOST", "s2": None}
    assert lake.gold("daily_sales_summary").iloc[0]["order_count"] == 1


def test_white_space_in_a_suite_changes_nothing(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    suite = lake.root / "expectations/sales.json"
    suite.write_text(json.dumps(json.loads(suite.read_text())))
    assert lake.run()
    assert lake.ran == []


def test_a_changed_table_sql_rebuilds_that_table_alone(lake, monkeypatch):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    changed = known_tables()
    changed["payment_method_summary"] = changed["payment_method_summary"].replace("count(*)", "count(*) + 100")
    set_tables(monkeypatch, changed)
    assert lake.run()
    assert lake.ran_names("Gold") == ["payment_method_summary"]
    assert lake.ran_names("Silver") == []
    assert lake.gold("payment_method_summary").iloc[0]["payment_count"] == 101


def test_a_changed_table_remakes_the_table_that_reads_it(lake, monkeypatch):
    lake.deliver("inventory", "inventory_20261101_120000.csv", "m1,2026-11-01,P1,Lamp,W1,inbound,3,1.00,S1")
    assert lake.run()
    changed = known_tables()
    twice = changed["inventory_movement_summary"].replace("sum(quantity)", "2 * sum(quantity)")
    set_tables(monkeypatch, changed | {"inventory_movement_summary": twice})
    assert lake.run()
    assert lake.ran_names("Gold") == ["inventory_movement_summary", "inventory_net_position"]
    assert list(lake.gold("inventory_net_position")["net_position"]) == [6]


@pytest.mark.parametrize("left", [0, 5, -100])
def test_a_truncated_silver_file_is_made_again_not_read(lake, left):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    path = lake.partition("2026-11-01")
    expected = lake.content()
    path.write_bytes(path.read_bytes()[:left])
    assert lake.run()
    assert lake.ran_names("Silver") == ["2026-11-01"]
    assert lake.content() == expected


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, 0.99])
def test_a_flipped_bit_in_a_silver_file_is_noticed(lake, where):
    lake.deliver("sales", "sales_20261101_120000.csv", *(sale(f"s{n}") for n in range(50)))
    assert lake.run()
    path = lake.partition("2026-11-01")
    expected = lake.content()
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 0x10
    path.write_bytes(content)
    assert lake.run()
    assert lake.ran_names("Silver") == ["2026-11-01"]
    assert lake.content() == expected


def test_a_damaged_snapshot_is_made_again_and_gone(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    expected = lake.content()
    (damaged,) = lake.snapshots("daily_sales_summary")
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert lake.run()
    assert not damaged.exists()
    assert lake.content() == expected


def test_a_file_of_somebody_else_beside_the_snapshots_is_left_alone(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    theirs = lake.root / "datalake/gold/daily_sales_summary/daily_sales_summary_to_keep.parquet"
    theirs.write_bytes(b"theirs")
    assert lake.run()
    assert lake.ran == []
    assert theirs.exists()


def test_a_removed_silver_file_comes_back(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    expected = lake.content()
    lake.partition("2026-11-01").unlink()
    assert lake.run()
    assert lake.content() == expected


def test_a_removed_gold_snapshot_comes_back(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    expected = lake.content()
    for path in lake.snapshots("daily_sales_summary"):
        path.unlink()
    assert lake.run()
    assert lake.ran_names("Gold") == ["daily_sales_summary"]
    assert lake.content() == expected


def test_a_lake_that_was_copied_or_moved_is_complete(lake, tmp_path):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    shutil.copytree(tmp_path / "datalake", tmp_path / "copy")  # keeps modification times
    shutil.rmtree(tmp_path / "datalake")
    (tmp_path / "copy").rename(tmp_path / "datalake")
    assert lake.run()
    assert lake.ran == []


def test_every_cache_can_be_thrown_away(lake, tmp_path):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    expected, snapshots = lake.content(), lake.snapshots("daily_sales_summary")
    for cache in (tmp_path / "datalake").glob("**/_*"):
        cache.unlink()
    assert lake.run()
    assert lake.ran_names("Silver") == []
    assert lake.snapshots("daily_sales_summary") == snapshots
    assert lake.content() == expected


def test_a_run_with_nothing_to_do_keeps_what_it_learned_of_every_file(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale())
    assert lake.run()
    facts = lake.root / "datalake/_facts_sales.json"
    facts.unlink()
    (lake.root / "datalake/_tmp-1-1").write_text("what a dead run left")
    assert lake.run() and not lake.ran
    known = {path.partition("/")[0] for path in read_json(facts)["parquet"]}
    assert known == {"silver", "gold"}
    assert not list(lake.root.glob("datalake/_tmp-*"))


def test_a_deleted_bronze_file_takes_its_rows_along(lake):
    staged = lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    lake.deliver("sales", "sales_20261101_140000.csv", sale("s3", "2026-10-31T10:00:00"))
    assert lake.run()
    staged.unlink()
    (lake.bronze("2026-11-01") / "sales_20261101_120000.csv").unlink()
    (lake.root / "local_output/sales/sales_20261101_140000.csv").unlink()
    (lake.bronze("2026-11-01") / "sales_20261101_140000.csv").unlink()
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s2"]
    assert not lake.partition("2026-10-31").exists()
    assert list(lake.gold("daily_sales_summary")["order_count"]) == [1]
    assert lake.run()
    assert lake.ran == []


def test_a_file_deleted_from_bronze_alone_lands_again(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2"))
    assert lake.run()
    expected = lake.content()
    for path in lake.bronze("2026-11-01").glob("*.csv"):
        path.unlink()
    assert lake.run()
    assert lake.content() == expected
    assert lake.run() and not lake.ran


def test_a_file_put_straight_into_bronze_counts_too(lake):
    directory = lake.bronze("2026-11-05")
    directory.mkdir(parents=True)
    staged = lake.deliver("sales", "by hand.csv", sale("s1", "2026-11-05"))
    staged.rename(directory / "by hand.csv")
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s1"]


def test_two_runs_in_the_same_microsecond_keep_both_results():
    now = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
    first = snapshot_name("t", None, now)
    second = snapshot_name("t", first, now)
    third = snapshot_name("t", second, now - dt.timedelta(days=30))
    assert first < second < third


def test_snapshots_are_kept_for_looking_back_and_no_more(lake, set_lake):
    set_lake(keep_snapshots=2, keep_daily=0, keep_monthly=0)
    for number in range(5):
        lake.deliver("sales", f"sales_20261101_12000{number}.csv", sale(f"s{number}"))
        assert lake.run()
        assert lake.gold("daily_sales_summary").iloc[0]["order_count"] == number + 1
    kept = {f"gold/daily_sales_summary/{path.name}" for path in lake.snapshots("daily_sales_summary")}
    assert len(kept) == 3
    known = read_json(lake.root / "datalake/_facts_sales.json")["parquet"]
    assert {path for path in known if "daily_sales" in path} == kept, "what has gone is forgotten"


def test_the_last_snapshot_of_a_day_and_of_a_month_is_kept_longer():
    """Half-hourly runs of two years, with a pause of a month: the last of each day and month stays, and ten others."""
    first = dt.datetime(2024, 11, 29, 0, 0, 1)
    made = [first + dt.timedelta(minutes=30 * number) for number in range(2 * 365 * 48)]
    made = [moment for moment in made if (moment.year, moment.month) != (2026, 6)]
    names: list[str] = []
    for moment in made:
        names.append(f"t_{moment:%Y%m%d_%H%M%S_%f}.parquet")
        gone = set(Keep(10, 35, 24).expired(names))
        names = [name for name in names if name not in gone]
    days = sorted({moment.date() for moment in made})[-36:]
    months = sorted({(moment.year, moment.month) for moment in made})
    last = [max(moment for moment in made if moment.date() == day) for day in days]
    last += [max(moment for moment in made if (moment.year, moment.month) == month) for month in months]
    assert len(months) == 24, "of November 2024 to November 2026, without June 2026"
    assert names == [f"t_{moment:%Y%m%d_%H%M%S_%f}.parquet" for moment in sorted({*last, *made[-11:]})]
    assert Keep(0, 0, 0).expired([]) == []


def test_snapshots_of_earlier_days_are_kept(lake, set_lake):
    set_lake(keep_snapshots=0, keep_daily=3, keep_monthly=2)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    (newest,) = lake.snapshots("daily_sales_summary")
    now = dt.datetime.now(dt.UTC)
    before = {days: now - dt.timedelta(days=days) for days in (1, 2, 4, 200)}
    for days, moment in before.items():
        shutil.copy(newest, newest.with_name(f"daily_sales_summary_{moment:%Y%m%d}_100000_000000.parquet"))
        shutil.copy(newest, newest.with_name(f"daily_sales_summary_{moment:%Y%m%d}_110000_000000.parquet"))
        assert days
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    assert lake.run()
    kept = [path.name[20:28] for path in lake.snapshots("daily_sales_summary")]
    expected = {f"{moment:%Y%m%d}" for days, moment in before.items() if days <= 3} | {f"{now:%Y%m%d}"}
    if before[4].month != now.month and before[4].month not in (before[1].month, before[2].month):
        expected.add(f"{before[4]:%Y%m%d}")  # the last of its month
    assert kept == sorted(expected)
    assert all("_110000_" in path.name for path in lake.snapshots("daily_sales_summary")[:-1])


# ------------------------------------------------------------------------------------------------ rows


def test_a_bad_quantity_spoils_one_row_not_a_file(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", quantity="two"), sale("s3"))
    assert lake.run()
    assert failures(lake) == {"s1": None, "s2": "TYPE:quantity; NULL:quantity", "s3": None}
    assert json.loads(lake.silver()["rescued_data"][1]) == {"quantity": "two"}


def test_whole_numbers_may_carry_a_decimal_point(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        *(sale(str(n), quantity=q, price=1, total="") for n, q in enumerate(["3", "3.0", "+3", "3.", " 3 ", "03.00"])),
    )
    assert lake.run()
    assert list(lake.silver()["quantity"]) == [3] * 6
    assert lake.silver()["is_valid"].all()


@pytest.mark.parametrize(
    "bad", ["1_000", "0x10", "5d", "1e3", "5.7", "nan", "inf", "12,5", "١٢", "9" * 16, "--3", "3 3", "true"]
)
def test_what_is_no_whole_number_is_rescued(lake, bad):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", quantity=f'"{bad}"'))
    assert lake.run()
    assert failures(lake) == {"s1": "TYPE:quantity; NULL:quantity"}
    assert json.loads(lake.silver()["rescued_data"][0]) == {"quantity": bad}


@pytest.mark.parametrize(
    "bad", ["nan", "NaN", "inf", "Infinity", "-inf", "1e400", "1e15", "0x1p3", "1d", "1_0", "$5", "5-"]
)
def test_what_is_no_number_is_rescued(lake, bad):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", price=bad))
    assert lake.run()
    assert failures(lake)["s1"] == "TYPE:unit_price; NULL:unit_price"
    assert json.loads(lake.silver()["rescued_data"][0]) == {"unit_price": bad}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01", "2026-11-01 00:00:00"),
        ("2026-11-01T10:00", "2026-11-01 10:00:00"),
        ("2026-11-01 10:00:00", "2026-11-01 10:00:00"),
        ("2026-11-01T10:00:00", "2026-11-01 10:00:00"),
        ("2026-11-01T10:00:00.5", "2026-11-01 10:00:00.500000"),
        ("2026-11-01T10:00:00.123456789", "2026-11-01 10:00:00.123456"),
        ("2026-11-01T10:00:00Z", "2026-11-01 10:00:00"),
        ("2026-11-01T10:00:00.123456789Z", "2026-11-01 10:00:00.123456"),
        ("2026-11-01 10:00:00 UTC", "2026-11-01 10:00:00"),
        ("2026-11-01T10:00:00+02:00", "2026-11-01 08:00:00"),
        ("2026-11-01T10:00:00-0530", "2026-11-01 15:30:00"),
        ("2026-11-01T10:00:00+02", "2026-11-01 08:00:00"),
        ("2026-11-02T01:00:00.25+03:00", "2026-11-01 22:00:00.250000"),
        ("2024-02-29T23:59:59", "2024-02-29 23:59:59"),
    ],
)
def test_timestamps_are_iso_8601_and_utc(lake, text, moment):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", text))
    assert lake.run()
    assert failures(lake) == {"s1": None}
    assert str(lake.silver()["timestamp"][0]) == moment
    assert str(lake.silver()["partition"][0]) == moment[:10]


@pytest.mark.parametrize(
    "bad",
    [
        "2026-11-31",
        "2025-02-29",
        "01.11.2026",
        "10:11",
        "1793620800",
        "2026-11-01T24:00:00",
        "2026-11-01T23:59:60",
        "2026-11-01T10:00:00 CET",
        "infinity",
        "0000-01-01",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "now",
        "2026-11-1",
    ],
)
def test_what_is_no_timestamp_sits_in_the_partition_of_its_landing(lake, bad):
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", bad))
    assert lake.run()
    assert failures(lake) == {"s1": "TYPE:timestamp; NULL:timestamp"}
    assert str(lake.silver()["partition"][0]) == "2026-11-05"
    assert json.loads(lake.silver()["rescued_data"][0]) == {"timestamp": bad}


@pytest.mark.parametrize("moment", ["1969-12-31T23:59:59", "0001-01-01", "9999-12-31T23:59:59"])
def test_an_event_before_the_lake_or_after_tomorrow_is_out_of_range(lake, moment):
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", moment))
    assert lake.run()
    assert failures(lake) == {"s1": "OUT_OF_RANGE:timestamp"}
    assert str(lake.silver()["partition"][0]) == "2026-11-05"


def test_formats_of_a_domain_are_added_not_guessed(lake, set_lake):
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", "11/03/2026 10:30"))
    assert lake.run()
    assert failures(lake) == {"s1": "TYPE:timestamp; NULL:timestamp"}
    set_lake(timestamp_formats={"sales": ["%m/%d/%Y %H:%M"]})
    assert lake.run()
    assert failures(lake) == {"s1": None}
    assert str(lake.silver()["timestamp"][0]) == "2026-11-03 10:30:00"


def test_a_null_category_is_a_group(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", category=""), sale("s2", category="  "), sale("s3"))
    assert lake.run()
    rows = lake.gold("category_sales_summary")
    assert dict(zip(rows["category"].fillna("NULL"), rows["category_orders"], strict=True)) == {"Home": 1, "NULL": 2}


def test_a_refunded_sale_is_visible_as_such(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1"),
        sale("s2", status="refunded"),
        sale("s3", quantity=1, total=5, status="cancelled"),
    )
    assert lake.run()
    row = lake.gold("daily_sales_summary").iloc[0]
    assert (row["total_revenue"], row["order_count"], row["refunded_amount"], row["net_revenue"]) == (
        25.0,
        3,
        15.0,
        10.0,
    )


def test_wrong_and_missing_totals_are_corrected_and_stay_readable(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("right"),
        sale("near", total="10.01"),
        sale("wrong", total="12.50"),
        sale("missing", total=""),
        sale("unknown", quantity="", total="7.00"),
    )
    assert lake.run()
    rows = lake.silver().set_index("sale_id")
    assert rows["total_amount"].to_dict() == {"right": 10, "near": 10.01, "wrong": 10, "missing": 10, "unknown": 7}
    assert {key: value for key, value in rows["corrections"].items() if isinstance(value, str)} == {
        "wrong": '{"total_amount": "12.50"}',
        "missing": '{"total_amount": null}',
    }
    assert rows["is_valid"].to_dict() == {"right": True, "near": True, "wrong": True, "missing": True, "unknown": False}


def test_a_total_that_is_too_large_to_be_summed_is_not_computed(lake):
    lake.deliver(
        "sales", "sales_20261101_120000.csv", sale("s1"), sale("s2", quantity="9" * 15, price="9" * 14, total="")
    )
    assert lake.run()
    assert failures(lake) == {"s1": None, "s2": "OUT_OF_RANGE:total_amount; NULL:total_amount"}
    assert lake.gold("daily_sales_summary").iloc[0]["total_revenue"] == 10.0


def test_sums_of_money_are_exact(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        *(sale(f"s{n}", quantity=1, price="0.10", total="0.10") for n in range(1000)),
    )
    assert lake.run()
    assert lake.gold("daily_sales_summary").iloc[0]["total_revenue"] == 100.0


def test_pieces_of_any_size_give_the_same_lake(lake, set_lake):
    lines = [sale(f"s{n % 45}", f"2026-11-0{1 + n % 2}T10:00:00", quantity=n % 7) for n in range(90)]
    lake.deliver("sales", "sales_20261102_120000.csv", *lines, *lines[::3], "malformed")
    assert lake.run()
    expected = lake.content()
    shutil.rmtree(lake.root / "datalake/silver")
    set_lake(chunk_rows=1)
    assert lake.run()
    assert lake.content() == expected
    assert sum(footer["duplicates"] for footer in lake.footers()) == 30


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_the_kept_result_counts_the_rows_of_all_pieces(lake, set_lake, chunk_rows):
    set_lake(chunk_rows=chunk_rows)
    # Every third of the thirty rows has no quantity, so its total cannot be computed.
    lines = [sale(f"s{n}", quantity="" if n % 3 == 0 else 2, total="" if n % 3 == 0 else 10) for n in range(30)]
    lake.deliver("sales", "sales_20261101_120000.csv", *lines)
    assert lake.run()
    (path,) = lake.root.glob("datalake/quality/validations/sales/sales_*.json")
    kept = json.loads(path.read_text())
    results = {result["expectation_config"]["meta"]["code"]: result for result in kept["results"]}
    assert not kept["success"]
    for code, unexpected in (("NULL:sale_id", 0), ("NULL:quantity", 10), ("NULL:total_amount", 10)):
        result = results[code]
        assert result["success"] == (unexpected == 0)
        assert (result["result"]["element_count"], result["result"]["unexpected_count"]) == (30, unexpected)
        assert result["result"]["unexpected_percent_total"] == pytest.approx(100 * unexpected / 30)
        assert lake.footers()[0]["failures"].get(code, 0) == unexpected


def test_every_record_has_one_fate_and_the_footer_counts_them(lake):
    lake.deliver(
        "sales",
        "sales_20261101_120000.csv",
        sale("s1"),
        sale("s1"),
        sale("s2", quantity="x"),
        "too,few,fields",
        sale(""),
    )
    assert lake.run()
    footer = json.loads(pq.read_metadata(lake.partition("2026-11-01")).metadata[b"lakejobs"])
    assert {name: footer[name] for name in ("records", "rows", "valid", "invalid", "duplicates")} == {
        "records": 5,
        "rows": 4,
        "valid": 1,
        "invalid": 3,
        "duplicates": 1,
    }
    assert footer["failures"] == {"TYPE:quantity": 1, "NULL:quantity": 1, "MALFORMED_LINE": 1, "NULL:sale_id": 1}
    assert footer["lineage"]["files"][0][0] == "bronze/sales/year=2026/month=11/day=01/sales_20261101_120000.csv"


# ------------------------------------------------------------------------------------------------ tasks


def test_every_task_works_by_its_name(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run(Bronze("sales", "2026-11-01"))
    assert (lake.bronze("2026-11-01") / "_manifest.json").exists()
    assert lake.silver().empty
    assert lake.run(Silver("sales", "2026-11-01"))
    assert list(lake.silver()["sale_id"]) == ["s1"]
    assert lake.run(Gold("payment_method_summary"))
    assert lake.ran_names("Gold") == ["payment_method_summary"]


def test_a_target_exists_as_long_as_it_is_up_to_date(lake):
    def existing() -> list[str]:
        tasks = (Bronze("sales", "2026-11-01"), Silver("sales", "2026-11-01"), Gold("daily_sales_summary"))
        targets = luigi.task.flatten([task.output() for task in tasks])
        for target in targets:
            assert str(target) == target.path
            assert "None" not in target.path
        return [type(target).__name__ for target in targets if target.exists()]

    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert existing() == []
    assert lake.run(Bronze("sales", "2026-11-01"))
    assert existing() == ["BronzeTarget"]
    assert lake.run(Silver("sales", "2026-11-01"))
    assert existing() == ["BronzeTarget", "SilverTarget"]
    assert lake.run()
    assert existing() == ["BronzeTarget", "SilverTarget", "GoldTarget"]
    lake.deliver("sales", "sales_20261101_130000.csv", sale("s2"))
    assert existing() == []


def test_silver_of_one_date_leaves_the_others(lake):
    lake.deliver("sales", "sales_20261102_120000.csv", sale("s1"), sale("s2", "2026-11-02"))
    assert lake.run(Silver("sales", "2026-11-01"))
    assert list(lake.silver()["sale_id"]) == ["s1"]


def test_days_may_be_named_in_any_order(lake):
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1", "2026-11-02"), sale("s2", "2026-11-01"))
    assert lake.run(Bronze("sales", "2026-11-03"))
    assert lake.run(Silver("sales", "2026-11-02,2026-11-01"))
    assert len(lake.silver()) == 2


def test_a_domain_without_a_table_is_made_too(lake, monkeypatch):
    set_tables(monkeypatch, {name: sql for name, sql in known_tables().items() if "source: sales" not in sql})
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert lake.run()
    assert len(lake.silver()) == 1


def test_a_backfill_is_one_pass(lake):
    days = [f"2026-{month:02d}-{day:02d}" for month in (9, 10) for day in range(1, 31)]
    lake.deliver("sales", "sales_20261101_120000.csv", *(sale(f"s{n}", day) for n, day in enumerate(days)))
    assert lake.run()
    assert lake.ran_names("Silver") == sorted(days)
    assert len([task for task in lake.ran if task.task_family == "Silver" and "," in task.date]) == 1


def test_several_workers_give_the_same_lake(lake):
    for domain, line in (("sales", sale("s1")), ("inventory", "m1,2026-11-01,P1,Lamp,W1,inbound,3,1.00,S1")):
        lake.deliver(domain, f"{domain}_20261101_120000.csv", line)
    assert lake.run(GoldAll(), workers=3)
    assert lake.gold("daily_sales_summary").iloc[0]["order_count"] == 1
    assert lake.gold("inventory_net_position").iloc[0]["net_position"] == 3
    assert lake.run()
    assert lake.ran == []
