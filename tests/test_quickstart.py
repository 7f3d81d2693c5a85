"""The README's first command: it writes what it names, learns, checks, and never touches a folder that is not its own."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from loraloom.config.comparing import read_run
from loraloom.errors import UserError
from loraloom.quickstart import MARK, Size, run_quickstart


@pytest.mark.slow
def test_quickstart_trains_checks_reports_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / "plans" / "of an earlier one").mkdir(parents=True)
    for name in (MARK, "mine.txt"):
        (folder / name).touch()
    said: list[str] = []
    run_quickstart(folder, Size(plans=40, steps=4, prompts=2, best_of=2), said.append)
    assert not (folder / "plans" / "of an earlier one").exists()
    assert (folder / "mine.txt").is_file()
    shares = {name: int(share) for name, share in re.findall(r"sentences met, ([^:]+): (\d+)%", "\n".join(said))}
    receipts = [
        json.loads(file.read_text(encoding="utf-8")) for file in (folder / "pictures" / "receipts").glob("*.json")
    ]
    met = [one["met"] / (one["met"] + one["not_met"] + one["cannot_tell"]) for one in receipts]
    assert abs(shares["adapter, best of them after repair"] - 100 * sum(met) / 2) <= 0.5
    assert any("a true plan of another text: " in line for line in said)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert "the base draws" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert Image.open(folder / "pictures" / "00000.png").size == (256, 256)
    assert (folder / "pictures" / "receipts" / "00001.json").is_file()
    assert (folder / "run" / "exports" / "pytorch_lora_weights.safetensors").is_file()
    assert (folder / "run" / "samples" / "sheet.png").is_file()
    assert read_run(folder / "run").data.domain == "floorplan"  # as the dataset was prepared; nothing else said it


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        run_quickstart(tmp_path, Size(plans=60, steps=1), print)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]
