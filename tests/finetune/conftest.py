import pytest


@pytest.fixture(scope="session", autouse=True)
def boosting_of_few_trees(few_trees):
    """For all of these tests."""
