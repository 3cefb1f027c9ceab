"""The lake's two Airflow schedules: one generates data, the other takes it to gold.

This file stands alone: it imports only Airflow and the standard library, and runs the luigi of the lake's own
environment. By default it finds that relative to its own place in the project. To use a copy elsewhere, set these
variables for the DAG processor and the workers:

    LAKEJOBS_DIRECTORY            working directory of the runs, with luigi.cfg and expectations/ (the project)
    LAKEJOBS_LUIGI                luigi in the lake's environment (the project's .venv/bin/luigi)
    LUIGID_ADDRESS, LUIGID_PORT   address of luigid (127.0.0.1, 8082)
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DIRECTORY = os.environ.get("LAKEJOBS_DIRECTORY", PROJECT)
LUIGI = os.environ.get("LAKEJOBS_LUIGI", os.path.join(PROJECT, ".venv", "bin", "luigi"))

START = datetime(2026, 1, 1, tzinfo=UTC)

# The batch belongs to the run, not to the attempt, so a retry repeats its batch instead of generating another one.
# A run triggered by hand may have no logical date.
BATCH = "{{ (dag_run.logical_date or dag_run.run_after).strftime('%Y%m%d_%H%M%S') }}"

# Uses luigid if it answers, so that the run appears in the visualiser. Twice an hour both schedules start together;
# their runs wait for each other.
COMMAND = r"""
address=${LUIGID_ADDRESS:-127.0.0.1} port=${LUIGID_PORT:-8082}
luigid_answers() {
    {
        printf 'GET /api/is_pause_enabled HTTP/1.0\r\n\r\n' >&3 &&
            read -r -t 5 answer <&3 &&
            [[ $answer == *" 200 "* ]]
    } 3<>"/dev/tcp/$address/$port"
}
if luigid_answers 2>/dev/null; then
    scheduler="--scheduler-host $address --scheduler-port $port"
else
    scheduler=--local-scheduler
fi
set -x
"$LUIGI" --module lakejobs $scheduler TASK
"""


def luigi(task_id: str, task: str, time_limit: timedelta) -> BashOperator:
    """A Luigi task. It fails if Luigi's exit code is not 0 ([retcode] in luigi.cfg)."""
    return BashOperator(
        task_id=task_id,
        bash_command=COMMAND.replace("TASK", task),
        cwd=DIRECTORY,
        env={"LUIGI": LUIGI},
        append_env=True,
        do_xcom_push=False,  # the last line of Luigi's log is not a result
        execution_timeout=time_limit,
    )


with DAG(
    "data_lake_generator_dag",
    description="Generates and lands a batch of each domain every five minutes",
    schedule="*/5 * * * *",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=20),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["data-lake", "generator"],
    doc_md="""
### New data for the lake

Every five minutes, stages a generated batch of each domain as CSV (`local_output/`) and lands it in bronze:
`luigi --module lakejobs Generate --domain … --Generate-batch …`.

A batch is named after the time of its run. Retrying or clearing a task repeats that batch, and a batch that has landed
does not land again.
""",
):
    for domain in ("sales", "customer_events", "inventory"):
        luigi(f"generate_{domain}", f"Generate --domain {domain} --Generate-batch {BATCH}", timedelta(minutes=5))

with DAG(
    "data_lake_pipeline_dag",
    description="Brings silver and gold up to date every half hour",
    schedule="*/30 * * * *",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["data-lake", "pipeline"],
    doc_md="""
### From bronze to gold

Every half hour: `bronze_to_silver` types, corrects, deduplicates and validates what is new (`luigi --module lakejobs
SilverAll`), then `silver_to_gold` recomputes the gold tables affected (`GoldAll`).

Each rebuilds only what is stale, so a run that was missed, failed or timed out needs no repair: the next run does its
work. If partitions are withheld, or a suite cannot be read, the task fails and the last good partitions stay; the
task's log says which rule or suite it was.
""",
):
    luigi("bronze_to_silver", "SilverAll", timedelta(hours=1)) >> luigi("silver_to_gold", "GoldAll", timedelta(hours=1))
