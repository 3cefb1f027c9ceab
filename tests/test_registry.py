"""Every expectation in Great Expectations' registry gives Great Expectations' own verdict, through the command line."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import HEADERS, PROJECT, LakeUnderTest

# Arguments for each expectation, with columns of inventory, so that some of the rows fail.
TEXT, NUMBER, OTHER = "product_name", "quantity", "unit_cost"
BETWEEN = {"column": NUMBER, "min_value": 2, "max_value": 5}
PAIR = {"column_A": NUMBER, "column_B": OTHER}
COLUMNS = HEADERS["inventory"].split(",")
SAMPLES: dict[str, dict[str, Any]] = {
    "expect_column_distinct_values_to_be_in_set": {"column": TEXT, "value_set": ["Lamp", "Stool"]},
    "expect_column_distinct_values_to_contain_set": {"column": TEXT, "value_set": ["Lamp", "Sofa"]},
    "expect_column_distinct_values_to_equal_set": {"column": "warehouse_id", "value_set": ["W1", "W2"]},
    "expect_column_kl_divergence_to_be_less_than": {
        "column": "warehouse_id", "partition_object": {"values": ["W1", "W2"], "weights": [0.5, 0.5]}, "threshold": 0.5,
    },
    "expect_column_max_to_be_between": BETWEEN,
    "expect_column_mean_to_be_between": BETWEEN,
    "expect_column_median_to_be_between": BETWEEN,
    "expect_column_min_to_be_between": BETWEEN,
    "expect_column_most_common_value_to_be_in_set": {"column": TEXT, "value_set": ["Lamp"]},
    "expect_column_pair_values_a_to_be_greater_than_b": {**PAIR, "ignore_row_if": "either_value_is_missing"},
    "expect_column_pair_values_to_be_equal": {**PAIR, "ignore_row_if": "either_value_is_missing"},
    "expect_column_pair_values_to_be_in_set": {
        **PAIR, "value_pairs_set": [[1, 1.5], [2, 2.0]], "ignore_row_if": "both_values_are_missing",
    },
    "expect_column_proportion_of_non_null_values_to_be_between": {"column": NUMBER, "min_value": 0.95},
    "expect_column_proportion_of_unique_values_to_be_between": {"column": TEXT, "min_value": 0.1, "max_value": 0.9},
    "expect_column_quantile_values_to_be_between": {
        "column": NUMBER, "quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[0, 2], [3, 4]]},
    },
    "expect_column_stdev_to_be_between": BETWEEN,
    "expect_column_sum_to_be_between": BETWEEN,
    "expect_column_to_exist": {"column": "colour"},
    "expect_column_type_to_be": {"column": NUMBER, "type_": "float64"},
    "expect_column_unique_value_count_to_be_between": BETWEEN,
    "expect_column_value_lengths_to_be_between": {"column": TEXT, "min_value": 5, "max_value": 6},
    "expect_column_value_lengths_to_equal": {"column": TEXT, "value": 4},
    "expect_column_value_z_scores_to_be_less_than": {"column": NUMBER, "threshold": 1.5, "double_sided": True},
    "expect_column_values_to_be_between": BETWEEN,
    "expect_column_values_to_be_dateutil_parseable": {"column": TEXT},
    "expect_column_values_to_be_decreasing": {"column": OTHER},
    "expect_column_values_to_be_in_set": {"column": TEXT, "value_set": ["Lamp"]},
    "expect_column_values_to_be_in_type_list": {"column": NUMBER, "type_list": ["int64", "float64"]},
    "expect_column_values_to_be_increasing": {"column": OTHER},
    "expect_column_values_to_be_json_parseable": {"column": TEXT},
    "expect_column_values_to_be_null": {"column": NUMBER},
    "expect_column_values_to_be_of_type": {"column": NUMBER, "type_": "float64"},
    "expect_column_values_to_be_unique": {"column": TEXT},
    # Great Expectations raises an error for text that is not JSON.
    "expect_column_values_to_match_json_schema": {"column": "supplier_id", "json_schema": {"maximum": 5}},
    "expect_column_values_to_match_regex": {"column": TEXT, "regex": "^L"},
    "expect_column_values_to_match_regex_list": {"column": TEXT, "regex_list": ["^L", "^2"]},
    "expect_column_values_to_match_strftime_format": {"column": TEXT, "strftime_format": "%Y-%m-%d"},
    "expect_column_values_to_not_be_in_set": {"column": TEXT, "value_set": ["Lamp"]},
    "expect_column_values_to_not_be_null": {"column": NUMBER},
    "expect_column_values_to_not_be_outliers": {"column": NUMBER, "method": "iqr", "multiplier": 1.5},
    "expect_column_values_to_not_match_regex": {"column": TEXT, "regex": "^L"},
    "expect_column_values_to_not_match_regex_list": {"column": TEXT, "regex_list": ["^L", "^2"]},
    "expect_compound_columns_to_be_unique": {"column_list": [TEXT, "warehouse_id"], "ignore_row_if": "never"},
    "expect_multicolumn_sum_to_equal": {
        "column_list": [NUMBER, OTHER], "sum_total": 4, "ignore_row_if": "any_value_is_missing",
    },
    "expect_multicolumn_values_to_be_equal": {
        "column_list": [NUMBER, OTHER], "ignore_row_if": "any_value_is_missing",
    },
    "expect_select_column_values_to_be_unique_within_record": {
        "column_list": [NUMBER, OTHER], "ignore_row_if": "any_value_is_missing",
    },
    "expect_table_column_count_to_be_between": {"min_value": len(COLUMNS) + 1},
    "expect_table_column_count_to_equal": {"value": len(COLUMNS)},
    "expect_table_columns_to_match_ordered_list": {"column_list": COLUMNS},
    "expect_table_columns_to_match_set": {"column_set": [*COLUMNS, "colour"]},
    "expect_table_row_count_to_be_between": {"max_value": 9},
    "expect_table_row_count_to_equal": {"value": 10},
}  # fmt: skip
# Great Expectations supports these on databases only.
ONLY_SQL: dict[str, dict[str, Any]] = {
    "expect_column_values_to_match_like_pattern": {"column": TEXT, "like_pattern": "L%"},
    "expect_column_values_to_match_like_pattern_list": {"column": TEXT, "like_pattern_list": ["L%"]},
    "expect_column_values_to_not_match_like_pattern": {"column": TEXT, "like_pattern": "L%"},
    "expect_column_values_to_not_match_like_pattern_list": {"column": TEXT, "like_pattern_list": ["L%"]},
    "expect_query_results_to_match_comparison": {
        "base_query": "select 1", "comparison_data_source_name": "other", "comparison_query": "select 1",
    },
    "expect_table_row_count_to_equal_other_table": {"other_table_name": "other"},
    "unexpected_rows_expectation": {"unexpected_rows_query": "select * from {batch}"},
}  # fmt: skip

ROWS = [
    "m01,2026-11-01T10:00:00,P1,Lamp,W1,inbound,1,1.50,1",
    "m02,2026-11-01T10:00:00,P1,Lamp,W1,inbound,2,2.00,1",
    "m03,2026-11-01T10:00:00,P1,Stool,W1,inbound,2,1.00,1",
    "m04,2026-11-01T10:00:00,P1,,W2,inbound,,1.00,1",
    "m05,2026-11-01T10:00:00,P1,2026-11-01,W1,inbound,3,,1",
    "m06,2026-11-01T10:00:00,P1,17,W1,inbound,3,3.00,12",
    "m07,2026-11-01T10:00:00,P1,Table,W1,inbound,2,3.00,12",
    "m08,2026-11-01T10:00:00,P1,Chair,W2,inbound,900,4.00,1",
    "m09,2026-11-01T10:00:00,P1,Bench,W1,inbound,3,1.00,1",
    "m10,2026-11-01T10:00:00,P1,Shelf,W1,inbound,2,5.00,1",
]
DEGENERATE = {
    "of one row": ["n1,2026-10-01T10:00:00,P1,Lamp,W1,inbound,1,1.50,1"],
    "of NULLs": ["n2,2026-10-02T10:00:00,,,,,,,", "n3,2026-10-02T10:00:00,,,,,,,"],
    "of equal rows": [f"n{n},2026-10-03T10:00:00,P1,Lamp,W1,inbound,1,1.50,1" for n in (4, 5)],
    "of a malformed line": ["malformed"],
}


@pytest.fixture(scope="module", autouse=True)
def _import_all() -> None:
    """Earlier tests of this process may have imported only the expectations that their rules use."""
    core = importlib.import_module("great_expectations.expectations.core")
    for name in getattr(core, "modules", ()):
        getattr(core, name)


def registered() -> set[str]:
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    return set(list_registered_expectation_implementations())


def test_every_registered_expectation_has_a_sample():
    assert registered() == {*SAMPLES, *ONLY_SQL}


def write_suite(lake: LakeUnderTest, rules: dict[str, dict[str, Any]], row_level: set[str]) -> None:
    """Write a suite whose codes are the rules' types. Rules about the table are warnings, to withhold nothing."""
    expectations = [
        {
            "type": kind,
            "kwargs": arguments,
            "severity": "critical" if kind in row_level else "warning",
            "meta": {"code": kind},
        }
        for kind, arguments in rules.items()
    ]
    (lake.root / "expectations/inventory.json").write_text(
        json.dumps({"name": "inventory", "expectations": expectations})
    )


