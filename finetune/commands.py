"""What all scripts share: an error is one sentence and exit code 2. Light, so that a wrong argument is told at once."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from data_prep import InputError


class CommandParser(argparse.ArgumentParser):
    """The command line of a script that takes a trained model instead of an experiment; an error is one sentence."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        refuse(f"{message}; see --help")


def guarded(step: Callable[[], object]) -> None:
    """Run a command's work: bad input ends it with one sentence and exit code 2, Ctrl-C with 130."""
    from transformers.utils import logging as transformers_logging  # the arguments are read before this second

    if "TRANSFORMERS_VERBOSITY" not in os.environ:  # tables of new weights and bars of single files
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        step()
    except InputError as error:
        refuse(error)
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
