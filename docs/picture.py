"""The picture of the README: one figure of a report, as a browser paints it.

python -m ionrt report compare_ions && python docs/picture.py reports/compare_ions.html docs/compare_ions.png

Needs chromium and chromedriver (Debian: `apt-get install chromium chromium-driver`) and selenium, which `make setup` installs.
"""

import sys
import time
from pathlib import Path

from selenium import webdriver

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from browser import needs_chromium  # browser and driver of this computer: nothing is looked up elsewhere

WHICH = 0  # RBE-weighted dose of the five ions on CT


def main(report: str, picture: str) -> None:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1300,900"):
        options.add_argument(flag)
    options.binary_location, driver_path = needs_chromium()
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        driver.get(Path(report).resolve().as_uri())
        time.sleep(5)  # the plots are painted by scripts in the page
        driver.find_elements("css selector", ".plot")[WHICH].screenshot(picture)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(*sys.argv[1:3])
