"""What all scripts share: an error is one sentence and exit code 2. Light, so that a wrong argument is told at once."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from data_prep import InputError


class AlarmError(Exception):
    """What a command was to watch for has come: its sentence ends the command with code 3."""


class CommandParser(argparse.ArgumentParser):
    """The command line of a script that takes a trained model instead of an experiment; an error is one sentence."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        refuse(f"{message}; see --help")

    def parse_args(self, *given: Any, **more: Any) -> argparse.Namespace:
        """With the home folder for a leading ~, which a shell leaves as it is behind =."""
        made = super().parse_args(*given, **more)
        for name, value in vars(made).items():
            try:
                setattr(made, name, [at_home(part) for part in value] if isinstance(value, list) else at_home(value))
            except InputError as error:
                self.error(f"argument --{name.replace('_', '-')}: {error}")
        return made


def at_home(path: Any) -> Any:
    """A path, or a text that may be one, with the home folder for a leading ~; InputError where there is none."""
    text = str(path)
    if not isinstance(path, str | Path) or not re.match(r"~[\w.-]*(/|$)", text) or path == "~":
        return path
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise InputError(f"'{text}' names the home folder of a user whom this machine has not", "write the whole path")
    return type(path)(found)


def guarded(step: Callable[[], object]) -> None:
    """Run a command's work: bad input ends it with one sentence and exit code 2, an alarm with 3, Ctrl-C with 130."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:  # no tables of new weights and bars of single files, once imported
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        step()
    except InputError as error:
        refuse(error)
    except AlarmError as alarm:
        print(f"alarm: {alarm}", file=sys.stderr)
        sys.exit(3)
    except OSError as error:
        if error.errno is None:
            raise
        what = error.filename or "writing a file"
        refuse(f"{what}: {os.strerror(error.errno)}; check the folder that is written to, and the space left")
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and str(error) != "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise
        print("\ninterrupted; finished outputs are kept, unfinished ones were not put in their place", file=sys.stderr)
        sys.exit(130)


def refuse(message: object) -> NoReturn:
    """End with one sentence and code 2."""
    if os.environ.get("RANK", "0") == "0":  # once for all processes
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
