"""The one configuration section, `[lake]`, and the Luigi settings the lake depends on.

Set values in `luigi.cfg` or on the command line: `[lake] root=…` is `--lake-root …`.
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import luigi

from lakejobs.messages import LakeError

TIMESTAMP_FORMAT = re.compile(r"(?:[^%]|%%|%-?[aAbBdfgHIjmMpSuUwWyYzZ])+")
"""The directives that `strptime` supports both in the engines and in Python."""

MEMORY = re.compile(r"(?P<number>[0-9]*[.]?[0-9]+) *(?P<unit>%|[KMGT](?:i?B)?)", re.IGNORECASE)
EXPECTATIONS = "expectations"
"""The directory of suites, unless it is set."""


class lake(luigi.Config):  # noqa: N801 - Luigi names a configuration section after its class
    """Where the lake is and how it behaves. Relative paths start at the working directory."""

    root = luigi.Parameter(
        default="datalake", description="Directory of the lake, or its URL in an object store: s3://bucket/prefix."
    )
    staging = luigi.Parameter(
        default="local_output", description="Directory where CSV files are staged, or its URL in an object store."
    )
    expectations = luigi.Parameter(
        default=EXPECTATIONS,
        description="Directory of the expectation suites. The domains that come with lakejobs bring their own.",
    )
    domains = luigi.Parameter(
        default="lakejobs.domains",
        description="Comma-separated directories or importable packages that hold the domains.",
    )
    tables = luigi.Parameter(
        default="lakejobs.sql.gold",
        description="Comma-separated directories or importable packages that hold the gold tables.",
    )
    earliest_date = luigi.DateParameter(
        default=dt.date(1970, 1, 1), description="Timestamps before this day are out of range."
    )
    timestamp_formats: Any = luigi.DictParameter(
        default={}, description='Additional timestamp formats by domain, tried in order: {"sales": ["%m/%d/%Y"]}.'
    )
    keep_snapshots = luigi.IntParameter(default=10, description="Old snapshots to keep of each gold table.")
    keep_daily = luigi.IntParameter(
        default=35, description="For how many days the last snapshot of each day is kept besides."
    )
    keep_monthly = luigi.IntParameter(
        default=24, description="For how many months the last snapshot of each month is kept besides."
    )
    day_closes_after = luigi.IntParameter(
        default=6, description="Hours after the end of a day (UTC) from which on changes to it are logged."
    )
    keep_validations = luigi.IntParameter(
        default=200, description="Validation results and Data Docs pages to keep of each domain."
    )
    docs_url = luigi.Parameter(
        default="http://127.0.0.1:8083",
        description="Where scripts/docs serves the lake's pages. If empty, links lead to the files themselves.",
    )
    memory_limit = luigi.Parameter(
        default="50%", description="Memory the engine may use, e.g. 4GB or 50%. Python needs some on top."
    )
    engine = luigi.ChoiceParameter(
        default="duckdb", choices=("duckdb", "spark"), description="What does the work; the results are the same."
    )
    spark_master = luigi.Parameter(
        default="local[*]", description="Where Spark runs: local[*], spark://host:7077, yarn or k8s://…"
    )
    spark_memory_limit = luigi.Parameter(
        default="1GB", description="Memory that DuckDB may use in each task of Spark. Python needs some on top."
    )
    rejected = luigi.ChoiceParameter(
        default="warn", choices=("warn", "fail"), description="Whether a run with a rejected file warns or fails."
    )
    lock_timeout = luigi.IntParameter(
        default=3600, description="Seconds to wait while another run writes to the same domain."
    )
    lock_lease = luigi.IntParameter(
        default=60, description="Seconds after which the lock of a dead run is taken over in an object store."
    )
    merge = luigi.BoolParameter(
        default=True,
        parsing=luigi.BoolParameter.EXPLICIT_PARSING,
        description="Whether new records are merged into silver partitions, or the partitions are rebuilt from bronze.",
    )
    chunk_rows = luigi.IntParameter(default=500_000, description="Rows to validate at once.")
    openlineage = luigi.Parameter(
        default="",
        description="Where OpenLineage events go: http(s)://host:port, or a file to append to. If empty, nowhere.",
    )
    openlineage_namespace = luigi.Parameter(
        default="lakejobs", description="The namespace of the jobs in these events."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_unknown([name for name, _ in self.get_params()])
        for name in ("chunk_rows", "lock_lease"):
            if (value := getattr(self, name)) < 1:
                raise LakeError(f"[lake] {name}={value}: expected 1 or more")
        if self.root.rstrip("/") == self.staging.rstrip("/"):
            raise LakeError(f"[lake] root and staging are both {self.root}: expected two directories")
        kept = [name for name, _ in self.get_params() if name.startswith("keep_")]
        for name in (*kept, "day_closes_after", "lock_timeout"):
            if (value := getattr(self, name)) < 0:
                raise LakeError(f"[lake] {name}={value}: expected 0 or more")
        memory = MEMORY.fullmatch(self.memory_limit)
        if not memory or not 0 < float(memory["number"]) <= (100 if memory["unit"] == "%" else math.inf):
            raise LakeError(
                f"[lake] memory_limit={self.memory_limit}: expected a size such as 4GB, or a share such as 50%"
            )
        if "://" in self.openlineage and not _is_http(self.openlineage):
            # It may contain a password.
            raise LakeError("[lake] openlineage: expected http(s)://host:port, or the path of a file")
        if not self.openlineage_namespace:
            raise LakeError("[lake] openlineage_namespace is empty: expected a name")
        for domain, formats in self.timestamp_formats.items():
            if not isinstance(formats, list | tuple) or not all(isinstance(form, str) for form in formats):
                raise LakeError(
                    f'[lake] timestamp_formats: expected a list of formats for {domain}: {{"{domain}": ["%m/%d/%Y"]}}'
                )
            for form in formats:
                if not TIMESTAMP_FORMAT.fullmatch(form):
                    raise LakeError(
                        f"[lake] timestamp_formats: expected a format such as %m/%d/%Y %H:%M for {domain}, got {form!r}"
                    )


class alerts(luigi.Config):  # noqa: N801
    """Whom `lakejobs check` tells of what is wrong, failed or late."""

    urls = luigi.Parameter(
        default="", description="URLs of apprise, separated by blanks: mailto://…, slack://…, msteams://…, json://…"
    )
    deadlines: Any = luigi.DictParameter(
        default={}, description='When each domain has to be delivered (UTC): {"inventory": "07:00 Mon-Fri"}.'
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = [name for name, _ in self.get_params()]
        for name in _own_settings(luigi.configuration.get_config(), "alerts"):
            if name not in known:
                raise LakeError(f"unknown setting [alerts] {name}; expected one of {', '.join(known)}")

    @property
    def channels(self) -> list[str]:
        return list(dict.fromkeys(self.urls.split()))


def _is_http(url: str) -> bool:
    """Whether it is a URL that HTTP can reach."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an address or a port that is none
        return False


