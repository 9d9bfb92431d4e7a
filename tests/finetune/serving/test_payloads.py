"""Whatever a user or a value of the log is called, the page of an explanation has the same tags."""

import re

import pytest

from finetune.serving.classifier import EventClassifier
from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.explanation import write_page
from tests.payloads import PAYLOADS, structure

TEXT = " ".join(PAYLOADS).replace("\x00", "")
SAID = {"name", "question", "reading", "value", "text", "words", "cause", "raises", "lowers", "user_id", "class"}


def renamed(content: object, text: str, key: str = "") -> object:
    """An explanation in which this stands wherever it tells what the log or the config says."""
    if isinstance(content, dict):
        return {name: renamed(value, text, name) for name, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, text, key) for value in content]
    return text if isinstance(content, str) and key in SAID else content


@pytest.mark.parametrize("explain", ["user", "sample"])
def test_no_payload_becomes_a_tag_an_attribute_or_a_script(trained, log_table, tmp_path, explain):
    classifier = EventClassifier.from_pretrained(trained.run_folder / "model")
    found = (
        explain_user(classifier, log_table, "2024-04-01", "u3", steps=8)
        if explain == "user"
        else explain_sample(classifier, log_table, "2024-04-01", 20)
    )
    tags = []
    for name, text in (("plain", re.sub(r"\S", "a", TEXT)), ("hostile", TEXT)):
        page = write_page(renamed(found, text), tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert text[:5] in page or name == "hostile"
        tags.append(structure(page).tags)
    assert tags[0] == tags[1]
