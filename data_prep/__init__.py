"""Event log -> labelled text: events, cutoffs, labels, aggregates and the serializer."""

import os
import re
import sys
from pathlib import Path

# The libraries take seconds to be loaded, and Ctrl-C meanwhile would end a script in a traceback through them.
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parents[1] / "scripts":
    sys.excepthook = lambda kind, *more: os._exit(130) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)


LONGEST = 1_000  # characters of a problem, and of a remedy


class InputError(ValueError):
    """The user's config, log or files cannot be used; the message is one sentence, "PROBLEM; REMEDY".

    Commands print it without a traceback and exit with code 2. What it quotes of a file or a config becomes a part of
    the line: no line break, no character that steers a terminal, no half character, no part longer than LONGEST.

    Args:
        problem: What is wrong. It begins with the setting, or stands behind it and a colon.
        remedy: What to do about it; empty where the problem says it.
        setting: The setting or argument at fault; empty where it is none.
    """

    def __init__(self, problem: str, remedy: str = "", setting: str = "") -> None:
        if not problem.startswith(setting):
            problem = f"{setting}: {problem}"
        problem, remedy = _in_a_line(problem), _in_a_line(remedy)
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy, self.setting = problem, remedy, setting

    def within(self, place: str) -> "InputError":
        """The same, said of something inside of a file or a setting."""
        return InputError(f"{place}: {self.problem}", self.remedy)

    def called(self, name: str) -> "InputError":
        """The same for a caller who knows the setting by another name."""
        return InputError(f"{name}{self.problem.removeprefix(self.setting)}", self.remedy, name)


def _in_a_line(text: str) -> str:
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    if text.isprintable():
        return text
    text = re.sub(r"\s*[\n\r]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
