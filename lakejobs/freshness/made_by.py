"""What determines the files besides their inputs: rules, SQL, settings and the version of the code."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lakejobs.config import lake as settings
from lakejobs.engine import Reading, sql
from lakejobs.messages import LakeError, few
from lakejobs.model import Domain, digest
from lakejobs.project import domains
from lakejobs.quality import suite

SILVER_VERSION = 3
GOLD_VERSION = 4
"""Raise one when a change to Python code changes the rows; SQL, rules and settings are hashed. A test compares a
fingerprint of the output with the versions."""


def reading_of(domain: Domain) -> Reading:
    """How a domain's files are read, according to the settings."""
    section = settings()
    if unknown := [name for name in section.timestamp_formats if name not in domains()]:
        known = ", ".join(domains())
        raise LakeError(f"[lake] timestamp_formats: unknown domain {few(unknown)}; known domains: {known}")
    return Reading(domain, section.earliest_date, tuple(section.timestamp_formats.get(domain.name, ())))


@dataclass(frozen=True)
class MadeBy:
    """Everything besides bronze that determines the rows of a domain's silver files."""

    rules: Mapping[str, str]
    """Hashes of the critical rules by code, in the suite's order."""
    warnings: Mapping[str, str]
    """Hashes of the other rules by code: they change what is reported, but no row."""
    sql: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, reading: Reading) -> MadeBy:
        rules, warnings = suite.rule_hashes(reading.domain)
        return cls(rules, warnings, sql.hashes(reading), reading.settings)

    @functools.cached_property
    def rules_hash(self) -> str:
        return digest([SILVER_VERSION, list(self.rules.items()), list(self.sql.items())])

    @functools.cached_property
    def warnings_hash(self) -> str:
        return digest(list(self.warnings.items()))

    def to_json(self) -> dict[str, Any]:
        return {"version": SILVER_VERSION, **asdict(self)}

    def difference(self, old: Mapping[str, Any]) -> str:
        """Describe what changed since a file with this lineage was built."""
        said = []
        before, now = {**old["rules"], **old["warnings"]}, {**self.rules, **self.warnings}
        for what, codes in (
            ("new", [code for code in now if code not in before]),
            ("removed", [code for code in before if code not in now]),
            ("changed", [code for code in now if code in before and now[code] != before[code]]),
        ):
            if codes := [code for code in codes if code]:
                said.append(f"{what} rule{'s' if len(codes) > 1 else ''} {few(codes)}")
        changed = [name for name, value in self.settings.items() if old["settings"].get(name) != value]
        if changed:
            said.append(f"[lake] {few(changed)} changed")
        elif dict(self.sql) != old["sql"]:
            said.append("the domain or lakejobs itself changed")
        return "; ".join(said) or "the order of the rules changed"


def needed_columns(domain: Domain) -> dict[str, str]:
    """Columns whose absence changes the result, and why."""
    needed = {correction.column: "so it is computed where possible" for correction in domain.corrections}
    with contextlib.suppress(LakeError):  # a broken suite is reported where it is used
        for rule in suite.load_suite(domain).rules:
            if rule.severity == "critical":
                for column in rule.columns:
                    needed.setdefault(column, f"which the rule {rule.code} needs")
    return needed
