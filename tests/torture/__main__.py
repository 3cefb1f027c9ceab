"""Torture lakes and print the results as the Markdown table in tests/torture/README.md.

usage: scripts/torture [family …] [--seed N] [--short]
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torture.lakes import Row

MODULES = [
    "kills", "faults", "power", "crowd", "damage", "clocks", "verdicts", "files", "safety", "life", "hours", "objects",
    "hosts", "engines",
]  # fmt: skip


def main() -> int:
    from torture import calls
    from torture.lakes import say

    families: dict[str, Callable[[bool, int], Iterator[Row]]] = {}
    needs: dict[str, Callable[[], str | None]] = {}
    calls_supported = functools.cache(calls.supported)
    for name in MODULES:
        module = importlib.import_module(f"torture.{name}")
        families.update(module.FAMILIES)
        needs |= dict.fromkeys(getattr(module, "NEEDS_CALLS", ()), calls_supported)
        needs |= getattr(module, "NEEDS", {})
    parser = argparse.ArgumentParser(
        prog="scripts/torture", description="Torture lakes and print a table of the results."
    )
    parser.add_argument("family", nargs="*", help=f"what to do; everything where none is named: {', '.join(families)}")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (1)")
    parser.add_argument("--short", action="store_true", help="run a sample of each family, in minutes")
    arguments = parser.parse_args()
    if unknown := set(arguments.family) - set(families):
        parser.error(f"unknown family {', '.join(sorted(unknown))}; expected {', '.join(families)}")
    rows, lines = [], []
    for family in arguments.family or families:
        if family in needs and (missing := needs[family]()):
            say(f"{family} is left out: {missing}")
            lines.append(f"| {family} | left out: {missing} | | | |")
            continue
        started = time.monotonic()
        for row in families[family](arguments.short, arguments.seed):
            rows.append(row)
            lines.append(f"| {family} | {row.injected} | {row.count:,} | {row.seed} | {len(row.violations)} |")
            say(f"{family}: {row.injected}: {row.count:,} times, {len(row.violations)} violations")
            for violation in row.violations[:20]:
                say(f"    {violation}")
        say(f"{family}: {time.monotonic() - started:.0f} s")
    sys.stdout.write(
        "\n".join(
            [
                f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()}, "
                f"Python {platform.python_version()}:",
                "",
                "| family | what was injected | times | seed | violations |",
                "|---|---|--:|--:|--:|",
                *lines,
                "",
            ]
        )
    )
    return 1 if any(row.violations for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
