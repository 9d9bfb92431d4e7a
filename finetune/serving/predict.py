"""A whole log -> a file of scores: part by part in bounded memory, in several processes, and on after a stop.

The log is split by a hash of the user into parts in OUTPUT.parts, once. A part's scores take their place by one rename,
and so does the output at the end: whatever happens, a user is scored once, and nobody is left out.
"""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from data_prep import InputError
from data_prep.attributes import RELATION
from data_prep.checked_json import read_json
from data_prep.config import DataConfig, settings_of
from data_prep.connections import connect, lock_down
from data_prep.facts import Task
from data_prep.files import files_hash, held, write_whole
from data_prep.moments import show
from data_prep.population import EVERYBODY, Whom
from data_prep.serializer import EventSerializer
from data_prep.serving import BATCH, LAST, MEMORY, PART_USERS, cutoff_of, part_texts, read_past, write_past
from data_prep.side_tables import all_logs
from data_prep.sources import expanded, source_files
from data_prep.users import key_mark
from finetune.model.inference import Precision
from finetune.model.loading import model_folder
from finetune.model.tokenization import first_line
from finetune.runs import whom
from finetune.serving.classifier import EventClassifier, check_size, nobody
from finetune.serving.top import refuse_lists, refuse_other, refuse_share, top_file, write_top
from finetune.serving.user_groups import UserGroups

PLAN = "plan.json"  # what the scores depend on and the users in each part; it is there once the log is split
USERS = "users.parquet"  # attributes of users, where the model reads them
BEFORE_PLAN = {
    "lock",
    "log",
    "spill",
    f".{PLAN}",
    USERS,
    "users.unfinished",
    "all.parquet",
}  # what may lie there without a plan
READS = ("*.json", "*.safetensors", "*.txt", "*.model")  # files of a model's folder that scores depend on


def predict_log(
    model: str | Path,
    data: DataConfig,
    cutoff: datetime | date | str,
    output: Path,
    *,
    text: bool = False,
    batch_size: int = BATCH,
    population: bool = False,
    part_users: int = PART_USERS,
    called: str = "data.sources[0]",
    top: float | None = None,
    embeddings: bool = False,
    groups: Path | None = None,
    precision: Precision | None = None,
) -> Path:
    """Score all users of a log who have an event before the cutoff, as EventClassifier.predict does; return the output.

    What is left out or missing is said at the beginning. The order of the rows means nothing and is always the same.
    Processes of accelerate or torchrun share the parts. The same call after a stop goes on and reads the log no more.

    Args:
        model: A folder or a name of the hub.
        data: The log; of its settings only the sources and how they are read count, and memory_limit (2 GB by default).
        cutoff: The moment of prediction, in UTC where it carries no zone; or "last", see EventClassifier.predict.
        output: A Parquet file, which is replaced.
        text: Also write the text that the model read.
        batch_size: The most texts at a time.
        population: Keep only the users whom the task asks about.
        part_users: About so many users are scored between two renames; what a stop loses at most in each process.
        called: What the events are called in messages.
        top: Also list the users with the highest scores, this share of those scored; see `write_top`.
        embeddings: Also write a vector of each user, see `EventClassifier.embed`.
        groups: A file with the group of each user, for a model with thresholds of groups; see `UserGroups`.
        precision: bf16, which makes no embeddings, or fp32; see `for_scoring`.

    Raises:
        InputError: The model or the events cannot be used, or OUTPUT.parts is of another model, log or cutoff.
    """
    accelerator, output = _accelerator(), Path(output)
    check_arguments(output, data, batch_size, part_users, top)
    classifier = to_score(folder := model_folder(model), top, precision, embeddings)
    by_group = _by_group(groups, classifier, top, accelerator.is_main_process)
    moment, members = cutoff_of(classifier.serializer, cutoff), whom(classifier.task) if population else EVERYBODY
    with alone(work := output.with_name(f"{output.name}.parts"), accelerator.is_main_process):
        plan = None
        if accelerator.is_main_process:
            origin = {"cutoff": str(moment or LAST), "text": text, "population": population, "embeddings": embeddings}
            origin |= {"precision": precision} | _origin(folder, data, groups)
            plan = _plan(work, origin, classifier, data, moment, part_users, called)
        own = _own_parts(work, users := _users_by_part(plan), accelerator)
        with _bar(None if population else sum(users[part] for part in own), accelerator) as bar:
            for part, texts in _texts(classifier.serializer, data, work, own, moment, members):
                assert population or len(texts) == users[part]
                _write(_scores(work, part), classifier.answers(texts, text, batch_size, embeddings, bar, by_group))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _finish(work, list(users), output, classifier.task, moment, top, data.memory_limit or MEMORY)
    accelerator.wait_for_everyone()
    return output


