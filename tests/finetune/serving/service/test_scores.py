"""The service says what the batch says."""

import random
import threading

import pytest

from finetune.serving.classifier import EventClassifier
from tests.finetune.serving.service.conftest import running

CUTOFF = "2024-04-01T00:00:00"


@pytest.fixture(scope="module")
def batch(model) -> EventClassifier:
    return EventClassifier.from_pretrained(model)


def said(table) -> dict[str, tuple]:
    return {row["user_id"]: (row["text"], row["score"], row["label"]) for row in table.to_pylist()}


def assert_same(found: list[dict], expected: dict[str, tuple]) -> None:
    assert {one["user_id"] for one in found} == set(expected)
    for one in found:
        text, score, label = expected[one["user_id"]]
        assert one["text"] == text
        assert one["score"] == pytest.approx(score, abs=1e-6)
        assert one["label"] == label


def test_events_one_at_a_time_in_any_order_give_the_texts_and_scores_of_the_batch(service, batch, log):
    """A user's score is asked for between the events, too, so that histories grow and are read anew."""
    users = [user for user in log if len(log[user]) > 3][:12]
    draw = random.Random(0)
    sent = {user: [] for user in users}
    waiting = [(user, event) for user in users for event in log[user]]
    draw.shuffle(waiting)  # each user's events late and early
    for number, (user, event) in enumerate(waiting):
        sent[user].append(event)
        assert service.append([event]) == {"stored": 1, "known": 0}
        if number % 7 == 0:
            own = {"text": True, "at": draw.choice([CUTOFF, "2024-02-15T12:00:00", event["event_time"]])}
            past = [one for one in sent[user] if one["event_time"] < own["at"]]
            answer = service.client.get(f"/users/{user}/score", params=own)
            assert answer.status_code == (200 if past else 404)
            if past:
                assert_same([answer.json()], said(batch.predict(past, own["at"], text=True)))
    expected = said(batch.predict([event for own in sent.values() for event in own], CUTOFF, text=True))
    answer = service.client.post("/users/scores", json={"users": [*users, "nobody"], "at": CUTOFF, "text": True}).json()
    assert answer["without_history"] == ["nobody"]
    assert_same(answer["scores"], expected)


def test_events_in_order_are_appended_to_what_is_held_and_ask_the_store_once(service, batch, log, monkeypatch):
    asked = []
    events_of = service.engine.store.events
    monkeypatch.setattr(service.engine.store, "events", lambda users: asked.append(list(users)) or events_of(users))
    user, events = next((user, events) for user, events in log.items() if len(events) > 5)
    for number, event in enumerate(events):
        service.append([event])
        found = service.get(f"/users/{user}/score", at=CUTOFF, text=True)
        assert_same([found], said(batch.predict(events[: number + 1], CUTOFF, text=True)))
    assert asked == [[user]]


def test_scores_of_events_that_are_sent_along_are_those_of_the_batch_and_nothing_is_kept(service, batch, log):
    events = [event for user in list(log)[:30] for event in log[user]]
    answer = service.client.post("/score", json={"events": events, "at": CUTOFF, "text": True}).json()
    assert_same(answer["scores"], said(batch.predict(events, CUTOFF, text=True)))
    assert answer["without_history"] == []
    assert service.get("/users") == []
    early = service.client.post("/score", json={"events": events, "at": "2023-01-01"}).json()
    assert early == {"scores": [], "without_history": list(log)[:30]}


def test_only_users_whom_the_task_asks_about_are_in_the_population(service, batch, log):
    events = [event for own in log.values() for event in own]
    for start in range(0, len(events), 1000):
        service.append(events[start : start + 1000])
    answer = service.client.post("/users/scores", json={"users": list(log), "at": CUTOFF}).json()
    expected = batch.predict(events, CUTOFF, population=True)["user_id"].to_pylist()
    assert [one["user_id"] for one in answer["scores"] if one["in_population"]] == [
        u for u in log if u in set(expected)
    ]


def test_many_at_a_time_get_their_own_answers(service, batch, log):
    users = list(log)[:40]
    service.append([event for user in users for event in log[user]][:1000])
    users = service.get("/users", limit=1000)
    expected = service.client.post("/users/scores", json={"users": users, "at": CUTOFF}).json()["scores"]
    expected = {one["user_id"]: one["score"] for one in expected}
    wrong = []

    def ask(own: list[str]) -> None:
        for user in own:
            answer = service.client.get(f"/users/{user}/score", params={"at": CUTOFF})
            if user not in expected:
                wrong.extend([user] * (answer.status_code != 404))
            elif answer.json()["score"] != pytest.approx(expected[user], abs=1e-6):
                wrong.append(user)

    threads = [threading.Thread(target=ask, args=(users[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_explanation_says_the_score_of_the_log_without_the_event(service, batch, log):
    user, events = next((user, events) for user, events in log.items() if 3 < len(events) < 12)
    service.append(events)
    past = [event for event in events if event["event_time"] < CUTOFF]
    found = service.get(f"/explain/{user}", at=CUTOFF)
    (expected,) = batch.predict(past, CUTOFF, text=True).to_pylist()
    assert (found["label"], found["in_population"]) == (expected["label"], True)
    assert found["score"] == pytest.approx(expected["score"], abs=1e-6)
    assert [one["time"] for one in found["events"]] == [f"{event['event_time']}Z" for event in reversed(past)]
    for gone, effect in enumerate(found["events"]):
        rest = past[: len(past) - 1 - gone] + past[len(past) - gone :]
        (without,) = batch.predict(rest, CUTOFF)["score"].to_pylist()
        assert effect["without"] == pytest.approx(without, abs=1e-6)
        assert effect["change"] == pytest.approx(found["score"] - without, abs=1e-6)
        # max_events is 5: an event may count in the header alone.
        assert (effect["words"] is not None) == (gone < 5)
    assert any(word.startswith("shop ") for word in found["events"][0]["words"])
    only = service.get(f"/explain/{user}", at=past[1]["event_time"])
    assert [one["without"] for one in only["events"]] == [None]
    service.get("/explain/nobody", status=404)


def test_the_score_over_time_is_that_right_after_each_event(service, batch, log):
    user, events = next((user, events) for user, events in log.items() if 3 < len(events) < 12)
    service.append(events)
    past = [event for event in events if event["event_time"] < CUTOFF]
    found = service.get(f"/users/{user}/timeline", at=CUTOFF)["scores"]
    assert [one["at"] for one in found] == [f"{e['event_time']}.000001Z" for e in past] + [f"{CUTOFF}Z"]
    for number, one in enumerate(found[:-1]):
        (score,) = batch.predict(past[: number + 1], one["at"])["score"].to_pylist()
        assert one["score"] == pytest.approx(score, abs=1e-6)
    service.get("/users/nobody/timeline", status=404)


def test_what_was_kept_is_read_again_after_a_restart(model, batch, log, tmp_path):
    store = f"sqlite:///{tmp_path / 'histories.db'}"
    users = list(log)[:5]
    with running(model, store) as service:
        service.append([event for user in users for event in log[user]])
    with running(model, store) as service:
        answer = service.client.post("/users/scores", json={"users": users, "at": CUTOFF, "text": True}).json()
    events = [event for user in users for event in log[user]]
    assert_same(answer["scores"], said(batch.predict(events, CUTOFF, text=True)))
