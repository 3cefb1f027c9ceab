"""The engine on Spark, for input that takes one machine too long.

Executors run the functions of the local engine, DuckDB and Great Expectations on pandas included, each on a part of the
data, so all cells, counts and verdicts are the same. Spark distributes the parts, shuffles rows by event date, and
tries again what was lost with an executor.

Silver is one job of two stages. A task of the first types the records of a portion: some files, or a part of a large
one. A task of the second gets all rows of some dates, merges them into the stored partitions, judges them and writes
finished files into a shared directory of the store. The driver gets counts, verdicts and examples, and publishes the
files: those of the attempts that Spark reports as successful, because every attempt has its own names.

The days of a daily gold table are computed in several tasks. Another table is computed in one, as the local engine
computes it: its rows are few, and split sums would have to be put together again.

Every machine needs the same versions of lakejobs and its packages, and the lake: in an object store, or on a disk that
all see at the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import importlib
import importlib.metadata
import importlib.resources
import itertools
import operator
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from lakejobs.engine import (
    CsvFile,
    FileCount,
    GoldJob,
    GrainError,
    NotPlainError,
    OtherDateError,
    QueryError,
    Reading,
    SilverJob,
    partitions,
    records,
)
from lakejobs.engine.duckdb import Connection, load_order
from lakejobs.engine.local import LocalEngine, LocalResult, judged, loaded_rows
from lakejobs.messages import LakeError, OnProgress, log
from lakejobs.model import Counts
from lakejobs.quality import importing
from lakejobs.quality.evaluation import EXAMPLE_ROWS, Outcome, Validation, modules_of_own
from lakejobs.storage import Store
from lakejobs.storage import local as disk
from lakejobs.storage.layout import open_store, reachable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import RDD, SparkContext

Item = TypeVar("Item")
Found = TypeVar("Found")
Key: TypeAlias = tuple[int, int, int]
"""Of rows on their way to the second stage: the group of dates, the portion, and a number in the portion."""

LEAST_PORTION = 8 << 20
MOST_PORTION = 64 << 20
"""Bytes of CSV that a task reads, unless a single file that cannot be cut has more."""
MOST_ROWS = 500_000
"""Rows that a task of the second stage judges, unless a single date has more."""
ROWS_SENT = 10_000
"""Rows sent on at once."""
LEAST_JAVA = 17
SAME_EVERYWHERE = ("duckdb", "great_expectations", "pandas", "pyarrow", "numpy")
"""Packages whose versions may decide about cells or verdicts."""
FAILURES = (LakeError, NotPlainError, QueryError, GrainError, OtherDateError)
"""What a task returns instead of raising it: Spark would only try again, and report a traceback."""
DEFAULTS = {
    "spark.app.name": "lakejobs",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
ON_THIS_MACHINE = re.compile(r"local(\[|-cluster|$)|spark://(127\.0\.0\.1|localhost):")
MASTER = re.compile(r"local(\[.+\]|-cluster\[.+\])?$|spark://.+:[0-9]+$|yarn$|k8s://.")
STANDALONE = re.compile(r"(?<=[/,])[^/,]+:[0-9]+(?=,|$)")
"""Addresses of the masters in spark://one:7077,other:7077."""
PATIENCE = 30.0
"""Seconds without an executor, after which a run says so, or fails if there was no master either."""
PAUSE = 2.0
"""Seconds between two looks for executors."""
LOCAL = re.compile(r"local(?:\[([0-9]+|\*)\])?")
OF_STORES = re.compile("AWS_|GOOGLE_|AZURE_")
"""Variables that say where an object store is, and who asks."""
ATTEMPTS = 4
LEAST_DAYS = 8
"""Days of a gold table that are worth a task of their own."""
READ_AT_ONCE = 8 << 20
"""Bytes of a part of a file."""
LINE_AT_ONCE = 64 << 10
"""Bytes to read in search of the end of a line."""


