"""What the commands that explain a lake have in common: they take the settings of luigi, and never change the lake."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import click
from luigi.cmdline_parser import CmdlineParser

from lakejobs.config import lake as settings
from lakejobs.freshness.runs import Run
from lakejobs.luigi_output import INTERRUPTED_CODE, plain_message
from lakejobs.messages import LakeError
from lakejobs.storage import layout
from lakejobs.storage.local import LocalStore
from lakejobs.storage.overlay import Overlay

Kind = TypeVar("Kind")
WRONG = 2
"""The exit code of a question that has no answer, such as one about a table that does not exist."""
EPILOG = "Every setting of [lake] can be given as to luigi: --lake-root s3://bucket/lake."


def asking(command: Callable[..., int | None], needs_lake: bool = True) -> Callable[..., None]:
    """A command that is given a run, its own arguments, and `as_json`; it returns the exit code if that is not 0.

    `needs_lake`: whether it has no answer before the first run.
    """

    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @functools.wraps(command)
    def asked(**given: Any) -> None:
        options = {name: given.pop(name) for name in [*given] if name.startswith("lake_")}

        def answer() -> int | None:
            with settings_given(options), untouched(needs_lake) as run:
                return command(run, **given)

        try:
            code = interruptible(answer)
        except Exception as error:
            if (message := plain_message(error)) is None:
                raise
            click.echo(message, err=True)
            raise SystemExit(WRONG) from None
        sys.exit(code or 0)

    for name, _ in settings.get_params():
        asked = click.option(f"--lake-{name.replace('_', '-')}", hidden=True)(asked)
    return asked


def known_tables(_context: object, _parameter: object, begun: str) -> list[str]:
    """Shell completion: gold tables."""
    from lakejobs.tables import tables

    return _beginning(begun, tables)


def known_domains(_context: object, _parameter: object, begun: str) -> list[str]:
    """Shell completion: domains."""
    from lakejobs.project import domains

    return _beginning(begun, domains)


def known_names(context: object, parameter: object, begun: str) -> list[str]:
    """Shell completion: domains and gold tables."""
    return known_domains(context, parameter, begun) + known_tables(context, parameter, begun)


def _beginning(begun: str, names: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return [name for name in names() if name.startswith(begun)]
    except Exception:  # noqa: BLE001 - a settings file with a mistake must not print a traceback at each press of Tab
        return []


def interruptible(answer: Callable[[], Kind]) -> Kind:
    """Answer in another thread, because the engine may not notice Ctrl-C in this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(answer)
        try:
            return coming.result()
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            for directory in _temporary:
                shutil.rmtree(directory, ignore_errors=True)
            os._exit(INTERRUPTED_CODE)


_temporary: list[str] = []
"""Directories to remove if an answer is interrupted."""


@contextlib.contextmanager
def settings_given(options: Mapping[str, str | None]) -> Iterator[None]:
    """Settings by their names on the command line; None leaves one as it is."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    with CmdlineParser.global_instance(["--module", "lakejobs", "GoldAll", *given]):
        yield


@contextlib.contextmanager
def untouched(needs_lake: bool = True) -> Iterator[Run]:
    """A run over the lake that keeps whatever it writes to itself."""
    lake = layout.current()
    if not lake.store.exists():
        if needs_lake:
            raise LakeError(f"there is no lake at {lake.store.root}; make one with luigi --module lakejobs GoldAll")
        click.echo(f"There is no lake at {lake.store.root} yet.", err=True)
    with tempfile.TemporaryDirectory(prefix="lakejobs-") as directory:
        _temporary.append(directory)
        yield Run(lake=dataclasses.replace(lake, store=Overlay(lake.store, LocalStore(directory))))


def print_json(content: Any) -> None:
    """Print an answer. Dates, decimals and paths are text."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))
