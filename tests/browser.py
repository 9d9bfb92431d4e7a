"""Pages in headless Chromium: what they show, write to the console and ask for."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

CHROMIUM = Path("/usr/bin/chromium")
PHONE = 390  # pixels


class Shown(NamedTuple):
    """One page."""

    dom: str
    console: list[str]
    requests: list[str]


class _Recorder(SimpleHTTPRequestHandler):
    def __init__(self, *args, requests: list[str], **kwargs):
        self.requests = requests
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Recorder, directory=str(folder), requests=requests)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def show(pages: dict[str, str], opened: str) -> Shown:
    """Open one of several pages, name -> HTML; see `visit`."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")
        with _served(folder) as (address, requests):
            dom, console = visit(f"{address}/{opened}")
        return Shown(dom, console, requests)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def visit(address: str, *more: str) -> tuple[str, list[str]]:
    """What a page of this machine is after a while, and what it wrote to the console; skips without Chromium.

    Args:
        address: Of the page.
        more: Options of Chromium, such as --screenshot.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing, so no page was opened in a browser; apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        # The page's content security policy has Chromium write to the console what it refuses to ask for.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--hide-scrollbars", *more]
        command += ["--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def assert_quiet_and_narrow(pages: dict[str, str]) -> None:
    """No page writes to the console, asks for anything or is wider than a phone."""
    frames = "".join(f'<iframe src="{name}" style="width: {PHONE}px; border: 0"></iframe>' for name in pages)
    width = "frame.contentDocument.documentElement.scrollWidth"
    script = f"document.title = [...document.querySelectorAll('iframe')].map(frame => {width})"
    script = f"<script>onload = () => {{ {script} }}</script>"
    around = f'<!doctype html><link rel="icon" href="data:,"><title>-</title>{frames}{script}'
    shown = show(pages | {"all.html": around}, "all.html")
    assert shown.console == []
    assert sorted(shown.requests) == sorted(f"/{name}" for name in [*pages, "all.html"])
    assert re.search(r"<title>(.*?)</title>", shown.dom)[1] == ",".join([str(PHONE)] * len(pages))


def run_in(page: str, script: str, width: int | None = None) -> str:
    """What a script, an expression of JavaScript, says of a page, on a screen as wide as Chromium's or of so many
    pixels; the page's own policy would not run it."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    if width is not None:
        said = (
            f"document.title = JSON.stringify((document => {script})(document.querySelector('iframe').contentDocument))"
        )
        frame = f'<iframe src="framed.html" style="width: {width}px; border: 0"></iframe>'
        around = f"<!doctype html><title>-</title>{frame}<script>onload = () => {{ {said} }}</script>"
        return re.search(r"<title>(.*?)</title>", show({"page.html": around, "framed.html": page}, "page.html").dom)[1]
    page = page.replace("</body>", f"<script>document.title = JSON.stringify({script})</script></body>")
    return re.search(r"<title>(.*?)</title>", show({"page.html": page}, "page.html").dom)[1]
