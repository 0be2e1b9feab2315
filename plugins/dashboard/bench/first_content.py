"""How long 10,000 rollouts take to their first content in headless Chromium, on a server that has read nothing yet.

`python plugins/dashboard/bench/first_content.py`, with sia-dashboard[test] and Debian's chromium installed.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from told_runs import Story

REPEATS = 5
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def measure(runs: Path, address: str) -> float:
    """Milliseconds from the click to the first paint, of a server that has just started."""
    command = [sys.executable, "-m", "sia_cli", "view", "--runs-dir", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, sync_playwright() as driver:
        try:
            assert process.stdout
            site = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert site
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(bypass_csp=True)  # or what waits for the paint could not be put into the page
            page.goto(site[0] + address)
            return float(page.wait_for_function(PAINTED).json_value())
        finally:
            process.terminate()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        story = Story(runs / "large-1", "some words " * 20).begins()
        for batch in range(157):
            story.rolls_out("search", "d" * 12, [0.5] * 64, batch)
        story.ledger.close()
        size = (runs / "large-1" / "ledger.db").stat().st_size / 2**20
        print(f"a run with 10,048 rollouts, {size:.0f} MiB")
        Story(runs / "small-1").begins().ledger.close()
        # The small run beside it is what browser, server and machine take by themselves.
        for address in ("/runs/small-1/rollouts", "/runs/large-1/rollouts", "/runs/large-1"):
            taken = [measure(runs, address) for _ in range(REPEATS)]
            print(f"{address:24} median {statistics.median(taken):.0f} ms, worst {max(taken):.0f} ms of {REPEATS}")


if __name__ == "__main__":
    main()
