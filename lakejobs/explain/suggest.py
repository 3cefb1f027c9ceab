"""Suggestions: rules that a domain's rows keep almost always, each tried on every day.

They are proposals for a person, who knows what is meant: data cannot say that.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lakejobs.config import lake as settings
from lakejobs.engine import profiling
from lakejobs.engine.profiling import Held, Profile
from lakejobs.freshness.runs import Run
from lakejobs.messages import LakeError, counted
from lakejobs.model import Domain
from lakejobs.project import domains
from lakejobs.quality.suite import Suite, load_suite

ALMOST = 0.995
"""The share of rows that must keep a rule for it to be suggested."""
FEWEST = 20
"""Rows without which nothing is suggested."""
MOST_VALUES = 20
"""Values of a set."""
LITERAL = {"9": r"[0-9]", "A": r"[A-Z]", "a": r"[a-z]"}


@dataclass(frozen=True)
class Suggestion:
    """A rule, and how it held on the rows of silver."""

    code: str
    type: str
    kwargs: dict[str, Any]
    held: Held

    @property
    def note(self) -> str:
        """`held on 99.98% of 12,346 rows; would flip 6 (most fail on 2026-11-03: 4)`."""
        share = math.floor(self.held.share * 10_000) / 100
        said = f"held on {share:.4g}% of {counted(self.held.rows, 'row')}; would flip {self.held.flips:,}"
        if self.held.worst:
            said += f" (most fail on {self.held.worst}: {self.held.worst_failed:,})"
        return said

    def to_json(self) -> dict[str, Any]:
        """The rule as a suite has it."""
        return {
            "type": self.type,
            "kwargs": self.kwargs,
            "meta": {"code": self.code},
            "severity": "warning",
            "notes": f"Suggested: {self.note}.",
        }


def suggest(run: Run, name: str) -> list[Suggestion]:
    """Rules for a domain that its suite does not have, in the order of its columns."""
    domain, state = domains()[name], run.state(name)
    paths = {date.isoformat(): run.lake.silver(name, date) for date in sorted(state.silver)}
    local = dict(zip(paths, run.lake.store.on_disk(list(paths.values())), strict=True))
    rows = sum(footer.counts.rows for footer in state.silver.values())
    if rows < FEWEST:
        raise LakeError(f"{name} has {counted(rows, 'row')} in silver; suggestions need {FEWEST}")
    suite = load_suite(domain)
    with (
        run.lake.scratch("suggest") as spill,
        profiling.profiling(spill, settings().memory_limit, domain.columns, local) as profile,
    ):
        found = [one for one in _all(domain, profile) if one.held.rows >= FEWEST and one.held.share >= ALMOST]
    return [one for one in found if not _is_known(suite, one)]


def _is_known(suite: Suite, one: Suggestion) -> bool:
    """Whether the suite has a rule of this type for these columns."""

    def columns(kwargs: Any) -> set[str]:
        return {str(kwargs[key]) for key in ("column", "column_A", "column_B") if key in kwargs}

    return any(
        rule.code == one.code
        or (rule.type == one.type and columns(rule.content.get("kwargs") or {}) == columns(one.kwargs))
        for rule in suite.rules
    )


def _all(domain: Domain, profile: Profile) -> Iterator[Suggestion]:
    for name, kind in domain.columns.items():
        column = profile.column(name)
        yield Suggestion(
            f"NULL:{name}", "expect_column_values_to_not_be_null", {"column": name}, profile.held(f"{name} is not null")
        )
        if not column.values:
            continue
        family = kind.partition("(")[0]
        if family == "text":
            yield from _of_text(profile, name, column.distinct, column.values)
        if family in profiling.NUMBERS:
            yield from _of_number(profile, name, float(column.minimum))
        if (name,) != domain.keys and column.distinct > 0.9 * column.values:
            yield Suggestion(
                f"REPEATED:{name}",
                "expect_column_values_to_be_unique",
                {"column": name},
                profile.held(f"count(*) over (partition by day_, {name}) = 1", f"{name} is not null"),
            )
        if family in profiling.ORDERED and column.distinct > 2:
            before = f"lag({name}) over (partition by day_ order by place_)"
            yield Suggestion(
                f"ORDER:{name}",
                "expect_column_values_to_be_increasing",
                {"column": name},
                profile.held(f"{before} is null or {name} >= {before}", f"{name} is not null"),
            )
    yield from _of_pairs(domain, profile)


def _of_text(profile: Profile, name: str, distinct: int, values: int) -> Iterator[Suggestion]:
    if distinct <= 2 * MOST_VALUES:
        frequent = [
            value for value, count in profile.frequent(name, MOST_VALUES) if count >= max(2, (1 - ALMOST) * values / 10)
        ]
        if len(frequent) > 1:
            yield Suggestion(
                f"UNKNOWN:{name}",
                "expect_column_values_to_be_in_set",
                {"column": name, "value_set": sorted(frequent)},
                profile.held(profiling.is_among(name, frequent), f"{name} is not null"),
            )
            return
    shapes = profile.shapes(name, 2)
    shape, count, least, greatest = shapes[0]
    if count >= ALMOST * values and re.search("[9Aa]", shape) and len(shape) <= 40:
        pattern = f"^{_pattern(shape)}$"
        yield Suggestion(
            f"FORMAT:{name}",
            "expect_column_values_to_match_regex",
            {"column": name, "regex": pattern},
            profile.held(profiling.matches(name, pattern), f"{name} is not null"),
        )
        if least == greatest:
            yield Suggestion(
                f"LENGTH:{name}",
                "expect_column_value_lengths_to_equal",
                {"column": name, "value": least},
                profile.held(f"length({name}) = {least}", f"{name} is not null"),
            )


def _pattern(shape: str) -> str:
    return "".join(f"{LITERAL[one]}+" if one in LITERAL else re.escape(one) for one in shape)


def _of_number(profile: Profile, name: str, minimum: float) -> Iterator[Suggestion]:
    limits: dict[str, Any] = {}
    condition = []
    if profile.held(f"{name} > 0", f"{name} is not null").share >= ALMOST:
        limits |= {"min_value": 0, "strict_min": True}
        condition.append(f"{name} > 0")
    elif profile.held(f"{name} >= 0", f"{name} is not null").share >= ALMOST:
        limits |= {"min_value": 0}
        condition.append(f"{name} >= 0")
    high = profile.quantile(name, 0.999)
    if high > 0:
        most = 10.0 ** math.ceil(math.log10(high) + 0.5)
        limits["max_value"] = int(most) if most.is_integer() else most
        condition.append(f"{name} <= {limits['max_value']}")
    if limits:
        yield Suggestion(
            f"RANGE:{name}",
            "expect_column_values_to_be_between",
            {"column": name, **limits},
            profile.held(" and ".join(condition), f"{name} is not null"),
        )


def _of_pairs(domain: Domain, profile: Profile) -> Iterator[Suggestion]:
    """Of two columns of one kind whose ranges overlap, one that is hardly ever less than the other."""
    known = {name: profile.column(name) for name, kind in domain.columns.items() if _family(kind) in profiling.ORDERED}
    for one, other in itertools.permutations(known, 2):
        alike = _group(domain.columns[one]) == _group(domain.columns[other])
        a, b = known[one], known[other]
        if not alike or not a.values or not b.values or float_of(a.minimum) >= float_of(b.maximum):
            continue
        held = profile.held(f"{one} >= {other}", f"{one} is not null and {other} is not null")
        if held.share >= ALMOST:
            yield Suggestion(
                f"LESS:{one}:{other}",
                "expect_column_pair_values_a_to_be_greater_than_b",
                {"column_A": one, "column_B": other, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
                held,
            )


def float_of(value: Any) -> float:
    """A number or a moment, to compare with others of its kind."""
    return float(value) if isinstance(value, int | float) or not hasattr(value, "toordinal") else value.toordinal()


def _family(kind: str) -> str:
    return kind.partition("(")[0]


def _group(kind: str) -> str:
    return "number" if _family(kind) in profiling.NUMBERS else _family(kind)


def suite_of(name: str, found: list[Suggestion]) -> dict[str, Any]:
    """The suggestions as a suite."""
    return {"name": name, "expectations": [one.to_json() for one in found]}
