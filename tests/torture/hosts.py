"""An hour of deliveries on a lake in an object store: two hosts run it through one luigid, and are cut off amid runs.

The store (a real SeaweedFS) and luigid have addresses of their own in one network namespace, and each host, with its
own name, has another. The namespaces have no names: they end with their processes, so nothing is left behind. Each run
reaches the store through a proxy of its own, which cuts the host off at one of the run's requests.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime as dt
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import objectstores

from torture import model
from torture.lakes import (
    DOMAINS,
    HEADERS,
    NOTHING_TO_DO,
    PROJECT,
    Place,
    Row,
    Workshop,
    ask,
    differences,
    event,
    movement,
    sale,
    say,
    seeded,
)
from torture.life import Life, Luigid, now, see
from torture.objects import MADE

LEASE = 6.0
"""Seconds. Locks are taken over within the test, but not because the machine is busy."""
BOUND = 180.0
"""Seconds within which every run must end, whatever is cut."""
STORE, LUIGID, HOSTS = "10.77.0.1", "10.77.0.4", ("10.77.0.2", "10.77.0.3")
BEGIN = dt.datetime(2026, 3, 1, 23, 25)
"""The hour passes midnight, so that batches land on two days."""
MINUTES = range(0, 60, 5)
CLONE_NEWNET = 0x40000000
LATE = ("no answer from", "no luigid answers", "run again")
"""What a run that was cut off says, or that met changes of another one in the meantime."""

# ------------------------------------------------------------------------------------------------ the network

Target = Literal["everything", "store", "luigid"]
Way = Literal["pulled", "requests lost", "answers lost", "unreachable", "flapping", "restarted"]
Duration = Literal["short", "long", "to the end"]
WAYS: dict[Target, tuple[Way, ...]] = {
    "everything": ("pulled", "requests lost", "answers lost", "unreachable", "flapping"),
    "store": ("requests lost", "answers lost", "unreachable"),
    "luigid": ("requests lost", "answers lost", "unreachable"),
}
"""How a host can be cut off. Only `unreachable` tells it so, as a router would. (`restarted` is luigid, which loses its
state; that concerns every host.)"""


class Cut(NamedTuple):
    target: Target
    duration: Duration
    """For less than a lease; for more, so that others take over; or until the run has ended by itself."""
    way: Way

    def __str__(self) -> str:
        return f"{self.target} {self.way} ({self.duration})"


@functools.cache
def supported() -> str | None:
    """Return why this machine cannot make networks, or None if it can."""
    if missing := [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name)]:
        return f"needs the command {missing[0]}"
    script = "hostname probe && ip link add lake0 type bridge && ip link add port0 type veth peer name eth0"
    done = subprocess.run(
        ["unshare", "--net", "--uts", "sh", "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    return f"cannot make network namespaces: {done.stderr.strip()}" if done.returncode else None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def leave_network() -> None:
    """Give this process a network namespace of its own, with a bridge that has the addresses of the servers."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    ip("link", "set", "lo", "up")
    ip("link", "add", "lake0", "type", "bridge")
    for address in (STORE, LUIGID):
        ip("addr", "add", f"{address}/24", "dev", "lake0")
    ip("link", "set", "lake0", "up")


