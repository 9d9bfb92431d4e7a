"""The first screen of an explanation: reasons, the typical user and changes are those of the log and of the model."""

import html
import re
from datetime import timedelta
from itertools import pairwise
from statistics import mean, median

import numpy as np
import pytest

from data_prep.config import TextConfig, TextField
from data_prep.event_words import event_phrase, plural
from data_prep.features import Features
from data_prep.population import EVERYBODY
from data_prep.serializer import EventSerializer
from finetune.serving.attribution import attribute
from finetune.serving.drivers import explain_sample
from finetune.serving.explain import explain_user
from finetune.serving.explanation import write_page
from finetune.serving.facts import Facts, beside, figure, target_noun
from finetune.serving.histories import drawn, histories_of, past_log, users_of
from finetune.serving.reading import reading, words_of
from finetune.serving.reasons import reasons
from finetune.serving.themes import Theme, theme_of
from tests.browser import assert_quiet_and_narrow
from tests.finetune.serving.explained import CUTOFF, event

pytestmark = pytest.mark.xdist_group("explained users")  # one worker makes them


def facts_of_user(classifier, events, user, typical=None):
    """Facts, the words of the text and the theme of each."""
    with past_log(classifier, events, CUTOFF) as (con, _):
        (history,) = histories_of(con, classifier.serializer, CUTOFF, [user])
        loaded = classifier.serializer.load(con, {})
    words = words_of(history.text, classifier.serializer)
    facts = Facts(history, loaded, CUTOFF, classifier.serializer, words[-1].event + 1, typical or {})
    return facts, words, [theme_of(word, classifier.serializer) for word in words]


def sentences(classifier, events, user, typical=None):
    """Theme -> sentence, of all the themes of a user's text."""
    facts, words, themes = facts_of_user(classifier, events, user, typical)
    return {
        theme: facts.sentence(theme, [word for word, of_word in zip(words, themes, strict=True) if of_word == theme])
        for theme in dict.fromkeys(themes)
    }


def test_the_sentences_say_what_was_counted_by_hand(classifier):
    log = [
        event("a", 41.5, "purchase", 10.0),
        event("a", 50.5, "purchase", 5.0),
        event("a", 59.5, "purchase", 15.0),
        event("a", 68.5, "purchase", 20.0, "south"),
        event("a", 77.5, "purchase", 20.0),
        event("a", 88.5, "purchase", 20.0),
        event("a", 10.25, "view"),
    ]
    typical = {"target_recency_days": 4.9, "gap_median": 6.0, "amount_mean": 30.0}
    assert sentences(classifier, log, "a", typical) == {
        Theme("recency"): "No purchase for 41 days (typical user: 4), usually one every 9 days; no event of any kind "
        "for 10 days, usually one every 9 days",
        Theme("frequency"): "No purchases in the last 28 days, 2 in the 28 days before",
        # 88, 77, 68, 59, 50, 41 and 10 days before: 11, 9, 9, 9, 9 and 31 days between.
        Theme("rhythm"): "Usually 9 days between events (typical user: 6), 16.3 on average the last 3 times",
        Theme("tenure"): "The first event was 88 days ago",
        Theme("amount", "amount"): "Average amount of the last 3 purchases: 10, about half of the 20 before (typical "
        "user: 30); 0 in all in the last 28 days",
        Theme("value", "event_type", "view"): "1 of the last 5 events is a view, the latest 10 days ago",
        Theme("value", "event_type", "purchase"): "4 of the last 5 events are purchases, the latest 41 days ago",
        Theme("value", "shop", "north"): "4 of the last 5 events have shop north, the latest 10 days ago",
        Theme("value", "shop", "south"): "1 of the last 5 events has shop south, the latest 68 days ago",
    }


def test_events_without_an_amount_are_not_among_those_whose_amount_is_told(classifier):
    log = [event("a", days, "purchase", amount) for days, amount in ((3, 7.0), (9, None), (20, 9.0), (30, 1e12))]
    said = sentences(classifier, log, "a")[Theme("amount", "amount")]
    assert said == "Average amount of 2 events with amount: 8; 16 in all in the last 28 days"


