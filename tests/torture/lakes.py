"""Lakes to torture: fill them, run them in forked processes, and read them.

Everything is imported here, once, so that a run is a fork of this process (milliseconds instead of seconds). This
process itself never queries, validates or reads Parquet, because forking a process with running threads could hang.
"""

from __future__ import annotations

import atexit
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent
# Keep OpenBLAS, which is imported but not used, from starting threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Luigi reads this when it is imported.
os.environ["LUIGI_CONFIG_PATH"] = str(PROJECT / "luigi.cfg")

import duckdb  # noqa: F401 - so that forks need not import it
import luigi.cmdline
import pandas  # noqa: F401 - so that forks need not import it
import pyarrow.parquet as pq

import lakejobs  # noqa: F401
from lakejobs import project
from lakejobs.domains import _catalogue as catalogue
from lakejobs.layers import staging
from lakejobs.pages import data_docs
from lakejobs.quality import importing
from lakejobs.storage import documents, footer
from lakejobs.storage.local import LocalStore

importing.import_great_expectations()
data_docs._view()
data_docs.style()
catalogue.products()

DOMAINS = project.domains()
HEADERS = {name: ",".join(domain.columns) for name, domain in DOMAINS.items()}
NOTHING_TO_DO = "Did not run any tasks"
NOT_COMPARED = ("processed_at", "generated_at")
TIMEOUT = 120
"""Seconds after which a run of a small lake counts as hanging."""


@dataclass
class Row:
    """One line of the result table: what was injected, how often, and the violations."""

    injected: str
    seed: int
    count: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, violations: Iterable[str], count: int = 1) -> None:
        self.count += count
        self.violations += violations


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


# ------------------------------------------------------------------------------------------------ processes


def fork(function: Callable[[], object], output: str | Path = os.devnull) -> int:
    """Run a function in a forked child with its output in a file; return the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        redirect(output)
        code = int(function() or 0)  # type: ignore[call-overload]
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - printed, and reported by the exit code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def redirect(output: str | Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def wait(pid: int, timeout: float = TIMEOUT) -> int:
    """Return a child's exit code, or minus the signal that ended it. Kills a child that hangs; raises TimeoutError."""
    import select

    descriptor = os.pidfd_open(pid)
    ready, _, _ = select.select([descriptor], [], [], timeout)
    os.close(descriptor)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not ready:
        raise TimeoutError(f"a process hung for {timeout} s")
    return code


