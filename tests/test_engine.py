"""The engine's protocol, called by hand with paths and values: no lake, no settings, no Luigi."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from conftest import DOMAINS, HEADERS, PROJECT, read_footer, sale

from lakejobs.engine import (
    CsvFile,
    Engine,
    GoldJob,
    GoldSource,
    NotPlainError,
    OtherDateError,
    QueryError,
    Reading,
    SilverJob,
    records,
    sql,
)
from lakejobs.engine.duckdb import Connection
from lakejobs.engine.local import LocalEngine
from lakejobs.messages import LakeError
from lakejobs.model import SilverFooter
from lakejobs.quality.suite import load_suite
from lakejobs.storage import footer

SALES = DOMAINS["sales"]
READING = Reading(SALES, dt.date(1970, 1, 1))
DAYS = [dt.date(2026, 11, 1), dt.date(2026, 11, 2)]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "spill").mkdir()
    scratch = contextlib.nullcontext(str(tmp_path / "spill"))
    return LocalEngine(lambda name: scratch, "1GB", list)


@pytest.fixture
def suite(monkeypatch):
    monkeypatch.chdir(PROJECT)
    return load_suite(SALES)


def delivered(path: Path, number: int, *lines: str) -> CsvFile:
    """A file as a manifest describes it."""
    path.write_text("".join(f"{line}\n" for line in (HEADERS["sales"], *lines)))
    with path.open("rb") as handle:
        inspection = records.inspect(handle, list(SALES.columns))
    return CsvFile(str(path), number, DAYS[0], DAYS[1] + dt.timedelta(days=1), inspection, path.name)


@pytest.fixture
def files(tmp_path: Path) -> list[CsvFile]:
    return [
        delivered(tmp_path / "a.csv", 0, sale("s1", "2026-11-01"), sale("s2", "2026-11-02", quantity=""), "malformed"),
        delivered(tmp_path / "b.csv", 1, sale("s1", "2026-11-01", quantity=3), sale("s3", "2026-11-02")),
    ]


def ignored(message: str, percent: int) -> None:
    """Nobody is told how far it has come."""


def test_records_are_counted_by_file_and_event_date(engine, files):
    found = engine.count_records(READING, files)
    assert found[0].dates == {"2026-11-01": 2, "2026-11-02": 1}, "a malformed line belongs to its landing date"
    assert (found[0].malformed, found[1].malformed) == (1, 0)
    assert found[1].dates == {"2026-11-01": 1, "2026-11-02": 1}


def made(engine: Engine, files: list[CsvFile], suite, directory: Path) -> dict[str, list[tuple[object, ...]]]:
    """Make both days' partitions, and read what was written."""
    made_from = {day: SilverFooter(str(day), 1, "rules", "warnings") for day in DAYS}
    job = SilverJob(
        READING, suite, {DAYS[0]: 3, DAYS[1]: 2}, files, 1000, footers=made_from, lineages={day: {} for day in DAYS}
    )
    rows = {}
    with engine.silver(job, ignored) as result:
        assert {day: (c.records, c.valid, c.invalid, c.duplicates) for day, c in result.counts.items()} == {
            DAYS[0]: (3, 1, 1, 1),
            DAYS[1]: (2, 1, 1, 0),
        }
        assert result.validation.withheld() == {}
        shown = {row["key"] for examples in result.examples().values() for row in examples}
        assert shown == {"s1", "s2", None}, "s1 was corrected"
        for day in DAYS:
            path = str(directory / f"{day}.parquet")
            assert result.write(day, path) == result.counts[day].rows
            footer.seal(path)
            said = read_footer(Path(path))
            assert said and SilverFooter.from_json(said) == dataclasses.replace(
                made_from[day], counts=result.counts[day]
            )
            assert said["verdicts"] == result.validation.verdicts(day)
            query = "select sale_id, quantity, is_valid, validation_errors, source_file from '{}' order by sale_id"
            rows[str(day)] = duckdb.sql(query.format(path)).fetchall()
    return rows


