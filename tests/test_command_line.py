"""Commands as a person types them: their output and exit codes."""

from __future__ import annotations

import html
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, Operated, sale
from luigi.rpc import RPCError

from lakejobs import luigi_output
from lakejobs.engine import records
from lakejobs.luigi_output import plain_message

LUIGI = Path(sys.executable).with_name("luigi")


@pytest.fixture
def luigi(lake):
    """Runs `luigi --module lakejobs …` in the lake's directory."""
    shutil.copy(PROJECT / "luigi.cfg", lake.root / "luigi.cfg")

    def run(*arguments: str, local: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(LUIGI), "--module", "lakejobs", *arguments, *(["--local-scheduler"] if local else [])]
        return subprocess.run(command, cwd=lake.root, capture_output=True, text=True, timeout=120)

    return run


def test_from_nothing_to_gold_and_again(lake, luigi):
    done = luigi("GenerateAll", "--GenerateAll-batch", "20261101_120000")
    assert done.returncode == 0, done.stderr
    done = luigi("GoldAll")
    assert done.returncode == 0, done.stderr
    assert "1 partition, 10 records" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 60, "no walls of text"
    assert len(lake.snapshots("daily_sales_summary")) == 1
    done = luigi("GoldAll")
    assert done.returncode == 0
    assert "Did not run any tasks" in done.stderr


def test_each_layer_by_its_name(lake, luigi):
    assert (
        luigi("Generate", "--domain", "sales", "--Generate-batch", "2026-11-01T12:00:00", "--rows", "50").returncode
        == 0
    )
    assert luigi("BronzeAll").returncode == 0
    assert luigi("SilverAll").returncode == 0
    assert len(lake.silver()) == 50
    assert luigi("Silver", "--domain", "sales", "--date", "2026-11-01").returncode == 0
    assert luigi("Gold", "--table", "daily_sales_summary").returncode == 0
    assert len(lake.snapshots("daily_sales_summary")) == 1


def test_the_same_batch_gives_the_same_file(lake, luigi):
    assert luigi("Staging", "--domain", "inventory", "--Staging-batch", "20261101_120000").returncode == 0
    (file,) = (lake.root / "local_output/inventory").iterdir()
    first = file.read_bytes()
    file.unlink()
    assert luigi("Staging", "--domain", "inventory", "--Staging-batch", "20261101_120000").returncode == 0
    assert file.read_bytes() == first


def test_settings_can_be_given_on_the_command_line(lake, luigi):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    (lake.root / "local_output").rename(lake.root / "inbox")
    assert luigi("GoldAll", "--lake-root", "elsewhere", "--lake-staging", "inbox").returncode == 0
    assert (lake.root / "elsewhere/silver/sales").exists()
    assert not (lake.root / "datalake").exists()


