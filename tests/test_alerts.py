"""Alerts: what `lakejobs check` tells a webhook and a mail server, and when."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import os
import subprocess
import sys
import threading
from email import message_from_bytes
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from conftest import free_port, sale

from lakejobs.explain.alerts import Deadline, Told, deadlines

LAKEJOBS = Path(sys.executable).with_name("lakejobs")
LUIGI = Path(sys.executable).with_name("luigi")


@contextlib.contextmanager
def webhook():
    """A server on loopback; yields its port and what it was sent."""
    received = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def mail_server():
    received = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            received.append(message_from_bytes(envelope.content))
            return "250 OK"

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, received
    finally:
        controller.stop()


@pytest.fixture
def configure(lake):
    def write(urls: str = "", deadlines: str = "{}") -> None:
        (lake.root / "luigi.cfg").write_text(
            f"[lake]\nroot = datalake\n[alerts]\nurls = {urls}\ndeadlines = {deadlines}\n".replace("%", "%%")
        )

    return write


def command(lake, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=lake.root, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "LUIGI_CONFIG_PATH": str(lake.root / "luigi.cfg"), **environment},
    )  # fmt: skip
    assert "s3cret" not in done.stdout + done.stderr
    return done


def check(lake, **environment: str) -> tuple[int, list[str]]:
    done = command(lake, str(LAKEJOBS), "check", **environment)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def run(lake) -> int:
    return command(lake, str(LUIGI), "--module", "lakejobs", "GoldAll", "--local-scheduler").returncode


def test_a_change_is_told_once_by_web_and_mail_and_so_is_its_end(lake, configure):
    suite = lake.root / "expectations/sales.json"
    rules = suite.read_text()
    with webhook() as (port, posts), mail_server() as (smtp, mails):
        configure(
            f"json://me:s3cret@127.0.0.1:{port} "
            f"mailto://127.0.0.1:{smtp}?from=lake@example.com&to=me@example.com&mode=insecure"
        )
        lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
        assert run(lake) == 0
        assert check(lake) == (0, ["Nothing is wrong, failed or late."])
        assert (posts, mails) == ([], [])
        withheld = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 5}, "meta": {"code": "FEW"}}
        content = json.loads(rules)
        suite.write_text(json.dumps({**content, "expectations": [*content["expectations"], withheld]}))
        for attempt in range(2):
            assert run(lake) == 30
            code, said = check(lake)
            assert (code, said[1:]) == (
                1, [f"channel {number} was told of 1 change" for number in (1, 2)] if attempt == 0 else [],
            )  # fmt: skip
            assert said[0].startswith("sales: the last run failed: sales: withheld 2026-11-01")
        (post,), (mail,) = posts, mails
        assert "FEW" in post["message"]
        assert post["message"].endswith("http://127.0.0.1:8083/report.html")
        assert post["title"].startswith("lakejobs: sales: the last run failed: ")
        assert mail["To"] == "me@example.com"
        assert "lakejobs: sales: the last run failed" in str(mail["Subject"]).replace("\n", "")
        suite.write_text(rules)
        assert run(lake) == 0
        assert check(lake)[0] == 0
        assert check(lake) == (0, ["Nothing is wrong, failed or late."])
        assert posts[1]["message"].startswith("over: sales: the last run failed")
        assert (len(posts), len(mails)) == (2, 2)
        # What is remembered is only a memory.
        (lake.root / "datalake/_alerts.json").write_text("{")
        assert check(lake)[0] == 0
        assert len(posts) == 2


def test_a_dead_channel_fails_nothing_is_seen_and_is_told_later(lake, configure):
    port = free_port()
    configure("json://me:s3cret@127.0.0.1:${ALERTS_PORT}", '{"sales": "00:00"}')
    lake.deliver("inventory", "inventory_20261101_120000.csv")
    assert run(lake) == 0
    dead = "[alerts] urls: channel 1 (JSON) could not be told; the next check tries again"
    code, said = check(lake, ALERTS_PORT=str(port))
    assert (code, said[-1]) == (1, dead)
    status = command(lake, str(LAKEJOBS), "status", ALERTS_PORT=str(port))
    assert (status.returncode, status.stdout.splitlines()[-1]) == (2, dead)
    assert "s3cret" not in (lake.root / "datalake/_alerts.json").read_text()
    with webhook() as (alive, posts):
        configure(f"json://127.0.0.1:{alive}", '{"sales": "00:00"}')
        assert check(lake)[1][-1] == "channel 1 was told of 1 change"
        assert posts[0]["message"].startswith("no delivery of sales yet, expected by ")
        lake.deliver("sales", "till.csv", sale("s1"))
        assert check(lake) == (0, ["Nothing is wrong, failed or late.", "channel 1 was told of 1 change"])
    configure("klingon://x")
    assert check(lake)[1] == ["Nothing is wrong, failed or late."], "there is nothing to tell"


def test_a_domain_is_late_if_nothing_came_since_the_deadline_before(lake, configure):
    configure(deadlines='{"sales": "00:00"}')
    today = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    day_before, long_ago = (today - dt.timedelta(days=days) for days in (2, 9))
    lake.deliver("sales", f"sales_{long_ago:%Y%m%d_%H%M%S}.csv", sale("s1", time=f"{long_ago:%Y-%m-%d}"))
    lake.deliver("sales", f"sales_{day_before:%Y%m%d}_000000.csv", sale("s2", time=f"{day_before:%Y-%m-%d}"))
    assert run(lake) == 0
    assert check(lake) == (
        1, [f"no delivery of sales since {day_before:%Y-%m-%d} 00:00, expected by {today:%Y-%m-%d} 00:00 UTC"],
    )  # fmt: skip
    lake.deliver("sales", f"sales_{today:%Y%m%d}_000000.csv", sale("s3", time=f"{today:%Y-%m-%d}"))
    assert check(lake)[0] == 0, "it need not have landed"


@pytest.mark.parametrize(
    ("deadline", "now", "expected"),
    [
        ("07:00", "2026-11-30 07:00", ("2026-11-29 07:00", "2026-11-30 07:00")),
        ("07:00", "2026-11-30 06:59", ("2026-11-28 07:00", "2026-11-29 07:00")),
        ("07:00 Mon-Fri", "2026-11-30 08:00", ("2026-11-27 07:00", "2026-11-30 07:00")),
        ("07:00 Mon-Fri", "2026-11-29 08:00", ("2026-11-26 07:00", "2026-11-27 07:00")),
        ("07:00 sat-mon", "2026-12-02 08:00", ("2026-11-29 07:00", "2026-11-30 07:00")),
        ("07:00 Wed", "2026-12-02 06:00", ("2026-11-18 07:00", "2026-11-25 07:00")),
    ],
)
def test_deadlines(lake, monkeypatch, deadline, now, expected):
    monkeypatch.setattr("lakejobs.explain.alerts.settings", lambda: type("_", (), {"deadlines": {"sales": deadline}}))
    found: Deadline = deadlines()["sales"]
    assert tuple(map(str, found.last_two(dt.datetime.fromisoformat(now)))) == tuple(f"{one}:00" for one in expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('deadlines = {"sale": "07:00"}', "[alerts] deadlines: unknown domain sale; known domains: sales"),
        ('deadlines = {"sales": "7am"}', "[alerts] deadlines: sales: expected a time (UTC) such as"),
        ('deadlines = {"sales": "07:00 Monday"}', "[alerts] deadlines: sales: expected a time (UTC) such as"),
        ('deadlines = {"sales": 7}', "[alerts] deadlines: sales: expected a time (UTC) such as"),
        ("url = json://x", "unknown setting [alerts] url; expected one of urls, deadlines"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(lake, setting, message):
    (lake.root / "luigi.cfg").write_text(f"[alerts]\n{setting}\n")
    (lake.root / "datalake").mkdir()
    done = command(lake, str(LAKEJOBS), "check")
    assert done.returncode == 2
    assert done.stderr.startswith(message)


def test_news_are_what_began_and_what_is_over():
    told = Told({"a wrong": "a", "b late": "b"})
    assert told.news({"b late": "b, since longer", "c failed": "c"}) == ["c", "over: a"]


def test_a_run_and_a_status_without_channels_ask_for_nothing(lake, configure):
    configure()
    lake.deliver("sales", "sales_20261101_120000.csv", sale("s1"))
    assert run(lake) == 0
    assert check(lake) == (0, ["Nothing is wrong, failed or late."])
    assert not (lake.root / "datalake/_alerts.json").exists()
