"""Any text to a spec: what is refused, what is said aloud, and that what plain words leave open is not judged."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.render.painting import paint
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.check import check_spec
from loraloom.extensions.domains.floorplan.text.spec import print_spec, spec_of
from loraloom.extensions.domains.floorplan.text.texts import spec_from_text
from loraloom.extensions.domains.floorplan.verify.verifying import verify
from loraloom.extensions.domains.floorplan.vision.reading import read
from loraloom.utils.errors import UserError


@pytest.mark.parametrize(
    "text",
    ["", "hello", "nowhere/prompts.txt", "C:\\plans\\wishes.txt", "two or three bedrooms", "maybe a living room", "?"],
)
def test_a_text_of_which_nothing_is_understood_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="nothing in this text says plainly"):
        spec_from_text(text)


def test_the_path_of_a_file_or_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kitchen.txt").write_text("two bedrooms", encoding="utf-8")
    Path("kitchen").mkdir()
    with pytest.raises(UserError, match=r"path of a file.*\n.*--prompts-file"):
        spec_from_text(str(tmp_path / "kitchen.txt"))
    with pytest.raises(UserError, match="path of a file"):
        spec_from_text(" kitchen.txt\n")
    with pytest.raises(UserError, match="path of a folder"):
        spec_from_text(str(tmp_path))
    assert spec_from_text("kitchen").counts == (("living room", 1), ("kitchen", 1))  # does not look like a path
    assert spec_from_text("kitchen/bathroom").count("bathroom") == 1


@pytest.mark.parametrize(
    "text", ["kitchen/" + "a" * 1000, "kitchen/\0", "~nobody-of-this-name/kitchen", "kitchen/ " * 2000]
)
def test_what_cannot_be_a_path_is_read(text: str) -> None:
    assert spec_from_text(text).count("kitchen") == 1


def test_what_was_assumed_or_not_understood_is_said() -> None:
    lines: list[str] = []
    spec_from_text("a sunny kitchen, at least two bedrooms", lines.append)
    assert lines == [
        "not understood: 'sunny', 'at least two bedrooms'",
        "assumed: 1 living room, as every plan has one",
    ]
    lines.clear()
    spec_from_text("kitchen left of the living room", lines.append)
    assert lines == []


def test_plain_words_under_a_header_are_of_its_style() -> None:
    lines: list[str] = []
    spec = spec_from_text(" Plain FloorPlan Generation: kitchen left of the living room", lines.append)
    assert lines == []
    assert spec == replace(spec_from_text("kitchen left of the living room"), style="plain")
    assert print_spec(spec).startswith("Plain FloorPlan Generation")


def test_a_structured_text_is_parsed() -> None:
    spec = spec_of(synthesise(1).plan)
    assert spec_from_text(print_spec(spec)) == spec


def test_rooms_that_plain_words_do_not_name_are_no_sentences() -> None:
    plan = synthesise(1).plan
    assert plan.counts["bathroom"] > 0
    wish = spec_from_text(f"{plan.counts['living room']} living room, {plan.counts['kitchen']} kitchen")
    receipt = verify(wish, read(Image.fromarray(paint(plan.labels))))
    assert not [problem for problem in check_spec(wish) if problem.kind == "error"]
    assert [verdict.sentence for verdict in receipt.verdicts] == ["1 living room", f"{plan.counts['kitchen']} kitchen"]
    assert receipt.complete
    assert f"{plan.counts['bathroom']} bathroom that the text does not count" in receipt.extras
