import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from data_prep import InputError
from finetune.serving.service.store import Kept, RedisStore, SqliteStore, Store, StoreError, kept, open_store


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis that keeps a log, at a socket in a folder; skips the test where there is none."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is missing; apt-get install redis-server")
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder), "--save", ""]
    command = ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), *durable]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        url = f"unix://{folder / 'redis.sock'}"
        for _ in range(200):
            with suppress(InputError):
                open_store(url).close()
                break
            time.sleep(0.05)
        try:
            yield url
        finally:
            server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = open_store(f"sqlite:///{tmp_path / 'histories.db'}")
        yield opened
        opened.close()
        return
    with redis_server(tmp_path) as url:
        opened = open_store(url)
        yield opened
        opened.close()


def event(user: str, day: int, **more: object) -> Kept:
    return kept(user, {"user_id": user, "event_time": f"2024-01-{day:02}", "event_type": "view", **more})


@pytest.mark.parametrize("content", ["[", "[]", "1", "[" * 100_000, ""])
def test_a_damaged_event_is_refused_in_a_sentence(store, content):
    store.add([Kept("a", "1", content), event("b", 1)])
    assert len(store.events(["b"])["b"]) == 1
    with pytest.raises(InputError, match=r"^an event in the store is damaged; forget the user, and send the events"):
        store.events(["a", "b"])
    assert store.forget("a") == 1


def test_what_another_process_writes_is_noticed_and_what_this_one_writes_is_not(store, tmp_path):
    sqlite = isinstance(store, SqliteStore)
    other = open_store(f"sqlite:///{tmp_path / 'histories.db'}" if sqlite else f"unix://{tmp_path / 'redis.sock'}")
    store.changed()
    assert not store.changed()
    store.add([event("a", 1)])
    assert not store.changed()
    other.add([event("a", 2)])
    store.add([event("a", 3)])
    assert store.changed()
    assert not store.changed()
    other.forget("a")
    assert store.changed()
    other.close()


def test_an_event_is_kept_once_whatever_is_sent(store):
    first, second = event("a", 1), event("a", 2, tags=["x"], value=1.5)
    assert store.add([first, second, first]) == [True, True, False]
    assert store.add([second, event("b", 1), event("a", 1, value=1)]) == [False, True, True]
    found = store.events(["a", "b", "c"])
    assert {user: len(events) for user, events in found.items()} == {"a": 3, "b": 1}
    assert {"user_id": "a", "event_time": "2024-01-02", "event_type": "view", "tags": ["x"], "value": 1.5} in found["a"]
    assert store.add([]) == []
    assert store.events([]) == {}


def test_of_a_users_events_of_one_id_the_first_is_kept(store):
    assert store.add([event("a", 1, event_id="x"), event("a", 2, event_id="x")]) == [True, False]
    # Of another user, and a number that is written as that text.
    assert store.add([event("b", 1, event_id="x"), event("a", 3, event_id=1), event("a", 3, event_id="1")]) == [
        *(True, True, False)
    ]
    assert [one["event_time"] for one in store.events(["b"])["b"]] == ["2024-01-01"]
    # Equal events that have ids are several.
    assert store.add([event("c", 1, event_id=1), event("c", 1, event_id=2), event("c", 1)]) == [True, True, True]


def test_users_by_how_their_ids_begin(store):
    ids = ["a", "a%", "aé", "ab", "b", "a_", "B"]
    store.add([event(user, 1) for user in ids])
    assert store.users("", 10) == sorted(ids, key=str.encode)
    assert store.users("a", 10) == sorted((user for user in ids if user.startswith("a")), key=str.encode)
    assert store.users("a%", 10) == ["a%"]
    assert store.users("a", 2) == sorted((user for user in ids if user.startswith("a")), key=str.encode)[:2]
    assert store.users("z", 10) == []


def test_users_by_how_their_ids_begin_at_the_ends_of_the_code_points(store):
    last = "\U0010ffff"
    ids = [f"a{last}", f"a{last}{last}b", "b", "\ud7ff", "\ud7ffx", "\ue000", last, f"{last}{last}", "a\0b", "a"]
    store.add([event(user, 1) for user in ids])
    for start in ("", "a", f"a{last}", f"a{last}{last}", "\ud7ff", "\ue000", last, last * 3, "a\0"):
        found = sorted((user for user in ids if user.startswith(start)), key=str.encode)
        assert store.users(start, 100) == found


def test_few_users_of_a_prefix_are_found_without_a_look_at_the_others(tmp_path):
    store = SqliteStore(tmp_path / "histories.db")
    store.add([event(user, 1) for user in ("a1", *(f"b{i}" for i in range(3_000)))])
    steps = []
    store.con.set_progress_handler(lambda: steps.append(1), 100)
    assert store.users("a", 50) == ["a1"]
    assert len(steps) < 5  # hundreds of instructions, where a look at each user takes thousands
    store.close()


