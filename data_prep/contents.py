"""What a file holds, by its first bytes, whatever its name says."""

import codecs
import gzip
from pathlib import Path

from data_prep import InputError

START = 1 << 16  # bytes that are looked at
AWAY = "or take it away"
TO_UTF8 = "convert it, as in `iconv -f {} -t UTF-8`"
SHEET = "a zip archive or a workbook (xlsx)", "unpack it, or save its sheet as CSV in UTF-8"
MAGIC = {  # first bytes -> what such a file is, and what to do
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PK\x03\x04": SHEET,
    b"PK\x05\x06": SHEET,
    b"\xd0\xcf\x11\xe0": ("a workbook of old (xls)", "save its sheet as CSV in UTF-8"),
    b"\x1f\x8b": ("compressed by gzip", "let its name end with .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "decompress it with `zstd -d`"),
    b"BZh": ("compressed by bzip2", "decompress it with `bunzip2`"),
    b"\xfd7zXZ": ("compressed by xz", "decompress it with `xz -d`"),
    b"SQLite format 3": ("an SQLite database", "read it by `database: sqlite:///FILE` and `sql`"),
    b"%PDF": ("a PDF document", "export the log as CSV in UTF-8"),
}
MARKS = {  # byte order mark -> encoding; the longer ones come first
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def other_kind(file: Path) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do with it; None where it may be text."""
    with file.open("rb") as content:
        start = content.read(16)
    return next((said for magic, said in MAGIC.items() if start.startswith(magic)), None)


def refuse_no_text(file: Path, setting: str, is_csv: bool) -> None:
    """InputError where a file of text, as its name says, is empty, is another kind of file or is not in UTF-8.

    Args:
        file: Of CSV or JSON; its name ends with .gz where it is compressed.
        setting: The source's path, for messages.
        is_csv: Lines after the header may be in another encoding, as they are rejected one by one; JSON may be empty.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            start = content.read(START)
    except (OSError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({error})", f"fetch it again {AWAY}", setting=setting) from error
    if is_csv and not start:
        raise InputError(f"{file} is empty", f"give it a header {AWAY}", setting=setting)
    found = next((said for magic, said in MAGIC.items() if start.startswith(magic)), None)
    if found is not None:
        raise InputError(f"{file} is no text but {found[0]}", f"{found[1]}, {AWAY}", setting=setting)
    encoding = _encoding(start)
    if encoding is not None:
        raise InputError(
            f"{file} is not text in UTF-8 but in {encoding}", f"{TO_UTF8.format(encoding)}, {AWAY}", setting=setting
        )
    if b"\0" in start:
        raise InputError(
            f"{file} is no text, as it has NUL bytes", f"export the log as CSV in UTF-8, {AWAY}", setting=setting
        )
    try:
        # A character may be cut where the start ends.
        codecs.getincrementaldecoder("utf-8")().decode(start.partition(b"\n")[0] if is_csv else start)
    except ValueError as error:
        raise InputError(
            f"{file} is not text in UTF-8", f"{TO_UTF8.format('LATIN1')}, {AWAY}", setting=setting
        ) from error


def _encoding(start: bytes) -> str | None:
    """The encoding of UTF-16 or UTF-32, by its mark or as every other byte of the first line is NUL; else None."""
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    line = start[:200].partition(b"\n")[0]
    for encoding, odd in (("UTF-16LE", line[1::2]), ("UTF-16BE", line[::2])):
        if len(line) > 3 and odd.count(0) > 0.9 * len(odd):
            return encoding
    return None
