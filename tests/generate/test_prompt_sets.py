"""Sets of prompts: built in, or a file of either kind."""

from pathlib import Path

import pytest

from loraloom.generate.prompt_sets import find_prompts, read_prompts, set_names
from loraloom.utils.errors import UserError


def test_every_built_in_set_has_different_prompts() -> None:
    assert {"driving", "floorplans"} <= set(set_names())
    for name in set_names():
        prompts = read_prompts(find_prompts(name))
        assert len(set(prompts)) == len(prompts) >= 4
    assert len(read_prompts(find_prompts("driving"))) == 8


def test_prompts_of_several_lines_stand_between_lines_of_dashes(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("---\r\nfirst\r\nline two\r\n --- \n\n---\nsecond\n", encoding="utf-8")
    assert read_prompts(path) == ["first\nline two", "second"]


def test_a_file_comes_before_a_set_of_its_name_and_an_unknown_name_lists_near_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'driving'"):
        find_prompts("drivng")
    Path("driving").write_text("mine", encoding="utf-8")
    assert read_prompts(find_prompts("driving")) == ["mine"]
