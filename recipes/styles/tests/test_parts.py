"""Parts of a recipe: done once, done again when something changed, named when they fail."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loraloom.utils.errors import UserError
from recipes.styles.parts import STATE_FILE, Parts


def test_a_part_that_is_done_is_not_done_again_until_its_key_or_its_files_change(tmp_path: Path) -> None:
    calls: list[str] = []

    def work() -> Mapping[str, Any]:
        calls.append("x")
        (tmp_path / "out").write_text("x", encoding="utf-8")
        return {"steps": 3}

    def do(key: str) -> Mapping[str, Any] | None:
        return Parts(tmp_path, lambda line: None).do("lora a", key, work, [tmp_path / "out"])

    assert do("k") == do("k") == {"steps": 3}
    assert len(calls) == 1
    do("other")
    (tmp_path / "out").unlink()
    do("other")
    assert len(calls) == 3


@pytest.mark.parametrize(
    "error", [UserError("the reason"), RuntimeError("CUDA out of memory\nmore"), OSError(28, "full")]
)
def test_a_part_that_fails_is_named_and_tried_again(tmp_path: Path, error: Exception) -> None:
    said: list[str] = []
    parts = Parts(tmp_path, said.append)

    def breaks() -> None:
        raise error

    assert parts.do("lora a", "k", breaks) is None
    assert parts.do("lora b", "k", lambda: None) == {}
    assert list(parts.failed) == ["lora a"]
    assert "FAILED" in said[1]
    again = Parts(tmp_path, lambda line: None)
    assert again.known["lora a"].status == "failed"
    assert again.do("lora a", "k", lambda: None) == {}
    assert not again.failed


def test_our_own_bug_is_not_swallowed(tmp_path: Path) -> None:
    def bug() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        Parts(tmp_path, lambda line: None).do("x", "k", bug)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {"status": "perhaps", "key": "", "seconds": 1}}', '{"a": 1}'])
def test_a_damaged_state_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=STATE_FILE):
        Parts(tmp_path, lambda line: None)
