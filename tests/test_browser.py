"""The pages and the visualiser, as a person sees them in a real browser that can only reach this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from conftest import HEADERS, LakeUnderTest, Operated, sale

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

QUIET = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
MARKUP = ["<script>window.hacked = 1</script>", "<img src=x onerror=window.hacked=1>"]


class Watched:
    """A page that may load from this machine only; records refused requests, failures and errors."""

    def __init__(self, browser: playwright.Browser) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.refused: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        self.page.route("**/*", self._judge)
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", lambda answer: self.failed.append(answer.url) if answer.status >= 400 else None)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _judge(self, route: playwright.Route) -> None:
        where = urlsplit(route.request.url)
        if where.scheme in ("file", "data") or where.hostname == "127.0.0.1":
            route.continue_()
        else:
            self.refused.append(route.request.url)
            route.abort()

    def style(self, selector: str, name: str) -> str:
        """A computed style of the first matching element."""
        return self.page.locator(selector).first.evaluate(f"(found) => getComputedStyle(found)['{name}']")

    def is_clean(self) -> bool:
        assert (self.refused, self.failed, self.errors) == ([], [], [])
        assert self.page.evaluate("window.hacked") is None
        return True


def deliver_markup(lake: LakeUnderTest) -> None:
    """Deliver rows with HTML in their texts, valid and invalid ones."""
    script, image = MARKUP
    lake.deliver(
        "sales", "sales_20261101_120000.csv",
        sale("s1", category=script), sale("s2", category=image), sale(f"{script}{image}", quantity=""),
        sale("s3", quantity=image), f"{image},{script}{'x' * 300}",
    )  # fmt: skip
    lake.deliver("sales", f"sales_20261101_130000{image}.csv", "1", header=script)
    move = "m{0},2026-11-01T10:00:00,P{0},{1},W1,inbound,1,2.00,S1"
    lake.deliver("inventory", "inventory_20261101_120000.csv", move.format(1, script), move.format(2, image))
    visit = dict.fromkeys(HEADERS["customer_events"].split(","), image)
    visit |= {"event_id": "e1", "timestamp": "2026-11-01T10:00:00", "event_type": script}
    lake.deliver("customer_events", "events_20261101_120000.csv", ",".join(visit.values()))


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    # Chromium's sandbox does not work for root.
    arguments = [*QUIET, "--no-sandbox"] if os.geteuid() == 0 else QUIET
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield made
        made.close()


@pytest.fixture
def watched(browser: playwright.Browser) -> Iterator[Watched]:
    made = Watched(browser)
    yield made
    made.page.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """A lake after a successful run of GoldAll."""
    made = Operated(tmp_path_factory.mktemp("operated"))
    try:
        made.start()
        deliver_markup(made.lake)
        assert made.run() == 0
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """A lake after a successful run and another in which one domain failed."""
    made = Operated(tmp_path_factory.mktemp("failed"))
    try:
        made.start()
        deliver_markup(made.lake)
        assert made.run() == 0
        (made.lake.root / "expectations/inventory.json").write_text("{")
        made.lake.deliver("sales", "sales_20261101_140000.csv", sale("s4"))
        assert made.run() == 30
        yield made
    finally:
        made.stop()


@pytest.fixture(params=["from disk", "served"])
def site(request: pytest.FixtureRequest, operated: Operated) -> str:
    """Where the browser opens the pages."""
    return operated.on_disk if request.param == "from disk" else operated.served


@pytest.fixture
def made_again(lake: LakeUnderTest) -> LakeUnderTest:
    """A lake in which a late row changed a day that was over."""
    for hour, key in (("12", "s1"), ("13", "s2")):
        lake.deliver("sales", f"sales_20261101_{hour}0000.csv", sale(key))
        assert lake.run()
    return lake


def test_the_report_is_styled_and_loads_nothing(watched, site):
    watched.page.goto(f"{site}/report.html")
    assert watched.style("body", "maxWidth") == "1200px"
    assert watched.style(".card.good", "borderLeftColor") == "rgb(27, 127, 75)"
    assert watched.style("svg rect", "fill") == "rgb(47, 111, 187)"
    assert watched.page.locator("svg rect").first.bounding_box()["height"] > 20
    assert watched.page.locator("script").count() == 0
    assert watched.is_clean()


def test_the_report_is_dark_where_the_reader_is(watched, site):
    watched.page.emulate_media(color_scheme="dark")
    watched.page.goto(f"{site}/report.html")
    assert watched.style("body", "backgroundColor") == "rgb(31, 41, 51)"
    assert watched.style("body", "color") == "rgb(228, 231, 235)"


# The elements of each page that must be visible without scrolling sideways, the page itself or a box in it.
KEY_FIGURES = {
    "report.html": [
        ".card .state", ".card .big", "td[data-name=rows]", "td[data-name=invalid]", "td[data-name=duplicates]",
        "td[data-name=share]", "td[data-name='newest date']", "td[data-name='written (UTC)']", ".title", ".words",
        ".ranks td.number",
    ],
    "tables/category_sales_summary.html": [
        ".card .state", ".words", ".title", "td[data-name='rows that fail']", "td[data-name=type]", ".ranks td.number",
    ],
    "data_docs/index.html": [
        ".sign", ".title", "td[data-name=records]", "td[data-name=valid]", "td[data-name=invalid]",
        "td[data-name='rules failed']", "td[data-name='event dates']",
    ],
    "validation": [
        ".figures li", ".sign", ".title", "td[data-name='rows failing']", "td[data-name=share]", ".words",
        ".samples li",
    ],
}  # fmt: skip


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("name", KEY_FIGURES)
def test_a_page_fits_the_screen_with_all_that_matters(watched, operated, name, width):
    page = watched.page
    page.set_viewport_size({"width": width, "height": 844})
    if name == "validation":
        page.goto(f"{operated.on_disk}/data_docs/index.html")
        page.get_by_role("link", name="sales").click()
    else:
        page.goto(f"{operated.on_disk}/{name}")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    for selector in KEY_FIGURES[name]:
        found = page.locator(selector).all()
        assert found, selector
        for element in found:
            box = element.bounding_box()
            assert box, f"{selector} is hidden"
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, (selector, element.inner_text(), box)


def test_data_docs_are_styled_and_load_nothing(watched, site):
    watched.page.goto(f"{site}/data_docs/index.html")
    assert watched.style("body", "maxWidth") == "1200px"
    assert watched.style("table", "borderCollapse") == "collapse"
    watched.page.get_by_role("link", name="sales").click()
    assert watched.style(".figures li", "borderRadius") == "6px"
    assert watched.style("td.warn", "color") == "rgb(168, 100, 0)"
    assert watched.page.locator("td.bad").count() == 0, "nothing was withheld"
    assert watched.style(".ge-section", "borderTopStyle") == "solid"
    assert watched.is_clean()


def test_links_lead_from_the_report_to_data_docs_to_a_validation_and_back(watched, site, operated):
    page = watched.page
    page.goto(f"{site}/report.html")
    assert page.get_by_role("link", name="visualiser").get_attribute("href").startswith("http://127.0.0.1:")
    page.get_by_role("link", name="last validation").first.click()
    page.wait_for_url("**/validations/**")
    page.get_by_role("link", name="Data Docs").click()
    page.wait_for_url("**/data_docs/index.html")
    page.get_by_role("link", name="Lake report").click()
    page.wait_for_url("**/report.html")
    page.get_by_role("link", name="Data Docs").click()
    page.get_by_role("link", name="inventory").click()
    page.get_by_role("link", name="Lake report").click()
    page.wait_for_url("**/report.html")
    assert watched.is_clean()


def test_the_picture_of_the_lineage_leads_to_the_tables_and_they_to_the_validations(watched, site):
    page = watched.page
    page.goto(f"{site}/report.html")
    page.locator(".lineage a", has_text="inventory_net_position").click()
    page.wait_for_url("**/tables/inventory_net_position.html")
    assert page.locator(".lineage rect").count() == 4
    page.locator(".lineage a", has_text="inventory_movement_summary").click()
    page.wait_for_url("**/tables/inventory_movement_summary.html")
    page.get_by_role("link", name="Last validation").click()
    page.wait_for_url("**/data_docs/validations/inventory/**")
    page.go_back()
    page.get_by_role("link", name="Lake report").click()
    page.wait_for_url("**/report.html")
    assert watched.is_clean()


def test_a_mark_on_a_day_leads_to_what_changed(watched, made_again):
    page = watched.page
    page.goto(f"file://{made_again.root}/datalake/quality/report.html")
    mark = page.locator("a.mark[href*=daily_sales_summary]").first
    assert "order_count 1 → 2" in mark.get_attribute("title")
    mark.click()
    page.wait_for_url("**/tables/daily_sales_summary.html#restated-2026-11-01")
    row = page.locator("#restated-2026-11-01")
    playwright.expect(row).to_be_in_viewport()
    assert "order_count 1 → 2" in row.inner_text()
    assert watched.is_clean()


def test_markup_in_the_data_is_shown_as_text(watched, site):
    script, image = MARKUP
    watched.page.goto(f"{site}/report.html")
    for text, heading in (
        (script, "Revenue by category"),
        (image, "Revenue by category"),
        (script, "Net stock position"),
        (f"130000{image}", "Rejected files"),
        (script, "Rejected files"),
    ):
        panel = watched.page.locator(".panel").filter(has=watched.page.get_by_role("heading", name=heading, exact=True))
        assert text in panel.inner_text(), heading
    watched.page.goto(f"{site}/tables/category_sales_summary.html")
    assert script in watched.page.inner_text(".ranks")
    watched.page.goto(f"{site}/data_docs/index.html")
    watched.page.get_by_role("link", name="sales").click()
    assert f"{script}{image}" in watched.page.inner_text("body")
    watched.page.goto(f"{site}/data_docs/index.html")
    watched.page.get_by_role("link", name="customer_events").click()
    assert watched.page.inner_text("body").count(script) >= 2, "among our examples, and among Great Expectations'"
    assert watched.is_clean()


def open_tasks(watched: Watched, operated: Operated, family: str) -> playwright.Locator:
    """The visualiser's rows of a family of tasks."""
    page = watched.page
    page.goto(f"{operated.visualiser}/static/visualiser/index.html#family={family}")
    rows = page.locator("#taskTable tbody tr").filter(has=page.locator("td", has_text=re.compile(f"^{family}$")))
    rows.first.wait_for()
    return rows


