"""The Luigi tasks. `layers` and `pages` do the work; `freshness` decides what is stale."""

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
from lakejobs.freshness import restatements, runs
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import Keep, is_fresh, newest_snapshot
from lakejobs.layers import bronze, gold, silver, staging, views
from lakejobs.luigi_output import show_progress, tell
from lakejobs.messages import LakeError, OnProgress, counted, span
from lakejobs.pages import data_docs, report
from lakejobs.project import broken_domains, domains
from lakejobs.quality import importing, suite
from lakejobs.storage import deliveries, documents, layout
from lakejobs.tables import Table, broken_sources, broken_tables, domains_of, tables
from lakejobs.task_parameters import BatchParameter, DatesParameter, DomainParameter, TableParameter, parse_date

RUN = uuid.uuid4().hex[:12]


class LakeTask(luigi.Task):
    """A task whose id is unique to this run, so that a scheduler never confuses it with a task of another run.

    What is stale changes from run to run, so the same task has different work each time. But luigid remembers tasks by
    id: it does not hand out one that was just done, nor one that another run is working on. Either way a run would
    end without doing its work. The lake's own locks keep runs apart instead. A run's worker processes are
    forked, so they share RUN.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_id = f"{self.task_id}_{RUN}"

    def on_progress(self) -> OnProgress:
        return functools.partial(show_progress, self)


# ------------------------------------------------------------------------------------------------ staging and bronze


class Staging(LakeTask):
    """One generated CSV file of a batch. Also complete if the file has landed and was then removed from staging."""

    domain = DomainParameter()
    batch = BatchParameter(description="The batch's timestamp (UTC), YYYYMMDD_HHMMSS.")
    rows = luigi.OptionalIntParameter(default=None, description="Rows to generate; each domain has its own default.")

    @property
    def path(self) -> str:
        """Path in the staging store."""
        return layout.current().staged(domains()[self.domain].prefix, self.domain, self.batch)

    def output(self) -> StagingTarget:
        return StagingTarget(self.path)

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
            raise LakeError(f"--rows {rows}: expected 1 or more")

        def drawn(count: int) -> None:
            show_progress(self, f"{count:,} of {rows:,} rows generated", 100 * count // rows)

        with documents.writing(layout.current().staging, self.path) as handle:
            written = staging.write_batch(domain, self.batch, rows, handle, drawn)
        tell(self, f"{counted(written, 'row')} in {self.output().path}", percent=100)


class StagingTarget(luigi.Target):
    """Exists when the file is in staging."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def path(self) -> str:
        return layout.current().staging.location(self._path)

    def exists(self) -> bool:
        return layout.current().staging.stat(self._path) is not None

    def __str__(self) -> str:
        return self.path


class Bronze(LakeTask):
    """One bronze partition: every staged file of one landing date, byte for byte, and their manifest.

    Luigi merges a domain's stale partitions into one task, so that their files are read in one pass.
    """

    domain = DomainParameter()
    date = DatesParameter(description="Landing date, YYYY-MM-DD.")
    max_batch_size = 10_000
    # Highest priority: a domain's silver reuses what its bronze has read, before another domain starts.
    priority = 3

    @property
    def dates(self) -> list[dt.date]:
        return [parse_date(day) for day in self.date.split(",")]

    def __repr__(self) -> str:
        return f"{self.task_family}(domain={self.domain}, date={span(self.dates)})"

    def output(self) -> list[BronzeTarget]:
        return [BronzeTarget(self.domain, date) for date in self.dates]

    def complete(self) -> bool:
        """Whether all targets exist, without looking at the lake once per target."""
        return not runs.state(self.domain).stale & set(self.dates)

    def run(self) -> None:
        run = runs.current()
        with run.state(self.domain).locked() as state:
            due = [date for date in self.dates if date in state.stale]
            if due:
                with run.ledger.entry("Bronze", self.domain, due) as entry:
                    entry.reason = bronze.land(state, due, run.engine, self.on_progress())
                    entry.rows = sum(state.landings[date].records for date in due if date in state.landings)
                tell(self, entry.reason, percent=100)


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
    """One silver partition. Luigi merges a domain's stale partitions into one task, one pass over the data."""

    domain = DomainParameter()
    date = DatesParameter(description="Event date (UTC), YYYY-MM-DD.")
    max_batch_size = 10_000
    priority = 3

    @classmethod
    @functools.cache
    def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]:
        """As in Luigi, but cached: Luigi calls this ten times per task, and there are thousands of these tasks."""
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
        """Whether all targets exist, without looking at the lake once per target."""
        state = runs.state(self.domain)
        return not state.stale_landings() and all(state.is_fresh(date) for date in self.dates)

    def run(self) -> Any:
        run = runs.current()
        yield [Bronze(self.domain, date.isoformat()) for date in run.state(self.domain).stale_landings()]
        with run.state(self.domain).locked() as state:
            due = [date for date in self.dates if not state.is_fresh(date)]
            if not due:
                return
            with run.ledger.entry("Silver", self.domain, due) as entry:
                built, page = self._build(run, state, due)
                entry.rows = sum(counts.rows for counts in built.counts.values())
                entry.because(built.causes)
                entry.judged = [*built.validation.outcomes.values()] if built.validation else []
                if built.withheld:
                    path = suite.suite_path(self.domain)
                    raise LakeError(silver.withheld_message(self.domain, built, path, page or ""))
        tell(self, str(built), percent=100, link=page)

    def _build(self, run: Run, state: DomainState, due: list[dt.date]) -> tuple[silver.Built, str | None]:
        """Build partitions and write their Data Docs page; returns its URL, if there is one."""
        section = settings()
        built = silver.build(state, due, run.engine, section.chunk_rows, section.merge, self.on_progress())
        if not built.validation:
            return built, None
        # The page says what was published, so it is written after publishing.
        kept = data_docs.keep(
            run.lake, built.validation, built.counts, built.new_records, built.withheld, built.examples
        )
        return built, data_docs.page_url(run.lake, kept)


