"""`lakejobs accept`: a file whose columns have other names, or that lacks some."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, known_domains, print_json
from lakejobs.messages import LakeError, few

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run


@click.command(epilog=EPILOG)
@click.argument("domain", shell_complete=known_domains)
@click.argument("file")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=COLUMN", help="What a column of the file stands for.")
@click.option("--files", metavar="PATTERN", help="Which files this holds for. By default: FILE, with * for its digits.")
@asking
def accept(run: Run, domain: str, file: str, aliases: tuple[str, ...], files: str | None, as_json: bool) -> int:
    """Accept FILE of DOMAIN, which is held back or lacks a column, and those that come after it.

    Columns of DOMAIN that FILE lacks and no --alias names may be missing from now on. Adds this to
    expectations/DOMAIN.deliveries.toml; the next run reads the file.
    """
    from lakejobs.layers import bronze
    from lakejobs.project import broken_domains, domains
    from lakejobs.quality import contracts

    if domain in broken_domains():
        raise LakeError(broken_domains()[domain])
    if domain not in domains():
        raise LakeError(f"unknown domain {domain}; expected one of {few(domains(), 30)}")
    state = run.state(domain)
    header = bronze.header_of(state, file)
    named = {}
    for alias in aliases:
        name, equals, column = alias.rpartition("=")
        if not equals or name.casefold() not in map(str.casefold, header):
            raise LakeError(f"--alias {alias}: expected NAME=COLUMN; {file} has the columns {', '.join(header)}")
        named[name] = column
    there = {*map(str.casefold, header), *named.values()}
    absent = [column for column in domains()[domain].columns if column not in there]
    pattern = files or contracts.pattern_of(file)
    block, text = contracts.added(domains()[domain], pattern, named, absent)
    path = contracts.path_of(domain)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.tmp", "w", encoding="utf-8") as handle:
            handle.write(text)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        raise LakeError(f"{path} cannot be written: {error.strerror}") from None
    if as_json:
        print_json({"path": path, "files": pattern, "aliases": named, "absent": absent})
    else:
        click.echo(f"Added to {path}:\n\n{block}\nThe next run reads the file.")
    return 0
