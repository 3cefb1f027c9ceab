"""The life of a lake: what people and systems do to it, step by step, compared with a model after every run.

hypothesis draws the steps. If a check fails, steps and lines are dropped for as long as it still fails, and the
shortest script is printed; `python -m torture.life --replay FILE` replays it.

usage: PYTHONPATH=tests python -m torture.life [--seed N] [--lives N] [--without KIND] [--replay FILE]
"""

from __future__ import annotations

import argparse
import datetime as dt
import faulthandler
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from lakejobs import tables, tasks
from torture import model
from torture.lakes import NOTHING_TO_DO, PROJECT, TIMEOUT, Place, Row, Workshop, ask, fork, redirect, say, spread, wait

BASE = dt.datetime(2025, 3, 2, 8)
"""The modification date of a file of age 0."""
NEVER = dt.datetime(9999, 1, 1)
"""The modification date of a file from a machine whose clock is wrong."""
SECOND, MINUTE, DAY = 1, 60, 86_400
TABLES = list(model.gold({domain: {} for domain in model.COLUMNS}))
UP_TO_DATE = "Up to date"


class Violation(Exception):  # noqa: N818 - the word used throughout
    """A broken promise of the lake; `kind` says which."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


# ------------------------------------------------------------------------------------------------ a life


class Life:
    """A lake, what happened to it so far, and the state it must therefore be in."""

    def __init__(self, place: Place, scheduler: str = "local", without: Iterable[str] = ()) -> None:
        self.place, self.scheduler, self.without = place, scheduler, set(without)
        self.staged: dict[tuple[str, str], tuple[bytes, dt.datetime]] = {}
        self.bronze: list[model.Delivery] = []
        self.deleted: list[model.Delivery] = []
        self.earliest = dt.date(1970, 1, 1)
        self.merge = True
        self.causes: set[str] = {"new"}
        """What happened since the lake was last up to date."""
        self.killed = False
        self.killed_a_client = False
        """luigid may still be waiting for a killed run."""
        self.runs = 0
        self.place.create()
        self.luigid = Luigid(self.place.root / "luigid", scheduler) if scheduler != "local" else None

    def close(self) -> None:
        if self.luigid:
            self.luigid.stop()
        self.place.remove()

    # -------------------------------------------------------------------------------------------- what the steps use

    def deliver(self, domain: str, name: str, content: bytes, modified: dt.datetime) -> None:
        # Unstage copies of a renamed file, because their order would be undefined.
        for other in [other for known, other in self.staged if known == domain and other != name]:
            if model.of_name(other)[0] == name:
                self.unstage(domain, other)
        self.stage(domain, name, content, modified)

    def stage(self, domain: str, name: str, content: bytes, modified: dt.datetime) -> None:
        path = self.place.root / "local_output" / domain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{name}.part")
        part.write_bytes(content)
        self.date(part, modified)
        part.rename(path)
        self.staged[domain, name] = content, modified

    def date(self, path: Path, modified: dt.datetime) -> None:
        if modified == NEVER:
            nanoseconds = time.time_ns() + 10 * DAY * 10**9
        else:
            nanoseconds = int((modified - dt.datetime(1970, 1, 1)) / model.MICROSECOND) * 1000
        os.utime(path, ns=(nanoseconds, nanoseconds))

    def unstage(self, domain: str, name: str) -> None:
        (self.place.root / "local_output" / domain / name).unlink()
        del self.staged[domain, name]

    def pick(self, number: int) -> tuple[str, str] | None:
        """Pick a staged file by number; None if there is none."""
        names = sorted(self.staged)
        return names[number % len(names)] if names else None

    def pick_bronze(self, number: int) -> model.Delivery | None:
        known = sorted(self.bronze, key=lambda delivery: (delivery.domain, delivery.order))
        return known[number % len(known)] if known else None

    def delete(self, delivery: model.Delivery) -> None:
        """Delete a file from bronze. Also unstage its renamed copies, because their order would be undefined."""
        (self.place.root / "datalake" / delivery.path).unlink()
        self.bronze.remove(delivery)
        self.deleted.append(delivery)
        for domain, name in list(self.staged):
            original, moment = model.of_name(name)
            if domain == delivery.domain and original == delivery.original and moment:
                self.unstage(domain, name)

    def suite(self, domain: str) -> dict[str, Any]:
        return json.loads((self.place.root / f"expectations/{domain}.json").read_text())  # type: ignore[no-any-return]

    def write_suite(self, domain: str, suite: dict[str, Any]) -> None:
        (self.place.root / f"expectations/{domain}.json").write_text(json.dumps(suite, indent=2))

    # -------------------------------------------------------------------------------------------- runs

    def arguments(self, task: str, workers: int) -> list[str]:
        arguments = ["--module", "lakejobs", task, "--lake-earliest-date", str(self.earliest)]
        arguments += ["--lake-merge", str(self.merge)]
        if workers > 1:
            arguments += ["--workers", str(workers)]
        port = ["--scheduler-port", str(self.luigid.port)] if self.luigid else ["--local-scheduler"]
        return arguments + port

    def start(self, task: str = "GoldAll", workers: int = 1, output: int | None = None) -> int:
        arguments = self.arguments(task, workers)

        def run() -> None:
            import atexit

            import luigi.cmdline

            os.setpgid(0, 0)
            os.chdir(self.place.root)
            if output is None:
                redirect(self.place.log)
            else:
                os.dup2(output, 1)
                os.dup2(output, 2)
            sys.argv = ["luigi"]
            # luigid tells processes apart by this id, which a fork inherits.
            tasks.RUN = uuid.uuid4().hex[:12]
            # If the run hangs, its log shows where.
            faulthandler.dump_traceback_later(TIMEOUT // 2)
            try:
                luigi.cmdline.luigi_run(arguments)
            finally:
                atexit._run_exitfuncs()  # a fork exits without calling them, a command does not

        self.runs += 1
        return fork(run)

    def run(self, task: str = "GoldAll", workers: int = 1, command: bool = False) -> int:
        if not command:
            return wait(self.start(task, workers))
        self.runs += 1
        with self.place.log.open("a") as log:
            return subprocess.run(
                [str(Path(sys.executable).with_name("luigi")), *self.arguments(task, workers)],
                cwd=self.place.root, stdout=log, stderr=subprocess.STDOUT, timeout=TIMEOUT,
            ).returncode  # fmt: skip

    def granted(self, run: Callable[[], int]) -> int:
        """Return a run's exit code. After a kill luigid may still hold tasks for the dead run; then run without it."""
        code = run()
        if code == 25 and self.killed_a_client:
            luigid, self.luigid = self.luigid, None
            code = self.run()
            self.luigid = luigid
        return code

    # -------------------------------------------------------------------------------------------- checks

    def wrong(self, kind: str, text: str) -> None:
        if kind not in self.without:
            raise Violation(kind, text)

    def said(self, offset: int) -> str:
        return self.place.said()[offset:][-1500:]

    def expected_landings(self) -> list[model.Delivery]:
        found = []
        for (domain, name), (content, modified) in sorted(self.staged.items()):
            there = [known for known in self.bronze if known.domain == domain]
            if delivery := model.landing(domain, name, content, modified, there):
                found.append(delivery)
        return found

    def check_bronze(self, started: dt.datetime, *, whole: bool) -> str:
        """Return what is wrong with bronze, which must hold the deliveries byte for byte, and nothing else. After a
        killed run (`whole` false), new deliveries may be missing."""
        found = {
            str(path.relative_to(self.place.root / "datalake")): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.place.root.glob("datalake/bronze/**/*.csv")
            if path.name[0] not in "._"
        }
        expected = {known.path: known for known in self.bronze}
        new = self.expected_landings()
        for delivery in new:
            known = delivery
            if delivery.moment == NEVER:
                known = self.capped(delivery, found, started) or delivery
            if whole or known.path in found:
                expected[known.path] = known
        if new:
            self.causes.add("landed")
        hashes = {path: delivery.sha256 for path, delivery in expected.items()}
        missing, surplus = sorted({*hashes} - {*found}), sorted({*found} - {*hashes})
        other = sorted(path for path in {*found} & {*hashes} if found[path] != hashes[path])
        self.bronze = list(expected.values())
        troubles = {"missing": missing, "surplus": surplus, "of other content": other}
        return "; ".join(f"{what} {paths}" for what, paths in troubles.items() if paths)

    def capped(self, delivery: model.Delivery, found: dict[str, str], started: dt.datetime) -> model.Delivery | None:
        """Find a delivery dated in the future in bronze: its name must say a moment during the run."""
        for path in sorted(found):
            original, moment = model.of_name(path.rpartition("/")[2])
            if original == delivery.original and moment and path.split("/")[1] == delivery.domain:
                landed = replace(delivery, moment=moment)
                if landed.path == path and started <= moment <= now() and found[path] == delivery.sha256:
                    return landed
        return None

    def check(self, code: int, bronze: str, before: dict[str, Any], offset: int, causes: set[str]) -> None:
        """After a GoldAll, the lake must equal the model."""
        seen = ask(see, str(self.place.root))
        troubles = [("bronze", bronze)] * bool(bronze) + list(self.stale(seen))
        if code and troubles:
            self.wrong("exit code", f"{code}; {': '.join(troubles[0])}\n{self.said(offset)}")
        elif code:
            self.wrong("exit code although all is well", f"{code}\n{self.said(offset)}")
        for kind, text in troubles:
            self.wrong(kind, f"{text}\n{self.said(offset)}" if kind == "bronze" else text)
        # Spill directories of a killed run are removed by the next run that uses the engine.
        leftovers = [name for name in self.place.leftovers() if not (self.killed and "_tmp-spill_" in name)]
        if leftovers:
            self.wrong("leftovers", str(leftovers))
        after = listing(self.place.root)
        if causes <= HARMLESS | {"warning"}:
            layers = ("gold",) if "warning" in causes else ("silver", "gold")
            changed = [path for path in differing(before, after) if path.startswith(layers) and "/_" not in path]
            if changed:
                self.wrong("rebuilt without a cause", f"{sorted(causes)}: {changed}\n{self.said(offset)}")

    def stale(self, seen: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield everything that readers find and that differs from the model."""
        for trouble in seen["troubles"]:
            yield "unreadable", trouble
        silver = {
            domain: model.silver(
                [known for known in self.bronze if known.domain == domain], self.suite(domain), self.earliest
            )
            for domain in model.COLUMNS
        }
        for domain, partitions in silver.items():
            found = seen["silver"][domain]
            for day in sorted({*found, *map(str, partitions)}):
                name = f"{domain} of {day}"
                expected = partitions.get(dt.date.fromisoformat(day))
                if not expected or day not in found:
                    yield "partitions", f"{name} is {'missing' if expected else 'surplus'}"
                    continue
                yield from self.compare(name, found[day], expected)
        for table, rows in model.gold(silver).items():
            if difference := unlike(seen["gold"].get(table, []), rows):
                yield "gold", f"{table}: {difference}"

    def compare(self, name: str, found: dict[str, Any], expected: model.Partition) -> Iterator[tuple[str, str]]:
        footer, rows = found["footer"], found["rows"]
        place = ("source_file", "source_record")
        without = [{column: value for column, value in row.items() if column not in place} for row in expected.rows]
        order = {delivery.path: number for number, (delivery, _) in enumerate(expected.files)}
        places = [(order.get(row["source_file"], -1), row["source_record"]) for row in rows]
        if difference := unlike(rows, without):
            yield "silver", f"{name}: {difference}"
        elif difference := unlike(rows, expected.rows):
            yield "source file", f"{name}: {difference}"
        elif places != sorted(places):
            yield "order", f"{name}: {places}"
        files = [[known.path, len(known.content), known.sha256, records] for known, records in expected.files]
        if footer["lineage"]["files"] != files:
            yield "lineage", f"{name}: {footer['lineage']['files']} is not {files}"
        counts = {count: footer[count] for count in expected.counts}
        if counts != expected.counts:
            yield "counts", f"{name}: {counts} is not {expected.counts}"

    def check_report(self) -> None:
        report = self.place.root / "datalake/quality/report.html"
        if self.bronze and not (report.exists() and UP_TO_DATE in report.read_text()):
            self.wrong("report", "it does not say that the lake is up to date")

    def check_again(self, workers: int) -> None:
        """A run with nothing to do must change nothing."""
        before, offset = listing(self.place.root), len(self.place.said())
        code = self.run("GoldAll", workers)
        if code:
            self.wrong("exit code although all is well", f"a second run ended with {code}\n{self.said(offset)}")
        if changed := differing(before, listing(self.place.root)):
            kind = "the second run's caches" if all("/_" in path for path in changed) else "the second run"
            self.wrong(kind, f"changed {changed}\n{self.said(offset)}")
        if NOTHING_TO_DO not in self.said(offset):
            self.wrong("the second run", f"had something to do\n{self.said(offset)}")


HARMLESS = {"notes", "touched", "copied back", "caches", "unstaged"}
"""Causes that change no row."""


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def listing(root: Path) -> dict[str, Any]:
    """The files of all layers with inode, modification time and size, to see which were rewritten."""
    found = {}
    for layer in ("bronze", "silver", "gold"):
        for path in (root / "datalake" / layer).glob("**/*"):
            if path.is_file():
                status = path.stat()
                found[str(path.relative_to(root / "datalake"))] = status.st_ino, status.st_mtime_ns, status.st_size
    return found


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def unlike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str:
    """Describe how two sets of rows differ, in the expected columns; empty if they are equal."""
    if not expected:
        return f"surplus {found}" if found else ""
    columns = list(expected[0])
    mine, theirs = ([tuple(plain(row.get(column)) for column in columns) for row in rows] for rows in (found, expected))
    surplus, missing = ([dict(zip(columns, row, strict=True)) for row in rows] for rows in unmatched(mine, theirs))
    return f"found {surplus}\n  instead of {missing}" if surplus or missing else ""


def unmatched(
    found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    surplus, missing = [], list(expected)
    for row in found:
        match = next((other for other in missing if all(map(alike, row, other))), None)
        if match is None:
            surplus.append(row)
        else:
            missing.remove(match)
    return surplus, missing


def alike(found: Any, expected: Any) -> bool:
    # Averages are rounded as doubles, so a tie may go either way.
    return found == expected or (
        isinstance(found, float) and type(expected) is float and abs(found - expected) < 0.0051
    )


def plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dt.date):
        return str(value)
    return value or None if isinstance(value, str | dict) else value


def see(root: str) -> dict[str, Any]:
    """All that a reader finds in silver and gold, and everything unreadable. Call it only in a forked child."""
    import pyarrow.parquet as pq

    silver: dict[str, dict[str, Any]] = {domain: {} for domain in model.COLUMNS}
    gold, troubles = {}, []
    newest = {}
    for path in sorted(Path(root).glob("datalake/**/*.parquet")):
        name, parts = str(path.relative_to(root)), path.relative_to(root).parts
        try:
            file = pq.ParquetFile(path)
            rows, metadata = file.read().to_pylist(), file.metadata.metadata
        except Exception as error:  # noqa: BLE001 - any error of a reader is a violation
            troubles.append(f"{name} cannot be read: {error}")
            continue
        rows = [{column: plain(value) for column, value in row.items()} for row in rows]
        for row in rows:
            if "rescued_data" in row:
                row["rescued_data"] = json.loads(row["rescued_data"] or "null")
        if parts[1] == "silver" and parts[2] in silver and len(parts) == 7 and parts[6] == f"{parts[2]}.parquet":
            day = "-".join(part.partition("=")[2] for part in parts[3:6])
            silver[parts[2]][day] = {"rows": rows, "footer": json.loads(metadata[b"lakejobs"])}
        elif parts[1] == "gold" and parts[2] in TABLES and len(parts) == 4:
            newest[parts[2]] = rows
        elif parts[1] in ("silver", "gold"):
            troubles.append(f"{name} belongs to nothing")
    gold |= newest
    return {"silver": silver, "gold": gold, "troubles": troubles}


class Luigid:
    """A real luigid, with the project's settings or with default ones."""

    def __init__(self, directory: Path, kind: str, address: str = "127.0.0.1") -> None:
        directory.mkdir()
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = int(probe.getsockname()[1])
        self._directory, self._address = directory, address
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_")}
        if kind == "luigid with luigi.cfg":
            self._environment["LUIGI_CONFIG_PATH"] = str(PROJECT / "luigi.cfg")
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("luigid")), "--address", self._address, "--port", str(self.port),
                "--state-path", str(self._directory / "state.pickle"),
            ],
            cwd=self._directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((self._address, self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                break

    def restart(self) -> None:
        """Kill it and start it again, without what it knew."""
        self.stop()
        (self._directory / "state.pickle").unlink(missing_ok=True)
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


# ------------------------------------------------------------------------------------------------ steps


class Step:
    """Something that happens to a lake. Its repr is Python code, without default values."""

    def take(self, life: Life) -> None:
        raise NotImplementedError

    def simpler(self) -> Iterator[Step]:
        """Yield variants with one line or one argument less."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                for number in range(len(value) - 1, 0, -1):
                    yield replace(self, **{field.name: (*value[:number], *value[number + 1 :])})  # type: ignore[type-var]
            elif field.default is not MISSING and value != field.default:
                yield replace(self, **{field.name: field.default})  # type: ignore[type-var]

    def __repr__(self) -> str:
        said = [
            f"{field.name}={shown(getattr(self, field.name))}"
            for field in fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(said)})"


HEADERS = {domain: ",".join(columns) for domain, columns in model.COLUMNS.items()}


def shown(value: object) -> str:
    if isinstance(value, tuple):
        names = {header: f"HEADERS[{domain!r}]" for domain, header in HEADERS.items()}
        return f"[{', '.join(names.get(line) or repr(line) for line in value)}]"
    return repr(value)


@dataclass(frozen=True, repr=False)
class Deliver(Step):
    """Stage a file: a new one, or other or the same content under an old name."""

    domain: str
    name: str
    lines: tuple[str, ...]
    age: int | None = 0
    encoding: str = "utf-8"

    def take(self, life: Life) -> None:
        life.deliver(self.domain, self.name, encoded(self.lines, self.encoding), modified(self.age))


@dataclass(frozen=True, repr=False)
class Copy(Step):
    """Stage a staged file's content under another name."""

    number: int
    name: str
    age: int | None = 0

    def take(self, life: Life) -> None:
        if picked := life.pick(self.number):
            life.deliver(picked[0], life_name(picked[0], self.name), life.staged[picked][0], modified(self.age))


@dataclass(frozen=True, repr=False)
class Touch(Step):
    """Change a staged file's modification date, but not its content."""

    number: int
    age: int | None = 0

    def take(self, life: Life) -> None:
        if picked := life.pick(self.number):
            life.date(life.place.root / "local_output" / picked[0] / picked[1], modified(self.age))
            life.staged[picked] = life.staged[picked][0], modified(self.age)
            life.causes.add("touched")


@dataclass(frozen=True, repr=False)
class Unstage(Step):
    """Delete one staged file, or all."""

    number: int | None

    def take(self, life: Life) -> None:
        life.causes.add("unstaged")
        for picked in list(life.staged) if self.number is None else [life.pick(self.number)]:
            if picked:
                life.unstage(*picked)


@dataclass(frozen=True, repr=False)
class CopyBack(Step):
    """Copy a bronze file to staging, under its name in bronze."""

    number: int
    age: int | None = 0

    def take(self, life: Life) -> None:
        if found := life.pick_bronze(self.number):
            life.stage(found.domain, found.name, found.content, modified(self.age))
            life.causes.add("copied back")


@dataclass(frozen=True, repr=False)
class DeleteBronze(Step):
    """Delete a file or its whole partition from bronze, and optionally from staging."""

    number: int
    unstage: bool = True
    partition: bool = False

    def take(self, life: Life) -> None:
        if not (found := life.pick_bronze(self.number)):
            return
        life.causes.add("deleted")
        these = [found]
        if self.partition:
            these = [known for known in life.bronze if (known.domain, known.landed) == (found.domain, found.landed)]
        for delivery in these:
            life.delete(delivery)
            if self.unstage and (delivery.domain, delivery.original) in life.staged:
                life.unstage(delivery.domain, delivery.original)
        if self.partition:
            shutil.rmtree((life.place.root / "datalake" / found.path).parent)


@dataclass(frozen=True, repr=False)
class Restore(Step):
    """Restore a file that was deleted from bronze from a backup, through staging."""

    number: int

    def take(self, life: Life) -> None:
        if not life.deleted:
            return
        found = life.deleted[self.number % len(life.deleted)]
        same = [known for known in life.bronze if (known.domain, known.original) == (found.domain, found.original)]
        if found in life.bronze or (same and max(same, key=lambda known: known.order).content == found.content):
            return
        for domain, name in list(life.staged):
            if domain == found.domain and model.of_name(name)[0] == found.original:
                life.unstage(domain, name)
        life.stage(found.domain, found.name, found.content, found.moment)


@dataclass(frozen=True, repr=False)
class Plant(Step):
    """Put a file straight into bronze, into the partition of the stamp in its name."""

    domain: str
    name: str
    lines: tuple[str, ...]

    def take(self, life: Life) -> None:
        planted = model.Delivery(self.domain, self.name, stamped(self.name), encoded(self.lines), renamed=False)
        if any((known.domain, known.original) == (self.domain, self.name) for known in life.bronze):
            return
        path = life.place.root / "datalake" / planted.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(planted.content)
        life.bronze.append(planted)
        life.causes.add("planted")


ADDED = {
    "sales": ("expect_column_values_to_not_be_in_set", {"column": "customer_id", "value_set": ["C1"]}),
    "inventory": ("expect_column_values_to_be_between", {"column": "unit_cost", "max_value": 1}),
    "customer_events": ("expect_column_values_to_not_be_in_set", {"column": "device_type", "value_set": ["mobile"]}),
}
REMOVED = {"sales": "NULL:customer_id", "inventory": "INVALID_MOVEMENT_TYPE", "customer_events": "INVALID_EVENT_TYPE"}
CHANGES = ["add", "remove", "notes", "warning"]


@dataclass(frozen=True, repr=False)
class ChangeSuite(Step):
    """Add or remove a rule, edit a note, or add a warning; the same change a second time undoes it."""

    domain: str
    change: str

    def take(self, life: Life) -> None:
        suite = life.suite(self.domain)
        rules = suite["expectations"]
        if self.change == "notes":
            rules[0]["notes"] += " Indeed."
        elif self.change == "remove" and any(rule["meta"]["code"] == REMOVED[self.domain] for rule in rules):
            suite["expectations"] = [rule for rule in rules if rule["meta"]["code"] != REMOVED[self.domain]]
        elif self.change == "remove":
            known = json.loads((PROJECT / f"expectations/{self.domain}.json").read_text())["expectations"]
            rules += [rule for rule in known if rule["meta"]["code"] == REMOVED[self.domain]]
        else:
            code = f"{self.change.upper()}ED"
            suite["expectations"] = [rule for rule in rules if rule["meta"]["code"] != code]
            if len(suite["expectations"]) == len(rules):
                kind, kwargs = ADDED[self.domain]
                severity = "critical" if self.change == "add" else "warning"
                rules.append({"type": kind, "kwargs": kwargs, "meta": {"code": code}, "severity": severity})
                suite["expectations"] = rules
        life.write_suite(self.domain, suite)
        life.causes.add(self.change)


@dataclass(frozen=True, repr=False)
class Merging(Step):
    """Let later runs merge new records into stored partitions, or rebuild these from bronze."""

    on: bool

    def take(self, life: Life) -> None:
        life.merge = self.on


@dataclass(frozen=True, repr=False)
class Earliest(Step):
    """Change the setting `earliest_date`."""

    date: str

    def take(self, life: Life) -> None:
        if str(life.earliest) != self.date:
            life.earliest = dt.date.fromisoformat(self.date)
            life.causes.add("earliest")


KINDS = {
    "manifests": "bronze/**/_manifest.json",
    "facts": "_facts_*.json",
    "indexes": "quality/**/_index.json",
    "caches": "**/_*",
    "silver": "silver/**/*.parquet",
    "gold": "gold/**/*.parquet",
}


HARMS = ["lost", "cut", "flipped"]


@dataclass(frozen=True, repr=False)
class Harm(Step):
    """Lose, truncate or flip a bit of caches or results; in gold only the newest snapshots, as nobody reads others."""

    kind: str
    how: str
    seed: int = 0

    def take(self, life: Life) -> None:
        chance = random.Random(self.seed)
        lake = life.place.root / "datalake"
        found = sorted(path for path in lake.glob(KINDS[self.kind]) if path.is_file())
        found = [
            path for path in found if "_tmp-" not in path.name and (self.how == "lost" or "_lock" not in path.name)
        ]
        if self.kind == "gold":
            found = [max(path.glob("*.parquet")) for path in sorted({path.parent for path in found})]
        for path in chance.sample(found, chance.randint(min(len(found), 1), len(found))):
            content = path.read_bytes()
            if self.how == "lost":
                path.unlink()
            elif self.how == "cut":
                path.write_bytes(content[: chance.randrange(len(content) or 1)])
            elif content:
                harmed = bytearray(content)
                harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
                path.write_bytes(harmed)
            life.causes.add(self.kind if self.kind in ("silver", "gold") else "caches")


@dataclass(frozen=True, repr=False)
class Run(Step):
    """Run, check the results, and check that another run right after it does nothing."""

    task: str = "GoldAll"
    workers: int = 1
    command: bool = False
    again: bool = True
    plan: bool = False
    """Whether to ask what the run would do before it, and to verify the lake after it."""

    def take(self, life: Life) -> None:
        planned = Planned(life) if self.plan else None
        started, offset, before = now(), len(life.place.said()), listing(life.place.root)
        code = life.granted(lambda: life.run(self.task, self.workers, self.command))
        bronze = life.check_bronze(started, whole=True)
        if self.task != "GoldAll":
            life.causes.add("part")
            if code:
                life.wrong("exit code", f"{self.task} ended with {code}\n{life.said(offset)}")
            if bronze:
                life.wrong("bronze", f"{bronze}\n{life.said(offset)}")
            return
        causes, life.causes = life.causes, set()
        life.check(code, bronze, before, offset, causes)
        life.check_report()
        if planned:
            planned.check(life)
        if self.again:
            life.check_again(self.workers)


class Planned:
    """What `lakejobs plan --effects` says before a run."""

    def __init__(self, life: Life) -> None:
        self.is_harmed = "gold" in life.causes
        """Whether the newest snapshots may not be what the effects are told of."""
        self.before, self.listed = ask(see, str(life.place.root)), listing(life.place.root)
        self.answer = self.question(life, "plan", "--effects", "--json")
        if changed := differing(self.listed, listing(life.place.root)):
            life.wrong("plan", f"it changed {changed}")

    def question(self, life: Life, *words: str) -> dict[str, Any]:
        settings = ["--lake-earliest-date", str(life.earliest), "--lake-merge", str(life.merge)]
        asked: dict[str, Any] = ask(question, str(life.place.root), [*words, *settings])
        return asked

    def check(self, life: Life) -> None:
        """The run must have done what was planned: rewritten these partitions and tables, and changed these cells."""
        if self.answer["code"] or not self.answer["said"]:
            life.wrong("plan", f"it ended with {self.answer}")
            return
        plan = json.loads(self.answer["said"])
        after = ask(see, str(life.place.root))
        written = differing(self.listed, listing(life.place.root))
        for layer, place in (("silver", 6), ("gold", 3)):
            # A restored or damaged file is another one even where its rows are not.
            planned = {
                f"{step['name']} {day}" if layer == "silver" else step["name"]
                for step in plan["steps"]
                if step["layer"] == layer
                for day in (step["dates"] if layer == "silver" else [""])
            }
            parts = [path.split("/") for path in written if path.startswith(f"{layer}/") and path.endswith(".parquet")]
            now_there = {*listing(life.place.root)}
            done = {
                f"{part[1]} {'-'.join(one.partition('=')[2] for one in part[2:5])}" if layer == "silver" else part[1]
                for part in parts
                if len(part) == place and (layer == "silver" or "/".join(part) in now_there)
            }
            if done != planned:
                life.wrong("plan", f"{layer}: planned {sorted(planned)}, done {sorted(done)}")
        for table, rows in after["gold"].items() if not self.is_harmed else ():
            effects = plan["effects"]["gold"].get(table)
            expected = effect_on(table, self.before["gold"].get(table, []), effects, rows)
            if difference := unlike(rows, expected):
                life.wrong("plan", f"the effects on {table} are not those planned: {difference}")
        verified = self.question(life, "verify")
        if verified["code"]:
            life.wrong("verify", verified["said"])


def question(root: str, words: list[str]) -> dict[str, Any]:
    """Ask the lake a question by the command line. Call it only in a forked child."""
    from click.testing import CliRunner

    from lakejobs.commands import main

    os.chdir(root)
    asked = CliRunner().invoke(main, words)
    trouble = "" if asked.exception is None or isinstance(asked.exception, SystemExit) else repr(asked.exception)
    return {"code": asked.exit_code, "said": asked.stdout or asked.stderr, "trouble": trouble}


def effect_on(
    table: str, before: list[dict[str, Any]], effects: dict[str, Any] | None, after: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of a table before a run, with the planned effects. Of new rows, only the keys are planned."""
    if effects is None:
        return [{name: value for name, value in row.items() if name != "generated_at"} for row in before]
    grain = tables.tables()[table].grain

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(plain(row[name]) for name in grain)

    rows = {key(row): {name: value for name, value in row.items() if name != "generated_at"} for row in before}
    new = {key(row): row for row in after}
    for cell in effects["changed"]:
        row = rows[tuple(map(plain, cell["key"]))]
        assert row[cell["column"]] == plain(cell["old"]), (cell, row)
        row[cell["column"]] = plain(cell["new"])
    for gone in effects["removed"]:
        del rows[tuple(map(plain, gone))]
    for added in effects["added"]:
        row = new.get(tuple(map(plain, added)), {})
        rows[tuple(map(plain, added))] = {name: value for name, value in row.items() if name != "generated_at"}
    return list(rows.values())


@dataclass(frozen=True, repr=False)
class Twice(Step):
    """Run twice at once."""

    workers: int = 1

    def take(self, life: Life) -> None:
        started, offset, before = now(), len(life.place.said()), listing(life.place.root)
        pids = [life.start(workers=self.workers) for _ in range(2)]
        codes = [wait(pid) for pid in pids]
        code = life.granted(lambda: max(codes))
        bronze = life.check_bronze(started, whole=True)
        causes, life.causes = life.causes, set()
        life.check(code, bronze, before, offset, causes | {"at once"})
        life.check_report()
        life.check_again(1)


@dataclass(frozen=True, repr=False)
class Kill(Step):
    """Kill a run and all its processes, `seconds` after it logged `lines` lines."""

    lines: int
    seconds: float = 0
    workers: int = 1

    def take(self, life: Life) -> None:
        started = now()
        reader, writer = os.pipe()
        pid = life.start(workers=self.workers, output=writer)
        os.close(writer)
        lines = 0
        while lines < self.lines and (text := os.read(reader, 4096)):
            lines += text.count(b"\n")
        time.sleep(self.seconds)  # the delay is random on purpose
        for end in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGKILL)):
            try:
                end()
            except ProcessLookupError:
                continue
            break
        os.close(reader)
        wait(pid)
        life.killed = True
        life.killed_a_client |= life.luigid is not None
        life.causes.add("killed")
        if bronze := life.check_bronze(started, whole=False):
            life.wrong("bronze", f"after a kill {bronze}")


def encoded(lines: Iterable[str], encoding: str = "utf-8") -> bytes:
    return "".join(f"{line}\n" for line in lines).encode(encoding)


def stamped(name: str) -> dt.datetime:
    moment = model.stamp(name)
    assert moment
    return moment


def modified(age: int | None) -> dt.datetime:
    return NEVER if age is None else BASE + age * model.MICROSECOND


# ------------------------------------------------------------------------------------------------ drawing

PREFIXES = {"sales": "sales", "customer_events": "events", "inventory": "inventory"}
NAMES = ["_20250302_080000.csv", "till.csv", "_20250302_080001.csv", "a.csv", "_20250301_235959.csv", "zz.csv"]
AGES = [0, 1, SECOND * 10**6, -MINUTE * 10**6, 16 * 60 * MINUTE * 10**6, DAY * 10**6, -DAY * 10**6, 3 * DAY * 10**6]
TIMES = [
    "2025-03-02T10:00:00", "2025-03-02T10:00:00.5Z", "2025-03-01", "2025-03-01T23:59:59.999999",
    "2025-03-03T01:00:00+03:00", "2025-03-03T10:00:00", "2025-02-20T09:00:00", "", "soon", "1969-12-31T23:59:59",
    "2025-03-04T00:00:00", "2999-01-01T00:00:00",
]  # fmt: skip
QUANTITIES = ["2", "1", "3.0", "", "two"]
TOTALS = ["10.00", "", "10.01", "2.56", "99", "free"]
POOLS = {
    "sales": [
        ["s1", "s2", "s3", ""], TIMES, ["C1", "C2", ""], ["P1", "P2"], ["Lamp", "Café"], ["Home", "Books", ""],
        QUANTITIES, ["5.00", "2.55", ""], TOTALS, ["card", "cash", ""], ["completed", "refunded"],
    ],
    "customer_events": [
        ["e1", "e2", "e3", ""], TIMES, ["C1", "C2", ""], ["SES1", "SES2", ""], ["login", "browse", "UNKNOWN", ""],
        ["P1", ""], ["/p/1", '"/p,2"'], ["desktop", "mobile", ""],
    ],
    "inventory": [
        ["m1", "m2", "m3", ""], TIMES, ["P1", "P2", ""], ["Lamp", "Stool", ""], ["WH1", "WH2"],
        ["inbound", "outbound", "adjustment", "TRANSFER"], [*QUANTITIES, "0"], ["1.25", "0.75", ""], ["SUP1"],
    ],
}  # fmt: skip
MALFORMED = ["x,y", "   ", ",".join("surplus" for _ in range(20))]


def life_name(domain: str, name: str) -> str:
    """Prefix names that begin with a stamp with the domain's prefix."""
    return PREFIXES[domain] + name if name.startswith("_") else name


numbers = st.integers(0, 5)
domains = st.sampled_from(["sales", "sales", "inventory", "customer_events"])
ages = st.sampled_from([*AGES, *AGES, None])
workers = st.sampled_from([1, 1, 1, 1, 2, 4])


def often(pool: list[str]) -> st.SearchStrategy[str]:
    """Draw from a pool, the first two more often, because they are valid."""
    return st.sampled_from([*pool[:2] * 4, *pool])


@st.composite
def lines(draw: st.DrawFn, domain: str) -> tuple[str, ...]:
    """A header and a few records; sometimes a file that does not fit the domain."""
    kind = draw(st.sampled_from(["good"] * 12 + ["malformed", "malformed", "header", "empty", "foreign", "renamed"]))
    columns = HEADERS[domain]
    if kind == "empty":
        return ()
    if kind == "header":
        return (columns,)
    if kind == "foreign":
        other = "inventory" if domain == "sales" else "sales"
        return (HEADERS[other], *draw(lines_of(other)))
    if kind == "renamed":
        old = draw(
            st.sampled_from([name for name in model.COLUMNS[domain] if name.startswith(("quant", "cust", "prod"))])
        )
        return (columns.replace(old, "other"), *draw(lines_of(domain)))
    found = draw(lines_of(domain))
    if kind == "malformed":
        at = draw(st.integers(0, len(found)))
        found = [*found[:at], draw(st.sampled_from(MALFORMED)), *found[at:]]
    return (columns, *found)


def lines_of(domain: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.tuples(*map(often, POOLS[domain])).map(",".join), min_size=1, max_size=4)


@st.composite
def deliveries(draw: st.DrawFn) -> Deliver:
    domain = draw(domains)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["windows-1252"]))
    name = life_name(domain, draw(st.sampled_from(NAMES)))
    return Deliver(domain, name, draw(lines(domain)), draw(ages), encoding)


@st.composite
def planted(draw: st.DrawFn) -> Plant:
    domain = draw(domains)
    name = draw(st.sampled_from([name for name in NAMES if name.startswith("_")]))
    return Plant(domain, life_name(domain, name), draw(lines(domain)))


STEPS: dict[str, tuple[int, st.SearchStrategy[Any]]] = {
    "deliver": (9, deliveries()),
    "run": (5, st.builds(Run, workers=workers)),
    "plan": (2, st.builds(Run, plan=st.just(True))),
    "part": (1, st.builds(Run, task=st.sampled_from(["BronzeAll", "SilverAll"]))),
    "command": (1, st.builds(Run, command=st.just(True))),
    "twice": (1, st.builds(Twice)),
    "kill": (2, st.builds(Kill, st.integers(0, 8), st.sampled_from([0, 0.01, 0.05, 0.2]), workers)),
    "copy": (1, st.builds(Copy, numbers, st.sampled_from(NAMES), ages)),
    "touch": (1, st.builds(Touch, numbers, ages)),
    "unstage": (1, st.builds(Unstage, numbers | st.none())),
    "copy back": (2, st.builds(CopyBack, numbers, ages)),
    "delete": (2, st.builds(DeleteBronze, numbers, st.booleans(), st.booleans())),
    "plant": (1, planted()),
    "restore": (1, st.builds(Restore, numbers)),
    "suite": (2, st.builds(ChangeSuite, domains, st.sampled_from(CHANGES))),
    "merging": (1, st.builds(Merging, st.booleans())),
    "earliest": (1, st.builds(Earliest, st.sampled_from(["1970-01-01", "2025-03-01", "2025-03-02"]))),
    "harm": (3, st.builds(Harm, st.sampled_from(list(KINDS)), st.sampled_from(HARMS), st.integers(0, 99))),
}  # fmt: skip
SCHEDULERS = ["local"] * 7 + ["luigid"] * 2 + ["luigid with luigi.cfg"]


@st.composite
def scripts(draw: st.DrawFn, least: int, most: int) -> tuple[str, list[Any]]:
    """A scheduler, and steps of only some of the kinds, so that lives differ."""
    kinds = draw(st.sets(st.sampled_from(list(STEPS)), min_size=3)) | {"deliver", "run"}
    weighted = [kind for kind, (weight, _) in STEPS.items() for _ in range(weight) if kind in kinds]
    step = st.sampled_from(weighted).flatmap(lambda kind: STEPS[kind][1])
    least = draw(st.sampled_from([least, least, (least + most) // 2]))
    return draw(st.sampled_from(SCHEDULERS)), draw(st.lists(step, min_size=least, max_size=most))


# ------------------------------------------------------------------------------------------------ lives


def live(place: Place, scheduler: str, steps: list[Any], without: Iterable[str] = ()) -> int:
    """Take all steps and a final run; return the number of runs. Raises Violation."""
    life = Life(place, scheduler, without)
    try:
        for step in [*steps, Run()]:
            try:
                step.take(life)
            except TimeoutError as error:
                raise Violation("hang", f"{error}\n{life.place.said()[-6000:]}") from error
        return life.runs
    finally:
        life.close()


def written(scheduler: str, steps: list[Any]) -> str:
    """A script as text, ready to be replayed."""
    return "\n".join([f"# scheduler: {scheduler}", *map(repr, steps)])


def lives(
    workshop: Workshop, seed: int, count: int, most: int, without: Iterable[str] = (), patience: float = 60
) -> tuple[list[str], Counter[str]]:
    """Draw and live a few lives.

    Returns the first violation of each kind, with the shortest script found within `patience` seconds, and how often
    each thing happened.
    """
    seen: Counter[str] = Counter()
    found: dict[str, str] = {}

    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False,
        phases=[Phase.generate],
    )  # fmt: skip
    @hypothesis.seed(seed)
    @hypothesis.given(scripts(5, most))
    def one(script: tuple[str, list[Any]]) -> None:
        seen["lives"] += 1
        seen.update(type(step).__name__ for step in script[1])
        error = None
        try:
            seen["runs"] += live(workshop.new(), *script, without)
        except Violation as wrong:
            error = wrong
        # Continue outside the handler: errors in forks would otherwise show this one as their context.
        if error is None:
            return
        seen[f"{error.kind} wrong"] += 1
        if error.kind not in found:
            say(f"life {seed}: {error}\n{written(*script)}")
            found[error.kind] = shortest(workshop, *script, error, without, patience)

    one()
    return list(found.values()), seen


def shortest(
    workshop: Workshop, scheduler: str, steps: list[Any], error: Violation, without: Iterable[str], patience: float
) -> str:
    """The violation, and its script without every step and line that is not needed for it."""
    deadline = time.monotonic() + patience
    simpler = True
    while simpler:
        simpler = False
        for other in fewer(scheduler, steps):
            if time.monotonic() > deadline:
                break
            try:
                live(workshop.new(), *other, without)
            except Violation as same:
                if same.kind == error.kind:
                    (scheduler, steps), error, simpler = other, same, True
                    break
    return f"{error}\n{written(scheduler, steps)}\n"


def fewer(scheduler: str, steps: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield slightly simpler scripts: without some steps, without luigid, without a line, with default arguments."""
    length = len(steps) // 2
    while length:
        for first in range(len(steps) - length, -1, -length):
            yield scheduler, [*steps[:first], *steps[first + length :]]
        length //= 2
    if scheduler != "local":
        yield "local", steps
    for number, step in enumerate(steps):
        for other in step.simpler():
            yield scheduler, [*steps[:number], other, *steps[number + 1 :]]


def life(short: bool, seed: int) -> Iterator[Row]:
    lots, count, most = (2, 6, 12) if short else (20, 18, 30)
    row = Row("lives of a lake, drawn step by step, every run compared with a model", seed)
    steps = Row("steps of these lives", seed)
    with Workshop() as workshop, tempfile.NamedTemporaryFile() as counted:

        def lot(number: int) -> list[str]:
            violations, seen = lives(workshop, seed * 1000 + number, count, most)
            with open(counted.name, "a") as file:
                file.write(json.dumps(seen) + "\n")
            return violations

        row.add(spread(lot, range(lots)), 0)
        total: Counter[str] = Counter()
        for line in Path(counted.name).read_text().splitlines():
            total.update(json.loads(line))
    row.count = total.pop("lives", 0)
    say(f"life: {', '.join(f'{times} {kind}' for kind, times in total.most_common())}")
    steps.count = sum(times for kind, times in total.items() if kind in STEP_NAMES)
    yield row
    yield steps


STEP_NAMES = {kind.__name__ for kind in Step.__subclasses__()}


FAMILIES = {"life": life}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture.life", description="Live random lives of a lake.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lives", type=int, default=20)
    parser.add_argument("--most", type=int, default=30, help="steps of a life (30)")
    parser.add_argument("--without", action="append", default=[], help="a kind of violation to ignore")
    parser.add_argument("--replay", help="a file with a script of steps, as printed")
    arguments = parser.parse_args()
    with Workshop() as workshop:
        if arguments.replay:
            text = Path(arguments.replay).read_text()
            first, _, rest = text.partition("\n")
            steps = [eval(line) for line in rest.splitlines() if line and not line.startswith("#")]
            print(live(workshop.new(), first.removeprefix("# scheduler: "), steps, arguments.without), "runs")
            return 0
        started = time.monotonic()
        violations, seen = lives(workshop, arguments.seed, arguments.lives, arguments.most, arguments.without)
        print(*violations, sep=f"\n{'-' * 80}\n")
        print(f"{time.monotonic() - started:.0f} s", dict(seen))
        return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
