"""A run: what one run of Luigi's worker knows, kept and dropped together."""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from lakejobs.config import lake as settings
from lakejobs.config import spark_settings
from lakejobs.engine import Engine
from lakejobs.engine.local import LocalEngine
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.ledger import Ledger
from lakejobs.messages import log
from lakejobs.storage import File, layout
from lakejobs.storage.layout import Lake

if TYPE_CHECKING:
    from lakejobs.freshness.openlineage import Events


class Run:
    """The lake as one run sees it: its domains' states, each read once, and the engine."""

    def __init__(self, worker: object = None, lake: Lake | None = None) -> None:
        """`lake`: another one than the settings name, which this process alone can see and works on."""
        self.lake = lake or layout.current()
        self.engine = _local_engine(lake) if lake else _engine(self.lake)
        run_id = uuid.uuid4()
        self.ledger = Ledger(self.lake, run_id.hex[:12])
        if worker is not None:
            self.ledger.events = _events(self, run_id)
            # Ctrl-C between two tasks ends the run without a word to any of them.
            atexit.register(self.ledger.finish)
        self.if_failed: Callable[[], object] | None = None
        """What the process that began the run does at its end, if something failed."""
        self._worker = worker
        self._states: dict[str, DomainState] = {}
        self._asked: dict[str, float] = {}
        self._gold: dict[str, tuple[list[str], list[File]]] = {}

    def state(self, domain: str) -> DomainState:
        """The state of a domain, scanned again if another run has published."""
        known, store = self._states.get(domain), self.lake.store
        if known is None:
            with _no_garbage():
                known = self._states[domain] = DomainState(self.lake, domain)
            self._asked[domain] = time.monotonic()
            if self._worker is not None:
                for warning in known.warnings:
                    log.warning("%s", warning)
        elif time.monotonic() - self._asked[domain] >= store.token_seconds:
            self._asked[domain] = time.monotonic()
            if store.token(domain) != known.token:
                known.rescan()
        return known

    def gold_files(self, table: str, domains: Iterable[str]) -> list[File]:
        """The files of a gold table, which only changes together with the tokens of the domains it is built from."""
        if not self.lake.store.token_seconds:
            return self.lake.store.files(self.lake.layer("gold", table))
        tokens = [self.state(domain).token for domain in domains]
        seen, found = self._gold.get(table, ([], []))
        if seen != tokens:
            found = self.lake.store.files(self.lake.layer("gold", table))
            self._gold[table] = tokens, found
        return found

    def forget_gold_files(self, table: str) -> None:
        """List a table's files again: this run has changed them."""
        self._gold.pop(table, None)

    def states(self, domains: Iterable[str]) -> dict[str, DomainState]:
        return {domain: self.state(domain) for domain in domains}

    def belongs_to(self, worker: object) -> bool:
        return self._worker is worker


def _local_engine(lake: Lake) -> LocalEngine:
    return LocalEngine(lake.scratch, settings().memory_limit, lake.store.on_disk)


def _engine(lake: Lake) -> Engine:
    """The engine that the settings name."""
    section, store = settings(), lake.store
    local = _local_engine(lake)
    if section.engine != "spark":
        return local
    from lakejobs.engine.spark import Cluster, SparkEngine

    cluster = Cluster(section.spark_master, spark_settings(), section.spark_memory_limit)
    return SparkEngine(store, section.lock_lease, cluster, local)


def _events(run: Run, run_id: uuid.UUID) -> Events | None:
    """The OpenLineage events of a run, if the settings ask for them."""
    if not settings().openlineage:
        return None
    from lakejobs.freshness.openlineage import Events

    return Events(run, run_id)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect no garbage meanwhile: a state has many objects, all of which stay, and each collection looks at them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_current: Run | None = None


def current() -> Run:
    """The current run; outside a worker, a new one on each call, because nothing marks its end.

    Luigi builds tasks from their parameters alone and has no event for the start of a run, so tasks cannot be given
    their run. Runs are told apart by the worker's keep-alive thread. A worker's child process continues its parent's
    run.
    """
    global _current
    if multiprocessing.parent_process() is not None and _current is not None:
        return _current
    from luigi.worker import KeepAliveThread

    worker = next((thread for thread in threading.enumerate() if isinstance(thread, KeepAliveThread)), None)
    if worker is None:
        return Run()
    if _current is None or not _current.belongs_to(worker):
        if _current is not None:
            _current.engine.forget()
        _current = Run(worker)
    return _current


def finish(code: int, *, is_interrupted: bool) -> None:
    """The command that runs Luigi ends, with this exit code."""
    if _current is not None and _current.if_failed and code and not is_interrupted:
        _current.ledger.finish()
        try:
            _current.if_failed()
        except Exception as error:  # noqa: BLE001 - the run has failed already, and has said why
            log.warning("%s", error)
    if _current is not None and _current.ledger.events:
        _current.ledger.events.finished(code, is_interrupted=is_interrupted)


def state(domain: str) -> DomainState:
    """The state of a domain in this run."""
    return current().state(domain)
