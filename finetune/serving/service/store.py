"""Where the events of users are kept: an SQLite file, or a Redis. An event that `add` returned from is not lost."""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from data_prep import InputError

EVENT_ID = "event_id"  # what a sender may call an event, so that it may send it twice
REDIS = ("redis://", "rediss://", "unix://")  # how addresses of one begin
AT_A_TIME = 500  # users that are asked for in one query
LOOK, AGAIN = 0.1, 10.0  # seconds: between two looks at a rewrite of Redis' log, and after one that failed
LOG = logging.getLogger("eventscribe.service")


class StoreError(Exception):
    """The store cannot be reached or written to; nothing of what was asked is done."""


class Kept(NamedTuple):
    """An event of a user: two with the same key are one."""

    user: str
    key: str
    event: str  # JSON


class Store(Protocol):
    """What the service asks of a store. Any method may raise StoreError."""

    def add(self, events: Sequence[Kept]) -> list[bool]:
        """Keep events, and say of each whether it is new; when it returns, they are kept."""
        ...

    def events(self, users: Iterable[str]) -> dict[str, list[dict]]:
        """The events of those users who have any, in no order."""
        ...

    def users(self, start: str, limit: int) -> list[str]:
        """Some users whose ids begin so, in the order of the ids."""
        ...

    def forget(self, user: str) -> int:
        """Take away all events of a user, also from what the store keeps beside its data; returns their number."""
        ...

    def changed(self) -> bool:
        """Whether another process may have written to it since this was asked last."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def kept(user: str, event: dict) -> Kept:
    """An event as a store keeps it; its key is its event_id, or its content where it has none."""
    event = event | {"user_id": user}
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if event.get(EVENT_ID) is not None:
        return Kept(user, f"id:{event[EVENT_ID]}", text)
    content = json.dumps(event, sort_keys=True, allow_nan=False)
    return Kept(user, f"content:{sha256(content.encode()).hexdigest()}", text)


def _event(text: Any) -> dict:
    """An event as `kept` wrote it; InputError where it is damaged."""
    try:
        event = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise InputError("an event in the store is damaged", "forget the user, and send the events again")
    return event


def _behind(start: str) -> str | None:
    """The first text behind all that begin so, in the order of code points, which is that of UTF-8; None at the end."""
    stem = start.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # no text has surrogates


def open_store(url: str) -> Store:
    """The store at sqlite:///FILE or redis://HOST; InputError where it is neither, or cannot be opened."""
    if url.startswith("sqlite:///"):
        return SqliteStore(Path(url.removeprefix("sqlite:///")))
    if url.startswith(REDIS):
        return RedisStore(url)
    raise InputError(f"--store {url} is no store", "give sqlite:///FILE or redis://HOST:PORT/0", setting="--store")


