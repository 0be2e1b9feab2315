"""The pages in a real browser: every one of them, live, hostile, large, by the keyboard, and for a screen reader."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from told_runs import Story, Tell

from sia_cli import main

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium")
HOSTILE = (
    "\"><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><svg onload=alert(1)>"
)
LEVELS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="takes Debian's chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of `sia view` on the folder of runs, a separate process."""
    with serving(tmp_path) as line:
        address = re.search(r"http://[\d.:]+", line)
        assert address
        yield address[0]


class Reader:
    """Somebody who reads pages; ``complaints`` are what the browser says of them."""

    def __init__(self, browser: Any, site: str, scheme: str = "light", *, strict: bool = False) -> None:
        # Axe could not be put into a page under its policy; what that forbids is tested with ``strict``.
        self._context = browser.new_context(color_scheme=scheme, bypass_csp=not strict)
        self.page, self._site = self._context.new_page(), site
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("a dialog was opened"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def opens(self, address: str) -> Any:
        assert self.page.goto(self._site + address).ok
        return self.page

    def violations(self) -> list[str]:
        """Accessibility faults of the page, at levels A and AA."""
        violations = axe.Axe().run(self.page, options=LEVELS).response["violations"]
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in violations]


def addresses(story: Story) -> list[str]:
    """Every page, each with something on it."""
    run = "/runs/fake-1"
    return [
        "/",
        run,
        f"{run}/candidates/0.0",
        f"{run}/candidates/0.1",
        f"{run}/rollouts",
        f"{run}/rollouts/search/{story.first}/0000/1",
        f"{run}/harness/{story.harness}",
        f"{run}/find?q=because",
        "/compare?run=fake-1&run=fake-2",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_nothing_complains(tell: Tell, browser: Any, site: str, scheme: str) -> None:
    story = tell().whole()
    tell("fake-2").begins().decides()
    reader = Reader(browser, site, scheme)
    for address in [*addresses(story), "/runs/fake-2"]:
        reader.opens(address)
        assert reader.violations() == [], address
    assert reader.complaints == []
    assert all(url.startswith((site, "data:")) for url in reader.asked)


@pytest.mark.parametrize("width", [420, 768, 1280])
@pytest.mark.parametrize("say", ["words", "long" * 200])
def test_no_page_is_wider_than_its_window_as_tables_scroll_in_a_box(
    say: str, width: int, tell: Tell, browser: Any, site: str
) -> None:
    story = tell(say=say)
    story.metric = {"bounds": [0.0, 1.0]}
    story.whole()
    other = tell("fake-2", say)
    other.metric = story.metric
    other.begins()
    page = Reader(browser, site).page
    page.set_viewport_size({"width": width, "height": 800})
    for address in addresses(story):
        assert page.goto(site + address).ok
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        boxes = page.locator(".wide, .code").evaluate_all(
            "boxes => boxes.map(box => box.getBoundingClientRect().right)"
        )
        assert all(right <= width for right in boxes), address


def test_a_text_of_a_chart_can_be_read_on_a_telephone(tell: Tell, browser: Any, site: str) -> None:
    tell().whole()
    page = Reader(browser, site).page
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(f"{site}/runs/fake-1")
    heights = page.locator("svg text").evaluate_all("texts => texts.map(text => text.getBoundingClientRect().height)")
    assert heights
    assert min(heights) >= 9


def test_a_hostile_run_does_nothing(tell: Tell, browser: Any, site: str) -> None:
    story = tell(say=HOSTILE).whole()
    tell("fake-2", HOSTILE).begins()
    reader = Reader(browser, site, strict=True)
    for address in addresses(story):
        page = reader.opens(address)
        assert page.locator("script:not([src^='/static/'])").count() == 0, address
        assert page.locator("[onerror], [onload], img").count() == 0, address
        assert "owned" not in page.title().replace(HOSTILE, ""), address
        assert page.evaluate("document.title") == page.title()
    assert reader.complaints == []
    assert all(url.startswith((site, "data:")) for url in reader.asked)


def test_a_page_that_is_watched_follows_its_run_without_being_loaded_anew(tell: Tell, browser: Any, site: str) -> None:
    story = tell().begins().decides()
    reader = Reader(browser, site)
    page = reader.opens("/runs/fake-1")
    page.evaluate("window.same = true")
    playwright.expect(page.locator("#live-state")).to_have_text("live")
    story.gates()
    playwright.expect(page.locator("#candidates ~ * >> text=change words")).to_be_visible()
    story.gates(index=1, agent="c" * 12, accepted=False).ends()
    playwright.expect(page.locator("#live-state")).to_have_text("finished")
    playwright.expect(page.get_by_text("40 instances that nothing in the loop saw")).to_be_visible()
    assert page.evaluate("window.same")
    assert reader.complaints == []


def test_what_the_reader_opened_stays_open_while_the_page_follows(tell: Tell, browser: Any, site: str) -> None:
    story = tell().begins().decides()
    page = Reader(browser, site).opens("/runs/fake-1/candidates/0.1")
    page.get_by_text("The worst cases").click()
    story.trains()
    playwright.expect(page.get_by_text("gradient norm, by step")).to_be_visible()
    playwright.expect(page.get_by_role("region", name="Worst cases")).to_be_visible()


def test_the_list_shows_a_run_that_begins(tell: Tell, browser: Any, site: str) -> None:
    tell().whole()
    page = Reader(browser, site).opens("/")
    tell("fake-2").begins()
    playwright.expect(page.get_by_role("link", name="fake-2")).to_be_visible()


def test_ten_thousand_rollouts_are_paged(tell: Tell, browser: Any, site: str) -> None:
    story = tell().begins()
    for batch in range(157):
        story.rolls_out("search", "d" * 12, [0.5] * 64, batch)
    reader = Reader(browser, site)
    page = reader.opens("/runs/fake-1/rollouts?agent=dddddddddddd")
    assert page.get_by_role("row").count() == 101
    playwright.expect(page.get_by_text("10,048 rollouts, mean")).to_be_visible()
    page.get_by_role("link", name="Next page").click()
    playwright.expect(page.get_by_text("Page 2 of 101")).to_be_visible()
    assert reader.complaints == []


def test_the_keyboard_alone_leads_from_the_list_to_a_candidate(tell: Tell, browser: Any, site: str) -> None:
    tell().whole()
    page = Reader(browser, site).opens("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    for name in ("fake-1", "0.0"):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == name:
                break
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def test_the_keyboard_alone_leads_from_failure_to_failure(tell: Tell, browser: Any, site: str) -> None:
    story = tell()
    story.metric = {"bounds": [0.0, 1.0]}
    story.begins()
    page = Reader(browser, site).opens("/runs/fake-1/rollouts?purpose=search")
    for name, heading in (("wrong 2", "Rollouts of fake-1"), ("case-2-words", "case-2"), ("Next rollout", "case-3")):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == name:
                break
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
    playwright.expect(page.get_by_text("2 of 2")).to_be_visible()


def test_the_policy_stops_a_script_that_got_into_a_page(tell: Tell, browser: Any, site: str) -> None:
    tell().whole()
    reader = Reader(browser, site, strict=True)
    page = reader.opens("/")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in each for each in reader.complaints)


def test_a_report_stands_alone_in_one_file(tell: Tell, browser: Any, tmp_path: Path) -> None:
    tell(say=HOSTILE).whole()
    file = tmp_path / "report.html"
    assert main(["report", "fake-1", "--runs-dir", str(tmp_path / "runs"), "--html", str(file)]) == 0
    reader = Reader(browser, file.as_uri(), strict=True)
    page = reader.page
    page.goto(file.as_uri())
    playwright.expect(page.get_by_role("heading", name="Lineage")).to_be_visible()
    page.get_by_role("link", name="0.1", exact=True).click()
    assert page.url.endswith("#candidate-0.1")
    assert page.evaluate("getComputedStyle(document.querySelector('dl.facts')).display") == "grid"  # it has its style
    assert reader.complaints == []
    assert {url.partition("#")[0].partition(",")[0] for url in reader.asked} <= {file.as_uri(), "data:"}
    light = Reader(browser, "")
    light.page.goto(file.as_uri())
    assert light.violations() == []


def test_another_machine_needs_the_token_that_is_printed(tell: Tell, tmp_path: Path) -> None:
    tell().whole()
    with serving(tmp_path, "--host", "0.0.0.0") as line:
        match = re.search(r"http://0\.0\.0\.0:(\d+)/\?token=(\S+)", line)
        assert match
        answers = []
        for query in ("", f"?token={match[2]}"):
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with suppress(OSError):
                answers.append(opener.open(f"http://127.0.0.1:{match[1]}/{query}").status)
    assert answers == [200]


def test_it_ends_when_it_is_told_to_although_a_page_is_watched(tell: Tell, tmp_path: Path) -> None:
    tell().begins()
    with serving(tmp_path) as line:
        address = re.search(r"http://[\d.:]+", line)
        assert address
        stream = urllib.request.urlopen(f"{address[0]}/live")
        assert stream.readline() == b"retry: 1000\n"
    stream.read()  # to its end


@contextmanager
def serving(tmp_path: Path, *options: str) -> Iterator[str]:
    """A server of the folder of runs, by the first line that it prints; it ends without a complaint."""
    (tmp_path / "runs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "sia_cli", "view", "--runs-dir", str(tmp_path / "runs"), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline()
        finally:
            process.terminate()
            assert process.stderr
            assert process.stderr.read() == ""