class Host:
    """A host on the bridge: a network namespace, a name, and a working directory with settings of its own."""

    def __init__(self, number: int, directory: Path, settings: str) -> None:
        self.name, self.address, self.port = f"host{number + 1}", HOSTS[number], f"port{number}"
        self.directory = directory / self.name
        (self.directory / "tmp").mkdir(parents=True)
        shutil.copytree(PROJECT / "expectations", self.directory / "expectations")
        (self.directory / "luigi.cfg").write_text(settings)
        # The namespaces live as long as this process, which ends with whoever holds its standard input.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", 'hostname "$0" && echo ready && exec cat', self.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"ready\n"
        ip("link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        ip("link", "set", self.port, "master", "lake0", "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            self.ip("link", "set", link, "up")
        self._heal: list[Callable[[], None]] = []
        self._flapping: threading.Event | None = None

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--uts", *command]

    def ip(self, *arguments: str) -> None:
        subprocess.run(self.inside("ip", *arguments), check=True, capture_output=True, timeout=30)

    def cut(self, cut: Cut, chance: random.Random) -> None:
        addresses = {"everything": (STORE, LUIGID), "store": (STORE,), "luigid": (LUIGID,)}[cut.target]
        if cut.way == "pulled":
            self._set_link("down")
            self._heal.append(lambda: self._set_link("up"))
        elif cut.way == "flapping":
            self._flapping = threading.Event()
            pauses = [chance.uniform(0.1, 0.8) for _ in range(1000)]
            thread = threading.Thread(target=self._flap, args=(self._flapping, pauses), daemon=True)
            thread.start()
            self._heal += [self._flapping.set, thread.join, lambda: self._set_link("up")]
        for address in addresses:
            if cut.way == "requests lost":
                self._lose(address)
            elif cut.way == "answers lost":
                rule = ("from", address, "to", self.address, "blackhole")
                ip("rule", "add", *rule)
                self._heal.append(functools.partial(ip, "rule", "del", *rule))
            elif cut.way == "unreachable":
                self.ip("route", "add", "unreachable", f"{address}/32")
                self._heal.append(functools.partial(self.ip, "route", "del", "unreachable", f"{address}/32"))

    def _lose(self, address: str) -> None:
        """Send packets for an address to a device that is not there."""
        self.ip("neigh", "replace", address, "lladdr", "02:00:00:00:00:ff", "dev", "eth0", "nud", "permanent")
        self._heal.append(functools.partial(self.ip, "neigh", "del", address, "dev", "eth0"))

    def _set_link(self, state: str) -> None:
        ip("link", "set", self.port, state)

    def _flap(self, done: threading.Event, pauses: Sequence[float]) -> None:
        for number, pause in enumerate(pauses):
            self._set_link(("down", "up")[number % 2])
            if done.wait(pause):
                return

    def heal(self) -> None:
        for undo in self._heal:
            undo()
        self._heal.clear()

    def close(self) -> None:
        assert self._holder.stdin
        self._holder.stdin.close()
        self._holder.wait()


# ------------------------------------------------------------------------------------------------ the runs


@dataclass
class Run:
    """A command on a host."""

    host: Host
    task: tuple[str, ...]
    process: subprocess.Popen[bytes]
    proxy: objectstores.Proxy
    log: Path
    promised: set[tuple[str, str]]
    """Domains and names of the files that are in bronze if it ends with 0."""
    started: float = field(default_factory=time.monotonic)
    cut_off: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Hour:
    """The lake, its servers and hosts, in the network namespace of this process."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self.directory, self.chance = directory, chance
        self.store = objectstores.seaweedfs(STORE)
        self.luigid = Luigid(directory / "luigid", "luigid with luigi.cfg", LUIGID)
        self.prefix = "hour"
        self.hosts = [Host(number, directory, self._settings()) for number in range(len(HOSTS))]
        self.client = self._client()
        self.runs: list[Run] = []
        self.violations: list[str] = []
        self.seen: Counter[str] = Counter()
        self.longest = 0.0
        self.deliveries = 0
        self.sales: list[int] = []

    def _settings(self) -> str:
        text = (PROJECT / "luigi.cfg").read_text()
        for name, value in {
            "root": f"s3://{objectstores.BUCKET}/{self.prefix}/datalake",
            "staging": f"s3://{objectstores.BUCKET}/{self.prefix}/local_output",
            "lock_lease": f"{LEASE:g}",
            "scheduler_host": LUIGID,
            "scheduler_port": str(self.luigid.port),
        }.items():
            lines = text.splitlines()
            assert sum(line.startswith(f"{name} = ") for line in lines) == 1, name
            text = "\n".join(f"{name} = {value}" if line.startswith(f"{name} = ") else line for line in lines)
        return text

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.store.url, aws_access_key_id=objectstores.KEY,
            aws_secret_access_key=objectstores.SECRET, region_name="us-east-1",
        )  # fmt: skip

    def listed(self, directory: str) -> dict[str, dt.datetime]:
        """Keys below a directory, relative to the prefix, and when the store says they were written."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=objectstores.BUCKET, Prefix=f"{self.prefix}/{directory}"
        )
        return {
            found["Key"].removeprefix(f"{self.prefix}/"): found["LastModified"].astimezone(dt.UTC)
            for page in pages
            for found in page.get("Contents", [])
        }

    # -------------------------------------------------------------------------------------------- deliveries

    def deliver(self, domain: str, name: str, rows: Sequence[str], header: str | None = None) -> None:
        content = "".join(f"{line}\n" for line in (header or HEADERS[domain], *rows)).encode()
        key = f"{self.prefix}/local_output/{domain}/{name}"
        self.client.put_object(Bucket=objectstores.BUCKET, Key=key, Body=content)
        self.seen["deliveries by hand"] += 1

    def deliver_some(self, moment: dt.datetime) -> None:
        """Deliver files as people do: late, corrected, repeated, invalid and rejected rows, with keys of their own."""
        chance = self.chance
        for what in chance.sample(["new", "late", "corrected", "again", "invalid", "rejected"], 2):
            number = self.deliveries
            self.deliveries += 1
            keys = range(10 * number, 10 * number + 6)
            stamp = f"{moment + dt.timedelta(seconds=number):%Y%m%d_%H%M%S}"
            if what == "new":
                self.sales += keys
                self.deliver("sales", f"till{number}.csv", [self.sale(key) for key in keys])
                self.deliver("inventory", f"inventory_{stamp}.csv", [movement(key, moment) for key in keys])
            elif what == "late":
                older = [moment - dt.timedelta(days=key % 4) for key in keys]
                rows = [event(key, day) for key, day in zip(keys, older, strict=True)]
                self.deliver("customer_events", f"events_{stamp}.csv", rows)
            elif what == "corrected":
                some = chance.sample(self.sales, min(5, len(self.sales)))
                self.deliver("sales", f"correction{number}.csv", [self.sale(key, 3 + number % 5) for key in some])
            elif what == "again":
                # The same rows in a file of another name: the later delivery counts, with equal rows.
                some = self.sales[-6:]
                self.deliver("sales", f"copy{number}.csv", [self.sale(key) for key in some])
            elif what == "invalid":
                good = sale(10 * number, moment)
                self.deliver(
                    "sales", f"sales_{stamp}.csv", [good, "x,y", good.replace("card", "IOU"), self.odd(number)]
                )
            else:
                self.deliver("inventory", f"notes{number}.csv", ["buy milk,1"], header="what,how many")

    def sale(self, key: int, quantity: int = 2) -> str:
        """A sale whose day and time depend on its key only."""
        return sale(key, BEGIN - dt.timedelta(days=key % 3, seconds=key), quantity, "5.00", f"{5 * quantity}.00")

    def odd(self, number: int) -> str:
        """A sale without a customer, of a quantity that is no number, or of another century."""
        good = sale(10 * number + 1, BEGIN)
        changes = [("C", ",C"), (",2,", ",two,"), ("2026-", "1926-")]
        old, new = changes[number % 3]
        fields = good.split(",")
        if old == "C":
            fields[2] = ""
            return ",".join(fields)
        return good.replace(old, new)

    # -------------------------------------------------------------------------------------------- runs

    def start(self, host: int, *task: str, cut: Cut | None = None, at: int = 0, takes_effect: bool = True) -> Run:
        """Start a command on a host. `cut`: cut the host off at the command's request number `at`, which reaches the
        store or does not, but is not answered."""
        where = self.hosts[host]
        proxy = objectstores.Proxy(self.store)
        promised = {tuple(key.split("/")[1:3]) for key in self.listed("local_output/")}
        if task[0] == "Generate":
            domain, batch = task[2], task[4]
            promised = {(domain, f"{DOMAINS[domain].prefix}_{batch}.csv")}
        log = where.directory / f"{len(self.runs)}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                where.inside(str(Path(sys.executable).with_name("luigi")), "--module", "lakejobs", *task),
                cwd=where.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**environment, **proxy.environment, "TMPDIR": str(where.directory / "tmp")},
            )  # fmt: skip
        run = Run(where, task, process, proxy, log, promised)  # type: ignore[arg-type]
        if cut:

            def decide(request: objectstores.Request) -> objectstores.Fault | None:
                if request.number != at:
                    return None
                if cut.way == "restarted":
                    self.luigid.restart()
                else:
                    where.cut(cut, self.chance)
                run.cut_off.set()
                if cut.target == "luigid":
                    return None
                return "lose" if takes_effect else "drop"

            proxy.decide = decide
        self.runs.append(run)
        self.seen["runs"] += 1
        return run

    def end(self, run: Run, cut: Cut | None = None) -> int:
        """Wait for a command to end, and judge its end. One on a host that was `cut` off may fail and say so."""
        what = f"{' '.join(run.task)} on {run.host.name}{f', cut off from {cut},' if cut else ''}"
        try:
            code = run.process.wait(max(1.0, BOUND - (time.monotonic() - run.started)))
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()
            self.wrong(run, f"{what} did not end within {BOUND:g} s")
            return -9
        run.proxy.close()
        said = run.said()
        if run.cut_off.is_set():
            took = time.monotonic() - run.started
            self.longest = max(self.longest, took)
            say(f"hosts: {what} ended with {code} after {took:.0f} s")
        self.seen["locks taken over"] += said.count("took over the lock")
        if "Traceback" in said:
            self.wrong(run, f"{what} shows a traceback")
        if code == 0:
            missing = run.promised - self.landed()
            if missing:
                self.wrong(run, f"{what} ended with 0, but {sorted(missing)} is not in bronze")
        elif not cut:
            self.wrong(run, f"{what} ended with {code}")
        else:
            self.seen["failed while cut off"] += 1
            if code not in (25, 30, 35, 40) or not any(text in said for text in LATE):
                self.wrong(run, f"{what} ended with {code}, which says nothing about the network")
        return code

    def landed(self) -> set[tuple[str, str]]:
        """Domains and original names in bronze."""
        found = set()
        for key in self.listed("datalake/bronze/"):
            parts = key.split("/")
            found.add((parts[2], model.of_name(parts[-1])[0]))
        return found

    def wrong(self, run: Run, text: str) -> None:
        say(f"hosts: {text}\n{run.said()[-3000:]}")
        self.violations.append(f"{text}: {run.said()[-1500:]}")

    # -------------------------------------------------------------------------------------------- the schedule

    def generate(self, moment: dt.datetime) -> list[Run]:
        """What the generator's schedule starts, all on the first host."""
        batch = f"{moment:%Y%m%d_%H%M%S}"
        return [self.start(0, "Generate", "--domain", domain, "--Generate-batch", batch) for domain in DOMAINS]

    def pipelines(self) -> None:
        """Both hosts' pipelines at once."""
        for task in ("SilverAll", "GoldAll"):
            for run in [self.start(host, task) for host in (0, 1)]:
                self.end(run)

    def five_minutes(self, moment: dt.datetime, cut: Cut | None) -> None:
        """Deliveries, a batch, and the runs of one beat of the schedule, amid one of which a host is cut off."""
        self.deliver_some(moment)
        if not cut:
            generators = self.generate(moment)
            self.pipelines()
            for run in generators:
                self.end(run)
            return
        victim = self.chance.randrange(2)
        at, takes_effect = self.chance.randrange(10, 100), self.chance.random() < 0.5
        task = self.chance.choice(["SilverAll", "GoldAll"])
        run = self.start(victim, task, cut=cut, at=at, takes_effect=takes_effect)
        runs = self.generate(moment)
        while not run.cut_off.wait(0.05) and not run.is_over:
            pass
        if run.cut_off.is_set():
            self.seen["cuts"] += 1
            runs.append(self.start(1 - victim, "GoldAll"))
            self.wait_and_heal(run, runs[-1], cut, victim)
        for one in [run, *runs]:
            affected = run.cut_off.is_set() and (one.host is run.host or cut.way == "restarted")
            if self.end(one, cut if affected else None):
                self.end(self.start(self.hosts.index(one.host), *one.task))  # as the schedule does
        self.end(self.start(victim, "GoldAll"))

    def wait_and_heal(self, run: Run, rival: Run, cut: Cut, victim: int) -> None:
        """Wait for as long as the cut lasts, while the other host runs too; then bring the host back."""
        since = time.monotonic()
        if cut.duration == "short":
            time.sleep(LEASE * self.chance.uniform(0.1, 0.5))
        elif cut.duration == "long":
            self.deliver_some(BEGIN - dt.timedelta(days=1))
            with contextlib.suppress(subprocess.TimeoutExpired):  # `end` says so
                rival.process.wait(BOUND)
            time.sleep(max(0.0, since + 2 * LEASE - time.monotonic()))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(BOUND)
            if cut.target == "luigid":  # what the schedule does if luigid does not answer
                self.end(self.start(victim, "GoldAll", "--local-scheduler"))
        self.hosts[victim].heal()

    def last(self) -> None:
        """A last run on each host; the second has nothing to do."""
        self.end(self.start(0, "GoldAll"))
        run = self.start(1, "GoldAll")
        self.end(run)
        if NOTHING_TO_DO not in run.said():
            self.wrong(run, "a last run does something")

    def download(self, to: Path) -> dict[str, int]:
        """Download everything; return the files of staging with their dates in nanoseconds."""
        dates = {}
        for key, modified in self.listed("").items():
            path = to / key
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(objectstores.BUCKET, f"{self.prefix}/{key}", str(path))
            if key.startswith("local_output/"):
                dates[key] = (modified - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // model.MICROSECOND * 1000
        return dates

    def close(self) -> None:
        for run in self.runs:
            if not run.is_over:
                run.process.kill()
                run.process.wait()
        for host in self.hosts:
            host.close()
        self.luigid.stop()


def cuts(chance: random.Random, short: bool) -> list[Cut | None]:
    """What is cut at each beat of the schedule; twice nothing, when both hosts run their pipelines."""
    if short:
        return [Cut("everything", "long", "pulled")]
    targets: tuple[Target, ...] = ("everything", "store", "luigid")
    durations: tuple[Duration, ...] = ("short", "long", "to the end")
    drawn = [Cut(target, duration, chance.choice(WAYS[target])) for target in targets for duration in durations]
    # A host whose link flaps may get through in the end, so its run need not end before that.
    drawn = [cut._replace(way="pulled") if cut[1:] == ("to the end", "flapping") else cut for cut in drawn]
    drawn.append(Cut("luigid", "short", "restarted"))
    chance.shuffle(drawn)
    return [None, *drawn[:5], None, *drawn[5:]]


def live(directory: str, to: str, stderr: int, short: bool, seed: int) -> dict[str, Any]:
    """Live through the hour and download the lake. Call it only in a forked child."""
    os.dup2(stderr, 2)  # which tells how far it is
    leave_network()
    chance = seeded(seed, "hosts")
    planned = cuts(chance, short)
    try:
        Path(directory).mkdir()
        hour = Hour(Path(directory), chance)
        try:
            for minute, cut in zip(MINUTES, planned, strict=False):
                say(f"hosts: minute {minute}, {cut or 'no cut'}")
                hour.five_minutes(BEGIN + dt.timedelta(minutes=minute), cut)
            hour.last()
            return {
                "staged": hour.download(Path(to)), "violations": hour.violations, "seen": hour.seen,
                "longest": hour.longest,
                "batches": [f"{BEGIN + dt.timedelta(minutes=minute):%Y%m%d_%H%M%S}" for minute in MINUTES][
                    : len(planned)
                ],
            }  # fmt: skip
        finally:
            hour.close()
    finally:
        atexit._run_exitfuncs()  # a fork exits without calling them; they stop SeaweedFS


def judge(life: Life, fresh: Place, staged: dict[str, int], batches: Iterable[str]) -> list[str]:
    """Compare a downloaded lake with the model, and with a fresh local one of the same deliveries."""
    violations, place = [], life.place
    keys = [str(path.relative_to(place.root / "datalake")) for path in place.root.glob("datalake/**/*")]
    violations += [
        f"{key} is left behind" for key in keys if (place.root / "datalake" / key).is_file() and not MADE.fullmatch(key)
    ]
    for domain, declared in DOMAINS.items():
        for batch in batches:
            if f"local_output/{domain}/{declared.prefix}_{batch}.csv" not in staged:
                violations.append(f"batch {batch} of {domain} is missing")
    for key, modified in staged.items():
        _, domain, name = key.split("/")
        content = (place.root / key).read_bytes()
        moment = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=modified // 1000)
        life.staged[domain, name] = content, moment
        fresh.deliver(domain, name, content)
        os.utime(fresh.root / key, ns=(modified, modified))
    if wrong := life.check_bronze(now(), whole=True):
        violations.append(f"bronze: {wrong}")
    violations += [f"{kind}: {text}" for kind, text in life.stale(ask(see, str(place.root)))]
    assert fresh.run() == 0, fresh.said()
    return violations + differences(place.look()["content"], fresh.look()["content"])


def hosts(short: bool, seed: int) -> Iterator[Row]:
    with Workshop() as workshop:
        life = Life(workshop.new())
        stderr = os.dup(2)
        found = ask(live, f"{workshop.directory}/hosts", str(life.place.root), stderr, short, seed, timeout=3600)
        os.close(stderr)
        seen = found["seen"]
        said = ", ".join(f"{seen.get(what, 0)} {what}" for what in ("runs", "failed while cut off", "locks taken over"))
        row = Row(f"cuts in an hour of two hosts that run a lake in an object store through one luigid: {said}", seed)
        row.add(found["violations"], seen.get("cuts", 0))
        row.violations += judge(life, workshop.new().create(), found["staged"], found["batches"])
        say(f"hosts: {json.dumps(seen)}; a run that was cut off took {found['longest']:.0f} s at most")
        yield row


FAMILIES = {"hosts": hosts}
NEEDS = {"hosts": supported}