def test_partitions_are_a_function_of_paths_and_values(engine, files, suite, tmp_path):
    rows = made(engine, files, suite, tmp_path)
    assert rows["2026-11-01"] == [
        ("s1", 3, True, None, "b.csv"),
        (None, None, False, "MALFORMED_LINE", "a.csv"),
    ]
    assert rows["2026-11-02"] == [
        ("s2", None, False, "NULL:quantity", "a.csv"),
        ("s3", 2, True, None, "b.csv"),
    ]


def test_what_was_counted_and_what_is_read_anew_give_the_same_rows(engine, files, suite, tmp_path):
    read = made(engine, files, suite, tmp_path)
    engine.count_records(READING, files)
    for file in files:
        Path(file.path).rename(f"{file.path}.away")
    assert made(engine, files, suite, tmp_path) == read, "what was counted is kept, and not read again"
    with pytest.raises(LakeError, match=r"a\.csv"):
        made(engine, files, suite, tmp_path)
    engine.count_records(READING, [delivered(tmp_path / "c.csv", 0)])
    engine.forget()
    assert not list((tmp_path / "spill").iterdir())


def test_another_process_elsewhere_makes_the_same_partitions(engine, files, suite, tmp_path):
    """As an executor of a cluster does, which has none of the driver's state but what it is sent."""
    here = made(engine, files, suite, tmp_path)
    spawn = multiprocessing.get_context("spawn")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "spill").mkdir(parents=True)
    with spawn.Pool(1) as pool:
        there = pool.apply(_executor, (str(elsewhere), files, suite))
    assert there == here


def _executor(directory: str, files: list[CsvFile], suite) -> dict[str, list[tuple[object, ...]]]:
    os.chdir(directory)
    sys.argv = ["executor"]
    engine = LocalEngine(lambda name: contextlib.nullcontext(f"{directory}/spill"), "1GB", list)
    return made(engine, files, suite, Path(directory))


def test_fates_that_do_not_add_up_are_refused(engine, files, suite):
    job = SilverJob(READING, suite, {DAYS[0]: 4, DAYS[1]: 2}, files, 1000)
    with pytest.raises(LakeError, match="2026-11-01: expected 4 records from bronze"), engine.silver(job, ignored):
        pass


def test_a_file_that_is_not_as_plain_as_it_was_taken_for_is_told_from_a_broken_disk(engine, tmp_path):
    file = delivered(tmp_path / "wide.csv", 0, sale("x" * 3_000_000))
    lying = dataclasses.replace(file, inspection=dataclasses.replace(file.inspection, plain=True))
    with contextlib.suppress(NotPlainError):
        assert engine.count_records(READING, [lying])[0].malformed == 1, "so bronze reads it carefully"
    careful = dataclasses.replace(file, inspection=dataclasses.replace(file.inspection, plain=False))
    assert engine.count_records(READING, [careful])[0].dates == {"2026-11-01": 1}
    Path(file.path).unlink()
    for missing in (file, careful):
        with pytest.raises(LakeError, match=r"wide\.csv"):
            engine.count_records(READING, [missing])


# ------------------------------------------------------------------------------------------------ gold


@pytest.fixture
def partitions(tmp_path: Path) -> dict[str, str]:
    paths = {}
    for day, quantity in (("2026-11-01", 1), ("2026-11-02", 2)):
        paths[day] = str(tmp_path / f"{day}.parquet")
        duckdb.sql(
            f"copy (select timestamp '{day} 10:00:00' as timestamp, {quantity} as quantity, unnest([true, false]) as "
            f"is_valid) to '{paths[day]}' (format parquet)"
        )
    return paths


