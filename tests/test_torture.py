"""A short version of every family of scripts/torture: injects real faults and expects no violation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import PROJECT

FAMILIES = [
    "kill-points", "kills", "storage", "disks", "power", "crowd", "damage", "bronze", "clock", "verdicts", "dialects",
    "giants", "fuzz", "safety", "life", "hours", "objects", "hosts", "engines",
]  # fmt: skip


def torture(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A separate process, because the torture forks, and earlier tests have started threads.
    command = [sys.executable, "-m", "torture", *arguments]
    return subprocess.run(command, cwd=PROJECT / "tests", capture_output=True, text=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lake_survives(family):
    done = torture("--short", family)
    if "left out" in done.stdout:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert f"| {family} |" in done.stdout


def test_every_family_has_its_short_version():
    listed = torture("--help").stdout
    assert all(family in listed for family in FAMILIES)
    assert " ".join(listed.split("everything where none is named:")[1].split("--seed")[0].split()).startswith(
        ", ".join(FAMILIES)
    )