class SparkEngine:
    """Spark, whose executors read files of the lake's store, and leave others there for the driver."""

    def __init__(self, store: Store, lease: float, cluster: Cluster, local: LocalEngine) -> None:
        """`lease`: see `open_store`. `local`: the engine for what is too little to be distributed."""
        self._store, self._lease, self._cluster, self._local = store, lease, cluster, local
        self._connected: SparkContext | None = None

    def _spark(self) -> SparkContext:
        """The connection to Spark. One that has stopped is not made anew in this run."""
        if self._connected is None:
            self._connected = self._cluster.context()
        if has_stopped(self._connected):
            raise LakeError(
                f"[lake] spark_master={self._cluster.master}: Spark has stopped; check that it runs, then run again"
            )
        return self._connected

    @property
    def name(self) -> str:
        """That of the local engine: it computes every cell here too, so another engine makes nothing stale."""
        return self._local.name

    def forget(self) -> None:
        """Nothing is kept."""

    def tables(self, paths: Mapping[str, str]) -> AbstractContextManager[Connection]:
        return self._local.tables(paths)

    def count_records(self, reading: Reading, files: Sequence[CsvFile]) -> dict[int, FileCount]:
        context = self._spark()
        portions = in_portions(files, context.defaultParallelism)
        found: dict[int, FileCount] = {}
        with self._shared(reading.domain.name) as site:
            for count in _each(context, site, functools.partial(_count, _sent(reading)), portions):
                found |= count
        return found

    @contextlib.contextmanager
    def silver(self, job: SilverJob, on_progress: OnProgress) -> Iterator[SparkResult]:
        importing_it = importing.import_in_background()
        on_progress(f"reading {job.new_records:,} records", 5)
        given = dataclasses.replace(job, reading=_sent(job.reading))
        context = self._spark()
        importing_it.join()
        modules = modules_of_own(job.suite)
        with self._shared(job.reading.domain.name) as site:
            portions = in_portions(load_order(job.files), context.defaultParallelism, self._store)
            portions = _numbered(context, site, portions)
            groups = in_groups(job.dates, context.defaultParallelism)
            rows = (
                context.parallelize(portions, len(portions))
                .flatMap(functools.partial(_type, site, given, groups))
                .partitionBy(len(groups), operator.itemgetter(0))
                .mapPartitionsWithIndex(functools.partial(_finish, site, given, groups, modules))
            )
            found: list[Finished] = _answers(_collect(context, rows, len(portions) + len(groups), on_progress))
            validation = Validation(job.suite, job.reading.domain)
            for finished in found:
                validation.include(finished.outcomes)
            yield SparkResult(validation, found, self._store)

    def gold(self, job: GoldJob, path: str, footer: str) -> int:
        context = self._spark()
        # Whoever builds a table holds the locks of all domains that it reads, so its sources tell who else is alive.
        with self._shared("-".join(["gold", *sorted(source.name for source in job.sources)])) as site:
            jobs = [dataclasses.replace(job, days=days, carried=()) for days in in_spans(job.days, context)]
            if len(jobs) > 1:
                parts = [made for made, _ in _each(context, site, functools.partial(_gold, footer=""), jobs)]
                carried = [*job.carried, *zip(parts, [some.days or () for some in jobs], strict=True)]
                job = dataclasses.replace(job, days=[], carried=carried)
            ((made, rows),) = _each(context, site, functools.partial(_gold, footer=footer), [job])
            self._store.take(made, path)
        return rows

    @contextlib.contextmanager
    def _shared(self, name: str) -> Iterator[Site]:
        """What tasks need to know, with a shared directory that lasts as long as this context."""
        with self._store.shared(name) as directory:
            yield Site(reachable(self._store.root), self._lease, directory, self._cluster.memory_limit)


class SparkResult:
    """Silver partitions that executors have finished."""

    def __init__(self, validation: Validation, found: Sequence[Finished], store: Store) -> None:
        self.validation, self._store = validation, store
        self.counts: dict[dt.date, Counts] = {}
        self._files: dict[dt.date, tuple[str, int]] = {}
        self._examples: dict[int | str, list[tuple[Any, dict[str, Any]]]] = {}
        for finished in found:
            self.counts |= finished.counts
            self._files |= finished.files
            for about, rows in finished.examples.items():
                self._examples.setdefault(about, []).extend(rows)

    def examples(self) -> dict[int | str, list[dict[str, Any]]]:
        return {
            about: [row for _, row in sorted(rows, key=operator.itemgetter(0))[:EXAMPLE_ROWS]]
            for about, rows in self._examples.items()
        }

    def write(self, date: dt.date, path: str) -> int:
        made, rows = self._files[date]
        self._store.take(made, path)
        return rows


# ------------------------------------------------------------------------------------------------ the cluster