def test_the_visualiser_shows_a_run_with_its_messages_and_links(watched, operated):
    page = watched.page
    (silver,) = open_tasks(watched, operated, "Silver").filter(has_text="sales").all()
    assert "DONE" in silver.inner_text()
    assert "date=2026-11-01" in silver.inner_text()
    silver.locator(".statusMessage").click()
    message = page.locator("#statusMessageModal pre")
    playwright.expect(message).to_have_text("1 partition, 5 records, 60.0% invalid, 0 duplicates")
    assert page.evaluate("window.hacked") is None
    page.reload()
    (silver,) = open_tasks(watched, operated, "Silver").filter(has_text="sales").all()
    with page.context.expect_page() as opened:
        silver.locator("a[target=_blank]").click()
    assert opened.value.title() == "sales 2026-11-01: Data Docs"
    opened.value.close()
    for gold in open_tasks(watched, operated, "Gold").all():
        assert "DONE" in gold.inner_text()
        (table,) = re.findall(r"table=(\w+)", gold.inner_text())
        assert gold.locator(f"a[href='{operated.served}/tables/{table}.html']").count() == 1
    # Luigi's own page requests an external font, and works without it.
    assert {urlsplit(url).hostname for url in watched.refused} <= {"fonts.googleapis.com"}


def test_the_graph_of_a_run_fits_a_screen(watched, operated):
    link = open_tasks(watched, operated, "GoldAll").locator("a[href*='tab=graph']").first.get_attribute("href")
    watched.page.goto(f"{operated.visualiser}/static/visualiser/index.html{link.replace('&hideDone=1', '')}")
    nodes = watched.page.locator("svg a text")
    nodes.first.wait_for()
    families = nodes.all_text_contents()
    assert set(families) == {"GoldAll", "Gold", "Report", "Views", "DomainSilver", "Silver", "Bronze"}
    assert len(families) <= 25


