"""The page in a real browser. It takes playwright and a Chromium that is installed."""

from __future__ import annotations

import shutil

import pytest

from tests.serve.conftest import NOTES, QUESTION, Running

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_one_chats_and_sees_the_streams_and_no_word_is_markup(server: Running) -> None:
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.goto(server.url)
        page.fill("#words", QUESTION)
        page.press("#words", "Enter")
        page.locator(".river .foot", has_text="ended by stop").wait_for()
        assert page.inner_text(".river .said") == "Adding them up.\nIn total: 133."
        card = page.inner_text(".stream.injected")
        assert "ropes of Mara: 47 + lamps of Otto: 86" in card and "47 + 86 = 133" in card
        page.fill("#words", f"{NOTES}\n<img src=x onerror=alert(1)><b id=bold>Hello</b>")
        page.click("#send")
        page.locator(".river .foot", has_text="ended by").nth(1).wait_for()
        assert page.query_selector("#bold") is None and page.query_selector("main img") is None
        assert "<b id=bold>" in page.inner_text("#talk") and not wrong
        browser.close()
