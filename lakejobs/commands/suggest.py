"""`lakejobs suggest`: rules that a domain's data keeps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, known_domains, print_json
from lakejobs.messages import LakeError, few

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run


@click.command(epilog=EPILOG)
@click.argument("domain", shell_complete=known_domains)
@click.option("--out", metavar="PATH", help="Write the suggestions as a suite to this file, which must not exist.")
@asking
def suggest(run: Run, domain: str, out: str | None, as_json: bool) -> int:
    """Suggest rules for DOMAIN: what its rows in silver keep almost always, each tried on every day.

    Copy what is meant into expectations/DOMAIN.json, and see with lakejobs plan --effects what it would do. --json
    prints the suggestions as a suite. No suite is ever overwritten.
    """
    from lakejobs.explain import suggest as suggesting
    from lakejobs.project import broken_domains, domains

    if domain in broken_domains():
        raise LakeError(broken_domains()[domain])
    if domain not in domains():
        raise LakeError(f"unknown domain {domain}; expected one of {few(domains(), 30)}")
    if out and os.path.lexists(out):
        raise LakeError(f"{out} exists; name another file, because suites are not overwritten")
    found = suggesting.suggest(run, domain)
    suite = suggesting.suite_of(domain, found)
    if out:
        try:
            with open(out, "x", encoding="utf-8") as handle:
                handle.write(json.dumps(suite, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise LakeError(f"{out} cannot be written: {error.strerror}") from None
    if as_json:
        print_json(suite)
        return 0
    for one in found:
        limits = ", ".join(f"{name} {value}" for name, value in one.kwargs.items() if not name.startswith("column"))
        click.echo(f"{one.code}{f' ({limits})' if limits else ''}")
        click.echo(f"    {one.type}; {one.note}")
    if not found:
        click.echo(f"The suite of {domain} has all that its data suggests.")
    return 0
