"""Data Docs: results of Great Expectations, each kept as JSON and as a page that works offline.

Great Expectations renders the rules and their outcomes; the page around them is ours, because its own loads styles,
scripts and images from the internet. Each validation has one result and one page; the oldest are removed when there are
more than `[lake] keep_validations`.
"""

from __future__ import annotations

import copy
import datetime as dt
import html
import importlib.resources
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lakejobs.config import lake as settings
from lakejobs.engine.sql import MALFORMED, OUT_OF_RANGE, TYPE
from lakejobs.messages import log, percent, span
from lakejobs.model import Counts, digest
from lakejobs.project import domains
from lakejobs.quality.evaluation import Validation
from lakejobs.quality.suite import Rule
from lakejobs.storage import File, documents
from lakejobs.storage.layout import Lake, snapshot_name

if TYPE_CHECKING:
    import jinja2

TOTALS = ("records", "rows", "valid", "invalid", "duplicates", "corrected", "rescued")
READING = {
    MALFORMED: "A line with too many or too few fields, or with broken quotes. Its text is kept in rescued_data.",
    TYPE: "A value that does not fit its column’s type. It is NULL in silver; its text is kept in rescued_data.",
    OUT_OF_RANGE: "A timestamp before [lake] earliest_date, or later than the day after its file was delivered; "
    "or a corrected column whose computed value does not fit its type.",
}
"""Codes found while reading files, before any rule of the suite; such rows are invalid."""


def keep(
    lake: Lake,
    validation: Validation,
    counts: Mapping[dt.date, Counts],
    new_records: int,
    withheld: Mapping[dt.date, Sequence[str]],
    examples: Mapping[int | str, Sequence[Mapping[str, Any]]],
) -> str:
    """Store the result of a validation, and render its page and the index. Returns the page's path.

    `counts`: the fates of the records by event date. `new_records`: how many of them are new; earlier validations saw
    the others. `withheld`: partitions that were not published, and why.
    `examples`: rows that failed a rule, by the rule's position, and rows with a code from reading, by code.
    """
    domain = validation.suite.domain
    now = dt.datetime.now(dt.UTC)
    dates, rows = sorted(counts), sum(count.rows for count in counts.values())
    summary = {
        "domain": domain,
        "dates": [date.isoformat() for date in dates],
        "span": span(dates),
        "validated_at": now.isoformat(timespec="seconds"),
        "withheld": {date.isoformat(): list(reasons) for date, reasons in withheld.items()},
        "new_records": new_records,
        "totals": {name: sum(getattr(count, name) for count in counts.values()) for name in TOTALS},
        "rules": [
            _summary(rule, validation, rows, list(examples.get(rule.position, ()))) for rule in validation.suite.rules
        ],
        "reading": reading_codes(counts, examples),
    }
    run_id = {"run_name": f"{domain} {summary['span']}", "run_time": now.isoformat()}
    result = validation.result({"run_id": run_id, "lakejobs": summary})
    pages = f"{lake.data_docs}/validations/{domain}"
    lake.store.sweep(lake.validations(domain))
    lake.store.sweep(pages)
    stamps = _stamps(lake, domain)
    name = snapshot_name(domain, f"{stamps[-1]}.parquet" if stamps else None, now).removesuffix(".parquet")
    content = copy.deepcopy(result.to_json_dict())  # rendering escapes values in place
    page = f"{pages}/{name}.html"
    # First the page: the index links those of all results.
    documents.write_text(lake.store, page, render_page(result, summary))
    documents.write_json(lake.store, f"{lake.validations(domain)}/{name}.json", content)
    prune(lake, domain)
    # Runs of other domains write the index too: the last one must have read what the others kept.
    with lake.lock("data_docs"):
        lake.store.sweep(lake.data_docs)
        documents.write_text(lake.store, f"{lake.data_docs}/index.html", render_index(lake, domain))
    return page


def sweep(lake: Lake, domain: str) -> None:
    """Remove unfinished files of a run that died, perhaps after publishing. Requires the domain's lock."""
    lake.store.sweep(lake.validations(domain))
    lake.store.sweep(f"{lake.data_docs}/validations/{domain}")
    with lake.lock("data_docs"):
        lake.store.sweep(lake.data_docs)


