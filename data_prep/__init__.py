"""Event log -> labelled text: events, cutoffs, labels, aggregates and the serializer."""

import os
import sys
from pathlib import Path

# The libraries take seconds to be loaded, and Ctrl-C meanwhile would end a script in a traceback through them.
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parents[1] / "scripts":
    sys.excepthook = lambda kind, *more: os._exit(130) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)


class InputError(ValueError):
    """The user's config, log or files cannot be used; the message is one sentence that names the thing and the remedy.

    Commands print the message without a traceback and exit with code 2.
    """
