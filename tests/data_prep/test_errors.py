import pickle

from data_prep import InputError


def test_an_error_carries_problem_remedy_and_setting_and_says_them_in_one_sentence():
    error = InputError("'x' is no size", "write 4GB", setting="data.memory_limit")
    assert str(error) == "data.memory_limit: 'x' is no size; write 4GB"
    assert (error.remedy, error.setting) == ("write 4GB", "data.memory_limit")
    named = InputError("task.label.top is 0", "give a number above zero", setting="task.label.top")
    assert str(named) == "task.label.top is 0; give a number above zero"
    assert str(InputError("nothing is there")) == "nothing is there"


def test_an_error_is_said_by_another_name_of_the_setting_or_inside_of_a_file():
    error = InputError("data.timezone is 'data.timezone'", "write UTC", setting="data.timezone")
    called = error.called("--timezone")
    assert str(called) == "--timezone is 'data.timezone'; write UTC"
    assert called.setting == "--timezone"
    assert str(error.within("my.yaml")) == "my.yaml: data.timezone is 'data.timezone'; write UTC"


def test_an_error_survives_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(InputError("'x' is no size", "write 4GB", setting="data.memory_limit")))
    assert str(error) == "data.memory_limit: 'x' is no size; write 4GB"
    assert error.setting == "data.memory_limit"
