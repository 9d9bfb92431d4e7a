import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="Java is missing")
def test_by_a_mark():
    pass

def test_within():
    pytest.skip("Chromium is missing")

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("no GPU")
"""


def test_a_skipped_test_fails_with_its_reason_where_ci_says_so(tmp_path):
    (tmp_path / "test_three.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:xdist", str(tmp_path)]
    root = str(Path(__file__).parents[1])
    told = {}
    for variable in ("NO_SKIPS", "SKIPS"):
        environment = {name: value for name, value in os.environ.items() if name != "NO_SKIPS"}
        environment |= {"PYTHONPATH": root, variable: "1"}
        told[variable] = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told["SKIPS"].returncode == 0, told["SKIPS"].stdout
    assert "3 skipped" in told["SKIPS"].stdout
    assert told["NO_SKIPS"].returncode == 1, told["NO_SKIPS"].stdout
    assert "1 skipped" in told["NO_SKIPS"].stdout
    assert "Java is missing" in told["NO_SKIPS"].stdout
    assert "Chromium is missing" in told["NO_SKIPS"].stdout
