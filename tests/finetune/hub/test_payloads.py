"""Whatever a log or a config says, a card has the same lines, tables, metadata and no tag or link of theirs."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from data_prep.card import dataset_card
from data_prep.config import TaskConfig
from data_prep.markdown import inline, paragraph
from data_prep.prepared import read_manifest
from finetune.experiment.parser import parse_experiment
from finetune.hub.model_card import write_model_card
from tests.finetune.hub.published import write_metrics

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![seen](http://evil/pixel.png) [log in](javascript:alert)",
    "a | b | c\n\n# A heading\n\n| x |\n|---|",
    "\n---\nlicense: mit\n---\n",
    "</td></table><!-- a comment",
    "``` \n code",
    "`a `` b` <i> `c` ` <b> ``",
    "\\`<i>`",
    '"quotes": {yaml: [1]} & *alias !!python/object',
)


def card_with(runs, folder, text: str) -> str:
    shutil.copytree(runs["full"].parent, folder)
    group = {"rows": 200, "users": 60, "positives": 50, "auroc": 0.7, "auroc_interval": [0.6, 0.8]}
    slices = {text: {"groups": [group | {"value": text}], "too_small": [], "gaps": {}}}
    write_metrics(folder / "model", verdict=text)
    metrics = json.loads((folder / "metrics.json").read_text()) | {"slices": slices}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    task = json.loads((folder / "model" / "task.json").read_text())
    (folder / "model" / "task.json").write_text(json.dumps(task | {"question": text}))
    (path,) = write_model_card(folder)
    return path.read_text()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_changes_neither_the_structure_of_a_card_nor_its_metadata(runs, tmp_path, payload):
    plain, hostile = (card_with(runs, tmp_path / name, text) for name, text in (("a", "words"), ("b", payload)))
    assert ModelCard(hostile).data.to_dict() == ModelCard(plain).data.to_dict()
    assert blocks(hostile) == blocks(plain)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_changes_neither_the_structure_of_a_dataset_card_nor_its_metadata(runs, payload):
    run = yaml.safe_load((runs["full"].parent / "config.yaml").read_text())
    manifest = read_manifest(Path(run["data"]["folder"]) / "tiny")
    task = parse_experiment("", ["--config", str(runs["full"].parent / "config.yaml")]).task
    plain, hostile = (said_of(manifest, task, text) for text in ("words", payload))
    assert DatasetCard(hostile).data.to_dict() == DatasetCard(plain).data.to_dict()
    assert blocks(hostile) == blocks(plain)


def said_of(manifest: dict, task: TaskConfig, text: str) -> str:
    split = {key: value for key, value in manifest["splits"]["test"].items() if key != "positive_rate"}
    classes = {"classes": {text: 5, f"{text} 2": 3}}
    users = {"users": {"with_events": 3, "columns": {}}, "attributes": [text]}
    columns = {"text_columns": [text], "question": text, "label": text, "classes": [text], "label_kind": "absent"}
    return dataset_card(text, task, manifest | users | columns | {"splits": {"test": split | classes}})


def blocks(card: str) -> list[str]:
    """The blocks of a card's text as CommonMark with tables reads them, and the tags and links within them."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        found.append(token.type)
        found += [child.type for child in token.children or [] if child.type in ("html_inline", "link_open", "image")]
    return found


def test_text_that_is_no_payload_stays_to_the_letter():
    for text in ("amount < 5 and x > 3", "`<b>` is code", "a [0.1 to 0.2] (b)", "new_york * 2", "shop = 'north'"):
        assert inline(text) == text
    for text in ("# a", "- a", "1. a", "> a", "```a", "---"):
        assert paragraph(text) == f"\\{text}"
    assert paragraph("-1 is less than 0") == "-1 is less than 0"
    assert inline("a\n b\t<b>") == "a b &lt;b>"
