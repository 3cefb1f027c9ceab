"""`lakejobs check`: what is wrong, failed or late, told once to whom it concerns."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, print_json
from lakejobs.messages import LakeError, counted

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run

LOCK = "alerts_"
"""No domain can have this name."""


@click.command(epilog=EPILOG)
@asking
def check(run: Run, as_json: bool) -> int:
    """Look for what is wrong, failed or late, and tell the channels in [alerts] urls of what changed.

    Each is told once when something begins, and once when it is over. Exits 1 if something is wrong, failed or late,
    else 0, whether or not a channel can be reached.
    """
    from lakejobs.config import alerts as settings
    from lakejobs.explain import alerts, status
    from lakejobs.storage import layout

    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    found = alerts.problems(run, status.look(run), now)
    told, lake = [], layout.current()
    if urls := settings().channels:
        with lake.lock(LOCK):
            known = alerts.remembered(lake.store)
            channels = {}
            for number, url in enumerate(urls, 1):
                name = alerts.channel_id(url)
                before = known.get(name, alerts.Told({}))
                news = before.news(found)
                failure = send(number, url, news) if news else ""
                told.append(failure or (f"channel {number} was told of {counted(len(news), 'change')}" if news else ""))
                channels[name] = alerts.Told(before.problems if failure else found, failure)
            if channels != known:
                alerts.remember(lake.store, channels)
    said = [line for line in told if line]
    if as_json:
        print_json({"problems": found, "told": said})
    else:
        click.echo("\n".join([*(found.values() or ["Nothing is wrong, failed or late."]), *said]))
    return 1 if found else 0


def send(number: int, url: str, news: Sequence[str]) -> str:
    """Tell a channel. Returns what is wrong with it, '' if nothing. Never shows its URL, which may have a password."""
    from lakejobs.config import lake as settings

    try:
        import apprise
    except ImportError:
        raise LakeError("[alerts] urls need the package apprise: pip install 'PATH/TO/THE/CLONE[alerts]'") from None
    channel = apprise.Apprise()
    with _quiet():
        if not channel.add(url):
            return f"[alerts] urls: channel {number} is not a URL that apprise knows"
        kind = channel[0].service_name
        report = f"\n\n{settings().docs_url}/report.html" if settings().docs_url else ""
        title = f"lakejobs: {news[0]}" if len(news) == 1 else f"lakejobs: {counted(len(news), 'change')}"
        try:
            reached = bool(channel.notify(title=title[:150], body="\n".join(news) + report))
        except Exception as error:  # noqa: BLE001 - whatever a channel does must not hide what is wrong
            reached = False
            kind = f"{kind}, {type(error).__name__}"
    return "" if reached else f"[alerts] urls: channel {number} ({kind}) could not be told; the next check tries again"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """apprise's own messages may show what is in a URL."""
    logger = logging.getLogger("apprise")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
