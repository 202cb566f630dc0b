#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The live page of a real run in a headless Chromium: numbers move, nothing is complained of, nothing
but the run is asked, it fits narrow and wide windows in light and dark, it asks for the key when one is
set, and it says so when the run has ended. Skipped (77) without Chromium.
usage: status_page.py BINARY ROOT [DIRECTORY for screenshots]"""
import os
import sys
import tempfile

import browser
from status_run import Run

SHOTS = sys.argv[3] if len(sys.argv) > 3 else None
SHOWN = "document.getElementById('run')?.hidden === false"


def text(page, name):
    return page.evaluate(f"document.getElementById('{name}').textContent")


def number(page, name):
    return int(text(page, name).split()[0].replace(",", ""))


def check_moving(page, run):
    page.view(1400, 1000, False)
    page.open(f"http://127.0.0.1:{run.port}/")
    page.until(SHOWN)
    page.until("document.getElementById('state').textContent === 'running'")
    finished = number(page, "progress")
    page.until(f"parseInt(document.getElementById('progress').textContent.replace(/,/g, '')) > {finished}")
    page.until("parseInt(document.getElementById('pairs').textContent) > 0")
    page.until("document.querySelectorAll('#curve path').length === 2")
    assert text(page, "workers") == "1 of 1" and text(page, "failures") == "0"
    assert page.evaluate("document.querySelectorAll('#rows tr').length") == 1
    assert "working" in text(page, "rows")
    assert page.evaluate("document.title").endswith("memo generate")
    assert 0 <= int(page.evaluate("document.getElementById('bar').getAttribute('aria-valuenow')")) <= 100
    assert "unknown" not in text(page, "left") and "NaN" not in page.evaluate("document.body.textContent")


def check_looks(page):
    """No window is scrolled sideways, and text stands out from its background (WCAG: 4.5 to 1)."""
    colors = set()
    for width in (400, 1400):
        for dark in (False, True):
            page.view(width, 1000, dark)
            page.wait(0.3)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
            colors.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            worst = page.evaluate("""(() => {
                const luminance = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
                    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
                const below = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                    if (!/, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
                let worst = 21;
                for (const e of document.querySelectorAll("main *")) {
                    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
                    const s = getComputedStyle(e), a = luminance(e.namespaceURI.endsWith("svg") ? s.fill : s.color), b = luminance(below(e));
                    worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
                }
                return worst; })()""")
            assert worst >= 4.5, (width, dark, worst)
            if SHOTS:
                page.screenshot(os.path.join(SHOTS, f"page-{width}-{'dark' if dark else 'light'}.png"))
    assert len(colors) == 2, colors


def check_calm(page, run):
    complaints = [c for c in page.complaints if "401" not in c]
    assert not complaints, complaints
    strangers = [r for r in page.requests if not r.startswith((f"http://127.0.0.1:{run.port}/", "data:", "about:"))]
    assert not strangers, strangers


def check_end(page, run):
    run.process.terminate()
    run.ends(75)
    page.until("/No answer|has ended/.test(document.getElementById('notice-text').textContent)")
    assert page.evaluate("!document.getElementById('notice').hidden")


def check_key(page, run):
    page.view(400, 1000, False)
    page.open(f"http://127.0.0.1:{run.port}/")
    page.until("document.getElementById('key-form')?.hidden === false")
    assert page.evaluate("document.getElementById('run').hidden")
    enter = "document.getElementById('key').value = '%s'; document.querySelector('#key-form button').click()"
    page.evaluate(enter % "wrong")
    page.until("/not the key/.test(document.getElementById('notice-text').textContent)")
    page.evaluate(enter % "open sesame")
    page.until(SHOWN)
    page.open("about:blank")
    page.open(f"http://127.0.0.1:{run.port}/#key=open%20sesame")
    page.until(SHOWN)
    assert "sesame" not in page.evaluate("location.href")


def with_run(directory, page, check, key=None):
    run = Run(directory, 60, key)
    try:
        check(page, run)
    finally:
        run.close()


def watch(page, run):
    check_moving(page, run)
    check_looks(page)
    check_calm(page, run)
    check_end(page, run)


def main():
    if not browser.find():
        print("skipped: no Chromium is installed")
        return 77
    page = browser.Browser(browser.find())
    try:
        with tempfile.TemporaryDirectory() as directory:
            with_run(directory, page, check_key, {"MEMO_STATUS_KEY": "open sesame"})
            page.complaints.clear()
            page.requests.clear()
            with_run(directory, page, watch)
    finally:
        page.close()
    return 0


sys.exit(main())
