"""The lake's two schedules in Airflow: one makes data, the other takes it to gold.

The file stands alone: it imports Airflow and the standard library, and has Luigi run from the lake's own environment.
Where that is follows from this file's place in the project. A copy of it somewhere else is told by the environment of
the DAG processor and the workers:

    LAKEJOBS_DIRECTORY            the runs' working directory, with luigi.cfg and expectations/ (the project)
    LAKEJOBS_LUIGI                the luigi of the lake's environment (the project's .venv/bin/luigi)
    LUIGID_ADDRESS, LUIGID_PORT   where to ask for luigid (127.0.0.1, 8082)
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

# The moment belongs to the run and not to the attempt, so a retry repeats its batch and makes no second one.
# A run triggered by hand has no logical date.
BATCH = "{{ (dag_run.logical_date or dag_run.run_after).strftime('%Y%m%d_%H%M%S') }}"

# Through luigid, where it answers, so that the run is seen in its visualiser. Twice an hour both schedules are due at
# once; the runs wait for each other by themselves.
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
    """A Luigi task. It fails where Luigi says so by its exit code ([retcode] in luigi.cfg)."""
    return BashOperator(
        task_id=task_id,
        bash_command=COMMAND.replace("TASK", task),
        cwd=DIRECTORY,
        env={"LUIGI": LUIGI},
        append_env=True,
        do_xcom_push=False,  # the last line of Luigi's log is no result
        execution_timeout=time_limit,
    )


with DAG(
    "data_lake_generator_dag",
    description="Makes and lands a batch of each domain every five minutes",
    schedule="*/5 * * * *",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=20),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["data-lake", "generator"],
    doc_md="""
### New data for the lake

Every five minutes a batch of generated rows of each domain is staged as CSV (`local_output/`) and landed in bronze:
`luigi --module lakejobs Generate --domain … --Generate-batch …`.

The batch is named by the moment of the run. Retrying or clearing a task repeats that batch, and a batch that has
landed is not landed twice.
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
SilverAll`), then `silver_to_gold` recomputes the gold tables that it changes (`GoldAll`).

Each does what is due and nothing else, so a run that was missed, failed or timed out needs no repair: the next one
does its work. If a rule of the whole table is broken, or a suite cannot be read, the task fails and the last
good partitions stay; the task's log says which.
""",
):
    luigi("bronze_to_silver", "SilverAll", timedelta(hours=1)) >> luigi("silver_to_gold", "GoldAll", timedelta(hours=1))
