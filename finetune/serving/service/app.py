"""The HTTP service: plain FastAPI over the engine; every path that names a user answers about that user alone."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data_prep import InputError
from data_prep.live import Unusable
from data_prep.moments import parse_cutoff
from data_prep.serving import trained_zone
from finetune.runs import whom, window_of
from finetune.serving.service import schemas
from finetune.serving.service.door import Door
from finetune.serving.service.engine import (
    Append,
    BusyError,
    Call,
    Engine,
    Job,
    Score,
    UnusableEventsError,
)
from finetune.serving.service.model import ServedModel
from finetune.serving.service.store import StoreError

SECONDS = 30.0  # after which an answer is given up
PAGE = FilePath(__file__).with_name("page.html")
# As of the pages of reports; this one asks its own service, too.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

router = APIRouter()
UserId = Annotated[str, Path(min_length=1, max_length=256)]
At = Annotated[str | None, Query(description=schemas.AT)]


def make_app(engine: Engine, key: str | None = None) -> FastAPI:
    """The service over an engine, which it stops at its end.

    Args:
        engine: Started.
        key: What requests have to say in X-API-Key; None lets everybody in, and no other model.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.stop)

    # The documentation's pages would load scripts from elsewhere.
    app = FastAPI(title="EventScribe", description=__doc__ or "", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.engine, app.state.registry, app.state.key = engine, CollectorRegistry(), key
    app.state.changing = asyncio.Lock()
    app.state.registry.register(_Counts(engine))
    ProcessCollector(registry=app.state.registry)  # memory, CPU and open files
    app.include_router(router)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Door, registry=app.state.registry, key=key)
    return app


async def _engine(request: Request) -> Engine:  # plain functions would be called in another thread
    return request.app.state.engine


Served = Annotated[Engine, Depends(_engine)]


async def _done(engine: Engine, job: Job) -> Any:
    async with asyncio.timeout(SECONDS):
        return await asyncio.wrap_future(engine.submit(job))


def _moment(at: str | None) -> datetime | None:
    return None if at is None else parse_cutoff(at)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


@router.post("/score")
async def score(asked: schemas.EventsToScore, engine: Served) -> schemas.Scores:
    """The scores of users by the events given, of which nothing is kept; of a user, all events."""
    events, cutoff = [event.plain() for event in asked.events], _moment(asked.at) or _now()
    answers = await _done(engine, Call(lambda: engine.model.score_events(events, cutoff, asked.text, asked.users)))
    if any(isinstance(answer, Unusable) for answer in answers):
        raise UnusableEventsError(answers)
    with_score = {answer.user for answer in answers}
    without = dict.fromkeys(user for event in events if (user := event["user_id"].strip(" ")) not in with_score)
    return schemas.Scores(scores=[schemas.Scored.of(answer) for answer in answers], without_history=list(without))


@router.post("/events")
async def append(given: schemas.Events, engine: Served) -> schemas.Stored:
    """Keep events. An event that was kept before is not kept twice, so that a sender may send again."""
    new = await _done(engine, Append([event.plain() for event in given.events]))
    return schemas.Stored(stored=new, known=len(given.events) - new)


@router.post("/users/scores")
async def scores(asked: schemas.UsersToScore, engine: Served) -> schemas.Scores:
    """The scores of many users whose events are kept."""
    users = list(dict.fromkeys(asked.users))
    answers = await _done(engine, Score(users, _moment(asked.at), asked.text))
    found = {answer.user for answer in answers}
    return schemas.Scores(
        scores=[schemas.Scored.of(answer) for answer in answers],
        without_history=[user for user in users if user not in found],
    )


