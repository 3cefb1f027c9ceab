"""The DAG file, runs of both DAGs, and starting and stopping scripts/airflow, all with a real Airflow."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, LakeUnderTest, lake_in, new_lake, sale

from lakejobs.tables import tables

pytestmark = pytest.mark.airflow

DAG_FILE = PROJECT / "lakejobs/dags/data_lake_pipeline.py"
DEADLINE = 180  # seconds until a test gives up waiting; a run takes a fraction of that


class AirflowUnderTest:
    """scripts/airflow with its own home, lake and ports."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.lake = new_lake(root / "lake")
        shutil.copy(PROJECT / "luigi.cfg", self.lake.root)
        self.port, self.luigid_port = free_port(), free_port()
        mine = ("AIRFLOW", "LAKEJOBS_", "LUIGID_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(mine)},
            "LAKEJOBS_AIRFLOW_HOME": str(self.home),
            "LAKEJOBS_DIRECTORY": str(self.lake.root),
            "AIRFLOW_PORT": str(self.port),
            "LUIGID_PORT": str(self.luigid_port),
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROJECT / "scripts/airflow"), *arguments],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=2 * DEADLINE,
        )  # fmt: skip

    def python(self, program: str, *arguments: str) -> Any:
        """Run a program in Airflow's environment, and parse the last line it prints as JSON."""
        done = subprocess.run(
            [str(PROJECT / ".venv-airflow/bin/python"), "-c", program, *arguments],
            env={**self.environment, "AIRFLOW_HOME": str(self.home)}, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def retry(self, retries: int) -> None:
        """Set the retries of every task, with a short delay, through Airflow's policy file and not the DAG file."""
        policy = self.home / "config/airflow_local_settings.py"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(
            "from datetime import timedelta\n"
            "def task_policy(task):\n"
            f"    task.retries, task.retry_delay = {retries}, timedelta(seconds=1)\n"
        )

    def processes(self) -> dict[str, list[list[object]]]:
        """This instance's processes and the addresses they listen on."""
        return self.python(PROCESSES, str(self.home))

    def api(self, path: str, body: dict[str, Any] | None = None, *, method: str = "GET", token: str = "") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        )
        # Bypass any proxy.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return json.load(response)


# Finds processes by AIRFLOW_HOME, independently of the script's own marker.
PROCESSES = """
import json, psutil, sys
found = {}
for process in psutil.process_iter():
    try:
        if process.environ().get("AIRFLOW_HOME") == sys.argv[1] and process.pid != psutil.Process().pid:
            found[" ".join(process.cmdline()).strip()] = [
                list(connection.laddr) for connection in process.net_connections() if connection.status == "LISTEN"
            ]
    except psutil.Error:
        pass
print(json.dumps(found))
"""

STRUCTURE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
print(json.dumps({
    "errors": bag.import_errors,
    "dags": {
        dag.dag_id: {
            "schedule": dag.schedule,
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "limited": dag.dagrun_timeout is not None,
            "described": bool(dag.doc_md and dag.tags),
            "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "operators": sorted({task.task_type for task in dag.tasks}),
            "retried": all(task.retries > 0 and task.retry_delay.total_seconds() > 0 for task in dag.tasks),
            "tasks_limited": all(task.execution_timeout is not None for task in dag.tasks),
        }
        for dag in bag.dags.values()
    },
}))
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowUnderTest]:
    """Airflow with a migrated database; stopped afterwards, even if a test fails."""
    made = AirflowUnderTest(tmp_path_factory.mktemp("airflow"))
    done = made("db", "migrate")
    assert done.returncode == 0, done.stdout
    yield made
    made("stop")