def test_a_large_file_lands_whole_or_not_at_all(lake, luigi):
    # Larger than a chunk, so that it is inspected while it is copied.
    path = lake.deliver("sales", "sales_20261101_120000.csv", *(sale(f"s{n}") for n in range(70_000)))
    assert path.stat().st_size > records.CHUNK
    script = f'ulimit -f 2048; trap "" XFSZ; exec "{LUIGI}" --module lakejobs Bronze --domain sales --date 2026-11-01'
    done = subprocess.run(
        ["bash", "-c", f"{script} --local-scheduler"], cwd=lake.root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert f"{lake.bronze('2026-11-01').relative_to(lake.root)}/{path.name}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(lake.bronze("2026-11-01").glob("*.csv"))
    assert luigi("Bronze", "--domain", "sales", "--date", "2026-11-01").returncode == 0
    assert (lake.bronze("2026-11-01") / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("script", "start"), [(False, "luigid --background .* --port {}"), (True, "LUIGID_PORT={} scripts/luigid")]
)
def test_no_luigid_is_said_soon_with_what_to_do(lake, luigi, script, start):
    if script:
        (lake.root / "scripts").mkdir()
        (lake.root / "scripts/luigid").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = luigi("GoldAll", "--scheduler-port", port, local=False)
    assert done.returncode == 40
    started = re.escape(f"no luigid answers at http://127.0.0.1:{port}. Start one (") + start.format(port)
    assert re.search(rf"{started}\), or pass --local-scheduler", done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("no luigid") == 1


def test_a_luigid_on_another_host_cannot_be_started_here():
    error = RPCError("Errors (2 attempts) when connecting to remote scheduler 'http://scheduler.example:8082'")
    assert plain_message(error) == (
        "no luigid answers at http://scheduler.example:8082. Check the network and that it runs there, or pass "
        "--local-scheduler to run without it."
    )


def test_a_luigid_that_stops_answering_while_tasks_are_scheduled_is_said_in_a_sentence():
    url = "http://scheduler.example:8082"
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        f"luigi.rpc.RPCError: Errors (2 attempts) when connecting to remote scheduler '{url}'\n"
    )
    record = logging.LogRecord("luigi-interface", logging.WARNING, "", 0, f"Will not run GoldAll():\n{text}", (), None)
    assert luigi_output.PlainMessages().filter(record)
    assert record.getMessage().startswith(f"no luigid answers at {url}. ")


def test_work_goes_on_if_luigid_cannot_be_told_of_its_progress():
    class Unheard:
        told = 0

        def set_status_message(self, message: str) -> None:
            self.told += 1
            raise RPCError("Errors (2 attempts) when connecting to remote scheduler 'http://scheduler.example:8082'")

    task = Unheard()
    for percent in (10, 20):
        luigi_output.announce(task, "10 of 100 rows", percent=percent)
    assert task.told == 1, "each try may take long"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["Silver", "--domain", "sails", "--date", "2026-11-01"],
            "unknown domain 'sails'; expected one of customer_events, inventory, sales",
        ),
        (["Gold", "--table", "daily"], "unknown gold table 'daily'; expected one of category_sales_summary"),
        (
            ["Silver", "--domain", "sales", "--date", "2026-13-01"],
            "ERROR: --date: expected a date as YYYY-MM-DD, for example 2026-11-01, got '2026-13-01'\n",
        ),
        (
            ["Silver", "--domain", "sales", "--date", "2026-11-01,1.11."],
            "ERROR: --date: expected a date as YYYY-MM-DD, for example 2026-11-01, got '1.11.'\n",
        ),
        (
            ["Bronze", "--domain", "sales", "--date", "today"],
            "ERROR: --date: expected a date as YYYY-MM-DD, for example 2026-11-01, got 'today'\n",
        ),
        (
            ["Generate", "--domain", "sales", "--Generate-batch", "noon"],
            "ERROR: --Generate-batch cannot be read: expected a batch as YYYYMMDD_HHMMSS, for example 20261101_120000",
        ),
        (["Generate", "--domain", "sales"], "Generate is missing its parameter batch: add --Generate-batch VALUE"),
        (["GoldAll", "--lake-memory-limit", "lots"], "[lake] memory_limit=lots: expected a size"),
        (["GoldAll", "--lake-chunk-rows", "lots"], "[lake] chunk_rows cannot be read: invalid literal"),
        (["GoldAll", "--lake-earliest-date", "1.11."], "[lake] earliest_date cannot be read: time data '1.11.'"),
        (["GoldAll", "--lake-timestamp-formats", "%m"], "[lake] timestamp_formats cannot be read: Expecting value"),
        (["GoldAll", "--workers", "lots"], "[core] workers cannot be read: invalid literal"),
        (["GoldAll", "--lake-rot", "elsewhere"], "unrecognized arguments: --lake-rot elsewhere"),
        (
            ["Staging", "--domain", "sales", "--Staging-batch", "20261101_120000", "--rows", "lots"],
            "--rows lots cannot be read: invalid literal",
        ),
        (
            ["GoldAl"],
            "unknown task 'GoldAl'; did you mean GoldAll or Gold? Expected one of Bronze, BronzeAll, Generate,",
        ),
        (["goldall"], "unknown task 'goldall'; did you mean GoldAll or "),
        (["Platinum"], "unknown task 'Platinum'; expected one of Bronze, BronzeAll, Generate, GenerateAll, Gold,"),
    ],
)
def test_what_is_typed_wrong_is_refused_with_the_choices(lake, luigi, arguments, message):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    done = luigi(*arguments)
    assert done.returncode == 40 if "--date" in arguments else done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_stops_a_run_before_any_task(lake, luigi):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    done = luigi("GoldAll", "--lake-memory-limit", "5 bananas")
    assert done.returncode == 35
    assert done.stderr.count("[lake] memory_limit=5 bananas: expected a size such as 4GB, or a share such as 50%") == 1
    assert "Did not run any tasks" in done.stderr
    assert not (lake.root / "datalake").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("keep_snapshot = 3", "luigi.cfg: unknown setting [lake] keep_snapshot; did you mean keep_snapshots?"),
        ("Staging = x", "luigi.cfg: unknown setting [lake] Staging; did you mean staging?"),
        ("colour = red", "luigi.cfg: unknown setting [lake] colour; expected one of root, staging, expectations,"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(lake, luigi, line, message):
    settings = (PROJECT / "luigi.cfg").read_text()
    (lake.root / "luigi.cfg").write_text(settings.replace("[lake]\n", f"[lake]\n{line}\n", 1))
    test = [LUIGI.with_name("lakejobs"), "test", "daily_sales_summary"]
    tested = subprocess.run(test, cwd=lake.root, capture_output=True, text=True)
    for done, code in ((luigi("GoldAll"), 35), (tested, 1)):
        assert done.returncode == code, done.stderr
        assert done.stderr.count(message) == 1, done.stderr
        assert "Unconsumed" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_default_for_all_sections_is_no_setting_of_the_lake(lake, luigi):
    settings = (PROJECT / "luigi.cfg").read_text().replace("root = datalake", "root = %(base)s/lake")
    (lake.root / "luigi.cfg").write_text(f"[DEFAULT]\nbase = there\n{settings}")
    assert luigi("BronzeAll").returncode == 0
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert luigi("BronzeAll").returncode == 0
    assert (lake.root / "there/lake/bronze").exists()


def test_a_lake_that_cannot_be_written_is_said(lake, luigi):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    (lake.root / "file").write_text("")
    done = luigi("GoldAll", "--lake-root", "file/lake")
    assert done.returncode != 0
    assert "expected a directory, but found a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_domain_fails_the_command_and_no_other_domain(lake, luigi):
    assert luigi("GenerateAll", "--GenerateAll-batch", "20261101_120000").returncode == 0
    (lake.root / "expectations/inventory.json").write_text("{")
    done = luigi("GoldAll")
    assert done.returncode == 30
    assert "expectations/inventory.json is not JSON" in done.stderr
    assert len(lake.snapshots("daily_sales_summary")) == 1
    assert len(lake.snapshots("device_usage_summary")) == 1
    assert lake.snapshots("inventory_net_position") == []


@pytest.mark.parametrize("workers", [1, 4])
def test_after_a_run_that_failed_the_pages_show_what_it_built_and_why_it_failed(lake, luigi, workers):
    lake.deliver("inventory", "inventory_20261101_120000.csv", "m1,2026-11-01T10:00:00,P1,Lamp,W1,inbound,5,2.00,S1")
    assert luigi("GoldAll").returncode == 0
    for number, broken in enumerate(["{", "[]"]):
        (lake.root / "expectations/inventory.json").write_text(broken)
        lake.deliver("sales", f"sales_20261101_12000{number}.csv", sale(f"s{number}"))
        done = luigi("GoldAll", "--workers", str(workers))
        assert done.returncode == 30
        (error,) = set(re.findall("expectations/inventory.json[^\n]*", done.stderr))
        table = (lake.root / "datalake/quality/tables/daily_sales_summary.html").read_text()
        assert "Up to date" in table and "Not up to date" not in table
        page = (lake.root / "datalake/quality/report.html").read_text()
        assert error in html.unescape(page)
        signs = re.findall(r'class="sign (\w+)">.</td><td>silver</td><td class="title">(\w+)', page)
        assert dict(map(reversed, signs)) == {"inventory": "bad", "sales": "good"}


def test_a_run_without_work_loads_nothing_heavy(lake, luigi):
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert luigi("GoldAll").returncode == 0
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", str(LUIGI), "--module", "lakejobs", "GoldAll", "--local-scheduler"],
        cwd=lake.root,
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0
    modules = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in loaded.stderr.splitlines()
        if line.startswith("import time")
    }
    assert "luigi" in modules
    assert not modules & {"great_expectations", "pandas", "duckdb", "pyarrow", "numpy", "faker"}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("scheduler", ["local", "luigid"])