def ask(function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> Any:
    """Call a function in a forked child and return its result, which must fit JSON."""
    with tempfile.NamedTemporaryFile() as answer, tempfile.NamedTemporaryFile() as output:

        def child() -> None:
            result = function(*arguments)
            Path(answer.name).write_text(json.dumps(result))

        code = wait(fork(child, output.name), timeout)
        if code:
            raise RuntimeError(f"{function.__name__} ended with {code}: {Path(output.name).read_text()[-2000:]}")
        return json.loads(Path(answer.name).read_text())


def spread(function: Callable[[Any], Iterable[str]], items: Sequence[Any], jobs: int = 2) -> list[str]:
    """Call a function with every item, in `jobs` parallel processes; return all violations."""

    def share(first: int) -> list[str]:
        found: list[str] = []
        for item in items[first::jobs]:
            try:
                found += [f"{item}: {violation}" for violation in function(item)]
            except Exception as error:  # noqa: BLE001 - any exception is a violation too
                found.append(f"{item}: {type(error).__name__}: {error}")
        return found

    answers = [tempfile.NamedTemporaryFile() for _ in range(jobs)]  # noqa: SIM115 - closed below

    def child(number: int) -> None:
        Path(answers[number].name).write_text(json.dumps(share(number)))

    with tempfile.NamedTemporaryFile() as output:
        pids = [fork(lambda number=number: child(number), output.name) for number in range(jobs)]
        codes = [wait(pid, 36_000) for pid in pids]
        found = []
        for answer, code in zip(answers, codes, strict=True):
            text = Path(answer.name).read_text()
            found += json.loads(text) if text else [f"ended with {code}: {Path(output.name).read_text()[-1000:]}"]
            answer.close()
        return found


# ------------------------------------------------------------------------------------------------ lakes


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the lake's JSON files."""
    content = documents.read_json(LocalStore(str(path.parent)), path.name)
    assert content is not None, path
    return content


def read_footer(path: Path) -> dict[str, Any]:
    """Read the lake's entry in a Parquet file's footer."""
    content = footer.read_footer(LocalStore(str(path.parent)), path.name)
    assert content is not None, path
    return content


class Place:
    """A directory with a lake, its staging and its suites."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.log = self.root / "log.txt"

    def create(self) -> Place:
        (self.root / "local_output").mkdir(parents=True)
        shutil.copytree(PROJECT / "expectations", self.root / "expectations")
        return self

    def copy(self, to: str | Path) -> Place:
        shutil.copytree(self.root, to, symlinks=True)
        return Place(to)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def deliver(self, domain: str, name: str, content: bytes | Sequence[str]) -> None:
        """Stage a file: its bytes, or its lines without the domain's header."""
        if not isinstance(content, bytes):
            content = "".join(f"{line}\n" for line in (HEADERS[domain], *content)).encode()
        path = self.root / "local_output" / domain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name[:200]}.part")
        part.write_bytes(content)
        part.rename(path)

    def generate(self, moment: dt.datetime, rows: int | None = None, domains: Iterable[str] = DOMAINS) -> None:
        """Stage a generated batch of every domain."""
        for name in domains:
            domain = DOMAINS[name]
            directory = self.root / "local_output" / name
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{domain.prefix}_{moment:%Y%m%d_%H%M%S}.csv"
            with open(f"{path}.part", "w", newline="", encoding="utf-8") as handle:
                staging.write_batch(domain, moment, rows or domain.rows, handle)
            os.rename(f"{path}.part", path)

    def command(self, *arguments: str) -> Callable[[], None]:
        """`luigi --module lakejobs GoldAll --local-scheduler` for a forked child; it exits with Luigi's exit code."""

        def run() -> None:
            os.chdir(self.root)
            redirect(self.log)
            sys.argv = ["luigi"]
            try:
                luigi.cmdline.luigi_run(["--module", "lakejobs", *(arguments or ("GoldAll",)), "--local-scheduler"])
            finally:
                atexit._run_exitfuncs()  # a fork exits without calling them, a command does not

        return run

    def start(self, *arguments: str) -> int:
        return fork(self.command(*arguments))

    def run(self, *arguments: str, timeout: float = TIMEOUT) -> int:
        """Run, wait, and return the exit code."""
        return wait(self.start(*arguments), timeout)

    def said(self) -> str:
        """The output of all runs so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def look(self) -> dict[str, Any]:
        """What a reader finds: the result of `see`."""
        return ask(see, str(self.root))

    def silver_files(self) -> list[Path]:
        return sorted(self.root.glob("datalake/silver/**/*.parquet"))

    def gold_files(self) -> list[Path]:
        return sorted(self.root.glob("datalake/gold/**/*.parquet"))

    def leftovers(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.glob("datalake/**/_tmp-*")]


def see(root: str) -> dict[str, Any]:
    """Read the lake as a plain reader does. Call it only in a forked child.

    Returns `content`, the digests of every silver partition and of every gold table's newest snapshot, by name; and
    `troubles`, everything that would fail a reader.
    """
    content, troubles = {}, []
    for domain in DOMAINS:
        for path in sorted(Path(root).glob(f"datalake/silver/{domain}/**/*.parquet")):
            name = str(path.relative_to(root))
            try:
                columns = pq.ParquetFile(path).read().to_pydict()
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - any error of a reader is a violation
                troubles.append(f"{name} cannot be read: {error}")
                continue
            content[name] = digest(columns)
            keys = [key for key in columns[DOMAINS[domain].key] if key is not None]
            if len(keys) != len(set(keys)):
                troubles.append(f"{name} holds a key twice")
    for directory in sorted(Path(root).glob("datalake/gold/*")):
        snapshots = sorted(directory.glob("*.parquet"))
        for path in snapshots:
            try:
                columns = pq.ParquetFile(path).read().to_pydict()
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001
                troubles.append(f"{path.relative_to(root)} cannot be read: {error}")
                continue
            if path == snapshots[-1]:
                content[f"datalake/gold/{directory.name}"] = digest(columns)
    return {"content": content, "troubles": troubles}


def digest(columns: dict[str, list[Any]]) -> str:
    """Hash the rows regardless of their order, to compare tables."""
    names = [name for name in columns if name not in NOT_COMPARED]
    rows = sorted(map(repr, zip(*(columns[name] for name in names), strict=True)))
    return hashlib.sha256("\n".join([repr(names), *rows]).encode()).hexdigest()[:20]


def see_run_see(root: str) -> dict[str, Any]:
    """Read, run, read again, and check that another run has nothing to do. Call it only in a forked child."""
    before, place = see(root), Place(root)
    code = run_here(place)
    after, said = see(root), len(place.said())
    settled = code != 0 or (run_here(place) == 0 and NOTHING_TO_DO in place.said()[said:])
    return {"before": before, "code": code, "after": after, "settled": settled}


def run_here(place: Place) -> int:
    """Run in this process; return the exit code."""
    try:
        place.command()()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name everything that is missing, surplus or different."""
    return [
        f"{name} is {'missing' if name not in found else 'surplus' if name not in expected else 'other'}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]


def after(found: dict[str, Any], expected: dict[str, str], said: str) -> list[str]:
    """Return the violations after `see_run_see`, whose run must leave the lake whole and as expected."""
    violations = found["after"]["troubles"] + differences(found["after"]["content"], expected)
    if found["code"]:
        violations.append(f"the rerun ended with {found['code']}: {shown(said)}")
    if not found["settled"]:
        violations.append("another run had something to do still")
    if "Traceback" in said:
        violations.append(f"a traceback was shown: {shown(said)}")
    return violations


def shown(said: str) -> str:
    """The end of a run's log, before Luigi's summary."""
    return said.rpartition("===== Luigi Execution Summary =====\n\nScheduled")[0][-1500:]


def is_old_or_new(found: dict[str, str], old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Name everything that a reader found neither as it was before the run nor as it is after it."""
    return [
        f"a reader met {name} neither as before nor as after"
        for name in sorted({*found, *old, *new})
        if found.get(name) not in (old.get(name), new.get(name))
    ]


def add_rule(place: Place, domain: str, rule: dict[str, Any]) -> None:
    path = place.root / f"expectations/{domain}.json"
    suite = json.loads(path.read_text())
    suite["expectations"].append(rule)
    path.write_text(json.dumps(suite, indent=2))


class Workshop:
    """A temporary directory for a family's lakes."""

    def __enter__(self) -> Workshop:
        self.directory = tempfile.mkdtemp(prefix="lakejobs-torture-")
        self._number = 0
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def new(self) -> Place:
        """A path for a lake, unique across processes."""
        self._number += 1
        return Place(f"{self.directory}/{os.getpid()}-{self._number}")


def sale(
    number: int, moment: dt.datetime, quantity: object = 2, price: object = "5.00", total: object = "10.00"
) -> str:
    key = f"S{number:06d},{moment.isoformat()},C{number % 7},P{number % 5}"
    return f"{key},Lamp,Home,{quantity},{price},{total},card,completed"


def movement(number: int, moment: dt.datetime, quantity: object = 3) -> str:
    kind = ("inbound", "outbound", "TRANSFER")[number % 3]
    return f"M{number:06d},{moment.isoformat()},P{number % 5},Lamp,WH{number % 2},{kind},{quantity},1.25,SUP1"


def event(number: int, moment: dt.datetime) -> str:
    kind = ("login", "browse", "UNKNOWN", "checkout")[number % 4]
    return f"E{number:06d},{moment.isoformat()},C{number % 7},SES{number % 3},{kind},P1,/p/{number},mobile"


def seeded(seed: int, *about: object) -> random.Random:
    """Random numbers that depend only on the seed and their purpose."""
    return random.Random(f"{seed} {about}")