@pytest.fixture
def gold(engine, partitions, tmp_path) -> Iterator[object]:
    columns = {"timestamp": "timestamp", "quantity": "bigint", "is_valid": "boolean"}

    def make(statement: str, **how: object) -> list[tuple[object, ...]]:
        source = GoldSource("sales", columns, partitions, is_daily=True)
        moment = dt.datetime(2026, 11, 3, tzinfo=dt.UTC)
        job = GoldJob(statement, ("date",), [source], list(partitions), (), moment)
        path = str(tmp_path / "snapshot.parquet")
        engine.gold(dataclasses.replace(job, **how), path, footer.footer_text({}))
        return duckdb.sql(f"select * exclude generated_at from '{path}'").fetchall()

    return make


BY_DAY = "select cast(timestamp as date) as date, cast(sum(quantity) as bigint) as n from sales group by all"


def test_a_snapshot_is_of_the_valid_rows_and_the_days_that_were_carried_over(gold, tmp_path):
    whole = [(DAYS[0], 1), (DAYS[1], 2)]
    assert gold(BY_DAY) == whole
    (tmp_path / "snapshot.parquet").rename(tmp_path / "before.parquet")
    assert gold(BY_DAY, days=["2026-11-02"], carried=[(str(tmp_path / "before.parquet"), ["2026-11-01"])]) == whole
    assert gold(BY_DAY, days=[]) == []
    assert gold(BY_DAY, days=None) == whole


def test_errors_of_sql_are_of_a_kind_of_their_own(gold):
    with pytest.raises(QueryError, match="nothing"):
        gold("select date, nothing from sales")
    with pytest.raises(QueryError, match=r"(?i)convert"):
        gold("select cast(timestamp as date) as date, cast('x' as integer) as n from sales")
    with pytest.raises(OtherDateError) as raised:
        gold("select cast(timestamp as date) + 1 as date from sales")
    assert (raised.value.day, raised.value.other) == ("2026-11-02", dt.date(2026, 11, 3))


def test_gold_tables_can_be_asked(engine, partitions):
    with engine.tables({"one": partitions["2026-11-01"]}) as rows:
        assert rows.rows("select sum(quantity) from one") == [(2,)]
        with pytest.raises(QueryError):
            rows.rows("select nothing from one")


def test_ctrl_c_while_the_engine_starts_is_an_interrupt(tmp_path):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    Connection(str(tmp_path), "1GB").close()
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for step in range(1, 200):
            try:
                signal.setitimer(signal.ITIMER_REAL, step * 0.0001)
                Connection(str(tmp_path), "1GB").close()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts


def test_ctrl_c_while_the_engine_looks_at_a_table_is_an_interrupt(tmp_path):
    class Interrupted:
        def __arrow_c_stream__(self, requested_schema=None):
            raise KeyboardInterrupt

    with Connection(str(tmp_path), "1GB") as connection, pytest.raises(KeyboardInterrupt):
        connection.register("rows", Interrupted())


def test_the_short_cut_of_a_correction_changes_nothing(tmp_path):
    draw = random.Random(20261104)
    lines = []
    for number in range(20_000):
        quantity, price = int(10 ** draw.uniform(0, 6)), round(10 ** draw.uniform(-4, 6), draw.choice([0, 2, 2, 4, 12]))
        off = draw.choice([0, 0, 1e-6, 0.0001, 0.004, 0.0049, 0.005, 0.0051, 0.01, 0.02]) * draw.choice([-1, 1])
        total = round(quantity * price + off, draw.choice([1, 2, 2, 2, 3, 6]))
        lines.append(sale(f"s{number}", "2026-11-01", draw.choice([quantity] * 9 + [""]), price, total))
    file = delivered(tmp_path / "sales.csv", 0, *lines)
    rows = []
    for holds in (SALES.corrections[0].holds, ""):
        domain = dataclasses.replace(SALES, corrections=(dataclasses.replace(SALES.corrections[0], holds=holds),))
        with Connection(str(tmp_path), "1GB") as connection:
            connection.load_csv("loaded", [file], list(domain.columns), sql.typed_rows(Reading(domain, DAYS[0])))
            rows.append(connection.rows("select * from loaded"))
    assert holds != SALES.corrections[0].holds
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(lines)
