"""The `lakejobs` command; tasks run with `luigi --module lakejobs`."""

from __future__ import annotations

import click

from lakejobs.commands.accept import accept
from lakejobs.commands.check import check
from lakejobs.commands.diff import diff
from lakejobs.commands.invalid import invalid
from lakejobs.commands.new import init
from lakejobs.commands.plan import plan
from lakejobs.commands.query import sql
from lakejobs.commands.restatements import restatements
from lakejobs.commands.status import status
from lakejobs.commands.suggest import suggest
from lakejobs.commands.testing import test
from lakejobs.commands.trace import trace
from lakejobs.commands.verify import verify
from lakejobs.commands.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakejobs", message="lakejobs %(version)s")
def main() -> None:
    """Create and test a data lake project, and ask a lake. To run one: luigi --module lakejobs GoldAll"""


for command in (init, test, accept, status, check, plan, why, trace, diff, restatements, verify, invalid, suggest, sql):
    main.add_command(command)
