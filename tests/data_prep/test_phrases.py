from data_prep.phrases import DAY_STEPS, STEP_OF_DAY


def test_days_are_exact_to_14_then_rounded_down_in_steps_of_15_percent_up_to_400():
    written = [DAY_STEPS[step] for step in STEP_OF_DAY[:-1]]
    assert written[:15] == list(range(15))
    assert written[400] == 400
    assert all(step <= day < step * 1.16 + 1 for day, step in enumerate(written))