@dataclass(frozen=True)
class Cluster:
    """Where Spark runs, and how."""

    master: str
    settings: Mapping[str, str]
    """Spark's own configuration."""
    memory_limit: str
    """What DuckDB may use in each task."""

    def context(self) -> SparkContext:
        """The connection to Spark; made on the first call, because it takes seconds, and kept by the process."""
        global _context
        if _context is None or _context[0] != self or has_stopped(_context[1]):
            self._check()
            if _context is not None:
                _context[1].stop()
            _context = self, self._start()
        return _context[1]

    def _check(self) -> None:
        """Raise LakeError unless everything is there."""
        if not MASTER.match(self.master):
            raise LakeError(f"[lake] spark_master={self.master}: expected local[*], spark://host:7077, yarn or k8s://…")
        try:
            importlib.metadata.version("pyspark")
        except importlib.metadata.PackageNotFoundError:
            raise LakeError(
                "[lake] engine = spark needs the package pyspark: install lakejobs with its extra spark, "
                "pip install 'PATH/TO/THE/CLONE[spark]'"
            ) from None
        _need_java()
        if not answers(self.master):
            raise LakeError(
                f"[lake] spark_master={self.master}: no master answers there; check the address, and that it runs"
            )

    def _start(self) -> SparkContext:
        # About pandas, which is not used with Spark here.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"pyspark\.")
        from py4j.protocol import Py4JError
        from pyspark import SparkConf, SparkContext
        from pyspark.errors import PySparkException

        on_this_machine = ON_THIS_MACHINE.match(self.master) is not None
        python = self.settings.get("spark.pyspark.python")
        if not on_this_machine:
            python = python or os.environ.get("PYSPARK_PYTHON")
        os.environ["PYSPARK_PYTHON"] = python or sys.executable
        if "SPARK_CONF_DIR" not in os.environ:
            config = importlib.resources.files("lakejobs.engine") / "log4j2.properties"
            os.environ.setdefault("SPARK_SUBMIT_OPTS", f"-Dlog4j2.configurationFile=file:{config}")
        if on_this_machine:
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        conf = SparkConf()
        # By itself, Spark does not try again on a single machine.
        local = LOCAL.fullmatch(self.master)
        conf.setMaster(f"local[{local[1] or 1},{ATTEMPTS}]" if local else self.master)
        # As Spark does for its own access to S3, executors get what the driver's environment says about object stores.
        passed = {f"spark.executorEnv.{name}": os.environ[name] for name in os.environ if OF_STORES.match(name)}
        conf.setAll([*{**DEFAULTS, **(LOOPBACK if on_this_machine else {}), **passed, **self.settings}.items()])
        in_main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGINT) if in_main else None
        try:
            return SparkContext(conf=conf)
        except (Py4JError, PySparkException, RuntimeError) as error:
            raise LakeError(f"[lake] spark_master={self.master}: Spark does not start: {_reason(error)}") from error
        finally:
            # Spark has its own way with Ctrl-C, and so has a run.
            if handler is not None:
                signal.signal(signal.SIGINT, handler)


_context: tuple[Cluster, SparkContext] | None = None


def has_stopped(context: SparkContext) -> bool:
    """Whether a connection to Spark is gone: it was closed, or no master has answered for a minute."""
    return context._jsc is None or bool(context._jsc.sc().isStopped())


def answers(master: str) -> bool:
    """Whether one of the masters of a standalone cluster accepts connections. True for all other kinds."""
    if not master.startswith("spark://"):
        return True
    for address in STANDALONE.findall(master):
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    return False


class Executors:
    """Watches that a cluster has executors. Spark itself waits for them without a word, and without end if the cluster
    was stopped: a master that is started again does not know the application."""

    def __init__(self, context: SparkContext) -> None:
        self._context, self._master = context, context.master or ""
        self._seen, self._looked = time.monotonic(), 0.0
        self._is_gone = self._has_told = False

    def check(self) -> None:
        """Raise LakeError if there has been none for long, and no master to send one."""
        now = time.monotonic()
        if self._master.startswith("local") or now - self._looked < PAUSE:
            return
        self._looked = now
        # The driver is listed too.
        if len(self._context._jsc.sc().statusTracker().getExecutorInfos()) > 1:
            self._seen, self._has_told = now, False
            return
        self._is_gone |= not answers(self._master)
        if self._is_gone and now - self._seen > PATIENCE:
            self._context.stop()
            raise LakeError(
                f"[lake] spark_master={self._master}: its executors are gone, and so was the master; check "
                "that the cluster runs, then run again"
            )
        if now - self._seen > PATIENCE and not self._has_told:
            self._has_told = True
            log.warning("[lake] spark_master=%s: waiting for executors; is the cluster busy?", self._master)


