"""OpenLineage events of real runs: in a file, at a collector, and with a collector that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attr
import pytest
from conftest import PROJECT, LakeUnderTest, free_port, known_tables, new_lake, sale, set_tables
from openlineage.client import event_v2, facet_v2

from lakejobs.config import lake as settings
from lakejobs.freshness import openlineage
from lakejobs.messages import LakeError
from lakejobs.tables import tables

LUIGI = str(Path(sys.executable).with_name("luigi"))
WARNING = "WARNING: OpenLineage events cannot be sent to"
# However the tests were started, a run must not ignore Ctrl-C.
INTERRUPTIBLE = (
    "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


class Collector:
    """Receives events at an HTTP address."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.status = 201
        self.hangs: float | None = None
        """Seconds until it answers."""
        self.trickles = False
        self.interrupts: tuple[str, int] | None = None
        """A job on whose START it interrupts a group of processes."""
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, dict(self.headers)))
                event = json.loads(body)
                collector.events.append(event)
                if collector.interrupts and event["eventType"] == "START":
                    job, process = collector.interrupts
                    if event["job"]["name"] == job:
                        os.killpg(process, signal.SIGINT)
                if collector.hangs:
                    collector.released.wait(collector.hangs)
                self.send_response(collector.status)
                self.send_header("Content-Length", "1000" if collector.trickles else "0")
                self.end_headers()
                while collector.trickles and not collector.released.wait(0.2):
                    self.wfile.write(b".")

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A run that does not wait for the answer has closed its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_client(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)


def command(target: str | Path, *options: str) -> list[str]:
    return [LUIGI, "--module", "lakejobs", "GoldAll", "--local-scheduler", f"--lake-openlineage={target}", *options]


