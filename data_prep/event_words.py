"""What the events of a condition are called in sentences for people: a basket, three baskets."""

import re


def event_phrase(where: str) -> str:
    """An event with a condition: with a basket, with an event, or with the condition as it is."""
    noun = event_noun(where)
    return with_article(noun) if noun else f"an event with {where}"


def event_noun(where: str) -> str | None:
    """event_type = 'add_to_cart' -> add to cart; None where more than the type decides."""
    if where == "true":
        return "event"
    found = re.fullmatch(r"\(?event_type\s*=\s*'((?:[^']|'')+)'\)?", where.strip())
    return found[1].replace("''", "'").replace("_", " ") if found else None


def with_article(noun: str) -> str:
    """A basket, an event."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """basket -> baskets, inquiry -> inquiries, transactions -> transactions."""
    return noun if noun.endswith("s") else re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"
