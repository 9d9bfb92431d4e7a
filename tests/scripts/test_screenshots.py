"""The README's picture is a small PNG of a report, and what is missing for it is named."""

import struct

import pytest

from data_prep import InputError
from tests.browser import CHROMIUM
from tests.commands import ROOT, script_module

LARGEST = 200_000  # bytes
screenshots = script_module("screenshots")


def take(run, output):
    parser = screenshots.CommandParser("")
    parser.set_defaults(run=run, output=output)
    screenshots.run(parser.parse_args([]))


def test_the_first_screen_of_a_report_becomes_a_small_picture(evaluated, tmp_path, capsys):
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing, so no picture was taken; apt-get install chromium")
    folder = tmp_path / "new" / "folder"
    take(evaluated.run_folder, folder / "report.png")
    assert [path.name for path in folder.iterdir()] == ["report.png"]
    picture = (folder / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (screenshots.WIDTH, screenshots.HEIGHT)
    assert 10_000 < len(picture) < LARGEST
    assert f"{screenshots.WIDTH} x {screenshots.HEIGHT} pixels" in capsys.readouterr().out


def test_what_a_picture_needs_is_named_where_it_is_missing(evaluated, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"report\.html is missing; run scripts/evaluate\.py"):
        take(tmp_path, tmp_path / "report.png")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"none of chromium, .* is installed; install one"):
        take(evaluated.run_folder, tmp_path / "report.png")


@pytest.mark.parametrize(
    ("prints", "said"), [("echo one >&2; echo two >&2", r"\(two\)"), ("", r"\(it does not say why\)")]
)
def test_a_browser_that_fails_is_told_of_in_a_line_and_the_old_picture_stays(
    evaluated, tmp_path, monkeypatch, prints, said
):
    browser = tmp_path / "programs" / "chromium"
    browser.parent.mkdir()
    browser.write_text(f"#!/bin/sh\n{prints}\nexit 1\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(browser.parent))
    old = tmp_path / "pictures" / "report.png"
    old.parent.mkdir()
    old.write_bytes(b"old")
    with pytest.raises(InputError, match=rf"^{browser} took no picture {said}; start it by hand$"):
        take(evaluated.run_folder, old)
    assert [path.read_bytes() for path in old.parent.iterdir()] == [b"old"]


def test_the_readme_shows_the_picture_that_is_there_with_words_for_those_who_do_not_see_it():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    alt = readme.partition("](.github/report.png)")[0].rpartition("![")[2]
    assert len(alt) > 100
    assert (ROOT / ".github" / "report.png").stat().st_size < LARGEST