def test_a_failed_task_is_red_in_the_visualiser_and_says_why(watched, failed):
    page = watched.page
    silver = open_tasks(watched, failed, "DomainSilver").filter(has_text="inventory").filter(has_text="FAILED").first
    red = silver.locator(".status-icon").evaluate("(icon) => getComputedStyle(icon).backgroundColor")
    assert red == "rgb(221, 75, 57)"
    silver.locator(".showError").click()
    page.get_by_text("expectations/inventory.json is not JSON").first.wait_for()
    assert "DONE" in open_tasks(watched, failed, "Report").first.inner_text()
    page.goto(f"{failed.served}/report.html")
    assert "expectations/inventory.json is not JSON" in page.locator(".card.bad").inner_text()
    assert page.locator(".card.bad").count() == 1
    assert "of 6 rows" in page.locator(".card.warn").filter(has_text="sales").inner_text(), "it was made last"


def test_luigid_gives_metrics_when_asked_to(operated):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{operated.visualiser}/metrics") as answer:
        assert 'luigi_task_done_total{family="Gold"} 7.0' in answer.read().decode()


def test_the_servers_say_whether_they_run_and_stop_when_told(tmp_path):
    made = Operated(tmp_path)
    try:
        for name in ("luigid", "docs"):
            assert made.script(name, "status").returncode == 1
        made.start()
        for name in ("luigid", "docs"):
            assert made.script(name, "status").returncode == 0
            assert made.script(name, "start").returncode == 0, "one that runs is left alone"
        other = made.script("docs", "start", str(tmp_path))
        assert other.returncode == 1 and f"Already serving {made.lake.root}/datalake" in other.stdout
    finally:
        made.stop()
    for name in ("luigid", "docs"):
        assert made.script(name, "status").returncode == 1


