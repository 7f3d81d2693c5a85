"""Tables that people read."""

import pytest

from loraloom.utils.progress import table


@pytest.mark.parametrize(
    "number", ["7", "1,234", "0.97", "-0.12", "+3", "12 MB", "85 %", "3 of 4", "1024x768", "2 min 03 s"]
)
def test_numbers_stand_to_the_right(number: str) -> None:
    assert table(("value of all",), [(number,)]).splitlines()[1] == number.rjust(12)


@pytest.mark.parametrize("name", ["anime", "10_anime", "3d-render", "000123.png", "-", "sd3", "2x_upscale"])
def test_names_stand_to_the_left_whatever_they_begin_with(name: str) -> None:
    assert table(("name of the folder",), [(name,)]).splitlines()[1] == name
