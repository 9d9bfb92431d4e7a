"""Whatever is sent gets a clear status, and the service goes on."""

import json
import logging
import shutil
import threading

import pytest

from finetune.model.calibration import Calibration
from finetune.runs import whom
from finetune.serving.service import engine
from finetune.serving.service.engine import Call
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import StoreError, kept
from tests.finetune.serving.service.conftest import KEY, running

EVENT = {"user_id": "u1", "event_time": "2024-03-01T10:00:00", "event_type": "purchase", "amount": 9.5, "shop": "north"}
JSON = {"Content-Type": "application/json"}


def test_the_same_event_again_is_known_and_counts_once(service):
    assert service.append([EVENT, EVENT]) == {"stored": 1, "known": 1}
    first = service.get("/users/u1/score", at="2024-03-02", text=True)
    # The order of names is not part of an event, and its id may be a number.
    assert service.append([dict(reversed(EVENT.items()))]) == {"stored": 0, "known": 1}
    assert service.get("/users/u1/score", at="2024-03-02", text=True) == first
    service.append([EVENT | {"user_id": 7}, EVENT | {"user_id": " 7 "}])
    assert service.get("/users") == ["7", "u1"]


def test_one_event_that_cannot_be_used_refuses_its_request_alone(service):
    wrong = [EVENT, EVENT | {"event_time": "soon"}, EVENT | {"amount": "much"}]
    answer = service.append(wrong, status=422)
    assert answer["events"] == {"1": "a time that does not parse", "2": "a value of amount that is no DOUBLE"}
    assert service.get("/users") == []
    answer = service.client.post("/score", json={"events": wrong})
    assert answer.status_code == 422
    assert set(answer.json()["events"]) == {"1", "2"}
    # Together with a good request, in one go of the engine's thread.
    held, answers = threading.Event(), {}
    service.engine.submit(Call(held.wait))

    def send(name: str, events: list[dict]) -> None:
        answers[name] = service.client.post("/events", json={"events": events})

    threads = [threading.Thread(target=send, args=one) for one in (("good", [EVENT]), ("wrong", wrong))]
    for thread in threads:
        thread.start()
    while service.engine.waiting < 2:
        pass
    held.set()
    for thread in threads:
        thread.join()
    assert answers["good"].json() == {"stored": 1, "known": 0}
    assert answers["wrong"].status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"events": []}',
        b'{"events": [1]}',
        b'{"events": [{}]}',
        b'{"events": "x"}',
        b"[" * 100_000,
        b'{"events": [' + b"[" * 100_000,
        json.dumps({"events": [EVENT | {"user_id": None}]}).encode(),
        json.dumps({"events": [EVENT | {"user_id": 1.5}]}).encode(),
        json.dumps({"events": [EVENT | {"user_id": True}]}).encode(),
        json.dumps({"events": [EVENT | {"user_id": "u" * 300}]}).encode(),
        json.dumps({"events": [EVENT | {"user_id": "  "}]}).encode(),
        json.dumps({"events": [EVENT | {"user_id": "\ud800"}]}).encode(),
        json.dumps({"events": [EVENT | {"event_time": 1_700_000_000}]}).encode(),
        json.dumps({"events": [EVENT | {"event_time": "9999-99-99"}]}).encode(),
        json.dumps({"events": [EVENT | {"event_type": ["x"]}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": float("nan")}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": "Infinity"}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": "-inf"}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": "NaN"}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": {"a": 1}}]}).encode(),
        json.dumps({"events": [EVENT | {"shop": [1, "x"]}]}).encode(),
        json.dumps({"events": [EVENT | {"shop": "\ud800"}]}).encode(),
        json.dumps({"events": [EVENT | {"amount": 10**400}]}).encode(),
        json.dumps({"events": [EVENT] * 1001}).encode(),
    ],
)
def test_a_broken_request_is_told_and_nothing_is_kept(service, body):
    for path in ("/events", "/score"):
        answer = service.client.post(path, content=body, headers=JSON)
        assert answer.status_code in (400, 422), answer.text
        assert len(answer.text) < 5_000
    assert service.get("/users") == []
    assert service.append([EVENT]) == {"stored": 1, "known": 0}


