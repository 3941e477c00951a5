"""Jobs for test_processes: another process must be able to import them."""

import os
import time
from pathlib import Path

from ppd.files import atomic_path


def write_pid(file: Path) -> None:
    with atomic_path(file) as fresh:
        fresh.write_text(str(os.getpid()))
    print("written")


def write_pid_and_wait(file: Path) -> None:
    write_pid(file)
    time.sleep(60)


def fail() -> None:
    raise ZeroDivisionError
