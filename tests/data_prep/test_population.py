from tests.data_prep.tasks import refusal


def test_an_empty_population_at_one_cutoff_is_refused_with_its_date(shop):
    rows = [row for row in shop.regulars() if not 41 <= (row["event_time"] - shop.start).days < 46]
    text = refusal(shop, rows, shop.task(population={"within": "3 days"}))
    assert "task.population: nobody has an event in the 3 days before the validation cutoff 2024-02-15" in text
    assert "widen `within`" in text
    text = refusal(shop, rows, shop.task(population={"within": "3 days", "where": "items >= 0"}))
    assert "nobody has an event with items >= 0 in the 3 days" in text
