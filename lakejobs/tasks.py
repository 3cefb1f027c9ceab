"""The tasks that the schedules fire: everything of a layer, or one generated batch."""

from __future__ import annotations

import contextlib
from typing import Any

import luigi

from lakejobs import lineage, report
from lakejobs.bronze import Bronze
from lakejobs.config import lake as settings
from lakejobs.console import LakeError
from lakejobs.gold import Gold, broken_tables, tables
from lakejobs.parameters import BatchParameter, DomainParameter
from lakejobs.project import domains
from lakejobs.report import Report
from lakejobs.runs import LakeTask
from lakejobs.silver import DomainSilver
from lakejobs.staging import Staging


class Generate(LakeTask, luigi.WrapperTask):
    """One generated batch of a domain, landed in bronze."""

    domain = DomainParameter()
    batch = BatchParameter(description="The moment (UTC) the batch is for, YYYYMMDD_HHMMSS.")
    rows = luigi.OptionalIntParameter(default=None, description="Rows to draw; a domain has its own usual number.")

    def requires(self) -> luigi.Task:
        return Staging(self.domain, self.batch, self.rows)

    def complete(self) -> bool:
        return Staging(self.domain, self.batch, self.rows).complete() and self._bronze().complete()

    def run(self) -> Any:
        yield self._bronze()

    def _bronze(self) -> Bronze:
        return Bronze(self.domain, self.batch.date().isoformat())


class GenerateAll(LakeTask, luigi.WrapperTask):
    """One generated batch of every domain."""

    batch = BatchParameter(description="The moment (UTC) the batch is for, YYYYMMDD_HHMMSS.")

    def requires(self) -> list[luigi.Task]:
        return [Generate(domain, self.batch) for domain in domains()]


class EverythingTask(LakeTask, luigi.WrapperTask):
    """All of a layer. Fails at its end where `[lake] rejected = fail` and there are rejected files."""

    def complete(self) -> bool:
        return not refused() and bool(super().complete())

    def run(self) -> None:
        if files := refused():
            raise LakeError("; ".join(files))


def refused() -> list[str]:
    """Rejected files, where these make a run fail."""
    if settings().rejected != "fail":
        return []
    return [file for domain in domains() for file in lineage.state(domain).rejected]


class BronzeAll(EverythingTask):
    """Everything that is staged, landed."""

    def requires(self) -> list[luigi.Task]:
        return [
            Bronze(domain, date.isoformat()) for domain in domains() for date in lineage.state(domain).stale_landings()
        ]


class SilverAll(EverythingTask):
    """Every silver partition that is due, and everything below it."""

    def requires(self) -> list[luigi.Task]:
        return [DomainSilver(domain) for domain in domains()]


class GoldAll(EverythingTask):
    """Every gold table, everything that is due below, whether a table reads it or not, and the report."""

    def requires(self) -> list[luigi.Task]:
        names = [*tables(), *broken_tables()]
        return [*(DomainSilver(domain) for domain in domains()), *(Gold(table) for table in names), Report()]

    def complete(self) -> bool:
        # A domain that cannot be looked at fails by itself, and says why; the others are made all the same.
        with contextlib.suppress(LakeError):
            return bool(super().complete())
        return False

    def run(self) -> None:
        # A second worker may have made it while the first was not done.
        report.publish()
        super().run()