def test_strange_values_that_json_has_are_kept_and_scored(service):
    strange = {
        "user_id": "a/b c%ü?#\0",
        "shop": "nul\0 and \U0001f600",
        "more": {"deep": [[1]]},
        "another": "Infinity",
        'na"me;--': "x",
        "text": "x",
    }
    service.append([EVENT | strange | {"text": "x", "Shop ": 1}])
    assert service.get("/users") == [strange["user_id"]]
    for path in ("/users/{}/score", "/users/{}/timeline", "/explain/{}"):
        assert service.get(path.format("a%2Fb%20c%25%C3%BC%3F%23%00"), at="2024-03-02")
    assert service.client.delete("/users/a%2Fb%20c%25%C3%BC%3F%23%00").json() == {"events": 1}


SQL = (
    *(
        "x'); COPY (SELECT 1) TO 'out.csv'; --",
        "'; DROP TABLE log; --",
        "\"; ATTACH 'x.db'; --",
        "1); INSTALL httpfs; --",
    ),
    *("(SELECT content FROM read_text('/etc/passwd'))", "${HOME}", "$1", "?", "current_setting('threads')", "E'\\\\'"),
    *("read_csv('/etc/passwd')", "unnest([1])", "COLUMNS(*)", "*", "x\\", "$$", "/*", "--", ";", "'", '"', "\\", "%s"),
    *(
        "\uff07; DROP",
        "x\ny",
        "NULL",
        "getenv('HOME')",
        "FROM glob('*')",
        "query('SELECT 1')",
        "{{ 7 * 7 }}",
        "<script>",
    ),
)