def run(lake: LakeUnderTest, words: list[str], code: int = 0, **environment: str) -> str:
    """Run a command in a lake. Returns what it wrote to standard error."""
    done = subprocess.run(
        words, cwd=lake.root, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "LUIGI_CONFIG_PATH": str(PROJECT / "luigi.cfg"), **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


def in_python(before: str, target: str, after: str = "") -> list[str]:
    """A run of Luigi in a Python program, with code before and after it."""
    options = ["--module", "lakejobs", "GoldAll", "--local-scheduler", f"--lake-openlineage={target}"]
    lines = ["import sys", before, "from luigi.cmdline import luigi_run"]
    lines += ["try:", f"    luigi_run({options})", "except SystemExit as end:", "    assert not end.code", after]
    return [sys.executable, "-c", "\n".join(lines)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The jobs and states of events, in order."""
    return [(event["job"]["name"], event["eventType"]) for event in events]


def event_of(events: list[dict[str, Any]], job: str, state: str = "COMPLETE") -> dict[str, Any]:
    (found,) = [event for event in events if (event["job"]["name"], event["eventType"]) == (job, state)]
    return found


def inputs(event: dict[str, Any]) -> list[str]:
    return [dataset["name"] for dataset in event["inputs"]]


def output(event: dict[str, Any]) -> dict[str, Any]:
    (made,) = event["outputs"]
    return made


def origins(event: dict[str, Any], column: str) -> list[tuple[str, str, str]]:
    """The table, the column and the kind of transformation behind a column of what was written."""
    fields = output(event)["facets"]["columnLineage"]["fields"][column]["inputFields"]
    return [(one["name"].rpartition("/")[2], one["field"], one["transformations"][0]["subtype"]) for one in fields]


def kinds_of(kind: type) -> Iterator[type]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds_of(below)


FACETS = {kind._get_schema().rpartition("/")[2]: kind for kind in kinds_of(facet_v2.BaseFacet)}


def must_be_valid(events: list[dict[str, Any]]) -> None:
    """Every event and facet can be built as an object of the client, with nothing unknown or missing."""
    for event in events:
        rest = {key: value for key, value in event.items() if key not in ("run", "job", "inputs", "outputs")}
        assert rest.pop("schemaURL") == event_v2.RunEvent._get_schema()
        built = event_v2.RunEvent(
            run=event_v2.Run(**event["run"]),
            job=event_v2.Job(**event["job"]),
            inputs=[event_v2.InputDataset(**dataset) for dataset in event["inputs"]],
            outputs=[event_v2.OutputDataset(**dataset) for dataset in event["outputs"]],
            **{**rest, "eventType": event_v2.RunState(rest["eventType"])},
        )
        about = [built.run.facets, built.job.facets]
        for dataset in [*built.inputs, *built.outputs]:
            about += [getattr(dataset, name, {}) for name in ("facets", "inputFacets", "outputFacets")]
        for facet in [facet for facets in about for facet in facets.values()]:
            content = {key.removeprefix("_"): value for key, value in facet.items() if key != "_schemaURL"}
            kind = FACETS[facet["_schemaURL"].rpartition("/")[2]]
            assert facet["_schemaURL"] == kind._get_schema()
            kind(**content)
            assert set(facet) <= {field.name for field in attr.fields(kind)}


@pytest.fixture(scope="module")
def told_once(tmp_path_factory) -> tuple[LakeUnderTest, list[dict[str, Any]]]:
    """A lake, and the events of its first run."""
    made = new_lake(tmp_path_factory.mktemp("told"))
    wrong = sale("s2", total="11.00"), sale("s3", time="2026-11-02T10:00:00").replace("C1", "")
    made.deliver("sales", "sales_20261103_120000.csv", sale("s1"), *wrong)
    run(made, command("events.jsonl"))
    return made, read(made.root / "events.jsonl")


# ------------------------------------------------------------------------------------------------ what events say


def test_every_task_that_did_something_has_a_beginning_and_an_end_within_the_run(told_once):
    _, events = told_once
    must_be_valid(events)
    jobs = ["bronze.sales", "silver.sales", *(f"gold.{name}" for name in tables())]
    assert told(events)[0] == ("luigi", "START")
    assert told(events)[-1] == ("luigi", "COMPLETE")
    assert sorted(told(events)[1:-1]) == sorted((job, state) for job in jobs for state in ("START", "COMPLETE"))
    first, last = events[0]["run"]["runId"], events[-1]["run"]["runId"]
    assert first == last
    for job in jobs:
        began, ended = event_of(events, job, "START"), event_of(events, job)
        assert events.index(began) < events.index(ended)
        assert began["run"]["runId"] == ended["run"]["runId"] != first
        assert began["eventTime"] <= ended["eventTime"]
        for event in (began, ended):
            parent = event["run"]["facets"]["parent"]
            assert (parent["run"]["runId"], parent["job"]["name"]) == (first, "luigi")
            assert event["run"]["facets"]["processing_engine"]["name"] == "DuckDB"
            assert event["job"]["namespace"] == "lakejobs"
            assert event["job"]["facets"]["jobType"]["integration"] == "LUIGI"
            assert event["job"]["facets"]["documentation"]["description"]
    assert len({event["run"]["runId"] for event in events}) == len(jobs) + 1


def test_the_run_is_the_ledgers(told_once):
    lake, events = told_once
    (ledger,) = (lake.root / "datalake/quality/runs").glob("*/*.parquet")
    assert ledger.name.split("_")[-2] == events[0]["run"]["runId"].replace("-", "")[:12]


def test_datasets_are_the_tables_of_the_layers(told_once):
    lake, events = told_once
    staging, datalake = f"{lake.root}/local_output", f"{lake.root}/datalake"
    for state in ("START", "COMPLETE"):
        landed, made = event_of(events, "bronze.sales", state), event_of(events, "silver.sales", state)
        assert (inputs(landed), output(landed)["name"]) == ([f"{staging}/sales"], f"{datalake}/bronze/sales")
        assert (inputs(made), output(made)["name"]) == ([f"{datalake}/bronze/sales"], f"{datalake}/silver/sales")
        for name, table in tables().items():
            event = event_of(events, f"gold.{name}", state)
            read_from = [
                f"{datalake}/{'gold' if source.name in tables() else 'silver'}/{source.name}"
                for source in table.sources
            ]
            assert (inputs(event), output(event)["name"]) == (read_from, f"{datalake}/gold/{name}")
    assert {one["namespace"] for event in events for one in [*event["inputs"], *event["outputs"]]} == {"file"}


def test_schemas_name_every_column(told_once):
    lake, events = told_once

    def schema(dataset: dict[str, Any]) -> dict[str, str]:
        return {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]}

    silver, gold = event_of(events, "silver.sales"), event_of(events, "gold.daily_sales_summary")
    assert [*schema(output(silver))] == [*lake.silver().columns.drop("partition"), "processed_at"]
    assert schema(output(silver))["quantity"] == "bigint"
    assert schema(silver["inputs"][0])["quantity"] == "string"
    assert [*schema(output(gold))] == [*lake.gold("daily_sales_summary").columns, "generated_at"]
    assert schema(output(gold))["total_revenue"] == "double"
    (position,) = event_of(events, "gold.inventory_net_position")["inputs"]
    assert "schema" in position["facets"]
    assert "schema" not in output(event_of(events, "gold.daily_sales_summary", "START"))["facets"]


def test_columns_are_traced_to_the_layer_below(told_once):
    _, events = told_once
    silver, gold = event_of(events, "silver.sales"), event_of(events, "gold.daily_sales_summary")
    assert origins(silver, "customer_id") == [("sales", "customer_id", "IDENTITY")]
    assert origins(silver, "timestamp") == [("sales", "timestamp", "TRANSFORMATION")]
    assert [column for _, column, _ in origins(silver, "total_amount")] == ["total_amount", "quantity", "unit_price"]
    assert origins(gold, "date") == [("sales", "timestamp", "TRANSFORMATION")]
    assert origins(gold, "total_revenue") == [("sales", "total_amount", "AGGREGATION")]
    (valid,) = output(gold)["facets"]["columnLineage"]["dataset"]
    assert (valid["field"], valid["transformations"][0]["subtype"]) == ("is_valid", "FILTER")
    assert origins(event_of(events, "gold.category_sales_summary"), "category") == [("sales", "category", "IDENTITY")]
    for event in events:
        for made in event["outputs"]:
            for fields in made["facets"].get("columnLineage", {}).get("fields", {}).values():
                assert {one["name"] for one in fields["inputFields"]} <= {*inputs(event)}


def test_silver_says_what_its_rules_found(told_once):
    _, events = told_once
    made = output(event_of(events, "silver.sales"))
    found = {one["name"]: one for one in made["facets"]["dataQualityAssertions"]["assertions"]}
    suite = json.loads((PROJECT / "expectations/sales.json").read_text())["expectations"]
    assert [*found] == [rule["meta"]["code"] for rule in suite]
    missing = found["NULL:customer_id"]
    assert (missing["success"], missing["column"], missing["severity"]) == (False, "customer_id", "error")
    assert missing["actual"] == "1 of 3 rows fail"
    assert (found["NULL:sale_id"]["success"], found["WRONG_TOTAL"]["severity"]) == (True, "warn")
    assert not found["WRONG_TOTAL"]["success"]


def test_rows_and_sql(told_once):
    _, events = told_once
    rows = {"silver.sales": 3, "gold.daily_sales_summary": 1}
    for job, count in rows.items():
        assert output(event_of(events, job))["outputFacets"]["outputStatistics"]["rowCount"] == count
    sql = event_of(events, "gold.daily_sales_summary", "START")["job"]["facets"]["sql"]
    assert (sql["query"], sql["dialect"]) == (tables()["daily_sales_summary"].statement, "duckdb")


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ("/srv/datalake", ("file", "/srv/datalake/gold/t")),
        ("s3://bucket", ("s3://bucket", "gold/t")),
        ("s3://bucket/a/b", ("s3://bucket", "a/b/gold/t")),
    ],
)
def test_datasets_have_the_names_that_openlineage_gives_them(root, place):
    assert openlineage._place(root, "gold/t") == place


# ------------------------------------------------------------------------------------------------ when there are events


def test_a_run_with_nothing_to_do_sends_nothing_and_does_not_load_the_client(tmp_path):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    run(lake, command("events.jsonl"))
    before = (lake.root / "events.jsonl").read_text()
    loaded = "sys.stderr.write(str([name for name in sys.modules if name.partition('.')[0] == 'openlineage']))"
    assert run(lake, in_python("", "events.jsonl", loaded)).endswith("[]")
    run(lake, command("events.jsonl"))
    assert (lake.root / "events.jsonl").read_text() == before


def test_it_is_off_by_default(tmp_path, collector):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    loaded = "sys.stderr.write(str([name for name in sys.modules if 'openlineage' in name]))"
    assert run(lake, in_python("", "", loaded), OPENLINEAGE_URL=collector.url).endswith("[]")
    assert not collector.events


def test_a_collector_gets_the_events_and_the_key(tmp_path, collector):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    namespace = "--lake-openlineage-namespace=shop"
    said = run(lake, command(f"{collector.url}/below", namespace), OPENLINEAGE_API_KEY="k3y")
    assert "OpenLineage" not in said
    must_be_valid(collector.events)
    assert told(collector.events)[0] == ("luigi", "START")
    assert told(collector.events)[-1] == ("luigi", "COMPLETE")
    assert len(collector.events) == 2 * (3 + len(tables()))
    assert {event["job"]["namespace"] for event in collector.events} == {"shop"}
    for path, headers in collector.requests:
        assert path == "/below/api/v1/lineage"
        assert headers["Authorization"] == "Bearer k3y"


def test_worker_processes_send_events_too(tmp_path, collector):
    lake = new_lake(tmp_path)
    for domain, line in (("sales", sale("s1")), ("inventory", "i1,2026-11-01T10:00:00,P1,W1,in,5,delivery")):
        lake.deliver(domain, f"{domain}_20261103_120000.csv", line)
    run(lake, command(collector.url, "--workers=2"))
    (lake.root / "datalake").rename(lake.root / "before")
    run(lake, command("events.jsonl", "--workers=2"))
    for events in (collector.events, read(lake.root / "events.jsonl")):
        must_be_valid(events)
        assert told(events)[-1] == ("luigi", "COMPLETE")
        assert told(events).count(("luigi", "START")) == 1
        tasks = [event for event in events if event["job"]["name"] != "luigi"]
        jobs = {f"{layer}.{domain}" for layer in ("bronze", "silver") for domain in ("sales", "inventory")}
        jobs |= {f"gold.{name}" for name in tables()}
        assert sorted(told(tasks)) == sorted((job, state) for job in jobs for state in ("START", "COMPLETE"))
        assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in tasks} == {events[-1]["run"]["runId"]}


# ------------------------------------------------------------------------------------------------ failed tasks


def test_broken_sql_fails_its_task_and_the_run(tmp_path):
    lake = new_lake(tmp_path)
    own = lake.root / "own"
    own.mkdir()
    (own / "broken.sql").write_text("-- grain: date\n-- source: sales\nselect nothing as date from sales")
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    run(lake, command("events.jsonl", "--lake-tables=own"), code=30)
    events = read(lake.root / "events.jsonl")
    must_be_valid(events)
    assert told(events)[-3:] == [("gold.broken", "START"), ("gold.broken", "FAIL"), ("luigi", "FAIL")]
    failed = event_of(events, "gold.broken", "FAIL")
    assert "own/broken.sql" in failed["run"]["facets"]["errorMessage"]["message"]
    assert "nothing" in failed["run"]["facets"]["errorMessage"]["message"]
    assert output(failed)["outputFacets"] == {}
    assert event_of(events, "silver.sales")


def test_a_withheld_partition_says_which_rule_failed(tmp_path):
    lake = new_lake(tmp_path)
    path = lake.root / "expectations/sales.json"
    suite = json.loads(path.read_text())
    rule = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 1}, "meta": {"code": "MANY"}}
    suite["expectations"].append(rule)
    path.write_text(json.dumps(suite))
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"), sale("s2"))
    run(lake, command("events.jsonl"), code=30)
    events = read(lake.root / "events.jsonl")
    must_be_valid(events)
    failed = event_of(events, "silver.sales", "FAIL")
    assert "withheld" in failed["run"]["facets"]["errorMessage"]["message"]
    found = {one["name"]: one for one in output(failed)["facets"]["dataQualityAssertions"]["assertions"]}
    assert not found["MANY"]["success"]
    assert "column" not in found["MANY"]
    assert found["MANY"]["actual"] == "observed 2"
    assert found["NULL:sale_id"]["success"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_is_aborted(tmp_path, collector, workers):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *command(collector.url, f"--workers={workers}")],
        cwd=lake.root, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    # As Ctrl-C does, it reaches every process of the run.
    collector.interrupts = ("silver.sales", process.pid)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert ("luigi", "ABORT") in told(collector.events)[-2:]
    # Luigi may kill a worker process before it has said so.
    if workers == 1:
        assert told(collector.events)[-2] == ("silver.sales", "ABORT")
    must_be_valid(collector.events)


# ------------------------------------------------------------------------------------------------ failing collectors


def down(collector: Collector) -> str:
    return f"http://127.0.0.1:{free_port()}"


def broken(collector: Collector) -> str:
    collector.status = 500
    return collector.url


def hanging(collector: Collector) -> str:
    collector.hangs = 600
    return collector.url


def trickling(collector: Collector) -> str:
    collector.trickles = True
    return collector.url


REFUSED, SILENT = "Connection refused", "it does not answer in time"


@pytest.mark.parametrize(
    ("how", "reason", "workers"),
    [
        (down, REFUSED, 1),
        (down, REFUSED, 2),
        (broken, "it answers 500", 1),
        (hanging, SILENT, 1),
        (hanging, SILENT, 2),
        (trickling, SILENT, 1),
    ],
)
def test_a_failing_collector_fails_no_run_and_is_asked_once(tmp_path, collector, how, reason, workers):
    lake = new_lake(tmp_path)
    for domain, line in (("sales", sale("s1")), ("inventory", "i1,2026-11-01T10:00:00,P1,W1,in,5,delivery")):
        lake.deliver(domain, f"{domain}_20261103_120000.csv", line)
    url = how(collector)
    said = run(lake, command(url, f"--workers={workers}"))
    # It ended although the collector has not answered yet.
    assert not collector.released.is_set()
    (warning,) = [line for line in said.splitlines() if "WARNING" in line]
    assert warning.startswith(f"{WARNING} {url}: {reason}. The run goes on without them; check [lake] openlineage")
    assert "Traceback" not in said
    assert len(collector.events) <= workers
    assert len(lake.gold("daily_sales_summary")) == 1


def test_a_slow_collector_is_given_up_once_it_has_cost_some_seconds(lake, set_lake, monkeypatch, collector, caplog):
    monkeypatch.setattr(openlineage, "PATIENCE", 0.5)
    collector.hangs = 0.4
    set_lake(openlineage=collector.url)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    assert lake.run()
    assert 1 <= len(collector.events) <= 3
    assert caplog.text.count("it does not answer in time") == 1


def test_a_collector_that_is_quick_enough_gets_everything(lake, set_lake, monkeypatch, collector):
    monkeypatch.setattr(openlineage, "PATIENCE", 0.2)
    monkeypatch.setattr(openlineage, "STEP", 5)
    collector.hangs = 0.1
    set_lake(openlineage=collector.url)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    assert lake.run()
    assert len(collector.events) == 2 * (2 + len(tables()))


@pytest.mark.parametrize("path", ["missing/events.jsonl", "local_output", "/dev/full"])
def test_a_file_that_cannot_be_written_fails_no_run(tmp_path, path):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    said = run(lake, command(path))
    assert said.count(f"{WARNING} {path}: ") == 1
    assert "Traceback" not in said


def test_no_secret_is_shown_or_sent(tmp_path, collector):
    lake = new_lake(tmp_path)
    (lake.root / ".git").mkdir()
    (lake.root / ".git/config").write_text('[remote "origin"]\nurl = https://me:s3cret@git.example.com/lake.git\n')
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    run(lake, command(collector.url))
    assert "s3cret" not in json.dumps(collector.events)
    collector.status = 401
    url = f"http://me:s3cret@127.0.0.1:{collector.port}/?token=s3cret"
    # A key that no header can hold, and a setting that the client cannot read.
    for number, variables in enumerate(
        [
            {"OPENLINEAGE_API_KEY": "s3cret"},
            {"OPENLINEAGE_API_KEY": "\ns3cret"},
            {"OPENLINEAGE__TRANSPORT__AUTH": '{"type": "api_key", apiKey: s3cret'},
        ]
    ):
        lake.deliver("sales", f"sales_20261104_12000{number}.csv", sale(f"t{number}"))
        said = run(lake, command(url), **variables)
        assert f"{WARNING} http://127.0.0.1:{collector.port}: " in said
        assert "s3cret" not in said


def test_a_missing_package_is_said_once(tmp_path):
    lake = new_lake(tmp_path)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    said = run(lake, in_python("sys.modules['openlineage'] = None", "events.jsonl"))
    assert said.count("the package openlineage-python is missing, so the run sends no events; install it with pip") == 1
    assert not (lake.root / "events.jsonl").exists()
    assert len(lake.gold("daily_sales_summary")) == 1


@pytest.mark.parametrize(
    "url", ["kafka://me:s3cret@host", "http://", "http://me:s3cret@host:99999", "http://me:s3cret@[::1"]
)
def test_urls_that_lead_nowhere_are_refused(set_lake, url):
    set_lake(openlineage=url)
    with pytest.raises(
        LakeError, match=r"^\[lake\] openlineage: expected http\(s\)://host:port, or the path of a file$"
    ):
        settings()


def test_jobs_need_a_namespace(set_lake):
    set_lake(openlineage_namespace="")
    with pytest.raises(LakeError, match=r"^\[lake\] openlineage_namespace is empty: expected a name$"):
        settings()


def test_a_mistake_of_ours_fails_no_run(lake, set_lake, monkeypatch, caplog):
    set_lake(openlineage="events.jsonl")
    monkeypatch.setattr(openlineage, "_silver_lineage", lambda *_: 1 / 0)
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    assert lake.run()
    assert caplog.text.count("cannot be sent") == 1
    assert "ZeroDivisionError" in caplog.text


def test_tables_that_read_each_other_are_traced(lake, set_lake, monkeypatch):
    set_tables(
        monkeypatch,
        {
            "daily_sales_summary": known_tables()["daily_sales_summary"],
            "top": "-- grain: date\n-- source: daily_sales_summary\n"
            "select date, total_revenue, order_count + 1 as more from daily_sales_summary",
        },
    )
    set_lake(openlineage="events.jsonl")
    lake.deliver("sales", "sales_20261103_120000.csv", sale("s1"))
    assert lake.run()
    events = read(lake.root / "events.jsonl")
    must_be_valid(events)
    top = event_of(events, "gold.top")
    assert inputs(top) == [f"{lake.root}/datalake/gold/daily_sales_summary"]
    assert origins(top, "total_revenue") == [("daily_sales_summary", "total_revenue", "IDENTITY")]
    assert origins(top, "more") == [("daily_sales_summary", "order_count", "TRANSFORMATION")]
    assert output(top)["facets"]["columnLineage"]["dataset"] == []