def _accelerator() -> Accelerator:
    # Without a GPU it must be told so, or each of several processes takes itself for the only one.
    waiting = InitProcessGroupKwargs(timeout=timedelta(days=7))  # the others wait while the first splits the log
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waiting])


def several_processes() -> bool:
    """Whether accelerate or torchrun launched more than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_arguments(output: Path, data: DataConfig, batch_size: int, part_users: int, top: float | None) -> None:
    """InputError where one of the arguments of `predict_log` is none, or a file would be written that must not."""
    check_size("batch_size", batch_size)
    check_size("part_users", part_users)
    if output.suffix != ".parquet" or output.is_dir():
        raise InputError(f"output: {output} is not a name of a Parquet file", "write one such as scores.parquet")
    if top is not None:
        refuse_share(top)
    written = [output, top_file(output)]
    read = [path.resolve() for log in all_logs(data) for path in source_files(log) or []]
    for path in written:
        if path.resolve() in read:
            raise InputError(f"output: {path} is one of the files that are read", "choose another name")
    refuse_other(top_file(output))


def to_score(
    folder: Path, top: float | None, precision: Precision | None = None, embeddings: bool = False
) -> EventClassifier:
    """The model; InputError where it cannot be loaded or score in this precision, or its scores cannot be listed."""
    if embeddings and precision == "bf16":
        raise InputError("embeddings are made in fp32", "leave embeddings or bf16 out", setting="precision")
    classifier = EventClassifier.from_pretrained(folder, precision=precision)
    if top is not None:
        refuse_lists(classifier.objective.task)
    return classifier


def _by_group(groups: Path | None, classifier: EventClassifier, top: float | None, main: bool) -> UserGroups | None:
    if groups is None:
        return None
    if top is not None:
        raise InputError(
            "--top lists by the score alone, whatever the group", "give one of the two", setting="--groups"
        )
    found = UserGroups.read(groups, classifier.calibration)
    if main:
        print(found.said())
    return found


def _users_by_part(plan: dict | None) -> dict[int, int]:
    """Number of a part -> its users, in all processes by the plan of the first."""
    (plan,) = broadcast_object_list([plan])
    assert plan is not None
    return {int(part): count for part, count in plan["users"].items()}


def _own_parts(work: Path, users: dict[int, int], accelerator: Accelerator) -> list[int]:
    """This process's share of the parts that are not scored yet."""
    pending = [part for part in users if not _scores(work, part).is_file()]
    accelerator.wait_for_everyone()  # or one process would not find pending what another has scored already
    return pending[accelerator.process_index :: accelerator.num_processes]


def _bar(total: int | None, accelerator: Accelerator) -> tqdm:
    processes = accelerator.num_processes
    name = "score" if processes == 1 else f"score, a share of 1/{processes}"
    return tqdm(desc=name, total=total, unit="user", disable=not accelerator.is_main_process)


def users_by_part(content: Any) -> bool:
    """Number of a part -> its users."""
    return isinstance(content, dict) and all(
        key.isdecimal() and isinstance(users, int) and users > 0 for key, users in content.items()
    )


@contextmanager
def alone(work: Path, main: bool) -> Iterator[None]:
    """The folder of the parts, held by one command at a time; a kill lets go of it."""
    if not main:
        yield
        return
    shutil.rmtree(_finished(work), ignore_errors=True)  # of a command that was killed behind its last step
    found = {path.name for path in work.iterdir()} if work.is_dir() else set()
    if found - BEFORE_PLAN and not (work / PLAN).is_file():
        raise InputError(f"{work} holds something else than parts of scores", "move it or choose another --output")
    work.mkdir(parents=True, exist_ok=True)
    with held(work / "lock", f"{work} is being written by another command; wait for it or stop it"):
        try:
            yield
        finally:
            if not (work / PLAN).is_file():  # refused, or stopped before there was anything to go on with
                shutil.rmtree(work, ignore_errors=True)


def _origin(folder: Path, data: DataConfig, groups: Path | None) -> dict:
    """What the scores depend on beside the settings; answers of databases and of other addresses are not looked at."""
    logs = all_logs(data)
    paths = [path for log in logs for path in source_files(log) or []]
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    read = {key: value for key, value in settings_of(data).items() if key not in ("folder", "memory_limit")}
    return {
        "model": files_hash({path for pattern in READS for path in folder.glob(pattern)}),
        "sources": [json.loads(json.dumps(read)), *(text for log in logs for text in expanded(log)), key_mark(data)],
        "files": files,
        "groups": files_hash([groups]) if groups else None,
    }


