from dataclasses import replace

from data_prep.config import TextField
from tests.data_prep.histories import CUTOFF, only, texts, words_of

# Categorical values


def test_values_become_single_words_and_rare_ones_become_other(shop):
    values = ["Frozen Food", "FROZEN  food!", "tea", 'it\'s "quoted"', "été", "हिन्दी", "a=b [SEP]", "", " ", None, "--"]
    written = words_of(shop, values, "category", TextField(top=50, min_users=1))
    assert written == [
        "category=frozen_food",
        "category=frozen_food",
        "category=tea",
        "category=it_s_quoted",
        "category=été",
        "category=हिन्दी",
        "category=a_b_sep",
        *[""] * 4,
    ]
    assert words_of(shop, ["tea", "Tea", "milk"], "category", TextField(top=1, min_users=1)) == [
        "category=other",
        "category=other",
        "category=milk",
    ]


def test_min_users_keeps_values_of_few_users_out_of_every_text(shop):
    rows = [shop.event(user, 1, category="common") for user in "abc"] + [shop.event("a", 2, category="secret")] * 9
    found = texts(shop, rows, only(category=TextField(top=9, min_users=2)))
    assert "category=common" in found["a"]
    assert "category=other" in found["a"]
    assert "secret" not in str(found)


def test_values_rank_by_users_and_not_by_events(shop):
    rows = [shop.event("a", 1, category="loud")] * 9 + [shop.event(user, 2, category="wide") for user in "bc"]
    assert "loud" not in str(texts(shop, rows, only(category=TextField(top=1, min_users=1))))


def test_a_list_of_categories_is_written_value_by_value(shop):
    values = [["Frozen Food", "tea"], [], None, [None, "tea", ""], ["rare"]]
    written = words_of(shop, values, "tags", TextField(top=2, min_users=1))
    assert written == ["tags=frozen_food tags=other", "", "", "tags=other", "tags=rare"]


def test_a_value_unknown_in_training_is_other(shop):
    config = only(category=TextField(top=9, min_users=1))
    _, _, serializer = shop.histories([shop.event("a", 1, category="tea")], shop.day(CUTOFF), config)
    assert "category=other" in texts(shop, [shop.event("a", 1, category="new")], serializer)["a"]


def test_an_event_type_that_every_event_has_is_left_out(shop):
    assert texts(shop, [shop.event("a", 1)], only(event_type=TextField(top=5, min_users=1)))["a"] == "gap=first"


def test_a_vocabulary_of_thousands_of_values_with_quotes_is_matched_exactly(shop):
    values = [f"item'{i}" for i in range(3000)]
    rows = [shop.event("a", i / 100, category=value) for i, value in enumerate(values)]
    found = texts(shop, rows, replace(only(category=TextField(top=5000, min_users=1)), max_events=2))
    assert found["a"] == "gap=0 category=item_2999 gap=0 category=item_2998"


# Free text


def test_free_text_gives_its_first_known_words_each_once(shop):
    notes = ["Red TEA-cup, tea!", "blue tea  pot", None, "?!", "naïve Änderung तितली 茶", "tea"]
    assert words_of(shop, notes, "note", TextField(words=3, min_users=1)) == [
        "red tea cup",
        "blue tea pot",
        "",
        "",
        "naïve änderung तितली",
        "tea",
    ]


def test_the_vocabulary_of_free_text_holds_the_words_of_most_users(shop):
    rows = [shop.event(user, 1, note=f"tea {user}{user}") for user in "abc"]
    found = texts(shop, rows, only(note=TextField(words=5, vocabulary=2, min_users=1)))
    assert found == {"a": "gap=first tea aa", "b": "gap=first tea", "c": "gap=first tea"}
    found = texts(shop, rows, only(note=TextField(words=5, min_users=2)))
    assert set(found.values()) == {"gap=first tea"}
