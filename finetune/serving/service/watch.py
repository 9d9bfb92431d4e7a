"""A model that is put in use while the service runs: it is loaded beside the one that scores, and takes its place."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from data_prep import InputError
from finetune.serving.service.engine import BusyError, Call, Engine
from finetune.serving.service.model import ServedModel

SECONDS = 5.0  # between two looks
LOG = logging.getLogger("eventscribe.service")
State = tuple[str, tuple[tuple[str, int, int, int], ...]]


def watch(engine: Engine, current: Callable[[], str], loaded: State | None, every: float = SECONDS) -> None:
    """Serve what is in use from the moment on that it is another model, or its folder another one, until the engine
    stops. Files that change are waited for, until two looks have found them the same.

    What cannot be loaded is said in the log, and the model of before goes on scoring.

    Args:
        engine: Serves what is in use now.
        current: The folder that is in use; may raise InputError.
        loaded: By `state_of`, before the engine's model was loaded.
        every: Seconds between two looks.
    """

    def work() -> None:
        served = seen = loaded
        while engine.alive:
            time.sleep(every)
            try:
                found = state_of(current())
                if found not in (served, None) and found == seen:
                    served = found  # also where it cannot be loaded, until it changes again
                    model = ServedModel.load(found[0])
                    engine.submit(Call(lambda model=model: engine.serve(model))).result()
                seen = found
            except InputError as error:
                LOG.error("the model in use cannot be served, and the one of before is: %s", error)
            except BusyError:
                served = None
            except OSError:  # a file went away while it was looked at
                seen = None

    threading.Thread(target=work, name="watch", daemon=True).start()


def state_of(folder: str) -> State | None:
    """The folder and its files with time, size and number, which are others once it was replaced; None without one."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        return None
    stats = {file.name: file.stat() for file in path.iterdir()}
    return folder, tuple((name, of.st_mtime_ns, of.st_size, of.st_ino) for name, of in sorted(stats.items()))