def test_ctrl_c_ends_a_run_with_a_sentence_and_another_run_goes_on(tmp_path, scheduler, workers):
    made = Operated(tmp_path)
    lake = made.lake
    lake.deliver("sales", "sales_20261101_120000.csv", *(sale(f"s{n}") for n in range(20_000)))
    try:
        if scheduler == "luigid":
            assert made.script("luigid", "start").returncode == 0
        choice = ["--local-scheduler"] if scheduler == "local" else []
        command = [*made.command("GoldAll"), "--workers", str(workers), *choice]
        # Like a terminal, send the signal to the whole process group: the run and its workers.
        with subprocess.Popen(
            command, cwd=lake.root, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert any("1 file landed" in line for line in process.stderr)
            os.killpg(process.pid, signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(timeout=60) == luigi_output.INTERRUPTED_CODE, said
        assert said.splitlines()[-1] == luigi_output.INTERRUPTED
        assert "Traceback" not in said
        assert "Error" not in said
        assert not lake.snapshots("daily_sales_summary")
        assert subprocess.run(command, cwd=lake.root, capture_output=True, timeout=120).returncode == 0
        assert len(lake.silver()) == 20_000
    finally:
        made.stop()


def test_ctrl_c_while_a_process_forks_is_not_lost():
    script = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import lakejobs
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
if child := os.fork():
    os.waitpid(child, 0)
    time.sleep(60)
    print("not interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        luigi_output.INTERRUPTED_CODE,
        "",
        f"{luigi_output.INTERRUPTED}\n",
    )


@pytest.mark.parametrize("program", ["luigi", "another program"])
def test_the_fast_exit_does_what_was_left_for_the_end(lake, program):
    script = """
import atexit, sys
from luigi.cmdline import luigi_run
program, staging = sys.argv = sys.argv[1:]
atexit.register(print, "registered")
print("not flushed", end="; ")
try:
    luigi_run(["--module", "lakejobs", "GoldAll", "--local-scheduler", "--lake-staging", staging])
finally:
    print(program, "goes on", end="; ")
"""
    goes_on = "" if program == "luigi" else f"{program} goes on; "
    for staging, code in (("local_output", 0), ("missing", 35)):
        command = [sys.executable, "-c", script, program, staging]
        done = subprocess.run(command, cwd=lake.root, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, f"not flushed; {goes_on}registered\n"), done.stderr


@pytest.mark.parametrize("module", ["lakejobs.config", "lakejobs.tasks", "lakejobs.project"])
def test_ctrl_c_while_lakejobs_is_imported_ends_with_a_sentence(tmp_path, module):
    script = f"""
import signal, sys
from luigi.cmdline import luigi_run

class Interrupt:
    def find_spec(self, name, *others):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
luigi_run(["--module", "lakejobs", "GoldAll", "--local-scheduler"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (luigi_output.INTERRUPTED_CODE, f"{luigi_output.INTERRUPTED}\n")


def test_ctrl_c_while_the_engine_is_imported_ends_with_a_sentence(lake):
    """DuckDB's extension turns an interrupt into an ImportError, and aborts the process when it is imported again."""
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    script = """
import signal, sys
from luigi.cmdline import luigi_run

def interrupt(frame, event, argument):
    if frame.f_code.co_filename.endswith("enum.py"):
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

class WhileDuckDB:
    def find_spec(self, name, *others):
        if name == "_duckdb":
            sys.setprofile(interrupt)

sys.meta_path.insert(0, WhileDuckDB())
luigi_run(["--module", "lakejobs", "GoldAll", "--local-scheduler"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=lake.root)
    assert done.returncode == luigi_output.INTERRUPTED_CODE, done.stderr
    assert done.stderr.splitlines()[-1] == luigi_output.INTERRUPTED
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n[lake]\n", "\n[lakes]\n", "unknown section [lakes]; did you mean [lake]?"),
        ("staging = local_output", "staging = datalake/", "[lake] root and staging are both datalake"),
        ("keep_snapshots = 10", "keep_snapshots = -1", "[lake] keep_snapshots=-1: expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(lake, luigi, old, new, message):
    settings = (PROJECT / "luigi.cfg").read_text()
    assert old in settings
    (lake.root / "luigi.cfg").write_text(settings.replace(old, new, 1))
    done = luigi("GoldAll")
    assert done.returncode == 35, done.stderr
    assert done.stderr.count(message) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_does_not_wait_for_threads():
    script = """
import sys, threading
sys.argv = ["luigi"]
import luigi.cmdline, lakejobs
threading.Thread(target=threading.Event().wait).start()
raise KeyboardInterrupt
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (luigi_output.INTERRUPTED_CODE, f"{luigi_output.INTERRUPTED}\n")
