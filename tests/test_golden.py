"""Readable cases: deliver `tests/golden/<case>/input`, compare the lake with `expect`; a second run does nothing.

`python tests/test_golden.py CASE…` rewrites a case's `expect`; review the diff before you keep it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest
from conftest import LakeUnderTest, new_lake

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def results(lake: LakeUnderTest) -> dict[str, str]:
    """A lake's content as CSV text, by `silver/<domain>.csv` and `gold/<table>.csv`, without empty tables."""
    found = {}
    for directory in sorted((lake.root / "datalake/silver").iterdir()):
        files = str(directory / "**/*.parquet")
        found[f"silver/{directory.name}.csv"] = as_csv(
            "select regexp_extract(filename, 'year.*day=[0-9]+') as partition, "
            "* exclude (filename, processed_at, source_file, source_record), "
            "regexp_extract(source_file, '[^/]+$') as source_file, source_record "
            f"from read_parquet('{files}', filename = true, hive_partitioning = false)"
        )
    for directory in sorted((lake.root / "datalake/gold").iterdir()):
        content = as_csv(f"select * exclude (generated_at) from '{lake.snapshots(directory.name)[-1]}'")
        if content.count("\n") > 1:
            found[f"gold/{directory.name}.csv"] = content
    return found


def expected_of(case: str) -> dict[str, str]:
    """The same of the lake that a case should give."""
    return {
        str(path.relative_to(GOLDEN / case / "expect")): path.read_text()
        for path in (GOLDEN / case / "expect").glob("**/*.csv")
    }


def as_csv(query: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        duckdb.sql(f"copy (select * from ({query}) order by all) to '{file.name}' (header, delimiter ',')")
        return Path(file.name).read_text()


@pytest.mark.parametrize("case", CASES)
def test_golden(lake, case):
    shutil.copytree(GOLDEN / case / "input", lake.root / "local_output", dirs_exist_ok=True)
    assert lake.run()
    assert results(lake) == expected_of(case)
    assert lake.run()
    assert lake.ran == []


if __name__ == "__main__":
    import os

    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            made = new_lake(Path(directory))
            os.chdir(directory)
            shutil.copytree(GOLDEN / name / "input", "local_output", dirs_exist_ok=True)
            made.run()
            shutil.rmtree(GOLDEN / name / "expect", ignore_errors=True)
            for relative, content in results(made).items():
                path = GOLDEN / name / "expect" / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
