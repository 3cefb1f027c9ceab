"""A lake in an object store that several hosts work on: kills, stops, wrong clocks and faults of the network.

The store is a real SeaweedFS. Each host reaches it through a proxy of its own, which kills or stops the host at one of
its requests, or answers badly. The proxies live in a process of their own, because this one forks.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import re
import signal
import socket
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import objectstores
import obstore  # noqa: F401 - so that forks need not import it
from obstore.store import from_url

from lakejobs.engine import partitions
from lakejobs.freshness import domain_state
from lakejobs.layers import gold
from lakejobs.pages import data_docs, report, table_pages
from lakejobs.storage import objects
from torture.lakes import (
    HEADERS,
    NOTHING_TO_DO,
    Place,
    Row,
    Workshop,
    ask,
    differences,
    event,
    fork,
    movement,
    sale,
    seeded,
    shown,
    spread,
    wait,
)
from torture.scenarios import DAY

LEASE = 2
"""Seconds."""
FAULTS: tuple[objectstores.Fault, ...] = ("unavailable", "cut", "drop", "lose")
CLOCKS = (partitions, domain_state, gold, data_docs, report, table_pages)
"""The modules that read the clock. (Signatures are made by the library's own.)"""
MADE = re.compile(
    r"(bronze/\w+/year=\d{4}/month=\d\d/day=\d\d/([^/_.][^/]*\.csv|_manifest\.json)"
    r"|silver/(\w+)/year=\d{4}/month=\d\d/day=\d\d/\3\.parquet"
    r"|gold/(\w+)/\4_\d{8}_\d{6}_\d{6}\.parquet"
    r"|quality/(report\.html|tables/(\w+\.html|_origins\.json)|restatements/_brief\.json)"
    r"|quality/(data_docs/index\.html|data_docs/validations/\w+/\w+\.html|validations/\w+/\w+\.json)"
    r"|quality/runs/month=\d{4}-\d\d/\d{8}_\d{6}_\d{6}_[0-9a-f]{12}_\d+\.parquet"
    r"|quality/restatements/(?P<of>\w+)/(_prepared-(?P=of)_\d{8}_\d{6}_\d{6}|(?P=of)_\d{8}_\d{6}_\d{6}\.parquet)"
    r"|_(facts_\w+\.json|lock_\w+))"
)
"""Everything that may be in a lake."""
LATE = ("run again", "no answer from")
"""What a run says that was stopped for too long: for its lease, or for the request it had just made."""


# ------------------------------------------------------------------------------------------------ the proxies


@dataclass
class Plan:
    """What a host's proxy does."""

    pid: int = 0
    at: int = 0
    """The number of the request at which it acts; 0 for never."""
    signal: int = 0
    fault: objectstores.Fault | None = None
    """What befalls that request."""
    faults: dict[int, objectstores.Fault] = field(default_factory=dict)
    """What befalls others, by their numbers."""


class Proxies:
    """Proxies for some hosts, in a process of their own, which obeys lines of JSON."""

    def __init__(self, server: objectstores.Server, hosts: int) -> None:
        ours, theirs = socket.socketpair()
        self.pid = fork(lambda: serve(theirs, server, hosts))
        theirs.close()
        self._lines = ours.makefile("rw")
        self.ports: list[int] = json.loads(self._lines.readline())

    def _do(self, what: str, host: int, **about: Any) -> Any:
        self._lines.write(json.dumps([what, host, about]) + "\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def plan(self, host: int, plan: Plan) -> None:
        """Set what a host's proxy does, and count its requests from 1."""
        self._do("plan", host, **vars(plan))

    def go_on(self, host: int) -> None:
        """Answer the request at which the host was stopped."""
        self._do("go on", host)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait(self.pid)


def serve(lines: socket.socket, server: objectstores.Server, hosts: int) -> None:
    proxies = [objectstores.Proxy(server) for _ in range(hosts)]
    going_on = [threading.Event() for _ in range(hosts)]
    plans = [Plan() for _ in range(hosts)]

    def decide(host: int, request: objectstores.Request) -> objectstores.Fault | None:
        plan = plans[host]
        if request.number != plan.at:
            return plan.faults.get(request.number)
        os.kill(plan.pid, plan.signal)
        if plan.signal == signal.SIGSTOP:
            going_on[host].wait()
        return plan.fault

    for host, proxy in enumerate(proxies):
        proxy.decide = lambda request, host=host: decide(host, request)  # type: ignore[misc]
    file = lines.makefile("rw")
    file.write(json.dumps([proxy.port for proxy in proxies]) + "\n")
    file.flush()
    for line in file:
        what, host, about = json.loads(line)
        if what == "plan":
            about["faults"] = {int(number): fault for number, fault in about["faults"].items()}
            going_on[host].clear()
            plans[host] = Plan(**about)
            proxies[host].requests.clear()
        else:
            going_on[host].set()
        file.write("null\n")
        file.flush()


# ------------------------------------------------------------------------------------------------ the lake


class Bucket:
    """A lake and its staging in an object store, and the hosts that work on it."""

    def __init__(self, place: Place, server: objectstores.Server, chance: random.Random, hosts: int = 2) -> None:
        self.place, self.server, self.chance = place.create(), server, chance
        self.url = objectstores.new_root()
        self.proxies = Proxies(server, hosts)
        self.deliveries: list[tuple[str, str, bytes]] = []
        """Domain, name and content of every delivery."""
        self.landed: list[dict[tuple[str, str], tuple[bytes, int]]] = [{}]
        """Content and date (nanoseconds, by the store's clock) of the files that were new in each step."""
        self.numbers = 0
        self.runs = self.killed = self.stopped = self.faults = 0

    # -------------------------------------------------------------------------------------------- deliveries

    def deliver(self, domain: str, name: str, content: bytes) -> None:
        modified = ask(put, self.server.environment, f"{self.url}/staging", f"{domain}/{name}", content.decode())
        self.deliveries.append((domain, name, content))
        self.landed[-1][domain, name] = content, modified

    def deliver_some(self, only_new: bool = False) -> str:
        """Deliver something drawn, perhaps under a new name only; returns what."""
        chance, number = self.chance, self.numbers
        self.numbers += 1
        moment = DAY + dt.timedelta(days=chance.randrange(4), minutes=number)
        stamp = f"{moment:%Y%m%d_%H%M%S}"
        old = chance.choice(self.deliveries) if self.deliveries else None
        what = chance.choice(
            ["new", "corrected", "late", "unstamped", "again", "renamed", "changed"][: 4 if only_new else None]
        )
        keys = range(10 * number, 10 * number + 6)
        if what == "corrected" and number:
            some = chance.sample(range(10 * number), 5)
            # The same keys and timestamps as before: the later delivery counts.
            self.deliver("sales", f"sales_{stamp}.csv", lines("sales", [self.sale(key, key % 4 + 1) for key in some]))
        elif what == "late":
            self.deliver("sales", f"sales_{stamp}.csv", lines("sales", [self.sale(key, 2) for key in keys]))
            events = [event(key, moment - dt.timedelta(days=key % 3)) for key in keys]
            self.deliver("customer_events", f"events_{stamp}.csv", lines("customer_events", events))
        elif what == "unstamped":
            some = [*keys, *chance.sample(range(10 * number + 1), min(4, number))]
            self.deliver("sales", f"till{number}.csv", lines("sales", [self.sale(key, 5 + key % 3) for key in some]))
        elif what == "again" and old:
            self.deliver(*old)
        elif what == "renamed" and old:
            self.deliver(old[0], f"copy{number}.csv", old[2])
        elif what == "changed" and old:
            self.deliver(old[0], old[1], b"".join([*old[2].splitlines(keepends=True)[:3]]))
        else:
            self.deliver("sales", f"sales_{stamp}.csv", lines("sales", [self.sale(key, 2) for key in keys]))
            self.deliver("inventory", f"inventory_{stamp}.csv", lines("inventory", [movement(k, moment) for k in keys]))
        return what

    def sale(self, key: int, quantity: int) -> str:
        """A sale whose day and time depend on its key only."""
        return sale(key, DAY + dt.timedelta(days=key % 4, seconds=key), quantity, "5.00", f"{5 * quantity}.00")

    # -------------------------------------------------------------------------------------------- runs

    def start(self, host: int, plan: Plan | None = None, ahead: dt.timedelta | None = None) -> int:
        """Start GoldAll on a host, whose clock may go ahead."""
        plan = plan or Plan()
        waiting, ready = os.pipe()
        arguments = [
            "GoldAll", "--lake-root", f"{self.url}/lake", "--lake-staging", f"{self.url}/staging", "--lake-lock-lease",
            str(LEASE),
        ]  # fmt: skip
        temporary = self.place.root / f"tmp{host}"
        temporary.mkdir(exist_ok=True)

        def run() -> None:
            os.close(ready)
            os.environ.update(objectstores.environment(self.proxies.ports[host]))
            tempfile.tempdir = str(temporary)
            if ahead is not None:
                set_clock(ahead)
            os.read(waiting, 1)
            self.place.command(*arguments)()

        pid = fork(run)
        os.close(waiting)
        plan.pid = pid
        self.proxies.plan(host, plan)
        os.close(ready)  # go
        self.runs += 1
        return pid

    def run_until_through(self, ahead: dt.timedelta | None = None, most: int = 3) -> list[str]:
        """Run without faults until a run succeeds."""
        codes: list[int] = []
        while codes[-1:] != [0] and len(codes) < most:
            codes.append(wait(self.start(0, ahead=ahead)))
        return [] if codes[-1] == 0 else [f"runs ended with {codes}: {shown(self.place.said())}"]

    def ended(self, code: int, start: int, said: Sequence[str] = ()) -> list[str]:
        """What is wrong with the end of a run, which may fail only if it `said` something.

        `start`: where its output begins.
        """
        output = self.place.said()[start:]
        if code == 0 or (code in (30, 35) and any(text in output for text in said)):
            return []
        return [f"a run ended with {code}: {shown(output)}"]

    def look(self, to: Place) -> dict[str, Any]:
        """What a reader of the bucket finds: that of `see`, and `keys`."""
        keys = ask(download, self.server.environment, f"{self.url}/lake", str(to.root / "datalake"))
        found = to.look()
        found["keys"] = keys
        return found

    def close(self) -> None:
        self.proxies.close()
        self.place.remove()


def lines(domain: str, rows: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in (HEADERS[domain], *rows)).encode()


def put(environment: dict[str, str], url: str, path: str, content: str) -> int:
    """Upload a file; returns when the store says that was, in nanoseconds. Call it only in a forked child."""
    os.environ.update(environment)
    from_url(url).put(path, content.encode())
    directory, _, name = path.rpartition("/")
    # As listed, because the answer to a HEAD has no fractions of a second.
    return next(file.modified_ns for file in objects.ObjectStore(url).files(directory) if file.name == name)


def download(environment: dict[str, str], url: str, to: str) -> list[str]:
    """Download silver and gold, and list everything. Call it only in a forked child."""
    os.environ.update(environment)
    store = from_url(url)
    keys = [found["path"] for found in store.list().collect()]
    for key in keys:
        if key.startswith(("silver/", "gold/")):
            path = Path(to) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(store.get(key).bytes()))
    return keys


def set_clock(ahead: dt.timedelta) -> None:
    """Let the clock of this process go ahead, or behind: the one on the wall, and the one that leases are timed by."""

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.now(tz) + ahead

    for module in CLOCKS:
        module.dt = types.SimpleNamespace(**{**vars(dt), "datetime": Clock})  # type: ignore[assignment]
    true_clock = objects._clock
    objects._clock = lambda: true_clock() + ahead.total_seconds()


def judge(bucket: Bucket, workshop: Workshop) -> list[str]:
    """Compare the lake with a fresh local one of the same deliveries, and see that another run does nothing."""
    start = len(bucket.place.said())
    code = wait(bucket.start(1))
    violations = [] if code == 0 and NOTHING_TO_DO in bucket.place.said()[start:] else ["a last run does something"]
    found = bucket.look(workshop.new())
    violations += found["troubles"]
    violations += [f"{key} is left behind" for key in found["keys"] if not MADE.fullmatch(key)]
    fresh = workshop.new().create()
    staged: set[tuple[str, str]] = set()
    for landed in bucket.landed:
        if staged & landed.keys():  # before a name comes again, what it stands for must land
            assert fresh.run() == 0, fresh.said()
            staged.clear()
        for (domain, name), (content, modified) in landed.items():
            fresh.deliver(domain, name, content)
            os.utime(fresh.root / "local_output" / domain / name, ns=(modified, modified))
            staged.add((domain, name))
    assert fresh.run() == 0, fresh.said()
    violations += differences(found["content"], fresh.look()["content"])
    if "Traceback" in bucket.place.said():
        violations.append(f"a traceback was shown: {shown(bucket.place.said())}")
    return violations


# ------------------------------------------------------------------------------------------------ the steps


def killed(bucket: Bucket) -> list[str]:
    """SIGKILL at a request, perhaps at one of the next run too; the request reaches the store or not."""
    violations = []
    for _ in range(bucket.chance.choice([1, 1, 2])):
        start = len(bucket.place.said())
        plan = Plan(
            at=bucket.chance.randrange(1, 180),
            signal=signal.SIGKILL,
            fault=bucket.chance.choice(["drop", "lose", None]),
        )
        code = wait(bucket.start(0, plan))
        bucket.killed += code == -signal.SIGKILL
        violations += bucket.ended(code, start) if code != -signal.SIGKILL else []
    return violations + bucket.run_until_through()


def stopped(bucket: Bucket) -> list[str]:
    """Two hosts at once, one of which is stopped at a request, beyond its lease, and continued."""
    start = len(bucket.place.said())
    ahead = clock(bucket)
    plan = Plan(at=bucket.chance.randrange(1, 160), signal=signal.SIGSTOP)
    pid = bucket.start(1, plan, ahead)
    if bucket.chance.random() < 0.5:
        # The other one waits for its lock.
        status = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        bucket.stopped += status is not None and status.si_code == os.CLD_STOPPED
        violations = bucket.run_until_through(most=1)
    else:
        other = bucket.start(0)
        status = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        bucket.stopped += status is not None and status.si_code == os.CLD_STOPPED
        violations = bucket.ended(wait(other), start)
    bucket.proxies.go_on(1)
    os.kill(pid, signal.SIGCONT)
    return violations + bucket.ended(wait(pid), start, LATE) + bucket.run_until_through()


def at_once(bucket: Bucket) -> list[str]:
    """Two hosts at once, whose clocks differ, while files are delivered."""
    start = len(bucket.place.said())
    pids = [bucket.start(host, ahead=clock(bucket)) for host in (0, 1)]
    bucket.deliver_some(only_new=True)  # what a run lands before it is replaced, nobody can tell
    violations = [text for pid in pids for text in bucket.ended(wait(pid), start)]
    return violations + bucket.run_until_through(clock(bucket))


def faulty(bucket: Bucket) -> list[str]:
    """Faults of many requests."""
    start = len(bucket.place.said())
    share = bucket.chance.choice([0.01, 0.05])
    faults = {number: bucket.chance.choice(FAULTS) for number in range(1, 400) if bucket.chance.random() < share}
    bucket.faults += len(faults)
    violations = bucket.ended(wait(bucket.start(0, Plan(faults=faults))), start, ["cannot ", *LATE])
    return violations + bucket.run_until_through()


def clock(bucket: Bucket) -> dt.timedelta:
    """How far a host's clock goes ahead: seconds to hours, either way."""
    return dt.timedelta(seconds=bucket.chance.choice([0, 0, 5, 600, 40_000]) * bucket.chance.choice([-1, 1]))


STEPS: dict[str, Callable[[Bucket], list[str]]] = {
    "killed": killed,
    "stopped": stopped,
    "at once": at_once,
    "faulty": faulty,
}


def life(server: objectstores.Server, workshop: Workshop, seed: int, number: int, steps: int) -> list[str]:
    """Some steps in the life of one lake."""
    chance = seeded(seed, "objects", number)
    bucket = Bucket(workshop.new(), server, chance)
    history = []
    try:
        # Each kind of step about as often, in any order.
        kinds = [kind for _ in range(steps) for kind in chance.sample(list(STEPS), len(STEPS))][:steps]
        for kind in kinds:
            bucket.landed.append({})
            delivered = [bucket.deliver_some() for _ in range(chance.choice([1, 1, 2, 3]))]
            history.append(f"{', '.join(delivered)}; {kind}")
            if violations := STEPS[kind](bucket):
                return [f"{text} (after {history})" for text in violations]
        violations = judge(bucket, workshop)
        counts = f"{bucket.runs} runs, {bucket.killed} killed, {bucket.stopped} stopped, {bucket.faults} faults"
        with open(f"{workshop.directory}/counts", "a") as file:
            file.write(f"{steps} steps, {counts}\n")
        return [f"{text} (after {history})" for text in violations]
    finally:
        bucket.close()


def lives(short: bool, seed: int) -> Iterator[Row]:
    server = objectstores.seaweedfs()
    number, steps = (2, 4) if short else (12, 8)
    with Workshop() as workshop:
        violations = spread(lambda one: life(server, workshop, seed, one, steps), range(number))
        counts = Path(f"{workshop.directory}/counts")
        total: dict[str, int] = {}
        for count, what in re.findall(r"(\d+) (\w+)", counts.read_text() if counts.exists() else ""):
            total[what] = total.get(what, 0) + int(count)
        said = ", ".join(f"{total.get(what, 0):,} {what}" for what in ("runs", "killed", "stopped", "faults"))
        row = Row(f"steps of {number} lakes in an object store that two hosts work on: {said}", seed)
        row.add(violations, total.get("steps", 0))
        yield row


FAMILIES = {"objects": lives}