def refuse_unknown(known: Sequence[str]) -> None:
    """Raise LakeError if `[lake]` contains a setting that does not exist, or its own name is misspelt."""
    config = luigi.configuration.get_config()
    for section in config.sections():
        if section != "lake" and difflib.get_close_matches(section.lower(), ["lake"], cutoff=0.8):
            raise LakeError(f"unknown section [{section}]; did you mean [lake]?")
    for name in _own_settings(config):
        if name.replace("-", "_") in known:
            continue
        files = []
        for path in config._config_paths:
            read = type(config)()
            read.read(path)
            if name in _own_settings(read):
                files.append(f"{path}: ")
        # The last file overrides the others. There is none if a program made the setting.
        file = files[-1] if files else ""
        close = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
        raise LakeError(f"{file}unknown setting [lake] {name}; {hint}")


def spark_settings() -> dict[str, str]:
    """The section `[spark]`: Spark's own configuration."""
    config = luigi.configuration.get_config()
    names = _own_settings(config, "spark")
    if wrong := [name for name in names if not name.startswith("spark.")]:
        raise LakeError(
            f"unknown setting [spark] {wrong[0]}; expected names of Spark's own configuration, such as "
            "spark.executor.memory"
        )
    return {name: str(config.get("spark", name)) for name in names}


def _own_settings(config: Any, section: str = "lake") -> list[str]:
    """What a configuration's section sets itself, without the names that `[DEFAULT]` gives every section."""
    return [name for name in config[section] if name not in config.defaults()] if config.has_section(section) else []


# Without these settings a failed task exits 0, a run waits a minute for a missing luigid, and Luigi refuses two runs
# at once although the lake has its own locks. They apply in every working directory; a luigi.cfg overrides them.
# [worker] check_unfulfilled_deps is off because other runs may change the lake after a task was checked: a task
# records what it read, and the next run rebuilds what is stale.
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
    "worker": {"check_unfulfilled_deps": "false", "task_process_context": "lakejobs.luigi_output.TaskContext"},
}


def apply_defaults() -> None:
    """Give Luigi the settings above, unless a configuration file sets them."""
    # Luigi reads some [core] settings outside its own parameters, and then warns that they are unused. In [lake]
    # and [alerts], an unknown setting is an error.
    warnings.filterwarnings("ignore", message=".*not consumed by the task '(core|lake|alerts)'", category=UserWarning)
    settings = luigi.configuration.get_config()
    for section, options in DEFAULTS.items():
        for option, value in options.items():
            if not settings.has_option(section, option):
                settings.set(section, option, value)