def test_a_user_who_is_forgotten_is_gone_and_the_others_stay(store):
    store.add([event("gone", 1), event("gone", 2), event("stays", 1)])
    assert store.forget("gone") == 2
    assert store.forget("gone") == 0
    assert store.events(["gone", "stays"]).keys() == {"stays"}
    assert store.users("", 10) == ["stays"]
    assert store.add([event("gone", 1)]) == [True]


def test_of_a_forgotten_user_no_byte_stays_in_the_files(tmp_path):
    store = SqliteStore(tmp_path / "histories.db")
    store.add([event(f"somebody-{i}", day, note=f"secret-{i}" * 50) for i in range(40) for day in range(1, 20)])
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"somebody-7" in held
    for i in (7, 8):
        store.forget(f"somebody-{i}")
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"somebody-6" in held
    assert not any(word in held for word in (b"somebody-7", b"somebody-8", b"secret-7", b"secret-8"))
    store.close()


def test_no_byte_of_several_users_who_are_forgotten_in_a_row_stays_in_redis_log(tmp_path):
    with redis_server(tmp_path) as url:
        store = slow_to_rewrite(url)
        assert [store.forget(f"somebody-{i}") for i in (5, 6, 7, 8, 8, 30)] == [3, 3, 3, 3, 0, 0]
        wait_until_the_log_lacks(tmp_path, b"somebody-5", b"somebody-6", b"somebody-7", b"somebody-8", b"secret-8")
        assert b"somebody-4" in redis_log(tmp_path)
        assert len(store.users("", 100)) == 16
        store.close()


def test_a_rewrite_of_redis_log_that_was_due_at_a_stop_is_done_by_the_next_process(tmp_path):
    with redis_server(tmp_path) as url:
        store = slow_to_rewrite(url)
        store.forget("somebody-7")
        store.close()
    assert b"somebody-7" in redis_log(tmp_path)
    with redis_server(tmp_path) as url:  # the one of before was killed
        store = open_store(url)
        wait_until_the_log_lacks(tmp_path, b"somebody-7", b"secret-7")
        store.close()


def slow_to_rewrite(url: str) -> RedisStore:
    """A Redis with three events of each of 20 users, whose log takes half a second to rewrite."""
    store = RedisStore(url)
    store.add([event(f"somebody-{i}", day, note=f"secret-{i}") for i in range(20) for day in (1, 2, 3)])
    store.client.config_set("rdb-key-save-delay", 25_000)
    return store


def redis_log(folder: Path) -> bytes:
    found = b""
    for path in (folder / "appendonlydir").iterdir():
        with suppress(FileNotFoundError):  # it was rewritten
            found += path.read_bytes()
    return found


def wait_until_the_log_lacks(folder: Path, *words: bytes) -> None:
    for _ in range(300):
        held = redis_log(folder)
        if not any(word in held for word in words):
            return
        time.sleep(0.05)
    pytest.fail(f"it still has one of {words}")


def test_a_full_store_keeps_nothing_of_what_it_refuses_and_goes_on(tmp_path):
    store = SqliteStore(tmp_path / "histories.db")
    store.add([event("a", 1)])
    store.con.execute("PRAGMA max_page_count = 10")
    with pytest.raises(StoreError, match="full"):
        store.add([event("a", 2), *(event(f"u{i}", 1, note="x" * 2000) for i in range(100))])
    assert store.events(["a"])["a"] == [{"user_id": "a", "event_time": "2024-01-01", "event_type": "view"}]
    assert store.add([event("a", 2)]) == [True]
    store.close()


def test_a_store_that_another_process_writes_to_is_waited_for_and_then_said(tmp_path):
    store = SqliteStore(tmp_path / "histories.db")
    store.con.execute("PRAGMA busy_timeout = 50")
    with sqlite3.connect(tmp_path / "histories.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.add([event("a", 1)])
        other.execute("ROLLBACK")
    other.close()
    assert store.add([event("a", 1)]) == [True]
    store.close()


def test_a_redis_that_is_lost_is_an_error_and_what_it_acknowledged_is_there_again(tmp_path):
    with redis_server(tmp_path) as url:
        store = open_store(url)
        store.add([event("a", day) for day in range(1, 20)])
    with pytest.raises(StoreError):
        store.add([event("a", 20)])
    with pytest.raises(StoreError):
        store.events(["a"])
    with redis_server(tmp_path):  # the one of before was killed
        assert store.add([event("a", day) for day in range(1, 21)]) == [*[False] * 19, True]
        assert len(store.events(["a"])["a"]) == 20
        store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("histories.db", "is no store; give sqlite:///FILE or redis://HOST:PORT/0"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened"),
        ("redis://127.0.0.1:1/0", "no Redis answers there"),
        (
            "redis://localhost:notaport",
            "--store is no address of a Redis; give redis://HOST",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(url, said):
    with pytest.raises(InputError, match=said):
        open_store(url)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "log.csv").write_text("user,time\n" * 1000)
    with pytest.raises(InputError, match="not a database"):
        open_store(f"sqlite:///{tmp_path / 'log.csv'}")
