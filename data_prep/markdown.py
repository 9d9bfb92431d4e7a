"""Text of a log or a config within a card: it begins no tag, no link and no line of its own."""

import re

CODE = re.compile(r"(`[^`]*`)")
BLOCK = re.compile(r"`{3}|~{3}|#{1,6}(\s|$)|>|[-+*](\s|$)|\d{1,9}[.)](\s|$)|(-|=|_|\*){3}")
STRANGE = re.compile(r"``|\\`")
TAG = re.compile(r"<(?=[A-Za-z/!?])")


def inline(text: object) -> str:
    """The text in one line, with `<` of tags and the brackets of links and pictures as what they are.

    Between backticks it stays as it is, as Markdown takes nothing there for a tag, unless they are no plain pairs.
    """
    said = " ".join(str(text).split())
    plain = said.count("`") % 2 == 0 and not STRANGE.search(said)
    parts = CODE.split(said) if plain else [said]
    return "".join(part if plain and part.startswith("`") else _shown(part) for part in parts)


def paragraph(text: object) -> str:
    """The same as a paragraph of its own, which begins no heading, list, quote, rule or block of code."""
    said = inline(text)
    return f"\\{said}" if BLOCK.match(said) else said


def cell(value: object) -> str:
    """The same within a table."""
    return inline(value).replace("|", "\\|")


def _shown(text: str) -> str:
    return TAG.sub("&lt;", text).replace("](", "]\\(")