def _need_java() -> None:
    """Raise LakeError unless there is a Java that Spark can run on."""
    home = os.environ.get("JAVA_HOME")
    try:
        said = subprocess.run(  # noqa: S603 - the one that Spark will start
            [f"{home}/bin/java" if home else "java", "-version"], capture_output=True, text=True, check=True
        ).stderr
    except (OSError, subprocess.CalledProcessError):
        said = ""
    version = re.search(r'version "(?:1\.)?([0-9]+)', said)
    if not version or int(version[1]) < LEAST_JAVA:
        found = f"JAVA_HOME={home} has none" if home else "there is none on the PATH"
        found = f"found Java {version[1]}" if version else found
        raise LakeError(
            f"[lake] engine = spark needs Java {LEAST_JAVA} or later, but {found}; install it (on Debian: apt-get "
            f"install openjdk-{LEAST_JAVA}-jre-headless), or set JAVA_HOME"
        )


def _reason(error: BaseException) -> str:
    """What Spark says in the first line of an error."""
    java = getattr(error, "java_exception", None)
    said = str(java.getMessage() if java is not None else error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)[:500]


def _collect(
    context: SparkContext, rows: RDD[Item], tasks: int = 0, on_progress: OnProgress = lambda message, percent: None
) -> list[Item]:
    """Run a job of so many tasks. Raises LakeError if Spark gives up."""
    from py4j.protocol import Py4JError

    group, tracker, executors = uuid.uuid4().hex, context.statusTracker(), Executors(context)

    def collect() -> list[Item]:
        context.setJobGroup(group, "lakejobs")
        found: list[Item] = rows.collect()
        return found

    def done() -> int:
        jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
        stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
        return sum(stage.numCompletedTasks for stage in stages if stage)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(collect)
        try:
            while not wait([running], timeout=0.5).done:
                executors.check()
                if tasks:
                    completed = done()
                    on_progress(f"{completed:,} of {tasks:,} tasks done", 5 + 50 * completed // tasks)
            return running.result()
        except Py4JError as error:
            reason = str(getattr(error, "java_exception", None) or error)
            if "Traceback (most recent call last)" in reason:
                raise RuntimeError(reason) from error  # a mistake of ours
            raise LakeError(
                f"[lake] spark_master={context.master}: Spark gave up: {_reason(error)}; check that it runs, then run "
                "again"
            ) from error
        except BaseException:
            if not has_stopped(context):
                context.cancelJobGroup(group)
            raise


def _each(context: SparkContext, site: Site, task: Callable[[Site, Item], Found], items: Sequence[Item]) -> list[Found]:
    """What a task returns for each item."""
    rows = context.parallelize(items, len(items)).map(functools.partial(_answer, task, site))
    return _answers(_collect(context, rows))


def _answers(found: Iterable[tuple[Found | None, Exception | None]]) -> list[Found]:
    """The results of tasks; raises what the first of them has raised that failed."""
    results = []
    for result, failure in found:
        if failure:
            raise failure
        results.append(cast("Found", result))
    return results


# ------------------------------------------------------------------------------------------------ parts of the work


@dataclass(frozen=True)
class Portion:
    """What a task of the first stage reads: files, or the part of a file between two line ends."""

    number: int
    files: Sequence[CsvFile]
    """In the order in which the local engine loads them."""
    part: tuple[int, int] | None = None
    """The first byte, and the one after the last."""
    earlier: int = 0
    """Records of the file in earlier parts."""


def in_portions(files: Sequence[CsvFile], cores: int, store: Store | None = None) -> list[Portion]:
    """Portions of about the same size. `store`: where to look for line ends at which to cut large files, if at all."""
    total = sum(file.size for file in files)
    count = max(1, min(cores, total // LEAST_PORTION), -(-total // MOST_PORTION))
    target = max(1, -(-total // count))
    found: list[Portion] = []
    waiting: list[CsvFile] = []

    def flush() -> None:
        if waiting:
            found.append(Portion(len(found), tuple(waiting)))
            waiting.clear()

    for file in files:
        parts = _parts(file, round(file.size / target), store) if store and file.is_line_by_line else []
        if len(parts) > 1:
            flush()
            found += [Portion(len(found) + place, (file,), part) for place, part in enumerate(parts)]
            continue
        if waiting and sum(one.size for one in waiting) + file.size > target:
            flush()
        waiting.append(file)
    flush()
    return found


def _parts(file: CsvFile, count: int, store: Store) -> list[tuple[int, int]]:
    """The lines below the header, in parts of about the same size."""
    if count < 2:
        return []
    ends = [_line_end(file, 0, store)]
    for place in range(1, count):
        ends.append(_line_end(file, max(ends[-1], file.size * place // count), store))
    return [(start, end) for start, end in itertools.pairwise([*ends, file.size]) if start < end]


def _line_end(file: CsvFile, start: int, store: Store) -> int:
    """The position after the line that a position is in."""
    place = start
    for some in _chunks(file, start, file.size, store, LINE_AT_ONCE):
        if (found := some.find(b"\n")) >= 0:
            return place + found + 1
        place += len(some)
    return file.size


def _chunks(file: CsvFile, start: int, end: int, store: Store, size: int) -> Iterator[bytes]:
    """The bytes of a file between two positions, `size` at once."""
    for place in range(start, end, size):
        yield store.read_part(file.path, place, min(size, end - place))


def in_spans(days: Sequence[str] | None, context: SparkContext) -> list[Sequence[str] | None]:
    """The days of a gold table that one task computes, for each task. None for all of a table that has no days."""
    if days is None:
        return [None]
    count = max(1, min(context.defaultParallelism, len(days) // LEAST_DAYS))
    return [days[len(days) * place // count : len(days) * (place + 1) // count] for place in range(count)]


def _numbered(context: SparkContext, site: Site, portions: Sequence[Portion]) -> list[Portion]:
    """The portions, with the number of earlier records, which executors count."""
    parts = [portion for portion in portions if portion.part]
    if not parts:
        return list(portions)
    lines = dict(zip([part.number for part in parts], _each(context, site, _lines, parts), strict=True))
    earlier: dict[int, int] = {}
    found = []
    for portion in portions:
        if portion.part:
            file = portion.files[0].number
            found.append(dataclasses.replace(portion, earlier=earlier.get(file, 0)))
            earlier[file] = earlier.get(file, 0) + lines[portion.number]
        else:
            found.append(portion)
    return found


def in_groups(dates: Mapping[dt.date, int], cores: int) -> list[list[dt.date]]:
    """The dates in order, in groups with about the same number of records."""
    total = max(1, sum(dates.values()))
    count = min(len(dates), max(cores, -(-total // MOST_ROWS)))
    found: list[list[dt.date]] = [[] for _ in range(count)]
    before = 0
    for date, number in dates.items():
        found[min(count - 1, before * count // total)].append(date)
        before += number
    return [group for group in found if group]


# ------------------------------------------------------------------------------------------------ in executors


@functools.cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in SAME_EVERYWHERE)


@dataclass(frozen=True)
class Site:
    """What a task needs to know of the driver."""

    root: str
    """Of the store, as every machine reaches it."""
    lease: float
    shared: str
    """A directory of the store, in which executors leave files for the driver."""
    memory_limit: str
    versions: tuple[str, ...] = dataclasses.field(default_factory=_versions)

    @functools.cached_property
    def store(self) -> Store:
        """The store, seen from this task; what it copies to the local disk goes with the task."""
        return open_store(self.root, self.lease)

    def check(self) -> None:
        """Raise LakeError if this machine cannot do what the driver's can."""
        for name, theirs, ours in zip(SAME_EVERYWHERE, self.versions, _versions(), strict=True):
            if theirs != ours:
                raise LakeError(
                    f"{platform.node()} has {name} {ours}, but the driver has {theirs}: install the same versions on "
                    "every machine"
                )
        shared = self.store.location(self.shared)
        if not open_store(shared, self.lease).exists():
            raise LakeError(
                f"{platform.node()}: {shared} does not exist there; a cluster needs a lake in an object store, or on a "
                "disk that every machine sees at the same path"
            )

    def scratch(self, name: str) -> AbstractContextManager[str]:
        """A directory of this machine for what does not fit in memory."""
        from pyspark import SparkFiles

        return disk.LocalStore(SparkFiles.getRootDirectory()).scratch(name)

    def leave(self, name: str, write: Callable[[str], int]) -> tuple[str, int]:
        """Leave a file for the driver, under a name that no other task, and no other attempt of this one, uses.

        `write` writes it to a local path and returns the number of its rows. Returns its path in the store, and that.
        """
        from pyspark import TaskContext

        task = TaskContext.get()
        path = f"{self.shared}/{name}_{task.taskAttemptId() if task else 0}"
        with self.store.publish(path, durable=False) as local:
            rows = write(local)
        return path, rows

    @property
    def engine(self) -> LocalEngine:
        # Spark counts on one core for each task.
        return LocalEngine(self.scratch, self.memory_limit, self.store.on_disk, threads=1)

    @contextlib.contextmanager
    def connect(self, name: str) -> Iterator[tuple[Connection, str]]:
        """A connection, and a directory of this machine."""
        with self.scratch(name) as spill, Connection(spill, self.memory_limit, threads=1) as connection:
            yield connection, spill


@dataclass(frozen=True)
class Finished:
    """Some dates' partitions."""

    counts: Mapping[dt.date, Counts]
    outcomes: Mapping[int, Outcome]
    """By the rules' positions."""
    examples: Mapping[int | str, list[tuple[Any, dict[str, Any]]]]
    """See `SilverResult.examples`; each with a value to sort by."""
    files: Mapping[dt.date, tuple[str, int]]
    """Path in the store and number of rows of each partition that no rule withholds."""


def _sent(reading: Reading) -> Reading:
    """How to read, without what executors need not and may not be able to import."""
    return dataclasses.replace(reading, domain=dataclasses.replace(reading.domain, fake=None))


def _answer(task: Callable[[Site, Item], Found], site: Site, item: Item) -> tuple[Found | None, Exception | None]:
    """The result of a task, or what it has raised."""
    try:
        site.check()
        return task(site, item), None
    except FAILURES as error:
        return None, error


def _count(reading: Reading, site: Site, portion: Portion) -> dict[int, FileCount]:
    engine = site.engine
    try:
        return engine.count_records(reading, portion.files)
    finally:
        engine.forget()


def _lines(site: Site, portion: Portion) -> int:
    """The number of lines of a part."""
    with site.scratch("lines") as directory, disk.reading(_written(site, portion, f"{directory}/part")) as handle:
        handle.readline()
        return records.count_lines(handle, portion.files[0].size)


def _written(site: Site, portion: Portion, path: str) -> str:
    """Write a part of a file, below the file's header, to a local path; returns the path."""
    assert portion.part
    (file,) = portion.files
    spans = [(0, _line_end(file, 0, site.store)), portion.part]
    disk.write(path, (some for span in spans for some in _chunks(file, *span, site.store, READ_AT_ONCE)))
    return path


def _type(
    site: Site, job: SilverJob, groups: Sequence[Sequence[dt.date]], portion: Portion
) -> Iterator[tuple[Key, bytes | Exception]]:
    """The typed records of a portion, as `loaded` has them, by group and in the order of files and records.

    Files are numbered in the order in which the local engine loads them.
    """
    try:
        site.check()
        yield from _typed(site, job, groups, portion)
    except FAILURES as error:
        yield (0, portion.number, -1), error


def _typed(
    site: Site, job: SilverJob, groups: Sequence[Sequence[dt.date]], portion: Portion
) -> Iterator[tuple[Key, bytes]]:
    import numpy as np
    import pyarrow as pa

    numbers = _load_numbers(job)
    reading = job.reading
    group_of = {date: number for number, dates in enumerate(groups) for date in dates}
    with site.connect(reading.domain.name) as (connection, directory):
        if portion.part:
            paths = [_written(site, portion, f"{directory}/part")]
        else:
            paths = site.store.on_disk([file.path for file in portion.files])
        files = [
            dataclasses.replace(file, number=numbers[file.number], path=path)
            for file, path in zip(portion.files, paths, strict=True)
        ]
        connection.load_csv("loaded", files, list(reading.domain.columns), loaded_rows(reading))
        connection.register(
            "groups_",
            pa.table(
                {"partition_date": pa.array(group_of, pa.date32()), "group_": pa.array(group_of.values(), pa.int32())}
            ),
        )
        query = (
            "select g.group_, l.* exclude (row_number_) "
            f"replace (l.source_record + {portion.earlier} as source_record) "
            "from loaded as l join groups_ as g using (partition_date) order by group_, file_number, source_record"
        )
        serial = itertools.count()
        for chunk in connection.chunks(query, ROWS_SENT):
            group = np.asarray(chunk.column("group_"))
            rows = chunk.drop_columns(["group_"])
            bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
            for start, end in itertools.pairwise(bounds):
                yield (int(group[start]), portion.number, next(serial)), _packed(rows.slice(start, end - start))


def _load_numbers(job: SilverJob) -> dict[int, int]:
    """The place of each file in the order of loading, by the job's number of the file."""
    return {file.number: place for place, file in enumerate(load_order(job.files))}


def _packed(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def _unpacked(rows: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(rows).read_all()


def _finish(
    site: Site,
    job: SilverJob,
    groups: Sequence[Sequence[dt.date]],
    modules: Sequence[str],
    index: int,
    sent: Iterator[tuple[Key, bytes | Exception]],
) -> Iterator[tuple[Finished | None, Exception | None]]:
    """Finish the partitions of a group of dates, of which `sent` has all rows. `modules`: see `modules_of_own`."""
    yield _answer(functools.partial(_finished, job, groups[index], modules), site, sent)


def _finished(
    job: SilverJob,
    dates: Sequence[dt.date],
    modules: Sequence[str],
    site: Site,
    sent: Iterable[tuple[Key, bytes | Exception]],
) -> Finished:
    importing.import_in_background().join()
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LakeError(
                f"{platform.node()} cannot import {name}, which defines an expectation of {job.suite.path}: {error}; "
                "install it on every machine"
            ) from error
    domain = job.reading.domain
    stored = [date for date in job.stored if date in dates]
    paths = site.store.on_disk([job.stored[date].path for date in stored])
    some = dataclasses.replace(
        job,
        dates={date: job.dates[date] for date in dates},
        stored={
            date: dataclasses.replace(job.stored[date], path=path) for date, path in zip(stored, paths, strict=True)
        },
    )
    numbers = _load_numbers(job)
    arrived: list[Key] = []

    def rows() -> Iterator[pa.Table]:
        for key, packed in sent:
            if isinstance(packed, Exception):
                raise packed
            arrived.append(key)
            yield _unpacked(packed)

    with site.connect(domain.name) as (connection, _):
        connection.load_rows("loaded", rows(), list(domain.columns), loaded_rows(job.reading))
        if arrived != sorted(arrived):
            connection.sort("loaded", "file_number, source_record")
        places = [numbers[file.number] for file in job.files]
        result = judged(some, places, places == sorted(places), connection, lambda message, percent: None)
        withheld = result.validation.withheld()
        files = {
            date: site.leave(date.isoformat(), functools.partial(result.write, date))
            for date in dates
            if date not in withheld
        }
        examples = _examples(some, result, connection, numbers)
        return Finished(result.counts, result.validation.outcomes, examples, files)


def _examples(
    job: SilverJob, result: LocalResult, connection: Connection, numbers: Mapping[int, int]
) -> dict[int | str, list[tuple[Any, dict[str, Any]]]]:
    """Examples, each with a value to sort by. Rows of the rules' outcomes are numbered likewise.

    Rows have numbers in one task only. Elsewhere they sort as the local engine would number them: by date for rules
    that see one partition after the other, and in the order of loading for the others.
    """
    validation = result.validation
    rows = partitions.failing_rows(validation, connection)
    wanted = itertools.chain(
        *rows.values(), (row for outcome in validation.outcomes.values() for row, _ in outcome.examples)
    )
    places = partitions.places(wanted, connection)

    def place(row: int, *, row_local: bool) -> tuple[Any, ...]:
        date, delivery, record = places[row]
        return (numbers[delivery], record) if row_local else (date, delivery, record)

    for outcome in validation.outcomes.values():
        outcome.examples = [(place(row, row_local=outcome.row_local), value) for row, value in outcome.examples]
    found: dict[int | str, list[tuple[Any, dict[str, Any]]]] = {}
    for about, shown in partitions.described(job, validation, rows, connection).items():
        row_local = not isinstance(about, int) or validation.outcomes[about].row_local
        found[about] = [
            (place(row, row_local=row_local), values) for row, values in zip(rows[about], shown, strict=True)
        ]
    return found


def _gold(site: Site, job: GoldJob, footer: str) -> tuple[str, int]:
    return site.leave("snapshot", lambda path: site.engine.gold(job, path, footer))
