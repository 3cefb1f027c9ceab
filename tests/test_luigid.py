"""Runs through a real luigid, which remembers what earlier runs did."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Operated, sale


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    """A lake whose runs go through its own luigid."""
    made = Operated(tmp_path)
    try:
        assert made.script("luigid", "start").returncode == 0
        yield made
    finally:
        made.stop()


def test_late_rows_of_days_that_luigid_met_in_another_order(operated):
    lake = operated.lake
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", "2026-11-05T10:00:00"))
    assert operated.run() == 0
    lake.deliver(
        "sales", "sales_20261105_130000.csv", sale("s2", "2026-11-05T11:00:00"), sale("s3", "2026-11-04T10:00:00")
    )
    # A separate run, so that the next one must read from bronze what has landed.
    assert operated.run("BronzeAll") == 0
    assert operated.run() == 0
    assert list(lake.silver()["sale_id"]) == ["s3", "s1", "s2"]


def test_days_that_failed_together_are_tried_once_a_run_and_made_when_the_rule_is_mended(operated):
    lake = operated.lake
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1", "2026-11-05T10:00:00"), sale("s2"))
    suite = lake.root / "expectations/sales.json"
    good = suite.read_text()
    content = json.loads(good)
    content["expectations"][0]["type"] = "expect_column_values_to_be_nothing"
    suite.write_text(json.dumps(content))
    assert operated.run() == 30
    assert operated.run() == 30
    assert operated.said.count("has no expectation") == 1
    suite.write_text(good)
    assert operated.run() == 0
    assert len(lake.silver()) == 2


def test_what_a_killed_run_was_doing_is_soon_granted_to_the_next(operated):
    lake = operated.lake
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1"))
    with subprocess.Popen(operated.command("GoldAll"), cwd=lake.root, stderr=subprocess.PIPE, text=True) as killed:
        # The run goes on to its silver partitions.
        assert any("1 file landed" in line for line in killed.stderr)
        killed.kill()
    assert operated.run() == 0
    assert len(lake.silver()) == 1


def test_a_run_that_luigid_has_forgotten_says_so_and_the_next_does_its_work(operated, tmp_path):
    lake = operated.lake
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1"))
    with subprocess.Popen(operated.command("GoldAll"), cwd=lake.root, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        assert any("1 file landed" in line for line in run.stderr)
        run.send_signal(signal.SIGSTOP)
        operated.script("luigid", "stop")
        (tmp_path / "luigid/state.pickle").unlink()
        assert operated.script("luigid", "start").returncode == 0
        run.send_signal(signal.SIGCONT)
        said = run.stderr.read()
        assert run.wait(60) == 25
    assert "luigid has forgotten this run" in said
    assert "Traceback" not in said
    assert operated.run() == 0
    assert len(lake.silver()) == 1


def test_a_luigid_that_does_not_answer_for_a_while_is_said_once(operated):
    lake = operated.lake
    lake.deliver("sales", "sales_20261105_120000.csv", sale("s1"))
    process = int((lake.root.parent / "luigid/pid").read_text())
    (lake.root / "datalake").mkdir()
    with (lake.root / "datalake/_lock_sales").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(operated.command("GoldAll"), cwd=lake.root, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr
            assert any("waiting for another run" in line for line in run.stderr)
            os.kill(process, signal.SIGKILL)
            said = [next(line for line in run.stderr if "luigid" in line)]
            assert operated.script("luigid", "start").returncode == 0
            fcntl.flock(lock, fcntl.LOCK_UN)
            said += [line for line in run.stderr if "luigid does not answer" in line or "ping" in line]
    assert said == ["WARNING: luigid does not answer; the run goes on until it has something to report\n"]
