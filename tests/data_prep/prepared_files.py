"""What lies in a prepared folder."""

from pathlib import Path

FILES = {f"{split}.parquet" for split in ("train", "validation", "test", "unlabelled")}
FILES |= {"serializer.json", "manifest.json", "README.md"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
