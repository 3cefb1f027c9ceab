"""The `lakejobs` command; tasks run with `luigi --module lakejobs`."""

from __future__ import annotations

import click

from lakejobs.commands.new import init
from lakejobs.commands.testing import test


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakejobs", message="lakejobs %(version)s")
def main() -> None:
    """Create and test a data lake project. To run one: luigi --module lakejobs GoldAll"""


main.add_command(init)
main.add_command(test)
