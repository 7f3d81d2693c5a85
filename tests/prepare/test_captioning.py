"""`loraloom caption`: versions that can be undone, captions by hand that are never lost, and what `prepare` makes of them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.config.caption import CaptionConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.caption_edits import Edits, expand
from loraloom.prepare.caption_store import STORE, CaptionStore
from loraloom.prepare.caption_versions import undo, versions_text
from loraloom.prepare.captioning import CaptionReport, caption_folder
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save

TEMPLATE = {"captioner": "template", "caption_template": "a photo of {folder}"}


def raw(folder: Path, by_hand: int = 1, bare: int = 2) -> Path:
    """A folder `dog` of images, the first ones with a text written by hand."""
    for seed in range(by_hand + bare):
        save(drawn(seed, 24, 16), folder / f"dog/{seed}.png", f"by hand {seed}" if seed < by_hand else None)
    return folder


def run(folder: Path, **values: Any) -> tuple[CaptionReport, list[str]]:
    lines: list[str] = []
    report = caption_folder(folder, read_settings(CaptionConfig, values=values), console=lines.append)
    return report, lines


def prepared(folder: Path, **values: Any) -> tuple[PrepareReport, list[str]]:
    lines: list[str] = []
    values = {"size": 16, "bucket_step": 8, "min_size": 1, "num_workers": 1, **values}
    config = read_settings(PrepareConfig, values=values)
    return prepare(folder, folder.with_name(f"{folder.name}-out"), config, console=lines.append), lines


def texts(folder: Path) -> dict[str, str]:
    """Every caption file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.txt")}


def captions_of(report: PrepareReport) -> dict[str, str]:
    return {example.id: example.caption for example in report.manifest.examples}


