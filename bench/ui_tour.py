"""Materialise the whole pipeline from the Dagster UI in a real browser, and photograph what it shows.

`python bench/ui_tour.py --out docs/ui` starts what `make ui` starts (webserver and daemon), clicks Materialize on the
asset graph in a headless Chromium, waits until all of it has run, re-evaluates twice, and takes pictures of the asset
graph, a grid of samples, the win rates and the trend. Needs Debian's `chromium` and `chromium-driver`, and
`pip install -e .[tour]`. It takes as long as `dvc repro` and two re-evaluations; with `--only-look`, two minutes.

With `--clock` nobody clicks for the re-evaluations: the schedule is turned on and the daemon fires it. Set
`reevaluation.cron` in params.yaml to some minutes for that (`*/5 * * * *`).
"""

import argparse
import io
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from served import dagster_dev, graphql, stale, until

PORT = 3111
PIPELINE = 'not (key:"watched_users" or key:"evaluations/history.jsonl" or group:"6_experiments")'
SHOWN = (
    '(group:"2_preferences" or group:"3_users" or group:"4_models" or group:"5_evaluation") and not key:"watched_users"'
)
LOOK_S = 900
"""So long the sensors may take to report what there is."""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
CLICK = """
const wanted = arguments[0];
const all = [...document.querySelectorAll('button, a, [role=tab]')];
const found = all.find(e => e.innerText.trim().startsWith(wanted));
if (found) found.click();
return Boolean(found);
"""
SEE = """
return [...document.querySelectorAll('button')].some(e => e.innerText.trim().startsWith(arguments[0]));
"""
CLICK_BESIDE = """
const label = [...document.querySelectorAll('td')].find(e => e.innerText.trim() === arguments[0]);
const button = label && label.parentElement.querySelector('a, button');
if (button) button.click();
return Boolean(button);
"""


class Tour:
    """The browser, the address of the UI, and where the pictures go."""

    def __init__(self, driver: webdriver.Chrome, base: str, out: Path, log: Callable[[str], None]) -> None:
        self.driver, self.base, self.out, self.log = driver, base, out, log
        out.mkdir(parents=True, exist_ok=True)

    def open(self, path: str) -> None:
        self.driver.get(self.base + path)
        time.sleep(3)

    def click(self, text: str, script: str = CLICK, within_s: float = 120) -> None:
        """Click what begins with this text (or do what `script` does with it), as soon as it is there."""
        until(lambda: self.driver.execute_script(script, text), within_s, f"no {text!r} on {self.driver.current_url}")
        time.sleep(1.5)

    def photograph(self, name: str, n_colours: int = 128) -> None:
        """A PNG of the window, in few colours: it is text and lines."""
        time.sleep(4)
        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        file = self.out / f"{name}.png"
        image.quantize(n_colours).save(file, optimize=True)
        self.log(f"{file}: {file.stat().st_size / 1000:.0f} kB")

    def press(self, text: str) -> None:
        """Click, as a mouse does, the element that says exactly this."""
        self.driver.find_elements(By.XPATH, f"//*[normalize-space(text())='{text}']")[-1].click()  # in front
        time.sleep(1.5)

    def confirm(self, text: str) -> None:
        """Click the last button with this text: that of the dialog in front."""
        self.driver.find_elements(By.XPATH, f"//button[contains(., '{text}')]")[-1].click()

    def last_run(self) -> dict[str, Any]:
        query = "{runsOrError(limit: 1) {... on Runs {results {runId status}}}}"
        run: dict[str, Any] = self.ask(query)["runsOrError"]["results"][0]
        return run

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """GraphQL, to learn how far the runs are."""
        data: dict[str, Any] = graphql(self.base, query, **variables)
        return data


@contextmanager
def user_interface(project: Path) -> Iterator[str]:
    """What `make ui` runs."""
    home = project / ".dagster"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text((project / "orchestration" / "dagster.yaml").read_text())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with dagster_dev(project, PORT, os.environ | {"DAGSTER_HOME": str(home), "PATH": path}) as base:
        yield base


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1500,950", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def quoted(selection: str) -> str:
    """A selection of assets as part of an address."""
    return urllib.request.quote(selection, safe="")


def launch_all(tour: Tour) -> str:
    """Select the pipeline and click through the dialog. Partitions make it a backfill; its id."""
    query = "{partitionBackfillsOrError(limit: 1) {... on PartitionBackfills {results {id}}}}"

    def last() -> list[str]:
        return [backfill["id"] for backfill in tour.ask(query)["partitionBackfillsOrError"]["results"]]

    before = last()
    tour.open(f"/asset-groups~{quoted(PIPELINE)}")
    tour.click("Materialize all", within_s=600)
    tour.click("All")
    tour.click("Launch backfill")
    until(lambda: last() != before, 120, "the backfill was not launched")
    return last()[0]


def backfill_status(tour: Tour) -> str:
    """Of the last one."""
    query = "{partitionBackfillsOrError(limit: 1) {... on PartitionBackfills {results {status}}}}"
    return str(tour.ask(query)["partitionBackfillsOrError"]["results"][0]["status"])


def materialise_all(tour: Tour, hours: float) -> None:
    """Materialise the pipeline and wait for the end."""
    launch_all(tour)
    until(lambda: backfill_status(tour) != "REQUESTED", hours * 3600, "the pipeline is not done")
    failed = tour.ask("{runsOrError(filter: {statuses: [FAILURE]}, limit: 5) {... on Runs {results {runId}}}}")
    runs = [run["runId"] for run in failed["runsOrError"]["results"]]
    tour.log(f"materialised all: {backfill_status(tour)}; failed runs: {len(runs)}")
    # A backfill is a success as soon as everything was materialised, even by a run that failed after it.
    if backfill_status(tour) != "COMPLETED_SUCCESS" or runs:
        raise RuntimeError(f"the backfill ended as {backfill_status(tour)}, runs failed: {runs}")


