"""OpenLineage events: what the run ledger knows of a task, and about what it reads and writes, for other tools.

Each task with an entry in the ledger begins with START and ends with COMPLETE, FAIL or ABORT; so does a run of the
command `luigi` itself, if it has work. A dataset is a table of a layer. The events go to `[lake] openlineage`, through
OpenLineage's own client (https://openlineage.io/docs/client/python), which is imported for the first of them. No run
fails because of them: they may take a few seconds of it in all, and the first that cannot be sent is the last.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from lakejobs.config import lake as settings
from lakejobs.engine.lineage import origins
from lakejobs.engine.types import silver_types, sql_type
from lakejobs.freshness.ledger import DONE, FAILED, Entry, current_process
from lakejobs.freshness.snapshots import newest_snapshot
from lakejobs.messages import LakeError, log
from lakejobs.model import Domain
from lakejobs.project import domains
from lakejobs.storage.layout import reachable
from lakejobs.tables import Table, tables

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run

PRODUCER = "pkg:generic/lakejobs"
RUN_JOB = "luigi"
PATIENCE = 5.0
"""Seconds that all processes of a run together wait for events to be sent."""
STEP = 0.1
"""Seconds that each event may take besides."""
SEVERITIES = {"critical": "error", "warning": "warn"}
"""Ours, as OpenLineage calls them."""


class Events:
    """The events of a run, and of its worker processes, which are forked."""

    def __init__(self, run: Run, run_id: uuid.UUID) -> None:
        section = settings()
        self._target: str = section.openlineage
        self._namespace: str = section.openlineage_namespace
        self._run, self._id = run, run_id
        self._client: Any = None
        self._process = 0
        # Shared with the worker processes. Without locks: one that is killed would never release them, and all that can
        # happen is that two processes that fail at the same moment both say so.
        self._patience = multiprocessing.RawValue("d", PATIENCE)
        self._has_begun = multiprocessing.RawValue("b", 0)
        self._open: list[Entry] = []

    # ---------------------------------------------------------------------------------------- what the ledger tells

    def started(self, entry: Entry) -> None:
        """A task has begun. The run begins with its first one."""
        is_first, self._has_begun.value = not self._has_begun.value, 1
        began = entry.started_at.replace(tzinfo=dt.UTC).isoformat()
        # Only the command says when a run ends, and how.
        if is_first and sys.argv[0].rpartition("/")[2] == "luigi":
            self._send(lambda: self._run_event("START", began))
        self._open.append(entry)
        self._send(lambda: self._task_event("START", began, entry))

    def ended(self, entry: Entry) -> None:
        """A task has ended, as its entry says."""
        state = {DONE: "COMPLETE", FAILED: "FAIL"}.get(entry.outcome, "ABORT")
        self._send(lambda: self._task_event(state, _now(), entry))
        self._open.remove(entry)

    def finished(self, code: int, *, is_interrupted: bool) -> None:
        """The run has ended, with this exit code."""
        for entry in [*self._open]:
            self.ended(entry)  # Ctrl-C came before that was sent
        if self._has_begun.value:
            state = "ABORT" if is_interrupted else "FAIL" if code else "COMPLETE"
            said = f"luigi exited with code {code}; its log says why" if state == "FAIL" else ""
            self._send(lambda: self._run_event(state, _now(), said))

    # ---------------------------------------------------------------------------------------- sending

    def _send(self, make: Callable[[], Any]) -> None:
        """Send an event, unless an earlier one could not be sent."""
        if self._patience.value <= 0:
            return
        try:
            client = self._client_of_this_process()
            self._wait_for(client.emit, make())
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._give_up(error)

    def _client_of_this_process(self) -> Any:
        # A forked process cannot share its parent's connections.
        if self._process != current_process():
            # The client's log would end up on the console, and names settings with their values.
            logging.getLogger("openlineage").addHandler(logging.NullHandler())
            from openlineage.client import OpenLineageClient, set_producer

            set_producer(PRODUCER)
            # The address of the directory's repository may contain a password.
            facets = {"source_code_location": {"disabled": True}}
            self._client = OpenLineageClient(config={"transport": self._transport(), "facets": facets})
            self._process = current_process()
        return self._client

    def _transport(self) -> dict[str, Any]:
        """The settings of the client's transport. Others come from its variables OPENLINEAGE__TRANSPORT__…"""
        if "://" not in self._target:
            return {"type": "file", "log_file_path": self._target, "append": True}
        # Without a slash at the end, the client would drop the last part of a path.
        url, retry = f"{self._target.rstrip('/')}/", {"total": 0, "status_forcelist": []}
        transport = {"type": "http", "url": url, "retry": retry}
        # The client itself reads this one only together with OPENLINEAGE_URL.
        if key := os.environ.get("OPENLINEAGE_API_KEY"):
            transport["auth"] = {"type": "api_key", "apiKey": key}
        return transport

    def _wait_for(self, send: Callable[[Any], object], event: Any) -> None:
        """Send an event. Raises TimeoutError when the patience is exhausted; no timeout of a client covers all that can
        take its time, such as a name server or an answer that trickles in."""
        errors: list[Exception] = []

        def sending() -> None:
            try:
                send(event)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

        thread = threading.Thread(target=sending, daemon=True)
        thread.start()
        thread.join(STEP)
        while thread.is_alive():
            self._patience.value -= STEP
            if self._patience.value <= 0:
                raise TimeoutError
            thread.join(STEP)
        if errors:
            raise errors[0]

    def _give_up(self, error: Exception) -> None:
        """Send nothing more in this run, and say so once."""
        is_first, self._patience.value = self._patience.value > -math.inf, -math.inf
        if not is_first:
            return
        if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == "openlineage":
            log.warning(
                "[lake] openlineage is set, but the package openlineage-python is missing, so the run sends no events; "
                "install it with pip install 'lakejobs[openlineage]', or leave the setting empty"
            )
        else:
            log.warning(
                "OpenLineage events cannot be sent to %s: %s. The run goes on without them; check [lake] openlineage, "
                "and variables that begin with OPENLINEAGE",
                _shown(self._target),
                _reason(error),
            )

    # ---------------------------------------------------------------------------------------- events

    def _run_event(self, state: str, time: str, error: str = "") -> Any:
        """An event about the run itself."""
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job

        facets: dict[str, Any] = (
            {"errorMessage": error_message_run.ErrorMessageRunFacet(error, "PYTHON")} if error else {}
        )
        kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="LUIGI", jobType="DAG")
        job = Job(self._namespace, RUN_JOB, facets={"jobType": kind})
        return RunEvent(eventType=RunState(state), eventTime=time, run=Run(str(self._id), facets=facets), job=job)

    def _task_event(self, state: str, time: str, entry: Entry) -> Any:
        """An event about a task."""
        from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import output_statistics_output_dataset as output_statistics

        # No two entries of a run have the same.
        own = uuid.uuid5(self._id, f"{entry.task} {entry.name} {entry.started_at.isoformat()}")
        inputs, output, facets = self._datasets(entry, is_done=state == "COMPLETE")
        made = OutputDataset(output.namespace, output.name, facets={**output.facets(), **facets})
        # Bronze counts all records of its landing dates, not what it has just landed.
        if state == "COMPLETE" and entry.task != "Bronze":
            made.outputFacets = {"outputStatistics": output_statistics.OutputStatisticsOutputDatasetFacet(entry.rows)}
        return RunEvent(
            eventType=RunState(state),
            eventTime=time,
            run=Run(str(own), facets=self._run_facets(state, entry)),
            job=Job(self._namespace, f"{entry.task.lower()}.{entry.name}", facets=self._job_facets(entry)),
            inputs=[InputDataset(one.namespace, one.name, facets=one.facets()) for one in inputs],
            outputs=[made],
        )

    def _run_facets(self, state: str, entry: Entry) -> dict[str, Any]:
        from openlineage.client.facet_v2 import error_message_run, parent_run, processing_engine_run

        engine, _, version = self._run.engine.name.rpartition(" ")
        facets: dict[str, Any] = {
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(str(self._id)), job=parent_run.Job(self._namespace, RUN_JOB)
            ),
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(version=version, name=engine),
        }
        if state == "FAIL":
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(entry.reason, "PYTHON")
        return facets

    def _job_facets(self, entry: Entry) -> dict[str, Any]:
        from openlineage.client.facet_v2 import documentation_job, job_type_job, sql_job

        facets: dict[str, Any] = {
            "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="LUIGI", jobType="TASK")
        }
        said = {
            "Bronze": f"Lands the deliveries of {entry.name}, byte for byte, by landing date.",
            "Silver": f"Types, corrects, deduplicates and validates the records of {entry.name}, by event date.",
        }.get(entry.task, "")
        if entry.task == "Gold":
            table = tables()[entry.name]
            said = table.description
            dialect = self._run.engine.name.partition(" ")[0].lower()
            facets["sql"] = sql_job.SQLJobFacet(table.statement, dialect)
        if said:
            facets["documentation"] = documentation_job.DocumentationJobFacet(said)
        return facets

    # ---------------------------------------------------------------------------------------- datasets

    def _datasets(self, entry: Entry, *, is_done: bool) -> tuple[Sequence[Dataset], Dataset, dict[str, Any]]:
        """What a task reads, what it writes, and facets of the latter that tell what became of it."""
        if entry.task == "Gold":
            table = tables()[entry.name]
            columns = self._columns(table) if is_done else {}
            read = {name: self._dataset(name, columns.get(name, {})) for name in _sources(table)}
            lineage = {"columnLineage": _gold_lineage(table, read)} if is_done else {}
            return [*read.values()], self._dataset(table.name, columns.get(table.name, {})), lineage
        domain = domains()[entry.name]
        lake = self._run.lake
        bronze = _delivered(domain, lake.store.root, lake.layer("bronze", domain.name))
        if entry.task == "Bronze":
            return [_delivered(domain, lake.staging.root, domain.name)], bronze, {}
        # To OpenLineage, this is a facet of what a job reads. But silver as its own input would be a cycle, and
        # catalogues show the facet for any dataset.
        facets = {"dataQualityAssertions": _assertions(entry, domain)} if entry.judged else {}
        if is_done:
            facets["columnLineage"] = _silver_lineage(domain, bronze)
        return [bronze], self._dataset(domain.name), facets

    def _dataset(self, name: str, columns: Mapping[str, str] | None = None) -> Dataset:
        """A domain in silver, or a gold table, whose columns have to be given."""
        lake = self._run.lake
        place = _place(lake.store.root, lake.layer("silver" if name in domains() else "gold", name))
        if domain := domains().get(name):
            return Dataset(*place, "TABLE", silver_types(domain), domain.description, _described(domain))
        return Dataset(*place, "TABLE", columns or {}, tables()[name].description)

    def _columns(self, table: Table) -> dict[str, dict[str, str]]:
        """The columns of a table's newest snapshot, and of those that it reads."""
        paths = {}
        for name in [table.name, *_sources(table)]:
            if name in tables():
                newest, _ = newest_snapshot(self._run, tables()[name])
                assert newest is not None
                paths[name] = self._run.lake.gold(name, newest)
        with self._run.engine.tables(paths) as found:
            return {
                name: {column: kind.lower() for column, kind, *_ in found.rows(f'describe "{name}"')} for name in paths
            }


