"""A user who does not exist is made of what the serializer knows."""

from datetime import datetime

import numpy as np

from data_prep.config import Population
from data_prep.made_up import DAYS, EVENTS, made_up_fields, made_up_histories, made_up_user, shown_columns
from data_prep.population import Whom
from data_prep.prepared import read_manifest
from data_prep.serializer import EventSerializer
from finetune.experiment.parser import parse_experiment


def test_a_user_who_does_not_exist_has_known_values_only_and_is_always_the_same(prepared):
    serializer = EventSerializer.from_pretrained(parse_experiment("", ["--config", str(prepared)]).data_folder)
    made = made_up_user(serializer, "2024-03-18", None)
    assert made == made_up_user(serializer, "2024-03-18", None)
    days = [event["days"] for event in made["events"]]
    assert days == sorted(days, reverse=True)
    assert len(days) == EVENTS
    assert all(1 <= day < DAYS for day in days)
    for event in made["events"]:
        assert event["fields"]["event_type"] in serializer.fields["event_type"]["values"]
        assert event["fields"]["shop"] in serializer.fields["shop"]["values"]
        middles = serializer.fields["amount"]["centers"]
        assert min(abs(event["fields"]["amount"] - middle) for middle in middles) < 0.01  # four digits
    assert made["text"].count(" gap=") == 5  # the newest of them: text.max_events
    assert f"shop={made['events'][-1]['fields']['shop']}" in made["text"]


def test_users_who_do_not_exist_are_of_the_population(shop):
    """A purchase within two days is more than most of those have who are drawn."""
    folder = shop.prepare(shop.regulars())
    serializer, has = EventSerializer.from_pretrained(folder), read_manifest(folder)["log"]["has"]
    whom = Whom(Population("2 days", "event_type = 'purchase'"))
    made = made_up_histories(serializer, "2024-03-18", has, whom, 2, 3, 45)
    given = [event for events in made for event in events]
    assert serializer.transform(given, datetime(2024, 3, 18), whom).num_rows == len(made) == 2
    nobody = Whom(Population("2 days", "event_type = 'no such type'"))
    everybody = made_up_histories(serializer, "2024-03-18", has, Whom(None), 1, 3, 45)
    assert made_up_histories(serializer, "2024-03-18", has, nobody, 1, 3, 45) == everybody


def test_frequent_words_are_drawn_more_often(shop):
    serializer = EventSerializer.from_pretrained(shop.prepare(shop.regulars()))
    first, second = serializer.fields["event_type"]["values"]
    random, columns = np.random.default_rng(0), ["event_type"]
    drawn = [made_up_fields(serializer, columns, None, random)["event_type"] for _ in range(3_000)]
    assert abs(drawn.count(first) / 3_000 - 2 / 3) < 0.03
    assert {*drawn} == {first, second}


def test_made_up_events_have_the_columns_of_their_type(shop):
    folder = shop.prepare(shop.regulars())  # purchases have value and items, views a category
    serializer, has = EventSerializer.from_pretrained(folder), read_manifest(folder)["log"]["has"]
    made = made_up_user(serializer, "2024-03-18", has)
    columns = {"purchase": {"event_type", "value", "items"}, "view": {"event_type", "category"}}
    kinds = [event["fields"]["event_type"] for event in made["events"]]
    assert {*kinds} == {*columns}
    assert all(event["fields"].keys() == columns[event["fields"]["event_type"]] for event in made["events"])
    assert made["text"].count(" value=") == made["text"].count(" items=") == kinds.count("purchase")
    assert made["text"].count(" category=") == kinds.count("view")


def test_where_nothing_is_kept_of_a_type_its_events_have_every_column(shop):
    serializer = EventSerializer.from_pretrained(shop.prepare(shop.regulars()))
    for has in (None, {"refund": []}):
        event = made_up_fields(serializer, shown_columns(serializer), has, np.random.default_rng(0))
        assert event.keys() == {"event_type", "value", "items", "category"}


def test_the_event_type_decides_what_an_event_has_where_the_text_does_not_name_it(shop):
    text = shop.text()
    del text.fields["event_type"]
    text.fields["category"].min_users = 1
    rows = [*shop.regulars(), *(shop.event(f"u{i}", 3 + i, kind) for i in range(6) for kind in ("view", "purchase"))]
    folder = shop.prepare(rows, text=text)
    made = made_up_user(EventSerializer.from_pretrained(folder), "2024-03-18", read_manifest(folder)["log"]["has"])
    had = {frozenset(event["fields"]) for event in made["events"]}
    assert had == {frozenset({"value", "items"}), frozenset({"category"})}