def cancel_and_again(tour: Tour, path: str, within_s: float) -> None:
    """Materialise one asset, terminate the run while it runs, and materialise it again."""
    before = tour.last_run()["runId"]
    tour.open(f"/assets/{path}")
    tour.click("Materialize")
    until(lambda: tour.last_run()["runId"] != before, 120, "nothing was launched")
    until(lambda: tour.last_run()["status"] == "STARTED", within_s, "the run did not start")
    run_id = tour.last_run()["runId"]
    tour.open(f"/runs/{run_id}")
    tour.click("Terminate")
    tour.confirm("Terminate")
    until(lambda: tour.last_run()["status"] == "CANCELED", within_s, "the run was not cancelled")
    tour.photograph("cancelled")
    tour.log(f"cancelled: {run_id}")
    tour.open(f"/assets/{path}")
    tour.click("Materialize")
    until(lambda: tour.last_run()["runId"] != run_id, 120, "nothing was launched")
    until(lambda: tour.last_run()["status"] in ENDED, within_s, "the second run does not end")
    tour.log(f"materialised again: {tour.last_run()['status']}")


def reevaluate(tour: Tour, hours: float) -> None:
    """Materialise the history once more: another timestamp, another point of the trend."""
    tour.open("/assets/evaluations/history.jsonl")
    tour.click("Materialize")
    query = "{runsOrError(limit: 1) {... on Runs {results {pipelineName status assetSelection {path}}}}}"

    def status() -> str:
        [run] = tour.ask(query)["runsOrError"]["results"]
        history = run["assetSelection"] == [{"path": ["evaluations", "history.jsonl"]}]
        return str(run["status"]) if history else "another run"

    until(lambda: status() in ("QUEUED", "STARTING", "STARTED"), 120, "the re-evaluation was not launched")
    until(lambda: status() in ("SUCCESS", "FAILURE", "CANCELED"), hours * 3600, "the re-evaluation is not done")
    tour.log(f"re-evaluation: {status()}")


def let_the_clock_fire(tour: Tour, history: Path, hours: float) -> None:
    """Turn the schedule on, wait for two more points of the trend, turn it off."""
    before = n_points(history)
    start = "mutation ($at: ScheduleSelector!) {startSchedule(scheduleSelector: $at) {__typename}}"
    stop = "mutation ($at: ScheduleSelector!) {resetSchedule(scheduleSelector: $at) {__typename}}"
    at = {"repositoryName": "__repository__", "repositoryLocationName": "ppd", "scheduleName": "reevaluation"}
    tour.ask(start, at=at)
    until(lambda: n_points(history) >= before + 2, hours * 3600, "the clock has not fired twice")
    tour.ask(stop, at=at)
    query = "{runsOrError(limit: 9) {... on Runs {results {status tags {key value}}}}}"

    def fired() -> list[str]:
        by_clock = {"key": "dagster/schedule_name", "value": "reevaluation"}
        return [run["status"] for run in tour.ask(query)["runsOrError"]["results"] if by_clock in run["tags"]]

    until(lambda: not {"QUEUED", "STARTING", "STARTED"} & set(fired()), 600, "a run of the clock does not end")
    tour.log(f"fired by the clock: {fired()}; points of the trend: {before} -> {n_points(history)}")


def n_points(history: Path) -> int:
    return len(history.read_text().splitlines()) if history.exists() else 0


def look_around(tour: Tour, with_trend: bool) -> None:
    tour.open(f"/asset-groups~{quoted(SHOWN)}")
    tour.click("Materialize all", SEE, LOOK_S)
    until(lambda: not stale(tour.base, "6_experiments"), LOOK_S, "results are not shown, or out of date: run dvc repro")
    tour.photograph("asset-graph")
    ActionChains(tour.driver).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()  # expand all groups
    tour.photograph("assets")
    shown = [("samples", "artifacts/samples/ppd", "base | personalised")]
    shown += [("win-rates", "reports/win_rates.json", "win rates")]
    shown += [("trend", "evaluations/history.jsonl", "trend")] if with_trend else []
    for name, path, entry in shown:
        tour.open(f"/assets/{path}")
        tour.click(entry, CLICK_BESIDE, LOOK_S)
        tour.photograph(name, 256 if name == "samples" else 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path("docs/ui"))
    parser.add_argument("--hours", type=float, default=3, help="how long the pipeline may take")
    parser.add_argument("--clock", action="store_true", help="let the schedule re-evaluate in place of a click")
    parser.add_argument("--only-look", action="store_true", help="take the pictures of what is there")
    arguments = parser.parse_args()
    log = Console().print
    history = arguments.project / "evaluations" / "history.jsonl"
    with user_interface(arguments.project.resolve()) as base, chromium() as driver:
        tour = Tour(driver, base, arguments.out, log)
        tour.open("/")
        if not arguments.only_look:
            materialise_all(tour, arguments.hours)
            if arguments.clock:
                let_the_clock_fire(tour, history, arguments.hours)
            else:
                reevaluate(tour, arguments.hours)
                time.sleep(60)  # the next timestamp
                reevaluate(tour, arguments.hours)
            cancel_and_again(tour, "reports/win_rates.json", arguments.hours * 3600)
        look_around(tour, with_trend=n_points(history) > 0)


if __name__ == "__main__":
    main()
