import pytest
from PIL import Image

from demo.compare import SHOWN, Row, print_table, show


def test_the_table_says_how_far_the_concept_has_come(capsys):
    names = ("fidelity", "prompt_adherence", "diversity", "copying", "quality")
    rows = [
        Row("“a thing”", dict(zip(names, (0.2, 0.5, 0.4, 0.5, 0.3), strict=True))),
        Row("det-logo", dict(zip(names, (0.5, 0.45, 0.4, 0.5, 0.7), strict=True))),
        Row("real pictures", {"fidelity": 0.6, "diversity": 0.4}),
    ]
    print_table(rows)
    said = capsys.readouterr().out
    assert "75% of the way" in said and "is 90% of what" in said
    assert [line.split()[-1] for line in said.splitlines() if "pictures  " in line] == ["0.400"]


@pytest.mark.parametrize("count", [1, 3, 44])
def test_the_sheet_shows_real_pictures_and_each_prompt_twice(count):
    real = [Image.new("RGB", (64, 64), "red")] * count
    drawn = [[Image.new("RGB", (64, 64), "blue")] * SHOWN] * 2
    page = show(real, drawn, drawn, ["one prompt", "another prompt"])
    reds = sum(pixel == (255, 0, 0) for pixel in page.get_flattened_data())
    blues = sum(pixel == (0, 0, 255) for pixel in page.get_flattened_data())
    assert reds == 2 * SHOWN * 128 * 128 and blues == 4 * SHOWN * 128 * 128
