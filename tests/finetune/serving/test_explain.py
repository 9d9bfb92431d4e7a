import json
import re
import runpy
import signal
import sys
from copy import deepcopy
from datetime import datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from data_prep import InputError
from data_prep.config import DataConfig, Source, TextConfig, TextField
from data_prep.features import Features
from data_prep.serializer import EventSerializer
from finetune.model.objective import Objective
from finetune.model.pooling import pool
from finetune.model.tokenization import encode, train_tokenizer
from finetune.serving.attribution import attribute, deletion_test, explained
from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.explanation import refuse_output, write_page
from finetune.serving.reading import Word, events_reading, reading, words_of
from tests.commands import ROOT

CUTOFF = datetime(2024, 4, 1)
TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
FAMILIES = {
    "bert": BertConfig(**TINY),
    "roberta": RobertaConfig(**TINY),
    "distilbert": DistilBertConfig(n_layers=2, n_heads=2, dim=16, hidden_dim=32),
    "electra": ElectraConfig(**TINY, embedding_size=16),
    "modernbert": ModernBertConfig(**TINY),
    "deberta-v2": DebertaV2Config(**TINY, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}


@pytest.fixture(scope="module")
def events(log_table):
    """The log that it was trained on."""
    return log_table


@pytest.fixture(scope="module")
def texts(trained):
    return pq.read_table(trained.data_folder / "test.parquet", columns=["text"])["text"].to_pylist()[:12]


def attributed(classifier, texts, *more, **named):
    return attribute(classifier.model, classifier.tokenizer, classifier.serializer, texts, *more, **named)


def tiny(family, texts, task="binary", scale=None, pooling="cls"):
    """A model with random weights, as `load_classifier` gives it, and its tokenizer."""
    tokenizer = train_tokenizer(texts, 64)
    objective = Objective(
        task, tuple("abc") if task in ("tiers", "propensity") else tuple("ab") if not scale else ("a",)
    )
    config = deepcopy(FAMILIES[family])
    for name, value in {**objective.labels, "vocab_size": len(tokenizer), "pad_token_id": 0}.items():
        if name != "num_labels":
            setattr(config, name, value)
    config.eventscribe = {"task": task, "scale": scale, "pooling": pooling}
    torch.manual_seed(0)
    model = Classifier.from_config(config, dtype=torch.float32).eval()
    if pooling == "mean":
        pool(model, "mean")
    return model, tokenizer


def assert_adds_up(found):
    for attribution in found:
        assert attribution.converged
        assert abs(attribution.pushes.sum() - (attribution.score - attribution.base)) == abs(attribution.error)
        assert abs(attribution.error) <= 1e-4 + 0.01 * np.abs(attribution.pushes).sum()


def test_pushes_add_up_to_the_log_odds_minus_those_of_the_hidden_text(classifier, texts):
    found = attributed(classifier, texts)
    assert_adds_up(found)
    scores = classifier.score(texts)
    np.testing.assert_allclose([a.score for a in found], np.log(scores / (1 - scores)), atol=1e-5)
    for text, attribution in zip(texts, found, strict=True):
        hidden = re.sub(r"\S*=\S*", "[MASK]", text)
        score = classifier.score([hidden])[0]
        assert attribution.base == pytest.approx(np.log(score / (1 - score)), abs=1e-5)
        assert attribution.events.sum() == pytest.approx(
            sum(p for word, p in zip(attribution.words, attribution.pushes, strict=True) if word.event >= 0)
        )


def test_neither_the_other_texts_of_a_batch_nor_padding_change_a_push(classifier, texts):
    together = attributed(classifier, texts)
    assert len({len(a.words) for a in together}) > 1
    for text, attribution in zip(texts, together, strict=True):
        alone, *_ = attributed(classifier, [text])
        np.testing.assert_allclose(alone.pushes, attribution.pushes, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_is_explained(classifier, texts, family):
    found = attribute(*tiny(family, texts), classifier.serializer, texts[:3])
    assert_adds_up(found)
    assert all(np.abs(a.pushes).sum() > 0 for a in found)


def test_the_mean_over_tokens_is_explained(classifier, texts):
    model, tokenizer = tiny("distilbert", texts, pooling="mean")
    assert_adds_up(attribute(model, tokenizer, classifier.serializer, texts[:3]))


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning"])
def test_an_adapter_is_explained(classifier, texts, method):
    import peft

    model, tokenizer = tiny("bert", texts)
    settings = {
        "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False),
        "prompt_tuning": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
        "prefix_tuning": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    }
    model = peft.get_peft_model(model, settings[method]()).eval()
    assert_adds_up(attribute(model, tokenizer, classifier.serializer, texts[:3]))


def test_a_tier_a_class_and_a_value_in_its_own_unit_are_explained(classifier, texts):
    model, tokenizer = tiny("bert", texts, "tiers")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    probabilities = torch.softmax(model(**batch).logits, 1).detach().numpy()
    found = attribute(model, tokenizer, classifier.serializer, texts)
    assert_adds_up(found)
    assert [a.output for a in found] == probabilities.argmax(1).tolist()
    likeliest = probabilities.max(1)
    np.testing.assert_allclose([a.score for a in found], np.log(likeliest / (1 - likeliest)), atol=1e-5)

    model, tokenizer = tiny("bert", texts, "propensity")
    found = attribute(model, tokenizer, classifier.serializer, texts, output=2)
    assert_adds_up(found)
    np.testing.assert_allclose([a.score for a in found], model(**batch).logits[:, 2].detach(), atol=1e-5)

    for log, own_unit in ((True, np.expm1), (False, lambda roots: roots * np.abs(roots))):
        model, tokenizer = tiny("bert", texts, "value", {"log": log, "root": not log, "mean": 3.0, "deviation": 2.0})
        found = attribute(model, tokenizer, classifier.serializer, texts)
        assert_adds_up(found)
        values = own_unit(2 * model(**batch).logits[:, 0].detach().numpy() + 3)
        np.testing.assert_allclose([a.score for a in found], values, rtol=1e-5)


def test_events_that_do_not_fit_the_model_are_counted_and_push_nothing(classifier, texts):
    text = max(texts, key=len)
    whole, *_ = attributed(classifier, [text])
    model, tokenizer = tiny("bert", texts)
    tokenizer.model_max_length = len(encode(tokenizer, [text])["input_ids"][0]) - 1
    cut, *_ = attribute(model, tokenizer, classifier.serializer, [text])
    assert (whole.unread, cut.unread) == (0, 1)
    assert len(cut.events) == len(whole.events) - 1
    assert_adds_up([cut])


def serializer(style):
    fields = {
        "event_type": {"kind": "categorical", "list": False, "values": ["page_view", "buy"]},
        "price": {"kind": "numeric", "edges": [5.0, 9.5], "centers": [2.0, 7.0, 20.0]},
        "tags": {"kind": "categorical", "list": True, "values": ["frozen_food", "fish"]},
        "title": {"kind": "text", "words": ["red", "fish", "box"]},
    }
    config = TextConfig(
        style=style,
        fields={
            "event_type": TextField(top=5),
            "price": TextField(bins=3),
            "tags": TextField(top=5),
            "title": TextField(words=3),
        },
    )
    types = {"price": "DOUBLE", "tags": "VARCHAR[]", "title": "VARCHAR"}
    kinds = {"price": "numeric", "tags": "categorical", "title": "text"}
    features = Features("event_type = 'buy'", types, kinds, ["buy"])
    header = {
        "target_28d": {"edges": [1.0, 2.0, 5.0], "centers": [0.0, 1.0, 3.0, 8.0]},
        "price_mean": {"edges": [2.5], "centers": [1.0, 9.0]},
        "gap_mean": {"edges": [2.5], "centers": [1.0, 9.0]},
    }
    return EventSerializer(config, features, fields, header)


def test_words_are_told_as_what_users_have():
    said = {
        Word(0, -1, "target_28d", "1"): "inquiries in the last 28 days: 1",
        Word(0, -1, "price_mean", "0"): "mean price: below 2.5",
        Word(0, 0, "gap", "16"): "events 16 to 17 days after the event before",
        Word(0, 0, "gap", "0"): "events on the day of the event before",
        Word(0, 0, "gap", "first"): "the first event",
        Word(0, 0, "event_type", "buy"): "buys",
        Word(0, 0, "event_type", "other"): "events of a kind that the model does not know",
        Word(0, 0, "price", "1"): "events with price 5 to 9.5",
        Word(0, 0, "tags", "frozen_food"): "events with tags frozen food",
        Word(0, 0, "title", "red"): "events with red",
    }
    assert {word: events_reading(word, serializer("words"), "inquiry") for word in said} == said


def test_a_median_that_several_bins_show_is_read_as_all_of_them():
    written = serializer("sentences")
    written.header["price_mean"] = {"edges": [1.0, 2.0, 3.0], "centers": [0.5, 1.501, 1.502, 4.0]}
    said = {"0.5": "below 1", "1.5": "1 to 3", "4": "3 or more"}
    for shown, numbers in said.items():
        assert reading(Word(0, -1, "price_mean", f"price mean {shown}"), written) == f"mean price: {numbers}"


EVENTS = [
    {"user_id": "u", "event_time": datetime(2024, 3, 1), "event_type": "page view"},
    {"user_id": "u", "event_time": datetime(2024, 3, 1, 5), "event_type": "strange", "title": "Red fish!"},
    {
        "user_id": "u",
        "event_time": datetime(2024, 3, 18),
        "event_type": "buy",
        "price": 6.0,
        "tags": ["Frozen food", "x"],
    },
]


def test_every_word_is_read_in_plain_language_in_both_styles():
    def told(style, header):
        written = serializer(style)
        text = written.transform(EVENTS, CUTOFF)["text"][0].as_py()
        words = words_of(text, written)
        assert [word.start for word in words] == sorted({word.start for word in words})
        assert [reading(word, written) for word in words if word.event < 0] == header
        return [(word.event, word.field, reading(word, written)) for word in words if word.event >= 0]

    header = [
        "target events in the last 28 days: 1",
        "mean price: 2.5 or more",
        "days between event days, mean: 2.5 or more",
    ]
    read = told("words", header)
    assert told("sentences", header) == read  # of a number the model knows the range in both
    assert read == [
        (0, "gap", "16 to 17 days after the event before"),
        (0, "event_type", "buy"),
        (0, "price", "price 5 to 9.5"),
        (0, "tags", "tags frozen food"),
        (0, "tags", "tags other"),
        (1, "gap", "same day as the event before"),
        (1, "event_type", "other"),
        (1, "title", "red"),
        (1, "title", "fish"),
        (2, "gap", "first event"),
        (2, "event_type", "page view"),
    ]


def test_a_users_timeline_has_the_times_of_the_log(classifier, events):
    times = {}
    for row in events.to_pylist():
        if row["event_time"] < CUTOFF:
            times.setdefault(row["user_id"], []).append(row["event_time"])
    user = max(times, key=lambda user: len(times[user]))
    found = explain_user(classifier, events, "2024-04-01", user)
    newest = sorted(times[user], reverse=True)[:5]
    assert [event["time"] for event in found["events"]] == [str(time) for time in newest]
    days = [(CUTOFF - time) / timedelta(days=1) for time in newest]
    assert [event["days_before"] for event in found["events"]] == pytest.approx(days, abs=0.006)
    assert found["older_events"] == len(times[user]) - 5
    everyone = classifier.predict(events, CUTOFF)
    expected = everyone["score"][everyone["user_id"].to_pylist().index(user)].as_py()
    assert found["score"] == pytest.approx(expected, abs=1e-6)
    assert found["header_push"] + found["events_push"] == pytest.approx(
        found["output"] - found["base"] + found["error"], abs=1e-9
    )
    pushed = [sum(word["push"] for word in event["words"]) for event in found["events"]]
    assert [event["push"] for event in found["events"]] == pytest.approx(pushed)


def test_a_sample_is_always_the_same_and_takes_all_where_there_are_fewer(classifier, events):
    some, again = (explain_sample(classifier, events, CUTOFF, 20) for _ in range(2))
    assert some == again
    assert (some["users"], some["deletion"]["users"]) == (20, 20)
    shares = some["variance_shares"]
    # float32 outputs of a hardly trained model differ by little.
    assert shares["base"] + shares["header"] + shares["events"] == pytest.approx(1, abs=0.01)
    population = explain_sample(classifier, events, CUTOFF, 1000, population=True)
    asked = classifier.predict(events, CUTOFF, population=True)
    assert population["users"] == population["users_asked"] == len(asked) < len(classifier.predict(events, CUTOFF))
    few = explain_sample(classifier, events, CUTOFF, 20, population=True)
    assert (few["users"], few["users_asked"]) == (20, len(asked))
    view = next(word for word in population["words"] if word["value"] == "view")
    texts = classifier.predict(events, CUTOFF, population=True, text=True)["text"].to_pylist()
    assert view["users"] == sum("event_type=view" in text for text in texts)
    for entry in population["words"] + population["fields"]:
        if entry["users"] > 30:
            low, high = entry["push_interval"]
            assert low <= entry["push"] <= high
            assert abs(entry["push"]) <= entry["absolute_push"] + 1e-12


def test_the_top_event_of_the_deletion_test_is_left_out_with_its_words_alone(classifier, texts):
    found = attributed(classifier, texts)
    result = deletion_test(classifier.model, classifier.tokenizer, texts, found)
    tops = []
    for text, attribution in zip(texts, found, strict=True):
        if len(attribution.events) > 1:
            header, _, body = text.partition(" [SEP] ")
            entries = re.split(r" (?=gap=)", body)
            del entries[int(np.abs(attribution.events).argmax())]
            batch = classifier.tokenizer(f"{header} [SEP] {' '.join(entries)}", return_tensors="pt")
            without = explained(classifier.model, batch["input_ids"], batch["attention_mask"], torch.tensor([1]))
            tops.append(abs(float(without) - attribution.score))
    assert result["users"] == len(tops)
    assert result["top"] == pytest.approx(np.mean(tops), abs=1e-5)
    alone = [text for text in texts if len(re.findall("gap=", text)) == 1][:1] or ["recency_days=1 [SEP] gap=first"]
    assert deletion_test(classifier.model, classifier.tokenizer, alone, attributed(classifier, alone))["top"] is None


def test_pages_ask_for_nothing_and_tell_every_bar_in_words(classifier, events, tmp_path):
    pages = {
        "user.html": explain_user(classifier, events, CUTOFF, "u3"),
        "sample.html": explain_sample(classifier, events, CUTOFF, 60),
    }
    for name, explanation in pages.items():
        page = write_page(explanation, tmp_path / "pages" / name).read_text(encoding="utf-8")
        assert not re.search(r"<script|https?://|<link rel=\"stylesheet|@import|url\(", page)
        for svg in re.findall(r"<svg[^>]*>", page):
            assert 'aria-label="' in svg or 'aria-hidden="true"' in svg
        kept = json.loads((tmp_path / "pages" / name).with_suffix(".json").read_text(encoding="utf-8"))
        assert kept == explanation
    assert "days before" in (tmp_path / "pages" / "user.html").read_text(encoding="utf-8")


def test_who_has_no_history_and_what_is_no_class_is_told_in_a_sentence(classifier, events, monkeypatch):
    with pytest.raises(InputError, match="'nobody' has no event before 2024-04-01"):
        explain_user(classifier, events, CUTOFF, "nobody")
    late = events.slice(0, 1).to_pylist()[0] | {"user_id": "late", "event_time": datetime(2024, 5, 1)}
    with pytest.raises(InputError, match="'late' has no event before 2024-04-01"):
        explain_user(classifier, [*events.to_pylist(), late], CUTOFF, "late")
    with pytest.raises(InputError, match="no class 'lapse'; it has no_churn, churn"):
        explain_user(classifier, events, CUTOFF, "u3", output="lapse")
    monkeypatch.setattr(classifier, "objective", Objective("tiers", ("low", "high")))
    with pytest.raises(InputError, match=r"--sample needs --class, one of the label's classes: low, high"):
        explain_sample(classifier, events, CUTOFF, 5)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[explain\]'"):
        explain_user(classifier, events, CUTOFF, "u3")


def test_a_page_replaces_no_log_and_no_json_of_something_else(tmp_path):
    log = tmp_path / "log.json"
    log.write_text('{"user_id": "a", "event_time": "2024-01-01", "event_type": "buy"}\n')
    page, data = tmp_path / "log.html", DataConfig([Source(path=str(log))])
    with pytest.raises(InputError, match=r"log\.json, which is no explanation"):
        refuse_output(page, data)
    (tmp_path / "metrics.json").write_text('{"task": "binary"}')
    with pytest.raises(InputError, match=r"metrics\.json, which is no explanation"):
        refuse_output(tmp_path / "metrics.html", data)
    (tmp_path / "mine.json").write_text('{"captum": "1"}')
    (tmp_path / "mine.html").write_text("an earlier page")
    refuse_output(tmp_path / "mine.html", data)
    refuse_output(tmp_path / "new.html", data)
    (tmp_path / "report.html").write_text("of a run")  # no JSON beside it says whose page it is
    with pytest.raises(InputError, match=r"report\.html, which is no explanation"):
        refuse_output(tmp_path / "report.html", data)


def test_the_command_writes_page_and_json(trained, events, tmp_path, monkeypatch):
    pq.write_table(events, tmp_path / "log.parquet")
    command = ["explain.py", "--model", str(trained.run_folder / "model"), "--events", str(tmp_path / "log.parquet")]
    command += ["--cutoff", "2024-04-01", "--output", str(tmp_path / "u.html")]
    script = str(ROOT / "scripts" / "explain.py")
    monkeypatch.setattr(signal, "signal", lambda *given: None)  # the tests keep theirs
    monkeypatch.setattr(sys, "argv", [*command, "--user", "u3"])
    runpy.run_path(script, run_name="__main__")
    assert json.loads((tmp_path / "u.json").read_text(encoding="utf-8"))["user_id"] == "u3"
    for wrong in ("--user nobody", "--sample 0", "--user u3 --population", "--user u3 --sample 2"):
        monkeypatch.setattr(sys, "argv", [*command, *wrong.split()])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
        assert end.value.code == 2