def test_of_a_single_event_only_what_exists_is_told(classifier):
    assert sentences(classifier, [event("a", 12.5, "purchase", 8.0)], "a") == {
        Theme("recency"): "The last purchase was 12 days ago",
        Theme("frequency"): "1 purchase in the last 28 days, 1 in all",
        Theme("rhythm"): None,
        Theme("tenure"): "The first event was 12 days ago",
        Theme("amount", "amount"): "Average amount of 1 purchase: 8; 8 in all in the last 28 days",
        Theme("value", "event_type", "purchase"): "The only event is a purchase, 12 days ago",
        Theme("value", "shop", "north"): "The only event has shop north, 12 days ago",
    }
    viewed = sentences(classifier, [event("a", 0.5, "strange", shop="east")], "a")
    assert (
        viewed[Theme("recency")] == "There was no purchase before; the last event of any kind was less than a day ago"
    )
    assert viewed[Theme("amount", "amount")] is None
    assert viewed[Theme("value", "event_type", "other")] == (
        "The only event has a kind that the model does not know, less than a day ago"
    )
    assert viewed[Theme("value", "shop", "other")].startswith("The only event has a shop that the model does not know")


def test_the_sentences_agree_with_a_second_count_for_every_user(classifier, events):
    by_user = {}
    for row in sorted(events, key=lambda row: row["event_time"]):
        if row["event_time"] < CUTOFF:
            by_user.setdefault(row["user_id"], []).append(row)
    for user in list(by_user)[:12]:
        rows = by_user[user]
        bought = [row for row in rows if row["event_type"] == "purchase"]
        said = sentences(classifier, events, user)
        ago = [(CUTOFF - row["event_time"]) / timedelta(days=1) for row in bought]
        late, before = sum(days <= 28 for days in ago), sum(28 < days <= 56 for days in ago)
        tail = f"{before or 'none'} in the 28 days before"
        if (CUTOFF - rows[0]["event_time"]) < timedelta(days=56):
            tail = f"{len(ago)} in all"
        start = {0: "No purchases", 1: "1 purchase"}.get(late, f"{late} purchases")
        assert said[Theme("frequency")] == f"{start} in the last 28 days, {tail}"
        if bought:
            days = sorted({row["event_time"].date() for row in bought})
            gaps = [(b - a).days for a, b in pairwise(days)]
            assert f"{int(ago[-1])} day" in said[Theme("recency")] or ago[-1] < 1
            if gaps:
                usual = f"every {figure(median(gaps))} days" if median(gaps) != 1 else "every day"
                assert f"usually one {usual}" in said[Theme("recency")]
            amounts = [row["amount"] for row in bought if row["amount"] is not None]
            if len(amounts) >= 6:
                assert f": {figure(mean(amounts[-3:]))}, " in said[Theme("amount", "amount")]
                assert f" the {figure(mean(amounts[:-3]))} before" in said[Theme("amount", "amount")]


def test_numbers_and_words_are_written_as_one_says_them():
    told = {9.0: "9", 8.5: "8.5", 16.333: "16.3", 1234.5: "1,234", 0.0312: "0.0312", 0.0: "0", -20.04: "\u221220"}
    assert {value: figure(value) for value in told} == told
    words = {(10, 20): "about half of", (20, 10): "about twice", (10.5, 10): "about the same as"}
    words |= {
        (13, 10): "30\u00a0% more than",
        (7, 10): "30\u00a0% less than",
        (50, 10): "5.0 times",
        (0, 10): "against",
    }
    assert {pair: beside(*pair) for pair in words} == words
    assert [plural(noun) for noun in ("basket", "inquiry", "buy", "transactions")] == [
        "baskets",
        "inquiries",
        "buys",
        "transactions",
    ]
    assert event_phrase("event_type = 'add_to_cart'") == "an add to cart"
    assert event_phrase("event_type = 'it''s'") == "an it's"
    assert event_phrase("true") == "an event"
    assert event_phrase("event_type IN ('a', 'b')") == "an event with event_type IN ('a', 'b')"