class DomainSilver(LakeTask, luigi.WrapperTask):
    """Every stale silver partition of a domain, and every stale bronze partition below them."""

    domain = DomainParameter(broken=True)
    # Before any gold table: the import that this starts takes longer than they do.
    priority = 2

    def complete(self) -> bool:
        if self.domain in broken_domains():
            return False
        state = runs.state(self.domain)
        if state.stale_landings() or state.stale_dates():
            return False
        # Notice a broken suite now, not when the next delivery needs it.
        with contextlib.suppress(LakeError):
            return bool(suite.load_suite(domains()[self.domain]))
        return False

    def run(self) -> Any:
        if self.domain in broken_domains():
            raise LakeError(broken_domains()[self.domain])
        if multiprocessing.parent_process() is None:
            # The import takes a second or two, and rows to validate are likely.
            importing.import_in_background()
        yield [Bronze(self.domain, date.isoformat()) for date in runs.state(self.domain).stale_landings()]
        with runs.current().ledger.failure("Silver", self.domain):
            suite.load_suite(domains()[self.domain])
        yield [Silver(self.domain, date.isoformat()) for date in runs.state(self.domain).stale_dates()]


class SilverTarget(luigi.Target):
    """Exists when the partition's file is intact and its lineage matches its current inputs."""

    def __init__(self, domain: str, date: dt.date) -> None:
        self.domain, self.date = domain, date

    @property
    def path(self) -> str:
        lake = layout.current()
        return lake.location(lake.silver(self.domain, self.date))

    def exists(self) -> bool:
        state = runs.state(self.domain)
        # A stale bronze partition may hold rows of any date.
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
            # What it reads fails and says why; this table then waits, so that the reason is said once.
            return [
                DomainSilver(name) if name in broken_domains() else Gold(name) for name in broken_sources(self.table)
            ]
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
                # Pages left over by a run that died after it published.
                for domain in domains_of(table):
                    data_docs.sweep(run.lake, domain)
                with run.ledger.entry("Gold", self.table) as entry:
                    built = gold.build(run, table, run.engine, Keep.as_set())
                    entry.rows = built.rows
                    entry.because(built.causes)
                tell(self, str(built), percent=100, link=data_docs.page_url(run.lake, run.lake.table_page(self.table)))


class GoldTarget(luigi.Target):
    """Exists when the newest snapshot was built from the current silver, and nothing below is stale."""

    def __init__(self, table: str) -> None:
        self.table = tables()[table]

    @property
    def path(self) -> str:
        """The newest snapshot, or the table's directory if it has none yet."""
        run = runs.current()
        newest, _ = newest_snapshot(run, self.table)
        gold_path = run.lake.gold(self.table.name, newest) if newest else run.lake.layer("gold", self.table.name)
        return run.lake.location(gold_path)

    def exists(self) -> bool:
        run = runs.current()
        states = [run.state(domain) for domain in domains_of(self.table)]
        is_due = any(state.stale_landings() or state.stale_dates() for state in states)
        fresh = not is_due and is_fresh(run, self.table)
        # If this run publishes nothing, only this saves what was learned about the snapshot.
        for state in states:
            state.save()
        return fresh

    def __str__(self) -> str:
        return self.path


@contextlib.contextmanager
def locked(run: Run, table: Table) -> Iterator[None]:
    """Hold the locks of all domains that a table is built from; every run takes them in the same order."""
    with contextlib.ExitStack() as stack:
        for domain in sorted(domains_of(table)):
            stack.enter_context(run.state(domain).locked())
        yield


