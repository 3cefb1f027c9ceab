"""Suites: the rules of a domain, in Great Expectations' own JSON.

`expectations/<domain>.json` is the only place a rule is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lakejobs import project
from lakejobs.config import lake as settings
from lakejobs.messages import LakeError
from lakejobs.model import Domain

SEVERITIES = ("critical", "warning", "info")
WORDS = ("id", "description", "notes", "rendered_content")
"""Parts of an expectation that tell of it and decide nothing."""
# About the columns of a table rather than what is in them: a name that the domain lacks is for them to judge.
SHAPE = re.compile("expect_table_.*|expect_column_to_exist")


@dataclass(frozen=True)
class Rule:
    """One expectation of a suite, as written."""

    position: int
    type: str
    code: str
    severity: str
    columns: tuple[str, ...]
    """Columns it has to see: those that its arguments name, or all of the domain's where it is about the table."""
    content: Mapping[str, Any]
    is_about_table: bool = False

    @property
    def mostly(self) -> float:
        """The share of rows that have to pass."""
        return float((self.content.get("kwargs") or {}).get("mostly", 1))

    @property
    def hash(self) -> str:
        """Changes with what decides a verdict, and not with notes or other words about the rule."""
        decisive = {key: value for key, value in self.content.items() if key not in WORDS} | {
            "kwargs": self.content.get("kwargs") or {},
            "meta": {"code": self.code},
            "severity": self.severity,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_across(self) -> bool:
        """Whether it compares columns with each other."""
        return any(argument in (self.content.get("kwargs") or {}) for argument in ("column_A", "column_list"))

    def __str__(self) -> str:
        return f"{self.code} ({self.type})"


@dataclass(frozen=True)
class Suite:
    """The rules of a domain, in the suite's order."""

    domain: str
    path: str
    rules: tuple[Rule, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


def suite_path(domain: str) -> str:
    """Where a domain's suite is: in `[lake] expectations`, or where the domain comes from lakejobs, beside it."""
    own = f"{settings().expectations}/{domain}.json"
    return own if project.exists(own) else project.shipped_suite(domain) or own


def rule_hashes(domain: Domain) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes by code of the critical rules, in the suite's order, and of the others.

    Never fails: a suite that cannot be loaded has one rule without a code, whose hash is the reason.
    """
    try:
        rules = load_suite(domain).rules
    except (LakeError, RecursionError) as error:
        return {"": f"broken: {error}"}, {}
    critical = {rule.code: rule.hash for rule in rules if rule.severity == "critical"}
    return critical, {rule.code: rule.hash for rule in rules if rule.code not in critical}


def load_suite(domain: Domain) -> Suite:
    """Read a suite and check all that can be checked without Great Expectations.

    Raises LakeError naming the file and the rule: missing or broken JSON, a rule without a code or with another's,
    an unknown severity, a column that the domain does not have.
    """
    path = suite_path(domain.name)
    if not project.exists(path):
        raise LakeError(f"{path} is missing: every domain needs a suite of rules, even an empty one")
    try:
        content = json.loads(project.read_text(path))
    except json.JSONDecodeError as error:
        raise LakeError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(content, dict) or not isinstance(content.get("expectations"), list):
        raise LakeError(f'{path} is not a suite: it needs "name" and a list of "expectations"')
    rules = tuple(_rule(path, domain, position, rule) for position, rule in enumerate(content["expectations"], start=1))
    positions: dict[str, int] = {}
    for rule in rules:
        # Rows, counts and partitions withheld are told by code alone.
        if (first := positions.setdefault(rule.code, rule.position)) != rule.position:
            raise LakeError(f"{path}, expectations {first} and {rule.position}: both have the code {rule.code!r}")
    return Suite(domain.name, path, rules, content.get("meta") or {})


def _rule(path: str, domain: Domain, position: int, content: Any) -> Rule:
    where = f"{path}, expectation {position}"
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise LakeError(f'{where}: it has no "type"')
    where += f" ({content['type']})"
    for part in ("kwargs", "meta"):
        if not isinstance(content.get(part) or {}, dict):
            raise LakeError(f'{where}: "{part}" has to be an object in braces')
    code = (content.get("meta") or {}).get("code")
    if not isinstance(code, str) or not code or "; " in code:
        raise LakeError(f'{where}: "meta" needs a "code", the name that rows that fail it are marked with')
    severity = content.get("severity", "critical")
    if severity not in SEVERITIES:
        raise LakeError(f"{where}: severity {severity!r} is none of {', '.join(SEVERITIES)}")
    arguments = content.get("kwargs") or {}
    named = [arguments[key] for key in ("column", "column_A", "column_B") if key in arguments]
    if not isinstance(column_list := arguments.get("column_list", []), list):
        raise LakeError(f'{where}: "column_list" has to be a list')
    named += column_list
    is_shape = SHAPE.fullmatch(content["type"]) is not None
    for column in named:
        if column not in domain.rule_columns and not is_shape:
            raise LakeError(f"{where}: {domain.name} has no column {column!r}; it has {', '.join(domain.rule_columns)}")
    # A row condition names columns within its text.
    is_about_table = is_shape or not named
    words = set(re.findall(r"\w+", json.dumps(arguments.get("row_condition") if is_about_table else arguments)))
    if is_about_table:
        words |= {*domain.columns}
    columns = tuple(column for column in domain.rule_columns if column in words)
    return Rule(position, content["type"], code, severity, columns, content, is_about_table)
