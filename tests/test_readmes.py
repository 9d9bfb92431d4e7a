"""What the READMEs name exists: files, headings, commands and their options."""

import re
from pathlib import Path

import pytest

from finetune.experiment.parser import build_parser

ROOT = Path(__file__).parents[1]
FOLDERS = (".", ".github", "configs", "data_prep", "finetune", "finetune/serving", "finetune/upkeep", "scripts")
PAGES = {
    str(page.relative_to(ROOT)): page.read_text() for name in FOLDERS for page in sorted((ROOT / name).glob("*.md"))
}
FENCED = re.compile(r"^```.*?^```\n", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\bscripts/(\w+\.py)((?:\\\n|[^`#\n])*)")  # up to the end of the line, of the code, or a comment
PLACEHOLDERS = {"NAME.py"}


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", PAGES[name])):
        if re.match(r"\w+:", link):
            continue  # another site
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_readme_is_found_from_the_first_one():
    found, new = set(), {"README.md"}
    while new:
        found |= new
        links = {(ROOT / name).parent / link for name in new for link in re.findall(r"\]\(([^)\s#]+)", PAGES[name])}
        paths = {path / "README.md" if path.is_dir() else path for path in links}
        new = {str(path.resolve().relative_to(ROOT)) for path in paths if path.suffix == ".md"} - found
    assert found == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_every_file_and_every_goal_of_make_that_is_named_exists(name):
    files = re.findall(r"\b((?:configs|data_prep|finetune|scripts|tests)/[\w/.-]+\.(?:py|yaml|json|md))\b", PAGES[name])
    assert [file for file in files if not (ROOT / file).is_file() and Path(file).name not in PLACEHOLDERS] == []
    goals = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", PAGES[name], re.MULTILINE)) <= goals


def options_in_pages() -> dict[str, set[str]]:
    """The scripts that the pages run -> the options that the pages give them."""
    options = {}
    for page in PAGES.values():
        for script, rest in COMMAND.findall(page):
            options.setdefault(script, set()).update(re.findall(r"(?:^|\s)(--[a-z][\w.-]*)", rest))
    return options


def test_every_option_of_a_command_is_one_of_its_own_or_a_setting():
    settings = set(re.findall(r"--[a-z][\w.]*", build_parser("").format_help()))
    for script, given in options_in_pages().items():
        if script in PLACEHOLDERS:
            continue
        own = set(re.findall(r'"(--[a-z][\w-]*)"', (ROOT / "scripts" / script).read_text()))
        variables = {option for option in given if option.startswith("--data.variables.")}  # of a known log
        assert given - variables <= own | settings, script