class SqliteStore:
    """Events in one file of SQLite, written ahead: each `add` is one transaction, on the disk before it returns."""

    def __init__(self, path: Path) -> None:
        self.version: int | None = None
        try:
            # The engine's thread uses it alone; it was opened by another one.
            self.con = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
            self.con.execute("PRAGMA journal_mode = WAL")
            self.con.execute("PRAGMA synchronous = FULL")
            self.con.execute("PRAGMA secure_delete = ON")
            self.con.execute(
                """CREATE TABLE IF NOT EXISTS events
                   (user TEXT, key TEXT, event TEXT NOT NULL, PRIMARY KEY (user, key)) WITHOUT ROWID"""
            )
        except sqlite3.Error as error:
            raise InputError(
                f"--store {path} cannot be opened ({error})", "check the path and the folder", setting="--store"
            ) from error

    def add(self, events: Sequence[Kept]) -> list[bool]:
        """See Store."""
        with self._transaction():
            insert = "INSERT OR IGNORE INTO events VALUES (?, ?, ?)"
            return [self.con.execute(insert, event).rowcount == 1 for event in events]

    def events(self, users: Iterable[str]) -> dict[str, list[dict]]:
        """See Store."""
        found: dict[str, list[dict]] = {}
        asked = list(users)
        for start in range(0, len(asked), AT_A_TIME):
            some = asked[start : start + AT_A_TIME]
            with self._transaction("BEGIN"):
                query = f"SELECT user, event FROM events WHERE user IN ({', '.join('?' * len(some))})"
                for user, event in self.con.execute(query, some):
                    found.setdefault(user, []).append(_event(event))
        return found

    def users(self, start: str, limit: int) -> list[str]:
        """See Store."""
        with self._transaction("BEGIN"):
            end = _behind(start)
            below, bounds = ("", (start,)) if end is None else (" AND user < ?", (start, end))
            query = f"SELECT DISTINCT user FROM events WHERE user >= ?{below} ORDER BY user LIMIT ?"
            return [user for (user,) in self.con.execute(query, (*bounds, limit))]

    def forget(self, user: str) -> int:
        """See Store: freed pages are overwritten, and the log that was written ahead is emptied."""
        with self._transaction():
            gone = self.con.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
        try:
            busy, *_ = self.con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        if busy:
            raise StoreError("the events are gone, but another process reads the file, so that its log still has them")
        return gone

    def changed(self) -> bool:
        """See Store: the version stays as it is when this connection writes."""
        try:
            (version,) = self.con.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        seen, self.version = self.version, version
        return version != seen

    def close(self) -> None:
        """See Store."""
        self.con.close()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """All of the block or nothing; SQLite's complaints, such as of a full disk, become a StoreError."""
        try:
            self.con.execute(begin)
            yield
            self.con.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        finally:
            if self.con.in_transaction:
                self.con.execute("ROLLBACK")