@router.get("/users")
async def users(
    engine: Served, start: Annotated[str, Query(max_length=256)] = "", limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> list[str]:
    """Some users whose ids begin so."""
    return await _done(engine, Call(lambda: engine.store.users(start, limit)))


@router.get("/users/{user_id:path}/score")
async def user_score(user_id: UserId, engine: Served, at: At = None, text: bool = False) -> schemas.Scored:
    """The score of a user whose events are kept; 404 where none of them lies before the moment."""
    for answer in await _done(engine, Score([user_id], _moment(at), text)):
        return schemas.Scored.of(answer)
    raise HTTPException(404, "no event of this user lies before the moment")


@router.get("/users/{user_id:path}/timeline")
async def timeline(user_id: UserId, engine: Served, at: At = None) -> schemas.Timeline:
    """How a user's score came to be what it is."""
    cutoff = _moment(at) or _now()

    def work() -> list[schemas.Scored]:
        histories = engine.model.histories([user_id], engine.store)
        answers = engine.model.over_time(histories[user_id], user_id, cutoff) if histories else []
        return [schemas.Scored.of(answer) for answer in answers]

    found = await _done(engine, Call(work))
    if not found:
        raise HTTPException(404, "no event of this user lies before the moment")
    return schemas.Timeline(scores=found)


@router.delete("/users/{user_id:path}")
async def forget(user_id: UserId, engine: Served) -> schemas.Forgotten:
    """Take a user's events out of the store and its log, for good; what is sent later is kept as a new user's."""
    return schemas.Forgotten(events=await _done(engine, Call(lambda: engine.forget(user_id))))


@router.get("/explain/{user_id:path}")
async def explain(user_id: UserId, engine: Served, at: At = None) -> schemas.Explained:
    """What the score would be if one of the user's newest events had not happened, each in its turn."""
    cutoff = _moment(at) or _now()

    def work() -> dict | None:
        histories = engine.model.histories([user_id], engine.store)
        return engine.model.explain(histories[user_id], user_id, cutoff) if histories else None

    found = await _done(engine, Call(work))
    if found is None:
        raise HTTPException(404, "no event of this user lies before the moment")
    events = [event | {"time": event["time"].replace(tzinfo=UTC)} for event in found.pop("events")]
    return schemas.Explained(user_id=user_id, at=cutoff.replace(tzinfo=UTC), events=events, **found)


@router.get("/model")
async def model_facts(engine: Served) -> schemas.ModelFacts:
    """What is served, and what its scores mean."""
    return _facts(engine)


@router.post("/model")
async def change_model(asked: schemas.ModelName, engine: Served, request: Request) -> schemas.ModelFacts:
    """Serve another model; requests are answered by the present one until it is loaded."""
    _refuse_without_key(request)
    async with request.app.state.changing:
        model = await asyncio.to_thread(ServedModel.load, asked.model)
        await _done(engine, Call(lambda: engine.serve(model)))
        return _facts(engine)


@router.post("/model/rollback")
async def roll_back(engine: Served, request: Request) -> schemas.ModelFacts:
    """Serve the model of before again; twice, and it is the later one."""
    _refuse_without_key(request)
    async with request.app.state.changing:
        if not await _done(engine, Call(engine.back)):
            raise HTTPException(409, "no model was served before this one")
        return _facts(engine)


def _refuse_without_key(request: Request) -> None:
    if request.app.state.key is None:
        raise HTTPException(403, "start the service with EVENTSCRIBE_API_KEY in its environment, to change the model")


def _facts(engine: Engine) -> schemas.ModelFacts:
    classifier, task = engine.model.classifier, engine.model.classifier.task
    return schemas.ModelFacts(
        model=engine.model.name,
        name=task["name"],
        question=task["question"],
        task=classifier.objective.task,
        label=task["label"],
        classes=None if classifier.objective.task == "value" else list(classifier.objective.classes),
        horizon=window_of(task),
        population=whom(task).phrase(),
        threshold=classifier.calibration.threshold,
        calibration=classifier.calibration.method,
        timezone=trained_zone(task) or "UTC",
        fields=classifier.serializer.features.types,
        attributes=engine.model.attributes,
        training_cutoffs=task["splits"]["train"]["cutoffs"],
        runtime=engine.model.scoring.runtime,
        before=engine.before and engine.before.name,
    )


@router.get("/health", response_class=PlainTextResponse)
async def health() -> str:
    """Whether the process answers."""
    return "ok"


@router.get("/ready", response_class=PlainTextResponse)
async def ready(engine: Served) -> str:
    """Whether it can score and keep; 503 where it cannot."""
    await _done(engine, Call(lambda: engine.store.users("", 1)))
    return "ok"


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """For Prometheus."""
    return PlainTextResponse(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """A page for people."""
    text = PAGE.read_text(encoding="utf-8")
    script = text.partition("<script>")[2].partition("</script>")[0].encode()
    policy = POLICY.format(b64encode(sha256(script).digest()).decode())
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


class _Counts(Collector):
    """The engine's counts, as Prometheus takes them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        counts, model = self.engine.counts, self.engine.model
        events = CounterMetricFamily("eventscribe_events", "Events that came.", labels=["as"])
        for name in ("new", "known", "unusable"):
            events.add_metric([name], getattr(counts, name))
        yield events
        yield CounterMetricFamily("eventscribe_scores", "Scores of kept users.", value=counts.scores)
        yield CounterMetricFamily("eventscribe_score_batches", "Batches that gave them.", value=counts.batches)
        yield GaugeMetricFamily("eventscribe_waiting", "Requests that wait for the engine.", value=self.engine.waiting)
        yield GaugeMetricFamily("eventscribe_histories", "Users whose histories are held.", value=len(model.held))
        served = GaugeMetricFamily("eventscribe_model", "The model that is served.", labels=["name"])
        served.add_metric([model.classifier.task["name"]], 1)
        yield served


# Errors. No answer repeats what was given, as answers are logged by others.


def _says(status: int, said: str, **more: Any) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"detail": said, **more}, status, headers)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    wrong = [{"where": list(one["loc"]), "why": one["msg"]} for one in error.errors()[:20]]
    return _says(422, "the request does not fit; see /openapi.json", errors=wrong)


async def _unusable(request: Request, error: Any) -> JSONResponse:
    why = {str(row): reason for row, reason in list(error.why.items())[:100]}
    return _says(422, "some events cannot be used, and none was kept; leave these out or correct them", events=why)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _says(422, str(error))


async def _busy(request: Request, error: Any) -> JSONResponse:
    return _says(503, "too much waits, or the service is stopping; send it again")


async def _no_store(request: Request, error: Any) -> JSONResponse:
    return _says(503, f"the store does not do its work ({error}); send it again")


async def _late(request: Request, error: Any) -> JSONResponse:
    return _says(503, f"no answer within {SECONDS:.0f} seconds; send it again")


HANDLERS: dict[Any, Any] = {
    RequestValidationError: _invalid,
    UnusableEventsError: _unusable,
    InputError: _refused,
    BusyError: _busy,
    StoreError: _no_store,
    TimeoutError: _late,
}