class Dataset(NamedTuple):
    """A table of a layer."""

    namespace: str
    name: str
    kind: str
    """FILE or TABLE."""
    columns: Mapping[str, str]
    """Their types; empty if they are not known yet."""
    description: str
    about: Mapping[str, str] = {}
    """Descriptions of columns."""

    def facets(self) -> dict[str, Any]:
        from openlineage.client.facet_v2 import dataset_type_dataset, documentation_dataset, schema_dataset

        facets: dict[str, Any] = {"datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(self.kind)}
        if self.columns:
            facets["schema"] = schema_dataset.SchemaDatasetFacet(
                [
                    schema_dataset.SchemaDatasetFacetFields(name, kind, self.about.get(name), place)
                    for place, (name, kind) in enumerate(self.columns.items(), start=1)
                ]
            )
        if self.description:
            facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(self.description)
        return facets


def _place(root: str, path: str) -> tuple[str, str]:
    """The namespace and the name of a directory, see https://openlineage.io/docs/spec/naming."""
    root = reachable(root)
    if "://" not in root:
        return "file", f"{root}/{path}"
    scheme, _, rest = root.partition("://")
    bucket, _, prefix = rest.partition("/")
    return f"{scheme}://{bucket}", f"{prefix}/{path}" if prefix else path


def _delivered(domain: Domain, root: str, path: str) -> Dataset:
    """The deliveries of a domain, whose columns are text."""
    texts = dict.fromkeys(domain.columns, sql_type("text"))
    return Dataset(*_place(root, path), "FILE", texts, domain.description, _described(domain))


def _described(domain: Domain) -> dict[str, str]:
    return {name: said for name in domain.columns if (said := domain.column(name).description)}


def _sources(table: Table) -> list[str]:
    return [source.name for source in table.sources]


def _silver_lineage(domain: Domain, bronze: Dataset) -> Any:
    """Where the columns of silver come from: their own text, and if they are corrected, what they are computed from."""
    found = {}
    for name, kind in domain.columns.items():
        how = ("IDENTITY", None) if kind == "text" else ("TRANSFORMATION", f"read as {kind}")
        found[name] = [(bronze, name, *how)]
    for one in domain.corrections:
        found[one.column] += [
            (bronze, operand, "TRANSFORMATION", f"corrected to {one.expression}") for operand in one.operands
        ]
    return _column_lineage(found)


def _gold_lineage(table: Table, read: Mapping[str, Dataset]) -> Any:
    """Where the columns of a gold table come from, as far as its SQL can be followed."""
    found = {}
    for name, origin in origins(table.statement, {source: one.columns for source, one in read.items()}).items():
        how: tuple[str, str | None] = ("IDENTITY" if origin.is_same else "TRANSFORMATION", None)
        if origin.aggregates:
            how = ("AGGREGATION", ", ".join(origin.aggregates))
        found[name] = [(read[source], column, *how) for source, column in origin.columns]
    return _column_lineage(found, [one for source, one in read.items() if source in domains()])


def _column_lineage(
    found: Mapping[str, Sequence[tuple[Dataset, str, str, str | None]]], only_valid: Sequence[Dataset] = ()
) -> Any:
    """The facet: by column, the datasets and columns it comes from, how, and a description of that. `only_valid`: the
    datasets of which only valid rows are read."""
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage

    return lineage.ColumnLineageDatasetFacet(
        {
            name: lineage.Fields(
                [
                    lineage.InputField(
                        of.namespace, of.name, column, [lineage.Transformation("DIRECT", kind, description)]
                    )
                    for of, column, kind, description in origin
                ]
            )
            for name, origin in found.items()
            if origin
        },
        [
            lineage.InputField(of.namespace, of.name, "is_valid", [lineage.Transformation("INDIRECT", "FILTER")])
            for of in only_valid
        ],
    )


def _assertions(entry: Entry, domain: Domain) -> Any:
    """What the rules of a domain found in the partitions that a task made, withheld ones included."""
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    assertions = []
    for outcome in entry.judged:
        rule, judged = outcome.rule, outcome.elements - outcome.missing
        column = (rule.content.get("kwargs") or {}).get("column")
        seen = f"{outcome.unexpected} of {judged} rows fail" if outcome.row_level else f"observed {outcome.observed}"
        assertions.append(
            quality.Assertion(
                assertion=rule.type,
                success=outcome.success,
                column=column if column in domain.columns else None,
                severity=SEVERITIES.get(rule.severity, rule.severity),
                name=rule.code,
                actual=seen,
            )
        )
    return quality.DataQualityAssertionsDatasetFacet(assertions)


# ------------------------------------------------------------------------------------------------ words


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()


def _shown(target: str) -> str:
    """Where events go, without what may be secret."""
    if "://" not in target:
        return target
    url = urlsplit(target)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def _reason(error: BaseException) -> str:
    """Why an event could not be sent. Does not quote what errors of HTTP say, because they repeat URLs and headers."""
    if isinstance(error, LakeError):
        return str(error)
    if (response := getattr(error, "response", None)) is not None:
        return f"it answers {response.status_code}"
    cause: BaseException | None = error
    while cause:
        if "Timeout" in type(cause).__name__:
            return "it does not answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
