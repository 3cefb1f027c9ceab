"""Benchmark whole processes, as a user starts them, in turn with the references; report medians of the rounds."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import glob
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from lakejobs.layers import staging
from lakejobs.project import domains

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
DAY = dt.datetime(2026, 3, 1, 12)  # noqa: DTZ001 - batches are UTC
YEAR = 365
FIVE_MINUTES = 288
"""Files a day of each domain, on the schedule of the clone."""
DOMAINS = domains()
REFERENCES = {"DuckDB": "bare_duckdb.py", "pandas": "plain_pandas.py"}


class Bench:
    """Runs cases in its own directory and collects the rows of the result table."""

    def __init__(self, directory: Path, rounds: int, online_retail: str | None) -> None:
        self.directory, self.rounds, self.online_retail = directory, rounds, online_retail
        self.table: list[list[str]] = []

    def lake(self, name: str) -> Path:
        """Create a directory for a lake, with the suites."""
        root = self.directory / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(PROJECT / "expectations", root / "expectations")
        return root

    def add(self, case: str, rows: int | str, measured: dict[str, list[tuple[float, float]]], note: str = "") -> None:
        """Add a row to the table: each contestant's median seconds and MB, and the ratios of lakejobs to the others."""
        median = {
            name: (statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs))
            for name, runs in measured.items()
        }
        ours = median.pop("lakejobs")
        cells = [case, f"{rows:,}" if isinstance(rows, int) else rows, f"{ours[0]:.2f} s", f"{ours[1]:,.0f} MB"]
        for name in REFERENCES:
            if name in median:
                wall, peak = median[name]
                cells += [f"{wall:.2f} s", f"{peak:,.0f} MB", f"{ours[0] / wall:.2f} × / {ours[1] / peak:.2f} ×"]
            else:
                cells += ["", "", ""]
        self.table.append([*cells, note])
        print("| " + " | ".join(self.table[-1]) + " |", flush=True)

    def compare(self, root: Path, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
        """Measure a full run from staging, in turn with the named references."""
        measured: dict[str, list[tuple[float, float]]] = {"lakejobs": [], **{name: [] for name in names}}
        for _ in range(self.rounds):
            shutil.rmtree(root / "datalake", ignore_errors=True)
            measured["lakejobs"].append(gold_all(root))
            for name in names:
                shutil.rmtree(root / "reference", ignore_errors=True)
                script = str(HERE / REFERENCES[name])
                measured[name].append(run([sys.executable, script, "reference", "local_output"], root))
        return measured


INTERVAL = 0.1  # seconds between two samples of memory


class Run(NamedTuple):
    """What a finished process took (seconds, MB), its exit code, and the end of what it said."""

    wall: float
    peak: float
    code: int
    said: str


def measure(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> Run:
    """Run a process to its end; its memory is the peak of the sum over its session, sampled."""
    peak, ended = 0, threading.Event()

    def sample(session: int) -> None:
        nonlocal peak
        while not ended.wait(INTERVAL):
            peak = max(peak, session_memory(session))

    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        sampler = threading.Thread(target=sample, args=[process.pid])
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            ended.set()
            sampler.join()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
        output.seek(max(output.seek(0, os.SEEK_END) - 5000, 0))
        said = output.read().decode(errors="replace")
    # Without /proc, or for a process that ends before the first sample: the process alone.
    alone = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return Run(wall, peak / 1024 or alone, process.returncode, said)


def session_memory(session: int) -> int:
    """Sum the proportional set sizes (kB) of a session's processes, so that memory they share counts once."""
    total = 0
    for pid in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else []):
        with contextlib.suppress(OSError):  # it has ended
            if os.getsid(int(pid)) == session:
                found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                total += int(found[1]) if found else 0
    return total


def run(command: list[str], cwd: Path) -> tuple[float, float]:
    """Return a process's wall time (s) and peak memory (MB); exit with its output if it fails."""
    done = measure(command, cwd)
    if done.code != 0:
        sys.exit(f"{' '.join(command)} in {cwd} ended with {done.code}:\n{done.said[-3000:]}")
    return done.wall, done.peak


def gold_all(root: Path, *arguments: str) -> tuple[float, float]:
    return run(["luigi", "--module", "lakejobs", "GoldAll", "--local-scheduler", *arguments], root)


def write(root: Path, domain: str, batch: dt.datetime, rows: int) -> Path:
    """Write a staged file, as the generator does."""
    directory = root / "local_output" / domain
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{DOMAINS[domain].prefix}_{batch:%Y%m%d_%H%M%S}.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        staging.write_batch(DOMAINS[domain], batch, rows, handle)
    return path


def spread(path: Path, target: Path, days: int = YEAR) -> None:
    """Write a file whose rows are spread evenly over the days before the file's."""
    duckdb.sql(
        "copy (select * replace (strftime(cast(timestamp as timestamp) - interval 1 day * "
        f"(row_number() over () % {days}), '%Y-%m-%dT%H:%M:%S.%g') as timestamp) "
        f"from read_csv('{path}', all_varchar = true)) to '{target}' (header)"
    )


def deliver(root: Path, batch: dt.datetime) -> None:
    """Stage one batch of every domain, as the schedule does."""
    for name, domain in DOMAINS.items():
        write(root, name, batch, domain.rows)


def files(root: Path, pattern: str) -> dict[str, int]:
    return {path: os.stat(path).st_mtime_ns for path in glob.glob(f"{root}/datalake/{pattern}", recursive=True)}


def changed(before: dict[str, int], after: dict[str, int]) -> int:
    return sum(before.get(path) != modified for path, modified in after.items())


# ------------------------------------------------------------------------------------------------ cases


def generate(bench: Bench) -> None:
    root = bench.lake("generate")
    task = ["luigi", "--module", "lakejobs", "Staging", "--local-scheduler", "--domain", "sales", "--rows", "1000000"]
    batches = [f"2026030{day}_120000" for day in range(1, bench.rounds + 1)]
    runs = [run([*task, "--Staging-batch", batch], root) for batch in batches]
    bench.add("generate sales", 1_000_000, {"lakejobs": runs})


def bulk(bench: Bench, millions: int) -> None:
    root = bench.lake("bulk")
    write(root, "sales", DAY, millions * 1_000_000)
    names = ["DuckDB", "pandas"] if millions == 1 else ["DuckDB"]
    bench.add("bulk, sales of one day", millions * 1_000_000, bench.compare(root, names))


def bulk_1m(bench: Bench) -> None:
    bulk(bench, 1)


def bulk_5m(bench: Bench) -> None:
    bulk(bench, 5)


def backfill(bench: Bench) -> None:
    root = bench.lake("backfill")
    (root / "local_output/sales").mkdir(parents=True)
    if not bench.online_retail:
        print("backfill needs the Online Retail data with the columns of the sales domain: --online-retail FILE.csv")
        return
    target = root / "local_output/sales/online_retail.csv"
    shutil.copy(bench.online_retail, target)
    with open(target, "rb") as handle:
        rows = sum(1 for _ in handle) - 1
    bench.add("backfill: Online Retail, 305 days", rows, bench.compare(root, ["DuckDB"]))


def days_365(bench: Bench) -> None:
    """A third of a million rows of each domain, spread evenly over a year."""
    root = bench.lake("days")
    for domain in DOMAINS:
        path = write(root, domain, DAY, 333_334)
        spread(path, path.with_name("year.csv"))
        path.unlink()
    bench.add("three domains over 365 days", 3 * 333_334, bench.compare(root, ["DuckDB"]))


def small(bench: Bench) -> None:
    """One batch into an empty lake and a lake of a year, in turn for comparison; a late row; nothing to do."""
    year = aged_lake(bench, YEAR, 24)
    empty_runs, year_runs = [], []
    for number in range(bench.rounds):
        empty = bench.lake("empty")
        deliver(empty, DAY)
        empty_runs.append(gold_all(empty))
        deliver(year, DAY + dt.timedelta(minutes=5 * (number + 1)))
        year_runs.append(gold_all(year))
    bench.add("one batch into an empty lake", 33, {"lakejobs": empty_runs})
    ratio = statistics.median(r[0] for r in year_runs) / statistics.median(r[0] for r in empty_runs)
    count = len(glob.glob(f"{year}/datalake/bronze/**/*.csv", recursive=True))
    bench.add("one batch into a lake of a year", 33, {"lakejobs": year_runs}, f"{ratio:.2f} × empty; {count:,} files")
    runs, notes = [], set()
    for number in range(bench.rounds):
        late = DAY - dt.timedelta(days=100 + number)
        path = write(year, "sales", DAY + dt.timedelta(minutes=60 + number), 1)
        path.write_text(path.read_text().replace(f"{DAY:%Y-%m-%d}", f"{late:%Y-%m-%d}"))
        before = files(year, "silver/**/*.parquet")
        runs.append(gold_all(year))
        written = changed(before, files(year, "silver/**/*.parquet"))
        notes.add(f"{written} silver partition written")
    bench.add("one late row into that lake", 1, {"lakejobs": runs}, "; ".join(notes))
    bench.add("nothing to do on that lake", 0, {"lakejobs": [gold_all(year) for _ in range(bench.rounds)]})


def aged_lake(bench: Bench, days: int, files_a_day: int) -> Path:
    """Build a lake of `days` days, with `files_a_day` files a day of each domain, by a real run."""
    root = bench.lake("aged")
    for number in range(days * files_a_day):
        deliver(root, DAY - dt.timedelta(minutes=10 + number * 24 * 60 / files_a_day))
    gold_all(root)
    return root


def nothing_to_do(bench: Bench, root: Path) -> tuple[list[tuple[float, float]], float]:
    """Runs of a lake in which nothing is stale, and how many seconds longer they take than those of an empty lake."""
    empty = bench.lake("empty")
    (empty / "local_output").mkdir()
    gold_all(root)
    gold_all(empty)
    runs, least = [], []
    for _ in range(bench.rounds):
        runs.append(gold_all(root))
        least.append(gold_all(empty)[0])
    return runs, statistics.median(run[0] for run in runs) - statistics.median(least)


def ten_years(bench: Bench) -> None:
    root = aged_lake(bench, 10 * YEAR, 1)
    runs, growth = nothing_to_do(bench, root)
    count = len(glob.glob(f"{root}/datalake/silver/**/*.parquet", recursive=True))
    note = f"{count:,} partitions, a file each: {1e6 * growth / count:.0f} µs a partition"
    bench.add("nothing to do on ten years", 0, {"lakejobs": runs}, note)


def year_288(bench: Bench) -> None:
    """Files in staging and bronze as the schedule leaves them, but of two weeks: a year takes an hour to build."""
    days = 14
    root = aged_lake(bench, days, FIVE_MINUTES)
    runs, growth = nothing_to_do(bench, root)
    count = len(DOMAINS) * FIVE_MINUTES * days
    year = len(DOMAINS) * FIVE_MINUTES * YEAR
    rest = statistics.median(run[0] for run in runs) - growth
    note = (
        f"{count:,} files, all still in staging: {1e6 * growth / count:.1f} µs a file, which makes "
        f"{rest + growth / count * year:.1f} s for the {year:,} of a year"
    )
    bench.add("nothing to do at 288 files a day", 0, {"lakejobs": runs}, note)


def busy_day(bench: Bench) -> None:
    """Sales of one day in 48 files: a run after each, and one run over all."""
    count, rows = 48, 4_000_000 // 48
    root, at_once = bench.lake("busy"), bench.lake("at_once")
    runs = []
    for number in range(count):
        path = write(root, "sales", DAY + dt.timedelta(minutes=number), rows)
        (at_once / "local_output/sales").mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, at_once / "local_output/sales")
        runs.append(gold_all(root))
    for number in (1, count // 2, count):
        bench.add(f"busy day, run {number} of {count}", rows, {"lakejobs": [runs[number - 1]]})
    there = [number * rows / 1e6 for number in range(count)]
    slope, start = statistics.linear_regression(there, [run[0] for run in runs])
    every = (sum(run[0] for run in runs), max(run[1] for run in runs))
    note = f"a run takes {start:.2f} s and {slope:.2f} s per million rows that were there"
    bench.add(f"busy day, all {count} runs", count * rows, {"lakejobs": [every]}, note)
    bench.add("busy day, one run over all files", count * rows, {"lakejobs": [gold_all(at_once)]})


def odd_files(bench: Bench) -> None:
    """Small files, most of which only the fallback reader can read."""
    count, rows = 1171, 10
    root = bench.lake("odd")
    for number in range(count):
        path = write(root, "sales", DAY - dt.timedelta(minutes=5 * number), rows)
        path.write_bytes(odd(path.read_text(encoding="utf-8").splitlines(), number))
    runs = []
    for _ in range(bench.rounds):
        shutil.rmtree(root / "datalake", ignore_errors=True)
        runs.append(gold_all(root))
    bench.add(f"{count:,} odd files", count * rows, {"lakejobs": runs}, "quoted line ends, Windows-1252, ragged lines")


def odd(lines: list[str], number: int) -> bytes:
    """A file with these lines, odd in one of several ways."""

    def named(line: str, name: str) -> str:
        cells = line.split(",")
        return ",".join([*cells[:4], name, *cells[5:]])

    match number % 5:
        case 0:
            lines[3] = named(lines[3], '"two\nlines, and a ""quote"""')
        case 1:
            lines[3] = named(lines[3], "Café crème")
        case 2:
            lines[3] += ",surplus"
            lines[5] = lines[5].rpartition(",")[0]
        case 3:
            lines[1::3] = [f"{line}\r" for line in lines[1::3]]
        case 4:
            lines[3] = named(lines[3], '"never closed')
    return "\n".join(lines).encode("windows-1252")


def memory(bench: Bench) -> None:
    """A CSV file four times the engine's memory limit: 1 GB under 250 MB."""
    root = bench.lake("memory")
    write(root, "sales", DAY, 7_000_000)
    wall, peak = gold_all(root, "--lake-memory-limit", "250MB")
    size = sum(path.stat().st_size for path in (root / "local_output/sales").iterdir())
    bench.add(
        "input 4 × the memory limit", 7_000_000, {"lakejobs": [(wall, peak)]}, f"{size / 1e9:.2f} GB under 250 MB"
    )


def docs(bench: Bench) -> None:
    """One batch with 10 stored validation results, and with 1,000."""
    root = bench.lake("docs")
    deliver(root, DAY)
    keep = ("--lake-keep-validations", "2000")
    gold_all(root, *keep)
    measured = {}
    for stored in (10, 1000):
        for domain in DOMAINS:
            directory = root / f"datalake/quality/validations/{domain}"
            pages = root / f"datalake/quality/data_docs/validations/{domain}"
            first = min(directory.glob("[!_]*.json"))
            while (count := len(list(directory.glob("[!_]*.json")))) < stored:
                name = f"20260101_000000_{count:06d}"
                shutil.copy(first, directory / f"{name}.json")
                shutil.copy(pages / f"{first.stem}.html", pages / f"{name}.html")
        measured[stored] = []
        for number in range(bench.rounds):
            deliver(root, DAY + dt.timedelta(minutes=5 * (number + 1), days=stored))
            measured[stored].append(gold_all(root, *keep))
    ratio = statistics.median(r[0] for r in measured[1000]) / statistics.median(r[0] for r in measured[10])
    bench.add("one batch at 1,000 stored results", 33, {"lakejobs": measured[1000]}, f"{ratio:.2f} × at 10")


CASES: dict[str, Callable[[Bench], None]] = {
    "generate": generate,
    "bulk-1m": bulk_1m,
    "bulk-5m": bulk_5m,
    "backfill": backfill,
    "365-days": days_365,
    "small": small,
    "ten-years": ten_years,
    "year-288": year_288,
    "busy-day": busy_day,
    "odd-files": odd_files,
    "memory": memory,
    "docs": docs,
}


def machine() -> str:
    model = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = f"Python {sys.version.split()[0]}, DuckDB {duckdb.__version__}"
    return f"{os.cpu_count()} cores, {model}, {memory:.0f} GB; {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="the cases to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the cases and exit")
    parser.add_argument("--rounds", type=int, default=3, help="runs per measurement (default: 3)")
    parser.add_argument("--online-retail", help="Online Retail with the columns of the sales domain, for `backfill`")
    parser.add_argument("--directory", help="a directory on the disk to measure (default: the system's temporary one)")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(CASES))
        return
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="bench-") as directory:
        bench = Bench(Path(directory), arguments.rounds, arguments.online_retail)
        print(f"{dt.datetime.now(dt.UTC).date()}, {machine()}, medians of {bench.rounds}\n")
        print("| case | rows | lakejobs | | bare DuckDB | | ratio | plain pandas | | ratio | |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for name in arguments.cases or CASES:
            CASES[name](bench)
            for leftover in Path(directory).iterdir():
                shutil.rmtree(leftover)


if __name__ == "__main__":
    main()
