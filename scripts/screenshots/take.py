"""Retake the READMEs' screenshots, from the luigid and the pages that scripts/run leaves running.

usage: .venv/bin/python scripts/screenshots/take.py    LUIGID_PORT (8082) and DOCS_PORT (8083): their ports
"""

import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

VISUALISER = f"http://127.0.0.1:{os.environ.get('LUIGID_PORT', '8082')}/static/visualiser/index.html"
PAGES = f"http://127.0.0.1:{os.environ.get('DOCS_PORT', '8083')}"


def take(page: Page, url: str, name: str, height: int, link: str | None = None) -> None:
    """Save the top of a page as `name`.png, 1,200 × `height` pixels; 256 colours keep the file small."""
    page.set_viewport_size({"width": 1200, "height": height})
    page.goto("about:blank")  # the visualiser ignores a change of the URL fragment alone
    page.goto(url)
    if link:
        page.get_by_role("link", name=link).first.click()
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    # MAXCOVERAGE also keeps the colours of small icons.
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(Path(__file__).with_name(f"{name}.png"), optimize=True)


with sync_playwright() as driver:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
    page = browser.new_page()
    take(page, f"{PAGES}/report.html", "report", 1000)
    take(page, f"{PAGES}/tables/daily_sales_summary.html", "table", 1200)
    take(page, f"{PAGES}/data_docs/index.html", "data_docs", 800, link="sales")
    take(page, f"{VISUALISER}#family=Gold", "visualiser", 900)
    browser.close()
