"""User ids as text, without merging anybody; their pseudonyms; and the size at which a user is too many for one."""

import hashlib
import hmac
import os

from data_prep import InputError
from data_prep.config import DataConfig
from data_prep.sql import quote, text_sql

# What pandas, Python and databases write for nobody.
NO_NAMES = ("nan", "NaN", "NAN", "none", "None", "NONE", "null", "Null", "NULL", "<NA>", "<na>")
NOBODY = f"given_user IN ({', '.join(map(quote, NO_NAMES))})"
EXACT = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}  # whole numbers below it are exact
WHOLE = r"[+-]?\d+\.0*"  # 12346.0
ROUNDED = r"[+-]?(\d*\.\d+|\d+\.)([eE][+-]?\d+)?|[+-]?\d+[eE]\+\d+"  # 1.5, 4.00012E+15, 1e+16; not the code 1e5
SIZES = "SELECT n, count(*) FROM (SELECT count(*) AS n FROM log GROUP BY user_id) GROUP BY n"  # a Count


def given_user_sql(kind: str) -> str:
    """SQL of a user's id as it is given, as text; NULL where there is none."""
    if kind in EXACT:  # 12346.0 is the user 12346: tables written by pandas hold whole numbers with gaps as floats
        whole = f"user_id = trunc(user_id) AND abs(user_id) < {EXACT[kind]}"
        number = f"CASE WHEN {whole} THEN CAST(CAST(user_id AS BIGINT) AS VARCHAR)"
        return f"{number} ELSE CAST(nullif(user_id, 'NaN') AS VARCHAR) END"
    return text_sql("user_id", kind)


def user_sql(kind: str, written: bool) -> str:
    """SQL of a user's id over `given_user`; NULL where it is nobody's, or may be somebody else's as well.

    Args:
        kind: The type of user_id.
        written: The source says no types, so that text may be what a float was written as.
    """
    user = f"CASE WHEN NOT {NOBODY} THEN given_user END"
    if kind in EXACT:
        return r"CASE WHEN regexp_full_match(given_user, '-?\d+') THEN given_user END"
    if written or kind.startswith("DECIMAL"):
        whole = "ltrim(split_part(given_user, '.', 1), '+')"
        small = f"abs(try_cast(given_user AS DOUBLE)) < {EXACT['DOUBLE']}"
        return f"""CASE WHEN NOT (contains(given_user, '.') OR contains(given_user, '+')) THEN {user}
                        WHEN regexp_full_match(given_user, '{WHOLE}') AND {small} THEN {whole}
                        WHEN NOT regexp_full_match(given_user, '{ROUNDED}') THEN given_user END"""
    return user if kind == "VARCHAR" or kind == "JSON" else "given_user"


def read_key(variable: str) -> bytes:
    """The key for pseudonyms from an environment variable; InputError where it is not set or too short."""
    key = os.environ.get(variable, "")
    if len(key) < 16:
        state = "has fewer than 16 characters" if key else "is not set"
        raise InputError(
            f"the environment variable {variable} {state}", "export a long random key", setting="data.pseudonymize"
        )
    return key.encode()


def key_mark(config: DataConfig) -> str | None:
    """Changes with the key of data.pseudonymize, and does not tell it."""
    if config.pseudonymize is None:
        return None
    return hmac.new(read_key(config.pseudonymize), b"eventscribe", "sha256").hexdigest()


def hmac_sha256(text: str, key: bytes) -> str:
    """SQL of the HMAC-SHA-256 (RFC 2104) of a text under a key, as 64 hexadecimal digits."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner, outer = (f"unhex('{bytes(byte ^ pad for byte in block).hex()}')" for pad in (0x36, 0x5C))
    return f"sha256({outer} || unhex(sha256({inner} || encode({text}))))"


def standing_out(sizes: dict[int, int]) -> int | None:
    """The number of events above which a user is too many for one, or None where nobody has as many.

    More than 1 % of all events and 10 times the median user's, more than 5 % and 3 times the median, or more than 100
    times the 99.9th percentile.

    Args:
        sizes: Number of events -> how many users have as many; see SIZES.
    """
    users = sum(sizes.values())
    events, median = sum(n * count for n, count in sizes.items()), _quantile(sizes, users, 0.5)
    limits = max(events // 100, 10 * median), max(events // 20, 3 * median), 100 * _quantile(sizes, users, 0.999)
    limit = min(limits)
    return limit if max(sizes) > limit else None


def _quantile(sizes: dict[int, int], users: int, share: float) -> int:
    below = 0
    for n in sorted(sizes):
        below += sizes[n]
        if below >= share * users:
            return n
    raise ValueError(f"no users of {users}")