def test_a_reason_moves_the_score_as_its_words_push_it(learned, events):
    classifier, found = learned("binary"), 0
    for user in ("u3", "u5", "u8", "u13", "u21"):
        facts, words, themes = facts_of_user(classifier, events, user)
        attribution, *_ = attribute(
            classifier.model, classifier.tokenizer, classifier.serializer, [facts.history.text], bar=False
        )
        (score,) = classifier.score([facts.history.text])
        told = reasons(classifier, attribution, facts)
        assert [abs(score - reason["score_without"]) for reason in told] == sorted(
            (abs(score - reason["score_without"]) for reason in told), reverse=True
        )
        for reason in told:
            theme = Theme(*(reason[name] for name in ("about", "field", "value")))
            own = [of_word == theme for of_word in themes]
            assert reason["push"] == pytest.approx(attribution.pushes[own].sum())
            assert reason["push"] * (score - reason["score_without"]) > 0
            text = facts.history.text
            for word in reversed([word for word, of_theme in zip(words, own, strict=True) if of_theme]):
                end = re.compile(r"\s|$").search(text, word.start).start()
                text = f"{text[: word.start]}[MASK]{text[end:]}"
            assert reason["score_without"] == pytest.approx(classifier.score([text])[0], abs=1e-6)
            assert reason["said"] == facts.sentence(theme, [w for w, o in zip(words, own, strict=True) if o])
            found += 1
        assert len(told) <= 3
    assert found > 5


@pytest.mark.parametrize("task", ["value", "tiers", "propensity"])
def test_labels_of_every_kind_are_told_in_their_own_words(learned, events, task, tmp_path):
    classifier = learned(task)
    scored = classifier.predict(events, CUTOFF)
    for user in ("u3", "u8"):
        found = explain_user(classifier, events, CUTOFF, user)
        score = scored["score"][scored["user_id"].to_pylist().index(user)].as_py()
        if task != "value":
            score = score[list(classifier.objective.classes).index(found["class"])]
        assert found["score"] == pytest.approx(score, rel=1e-5)
        shown = figure(score) if task == "value" else f"{100 * score:.0f}\u00a0%"
        page = _spaced(html.unescape(write_page(found, tmp_path / "page.html").read_text(encoding="utf-8")))
        headline = {
            "value": f"The model expects a value of {shown} from this user in the 14 days after 2024-04-01.",
            "tiers": f"chance of a value {found['class']} in the 14 days after 2024-04-01 at {shown}.",
            "propensity": f"chance of a purchase with shop {found['class']} in the 14 days after 2024-04-01 at",
        }[task]
        assert _spaced(headline) in page
        facts, words, _ = facts_of_user(classifier, events, user)
        if task == "propensity":  # how often a class came before
            own = [word for word in words if "." in word.field]
            assert {word.field for word in own} <= {"shop.north", "shop.south"}
            assert own
            for word in own:
                shop = word.field.removeprefix("shop.")
                rows = [row for row in events if row["user_id"] == user and row["event_time"] < CUTOFF]
                times = [row["event_time"] for row in rows if (row["event_type"], row["shop"]) == ("purchase", shop)]
                ago = (CUTOFF - max(times)).days
                start = f"{len(times)} purchase{'s' * (len(times) > 1)} with shop {shop} before"
                said = facts.sentence(Theme("value", "shop", shop), [word])
                assert said == f"{start}, the latest {f'{ago} day' + 's' * (ago > 1) if ago else 'less than a day'} ago"
                assert reading(word, classifier.serializer).startswith(f"shop {shop} before: ")
    sample = explain_sample(classifier, events, CUTOFF, 40, output=None if task == "value" else found["class"])
    page = _spaced(html.unescape(write_page(sample, tmp_path / "sample.html").read_text(encoding="utf-8")))
    change = sample["causes"][0]["score_change"]
    moved = figure(change) if task == "value" else f"{100 * change:.1f} percentage points"
    assert f"The scores move most with {sample['causes'][0]['cause']}: by {moved} for a user on average." in page


def _spaced(text):
    return " ".join(text.split())


