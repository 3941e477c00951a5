"""Walk through the studio in a real browser, from consent to the blind verdict and "forget me", and photograph it.

`python bench/studio_tour.py --adapter models/ppd --out runs/studio_tour` starts `ppd studio` with a file of its own and
drives a headless Chromium through it four times: wide and a phone's width, light and dark. Each walk uses the keyboard
as well as clicks, and fails when a page scrolls sideways, something moves while pictures load, a control has no name,
text is too pale (WCAG 2.2, 4.5:1), or the browser logs an error. Needs Debian's `chromium` and `chromium-driver`, and
`pip install -e .[tour]`; two minutes.
"""

import argparse
import base64
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import served
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from studio_visitor import studio

until = partial(served.until, every_s=0.05)  # some of these waits are measured
SIZES = {"wide": (1280, 900), "phone": (375, 780)}
NAMELESS = """
return [...document.querySelectorAll('a, button, input:not([type=hidden]), select, summary, img')].filter(e => {
  if (e.closest('[hidden]') || !e.checkVisibility()) return false;
  if (e.tagName === 'IMG') return !e.hasAttribute('alt');
  const labels = [...(e.labels ?? [])].some(label => label.innerText.trim());
  const named = labels || e.innerText?.trim() || e.getAttribute('aria-label');
  return !named && !e.querySelector('img[alt]:not([alt=""])');
}).map(e => e.outerHTML.slice(0, 120));
"""
# Relative luminance and contrast as WCAG defines them, of every piece of text against the nearest painted background.
PALE = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                         return canvas.getImageData(0, 0, 1, 1).data; };
const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                             .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
                                                     if (c[3] > 250) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('[hidden], :disabled') &&
    e.getBoundingClientRect().right > 0 && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
  const [one, two] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  return [(one + .05) / (two + .05), e.textContent.trim().slice(0, 60)];
}).filter(([contrast]) => contrast < 4.5);
"""
WATCH_SHIFTS = """
window.shifted = [];
new PerformanceObserver(list => list.getEntries().forEach(e => {
  if (!e.hadRecentInput) window.shifted.push([e.value, ...e.sources.map(s => s.node?.outerHTML?.slice(0, 90))]);
})).observe({type: 'layout-shift', buffered: true});
"""
SMALL = """
return [...document.querySelectorAll('a.button, button, input:not([type=hidden]), select')].filter(e => {
  const box = (e.closest('label') ?? e).getBoundingClientRect();
  return e.checkVisibility() && !e.closest('[hidden]') && (box.height < 24 || box.width < 24);
}).map(e => e.outerHTML.slice(0, 90));
"""


class Tour:
    """One walk: a browser of some size and colour scheme."""

    def __init__(self, driver: webdriver.Chrome, address: str, out: Path, log: Callable[[str], None]) -> None:
        self.driver, self.address, self.out, self.log = driver, address, out, log
        out.mkdir(parents=True, exist_ok=True)
        self.faults: list[str] = []
        self.n = 0

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)
        self.driver.execute_script(WATCH_SHIFTS)

    def find(self, css: str) -> WebElement:
        until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css), 60, f"no {css} on {self.driver.current_url}")
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        """As a finger does: whatever lies at the middle of it gets the click."""
        element = self.find(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, *keys: str) -> None:
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def says(self, text: str, within_s: float = 60) -> None:
        said = "return document.body?.innerText ?? ''"  # between two pages there is no body
        until(lambda: text in self.driver.execute_script(said), within_s, f"{text!r} is not said")

    def showing(self) -> str:
        """Which pair is on the page."""
        return str(self.driver.execute_script("return document.querySelector('[name=showing]')?.value ?? ''"))

    def answer(self, give: Callable[[], None]) -> None:
        """Answer, and wait for what comes next."""
        before = self.showing()
        give()
        until(lambda: self.showing() != before, 60, "the pair stays")

    def heading(self) -> str:
        """In one step: htmx may put another page in place between finding an element and reading it."""
        return str(self.driver.execute_script("return document.querySelector('h1')?.innerText ?? ''"))

    def photograph(self, name: str) -> None:
        """The whole page, and whatever is wrong with it."""
        until(lambda: self.driver.execute_script("return [...document.images].every(i => i.complete)"), 30, "no images")
        time.sleep(0.3)
        self.n += 1
        whole = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (self.out / f"{self.n:02d}-{name}.png").write_bytes(base64.b64decode(whole["data"]))
        width = self.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        checks = {
            "scrolls sideways": [width] if width[0] > width[1] else [],
            "has no name": self.driver.execute_script(NAMELESS),
            "is too pale": self.driver.execute_script(PALE),
            "is too small to hit": self.driver.execute_script(SMALL),
            "moved by itself": [s for s in self.driver.execute_script("return window.shifted ?? []") if s[0] > 0.02],
            "went wrong": [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"],
        }
        self.driver.execute_script("window.shifted = []")
        for fault, found in checks.items():
            if found:
                self.faults.append(f"{self.out.name}/{name}: {fault}: {found[:4]}")


def walk(tour: Tour) -> None:
    """From the first page to the last."""
    tour.open("/")
    tour.photograph("consent")
    tour.click("button.main")  # without the box: the browser itself says what is missing
    assert tour.driver.current_url.endswith("/"), tour.driver.current_url
    tour.click("input[name=agree]")
    tour.click("button.main")
    until(lambda: tour.heading() == "Which do you prefer?", 600, "nothing to choose between")
    tour.driver.execute_script(WATCH_SHIFTS)
    tour.photograph("choose-first")
    began = time.monotonic()
    tour.answer(lambda: tour.press(Keys.ARROW_LEFT))
    tour.says("Choice 2 of 4")
    tour.log(f"{tour.out.name}: the next pair after {time.monotonic() - began:.2f} s, as the browser sees it")
    tour.answer(lambda: tour.press("s"))
    tour.says("Choice 2 of 4")
    tour.answer(lambda: tour.press("u"))
    tour.says("Taken back")
    tour.photograph("choose-taken-back")
    tour.press(Keys.ARROW_RIGHT)
    tour.says("Choice 3 of 4")
    tour.answer(lambda: tour.click("button[value=left]"))
    tour.says("Choice 4 of 4")
    tour.press(Keys.TAB)
    tour.photograph("choose-last")
    began = time.monotonic()
    tour.click("button[value=right]")
    tour.says("Pictures for you")
    tour.photograph("see-waiting")
    mine = "return [...document.querySelectorAll('.pair .tile:first-child img')].filter(i => i.complete).length"
    until(lambda: tour.driver.execute_script(mine) >= 8, 300, "no eight pictures")
    tour.log(f"{tour.out.name}: eight pictures {time.monotonic() - began:.1f} s after the fourth click")
    until(lambda: not tour.driver.find_elements(By.CSS_SELECTOR, "[aria-busy]"), 120, "it never ends")
    tour.click("details.told summary")
    tour.photograph("see")
    own = tour.find("#own ~ form input[name=caption]")
    own.send_keys("a sticker of a fox")
    strength = tour.find("#strength")
    for _ in range(3):
        strength.send_keys(Keys.ARROW_RIGHT)
    assert tour.find("#strength-shown").text == "1.75"
    tour.click("#own ~ form button")
    tour.says("is being drawn")
    tour.find("#somebody ~ form input[name=caption]").send_keys("a sticker of an owl")
    tour.click("#somebody ~ form button")
    tour.says("Ways from you to somebody else")
    until(lambda: not tour.driver.find_elements(By.CSS_SELECTOR, "[aria-busy]"), 300, "it never ends")
    tour.find("#lend ~ form input[name=name]").send_keys("Ann <b>")
    tour.click("#lend ~ form button")
    tour.says("as “Ann <b>”")
    tour.photograph("see-more")
    tour.click("form[action='/round'] button")
    tour.says("Pair 1 of 8", 300)
    tour.photograph("judge")
    for at in range(8):
        tour.says(f"Pair {at + 1} of 8", 300)
        key = (Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "s")[at % 3]
        tour.answer(lambda key=key: tour.press(key))
    tour.says("Your verdict")
    tour.photograph("verdict")
    tour.click(".foot a[href='/forget']")
    tour.says("cannot reach")
    tour.photograph("forget")
    tour.click("button.danger")
    tour.says("You are forgotten")
    tour.photograph("forgotten")
    tour.open("/see")
    tour.says("begin on the first page")
    tour.driver.get_log("browser")  # which notes the answer 401 as an error
    tour.photograph("a-wrong-turn")


@contextmanager
def chromium(size: tuple[int, int], scheme: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={max(size[0], 500)},{size[1] + 150}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        yield driver
    finally:
        driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path(), help="where params.yaml and artifacts/ are")
    parser.add_argument("--adapter", type=Path, default=Path("models/ppd"))
    parser.add_argument("--out", type=Path, default=Path("runs/studio_tour"))
    parser.add_argument("--pools", type=Path, help="pictures to choose from that an earlier studio has drawn")
    arguments = parser.parse_args()
    log = Console().print
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.pools:
            (folder / "pools").symlink_to(arguments.pools.resolve())
        with studio(arguments.project.resolve(), arguments.adapter, folder) as address:
            for name, size in SIZES.items():
                for scheme in ("light", "dark"):
                    with chromium(size, scheme) as driver:
                        tour = Tour(driver, address, arguments.out / f"{name}-{scheme}", log)
                        walk(tour)
                        faults += tour.faults
    log(json.dumps(faults, indent=1, ensure_ascii=False))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