def _summary(rule: Rule, validation: Validation, rows: int, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
    outcome = validation.outcomes[rule.position]
    notes = rule.content.get("notes") or ""
    return {
        "code": rule.code,
        "severity": rule.severity,
        "success": outcome.success,
        "row_level": outcome.row_level,
        "unexpected": outcome.unexpected,
        "new_unexpected": outcome.new_unexpected,
        "share": outcome.unexpected / rows if rows else 0.0,
        "observed": outcome.observed if not outcome.row_level else None,
        "notes": notes if isinstance(notes, str) else " ".join(notes),
        "examples": examples,
        "can_stop": rule.severity == "critical"
        and (not outcome.row_level or "mostly" in (rule.content.get("kwargs") or {})),
    }


def reading_codes(
    counts: Mapping[dt.date, Counts], examples: Mapping[int | str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """The codes from reading, as rows of the table of rules: MALFORMED_LINE, TYPE:<column>, …"""
    found: Counter[str] = Counter()
    for count in counts.values():
        found.update({code: rows for code, rows in count.failures.items() if code.partition(":")[0] in READING})
    whole = sum(count.rows for count in counts.values())
    return [
        {
            "code": code,
            "unexpected": rows,
            "share": rows / whole,
            "notes": READING[code.partition(":")[0]],
            "examples": list(examples.get(code, ())),
        }
        for code, rows in sorted(found.items())
    ]


def render_page(result: Any, summary: Mapping[str, Any]) -> str:
    """The page of one validation, rendered by Great Expectations within our own page."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    for rule_result in result.results:
        _escape(rule_result.result)
    document = ValidationResultsPageRenderer().render(result)
    # Its overview repeats the head of our page, and links to a page that does not exist.
    document.sections = document.sections[1:]
    page: str = _view().render(document, template="validation.j2", summary=summary, style=style())
    return page


def render_index(lake: Lake, changed: str | None = None) -> str:
    """The site's first page: all kept validations, newest first. `changed`: the domain whose lock is held."""
    summaries = [summary for domain in domains() for summary in kept(lake, domain, remember=domain == changed)]
    summaries.sort(key=lambda summary: str(summary["validated_at"]), reverse=True)
    return environment().get_template("docs_index.html").render(summaries=summaries, style=style())


def kept(lake: Lake, domain: str, *, remember: bool = False) -> list[dict[str, Any]]:
    """The index entries of a domain's validations, the oldest first.

    Cached in a file, so that only new results are opened and a validation costs the same however many are kept.
    """
    cache = f"{lake.validations(domain)}/_index.json"
    known = (documents.read_json(lake.store, cache) or {}).get("summaries", {})
    summaries = {}
    for file in _results(lake, domain):
        name, path = file.name.removesuffix(".json"), f"{lake.validations(domain)}/{file.name}"
        # Entries cached by an earlier version have fewer fields.
        if name in known and known[name].get("version") == file.version and "withheld" in known[name]:
            summaries[name] = known[name]
        elif content := documents.read_json(lake.store, path):
            summary = content["meta"]["lakejobs"]
            summaries[name] = {
                **{key: summary[key] for key in ("domain", "span", "validated_at", "totals")},
                "withheld": list(summary.get("withheld") or ()),
                "failed": [
                    {"code": rule["code"], "unexpected": rule["unexpected"], "row_level": rule["row_level"]}
                    for rule in summary["rules"]
                    if not rule["success"]
                ]
                + [
                    {"code": code["code"], "unexpected": code["unexpected"], "row_level": True}
                    for code in summary.get("reading", ())
                ],
                "page": f"validations/{domain}/{name}.html",
                "version": file.version,
            }
        elif lake.store.stat(path):
            log.warning("%s is damaged and left out of the Data Docs; delete it", lake.location(path))
    if remember:
        documents.write_json(lake.store, cache, {"summaries": summaries}, durable=False)
    return list(summaries.values())


def newest_page(lake: Lake, domain: str) -> str | None:
    """The page of a domain's last validation, relative to the site's first page."""
    stamps = _stamps(lake, domain)
    return f"validations/{domain}/{stamps[-1]}.html" if stamps else None


def prune(lake: Lake, domain: str) -> None:
    """Remove the oldest results and their pages, and pages without a result, which a run that died has left."""
    stamps, pages = _stamps(lake, domain), f"{lake.data_docs}/validations/{domain}"
    kept = stamps[-max(1, settings().keep_validations) :]
    for name in stamps[: -len(kept)]:
        lake.store.remove(f"{lake.validations(domain)}/{name}.json")
    for page in lake.store.files(pages):
        if page.name.removesuffix(".html") not in kept:
            lake.store.remove(f"{pages}/{page.name}")


def page_url(lake: Lake, path: str) -> str:
    """The URL of a page: below `[lake] docs_url`, where the lake's pages are served, or else on the disk."""
    base = settings().docs_url
    return f"{base.rstrip('/')}/{path.removeprefix('quality/')}" if base else lake.store.url(path)


def _results(lake: Lake, domain: str) -> list[File]:
    """The stored validations of a domain, the oldest first."""
    found = lake.store.files(lake.validations(domain))
    return [file for file in found if file.name.endswith(".json") and not file.name.startswith("_")]


def _stamps(lake: Lake, domain: str) -> list[str]:
    """Names of a domain's stored validations, the oldest first."""
    return [file.name.removesuffix(".json") for file in _results(lake, domain)]


def _escape(content: Any) -> None:
    """Escape HTML in values, which Great Expectations puts into its pages as they are."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        if isinstance(value, str):
            content[key] = html.escape(value)
        elif isinstance(value, dict | list):
            _escape(value)


@cache
def environment() -> jinja2.Environment:
    """The templates of our own pages, with escaping."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("lakejobs.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["number"] = lambda value: f"{value:,}"
    templates.filters["amount"] = lambda value: f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    templates.filters["percent"] = percent
    return templates


@cache
def _view() -> Any:
    from great_expectations.render.view import DefaultJinjaPageView

    view = DefaultJinjaPageView(
        custom_views_directory=str(importlib.resources.files("lakejobs.pages").joinpath("templates"))
    )
    view.env.filters.update(environment().filters)
    return view


@cache
def looks(*templates: str) -> str:
    """A hash of templates and of the style."""
    folder = importlib.resources.files("lakejobs.pages").joinpath("templates")
    return digest([folder.joinpath(name).read_text("utf-8") for name in (*templates, "style.css")])


@cache
def style() -> str:
    source, _, _ = environment().loader.get_source(environment(), "style.css")  # type: ignore[union-attr]
    return source
