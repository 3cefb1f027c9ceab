"""Measure the same runs with DuckDB, with Spark in one process, and on a Spark cluster; all on this machine.

`few` rows show what a connection to Spark costs. With `many` rows, the difference gives rows per second. The memory is
that of the largest single process of Python: what Spark's own setting does not bound.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench import DAY, INTERVAL, PROJECT, machine, run, spread, write

FEW = 1_000


def largest_python() -> int:
    """The largest resident set (kB) of the processes of this user that do the work in Python."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"pyspark.daemon" in command or any(part.endswith(b"/luigi") for part in command[:2]):
                pages = int((process / "statm").read_text().split()[1])
                found = max(found, pages * os.sysconf("SC_PAGE_SIZE") // 1024)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
    return found


def measured(root: Path, engine: list[str], settings: str) -> tuple[float, float]:
    """A first run: seconds, and MB of the largest process of Python."""
    shutil.rmtree(root / "datalake", ignore_errors=True)
    (root / "luigi.cfg").write_text(settings)
    largest, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal largest
        while not ended.wait(INTERVAL):
            largest = max(largest, largest_python())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        seconds, _ = run([*engine, "luigi", "--module", "lakejobs", "GoldAll", "--local-scheduler"], root)
    finally:
        ended.set()
        sampler.join()
    return seconds, largest / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs per measurement (default: 3)")
    parser.add_argument("--rows", type=int, default=3_000_000, help="many rows (default: 3,000,000)")
    parser.add_argument("--directory", help="a directory on the disk to measure (default: the system's temporary one)")
    arguments = parser.parse_args()
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="bench-") as directory:
        environment = {**os.environ, "CLUSTER_HOME": f"{directory}/cluster"}
        port = environment.get("CLUSTER_PORT", "7077")
        cluster = [str(PROJECT / "scripts/cluster")]
        subprocess.run([*cluster, "start"], env=environment, check=True, stdin=subprocess.DEVNULL)
        try:
            on = "[lake]\nengine = spark\nspark_master = {}\n[spark]\nspark.cores.max = {}\n"
            contestants = {
                "DuckDB, 1 core": (["taskset", "--cpu-list", "0"], ""),
                "DuckDB, 2 cores": ([], ""),
                "Spark, local[1]": ([], on.format("local[1]", 1)),
                "Spark, local[2]": ([], on.format("local[2]", 2)),
                "a cluster, 1 worker": ([], on.format(f"spark://127.0.0.1:{port}", 1)),
                "a cluster, 2 workers": ([], on.format(f"spark://127.0.0.1:{port}", 2)),
            }
            roots = {}
            for name, rows, days in (("few", FEW, 30), ("many", arguments.rows, 30), ("one day", arguments.rows, 1)):
                roots[name] = root = Path(directory, name.replace(" ", "_"))
                shutil.copytree(PROJECT / "expectations", root / "expectations")
                given = write(root, "sales", DAY, rows)
                if days > 1:
                    spread(given, given.with_suffix(".spread"), days)
                    given.with_suffix(".spread").replace(given)
            found: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for _ in range(arguments.rounds):
                for contestant, how in contestants.items():
                    for name, root in roots.items():
                        found.setdefault((contestant, name), []).append(measured(root, *how))
        finally:
            subprocess.run([*cluster, "stop"], env=environment, check=True, stdin=subprocess.DEVNULL)
    print(f"{dt.datetime.now(dt.UTC).date()}, {machine()}, medians of {arguments.rounds}\n")
    print(
        f"| | {FEW:,} rows | {arguments.rows:,} rows of 30 days | rows per second | largest Python process "
        "| of one day | largest Python process |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for contestant in contestants:
        (few, _), (many, memory), (day, of_day) = (
            map(statistics.median, zip(*found[contestant, name], strict=True)) for name in roots
        )
        rate = (arguments.rows - FEW) / (many - few)
        print(
            f"| {contestant} | {few:.1f} s | {many:.1f} s | {rate:,.0f} | {memory:,.0f} MB | {day:.1f} s "
            f"| {of_day:,.0f} MB |"
        )


if __name__ == "__main__":
    sys.exit(main())
