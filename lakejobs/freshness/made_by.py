"""What determines the files besides their inputs: rules, SQL, settings and the version of the code."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lakejobs.config import lake as settings
from lakejobs.engine import Reading, sql
from lakejobs.messages import LakeError, few
from lakejobs.model import Cause, Domain, digest
from lakejobs.project import domains
from lakejobs.quality import suite
from lakejobs.quality.contracts import Contracts

SILVER_VERSION = 3
GOLD_VERSION = 4
"""Raise one when a change to Python code changes the rows; SQL, rules and settings are hashed. A test compares a
fingerprint of the output with the versions."""


def reading_of(domain: Domain, contracts: Contracts = Contracts()) -> Reading:  # noqa: B008
    """How a domain's files are read, according to the settings and the contracts."""
    section = settings()
    if unknown := [name for name in section.timestamp_formats if name not in domains()]:
        known = ", ".join(domains())
        raise LakeError(f"[lake] timestamp_formats: unknown domain {few(unknown)}; known domains: {known}")
    formats = tuple(section.timestamp_formats.get(domain.name, ()))
    return Reading(domain, section.earliest_date, formats, contracts.marks)


@dataclass(frozen=True)
class MadeBy:
    """Everything besides bronze that determines the rows of a domain's silver files."""

    rules: Mapping[str, str]
    """Hashes of the critical rules by code, in the suite's order."""
    warnings: Mapping[str, str]
    """Hashes of the other rules by code: they change what is reported, but no row."""
    sql: Mapping[str, str]
    settings: Mapping[str, Any]
    texts: Mapping[str, Any] = field(default_factory=dict)
    """The rules by code, as they were hashed: never compared, so that a difference can be shown."""
    declared: Mapping[str, Any] = field(default_factory=dict)
    """What the domain's module declares, for the same purpose."""

    @classmethod
    def of(cls, reading: Reading) -> MadeBy:
        rules, warnings = suite.rule_hashes(reading.domain)
        texts = suite.rule_texts(reading.domain)
        return cls(rules, warnings, sql.hashes(reading), reading.settings, texts, reading.domain.declared)

    @functools.cached_property
    def rules_hash(self) -> str:
        return digest([SILVER_VERSION, list(self.rules.items()), list(self.sql.items())])

    @functools.cached_property
    def warnings_hash(self) -> str:
        return digest(list(self.warnings.items()))

    def to_json(self) -> dict[str, Any]:
        return {"version": SILVER_VERSION, **asdict(self)}

    def causes(self, old: Mapping[str, Any]) -> list[Cause]:
        """What changed since a file with this lineage was built. Names and texts; nothing if nothing changed."""
        if old["version"] != SILVER_VERSION:
            version = f"version {old['version']}, now {SILVER_VERSION}"
            return [Cause("version", "silver", f"built by an earlier version of lakejobs ({version})")]
        if "" in self.rules:
            return [Cause("suite", "", self.rules[""].removeprefix(suite.BROKEN))]
        before, now = {**old["rules"], **old["warnings"]}, {**self.rules, **self.warnings}
        found = []
        for code in {**now, **before}:
            if code and before.get(code) != now.get(code):
                said = "is new" if code not in before else "was removed" if code not in now else "changed"
                was, is_now = _text(old.get("texts", {}).get(code)), _text(self.texts.get(code))
                found.append(Cause("rule", code, f"rule {code} {said}", was, is_now))
        if not found and [*before] != [*now]:
            found.append(Cause("rule", "", "the order of the rules changed", few(before, 50), few(now, 50)))
        own = [
            Cause("setting", name, f"[lake] {name} changed", _text(old["settings"].get(name)), _text(value))
            for name, value in self.settings.items()
            if old["settings"].get(name) != value
        ]
        declared = old.get("declared", self.declared)
        for name in {**self.declared, **declared}:
            was, is_now = _text(declared.get(name)), _text(self.declared.get(name))
            if was != is_now:
                said = "is new" if was is None else "was removed" if is_now is None else "changed"
                own.append(Cause("domain", name, f"in the domain, {name} {said}", was, is_now))
        if not own and dict(self.sql) != old["sql"]:
            own.append(Cause("version", "sql", "the domain or lakejobs itself changed"))
        return found + own


def _text(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False, indent=2)


def needed_columns(domain: Domain) -> dict[str, str]:
    """Columns whose absence changes the result, and why."""
    needed = {correction.column: "so it is computed where possible" for correction in domain.corrections}
    with contextlib.suppress(LakeError):  # a broken suite is reported where it is used
        for rule in suite.load_suite(domain).rules:
            if rule.severity == "critical" and not rule.is_about_table:
                for column in rule.columns:
                    needed.setdefault(column, f"which the rule {rule.code} needs")
    return needed
