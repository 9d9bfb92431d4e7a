import copy
import re

import numpy as np
import pytest
from PIL import Image

from finetune.hub.card_picture import PICTURE, draw_card_picture
from finetune.hub.redaction import FEWEST_USERS, public_points


def binary(rows: int) -> dict:
    """Of a model that ranks well and of a baseline that does not, over so many rows."""
    shares = np.linspace(0, 1, 41)
    share = np.linspace(0.05, 0.95, 10)
    return {
        "task": "binary",
        "main": "auroc",
        "test": {
            "baselines": {"rfm": {"auroc": 0.6}, "majority": {"auroc": 0.5}},
            "lift_at_10_interval": [1.5, 2.5],
            "lift_at_20_interval": [None, None],
        },
        "curves": {
            "rows": rows,
            "calibration": {"predicted": list(share), "observed": list(share**2), "rows": [rows // 10] * 10},
            "gain": {
                "model": {"rows": list(shares), "captured": list(np.sqrt(shares))},
                "rfm": {"rows": list(shares), "captured": list(shares)},
            },
        },
    }


def test_the_picture_is_small_has_its_own_ground_and_is_told_in_words(tmp_path):
    picture = draw_card_picture(binary(8_000), 4, tmp_path)
    content = (tmp_path / PICTURE).read_bytes()
    assert len(content) < 60_000
    with Image.open(tmp_path / PICTURE) as image:
        assert image.info == {}  # nothing of who drew it, and no transparent ground
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert image.width > 2 * image.height
        colours = {colour for _, colour in image.convert("RGB").getcolors()}
    for line in ((0, 114, 178), (213, 94, 0)):  # model and baseline
        assert min(np.abs(np.subtract(colour, line)).max() for colour in colours) < 12
    assert picture.alt.replace("\u00a0", " ").startswith(
        "Calibration, predicted probability and the share that is positive, by bin: 5 % and 0 %; 15 % and 2 %; "
    )
    assert "Lift at the top 5 %, 10 %, 20 % and 50 %: model 4.47, 3.16, 2.24, 1.41; RFM 1.00" in picture.alt.replace(
        "\u00a0", " "
    )
    assert re.search(r"Bars are 95\s% intervals of the model at 10\s%\.", picture.reading[1])
    again = tmp_path / "again"
    again.mkdir()
    draw_card_picture(binary(8_000), 4, again)
    assert (again / PICTURE).read_bytes() == content  # a publication without news uploads nothing


@pytest.mark.parametrize("rows", [FEWEST_USERS * 4 * 2 - 1, 0])
def test_of_few_users_there_is_no_picture_and_an_earlier_one_is_gone(tmp_path, rows):
    draw_card_picture(binary(8_000), 4, tmp_path)
    assert draw_card_picture(binary(rows), 4, tmp_path) is None
    assert not (tmp_path / PICTURE).exists()


def test_every_point_and_every_step_of_the_lift_stands_for_enough_users():
    fewest = FEWEST_USERS * 4
    for rows, steps in ((20 * fewest, 20), (20 * fewest - 1, 10), (10 * fewest - 1, 4), (4 * fewest - 1, 2)):
        points = public_points(binary(rows), 4)
        assert len(points.shares) == steps
        assert points.shares[-1] == 1
        assert points.lift["model"] == pytest.approx([1 / np.sqrt(share) for share in points.shares], rel=0.03)
    metrics = binary(10 * fewest)
    metrics["curves"]["calibration"]["rows"][3] = fewest - 1
    assert len(public_points(metrics, 4).calibration) == 9
    assert public_points(metrics, 8).calibration == []


def test_values_are_drawn_in_their_own_unit_and_classes_without_a_lift(tmp_path):
    value = binary(8_000) | {"task": "value", "main": "mae"}
    value["test"] = {
        "baselines": {"rfm": {"mae": 3.0}},
        "deciles": [{"rows": 800, "predicted": 10.0 * n, "real": 11.0 * n} for n in range(10, 0, -1)],
    }
    del value["curves"]["calibration"]
    picture = draw_card_picture(value, 4, tmp_path)
    assert "by bin: 10.00 and 11.00; 20.00 and 22.00" in picture.alt
    assert "how many times as much value" in picture.reading[1]
    classes = copy.deepcopy(binary(8_000)) | {"task": "propensity"}
    del classes["curves"]["gain"]
    picture = draw_card_picture(classes, 12, tmp_path)
    assert len(picture.reading) == 1
    with Image.open(tmp_path / PICTURE) as image:
        assert image.width < 2 * image.height


def test_a_run_of_an_older_version_has_no_picture(tmp_path):
    metrics = binary(8_000)
    del metrics["curves"]
    assert draw_card_picture(metrics, 4, tmp_path) is None
