"""The command line beside Luigi's: `lakejobs`."""

from __future__ import annotations

import click

from lakejobs.commands.new import init
from lakejobs.commands.testing import test


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakejobs", message="lakejobs %(version)s")
def main() -> None:
    """A data lake of one's own: what goes with `luigi --module lakejobs`."""


main.add_command(init)
main.add_command(test)