def _plan(
    work: Path,
    origin: dict,
    classifier: EventClassifier,
    data: DataConfig,
    cutoff: datetime | None,
    part_users: int,
    called: str,
) -> dict:
    """The users in each part and what is to be said of the log, which is split into WORK/log where it is not yet."""
    if (work / PLAN).is_file():
        remedy = f"delete {work} and run the same command again"
        plan = read_json(work / PLAN, {"origin": dict, "users": users_by_part, "notes": [str]}, remedy)
        older = {"embeddings": False, "groups": None, "precision": None}  # of a version that had none
        before = older | plan["origin"]
        changed = [key for key in origin if before.get(key) != origin[key]]
        if changed:
            other = f"{'other' if changed[0].endswith('s') else 'another'} {changed[0]}"
            raise InputError(
                f"{work} holds the scores of a command that was stopped and had {other}",
                "give the same arguments to go on with it, delete the folder to start anew, or choose another --output",
            )
    else:
        for name in ("log", "spill"):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / USERS).unlink(missing_ok=True)
        with connect(data.memory_limit or MEMORY, work / "spill") as con:
            log = read_past(con, data, classifier.serializer, cutoff, called, work, classifier.task)
            users = write_past(con, log, work / "log", part_users)
            if classifier.serializer.attributes:
                _write(work / USERS, con.sql(f"SELECT * FROM {RELATION}").to_arrow_table())
        plan = {"origin": origin, "users": {str(part): count for part, count in users.items()}, "notes": log.notes()}
        write_whole(work / PLAN, json.dumps(plan) + "\n")
    for note in plan["notes"]:
        print(note)
    done = sum(_scores(work, int(part)).is_file() for part in plan["users"])
    if done:
        print(f"going on: {done} of {len(plan['users'])} parts are scored already")
    return plan


def _texts(
    serializer: EventSerializer,
    data: DataConfig,
    work: Path,
    parts: list[int],
    cutoff: datetime | None,
    members: Whom,
) -> Iterator[tuple[int, pa.Table]]:
    """Part by part the texts; the next one's are written while the last one's are scored."""
    with connect(data.memory_limit or MEMORY, work / "spill") as con, ThreadPoolExecutor(1) as pool:
        lock_down(con, [work])
        if serializer.attributes:
            con.register(RELATION, pq.read_table(work / USERS))

        def make(part: int) -> pa.Table:
            return part_texts(con, serializer, work / "log", part, cutoff, members)

        following = pool.submit(make, parts[0]) if parts else None
        for i, part in enumerate(parts):
            assert following is not None  # as this part was left
            texts = following.result()
            following = pool.submit(make, parts[i + 1]) if i + 1 < len(parts) else None
            yield part, texts


def _finish(
    work: Path,
    parts: list[int],
    output: Path,
    task: Task,
    cutoff: datetime | None,
    top: float | None,
    memory_limit: str,
) -> None:
    """Put the scores of all parts into the output, list the top, take the parts away, and say how many users there are.

    The list comes before the parts are gone, so that a command that was stopped between writes it the next time.
    """
    schema = _read(_scores(work, parts[0]), None).schema
    with pq.ParquetWriter(work / "all.parquet", schema, compression="zstd") as writer:
        for part in parts:
            table = _read(_scores(work, part), schema)
            if len(table):
                writer.write_table(table)
    take_place(work, output, task, cutoff, top, memory_limit)


def _read(path: Path, schema: pa.Schema | None) -> pa.Table:
    """The scores of a part; InputError where they are damaged, or not as those of the others."""
    try:
        table = pq.read_table(path)
        if schema is not None and table.schema != schema:
            raise ValueError("its columns are not those of the first part")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)})", f"delete {path.parent} and run the same command again"
        ) from error
    return table


def take_place(
    work: Path, output: Path, task: Task, cutoff: datetime | None, top: float | None, memory_limit: str
) -> None:
    """See `_finish`: put WORK/all.parquet in the place of the output."""
    rows = pq.read_metadata(work / "all.parquet").num_rows
    top_file(output).unlink(missing_ok=True)  # a list of other scores, once these take their place
    os.replace(work / "all.parquet", output)
    listed = None if top is None else write_top(output, top, work, memory_limit)
    os.rename(work, _finished(work))  # in one step, as a half of the parts would look like all of them
    shutil.rmtree(_finished(work))
    moment = f"at the cutoff {show(cutoff)}" if cutoff else "right after their last event"
    print(f"{output}: {rows:,} users scored {moment}")
    if not rows:
        print(nobody(task, cutoff))
    if listed:
        print(listed)


def _finished(work: Path) -> Path:
    return work.with_name(f"{work.name}.finished")


def _scores(work: Path, part: int) -> Path:
    return work / f"scores-{part:05}.parquet"


def _write(path: Path, table: pa.Table) -> None:
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(table, unfinished, compression="zstd")
    os.replace(unfinished, path)
