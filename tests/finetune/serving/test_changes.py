"""What would change a score, the typical user beside it, and how much the text's length makes."""

import re
from collections import Counter
from datetime import timedelta
from statistics import median

import numpy as np
import pytest

from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.explanation import write_page
from tests.finetune.serving.explained import CUTOFF, event

pytestmark = pytest.mark.xdist_group("explained users")  # one worker makes them


def test_changed_histories_score_as_predict_scores_the_changed_log(classifier, events):
    user = "u3"
    own = sorted((row for row in events if row["user_id"] == user), key=lambda row: row["event_time"])
    past = [row for row in own if row["event_time"] < CUTOFF]
    last = [row for row in past if row["event_type"] == "purchase"][-1]
    copied = last | {"event_time": CUTOFF - timedelta(days=1)}
    logs = {
        "A week more without any event, until 2024-04-08": (past, CUTOFF + timedelta(days=7)),
        "One more purchase, like the last one, on 2024-03-31": ([*past, copied], CUTOFF),
        "Without the last purchase": ([row for row in past if row != last], CUTOFF),
    }
    expected = {change: classifier.predict(log, cutoff)["score"][0].as_py() for change, (log, cutoff) in logs.items()}
    found = explain_user(classifier, events, CUTOFF, user)
    assert {change["change"]: change["score"] for change in found["changes"]} == pytest.approx(expected, abs=1e-6)
    moves = [abs(change["score"] - found["score"]) for change in found["changes"]]
    assert moves == sorted(moves, reverse=True)
    assert found["score"] == pytest.approx(classifier.predict(own, CUTOFF)["score"][0].as_py(), abs=1e-6)


def test_who_has_one_event_or_no_target_event_has_fewer_changes(classifier, events, tmp_path):
    bought, viewed = event("once", 3.0, "purchase", 9.0), event("looked", 60.0, "view")
    log = [row for row in events if row["event_time"] < CUTOFF] + [bought, viewed]
    once = explain_user(classifier, log, CUTOFF, "once")
    assert sorted(change["change"] for change in once["changes"]) == [
        "A week more without any event, until 2024-04-08",
        "One more purchase, like the last one, on 2024-03-31",
    ]
    assert (len(once["events"]), once["in_population"]) == (1, True)
    looked = explain_user(classifier, log, CUTOFF, "looked")
    assert [change["change"] for change in looked["changes"]] == ["A week more without any event, until 2024-04-08"]
    assert not looked["in_population"]
    page = write_page(looked, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "this user is none of them" in page
    assert "\u2013" in page[page.index("Usual days between purchases") :][:60]


def test_the_typical_user_is_the_median_of_the_others_of_the_population(classifier, events):
    found = explain_user(classifier, events, CUTOFF, "u3")
    rows = {row["name"]: row for row in found["typical"]["rows"]}
    past = [row for row in events if row["event_time"] < CUTOFF]
    asked = {row["user_id"] for row in past if row["event_time"] >= CUTOFF - timedelta(days=28)} - {"u3"}
    bought = Counter(
        row["user_id"]
        for row in past
        if row["event_type"] == "purchase" and row["event_time"] >= CUTOFF - timedelta(days=28)
    )
    assert found["typical"]["users"] == len(asked)
    assert rows["target_28d"]["median"] == median(bought[user] for user in asked)
    assert rows["target_28d"]["user"] == bought["u3"]
    ages = {row["user_id"]: (CUTOFF - row["event_time"]) / timedelta(days=1) for row in reversed(past)}  # of the first
    assert rows["tenure_days"]["median"] == pytest.approx(median(ages[user] for user in asked))
    assert rows["tenure_days"]["user"] == pytest.approx(ages["u3"])
    everyone = classifier.predict(events, CUTOFF, population=True)
    scores = dict(zip(everyone["user_id"].to_pylist(), everyone["score"].to_pylist(), strict=True))
    assert found["typical"]["score"] == pytest.approx(median(scores[user] for user in asked), abs=1e-6)


def test_the_share_of_the_length_is_that_of_the_way_from_the_mean_user(learned, events):
    classifier = learned("binary")
    found = explain_user(classifier, events, CUTOFF, "u3")
    asked = classifier.predict(events, CUTOFF, population=True, text=True).to_pylist()
    texts = [row["text"] for row in asked if row["user_id"] != "u3"]
    odds = [np.log(scores / (1 - scores)) for scores in (classifier.score(texts), classifier.score(_hide(texts)))]
    output, base = (float(of_texts.mean()) for of_texts in odds)
    length, words = found["base"] - base, (found["output"] - found["base"]) - (output - base)
    assert found["length_share"] == pytest.approx(abs(length) / (abs(length) + abs(words)), abs=1e-3)
    assert np.log(found["score_without_words"] / (1 - found["score_without_words"])) == pytest.approx(
        found["base"], abs=1e-5
    )


def _hide(texts):
    return [re.sub(r"\S*=\S*", "[MASK]", text) for text in texts]


def test_medians_are_told_of_ten_users_or_more(classifier, events, tmp_path):
    asked = classifier.predict(events, CUTOFF, population=True)["user_id"].to_pylist()
    for others in (9, 10):
        some = [row for row in events if row["user_id"] in asked[: others + 1]]
        found = explain_user(classifier, some, CUTOFF, asked[0])
        page = write_page(found, tmp_path / "page.html").read_text(encoding="utf-8")
        assert (found["typical"] is not None) == (found["length_share"] is not None) == (others == 10)
        assert ("ypical user" in page) == (others == 10)


def test_where_the_length_makes_most_both_pages_say_it_first(classifier, events, tmp_path):
    user, sample = explain_user(classifier, events, CUTOFF, "u3"), explain_sample(classifier, events, CUTOFF, 30)
    mostly, hardly = {"base": 0.8, "base_interval": [0.7, 0.9]}, {"base": 0.1, "base_interval": [0.0, 0.2]}
    pages = {
        True: [user | {"length_share": 0.6}, sample | {"variance_shares": sample["variance_shares"] | mostly}],
        False: [user | {"length_share": 0.4}, sample | {"variance_shares": sample["variance_shares"] | hardly}],
    }
    for first, explanations in pages.items():
        for explanation in explanations:
            page = write_page(explanation, tmp_path / "page.html").read_text(encoding="utf-8")
            place = page.find("Mostly the length of the history")
            assert (0 < place < page.index('class="answer"')) if first else place < 0
