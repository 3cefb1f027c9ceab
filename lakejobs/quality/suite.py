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
from lakejobs.config import EXPECTATIONS
from lakejobs.config import lake as settings
from lakejobs.messages import LakeError
from lakejobs.model import Domain
from lakejobs.quality import contracts

SEVERITIES = ("critical", "warning", "info")
BROKEN = "broken: "
"""How the hash of a suite that cannot be loaded begins; the rest is the error."""
WORDS = ("id", "description", "notes", "rendered_content")
"""Parts of an expectation that describe it and do not affect its verdict."""
# Expectations about which columns a table has: they may name columns that the domain lacks.
SHAPE = re.compile("expect_table_.*|expect_column_to_exist")


@dataclass(frozen=True)
class Rule:
    """One expectation of a suite, as written."""

    position: int
    type: str
    code: str
    severity: str
    columns: tuple[str, ...]
    """Columns it needs: those named in its arguments, or all of the domain's if it is about the table."""
    content: Mapping[str, Any]
    is_about_table: bool = False

    @property
    def mostly(self) -> float:
        """The share of rows that must pass."""
        return float((self.content.get("kwargs") or {}).get("mostly", 1))

    @property
    def decisive(self) -> dict[str, Any]:
        """Whatever affects a verdict, without notes or other text about the rule."""
        return {key: value for key, value in self.content.items() if key not in WORDS} | {
            "kwargs": self.content.get("kwargs") or {},
            "meta": {"code": self.code},
            "severity": self.severity,
        }

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()[:16]

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
    """The path of a domain's suite: in `[lake] expectations`, or, for a domain shipped with lakejobs, next to it."""
    own = f"{settings().expectations}/{domain}.json"
    return own if project.exists(own) else project.shipped_suite(domain) or own


def check_directory(domain: str) -> None:
    """Raise LakeError if `[lake] expectations` does not exist, unless nobody set it and the domain brings its suite."""
    directory = settings().expectations
    if project.exists(f"{directory}/") or (directory == EXPECTATIONS and project.shipped_suite(domain)):
        return
    raise LakeError(
        f"the directory {directory} does not exist: create it, with a suite for each domain, "
        f"{directory}/<domain>.json, or set another one with [lake] expectations or --lake-expectations"
    )


def rule_hashes(domain: Domain) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of the critical rules by code, in the suite's order, and of the other rules.

    Never fails: for a suite that cannot be loaded, there is one rule without a code, and the error is its hash.
    """
    try:
        rules = load_suite(domain).rules
    except (LakeError, RecursionError) as error:
        return {"": f"{BROKEN}{error}"}, {}
    critical = {rule.code: rule.hash for rule in rules if rule.severity == "critical"}
    return critical, {rule.code: rule.hash for rule in rules if rule.code not in critical}


def rule_texts(domain: Domain) -> dict[str, Any]:
    """What was hashed of each rule, by code; empty for a suite that cannot be loaded."""
    try:
        return {rule.code: rule.decisive for rule in load_suite(domain).rules}
    except (LakeError, RecursionError):
        return {}


def load_suite(domain: Domain) -> Suite:
    """Read a suite and check everything that can be checked without Great Expectations.

    Raises LakeError, with the file and the rule, for missing or broken JSON, a missing or duplicate code, an unknown
    severity, a column that the domain does not have, or a broken contract beside it.
    """
    contracts.read(domain)
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
        # Rows, counts and withheld partitions name a rule by its code alone.
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
            raise LakeError(f'{where}: "{part}" must be an object in braces')
    code = (content.get("meta") or {}).get("code")
    if not isinstance(code, str) or not code or "; " in code:
        raise LakeError(f'{where}: "meta" needs a "code" (text without "; ") to mark failing rows with')
    severity = content.get("severity", "critical")
    if severity not in SEVERITIES:
        raise LakeError(f"{where}: severity {severity!r}: expected one of {', '.join(SEVERITIES)}")
    arguments = content.get("kwargs") or {}
    named = [arguments[key] for key in ("column", "column_A", "column_B") if key in arguments]
    if not isinstance(column_list := arguments.get("column_list", []), list):
        raise LakeError(f'{where}: "column_list" must be a list')
    named += column_list
    is_shape = SHAPE.fullmatch(content["type"]) is not None
    for column in named:
        if column not in domain.rule_columns and not is_shape:
            raise LakeError(f"{where}: {domain.name} has no column {column!r}; it has {', '.join(domain.rule_columns)}")
    # A row condition names columns in its text.
    is_about_table = is_shape or not named
    words = set(re.findall(r"\w+", json.dumps(arguments.get("row_condition") if is_about_table else arguments)))
    if is_about_table:
        words |= {*domain.columns}
    columns = tuple(column for column in domain.rule_columns if column in words)
    return Rule(position, content["type"], code, severity, columns, content, is_about_table)
