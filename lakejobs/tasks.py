"""The tasks: all that is Luigi's. What they do is in `layers` and `pages`; what is left to do, `freshness` says."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import multiprocessing
import uuid
from collections.abc import Iterator
from typing import Any

import luigi

from lakejobs.config import lake as settings
from lakejobs.console import show_progress, tell
from lakejobs.freshness import runs
from lakejobs.freshness.runs import Run
from lakejobs.freshness.tables import is_fresh, newest_snapshot
from lakejobs.layers import bronze, gold, silver, staging
from lakejobs.messages import LakeError, OnProgress, counted, span
from lakejobs.pages import docs, report
from lakejobs.parameters import BatchParameter, DatesParameter, DomainParameter, TableParameter, parse_date
from lakejobs.project import broken_domains, domains
from lakejobs.quality import importing, suite
from lakejobs.storage import deliveries, documents, layout
from lakejobs.tables import Table, broken_tables, domains_of, tables

RUN = uuid.uuid4().hex[:12]


class LakeTask(luigi.Task):
    """A task of this run, told apart from those of every other, so that a scheduler never takes one for another.

    What is due in a lake changes from run to run, and a task of the same name has something else to do each time.
    luigid remembers tasks by id: one that it saw done a moment ago it does not give out again, and one that another run
    is doing it gives to that run alone. Both would end with a run that has not done what it was started for. Runs keep
    out of each other's way by the lake's own locks instead. A run's worker processes are forked, so they agree on RUN.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_id = f"{self.task_id}_{RUN}"

    def on_progress(self) -> OnProgress:
        return functools.partial(show_progress, self)


# ------------------------------------------------------------------------------------------------ staging and bronze