@pytest.fixture
def luigid(airflow: AirflowUnderTest, tmp_path: Path) -> Iterator[Callable[[], set[str]]]:
    """A luigid on the port that the DAGs use; returns the families of the tasks done through it."""
    address = f"http://127.0.0.1:{airflow.luigid_port}"
    command = [
        str(Path(sys.executable).with_name("luigid")),
        "--address",
        "127.0.0.1",
        "--port",
        str(airflow.luigid_port),
    ]
    with subprocess.Popen(
        [*command, "--state-path", str(tmp_path / "state")],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:

        def done() -> set[str]:
            query = urllib.parse.urlencode({"data": json.dumps({"status": "DONE", "upstream_status": ""})})
            with urllib.request.urlopen(f"{address}/api/task_list?{query}", timeout=10) as response:
                return {task["name"] for task in json.load(response)["response"].values()}

        def answers() -> bool:
            try:
                done()
            except urllib.error.URLError:
                return False
            return True

        wait_until(answers, "luigid answers")
        yield done
        process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], Any], what: str) -> Any:
    """Poll `holds` until its result is true, and return that; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.3)
    return found


def staged(lake: LakeUnderTest) -> list[str]:
    return sorted(path.name for path in lake.root.glob("local_output/*/*.csv"))


def test_the_file_stands_alone():
    imported = set()
    for node in ast.walk(ast.parse(DAG_FILE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"airflow.sdk", "airflow.providers.standard.operators.bash"}


def test_structure(airflow):
    found = airflow.python(STRUCTURE, str(DAG_FILE.parent))
    shared = {
        "catchup": False, "max_active_runs": 1, "limited": True, "described": True, "operators": ["BashOperator"],
        "retried": True, "tasks_limited": True,
    }  # fmt: skip
    generators = ("generate_sales", "generate_customer_events", "generate_inventory")
    assert found == {
        "errors": {},
        "dags": {
            "data_lake_generator_dag": {
                **shared, "schedule": "*/5 * * * *", "tasks": {name: [] for name in generators},
            },
            "data_lake_pipeline_dag": {
                **shared, "schedule": "*/30 * * * *",
                "tasks": {"bronze_to_silver": ["silver_to_gold"], "silver_to_gold": []},
            },
        },
    }  # fmt: skip


def test_both_dags_in_turn_fill_gold_and_are_seen_by_luigid(airflow, luigid):
    done = airflow("dags", "test", "data_lake_generator_dag", "2026-11-01T12:00:00")
    assert done.returncode == 0, done.stdout
    stamp = "20261101_120000"
    assert staged(airflow.lake) == [f"{name}_{stamp}.csv" for name in ("events", "inventory", "sales")]
    assert f"--scheduler-port {airflow.luigid_port} Generate --domain sales" in done.stdout

    done = airflow("dags", "test", "data_lake_pipeline_dag", "2026-11-01T12:00:00")
    assert done.returncode == 0, done.stdout
    for table in tables():
        assert len(airflow.lake.gold(table)) > 0, table
    assert {"Staging", "Bronze", "Generate", "Silver", "SilverAll", "Gold", "GoldAll"} <= luigid()


def test_a_failed_luigi_task_turns_the_run_red(airflow, tmp_path, monkeypatch):
    lake = new_lake(tmp_path)
    shutil.copy(PROJECT / "luigi.cfg", lake.root)
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    (lake.root / "expectations/sales.json").write_text("{ no suite")
    monkeypatch.setitem(airflow.environment, "LAKEJOBS_DIRECTORY", str(lake.root))
    airflow.retry(1)

    done = airflow("dags", "test", "data_lake_pipeline_dag", "2026-11-01T12:00:00")
    assert done.returncode == 1, done.stdout
    assert "DagRun failed" in done.stdout
    assert "expectations/sales.json is not JSON" in done.stdout
    # No luigid is running. The failed task was tried twice, the one after it not at all.
    assert done.stdout.count("--module lakejobs --local-scheduler SilverAll") == 2
    assert "GoldAll" not in done.stdout


def test_started_triggered_by_hand_stopped_and_started_again(airflow, monkeypatch):
    lake, dag = airflow.lake, "/api/v2/dags/data_lake_generator_dag"
    shutil.rmtree(lake.root / "local_output", ignore_errors=True)
    # Keep both DAGs from starting by themselves; this test is about one.
    monkeypatch.setitem(airflow.environment, "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION", "True")
    airflow.retry(2)

    done = airflow("start")
    assert done.returncode == 0, done.stdout
    assert f"http://127.0.0.1:{airflow.port}" in done.stdout
    password = re.search(r"as admin, password (\S+)", done.stdout)[1]
    listening = [address for addresses in airflow.processes().values() for address in addresses]
    assert listening == [["127.0.0.1", airflow.port]]

    login = {"username": "admin", "password": password}
    token = airflow.api("/auth/token", login, method="POST")["access_token"]

    def dags() -> set[str]:
        return {found["dag_id"] for found in airflow.api("/api/v2/dags", token=token)["dags"]}

    both = {"data_lake_generator_dag", "data_lake_pipeline_dag"}
    wait_until(lambda: dags() >= both, "the DAGs are there")
    assert dags() == both, "no examples"

    # While the test holds the lock on sales, they cannot land, so the task keeps running until it is stopped.
    with lake_in(lake.root).lock("sales"):
        run = airflow.api(f"{dag}/dagRuns", {"logical_date": None}, method="POST", token=token)
        assert run["logical_date"] is None
        airflow.api(dag, {"is_paused": False}, method="PATCH", token=token)
        wait_until(lambda: any(name.startswith("sales_") for name in staged(lake)), "a batch of sales is staged")
        assert any("Generate --domain sales" in command for command in airflow.processes())
        assert airflow("status").returncode == 0
        done = airflow("stop")
        assert done.returncode == 0, done.stdout
        assert airflow.processes() == {}
        assert airflow("status").returncode == 1

    done = airflow("start")
    assert done.returncode == 0, done.stdout
    assert password in done.stdout, "the same as before"
    token = airflow.api("/auth/token", login, method="POST")["access_token"]
    run_path = f"{dag}/dagRuns/{run['dag_run_id']}"

    def ended() -> str | None:
        state = airflow.api(run_path, token=token)["state"]
        return state if state in ("success", "failed") else None

    assert wait_until(ended, "the run has ended") == "success"
    log = airflow.api(f"{run_path}/taskInstances/generate_inventory/logs/1", token=token)
    assert "This progress looks :)" in json.dumps(log)

    # Each run makes one batch of each domain, however often a task is retried.
    runs = airflow.api(f"{dag}/dagRuns", token=token)["dag_runs"]
    stamps = {re.sub(r"\D", "", (found["logical_date"] or found["run_after"])[:19]) for found in runs}
    batches = [re.sub(r"\D", "", name) for name in staged(lake)]
    assert set(batches) <= stamps
    assert batches.count(re.sub(r"\D", "", run["run_after"][:19])) == 3
    assert airflow("stop").returncode == 0
    assert airflow.processes() == {}
