"""How Great Expectations sees dates and decimals, for which pandas has no types.

A date becomes the timestamp of its midnight, so both can be compared with a day or a timestamp in a suite, in NumPy's
time. A decimal becomes a double where it is compared with numbers in a suite, with other numbers, or with
itself over the whole table, because those are doubles: 1.10 is 1.1. Where its digits matter, it stays what pandas reads
from silver's file, a `decimal.Decimal`: two decimals are equal if all their digits are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lakejobs.model import Domain

if TYPE_CHECKING:
    import pandas as pd

# Expectations for which a decimal is more than a quantity: they check uniqueness, NULL, order, type or text.
EXACT = {
    "expect_column_values_to_be_unique",
    "expect_compound_columns_to_be_unique",
    "expect_column_values_to_be_null",
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_decreasing",
    "expect_column_value_lengths_to_be_between",
    "expect_column_value_lengths_to_equal",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_match_regex_list",
    "expect_column_values_to_not_match_regex",
    "expect_column_values_to_not_match_regex_list",
}
# So do these, if all of their columns are decimals.
COMPARING = {
    "expect_column_pair_values_to_be_equal",
    "expect_column_pair_values_a_to_be_greater_than_b",
    "expect_multicolumn_values_to_be_equal",
    "expect_select_column_values_to_be_unique_within_record",
}
QUANTITIES = {"value_set", "min_value", "max_value"}


class Rule(Protocol):
    @property
    def type(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...


def seen_by(rules: Sequence[Any], frame: pd.DataFrame, domain: Domain) -> Iterator[tuple[list[Any], pd.DataFrame]]:
    """The rules, in groups that see the same frame. Columns that only mark where a value is stay as they are."""
    import numpy as np
    import pandas as pd

    kinds = {name: domain.columns.get(name, "number") for name in frame.columns if frame[name].dtype == object}
    dates = {
        name: pd.Series(frame[name].to_numpy().astype("datetime64[s]"), frame.index)
        for name, kind in kinds.items()
        if kind == "date"
    }
    decimals = [name for name, kind in kinds.items() if kind.startswith("decimal")]
    if dates:
        frame = frame.assign(**dates)
    if not decimals:
        yield list(rules), frame
        return
    exact = [rule for rule in rules if is_exact(rule, domain)]
    if exact:
        yield exact, frame
    if others := [rule for rule in rules if rule not in exact]:
        yield others, frame.assign(**{name: frame[name].astype(np.float64) for name in decimals})


def is_exact(rule: Rule, domain: Domain) -> bool:
    """Whether a rule sees decimals unconverted."""
    if rule.type in COMPARING:
        return all(domain.columns.get(name, "number").startswith("decimal") for name in rule.columns)
    return rule.type in EXACT


def arguments(domain: Domain, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """An expectation's arguments, with days and numbers in text converted for comparison with dates and decimals."""
    kind = domain.columns.get(given.get("column", ""), "")
    if kind == "date":
        return {name: _each(value, _moment) if name == "value_set" else value for name, value in given.items()}
    if kind.startswith("decimal"):
        return {name: _each(value, float) if name in QUANTITIES else value for name, value in given.items()}
    return given


def _moment(text: str) -> dt.datetime:
    """The beginning of a day."""
    return dt.datetime.combine(dt.date.fromisoformat(text), dt.time())


def _each(value: Any, read: Callable[[str], Any]) -> Any:
    """Convert a value, or those of a list, from text with `read`; text that it cannot read stays."""
    if isinstance(value, list):
        return [_each(one, read) for one in value]
    try:
        return read(value) if isinstance(value, str) else value
    except ValueError:
        return value
