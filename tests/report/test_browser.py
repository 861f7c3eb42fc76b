"""The page in a real browser: without an error or a network, light and dark, on a screen and on a phone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.runs import CHARTS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, BROWSERS) if path), None)
ARTEFACTS = Path(__file__).resolve().parents[2] / "output" / "tests"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=60000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",  # the frame of a phone is looked into
)
# Of the style sheet: paper and ink.
LIGHT, DARK = ("rgb(255, 255, 255)", "rgb(27, 27, 31)"), ("rgb(22, 23, 27)", "rgb(232, 232, 236)")
PHONE = 390  # CSS pixels; a headless window is not narrower than 500
# Tells of the page in a frame: its width, and its paper before and after a press of the button.
FRAME = """<!doctype html><body style="margin: 0">
<iframe src="report.html" style="border: 0; width: {width}px; height: {height}px"></iframe>
<script>
const frame = document.querySelector("iframe");
function look() {{
  const page = frame.contentDocument, told = document.body.dataset;
  if (!page.documentElement.dataset.charts) return setTimeout(look, 100);
  told.scrolled = page.documentElement.scrollWidth;
  told.charts = page.documentElement.dataset.charts;
  const paper = () => getComputedStyle(page.body).backgroundColor;
  told.before = paper();
  page.getElementById("theme").click();
  told.after = paper();
  page.getElementById("theme").click();
}}
setTimeout(look, 100);
</script>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium"
)


def browse(page, name, size, *options):
    """The page as it stands after its scripts; a screenshot is left to be looked at."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    picture = ARTEFACTS / f"report_{name}.png"
    picture.unlink(missing_ok=True)
    asked = ["--dump-dom", f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}"]
    command = [CHROMIUM, *OPTIONS, *options, *asked, page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert picture.stat().st_size > 50_000
    return shown.stdout


@pytest.mark.parametrize(
    ("name", "options", "colors"), [("light", [], LIGHT), ("dark", ["--force-dark-mode"], DARK)]
)
def test_every_chart_is_drawn_in_the_colours_of_the_page(page, name, options, colors):
    shown = browse(page, name, (1280, 7000), *options)
    assert f'data-charts="{len(CHARTS)}"' in shown
    for chart in CHARTS:
        drawn = re.search(rf'id="chart-{chart}"[^>]*>(.*?)</figure>', shown, re.DOTALL)
        assert drawn and "main-svg" in drawn[1], chart
        inks = set(re.findall(r"fill: (rgb\([^)]*\)); fill-opacity: 1; font", drawn[1]))
        assert colors[1] in drawn[1], (chart, inks)


def test_a_phone_shows_it_all_without_scrolling_sideways(page):
    height = 10000
    around = page.with_name("phone.html")
    around.write_text(FRAME.format(width=PHONE, height=height))
    shown = browse(around, "phone", (500, height))
    told = dict(re.findall(r'data-(\w+)="([^"]*)"', shown.partition("<iframe")[0]))
    assert told["charts"] == str(len(CHARTS))
    assert int(told["scrolled"]) <= PHONE
    assert (told["before"], told["after"]) == (LIGHT[0], DARK[0])