def test_sql_in_any_name_and_any_value_of_a_request_is_a_name_and_a_value(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    events = [EVENT | {"user_id": f"{sql} u", "shop": f"x {sql}", sql: sql, "event_type": f"a {sql}"} for sql in SQL]
    assert service.append(events) == {"stored": len(SQL), "known": 0}
    # No word of theirs was known in training, so that all of them are one and the same to the model.
    asked = {"events": events, "at": "2024-03-02", "text": True}
    scored = service.client.post("/score", json=asked).json()["scores"]
    assert len({(one["score"], one["text"]) for one in scored}) == 1
    assert sorted(one["user_id"] for one in scored) == sorted({f"{sql} u" for sql in SQL})
    for sql in SQL:
        assert service.client.post("/score", json=asked | {"at": sql}).status_code == 422
        body = {"users": [sql], "at": "2024-03-02"}
        assert service.client.post("/users/scores", json=body).json() == {"scores": [], "without_history": [sql]}
        assert service.client.get("/users", params={"start": sql, "limit": 1000}).status_code == 200
    assert service.client.post("/score", json=asked | {"users": [{"user_id": sql} for sql in SQL]}).status_code == 422
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_moment_that_is_none_is_told(service):
    service.append([EVENT])
    for at in ("soon", "0001-01-01", "9999-12-31"):
        for path in ("/users/u1/score", "/explain/u1", "/users/u1/timeline"):
            assert "cutoff" in service.get(path, status=422, at=at)["detail"]
    service.get("/users/u1/score", status=404, at="2024-03-01T10:00:00")
    # What the schema says: another zone is taken.
    schema = service.get("/openapi.json")
    asked = schema["components"]["schemas"]["UsersToScore"]["properties"]["at"]["description"]
    assert asked == "The moment of prediction, such as 2024-03-01T10:00:00+02:00; without a zone in UTC; default: now."
    assert asked in str(schema["paths"]["/explain/{user_id}"])
    assert service.get("/users/u1/score", at="2024-03-01T12:00:01+02:00")["at"] == "2024-03-01T10:00:01Z"
    assert service.get("/users/u1/score")["score"] > 0  # now


def test_a_body_that_is_too_large_is_refused_before_it_is_read(service):
    for content in (b"x" * (10 << 20), (b"x" * 65_536 for _ in range(160))):  # the second one does not say its length
        answer = service.client.post("/events", content=content, headers=JSON)
        assert answer.status_code == 413
        assert "1,048,576 bytes" in answer.json()["detail"]
    assert service.append([EVENT])["stored"] == 1


def test_a_user_who_is_forgotten_has_no_score_and_begins_anew(service):
    service.append([EVENT, EVENT | {"event_time": "2024-03-02T10:00:00"}])
    first = service.get("/users/u1/score", at="2024-03-05", text=True)["text"]
    assert service.client.delete("/users/u1").json() == {"events": 2}
    service.get("/users/u1/score", status=404)
    assert service.client.delete("/users/u1").json() == {"events": 0}
    service.append([EVENT])
    assert service.get("/users/u1/score", at="2024-03-05", text=True)["text"] != first


def test_a_store_that_fails_is_said_and_no_history_knows_what_it_lost(service, monkeypatch):
    service.append([EVENT])
    first = service.get("/users/u1/score", at="2024-03-05", text=True)

    def full(events: list) -> list:
        raise StoreError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(service.engine.store, "add", full)
        patched.setattr(service.engine.store, "users", lambda *_: full([]))
        answer = service.client.post("/events", json={"events": [EVENT | {"amount": 1.0}]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "full" in answer.json()["detail"]
        assert service.client.get("/ready").status_code == 503
        assert service.client.get("/health").text == "ok"
    assert service.get("/users/u1/score", at="2024-03-05", text=True) == first
    assert service.client.get("/ready").text == "ok"


def test_more_than_can_wait_is_sent_away(service, monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(engine, "MOST_WAITING", 1)
    service.engine.submit(Call(held.wait))
    while service.engine.waiting:
        pass
    waiting = service.engine.submit(Call(lambda: "done"))
    assert service.client.get("/users/u1/score").status_code == 503
    held.set()
    assert waiting.result() == "done"


def test_with_a_key_only_health_readiness_and_the_page_are_open(model, tmp_path):
    with running(model, f"sqlite:///{tmp_path / 'h.db'}", KEY) as service:
        assert service.append([EVENT])["stored"] == 1
        for given in ({}, {"X-API-Key": "another"}, {"X-API-Key": ""}):
            service.client.headers = given
            for path in ("/", "/health", "/ready"):
                assert service.client.get(path).status_code == 200
            for path in ("/users", "/users/u1/score", "/explain/u1", "/metrics", "/model", "/openapi.json"):
                assert service.client.get(path).status_code == 401
            assert service.client.delete("/users/u1").status_code == 401
            assert service.client.post("/events", json={"events": [EVENT]}).status_code == 401


def test_no_id_and_no_value_gets_into_the_log_or_the_metrics(service, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    bought = EVENT | {"user_id": "somebody", "shop": "secret"}
    service.append([bought])
    service.append([bought | {"amount": "hidden"}], status=422)
    for path in ("/users/somebody/score", "/users/somebody/timeline", "/explain/somebody", "/users?start=somebody"):
        service.get(path)
    service.client.get("/nowhere/somebody")

    def broken(*_: object) -> None:
        raise ValueError(f"{bought}")

    monkeypatch.setattr(service.engine.model, "score_histories", broken)
    answer = service.client.get("/users/somebody/score")
    assert (answer.status_code, answer.json()) == (500, {"detail": "an error of the service; its log has the place"})
    service.client.delete("/users/somebody")
    logged = caplog.text + service.client.get("/metrics").text
    assert "GET /users/{user_id:path}/score 200" in logged
    assert "ValueError at" in logged
    assert "in broken" in logged
    own = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    for word in ("somebody", "secret", "hidden"):
        assert word not in own + service.client.get("/metrics").text


def test_metrics_count_what_was_done(service):
    service.append([EVENT, EVENT])
    service.append([EVENT | {"event_time": "x"}], status=422)
    service.get("/users/u1/score")
    said = service.client.get("/metrics").text
    for line in (
        'eventscribe_events_total{as="new"} 1.0',
        'eventscribe_events_total{as="known"} 1.0',
        'eventscribe_events_total{as="unusable"} 1.0',
        "eventscribe_scores_total 1.0",
        "eventscribe_histories 1.0",
        'eventscribe_requests_total{method="POST",route="/events",status="422"} 1.0',
        'eventscribe_request_seconds_count{route="/events"} 2.0',
        'eventscribe_model{name="tiny"} 1.0',
    ):
        assert line in said.splitlines()


def test_the_model_tells_what_its_scores_mean(service, trained):
    found = service.get("/model")
    assert found["question"].startswith("Which users")
    assert found["classes"] == ["no_churn", "churn"]
    assert (found["horizon"], found["threshold"], found["calibration"]) == ("14 days", 0.3, "isotonic")
    assert found["population"] == whom(service.engine.model.classifier.task).phrase()
    assert found["population"].endswith(" before")
    assert found["fields"] == {"amount": "DOUBLE", "shop": "VARCHAR"}
    paths = service.get("/openapi.json")["paths"]
    assert {"/score", "/events", "/users/{user_id}/score", "/users/scores", "/explain/{user_id}", "/model"} <= set(
        paths
    )


def test_another_model_is_served_without_a_request_that_fails_and_the_one_of_before_comes_back(model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    Calibration("isotonic", x=(0.2, 0.5, 0.8), y=(0.91, 0.93, 0.99), threshold=0.95).save(other)
    with running(model, f"sqlite:///{tmp_path / 'h.db'}", KEY) as service:
        service.append([EVENT])
        before = service.get("/users/u1/score", at="2024-03-05")["score"]
        assert service.client.post("/model/rollback").status_code == 409
        failed, going = [], threading.Event()

        def ask() -> None:
            while not going.is_set():
                answer = service.client.get("/users/u1/score", params={"at": "2024-03-05"})
                if answer.status_code != 200:
                    failed.append(answer.text)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        answer = service.client.post("/model", json={"model": str(other)})
        assert (answer.json()["model"], answer.json()["before"]) == (str(other), str(model))
        service.append([EVENT | {"event_time": "2024-03-04T10:00:00"}])
        after = service.get("/users/u1/score", at="2024-03-05")["score"]
        assert after > 0.9 > before
        answer = service.client.post("/model", json={"model": str(tmp_path / "nowhere")})
        assert answer.status_code == 422
        assert service.get("/model")["model"] == str(other)
        assert service.client.post("/model/rollback").json()["model"] == str(model)
        back = service.get("/users/u1/score", at="2024-03-05", text=True)
        going.set()
        for thread in threads:
            thread.join()
        assert failed == []
        # With what came in the meantime.
        assert "gap=3 " in back["text"]
        assert service.client.post("/model/rollback").json()["model"] == str(other)
        assert service.client.post("/model", json={"model": str(model)}).json()["before"] == str(other)


def test_without_a_key_nobody_changes_the_model(service, model):
    answer = service.client.post("/model", json={"model": str(model)})
    assert answer.status_code == 403
    assert "EVENTSCRIBE_API_KEY" in answer.json()["detail"]
    service.engine.submit(Call(lambda: service.engine.serve(ServedModel.load(str(model))))).result()
    answer = service.client.post("/model/rollback")
    assert answer.status_code == 403
    assert "EVENTSCRIBE_API_KEY" in answer.json()["detail"]


@pytest.mark.parametrize("resent", [False, True])
def test_an_event_that_the_store_took_without_an_answer_is_in_the_next_score(service, monkeypatch, resent):
    later = EVENT | {"event_time": "2024-03-04T10:00:00", "shop": "south"}
    service.append([EVENT])
    before = service.get("/users/u1/score", at="2024-03-05", text=True)["text"]
    add = service.engine.store.add

    def lost(events: list) -> list[bool]:
        add(events)
        raise StoreError("timeout")

    monkeypatch.setattr(service.engine.store, "add", lost)
    service.append([later], status=503)
    monkeypatch.undo()
    if resent:
        service.append([later | {"event_time": "2024-03-03T10:00:00"}])
        assert service.append([later]) == {"stored": 0, "known": 1}
    found = service.get("/users/u1/score", at="2024-03-05", text=True)
    assert found["text"] != before
    service.engine.model.forget_all()
    assert service.get("/users/u1/score", at="2024-03-05", text=True) == found


def test_a_known_event_that_the_held_history_lacks_is_in_the_next_score(service):
    later = EVENT | {"event_time": "2024-03-04T10:00:00"}
    service.append([EVENT])
    service.get("/users/u1/score", at="2024-03-05")
    service.engine.store.add([kept("u1", later)])  # as by another process
    assert service.append([later]) == {"stored": 0, "known": 1}
    found = service.get("/users/u1/score", at="2024-03-05", text=True)
    service.engine.model.forget_all()
    assert service.get("/users/u1/score", at="2024-03-05", text=True) == found
    assert found["text"].count("purchase") >= 2


def test_histories_that_are_not_asked_for_make_room(service, monkeypatch):
    monkeypatch.setattr("finetune.serving.service.model.MOST_USERS", 3)
    service.append([EVENT | {"user_id": f"u{i}"} for i in range(6)])
    asked = service.client.post("/users/scores", json={"users": [f"u{i}" for i in range(6)], "at": "2024-03-05"}).json()
    assert len(asked["scores"]) == 6
    assert list(service.engine.model.held) == ["u3", "u4", "u5"]
    service.get("/users/u3/score")
    service.get("/users/u0/score")
    assert list(service.engine.model.held) == ["u5", "u3", "u0"]
    assert service.engine.model.held_events == 3
