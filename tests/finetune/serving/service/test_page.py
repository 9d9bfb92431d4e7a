"""The page in a browser, over the service itself."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape, unescape
from urllib.parse import urlencode

import pytest
import uvicorn
from fastapi.responses import HTMLResponse

from finetune.serving.service.app import make_app
from finetune.serving.service.engine import Append, Engine
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import open_store
from tests.browser import PHONE, visit
from tests.finetune.serving.service.conftest import KEY

AT = "2024-04-01"
EVIL = "<script>document.title='evil'</script>&amp;"


@contextmanager
def served(model, store: str, events: list[dict], key: str | None = None) -> Iterator[str]:
    engine = Engine(ServedModel.load(str(model)), open_store(store))
    engine.submit(Append(events)).result()
    app = make_app(engine, key)

    @app.get("/around")
    def around(query: str, width: int) -> HTMLResponse:
        """The page in a frame of some width, and what it became as the title."""
        script = (
            "setTimeout(() => { const inside = document.querySelector('iframe').contentDocument;"
            "document.title = JSON.stringify([inside.documentElement.scrollWidth, inside.title]); }, 1500)"
        )
        frame = f'<iframe src="/#{query}" style="width: {width}px; height: 2600px; border: 0"></iframe>'
        page = f'<!doctype html><link rel="icon" href="data:,"><body style="margin: 0">{frame}<script>{script}</script>'
        return HTMLResponse(page)

    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def text_of(dom: str, element: str) -> str:
    inside = re.search(rf'<(\w+)[^>]* id="{element}"[^>]*>(.*?)</\1>', dom, re.S)[2]
    return unescape(re.sub(r"<[^>]*>", " ", inside)).strip()


def shown_of(dom: str) -> str:
    return dom.partition("<script>")[0]


def is_hidden(dom: str, element: str) -> bool:
    return bool(re.search(rf'<\w+[^>]* id="{element}"[^>]* hidden', dom))


@pytest.fixture
def user(log) -> str:
    return next(
        user for user, events in log.items() if 8 < len(events) < 12 and events[-1]["event_time"] > "2024-03-20"
    )


def test_a_user_is_shown_with_score_timeline_and_what_each_event_did(model, log, user, tmp_path):
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", log[user]) as address:
        dom, console = visit(f"{address}/#{urlencode({'user': user, 'at': AT})}")
    past = [event for event in log[user] if event["event_time"] < AT]
    assert console == []
    assert re.fullmatch(
        rf"User {user}: a chance of churn of \d+\.\d % in the 14 days after {AT} 00:00 UTC", text_of(dom, "headline")
    )
    assert re.fullmatch(r"Label: (no )?churn \(churn is from 30\.0 % on\)", text_of(dom, "aside"))
    assert "undefined" not in shown_of(dom)
    assert is_hidden(dom, "outside")
    assert is_hidden(dom, "problem")
    assert is_hidden(dom, "locked")
    assert not is_hidden(dom, "found")
    events = re.findall(r"<li>(.*?)</li>", re.search(r'<ol id="events">(.*?)</ol>', dom, re.S)[1], re.S)
    assert len(events) == len(past)
    assert past[-1]["event_time"][:16].replace("T", " ") in events[0]
    assert all("without it" in event for event in events)
    chart = re.search(r'<div id="chart">(.*?)</div>', dom, re.S)[1]
    assert chart.count("<circle") == len(past)
    assert "churn from 30.0 %" in chart


def test_a_user_outside_of_the_population_is_said_in_words(model, log, user, tmp_path):
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", log[user]) as address:
        dom, console = visit(f"{address}/#{urlencode({'user': user, 'at': '2030-01-01'})}")
    assert console == []
    assert not is_hidden(dom, "outside")
    assert re.fullmatch(
        r"Not asked about: the model learned from users with .+ in the .+ before, and this user is none of them\.",
        text_of(dom, "outside"),
    )
    assert "undefined" not in shown_of(dom)


def test_the_first_page_offers_users_or_says_how_there_will_be_some(model, log, user, tmp_path):
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", [*log[user], log[user][0] | {"user_id": EVIL}]) as address:
        dom, console = visit(address)
    assert console == []
    assert sorted(re.findall(r'<button type="button">(.*?)</button>', dom)) == sorted([user, escape(EVIL, quote=False)])
    assert is_hidden(dom, "empty")
    with served(model, f"sqlite:///{tmp_path / 'other.db'}", []) as address:
        dom, console = visit(address)
    assert console == []
    assert not is_hidden(dom, "empty")
    assert is_hidden(dom, "some")


def test_ids_and_values_are_text_and_nothing_more(model, log, user, tmp_path):
    events = [event | {"user_id": EVIL, "shop": EVIL, "event_type": EVIL} for event in log[user]]
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", events) as address:
        dom, console = visit(f"{address}/#{urlencode({'user': EVIL, 'at': AT})}")
    assert console == []
    assert "<title>EventScribe: a user's score</title>" in dom
    assert text_of(dom, "headline").startswith(f"User {EVIL}: ")
    assert dom.count("<script") == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"user": "nobody"}, "No event of this user lies before the moment."),
        ({"user": "u1", "at": "soon"}, "cutoff"),
    ],
)
def test_what_cannot_be_shown_is_said(model, log, user, tmp_path, query, said):
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", log[user]) as address:
        dom, _ = visit(f"{address}/#{urlencode(query)}")
    assert said.lower() in text_of(dom, "problem").lower()
    assert is_hidden(dom, "found")


def test_with_a_key_the_page_asks_for_it(model, log, user, tmp_path):
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", log[user], KEY) as address:
        dom, _ = visit(f"{address}/#{urlencode({'user': user})}")
    assert not is_hidden(dom, "locked")
    assert text_of(dom, "problem") == "X-API-Key is missing or wrong."


def test_it_is_no_wider_than_a_phone(model, log, user, tmp_path):
    long = [event | {"user_id": "u" * 200} for event in log[user]]
    with served(model, f"sqlite:///{tmp_path / 'h.db'}", [*log[user], *long]) as address:
        for shown in (user, "u" * 200):
            query = urlencode({"query": urlencode({"user": shown, "at": AT}), "width": PHONE})
            dom, console = visit(f"{address}/around?{query}", "--virtual-time-budget=6000")
            assert console == []
            assert re.search("<title>(.*?)</title>", dom)[1].startswith(f"[{PHONE},")
