"""Contracts of deliveries: how the files of a source are written, where they are not as the lake expects.

`expectations/<domain>.deliveries.toml`, beside the domain's suite, has a block for each source:

    [[source]]
    files = "hamburg_*"             # names as staged, with * and ?; or a list of them
    delimiter = ";"                 # also: quote, encoding; sheet, of a workbook
    decimal = ","
    thousands = "."
    absent = ["status"]             # columns that may be missing
    aliases = { kunde = "customer_id" }

If several blocks fit a file, later ones override earlier ones; their aliases and absent columns add up.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import fnmatch
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs import project
from lakejobs.config import lake as settings
from lakejobs.messages import LakeError
from lakejobs.model import Contract, Domain

NAMES = ("files", "delimiter", "quote", "encoding", "decimal", "thousands", "sheet", "aliases", "absent")
THOUSANDS = (".", ",", " ", "'", "_", "’", "")


@dataclass(frozen=True)
class Contracts:
    """The contracts of a domain."""

    blocks: Sequence[tuple[Sequence[str], Mapping[str, Any]]] = ()
    """Patterns of names in lower case, and what holds for them."""

    def of(self, name: str) -> Contract:
        """The contract of a file, by the name it was staged under."""
        contract = Contract()
        for patterns, content in self.blocks:
            if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns):
                together = {name: (*getattr(contract, name), *content[name]) for name in ("aliases", "absent")}
                contract = dataclasses.replace(contract, **{**content, **together})
        return contract

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks of numbers, see `Contract.marks`, that the contracts may give a file."""
        decimals = {".", *(content["decimal"] for _, content in self.blocks if "decimal" in content)}
        thousands = {"", *(content["thousands"] for _, content in self.blocks if "thousands" in content)}
        found = {
            Contract(decimal=one, thousands=other).marks for one in decimals for other in thousands if one != other
        }
        return tuple(sorted(found - {""}))


def path_of(domain: str) -> str:
    """Where the contracts of a domain are."""
    return f"{settings().expectations}/{domain}.deliveries.toml"


def read(domain: Domain) -> Contracts:
    """The contracts of a domain. Raises LakeError with the file and the block."""
    path = path_of(domain.name)
    if not project.exists(path):
        return Contracts()
    try:
        content = tomllib.loads(project.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise LakeError(f"{path} is not TOML: {error}") from None
    sources = content.pop("source", [])
    if content or not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise LakeError(f"{path}: expected blocks that begin with [[source]], and nothing else")
    blocks = [_block(f"{path}, source {number}", domain, source) for number, source in enumerate(sources, 1)]
    contracts = Contracts(blocks)
    for number, (patterns, _) in enumerate(blocks, 1):
        for pattern in patterns:
            one = contracts.of(re.sub(r"[*?\[\]]", "0", pattern))
            if one.decimal == one.thousands:
                raise LakeError(f"{path}, source {number}: decimal and thousands are both {one.decimal!r}")
    return contracts


def _block(where: str, domain: Domain, source: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, Any]]:
    for name in source:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, 1)
            raise LakeError(
                f"{where}: unknown {name!r}; {f'did you mean {close[0]}' if close else 'expected one of'}"
                f"{'?' if close else ' ' + ', '.join(NAMES)}"
            )
    patterns = source.get("files", "*")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise LakeError(f'{where}: expected files to be a pattern of names, such as "hamburg_*", or a list of them')
    content: dict[str, Any] = {name: source[name] for name in NAMES if name in source and name != "files"}
    for name, value in content.items():
        if name not in ("aliases", "absent") and not isinstance(value, str):
            raise LakeError(f"{where}: expected {name} to be text, got {value!r}")
    if "delimiter" in content and not re.fullmatch(r"[^\sa-zA-Z0-9\"]|\t", content["delimiter"], re.ASCII):
        raise LakeError(f"{where}: delimiter {content['delimiter']!r}: expected one character such as ; or \\t")
    if not re.fullmatch(r"[^\sa-zA-Z0-9\\]?", content.get("quote", ""), re.ASCII):
        raise LakeError(f'{where}: quote {content["quote"]!r}: expected one character such as \', or "" for none')
    for name in ("delimiter", "quote"):
        if len(content.get(name, "").encode()) > 1:
            raise LakeError(f"{where}: {name} {content[name]!r}: expected an ASCII character")
    if "quote" in content and content["quote"] == content.get("delimiter", ","):
        raise LakeError(f"{where}: quote and delimiter are both {content['quote']!r}")
    if content.get("decimal", ".") not in (".", ","):
        raise LakeError(f"{where}: decimal {content['decimal']!r}: expected . or ,")
    if content.get("thousands", "") not in THOUSANDS:
        raise LakeError(
            f"{where}: thousands {content['thousands']!r}: expected one of {' '.join(THOUSANDS)} or a blank"
        )
    if "encoding" in content:
        content["encoding"] = _codec(where, content["encoding"])
    content["aliases"] = _aliases(where, domain, source.get("aliases", {}))
    content["absent"] = _columns(where, domain, source.get("absent", []))
    return [one.lower() for one in patterns], content


def _codec(where: str, name: str) -> str:
    """The name that Python gives an encoding."""
    try:
        found = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError):
        raise LakeError(f"{where}: unknown encoding {name!r}; expected one such as windows-1252 or utf-16") from None
    return found.name


def _aliases(where: str, domain: Domain, aliases: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(aliases, dict):
        raise LakeError(f'{where}: expected aliases to be a table: {{ kunde = "customer_id" }}')
    for name, column in aliases.items():
        if not isinstance(column, str) or column not in domain.columns:
            raise LakeError(
                f"{where}: {name} cannot stand for {column!r}: {domain.name} has no such column; "
                f"it has {', '.join(domain.columns)}"
            )
        if name.casefold() in domain.columns:
            raise LakeError(f"{where}: {name} is a column itself, so it cannot stand for {column}")
    return tuple((name.casefold(), column) for name, column in aliases.items())


def _columns(where: str, domain: Domain, columns: Any) -> tuple[str, ...]:
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise LakeError(f'{where}: expected absent to be a list of columns: ["{[*domain.columns][-1]}"]')
    for column in columns:
        if column not in domain.columns:
            raise LakeError(f"{where}: absent: {domain.name} has no column {column!r}")
        if column in (*domain.keys, domain.event_time):
            raise LakeError(f"{where}: absent: every record of {domain.name} needs {column}")
    return tuple(columns)


def pattern_of(name: str) -> str:
    """A pattern for the files of the same source: the name, with * for its digits."""
    return re.sub(r"[0-9]+(?:[_-][0-9]+)*", "*", re.sub(r"([*?\[])", r"[\1]", name))


def added(domain: Domain, files: str, aliases: Mapping[str, str], absent: Sequence[str]) -> tuple[str, str]:
    """A new block, and the text of the domain's contracts with it. Raises LakeError if they would be broken."""
    read(domain)
    lines = ["[[source]]", f"files = {json.dumps(files, ensure_ascii=False)}"]
    if aliases:
        members = ", ".join(
            f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(column)}" for name, column in aliases.items()
        )
        lines.append(f"aliases = {{ {members} }}")
    if absent:
        lines.append(f"absent = {json.dumps(list(absent))}")
    block = "\n".join(lines) + "\n"
    path = path_of(domain.name)
    _block(f"{path}, the new source", domain, tomllib.loads(block)["source"][0])
    before = project.read_text(path).rstrip() if project.exists(path) else ""
    return block, f"{before}\n\n{block}" if before else block