@pytest.mark.parametrize("name", ["luigid", "docs"])
def test_a_port_that_is_taken_is_said_at_once(tmp_path, name):
    made = Operated(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(made.ports[f"{name.upper()}_PORT"])))
        other.listen()
        done = made.script(name, "start")
    assert done.returncode == 1
    assert f"{name.upper()}_PORT" in done.stdout and "is in use" in done.stdout


def test_a_run_goes_on_without_luigid(tmp_path):
    made = Operated(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(made.ports["LUIGID_PORT"])))
        other.listen()
        done = made.script(
            "run", "--lake-root", str(made.lake.root / "datalake"), "--lake-staging", str(made.lake.root / "staged")
        )
    assert done.returncode == 0, done.stdout
    assert "Continuing without the visualiser" in done.stdout
    assert (made.lake.root / "datalake/quality/report.html").exists()


def test_the_summary_links_to_the_pages_where_they_are_served_and_to_the_files_elsewhere(operated):
    def said(url: str) -> str:
        command = [sys.executable, "-m", "lakejobs.commands.summary", "--lake-docs-url", url]
        done = subprocess.run(command, cwd=operated.lake.root, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"Report: {operated.served}/report.html" in said(operated.served)
    assert f"Data Docs: {operated.served}/data_docs/index.html" in said(operated.served)
    # Another server answers there.
    assert f"Report: {operated.on_disk}/report.html" in said(operated.visualiser)