class RedisStore:
    """Events in a Redis, a hash for each user; as safe as its `appendonly` and `appendfsync` make it.

    Its log has what was forgotten until it is rewritten. A thread asks for that: while a rewrite is under way Redis
    takes no other order, and one that began before a deletion does not know of it. What is due is counted in Redis, so
    that the next process that opens the store goes on where this one is stopped.
    """

    PREFIX, USERS = "eventscribe:user:", "eventscribe:users"
    WRITES = "eventscribe:writes"  # how often anybody wrote
    FORGOTTEN, REWRITTEN = "eventscribe:forgotten", "eventscribe:rewritten"  # users, and how many the log has no more
    COUNT = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('INCR', KEYS[2]) end"

    def __init__(self, url: str) -> None:
        self.writes: int | None = None  # that this process knows of
        try:
            import redis
        except ImportError as error:
            raise InputError("a store in Redis needs redis", "pip install -e '.[redis]'", setting="--store") from error
        self.failed = redis.RedisError, OSError
        self.client: redis.Redis = redis_client(url, "--store", 2)
        try:
            self.durable = self.client.info("persistence")["aof_enabled"]  # pyright: ignore[reportIndexIssue]
        except self.failed as error:
            raise InputError(
                f"--store: no Redis answers there ({error})", "start it, or check the address", setting="--store"
            ) from error
        if not self.durable:
            print("warning: this Redis keeps no log (appendonly no): events since its last snapshot die with it")
        self._due, self._closed = threading.Event(), threading.Event()
        self._due.set()  # perhaps by a process of before
        self._rewriting = threading.Thread(target=self._rewrite_when_due, name="rewrites", daemon=True)
        if self.durable:
            self._rewriting.start()

    def add(self, events: Sequence[Kept]) -> list[bool]:
        """See Store."""
        with redis_errors(self.failed):
            pipe = self.client.pipeline(transaction=True)
            for user, key, event in events:
                pipe.hsetnx(self.PREFIX + user, key, event)
            if events:
                pipe.zadd(self.USERS, dict.fromkeys((event.user for event in events), 0))
            return [bool(new) for new in self._written(pipe)[: len(events)]]

    def events(self, users: Iterable[str]) -> dict[str, list[dict]]:
        """See Store."""
        asked = list(users)
        with redis_errors(self.failed):
            pipe = self.client.pipeline(transaction=False)
            for user in asked:
                pipe.hvals(self.PREFIX + user)
            found = pipe.execute()
        return {user: [_event(event) for event in own] for user, own in zip(asked, found, strict=True) if own}

    def users(self, start: str, limit: int) -> list[str]:
        """See Store."""
        with redis_errors(self.failed):
            end = _behind(start)
            high = "+" if end is None else f"({end}"
            return list(map(str, self.client.zrangebylex(self.USERS, f"[{start}", high, 0, limit)))

    def forget(self, user: str) -> int:
        """See Store: the log is written anew without them, in the background of the server."""
        with redis_errors(self.failed):
            pipe = self.client.pipeline(transaction=True)
            pipe.hlen(self.PREFIX + user)
            pipe.eval(self.COUNT, 2, self.PREFIX + user, self.FORGOTTEN)
            pipe.delete(self.PREFIX + user)
            pipe.zrem(self.USERS, user)
            gone = self._written(pipe)[0]
        self._due.set()
        return gone

    def _rewrite_when_due(self) -> None:
        while not self._closed.is_set():
            self._due.wait()
            self._due.clear()
            while not self._closed.is_set() and not self._rewritten():
                pass

    def _rewritten(self) -> bool:
        """Whether the log has nothing of what was forgotten; else one rewrite is asked for, and waited for."""
        try:
            counts: Any = self.client.mget(self.FORGOTTEN, self.REWRITTEN)
            forgotten, rewritten = counts
            if forgotten in (None, rewritten):
                return True
            before = self._at_rest()
            self.client.bgrewriteaof()
            after = self._at_rest()
            if self._closed.is_set():
                return False
            if after["run_id"] == before["run_id"] and after["aof_last_bgrewrite_status"] == "ok":
                self.client.set(self.REWRITTEN, forgotten)
                return False  # perhaps others were forgotten meanwhile
            why = "it was stopped or failed"
        except self.failed as error:
            why = str(error)
        if not self._closed.wait(AGAIN):
            LOG.warning("Redis' log still has users who were forgotten; its rewrite is asked for again (%s)", why)
        return False

    def _at_rest(self) -> dict[str, Any]:
        """What Redis says of itself once no rewrite is under way or scheduled, or the store is closed."""
        while True:
            said: Any = self.client.info()
            if not said["aof_rewrite_in_progress"] and not said["aof_rewrite_scheduled"]:
                return said
            if self._closed.wait(LOOK):
                return said

    def _written(self, pipe: Any) -> list[Any]:
        """What a transaction answers that writes."""
        pipe.incr(self.WRITES)
        *answers, writes = pipe.execute()
        if self.writes is not None and writes == self.writes + 1:  # else somebody wrote in between
            self.writes = writes
        return answers

    def changed(self) -> bool:
        """See Store."""
        with redis_errors(self.failed):
            writes = int(self.client.get(self.WRITES) or 0)  # pyright: ignore[reportArgumentType]
        seen, self.writes = self.writes, writes
        return writes != seen

    def close(self) -> None:
        """See Store."""
        self._closed.set()
        self._due.set()
        if self.durable:
            self._rewriting.join()
        self.client.close()


def redis_client(url: str, setting: str, seconds: float) -> Any:
    """A client of a Redis that waits this long for an answer; InputError where the URL, given by a setting, is none."""
    import redis

    try:
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=seconds)
    except ValueError as error:
        raise InputError(
            f"{setting} is no address of a Redis",
            "give redis://HOST:PORT/0",
            setting=setting,
        ) from error


@contextmanager
def redis_errors(failed: tuple[type[Exception], ...]) -> Iterator[None]:
    """Redis' complaints, which are of these types, become a StoreError."""
    try:
        yield
    except failed as error:
        raise StoreError(f"{type(error).__name__}: {error}") from error
