"""Summary of a run: rows through the layers, the last rows of the gold tables, warnings, links to the pages.

usage: python -m lakejobs.commands.summary [the same --lake-… arguments as luigi]
"""

from __future__ import annotations

import sys
import urllib.request
from typing import Any

from luigi.cmdline_parser import CmdlineParser

from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import newest_snapshot
from lakejobs.messages import counted
from lakejobs.pages import data_docs
from lakejobs.project import domains
from lakejobs.storage import documents
from lakejobs.storage.layout import Lake
from lakejobs.tables import tables

HEAD = 3
LONGEST_PAGE = 1 << 30


def layers(state: DomainState) -> dict[str, Any]:
    """Rows of a domain through each layer, from manifests and footers."""
    silver = [footer.counts for footer in state.silver.values()]
    return {
        "domain": state.domain,
        "files": sum(landing.files for landing in state.landings.values()),
        "rejected": sum(len(landing.rejected) for landing in state.landings.values()),
        "records": sum(landing.records for landing in state.landings.values()),
        "partitions": len(state.silver),
        **{
            name: sum(getattr(counts, name) for counts in silver)
            for name in ("rows", "valid", "invalid", "duplicates", "corrected")
        },
    }


def show(run: Run) -> str:
    import pandas as pd

    lake, states = run.lake, [run.state(domain) for domain in domains()]
    with pd.option_context({"display.width": 160, "display.max_columns": 20, "display.max_colwidth": 32}):
        rows = pd.DataFrame([layers(state) for state in states]).set_index("domain")
        parts = ["Rows through the layers", table(rows)]
        for name, gold in sorted(tables().items()):
            snapshot, _ = newest_snapshot(run, gold)
            if snapshot is None:
                parts += [f"gold: {name} has no snapshot yet"]
                continue
            path = lake.gold(name, snapshot)
            (local,) = lake.store.on_disk([path])
            content = pd.read_parquet(local).drop(columns="generated_at")
            parts += [
                f"{name}: {counted(len(content), 'row')} in {lake.location(path)}",
                table(content.tail(HEAD), index=False),
            ]
    for state in states:
        parts += troubles(state)
    for name, path in (("Report", lake.report), ("Data Docs", f"{lake.data_docs}/index.html")):
        if lake.store.stat(path):
            parts.append(f"{name}: {link(lake, path)}")
    return "\n\n".join(parts)


def link(lake: Lake, path: str) -> str:
    """The URL where a page is served; the file's own URL if no page, or that of another lake, is served there."""
    url = data_docs.page_url(lake, path)
    if url.startswith("http"):
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
                is_served = answer.read().decode("utf-8", "replace") == documents.read_text(
                    lake.store, path, LONGEST_PAGE
                )
        except (OSError, ValueError):
            is_served = False
        if not is_served:
            return lake.store.url(path)
    return url


def table(content: Any, *, index: bool = True) -> str:
    if content.empty:
        return "  (no rows)"
    text: str = content.to_string(
        index=index, na_rep="NULL", formatters=dict.fromkeys(content.select_dtypes("int"), "{:,}".format)
    )
    return "\n".join(f"  {line}" for line in text.splitlines())


def troubles(state: DomainState) -> list[str]:
    """Warnings, and the staged files that were ignored."""
    lines = state.warnings
    lines += [f"{state.lake.staging.location(state.domain)}/{name} was ignored" for name in state.ignored]
    return ["\n".join(lines)] if lines else []


def main() -> None:
    with CmdlineParser.global_instance(["--module", "lakejobs", "GoldAll", *sys.argv[1:]]):
        sys.stdout.write(show(Run()) + "\n")


if __name__ == "__main__":
    main()