def test_the_other_class_of_a_yes_or_no_label_has_the_other_chance(classifier, events):
    churn, stays = (explain_user(classifier, events, CUTOFF, "u3", output=name) for name in ("churn", "no_churn"))
    assert churn["score"] + stays["score"] == pytest.approx(1)
    assert churn["output"] == pytest.approx(-stays["output"], abs=1e-5)


def test_how_often_a_class_came_is_read_in_both_styles():
    fields = {"shop": {"kind": "categorical", "list": False, "values": ["far_east", "north"]}}
    features = Features("true", {"shop": "VARCHAR"}, {"shop": "categorical"}, [], "shop", ["Far east", "north"])
    log = [event("a", days, "buy", shop="Far east") for days in (1, 30, 200)]
    log = [{name: row[name] for name in ("user_id", "event_time", "event_type", "shop")} for row in log]
    said = {}
    for style in ("words", "sentences"):
        written = EventSerializer(TextConfig(style, ["own"], {"shop": TextField(top=5)}), features, fields, {})
        (text,) = written.transform(log, CUTOFF)["text"].to_pylist()
        word = words_of(text, written)[0]
        assert theme_of(word, written) == Theme("value", "shop", "far_east")
        said[style] = reading(word, written)
        assert target_noun(written) == "event"
    # 4 for the last week's, 2 for the one of 84 days, 1 for the old one: 7.
    assert said == {
        "words": "shop far east before: 6 to 8 times, recent ones count more",
        "sentences": "shop far east before: 6 to 8 times, recent ones count more",
    }


def test_a_cause_moves_the_scores_as_hiding_its_words_does(classifier, events):
    found = explain_sample(classifier, events, CUTOFF, 25)
    moves = [cause["score_change"] * cause["users"] for cause in found["causes"]]
    assert moves == sorted(moves, reverse=True)
    with past_log(classifier, events, CUTOFF) as (con, _):
        users = drawn(users_of(con, classifier.serializer, CUTOFF, EVERYBODY), 25)
        texts = [history.text for history in histories_of(con, classifier.serializer, CUTOFF, users)]
    amounts = re.compile(r"\bamount(_\w+)?=\S+")
    having = [text for text in texts if amounts.search(text)]
    change = np.abs(classifier.score(having) - classifier.score([amounts.sub("[MASK]", text) for text in having]))
    cause = next(cause for cause in found["causes"] if cause["cause"] == "the amount of events")
    assert cause["users"] == len(having)
    assert cause["score_change"] == pytest.approx(change.mean(), abs=1e-6)


def _spoilt(content, text, kept=("task", "unit", "about", "part", "name", "calibration")):
    """The same with every other text replaced."""
    if isinstance(content, dict):
        return {key: entry if key in kept else _spoilt(entry, text, kept) for key, entry in content.items()}
    if isinstance(content, list):
        return [_spoilt(entry, text, kept) for entry in content]
    return text if isinstance(content, str) else content


def test_what_the_log_says_is_escaped_on_the_pages(classifier, events, tmp_path):
    hostile = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
    log = [*events, event(hostile, 2.0, hostile, 3.0, hostile), event(hostile, 9.0, "purchase", 3.0)]
    for explanation in (
        explain_user(classifier, log, CUTOFF, hostile),
        _spoilt(explain_user(classifier, events, CUTOFF, "u3"), hostile),
        _spoilt(explain_sample(classifier, events, CUTOFF, 30), hostile),
    ):
        page = write_page(explanation, tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page


def test_chromium_shows_the_pages_on_a_phone_without_a_console_message_or_a_further_request(
    classifier, learned, events, tmp_path
):
    made = {
        "user.html": explain_user(classifier, events, CUTOFF, "u3"),
        "value.html": explain_user(learned("value"), events, CUTOFF, "u3"),
        "sample.html": explain_sample(classifier, events, CUTOFF, 30),
    }
    pages = {name: write_page(found, tmp_path / name).read_text(encoding="utf-8") for name, found in made.items()}
    # What is folded is as narrow as the rest.
    assert_quiet_and_narrow({name: page.replace("<details", "<details open") for name, page in pages.items()})