# ------------------------------------------------------------------------------------------------ report and views


class Report(LakeTask):
    """The report page on the current lake, even if other tasks failed."""

    # It requires no tasks, so no failure keeps it from running. All others have a higher priority, so it runs last.
    # (A priority below 0 would not work: luigid gives a finished task priority 0, and never lowers a priority.)
    priority = 0

    def output(self) -> ReportTarget:
        return ReportTarget()

    def run(self) -> None:
        run = runs.current()
        run.ledger.write()
        for table in restatements.unsettled(run):
            with locked(run, table):
                restatements.settle(run, table)
        if report.publish(run, visualiser_url()):
            link = data_docs.page_url(run.lake, run.lake.report)
            tell(self, f"written to {self.output()}", percent=100, link=link)


class ReportTarget(luigi.Target):
    """Exists when nothing in the lake is stale and the page describes the current lake."""

    def exists(self) -> bool:
        return report.is_of_now(runs.current())

    def __str__(self) -> str:
        lake = layout.current()
        return lake.location(lake.report)


class Views(LakeTask):
    """The file of views for SQL tools, even if other tasks failed. Nothing to do for a lake in an object store."""

    priority = 0  # as that of Report

    def output(self) -> ViewsTarget:
        return ViewsTarget()

    def run(self) -> None:
        if views.publish(runs.current()):
            tell(self, f"written to {self.output()}", percent=100)


class ViewsTarget(luigi.Target):
    """Exists when the views are those of the current lake."""

    def exists(self) -> bool:
        return views.is_of_now(runs.current())

    def __str__(self) -> str:
        lake = layout.current()
        return lake.location(lake.views or "")


def visualiser_url() -> str:
    """URL of the visualiser."""
    core = luigi.interface.core()
    return str(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")


# ------------------------------------------------------------------------------------------------ batches, whole layers


class Generate(LakeTask, luigi.WrapperTask):
    """One generated batch of a domain, landed in bronze."""

    domain = DomainParameter()
    batch = BatchParameter(description="The batch's timestamp (UTC), YYYYMMDD_HHMMSS.")
    rows = luigi.OptionalIntParameter(default=None, description="Rows to generate; each domain has its own default.")

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

    batch = BatchParameter(description="The batch's timestamp (UTC), YYYYMMDD_HHMMSS.")

    def requires(self) -> list[luigi.Task]:
        return [Generate(name, self.batch) for name, domain in domains().items() if domain.fake]

    def complete(self) -> bool:
        return not broken_domains() and bool(super().complete())

    def run(self) -> None:
        runs.current().ledger.write()
        if broken_domains():
            raise LakeError("; ".join(broken_domains().values()))


class EverythingTask(LakeTask, luigi.WrapperTask):
    """All of a layer. Fails at the end if a domain's module is broken, or if files were rejected and `[lake] rejected =
    fail`."""

    def complete(self) -> bool:
        return not refused() and bool(super().complete())

    def run(self) -> None:
        runs.current().ledger.write()
        if files := refused():
            raise LakeError("; ".join(files))


def refused() -> list[str]:
    """Reasons to fail a run at its end: broken domains, and rejected files if `[lake] rejected = fail`."""
    broken = list(broken_domains().values())
    if settings().rejected != "fail":
        return broken
    return broken + [file for domain in domains() for file in runs.state(domain).rejected]


class BronzeAll(EverythingTask):
    """Lands every staged file."""

    def requires(self) -> list[luigi.Task]:
        return [
            Bronze(domain, date.isoformat()) for domain in domains() for date in runs.state(domain).stale_landings()
        ]


class SilverAll(EverythingTask):
    """Every stale silver partition, and everything stale below."""

    def requires(self) -> list[luigi.Task]:
        return [DomainSilver(domain) for domain in {**domains(), **broken_domains()}]


class GoldAll(EverythingTask):
    """Every gold table, everything stale below, even if no table reads it, the report, and the views."""

    def requires(self) -> list[luigi.Task]:
        names = [*tables(), *broken_tables()]
        every_domain = {**domains(), **broken_domains()}
        tasks = [*(DomainSilver(domain) for domain in every_domain), *(Gold(table) for table in names)]
        return [*tasks, Report(), Views()]

    def complete(self) -> bool:
        runs.current().if_failed = publish_pages
        # A domain that cannot be read fails by itself and says why; the others are still built.
        with contextlib.suppress(LakeError):
            return bool(super().complete())
        return False

    def run(self) -> None:
        publish_pages()
        super().run()


def publish_pages() -> None:
    """Publish the report and the views again: with a second worker, they may have run before the last task ended."""
    report.publish(runs.current(), visualiser_url())
    views.publish(runs.current())