def test_captions_are_kept_in_the_folders_own_store_and_prepare_reads_them(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    before = texts(folder)
    report, lines = run(folder, **TEMPLATE, trigger="sks")
    assert report.version is not None
    assert report.num_written == 2
    assert texts(folder) == before
    assert any("1 caption written by hand: kept" in line for line in lines)
    made, lines = prepared(folder)
    assert captions_of(made) == {
        "dog/0": "by hand 0",
        "dog/1": "sks, a photo of dog",
        "dog/2": "sks, a photo of dog",
    }
    assert made.num_without_caption == 0
    assert any("captions of 2 images are those of version 1 in .captions (template)" in line for line in lines)


def test_the_same_command_twice_makes_one_version_and_a_new_image_is_added_to_it(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE)
    again, _ = run(folder, **TEMPLATE)
    assert again.version is None
    save(drawn(9, 24, 16), folder / "dog/9.png")
    more, _ = run(folder, **TEMPLATE)
    assert (more.num_written, more.num_reused) == (1, 2)
    assert CaptionStore(folder).numbers() == [1, 2]


def test_a_caption_by_hand_is_replaced_only_when_asked_and_comes_back_by_undo(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    by_hand = "by hand, 한국어\r\nsecond line".encode("utf-16")
    (folder / "dog/0.txt").write_bytes(by_hand)
    run(folder, **TEMPLATE, overwrite=True, write_files=True)
    assert set(texts(folder).values()) == {"a photo of dog\n"}
    said: list[str] = []
    undo(folder, said.append)
    assert (folder / "dog/0.txt").read_bytes() == by_hand
    assert [path.name for path in folder.rglob("*.txt")] == ["0.txt"]
    undo(folder, said.append, number=1)
    assert set(texts(folder).values()) == {"a photo of dog\n"}
    assert versions_text(folder).splitlines()[1].startswith("* 1 ")


def test_prepare_says_whose_text_a_version_replaces_and_a_newer_text_wins(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", by_hand=2)
    run(folder, **TEMPLATE, overwrite=True)
    (folder / "dog/1.txt").write_text("written later", encoding="utf-8")
    made, lines = prepared(folder)
    assert captions_of(made)["dog/0"] == "a photo of dog"
    assert captions_of(made)["dog/1"] == "written later"
    assert any("1 image has its text replaced by them: dog/0" in line for line in lines)
    assert any("1 image has a text that is newer than its stored caption" in line for line in lines)
    with pytest.raises(UserError, match="newer than its stored caption"):
        prepared(folder, strict=True)


def test_prepare_counts_images_that_changed_after_they_were_captioned(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE)
    save(drawn(77, 24, 16), folder / "dog/2.png")
    _, lines = prepared(folder)
    assert any("1 image was captioned before it changed: dog/2" in line for line in lines)
    more, _ = run(folder, **TEMPLATE)
    assert more.num_written == 1


def test_a_caption_file_that_was_edited_since_is_not_touched_by_undo(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE, write_files=True)
    (folder / "dog/2.txt").write_text("corrected", encoding="utf-8")
    said: list[str] = []
    undo(folder, said.append)
    assert texts(folder) == {"dog/0.txt": "by hand 0", "dog/2.txt": "corrected"}
    assert any("1 caption file changed since: left as they are: dog/2.txt" in line for line in said)


def test_a_run_that_was_interrupted_asks_only_about_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw(tmp_path / "raw", by_hand=0, bare=5)
    captioner, asked = plugins.load("captioners", "template"), list[str]()
    real = type(captioner).caption

    def stopping(self: Any, image: Image.Image, item: Any, options: Any, trigger: str) -> str:
        asked.append(item.id)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(self, image, item, options, trigger)

    monkeypatch.setattr(type(captioner), "caption", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(folder, **TEMPLATE)
    assert CaptionStore(folder).current() is None
    report, _ = run(folder, **TEMPLATE)
    assert report.num_written + report.num_reused == 5
    assert report.num_reused == 3
    assert sorted(set(asked)) == [f"dog/{seed}" for seed in range(5)]


def test_a_switch_of_versions_that_was_killed_half_way_is_finished(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE, write_files=True)
    state = folder / STORE / "current.json"
    state.write_text(json.dumps({"version": 1, "next": 0}), encoding="utf-8")  # killed before any file was restored
    CaptionStore(folder).finish()
    assert texts(folder) == {"dog/0.txt": "by hand 0"}
    assert CaptionStore(folder).current() is None


def test_several_captions_of_an_image_reach_the_manifest(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", by_hand=0)
    values = {**TEMPLATE, "caption_template": "{folder}, grass, sun, sea, sky"}
    report, _ = run(folder, **values, num_captions=4, shuffle_tags=True, trigger="sks", keep_tags=2)
    made, _ = prepared(folder)
    for example in made.manifest.examples:
        assert len(set(example.captions)) == len(example.captions) == 4
        for caption in example.captions:
            assert caption.startswith("sks, dog, ")
            assert sorted(caption.split(", ")) == sorted(["sks", "dog", "grass", "sun", "sea", "sky"])
    assert report.version is not None


def test_edits_of_existing_captions_need_no_captioner_and_are_made_once(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE)
    edit: dict[str, Any] = {"prefix": "film still, ", "replace": ["photo=picture", "zebra=horse"]}
    report, lines = run(folder, **edit)
    assert report.version is not None
    assert {row.captions for row in report.version.rows.values()} == {("film still, a picture of dog",)}
    assert any("--replace 'zebra=horse' changes no caption" in line for line in lines)
    assert run(folder, **edit)[0].version is None
    with pytest.raises(UserError, match="changes no caption"):
        run(folder, **{**edit, "suffix": "!"}, strict=True)


def test_a_text_for_captions_without_a_captioner_is_told_which_one_to_name(tmp_path: Path) -> None:
    """`caption FOLDER --trigger sks --caption TEXT` said `look at the reasons above`, and left an empty store behind."""
    folder = raw(tmp_path / "raw", by_hand=0)
    with pytest.raises(UserError, match=r"add --captioner: one of .*template") as caught:
        run(folder, trigger="sks", caption_template="an image of {trigger}")
    assert "--caption is not used: no captioner is named; add --captioner template" in str(caught.value)
    assert not (folder / STORE).exists()


def test_an_image_that_cannot_be_captioned_is_counted_with_its_reason(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    (folder / "dog/bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot one")
    report, lines = run(folder, **TEMPLATE)
    assert [item_id for item_id, _ in report.problems] == ["dog/bad"]
    assert any(line.lstrip().startswith("1 image without a caption: ") and line.endswith(": dog/bad") for line in lines)
    with pytest.raises(UserError, match="1 image without a caption, and --strict is on"):
        run(folder, **TEMPLATE, strict=True)


def test_plans_are_captioned_by_what_their_pixels_show(tmp_path: Path) -> None:
    generator = plugins.load("domains", "floorplan").dataset_generator
    truth: dict[str, str] = {}
    for seed in (3, 4):
        image, text = generator.draw(seed, "")
        save(image, tmp_path / f"raw/{seed}.png")
        truth[str(seed)] = text.strip()
    save(drawn(1, 64, 64), tmp_path / "raw/photo.png")
    report, lines = run(tmp_path / "raw", captioner="floorplan")
    assert report.version is not None
    assert {row.id: row.captions[0] for row in report.version.rows.values()} == truth
    assert any("no plan can be read from it" in line for line in lines)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"captioner": "template", "caption_template": "{foldr}"},
        {"replace": ["no equals sign"]},
        {"replace": ["/(/=x"]},
        {"captioner": "blip", "caption_model": "no/such/folder"},
        {"captioner": "template", "caption_template": "{trigger}"},
        {"suffix": "__nothing__", "wildcards": "WILD"},
    ],
)
def test_a_mistake_is_an_error_that_writes_no_version(values: dict[str, Any], tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild/colour.txt").write_text("red\n", encoding="utf-8")
    values = {key: str(tmp_path / "wild") if value == "WILD" else value for key, value in values.items()}
    with pytest.raises(UserError):
        run(folder, **values, overwrite=True)
    assert CaptionStore(folder).numbers() == []


def test_a_store_that_somebody_else_wrote_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw")
    run(folder, **TEMPLATE, write_files=True)
    version = folder / STORE / "v0001.jsonl"
    whole = version.read_text(encoding="utf-8")
    for harm in ("../../outside.txt", "/etc/motd.txt", "dog/0.png"):
        version.write_text(whole.replace("dog/2.txt", harm), encoding="utf-8")
        with pytest.raises(UserError, match="file"):
            undo(folder, lambda line: None)
    assert not (tmp_path / "outside.txt").exists()


# ----------------------------------------------------------------------------------------------------------- edits


@given(
    tags=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True),
    keep=st.integers(0, 9),
    number=st.integers(0, 20),
)
@settings(max_examples=50, deadline=None)
def test_a_shuffle_keeps_every_tag_and_the_first_ones_in_place(tags: list[str], keep: int, number: int) -> None:
    edits = Edits(shuffle=True, keep=keep)
    made = edits.one(", ".join(tags), "id", number).split(", ")
    assert sorted(made) == sorted(tags)
    assert made[:keep] == tags[:keep]
    assert edits.one(", ".join(tags), "id", number).split(", ") == made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog, grass", "sks, a dog, grass"),
        ("grass, sks, a dog", "sks, grass, a dog"),
        ("sks, a dog", "sks, a dog"),
        ("a photo of sks dog", "a photo of sks dog"),
        ("asks a dog", "sks, asks a dog"),
        ("", "sks"),
    ],
)
def test_the_trigger_stands_first_and_once(text: str, expected: str) -> None:
    edits = Edits(trigger="sks")
    assert edits.one(text, "id", 0) == expected
    assert edits.one(expected, "id", 0) == expected
    assert edits.used["trigger"] == (2 if text.startswith("a photo") else 0)


def test_wildcards_give_every_line_in_time_and_only_lines() -> None:
    wildcards = {"colour": ("red", "{light|dark} blue"), "nested": ("a __colour__ car",)}
    seen = {expand("__nested__", wildcards, random.Random(seed)) for seed in range(60)}
    assert seen == {"a red car", "a light blue car", "a dark blue car"}
    with pytest.raises(UserError, match="no such wildcard"):
        expand("__color__", wildcards, random.Random(0))
    with pytest.raises(UserError, match="do not end"):
        expand("__loop__", {"loop": ("x __loop__",)}, random.Random(0))