class Staging(LakeTask):
    """One generated CSV file of a batch. A batch whose file was landed and then cleared away is complete too."""

    domain = DomainParameter()
    batch = BatchParameter(description="The moment (UTC) the batch is for, YYYYMMDD_HHMMSS.")
    rows = luigi.OptionalIntParameter(default=None, description="Rows to draw; a domain has its own usual number.")

    @property
    def path(self) -> str:
        """In the staging store."""
        return layout.current().staged(domains()[self.domain].prefix, self.domain, self.batch)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(layout.current().staging.location(self.path))

    def complete(self) -> bool:
        lake = layout.current()
        landed = lake.store.files(lake.bronze(self.domain, self.batch.date()))
        return lake.staging.stat(self.path) is not None or self.path.rpartition("/")[2] in {
            deliveries.original_name(file.name) for file in landed
        }

    def run(self) -> None:
        domain = domains()[self.domain]
        rows = domain.rows if self.rows is None else self.rows
        if rows < 1:
            raise LakeError(f"--rows {rows}: a batch has at least one row")

        def drawn(count: int) -> None:
            show_progress(self, f"{count:,} of {rows:,} rows drawn", 100 * count // rows)

        with documents.writing(layout.current().staging, self.path) as handle:
            written = staging.write_batch(domain, self.batch, rows, handle, drawn)
        tell(self, f"{counted(written, 'row')} in {self.output().path}", percent=100)


class Bronze(LakeTask):
    """One bronze partition: every staged file of one landing date, byte for byte, and the manifest of them.

    Luigi joins those of a domain that are due at once to one task, so that their files are read in one pass.
    """

    domain = DomainParameter()
    date = DatesParameter(description="Landing date, YYYY-MM-DD.")
    max_batch_size = 10_000
    # Silver goes on with what its bronze has read: before another domain is begun.
    priority = 3

    @property
    def dates(self) -> list[dt.date]:
        return [parse_date(day) for day in self.date.split(",")]

    def __repr__(self) -> str:
        return f"{self.task_family}(domain={self.domain}, date={span(self.dates)})"

    def output(self) -> list[BronzeTarget]:
        return [BronzeTarget(self.domain, date) for date in self.dates]

    def complete(self) -> bool:
        """As all of its targets, which would look at the lake for each of them."""
        return not runs.state(self.domain).stale & set(self.dates)

    def run(self) -> None:
        run = runs.current()
        with run.state(self.domain).locked() as state:
            due = [date for date in self.dates if date in state.stale]
            if due:
                tell(self, bronze.land(state, due, run.engine, self.on_progress()), percent=100)


class BronzeTarget(luigi.Target):
    """Exists when every staged file of the date has landed and the manifest describes what is there."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date

    @property
    def path(self) -> str:
        lake = layout.current()
        return lake.location(lake.bronze(self.domain, self.date))

    def exists(self) -> bool:
        return self.date not in runs.state(self.domain).stale

    def __str__(self) -> str:
        return self.path


# ------------------------------------------------------------------------------------------------ silver


class Silver(LakeTask):
    """One silver partition. Luigi joins those of a domain that are due at once to one task, one pass over the data."""

    domain = DomainParameter()
    date = DatesParameter(description="Event date (UTC), YYYY-MM-DD.")
    max_batch_size = 10_000
    priority = 3

    @classmethod
    @functools.cache
    def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]:
        """As Luigi finds them out: it asks ten times a task, and of these there are thousands."""
        found: list[tuple[str, luigi.Parameter[Any]]] = super().get_params()
        return found

    @property
    def dates(self) -> list[dt.date]:
        return [parse_date(day) for day in self.date.split(",")]

    def __repr__(self) -> str:
        return f"{self.task_family}(domain={self.domain}, date={span(self.dates)})"

    def output(self) -> list[SilverTarget]:
        return [SilverTarget(self.domain, date) for date in self.dates]

    def complete(self) -> bool:
        """As all of its targets, which would look at the lake for each of them."""
        state = runs.state(self.domain)
        return not state.stale_landings() and all(state.is_fresh(date) for date in self.dates)

    def run(self) -> Any:
        run = runs.current()
        yield [Bronze(self.domain, date.isoformat()) for date in run.state(self.domain).stale_landings()]
        with run.state(self.domain).locked() as state:
            due = [date for date in self.dates if not state.is_fresh(date)]
            if not due:
                return
            built = silver.build(state, due, run.engine, settings().chunk_rows, self.on_progress())
            page = None
            if built.validation:
                # A page tells what was published, so that has to have happened.
                page = docs.page_url(
                    run.lake, docs.keep(run.lake, built.validation, built.counts, built.withheld, built.examples)
                )
        if built.withheld:
            raise LakeError(silver.withheld_message(self.domain, built, suite.suite_path(self.domain), page or ""))
        tell(self, str(built), percent=100, link=page)


class DomainSilver(LakeTask, luigi.WrapperTask):
    """Every silver partition of a domain that is due, and everything that is waiting below them."""

    domain = DomainParameter(broken=True)
    # Before any gold table: the import that it starts takes longer than they do.
    priority = 2

    def complete(self) -> bool:
        if self.domain in broken_domains():
            return False
        state = runs.state(self.domain)
        if state.stale_landings() or state.stale_dates():
            return False
        # A broken suite is to be noticed before the next delivery needs it.
        with contextlib.suppress(LakeError):
            return bool(suite.load_suite(domains()[self.domain]))
        return False

    def run(self) -> Any:
        if self.domain in broken_domains():
            raise LakeError(broken_domains()[self.domain])
        if multiprocessing.parent_process() is None:
            # It takes a second or two, and there will be something to validate.
            importing.import_in_background()
        yield [Bronze(self.domain, date.isoformat()) for date in runs.state(self.domain).stale_landings()]
        suite.load_suite(domains()[self.domain])
        yield [Silver(self.domain, date.isoformat()) for date in runs.state(self.domain).stale_dates()]


class SilverTarget(luigi.Target):
    """Exists when the partition's file is whole and its lineage is that of its inputs as they are now."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date

    @property
    def path(self) -> str:
        lake = layout.current()
        return lake.location(lake.silver(self.domain, self.date))

    def exists(self) -> bool:
        state = runs.state(self.domain)
        # What is waiting below may hold rows of any date.
        return not state.stale_landings() and state.is_fresh(self.date)

    def __str__(self) -> str:
        return self.path


# ------------------------------------------------------------------------------------------------ gold


class Gold(LakeTask):
    """The newest snapshot of one gold table."""

    table = TableParameter()
    priority = 1

    def requires(self) -> list[luigi.Task]:
        if self.table in broken_tables():
            return []
        names = [source.name for source in tables()[self.table].sources]
        return [DomainSilver(name) if name in domains() else Gold(name) for name in names]

    def output(self) -> GoldTarget | list[GoldTarget]:
        return [] if self.table in broken_tables() else GoldTarget(self.table)

    def complete(self) -> bool:
        return self.table not in broken_tables() and super().complete()

    def run(self) -> None:
        if self.table in broken_tables():
            raise LakeError(broken_tables()[self.table])
        table, run = tables()[self.table], runs.current()
        with locked(run, table):
            if not is_fresh(run, table):
                # What a run that died after it published left among the pages.
                for domain in domains_of(table):
                    docs.sweep(run.lake, domain)
                said = gold.build(run, table, run.engine, settings().keep_snapshots)
                tell(self, said, percent=100, link=docs.page_url(run.lake, run.lake.report))


class GoldTarget(luigi.Target):
    """Exists when the newest snapshot was made from what silver holds now, and nothing is waiting below."""

    def __init__(self, table: str) -> None:
        self.table = tables()[table]

    @property
    def path(self) -> str:
        """The newest snapshot, or the directory of the table where there is none yet."""
        run = runs.current()
        newest, _ = newest_snapshot(run, self.table)
        gold_path = run.lake.gold(self.table.name, newest) if newest else run.lake.layer("gold", self.table.name)
        return run.lake.location(gold_path)

    def exists(self) -> bool:
        run = runs.current()
        states = [run.state(domain) for domain in domains_of(self.table)]
        is_due = any(state.stale_landings() or state.stale_dates() for state in states)
        fresh = not is_due and is_fresh(run, self.table)
        # Where this run has nothing to publish, nobody else keeps what was learned of the snapshot.
        for state in states:
            state.save()
        return fresh

    def __str__(self) -> str:
        return self.path


@contextlib.contextmanager
def locked(run: Run, table: Table) -> Iterator[None]:
    """Hold the locks of all domains that a table is made from, in an order that is every run's."""
    with contextlib.ExitStack() as stack:
        for domain in sorted(domains_of(table)):
            stack.enter_context(run.state(domain).locked())
        yield


# ------------------------------------------------------------------------------------------------ report


class Report(LakeTask):
    """The page about the lake as it is now; on a bad day too, when other tasks failed."""

    # It requires nothing that could fail and keep it from running. All else has a higher priority, so it comes last.
    # (Below 0 would not do: luigid takes 0 for the priority of a task that is done, and never lowers one again.)
    priority = 0

    def output(self) -> ReportTarget:
        return ReportTarget()

    def run(self) -> None:
        run = runs.current()
        if report.publish(run, visualiser_url()):
            link = docs.page_url(run.lake, run.lake.report)
            tell(self, f"written to {self.output()}", percent=100, link=link)


class ReportTarget(luigi.Target):
    """Exists when nothing is due in the lake and the page was made from what is there now."""

    def exists(self) -> bool:
        return report.is_of_now(runs.current())

    def __str__(self) -> str:
        lake = layout.current()
        return lake.location(lake.report)


def visualiser_url() -> str:
    """Where the visualiser is."""
    core = luigi.interface.core()
    return str(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")


# ------------------------------------------------------------------------------------------------ what schedules fire


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
    """One generated batch of every domain that has fake rows."""

    batch = BatchParameter(description="The moment (UTC) the batch is for, YYYYMMDD_HHMMSS.")

    def requires(self) -> list[luigi.Task]:
        return [Generate(name, self.batch) for name, domain in domains().items() if domain.fake]

    def complete(self) -> bool:
        return not broken_domains() and bool(super().complete())

    def run(self) -> None:
        if broken_domains():
            raise LakeError("; ".join(broken_domains().values()))


class EverythingTask(LakeTask, luigi.WrapperTask):
    """All of a layer. Fails at its end where a domain's module is broken, or where `[lake] rejected = fail` and there
    are rejected files."""

    def complete(self) -> bool:
        return not refused() and bool(super().complete())

    def run(self) -> None:
        if files := refused():
            raise LakeError("; ".join(files))


def refused() -> list[str]:
    """What makes a run fail although it has done all it could: broken domains, and rejected files where these do."""
    broken = list(broken_domains().values())
    if settings().rejected != "fail":
        return broken
    return broken + [file for domain in domains() for file in runs.state(domain).rejected]


class BronzeAll(EverythingTask):
    """Everything that is staged, landed."""

    def requires(self) -> list[luigi.Task]:
        return [
            Bronze(domain, date.isoformat()) for domain in domains() for date in runs.state(domain).stale_landings()
        ]


class SilverAll(EverythingTask):
    """Every silver partition that is due, and everything below it."""

    def requires(self) -> list[luigi.Task]:
        return [DomainSilver(domain) for domain in {**domains(), **broken_domains()}]


class GoldAll(EverythingTask):
    """Every gold table, everything that is due below, whether a table reads it or not, and the report."""

    def requires(self) -> list[luigi.Task]:
        names = [*tables(), *broken_tables()]
        every_domain = {**domains(), **broken_domains()}
        return [*(DomainSilver(domain) for domain in every_domain), *(Gold(table) for table in names), Report()]

    def complete(self) -> bool:
        # A domain that cannot be looked at fails by itself, and says why; the others are made all the same.
        with contextlib.suppress(LakeError):
            return bool(super().complete())
        return False

    def run(self) -> None:
        # A second worker may have made it while the first was not done.
        report.publish(runs.current(), visualiser_url())
        super().run()