def run(lake: LakeUnderTest) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("luigi"), "--module", "lakejobs", "GoldAll", "--local-scheduler"]
    return subprocess.run(
        command, cwd=lake.root, capture_output=True, text=True, env={"LUIGI_CONFIG_PATH": str(PROJECT / "luigi.cfg")}
    )


def plain(frame: pd.DataFrame, rules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The results of Great Expectations, called as its documentation says."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.pandas_default.read_dataframe(frame)
    expectations = [{"type": kind, "kwargs": arguments} for kind, arguments in rules.items()]
    suite = gx.ExpectationSuite(name="plain", expectations=expectations)
    assert len(suite.expectations) == len(rules)
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    results = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    return {result.expectation_config.type: result for result in results.results}


def raised(result: Any) -> bool:
    nested = [result.exception_info, *(v for v in result.exception_info.values() if isinstance(v, dict))]
    return any(info.get("raised_exception") for info in nested)


def partition(lake: LakeUnderTest, date: str) -> pd.DataFrame:
    """The judged rows of a partition, in order."""
    rows = pd.read_parquet(lake.partition(date, "inventory"))
    return rows[rows["movement_id"].notna()].reset_index(drop=True)


def marked(rows: pd.DataFrame, code: str) -> list[int]:
    codes = rows["validation_errors"].fillna("").str.split("; ")
    return [number for number, found in enumerate(codes) if code in found]


def test_every_expectation_gives_the_verdict_of_plain_great_expectations(lake):
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import get_expectation_impl

    maps = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    # For these, plain Great Expectations names no rows either.
    by_type = {"expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list"}
    row_level = {kind for kind in SAMPLES if issubclass(get_expectation_impl(kind), maps)} - by_type
    write_suite(lake, SAMPLES, row_level)
    lake.deliver("inventory", "inventory_20261101_120000.csv", *ROWS)
    done = run(lake)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    (page,) = (lake.root / "datalake/quality/data_docs/validations/inventory").glob("*.html")
    # Of a column that is there, and of a set that is as expected, Great Expectations reports nothing.
    assert page.read_text().count(">--<") == 2
    rows = partition(lake, "2026-11-01")
    expected = plain(rows[COLUMNS], SAMPLES)
    (stored,) = (lake.root / "datalake/quality/validations/inventory").glob("inventory_*.json")
    found = {rule["expectation_config"]["type"]: rule for rule in json.loads(stored.read_text())["results"]}
    for kind, result in expected.items():
        assert not raised(result), (kind, result.exception_info)
        assert found[kind]["success"] == result.success, (kind, found[kind]["result"], result.result)
        if kind in row_level:
            assert found[kind]["result"]["unexpected_count"] == result.result["unexpected_count"], kind
            assert marked(rows, kind) == sorted(result.result["unexpected_index_list"] or []), kind
    assert {result.success for result in expected.values()} == {True, False}

    # Also in partitions with little or nothing to judge, all in one run.
    lake.deliver(
        "inventory", "inventory_20261004_120000.csv", *(line for lines in DEGENERATE.values() for line in lines)
    )
    done = run(lake)
    assert done.returncode == 0, done.stderr
    for day in (1, 2, 3):
        rows = partition(lake, f"2026-10-0{day}")
        for kind, result in plain(rows[COLUMNS], SAMPLES).items():
            if kind in row_level:
                unexpected = [] if raised(result) else sorted(result.result.get("unexpected_index_list") or [])
                assert marked(rows, kind) == unexpected, (day, kind, result.result)


@pytest.mark.parametrize("kind", ONLY_SQL)
def test_what_is_for_databases_alone_says_so(lake, kind):
    write_suite(lake, {kind: ONLY_SQL[kind]}, set())
    lake.deliver("inventory", "inventory_20261101_120000.csv", *ROWS)
    done = run(lake)
    assert done.returncode == 30
    assert f"{kind} ({kind}) could not be evaluated: it needs an SQL database" in done.stderr
    assert "Traceback" not in done.stderr


SHORT_IMPORT = """
import sys
from lakejobs.quality import importing
importing.GATHERING += tuple(sys.argv[1:])
importing.import_great_expectations()
from great_expectations.expectations.registry import _registered_expectations as registered
print(len(registered))
for kind in sys.stdin.read().split():
    importing.import_expectation(kind)
print(*registered)
"""


@pytest.mark.parametrize(
    ("package", "is_short"),
    [([], True), (["great_expectations"], False)],
    ids=["this version", "a version whose packages define what they did not"],
)
def test_the_short_import_has_every_expectation(package, is_short):
    command = [sys.executable, "-c", SHORT_IMPORT, *package]
    done = subprocess.run(command, input="\n".join([*registered(), "no_such"]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    at_once, found = done.stdout.splitlines()
    assert set(found.split()) == registered()
    assert (int(at_once) < len(registered())) == is_short
