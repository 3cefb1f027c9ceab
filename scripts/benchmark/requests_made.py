"""Count the requests that runs make to an object store: a real SeaweedFS, through a proxy that counts.

The answer does not depend on the machine: the lakes have a file of one row for each domain and day.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import objectstores

from lakejobs.layers import staging
from lakejobs.project import domains

DAY = dt.datetime(2026, 3, 1, 12)  # noqa: DTZ001 - batches are UTC
DOMAINS = domains()
KINDS = ("LIST", "GET", "HEAD", "PUT", "DELETE")


class Lake:
    """A lake in an object store with a file of one row for each domain and day."""

    def __init__(self, proxy: objectstores.Proxy, server: objectstores.Server, days: int) -> None:
        from obstore.store import from_url

        self.proxy, self.days, self.url = proxy, days, objectstores.new_root()
        self.directory = tempfile.TemporaryDirectory(prefix="bench-")
        os.environ.update(server.environment)
        self.staging = from_url(f"{self.url}/staging")
        with ThreadPoolExecutor(8) as pool:
            batches = [DAY - dt.timedelta(days=number) for number in range(days)]
            list(pool.map(lambda batch: [self.deliver(name, batch) for name in DOMAINS], batches))

    def deliver(self, domain: str, batch: dt.datetime, late: int = 0) -> None:
        """Stage a file of one row of its day, or of `late` days before."""
        text = io.StringIO()
        staging.write_batch(DOMAINS[domain], batch, 1, text)
        event = batch - dt.timedelta(days=late)
        content = text.getvalue().replace(f"{batch:%Y-%m-%d}", f"{event:%Y-%m-%d}").encode()
        self.staging.put(f"{domain}/{DOMAINS[domain].prefix}_{batch:%Y%m%d_%H%M%S}.csv", content)

    def run(self) -> Counter[str]:
        """Run GoldAll; returns the number of requests by kind."""
        self.proxy.requests.clear()
        command = [
            "luigi", "--module", "lakejobs", "GoldAll", "--local-scheduler", "--lake-root", f"{self.url}/lake",
            "--lake-staging", f"{self.url}/staging",
        ]  # fmt: skip
        environment = {**os.environ, **self.proxy.environment, "TMPDIR": self.directory.name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return Counter(objectstores.kind(request) for request in self.proxy.requests)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench --requests", description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=int, nargs="*", default=[4, 365], help="days of the lakes (4 and 365)")
    parser.add_argument("--show", action="store_true", help="list the requests of the runs after the first")
    arguments = parser.parse_args()
    os.chdir(Path(__file__).parent.parent.parent)
    server = objectstores.seaweedfs()
    proxy = objectstores.Proxy(server)
    print(f"{dt.datetime.now(dt.UTC).date()}, Python {platform.python_version()}, SeaweedFS\n")
    print(f"| run | partitions | {' | '.join(KINDS)} | all |")
    print(f"|---|--:|{'--:|' * len(KINDS)}--:|", flush=True)
    for days in arguments.days:
        lake = Lake(proxy, server, days)

        def show(run: str) -> None:
            counts = lake.run()  # noqa: B023
            cells = [run, f"{len(DOMAINS) * lake.days:,}", *(f"{counts[kind]:,}" for kind in KINDS)]  # noqa: B023
            print(f"| {' | '.join(cells)} | {counts.total():,} |", flush=True)
            if arguments.show and run != "first":
                for request in proxy.requests:
                    print("   ", *request)

        show("first")
        show("nothing to do")
        lake.deliver("sales", DAY + dt.timedelta(minutes=5))
        show("a new file of sales")
        lake.deliver("sales", DAY + dt.timedelta(minutes=10), late=1)
        show("a late row of sales")
        lake.directory.cleanup()


if __name__ == "__main__":
    main()
