"""The page of `timetok demo` as a person meets it: in a real Chromium, with the keyboard, on a narrow screen."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest

from timetok import localize
from timetok.lita.answer import load_sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs = [name for name in ("gradio", "playwright") if find_spec(name) is None] + ["a Chromium"] * (CHROMIUM is None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(needs), reason=f"needs {', '.join(needs)}: make test-page")]

CLIP, QUESTION, TRUTH = load_sample()
PATIENCE = 60_000  # milliseconds for anything at all; a busy machine is slow to answer
# the command, telling of each machine beside this one that it turns to
WATCHED = """
import sys
def watch(event, given):
    host = given[1][0] if event == "socket.connect" and isinstance(given[1], tuple) else None
    host = given[0] if event == "socket.getaddrinfo" else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1"):
        print("OUTSIDE", event, host, flush=True)
sys.addaudithook(watch)
from timetok.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "log"


@pytest.fixture(scope="module")
def address(log, tmp_path_factory):
    """Where the command itself serves the page, with the bundled model, until Ctrl+C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", WATCHED, "demo", "--port", port, "--no-browser"]
    uploads = tmp_path_factory.mktemp("uploads")
    with log.open("w") as out:
        where = os.environ | {"GRADIO_TEMP_DIR": str(uploads)}
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=where)
    try:
        until = time.monotonic() + 300
        while not (found := re.search(r"^page: +(\S+)", log.read_text(), re.MULTILINE)):
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield found[1]
    finally:
        server.send_signal(signal.SIGINT)  # Ctrl+C
        status = server.wait()
    assert status == 0
    assert {file.name for file in uploads.rglob("*.mp4")} <= {CLIP.name}  # what was uploaded is gone


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def requested():
    """Every host that any of the pages asked for something."""
    return set()


@pytest.fixture
def opened(browser, address, requested):
    """A function that opens the page in a window of a size; errors of its script fail the test."""
    contexts, broken = [], []

    def open_page(width=1280, height=800):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requested.add(urlsplit(request.url.removeprefix("blob:")).hostname))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(address)
        page.wait_for_function("document.querySelector('video.player')?.duration > 0")
        page.evaluate("window.sought = -1")
        seeking = "'seeking', (event) => { sought = event.target.currentTime; }"
        page.evaluate(f"document.querySelector('video.player').addEventListener({seeking})")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert broken == []


def ask(page, question=QUESTION):
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def spans(page):
    page.wait_for_selector(".timeline .span")
    return page.get_by_role("button", name=re.compile("^Span "))


def copied(page, what):
    page.get_by_role("button", name=f"Copy {what}", exact=True).click()
    page.locator(f".copy-{what.lower()}").filter(has_text="Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def upload(page, path):
    page.get_by_label("Clear").first.click()
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_text(path.stem[:6]).first.wait_for()


def test_an_uploaded_video_is_asked_about_and_answered_as_by_localize(opened, tmp_path):
    page, mine = opened(), tmp_path / "mine.mp4"
    shutil.copy(CLIP, mine)
    upload(page, mine)
    page.wait_for_function("document.querySelector('video.player').src.endsWith('mine.mp4')")
    page.get_by_label("Question").fill(QUESTION)
    page.keyboard.press("Enter")
    assert spans(page).count() == 1
    answer = json.loads(json.dumps(asdict(localize(mine, QUESTION))))
    assert json.loads(copied(page, "JSON")) == answer | {"video": "mine.mp4", "question": QUESTION}
    [span] = answer["spans"]
    assert copied(page, "seconds") == f"{span['start']:.2f} {span['end']:.2f}"
    row = page.locator(".answer li").inner_text()
    assert f"{span['start']:.2f} s to {span['end']:.2f} s" in row and f"{answer['confidences'][0]:.2f}" in row
    assert page.locator(".said").inner_text() == answer["text"]
    assert re.search(r"<t\d+>.*<t\d+>.*</s>", page.locator(".tokens").inner_text(), re.DOTALL)
    page.get_by_role("button", name="Use the sample").click()
    page.wait_for_function("document.querySelector('video.player').src.endsWith('clip.mp4')")
    assert page.locator(".timeline .span").count() == 0  # another video, no old answer


def test_the_timeline_shows_spans_and_curves_where_they_are(opened):
    page = opened()
    ask(page)
    button = spans(page).first.bounding_box()
    line, curves = (page.locator(f".timeline{name}").bounding_box() for name in ("", " .curves"))
    start, end = ((button["x"] + part * button["width"] - line["x"]) / line["width"] * 16 for part in (0, 1))
    answer = json.loads(copied(page, "JSON"))
    assert [start, end] == pytest.approx([*answer["spans"][0].values()], abs=16 / line["width"])  # a pixel
    assert curves["width"] == line["width"]
    peaks = []  # of both curves, in seconds
    for polygon in page.locator(".curves polygon").all():
        points = [tuple(map(float, pair.split(","))) for pair in polygon.get_attribute("points").split()]
        assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in points)
        peaks.append(min(points, key=lambda point: point[1])[0] / 1000 * 16)
    assert peaks[0] == pytest.approx(start, abs=0.05) and abs(peaks[1] - TRUTH.end) < 1


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_span_jumps_there_and_plays(opened, how):
    page = opened()
    ask(page)
    button = spans(page).first
    if how == "mouse":
        button.click()
    else:
        page.get_by_role("button", name="Ask").focus()
        for _ in range(20):  # the player's own controls stand between
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('span')"):
                break
        page.keyboard.press("Enter")
    page.wait_for_function("sought >= 0")
    start = json.loads(copied(page, "JSON"))["spans"][0]["start"]
    assert page.evaluate("sought") == pytest.approx(start, abs=0.1)
    page.wait_for_function(f"document.querySelector('video.player').currentTime > {start}")  # it plays on


def test_mistakes_get_a_message_and_no_traceback(opened, log, tmp_path):
    page, bad = opened(), tmp_path / "broken.mp4"
    bad.write_text("<b>no video</b>")
    upload(page, bad)
    page.get_by_text("This browser cannot play the file").wait_for()
    told = page.get_by_test_id("toast-body")
    for question, says in [
        (QUESTION, "broken.mp4"),
        ("  ", "got an empty text"),
        ("when? " * 3000, "tokens with the video"),
        ("<video> <img src=x onerror=alert(1)>", "<video>"),
    ]:
        ask(page, question)
        told.filter(has_text=says).wait_for()
        assert told.locator("img, b, video").count() == 0 and str(tmp_path) not in told.last.inner_text()
        told.last.get_by_test_id("toast-close").click()
    page.get_by_label("Clear").first.click()
    ask(page)
    told.filter(has_text="none is chosen").wait_for()
    assert "Traceback" not in log.read_text()


def test_a_question_stays_text(opened):
    page = opened()
    ask(page, "When is <b>the</b> yellow <t12> ring visible? <img src=x onerror=alert(1)>")
    page.locator(".answer").wait_for()
    assert "<b>the</b> yellow <t12> ring" in page.locator(".asked").inner_text()
    assert page.locator(".answer b, .answer img").filter(has_text="the").count() == 0
    assert page.locator(".answer img").count() == 0


def test_a_narrow_screen_needs_no_scrolling_sideways(opened):
    page = opened(375, 740)
    ask(page)
    spans(page).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    controls = ["Use the sample", "Ask", re.compile("^Span 1"), "Copy seconds", "Copy JSON"]
    for place in [page.get_by_role("button", name=name).first for name in controls] + [page.get_by_label("Question")]:
        box = place.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 375 and box["height"] >= 24
        place.click(trial=True)  # nothing stands in front of it
    assert page.locator("video.player").bounding_box()["width"] > 250


def test_nothing_is_asked_of_another_machine(opened, requested, log):
    page = opened()
    ask(page)
    spans(page).first.wait_for()
    assert requested == {"127.0.0.1"}
    assert "OUTSIDE" not in log.read_text()
