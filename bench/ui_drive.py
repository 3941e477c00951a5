"""What people click in the Dagster UI, in a real browser, on a small project: `python bench/ui_drive.py --out FOLDER`.

On the project of bench/small_project.py, before its first run: *Materialize all* is cancelled on its way, which must
leave no process and no taken place in a pool, and is clicked again; one user is put on the watch list and materialised
alone; the schedule is turned on with its switch and fires. Each step leaves a picture in FOLDER and a line that says
how it ended; ends with exit code 1 where one did not. Needs what bench/ui_tour.py needs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from rich.console import Console
from selenium.webdriver.common.by import By
from served import dagster_dev, until
from small_project import build, environment
from soak import Soak, dates_of, processes
from ui_tour import CLICK_BESIDE, PIPELINE, Tour, backfill_status, chromium, launch_all, quoted

PORT = 3112
SCHEDULE_PAGE = "/locations/ppd/schedules/reevaluation"


class Drive:
    """The browser and the project behind it."""

    def __init__(self, tour: Tour, root: Path, within_s: float) -> None:
        self.tour, self.root, self.within_s = tour, root, within_s
        self.happening = Soak(root, tour.base)

    def until(self, done, otherwise: str) -> None:
        until(done, self.within_s, otherwise)

    def open_menu(self) -> None:
        """The button without words beside the title: what can be done with a backfill."""
        wordless = (By.XPATH, "//button[normalize-space(.)='']")
        self.until(lambda: self.tour.driver.find_elements(*wordless), f"no menu on {self.tour.driver.current_url}")
        self.tour.driver.find_elements(*wordless)[-1].click()  # the first one reloads
        time.sleep(1.5)

    def working(self) -> bool:
        """Whether a stage that Dagster started runs."""
        return bool(processes(self.root, "PPD_PROCESS_TREE"))

    def cancel_all(self) -> None:
        """*Materialize all*, and *Cancel backfill* while a stage runs."""
        backfill = launch_all(self.tour)
        self.until(self.working, "no stage began")
        self.tour.open(f"/asset-groups~{quoted(PIPELINE)}")
        self.tour.photograph("materialising")
        self.tour.open(f"/runs/b/{backfill}")
        self.open_menu()
        self.tour.press("Cancel backfill")
        began = time.monotonic()
        self.tour.confirm("Cancel backfill")
        self.until(lambda: not self.happening.under_way(), "the runs of the backfill do not end")
        ended = time.monotonic()
        left = len(processes(self.root, "PPD_PROCESS_TREE"))
        self.until(lambda: not self.happening.places(), "a cancelled run keeps its place in the pool")
        self.until(lambda: backfill_status(self.tour) == "CANCELED", "the backfill was not cancelled")
        self.tour.photograph("cancelled")
        self.tour.log(
            f"cancelled: runs ended after {ended - began:.0f} s, processes left {left}, "
            f"places free {time.monotonic() - ended:.0f} s later"
        )
        if left:
            raise RuntimeError("a cancelled run left processes")

    def all_again(self) -> None:
        launch_all(self.tour)
        self.until(lambda: backfill_status(self.tour) != "REQUESTED", "the pipeline is not done")
        self.tour.log(f"materialised all: {backfill_status(self.tour)}, failed runs: {self.happening.causes()}")
        if backfill_status(self.tour) != "COMPLETED_SUCCESS":
            raise RuntimeError("the second backfill failed")
        self.tour.open(f"/asset-groups~{quoted(PIPELINE)}")
        self.tour.photograph("materialised")

    def one_user(self) -> None:
        """The last user of the log, whom nobody watches yet."""
        user = str(pd.read_parquet(self.root / "artifacts/users.parquet").user_id.iloc[-1])
        before = self.tour.last_run()["runId"]
        self.tour.open("/assets/watched_users")
        self.tour.click("Materialize")
        self.until(
            lambda: self.tour.driver.find_elements(By.XPATH, "//*[.='Add a partition']"),
            "no link that adds a partition",
        )
        self.tour.press("Add a partition")
        self.tour.driver.switch_to.active_element.send_keys(user)
        self.tour.photograph("one-user-dialog")
        self.tour.confirm("Save")
        time.sleep(3)
        self.tour.confirm("Launch")
        self.until(lambda: self.tour.last_run()["runId"] != before, "nothing was launched")
        self.until(lambda: not self.happening.under_way(), "the run of one user does not end")
        self.tour.open(f"/assets/watched_users?partition={user}&view=partitions")
        self.tour.photograph("one-user")
        self.tour.log(f"user {user} alone: {self.tour.last_run()['status']}")

    def by_the_clock(self) -> None:
        """The switch of the schedule, a tick, its run, the trend; then the switch again."""
        self.tour.open(SCHEDULE_PAGE)
        self.click_switch()
        self.until(lambda: len(dates_of(self.root)) > 0, "the clock has not fired")
        self.until(lambda: not self.happening.under_way("STARTING", "STARTED"), "the re-evaluation does not end")
        self.tour.open(SCHEDULE_PAGE)
        self.tour.photograph("schedule")
        self.click_switch()
        self.tour.open("/assets/evaluations/history.jsonl")
        self.tour.click("trend", CLICK_BESIDE, self.within_s)
        self.tour.photograph("trend")
        self.tour.log(f"fired by the clock: {dates_of(self.root)}; last run: {self.tour.last_run()['status']}")

    def click_switch(self) -> None:
        switch = (By.CSS_SELECTOR, "input[type=checkbox]")
        self.until(lambda: self.tour.driver.find_elements(*switch), "no switch beside the schedule")
        self.tour.driver.execute_script("arguments[0].click()", self.tour.driver.find_elements(*switch)[0])
        time.sleep(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20, help="how long one step may take")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root, None, first_run=False)
        with dagster_dev(root, PORT, environment(root)) as base, chromium() as driver:
            tour = Tour(driver, base, arguments.out, Console().print)
            drive = Drive(tour, root, 60 * arguments.minutes)
            for step in (drive.cancel_all, drive.all_again, drive.one_user, drive.by_the_clock):
                try:
                    step()
                except Exception as error:  # noqa: BLE001 - the other steps are worth seeing all the same
                    tour.photograph(f"failed-{step.__name__}")
                    tour.log(f"{step.__name__}: {type(error).__name__}: {error}")
                    failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
