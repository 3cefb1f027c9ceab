"""The run ledger: what each run did, task by task, with its outcome and reason.

`quality/runs/month=YYYY-MM/` has one Parquet file for each process of a run that did something. It is written after the
first task, after a failure, and at the end of the run, however it ends, unless it is killed. It is a record for people:
nothing in the lake depends on it, and a run goes on if it cannot be written.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakejobs.engine import QueryError, logs
from lakejobs.messages import LakeError, few, log
from lakejobs.storage.layout import Lake

if TYPE_CHECKING:
    from lakejobs.freshness.openlineage import Events
    from lakejobs.quality.evaluation import Outcome

COLUMNS = {
    "run": "varchar",
    "task": "varchar",
    "name": "varchar",
    "dates": "varchar",
    "rows": "bigint",
    "started_at": "timestamp",
    "seconds": "double",
    "outcome": "varchar",
    "reason": "varchar",
}
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"
MOST_REASONS = 5


def current_process() -> int:
    """This process, by its number on this host."""
    return multiprocessing.current_process().pid or 0


@dataclass
class Entry:
    """One task of a run."""

    run: str
    task: str
    """The task family: Bronze, Silver or Gold."""
    name: str
    """The domain or table."""
    dates: str
    """The dates it worked on, YYYY-MM-DD, separated by commas; empty for a gold table."""
    started_at: dt.datetime
    """UTC."""
    rows: int | None = None
    """Records counted by Bronze, rows in the partitions or the snapshot that Silver or Gold made."""
    seconds: float = 0.0
    outcome: str = DONE
    reason: str = ""
    """Why it was due; if it failed, the error."""
    judged: Sequence[Outcome] = ()
    """What the rules of Silver found. Not in the ledger's file, and not kept."""

    def because(self, reasons: Sequence[object]) -> None:
        self.reason = few(dict.fromkeys(map(str, reasons)), MOST_REASONS)


@dataclass
class Ledger:
    """The entries of this process."""

    lake: Lake
    run: str
    events: Events | None = None
    """What tells other tools of each entry, if anything does."""
    entries: list[Entry] = field(default_factory=list)
    process: int = field(default_factory=current_process)
    is_written: bool = True

    @contextlib.contextmanager
    def entry(self, task: str, name: str, dates: Sequence[dt.date] = ()) -> Iterator[Entry]:
        """Record what happens inside."""
        began = time.monotonic()
        entry = Entry(self.run, task, name, ",".join(map(str, dates)), _now())
        try:
            if self.events:
                self.events.started(entry)
            yield entry
        except BaseException as error:
            is_interrupted = isinstance(error, KeyboardInterrupt)
            entry.outcome, entry.reason = INTERRUPTED if is_interrupted else FAILED, str(error) or type(error).__name__
            raise
        finally:
            entry.seconds = round(time.monotonic() - began, 3)
            self._add(entry)
            if self.events:
                self.events.ended(entry)
            entry.judged = ()

    @contextlib.contextmanager
    def failure(self, task: str, name: str) -> Iterator[None]:
        """Record what happens inside only if it fails."""
        try:
            yield
        except LakeError:
            with self.entry(task, name):
                raise

    def _add(self, entry: Entry) -> None:
        if self.process != current_process():
            # A worker's child process was forked with the entries of its parent.
            self.process, self.entries = current_process(), []
        self.entries.append(entry)
        self.is_written = False
        if len(self.entries) == 1 or entry.outcome != DONE:
            self.write()

    def finish(self) -> None:
        """Write what has not been written yet, if there is something."""
        if not self.is_written:
            self.write()

    def write(self) -> None:
        """Write what has not been written yet, and remove what a run that died left unfinished."""
        if self.process != current_process():
            return
        began = self.entries[0].started_at if self.entries else _now()
        path = self.lake.run_log(began, self.run, self.process)
        # A run may sweep away what another one is writing just now; that one then tries again.
        for attempt in (1, 2):
            try:
                self.lake.store.sweep(path.rpartition("/")[0])
                if not self.is_written:
                    with self.lake.store.publish(path, durable=False) as temporary:
                        logs.write(temporary, COLUMNS, [vars(one) for one in self.entries])
                self.is_written = True
                return
            except (LakeError, QueryError) as error:
                if attempt == 2:
                    log.warning("the run ledger could not be written: %s", error)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def last_run(lake: Lake) -> list[Entry]:
    """What the last run that did something did; nothing if there is none."""
    months = lake.run_logs()
    if not months:
        return []
    files = lake.store.files(months[-1])
    names = sorted(file.name for file in files if file.name.endswith(".parquet"))
    last = [name for name in names if _run(name) == _run(names[-1])]
    rows: list[dict[str, Any]] = logs.read(lake.store.on_disk([f"{months[-1]}/{name}" for name in last]))
    return sorted((Entry(**row) for row in rows), key=lambda entry: entry.started_at)


def _run(name: str) -> str:
    return name.split("_")[-2]
