"""A user who does not exist is made of what the serializer knows."""

from data_prep.made_up import DAYS, EVENTS, made_up_user
from data_prep.serializer import EventSerializer
from finetune.parser import parse_experiment


def test_a_user_who_does_not_exist_has_known_values_only_and_is_always_the_same(prepared):
    serializer = EventSerializer.from_pretrained(parse_experiment("", ["--config", str(prepared)]).data_folder)
    made = made_up_user(serializer, "2024-03-18")
    assert made == made_up_user(serializer, "2024-03-18")
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
