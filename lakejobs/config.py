"""The one configuration section, `[lake]`, and the Luigi settings the lake cannot do without.

Each value can be set in `luigi.cfg` or on the command line: `[lake] root=…` is `--lake-root …`.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
from typing import Any

import luigi

from lakejobs.messages import LakeError

TIMESTAMP_FORMAT = re.compile(r"(?:[^%]|%%|%-?[aAbBdfgHIjmMpSuUwWyYzZ])+")
"""What `strptime` knows in engines and in Python."""


class lake(luigi.Config):  # noqa: N801 - Luigi names a configuration section after its class
    """Where the lake is and how it behaves. Relative paths are relative to the working directory."""

    root = luigi.Parameter(default="datalake", description="Directory of the lake.")
    staging = luigi.Parameter(default="local_output", description="Directory staged CSV files arrive in.")
    expectations = luigi.Parameter(
        default="expectations",
        description="Directory of the expectation suites; a domain that comes with lakejobs has one with it.",
    )
    domains = luigi.Parameter(
        default="lakejobs.domains",
        description="Where the domains are: directories or importable packages, separated by commas.",
    )
    tables = luigi.Parameter(
        default="lakejobs.sql.gold",
        description="Where the gold tables are: directories or importable packages, separated by commas.",
    )
    earliest_date = luigi.DateParameter(
        default=dt.date(1970, 1, 1), description="An event before this day has no usable timestamp."
    )
    timestamp_formats: Any = luigi.DictParameter(
        default={}, description='More timestamp formats by domain, tried in order: {"sales": ["%m/%d/%Y"]}.'
    )
    keep_snapshots = luigi.IntParameter(default=10, description="Snapshots kept of each gold table.")
    keep_validations = luigi.IntParameter(
        default=200, description="Validation results and Data Docs pages kept of each domain."
    )
    docs_url = luigi.Parameter(
        default="http://127.0.0.1:8083",
        description="Where scripts/docs serves the lake's pages; links lead to the files themselves where empty.",
    )
    memory_limit = luigi.Parameter(
        default="50%", description="What the engine may use, e.g. 4GB or 50%; Python needs some besides."
    )
    rejected = luigi.ChoiceParameter(
        default="warn", choices=("warn", "fail"), description="Whether a rejected file makes a run fail."
    )
    lock_timeout = luigi.IntParameter(
        default=3600, description="Seconds to wait for another run that is writing to the same domain."
    )
    chunk_rows = luigi.IntParameter(default=500_000, description="Rows validated at once.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.chunk_rows < 1:
            raise LakeError(f"[lake] chunk_rows={self.chunk_rows}: expected 1 or more")
        for domain, formats in self.timestamp_formats.items():
            if not isinstance(formats, list | tuple) or not all(isinstance(form, str) for form in formats):
                raise LakeError(
                    f'[lake] timestamp_formats: of {domain} a list of formats is wanted: {{"{domain}": ["%m/%d/%Y"]}}'
                )
            for form in formats:
                if not TIMESTAMP_FORMAT.fullmatch(form):
                    raise LakeError(
                        f"[lake] timestamp_formats: {form!r} of {domain} is no format such as %m/%d/%Y %H:%M"
                    )


# Without these a failed task exits 0, a missing luigid is waited for for a minute, and two runs at once are
# refused although the lake has locks of its own. They hold wherever the command is started from; a luigi.cfg wins.
# The checks of [worker] compare a task with a lake that other runs may have moved on since: a task records
# what it read, and the next run repairs what is stale.
DEFAULTS = {
    "retcode": {
        "already_running": "10",
        "missing_data": "20",
        "not_run": "25",
        "task_failed": "30",
        "scheduling_error": "35",
        "unhandled_exception": "40",
    },
    "core": {
        "no_lock": "true",
        "rpc_retry_attempts": "2",
        "rpc_retry_wait": "1",
        "rpc_log_retries": "false",
        "log_level": "INFO",
    },
    "worker": {"check_unfulfilled_deps": "false", "task_process_context": "lakejobs.console.TaskContext"},
}


def apply_defaults() -> None:
    """Give Luigi the settings above where no configuration file has set them."""
    # Luigi reads some settings of [core] past its own parameters, and then warns that nobody does.
    warnings.filterwarnings("ignore", message=".*not consumed by the task 'core'", category=UserWarning)
    settings = luigi.configuration.get_config()
    for section, options in DEFAULTS.items():
        for option, value in options.items():
            if not settings.has_option(section, option):
                settings.set(section, option, value)
