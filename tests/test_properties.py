"""The lake does not depend on how records are split over files and runs: any split gives the same lake as a single
file of all records in the order of their delivery."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import luigi
from conftest import HEADERS, LakeUnderTest, new_lake, sale
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

# Records with the same key and timestamp contradict each other, and the one delivered later counts. All files land on
# one date, because a record without a usable timestamp belongs to its landing date.
KEYS = [f"s{number}" for number in range(6)]
MOMENTS = [
    "2026-10-31T23:59:59.999999",
    "2026-11-01",
    "2026-11-01T10:00:00",
    "2026-11-01T10:00:00.5Z",
    "2026-11-05T08:00:00+03:00",
]


def line(key: str, moment: str, variant: int) -> str:
    number = sum(map(ord, key + moment)) + 7 * variant
    quantity = [1, 2, "3.0", "", "two", -4][number % 6]
    total = ["10.00", "", "99", "free"][number % 4]
    return sale(
        key, moment, quantity, "5.00", total, ["Home", "", "Books"][number % 3], ["completed", "refunded"][number % 2]
    )


records = st.lists(
    st.tuples(st.sampled_from([*KEYS, ""]), st.sampled_from([*MOMENTS, "", "soon"]), st.integers(0, 3)).map(
        lambda drawn: line(*drawn)
    ),
    min_size=1,
    max_size=16,
)


@st.composite
def arrangements(draw: st.DrawFn) -> list[list[list[str]]]:
    """A way to deliver records: a list of runs, each a list of files, each a list of lines."""
    files: list[list[str]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for text in draw(records):
        files[draw(st.integers(0, len(files) - 1))].append(text)
    runs: list[list[list[str]]] = [[] for _ in range(draw(st.integers(1, 3)))]
    for file in files:
        runs[draw(st.integers(0, len(runs) - 1))].append(file)
    return runs


def deliver_and_run(
    directory: Path, runs: list[list[list[str]]], *, backwards: bool = False, merging: str = "111"
) -> LakeUnderTest:
    """Deliver the files to a new lake run by run. `backwards` gives later files earlier names; `merging` says for each
    run whether it merges."""
    lake = new_lake(directory)
    os.chdir(directory)
    number = 30 if backwards else 0
    for files, merge in zip(runs, merging, strict=False):
        luigi.configuration.get_config().set("lake", "merge", merge.replace("1", "true").replace("0", "false"))
        for lines in files:
            number += -1 if backwards else 1
            lake.deliver("sales", f"sales_20261105_1200{number:02d}.csv", *lines)
        assert lake.run()
    return lake


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(arrangements(), st.booleans(), st.sampled_from(["111", "111", "000", "101", "110"]))
@example([[[sale("s1", quantity=1)]], [[sale("s2"), sale("s1", quantity=2)], [sale("s1", quantity=3)]]], True, "111")
@example([[[sale("s1", quantity=1)]], [[sale("s2"), sale("s1", quantity=2)], [sale("s1", quantity=3)]]], False, "111")
def test_any_split_order_repetition_and_interleaving_gives_the_same_lake(runs, backwards, merging):
    files = [lines for run in runs for lines in run]
    in_order = [line for lines in (files[::-1] if backwards else files) for line in lines]
    here = os.getcwd()
    try:
        with tempfile.TemporaryDirectory() as directory:
            at_once = deliver_and_run(Path(directory) / "once", [[in_order]]).content()
            piecemeal = deliver_and_run(Path(directory) / "pieces", runs, backwards=backwards, merging=merging)
            assert piecemeal.content() == at_once
    finally:
        luigi.configuration.get_config().remove_option("lake", "merge")
        os.chdir(here)


fields = st.text(alphabet=st.sampled_from("ab1 ,\"\n\r\t;'\\é€\u2028"), max_size=6)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200)
    | st.lists(st.lists(fields, max_size=13).map(",".join), max_size=8).map(lambda rows: "\n".join(rows).encode())
)
def test_whatever_bytes_follow_a_header_every_record_is_accounted_for(content):
    here = os.getcwd()
    try:
        with tempfile.TemporaryDirectory() as directory:
            lake = new_lake(Path(directory))
            os.chdir(directory)
            lake.deliver_bytes("sales", "sales_20261105_120000.csv", HEADERS["sales"].encode() + b"\n" + content)
            assert lake.run()
            assert lake.run()
            assert lake.ran_names("Silver") == []
            (landing,) = lake.landings("sales")
            silver = lake.footers("sales")
            if landing.rejected:
                assert b"\0" in content
                assert silver == []
            else:
                assert sum(footer["rows"] + footer["duplicates"] for footer in silver) == landing.records
                assert len(lake.silver()) == sum(footer["rows"] for footer in silver)
                # Only line ends make no record.
                assert landing.records > 0 or not content.replace(b"\n", b"").replace(b"\r", b"")
    finally:
        os.chdir(here)
