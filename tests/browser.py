"""A headless browser without a network, for tests of reports."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1440,1000",
]
# per plot (its canvas for data and the one for overlays): the number of colours seen, at most 4
PAINTED = """
const plots = new Map();
const walk = root => { for (const e of root.querySelectorAll('*')) {
  if (e.tagName === 'CANVAS' && e.width > 50 && e.height > 50) {
    const p = e.getContext('2d').getImageData(0, 0, e.width, e.height).data, seen = new Set();
    for (let i = 0; i < p.length && seen.size < 4; i += 4) seen.add((p[i] << 16 | p[i + 1] << 8 | p[i + 2]) + ':' + p[i + 3]);
    plots.set(e.parentNode, Math.max(seen.size, plots.get(e.parentNode) || 0));
  }
  if (e.shadowRoot) walk(e.shadowRoot);
} };
walk(document);
return [...plots.values()];
"""


def needs_chromium() -> tuple[str, str]:
    """Paths of browser and driver; skips with a reason where they are absent, fails in CI."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


DEEP = """
const found = [];
const walk = root => { for (const e of root.querySelectorAll('*')) {
  if (e.matches(arguments[0])) found.push(e);
  if (e.shadowRoot) walk(e.shadowRoot);
} };
walk(document);
return found;
"""


class Page:
    """An HTML file, or a page that this machine serves, opened in a browser that has no network."""

    def __init__(self, path: Path | str, profile: Path) -> None:
        from selenium import webdriver

        browser, driver = needs_chromium()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        served = isinstance(path, str)
        if served:  # nothing but this machine has an address
            options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        if not served:
            self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        self.driver.get(path if isinstance(path, str) else path.resolve().as_uri())

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def canvases(self, at_least: int, seconds: float = 60.0) -> list[int]:
        """Number of colours (at most 4) of every figure, once there are `at_least` and each has more than one."""
        end = time.monotonic() + seconds
        while True:
            colours = self.driver.execute_script(PAINTED)
            if (len(colours) >= at_least and min(colours) > 1) or time.monotonic() > end:
                return colours
            time.sleep(0.5)

    def elements(self, selector: str, at_least: int = 1, seconds: float = 60.0) -> list:
        """Elements of a style selector, those within shadow roots among them."""
        end = time.monotonic() + seconds
        while True:
            found = self.driver.execute_script(DEEP, selector)
            if len(found) >= at_least or time.monotonic() > end:
                return found
            time.sleep(0.3)

    def errors(self) -> list[str]:
        """What the console holds against the page."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
