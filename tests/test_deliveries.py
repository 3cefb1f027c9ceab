"""The order of deliveries: a later one wins, and bronze alone says which is later."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest
from conftest import LakeUnderTest, sale

NINE = dt.datetime(2026, 11, 24, 9, tzinfo=dt.UTC)


def hours(count: float) -> dt.datetime:
    return NINE + dt.timedelta(hours=count)


def deliver(lake: LakeUnderTest, name: str, price: int, moment: dt.datetime, *more: str) -> Path:
    """Stage a file with a single sale, PT-1, at this price, last modified at `moment`."""
    path = lake.deliver("sales", name, sale("PT-1", "2026-11-17T10:00:00Z", 1, price, price), *more)
    os.utime(path, (moment.timestamp(), moment.timestamp()))
    return path


def bronze(lake: LakeUnderTest) -> list[str]:
    return sorted(path.name for path in (lake.root / "datalake/bronze/sales").glob("**/*.csv"))


def price(lake: LakeUnderTest) -> float:
    return float(lake.silver()["unit_price"].iloc[0])


def test_a_correction_wins_under_a_name_that_sorts_before(lake):
    deliver(lake, "till_tuesday.csv", 100, hours(0))
    assert lake.run()
    deliver(lake, "correction.csv", 7, hours(1))
    assert lake.run()
    assert price(lake) == 7
    assert bronze(lake) == [
        "correction_delivered_20261124_100000_000000.csv",
        "till_tuesday_delivered_20261124_090000_000000.csv",
    ]


def test_files_delivered_at_once_count_in_the_order_they_were_modified(lake):
    deliver(lake, "b.csv", 1, hours(0))
    deliver(lake, "a.csv", 2, hours(1))
    deliver(lake, "c.csv", 3, hours(-1))
    assert lake.run()
    assert price(lake) == 2


def test_a_delivery_without_a_stamp_comes_before_a_later_stamp_and_after_an_earlier_one(lake):
    deliver(lake, "sales_20261124_080000.csv", 1, hours(9))
    deliver(lake, "till.csv", 2, hours(0))
    assert lake.run()
    assert price(lake) == 2
    deliver(lake, "sales_20261124_100000.csv", 3, hours(-9))
    assert lake.run()
    assert price(lake) == 3


def test_deliveries_are_in_one_order_across_landing_dates(lake):
    deliver(lake, "sales_20261123_100000.csv", 1, hours(0))
    assert lake.run()
    # It lands on the date in its name, but this content is delivered a day after the other file.
    deliver(lake, "sales_20261122_100000.csv", 2, hours(-99))
    assert lake.run()
    assert price(lake) == 1
    deliver(lake, "sales_20261122_100000.csv", 3, hours(0))
    assert lake.run()
    assert price(lake) == 3


@pytest.mark.parametrize("name", ["till.csv", "sales_20261124_090000.csv"])
def test_a_content_that_comes_back_is_a_new_delivery(lake, name):
    for count, wanted in enumerate([1, 2, 1], start=1):
        deliver(lake, name, wanted, hours(count))
        assert lake.run()
        assert price(lake) == wanted
        assert len(bronze(lake)) == count
    lake.run()
    assert lake.ran == []


@pytest.mark.parametrize("name", ["till.csv", "sales_20261124_090000.csv"])
def test_two_contents_with_one_modification_date_are_told_apart(lake, name):
    deliver(lake, name, 1, NINE)
    assert lake.run()
    deliver(lake, name, 2, NINE)
    assert lake.run()
    assert price(lake) == 2


def test_an_older_file_put_back_is_the_latest_delivery(lake):
    deliver(lake, "till.csv", 1, hours(0))
    assert lake.run()
    deliver(lake, "till.csv", 2, hours(1))
    assert lake.run()
    deliver(lake, "till.csv", 1, hours(0))
    assert lake.run()
    assert price(lake) == 1
    assert bronze(lake)[-1] == "till_delivered_20261124_100000_000001.csv"


def test_an_older_file_put_back_lands_on_the_day_its_name_says(lake):
    deliver(lake, "till.csv", 1, hours(0))
    assert lake.run()
    deliver(lake, "till.csv", 2, hours(-48))
    deliver(lake, "other.csv", 9, hours(-49))
    assert lake.run()
    name = "till_delivered_20261124_090000_000001.csv"
    assert (lake.bronze("2026-11-24") / name).exists()
    assert price(lake) == 2
    lake.run()
    assert lake.ran == []
    shutil.copy(lake.bronze("2026-11-24") / name, lake.root / "local_output/sales" / name)
    assert lake.run()
    assert len(bronze(lake)) == 3


def test_a_modification_date_to_come_counts_as_now(lake):
    deliver(lake, "till.csv", 1, dt.datetime(2126, 1, 1, tzinfo=dt.UTC))
    before = dt.datetime.now(dt.UTC)
    assert lake.run()
    (name,) = bronze(lake)
    moment = dt.datetime.strptime(name, "till_delivered_%Y%m%d_%H%M%S_%f.csv").replace(tzinfo=dt.UTC)
    assert before <= moment <= dt.datetime.now(dt.UTC)
    lake.run()
    assert lake.ran == []


def test_what_tomorrow_is_for_a_file_follows_from_its_name(lake):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1", "2026-11-03T10:00:00"))
    assert lake.run()
    assert lake.silver()["validation_errors"].iloc[0] == "OUT_OF_RANGE:timestamp"
    copy = lake.root / "copy"
    shutil.copytree(lake.root / "datalake/bronze", copy / "datalake/bronze")
    for path in copy.glob("**/*.csv"):
        os.utime(path, (NINE.timestamp(), NINE.timestamp()))
    before = lake.content()
    shutil.rmtree(lake.root / "datalake")
    (copy / "datalake").rename(lake.root / "datalake")
    assert lake.run()
    assert lake.content() == before


def test_new_content_under_an_old_name_may_hold_events_up_to_the_day_after_its_own_delivery(lake):
    deliver(lake, "sales_20261101_120000.csv", 1, hours(0))
    deliver(lake, "sales_20261102_120000.csv", 2, hours(0))
    assert lake.run()
    deliver(lake, "sales_20261101_120000.csv", 3, hours(1), sale("s2", f"{hours(24):%Y-%m-%d}"))
    deliver(lake, "sales_20261102_120000.csv", 4, hours(1), sale("s3", f"{hours(48):%Y-%m-%d}"))
    assert lake.run()
    assert len(list(lake.bronze("2026-11-01").glob("*.csv"))) == 2, "it lands on the date in its name"
    errors = lake.silver().set_index("sale_id")["validation_errors"].to_dict()
    assert (errors["s2"], errors["s3"]) == (None, "OUT_OF_RANGE:timestamp")


def test_the_order_outlives_every_cache_and_a_plain_copy(lake, monkeypatch):
    for count, wanted in enumerate([1, 2, 1]):
        deliver(lake, "till.csv", wanted, hours(count))
        deliver(lake, f"sales_20261124_{count:02d}0000.csv", 50 + count, hours(count))
        assert lake.run()
    assert price(lake) == 1
    before = lake.content()
    shutil.copytree(lake.root / "datalake/bronze", lake.root / "bronze", copy_function=shutil.copy)
    shutil.rmtree(lake.root / "datalake")
    (lake.root / "datalake").mkdir()
    (lake.root / "bronze").rename(lake.root / "datalake/bronze")
    for cache in (lake.root / "datalake").glob("**/_*"):
        cache.unlink()
    assert lake.run()
    assert lake.content() == before
    assert len(bronze(lake)) == 6


def test_a_file_copied_from_bronze_into_staging_keeps_its_moment(lake):
    deliver(lake, "till.csv", 1, hours(0))
    assert lake.run()
    deliver(lake, "till.csv", 2, hours(1))
    assert lake.run()
    first = "till_delivered_20261124_090000_000000.csv"
    (found,) = (lake.root / "datalake/bronze/sales").glob(f"**/{first}")
    shutil.copy(found, lake.root / "local_output/sales" / first)
    assert lake.run()
    assert price(lake) == 2
    assert len(bronze(lake)) == 2
    # Deleted from bronze, it lands again, still as the earlier delivery.
    found.unlink()
    assert lake.run()
    assert first in bronze(lake)
    assert price(lake) == 2
    lake.run()
    assert lake.ran == []


def test_a_file_copied_from_bronze_and_edited_is_a_new_delivery_of_its_name(lake):
    deliver(lake, "till.csv", 1, hours(0))
    assert lake.run()
    deliver(lake, "till_delivered_20261124_090000_000000.csv", 2, hours(1))
    assert lake.run()
    assert price(lake) == 2
    assert bronze(lake) == [f"till_delivered_20261124_{hour}0000_000000.csv" for hour in ("09", "10")]
    lake.run()
    assert lake.ran == []


def test_names_that_earlier_versions_gave_stay_readable(lake):
    """They added the start of the hash to the name of other content, and left names without a stamp unchanged."""
    import hashlib

    directory = lake.bronze("2026-11-24")
    directory.mkdir(parents=True)
    first = deliver(lake, "sales_20261124_100000.csv", 1, NINE).rename(directory / "sales_20261124_100000.csv")
    again = deliver(lake, "again.csv", 2, NINE)
    digest = hashlib.sha256(again.read_bytes()).hexdigest()[:8]
    again.rename(directory / f"sales_20261124_100000-{digest}.csv")
    assert lake.run()
    assert price(lake) == 2
    # The last content has landed already; the first one is a new delivery again.
    deliver(lake, "sales_20261124_100000.csv", 2, hours(2))
    assert lake.run()
    assert len(bronze(lake)) == 2
    shutil.copy(first, lake.root / "local_output/sales/sales_20261124_100000.csv")
    assert lake.run()
    assert price(lake) == 1
    assert len(bronze(lake)) == 3


def test_a_name_that_looks_like_a_hash_is_a_name(lake):
    deliver(lake, "till-20261101.csv", 1, hours(0))
    deliver(lake, "till.csv", 2, hours(1))
    assert lake.run()
    assert len(bronze(lake)) == 2
    assert price(lake) == 2


def test_staging_finds_its_batch_by_the_name_it_was_staged_under(lake):
    from lakejobs import Generate

    batch = dt.datetime(2026, 11, 1, 12)
    assert lake.run(Generate(domain="sales", batch=batch))
    staged = lake.root / "local_output/sales/sales_20261101_120000.csv"
    staged.write_text(staged.read_text() + "\n")
    assert lake.run(Generate(domain="sales", batch=batch))
    staged.unlink()
    (lake.bronze("2026-11-01") / staged.name).unlink()
    assert lake.run(Generate(domain="sales", batch=batch))
    assert "Staging" not in [task.task_family for task in lake.ran]


def test_files_are_numbered_each_once_whatever_the_others_hold(lake):
    """Two files with the same number mixed up their rows, in source_file, lineage and duplicates."""
    lake.deliver("sales", "sales_20260301_100000.csv")
    lake.deliver_bytes(
        "sales",
        "sales_20260301_110000.csv",
        lake.deliver("sales", "x.tmp", sale("k1", "2026-03-01T10:00:00Z", 1, 1, 1, "caf\u00e9"),
                     sale("k2", "2026-03-01T10:00:00Z", 5, 1, 5, "caf\u00e9")).read_text().encode("cp1252"),
    )  # fmt: skip
    assert lake.run()
    lake.deliver("sales", "sales_20260302_100000.csv", sale("k1", "2026-03-01T10:00:00Z", 2, 1, 2))
    assert lake.run()
    rows = lake.silver().set_index("sale_id")
    assert rows["quantity"].to_dict() == {"k1": 2, "k2": 5}
    assert rows["source_file"].to_dict() == {"k1": "sales_20260302_100000.csv", "k2": "sales_20260301_110000.csv"}
    (footer,) = lake.footers()
    assert [file[0].rpartition("/")[2] for file in footer["lineage"]["files"]] == [
        "sales_20260301_110000.csv",
        "sales_20260302_100000.csv",
    ]


# ------------------------------------------------------------------------------------------------ lost caches


@pytest.mark.parametrize("how", ["gone", "cut short", "an older one"])
@pytest.mark.parametrize("when", ["before a run", "between a landing and silver"])
def test_a_manifest_that_gets_lost_is_made_anew(lake, how, when):
    from lakejobs import BronzeAll

    lake.deliver("sales", "sales_20260301_100000.csv", sale("k1", "2026-03-01T10:00:00Z"))
    assert lake.run()
    old = (lake.bronze("2026-03-01") / "_manifest.json").read_bytes()
    lake.deliver("sales", "sales_20260301_110000.csv", sale("k2", "2026-03-01T11:00:00Z"))
    lake.deliver("sales", "sales_20260302_100000.csv", sale("k3", "2026-03-01T12:00:00Z"))
    if when == "between a landing and silver":
        assert lake.run(BronzeAll())
    for path in (lake.root / "datalake/bronze").glob("**/_manifest.json"):
        if how == "gone":
            path.unlink()
        elif how == "cut short":
            path.write_bytes(path.read_bytes()[:100])
    if how == "an older one":
        (lake.bronze("2026-03-01") / "_manifest.json").write_bytes(old)
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["k1", "k2", "k3"]
    lake.run()
    assert lake.ran == []


def test_a_damaged_silver_file_of_a_day_without_records_goes(lake):
    lake.deliver("sales", "sales_20260302_100000.csv", sale("k2", "2026-03-02T10:00:00Z"))
    staged = lake.deliver("sales", "sales_20260301_100000.csv", sale("k1", "2026-03-01T10:00:00Z"))
    assert lake.run()
    shutil.rmtree(lake.bronze("2026-03-01"))
    staged.unlink()
    path = lake.partition("2026-03-01")
    path.write_bytes(path.read_bytes()[:100])
    assert lake.run()
    assert not path.exists()
    assert list(lake.silver()["sale_id"]) == ["k2"]


def test_what_landed_on_another_day_lands_again_where_it_is_gone(lake):
    path = deliver(lake, "till.csv", 1, hours(-24))
    assert lake.run()
    os.utime(path, (NINE.timestamp(), NINE.timestamp()))
    assert lake.run()
    assert len(bronze(lake)) == 1
    shutil.rmtree(lake.bronze("2026-11-23"))
    assert lake.run()
    assert len(bronze(lake)) == 1
    assert price(lake) == 1
    lake.run()
    assert lake.ran == []


def test_what_a_dead_run_of_another_domain_spilled_goes(lake):
    spilled = lake.root / "datalake/_tmp-spill_inventory_1-1"
    spilled.mkdir(parents=True)
    (spilled / "duckdb_temp_storage.tmp").write_bytes(b"x")
    lake.deliver("sales", "sales_20260302_100000.csv", sale("k2"))
    assert lake.run()
    assert not spilled.exists()


def test_a_file_taken_out_of_staging_before_it_lands_is_said_and_fails_nothing(lake, caplog):
    import luigi

    from lakejobs import Bronze

    lake.deliver("sales", "sales_20261101_110000.csv", sale("s1"))
    path = lake.deliver("sales", "sales_20261101_120000.csv", sale("s2"))
    Bronze.event_handler(luigi.Event.START)(lambda task: path.unlink(missing_ok=True))
    assert lake.run()
    assert list(lake.silver()["sale_id"]) == ["s1"]
    assert "sales_20261101_120000.csv was removed from staging before it landed" in caplog.text
