"""`lakejobs init`: create a project that is small enough to read and ready to run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import click

from lakejobs.messages import LakeError

TEMPLATE = os.path.join(os.path.dirname(__file__), "new_project")
# The package data of a wheel omits names that begin with a dot.
RENAMED = {"gitignore": ".gitignore"}

MADE = """\
Created a project in {directory}. Each file explains what it is for. Next:

    cd {directory}
    luigi --module lakejobs GoldAll --local-scheduler
    lakejobs test
"""


@click.command()
@click.argument("directory")
def init(directory: str) -> None:
    """Create a project in DIRECTORY, which must be empty or not exist yet."""
    make_project(directory)
    click.echo(MADE.format(directory=shlex.quote(directory)), nl=False)


def make_project(directory: str) -> None:
    """Write the files of a new project. Raises LakeError if the directory cannot be used."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise LakeError(f"{directory} is a file; choose a directory that is empty or does not exist yet")
    try:
        if os.path.isdir(directory) and os.listdir(directory):
            raise LakeError(f"{directory} is not empty; choose a directory that is empty or does not exist yet")
    except OSError as error:
        raise LakeError(f"{directory} cannot be read: {error.strerror}") from None
    for name in template_files():
        path = RENAMED.get(name, name)
        with open(f"{TEMPLATE}/{name}", encoding="utf-8") as handle:
            _write(f"{directory}/{path}", handle.read())


def _write(path: str, text: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        raise LakeError(f"{path} cannot be written: {error.strerror}") from None


def template_files() -> Iterator[str]:
    """Paths of the template's files, relative to the project's directory."""
    for directory, subdirectories, names in os.walk(TEMPLATE):
        subdirectories[:] = [name for name in subdirectories if name != "__pycache__"]
        for name in names:
            yield os.path.relpath(f"{directory}/{name}", TEMPLATE)
