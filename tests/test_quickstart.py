"""The README's first command: it writes what it names, learns, and never touches a folder that is not its own."""

import re
from pathlib import Path

import pytest
from PIL import Image

from loraloom import quickstart
from loraloom.errors import UserError


@pytest.mark.slow
def test_quickstart_comes_nearer_to_the_taught_picture_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "_AUTOENCODER_STEPS", 40)
    said: list[str] = []
    for steps in (4, 60):
        quickstart.run_quickstart(tmp_path / "q", steps, said.append)
    line = [text for text in said if text.startswith("mean distance")][-1]
    base, adapter = (float(number) for number in re.findall(r"\d\.\d{3}", line))
    assert adapter < base
    assert Image.open(tmp_path / "q" / "result.png").width > 4 * 192
    assert (tmp_path / "q" / "run" / "samples" / "sheet.png").is_file()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        quickstart.run_quickstart(tmp_path, 1, print)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]
