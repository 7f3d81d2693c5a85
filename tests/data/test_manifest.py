"""A dataset on disk: written, read, and doubted."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from loraloom.data.manifest import (
    INFO_FILE,
    JOURNAL_FILE,
    MANIFEST_FILE,
    SPLIT_FILE,
    Manifest,
    domain_of,
    make_manifest,
    read_manifest,
    write_manifest,
)
from loraloom.data.rows import ExampleRows
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save


def example(item_id: str, **changes: object) -> Example:
    first = Example(
        id=item_id, image=f"images/{item_id}.png", caption=f"a {item_id}\nof two lines", caption_found=None,
        split="train", width=16, height=16, sha256="0" * 64, source_sha256="1" * 64, source_width=20, source_height=20,
        crop=(0, 0, 20, 20), scale=0.8, num_tokens=None,
    )  # fmt: skip
    return replace(first, **changes)


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    for item_id in ("b", "a/왼쪽"):
        save(drawn(1, 16, 16), tmp_path / f"images/{item_id}.png")
    info = {"domain": "freetext", "settings": {"trigger": "sks"}, "trigger": "sks"}
    manifest = make_manifest(tmp_path, [example("b", split="validation"), example("a/왼쪽")], info)
    write_manifest(manifest)
    return manifest


def test_what_is_written_is_read_back_sorted_with_its_fingerprint(dataset: Manifest) -> None:
    back = read_manifest(dataset.folder)
    assert back.examples == dataset.examples
    assert [row.id for row in back.examples] == ["a/왼쪽", "b"]
    assert back.fingerprint == dataset.fingerprint
    assert back.info["trigger"] == "sks"
    assert json.loads((dataset.folder / SPLIT_FILE).read_text(encoding="utf-8")) == {"validation": ["b"]}
    assert [row.id for row in back.split("validation")] == ["b"]
    assert back.path(back.examples[0]).is_file()


def test_an_edited_caption_is_taken_and_changes_the_fingerprint(dataset: Manifest) -> None:
    file = dataset.folder / MANIFEST_FILE
    file.write_text(file.read_text(encoding="utf-8").replace("a b", "an edited b"), encoding="utf-8")
    back = read_manifest(dataset.folder)
    assert back.examples[1].caption.startswith("an edited b")
    assert back.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../secret.png"}, "leads out of the folder"),
        ({"image": "/etc/passwd"}, "absolute"),
        ({"image": "C:/secret.png"}, "absolute"),
        ({"image": "images\\b.png"}, "backslash"),
        ({"width": "16"}, "width: got '16', expected integer"),
        ({"width": 0}, "must be positive"),
        ({"scale": float("nan")}, "NaN is not a JSON number"),
        ({"scale": 0}, "must be positive"),
        ({"scale": 10**300}, "out of range"),
        ({"width": 10**9}, "sides of at most 65,536 px"),
        ({"width": 10_000, "height": 10_000}, "at most 67,108,864 px in all"),
        ({"source_width": 10**9}, "source_width"),
        ({"width": True}, "expected integer"),
        ({"crop": [0, 0, 1, 10**300]}, "crop"),
        ({"caption": "half a pair \ud800"}, "half of a surrogate pair"),
        ({"num_tokens": -1}, "expected a count or null"),
        ({"image": "images/" + "x" * 300 + ".png"}, "lacks images"),
        ({"split": "test"}, "expected 'train' or 'validation'"),
        ({"crop": [0, 0, 1]}, "crop has too few values"),
        ({"caption": None}, "caption"),
        ({"captoin": "x"}, "did you mean 'caption'"),
        ({"id": "b"}, "repeats an id"),
        ({"image": "images/gone.png"}, "lacks images"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line_and_what_is_wrong(
    dataset: Manifest, change: dict[str, object], message: str
) -> None:
    file = dataset.folder / MANIFEST_FILE
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), **change})
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_manifest(dataset.folder)
    assert message in str(error.value)


@pytest.mark.parametrize("line", ["{", "[]", "[" * 100_000, '{"id": "x"}'])
def test_a_line_that_is_no_row_is_a_user_error(dataset: Manifest, line: str) -> None:
    (dataset.folder / MANIFEST_FILE).write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        read_manifest(dataset.folder)


def test_a_folder_that_is_missing_unfinished_or_raw_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such dataset"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a prepared dataset"):
        read_manifest(tmp_path)
    (tmp_path / JOURNAL_FILE).touch()
    with pytest.raises(UserError, match="not finished"):
        read_manifest(tmp_path)


def test_a_dataset_without_its_information_is_read_with_a_note(dataset: Manifest) -> None:
    """Domain and trigger were lost without a word: the adapter said freetext and no trigger."""
    assert not read_manifest(dataset.folder).notes
    (dataset.folder / INFO_FILE).unlink()
    back = read_manifest(dataset.folder)
    assert back.examples == dataset.examples
    (note,) = back.notes
    assert note.startswith("warning: the dataset has no dataset.json: its domain is unknown")
    assert domain_of(dataset.folder) == "freetext"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no 'settings'"),
        ('{"train": 5}', "has no 'settings'"),
        ('{"domain": "freetext"}', "has no 'settings'"),
        ('{"settings": {"trigger": ""}}', "has no 'domain'"),
        ('{"domain": "freetext", "settings": {}}', "has no 'settings.trigger'"),
        ('{"domain": "freetext", "settings": 5}', "settings: got 5, expected an object"),
        ('{"domain": null, "settings": {"trigger": ""}}', "domain: got None, expected a name"),
        ('{"domain": "a", "domain": "b", "settings": {"trigger": ""}}', "duplicate key: got 'domain'"),
        ('{"domain": "a", "settings": {"trigger": "x"}, "trigger": "y"}', "names two trigger words"),
        ("[]", "not a JSON object"),
        ("", "is not JSON"),
    ],
)
def test_information_that_prepare_did_not_write_is_an_error(dataset: Manifest, text: str, message: str) -> None:
    (dataset.folder / INFO_FILE).write_text(text, encoding="utf-8")
    for read in (read_manifest, domain_of):
        with pytest.raises(UserError) as error:
            read(dataset.folder)
        assert message in str(error.value)


def test_a_key_that_a_row_has_twice_is_refused(dataset: Manifest) -> None:
    file = dataset.folder / MANIFEST_FILE
    file.write_text(
        file.read_text(encoding="utf-8").replace('"split": "train"', '"split": "train", "split": "train"'), "utf-8"
    )
    with pytest.raises(UserError, match="line 1 has a duplicate key: got 'split'"):
        read_manifest(dataset.folder)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Seven rows, of which three may stay in memory."""
    save(drawn(1, 16, 16), tmp_path / "images/a.png")
    rows = [
        example(f"{number:02d} 왼쪽", image="images/a.png", split="validation" if number % 3 == 0 else "train")
        for number in range(7)
    ]
    rows[4] = replace(rows[4], more_captions=("another", "third"), num_tokens=5)
    manifest = make_manifest(tmp_path, rows, {"domain": "freetext", "settings": {"trigger": ""}})
    write_manifest(manifest)
    monkeypatch.setattr("loraloom.data.manifest.MAX_IN_MEMORY", 3)
    return manifest


def test_rows_of_a_large_manifest_stay_on_disk_and_are_the_same(large: Manifest) -> None:
    back = read_manifest(large.folder)
    assert isinstance(back.examples, ExampleRows)
    assert list(back.examples) == list(large.examples)
    assert back.fingerprint == large.fingerprint
    for name in ("train", "validation"):
        assert list(back.split(name)) == list(large.split(name))
    assert list(back.examples[2:5]) == list(large.examples[2:5])
    assert back.examples[-1] == large.examples[-1]
    assert list(pickle.loads(pickle.dumps(back.examples))) == list(large.examples)
    with pytest.raises(IndexError):
        back.examples[7]


def test_a_large_manifest_with_a_byte_order_mark_and_blank_lines_is_read_alike(large: Manifest) -> None:
    file = large.folder / MANIFEST_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    assert list(read_manifest(large.folder).examples) == list(large.examples)


def test_a_large_manifest_that_changes_while_it_is_used_is_an_error_and_no_wrong_row(large: Manifest) -> None:
    back = read_manifest(large.folder)
    file = large.folder / MANIFEST_FILE
    assert back.examples[0].id.startswith("00")
    with file.open("r+b") as opened:
        opened.write(b"{")
        opened.truncate(200)
    with pytest.raises(UserError, match="changed while it was in use"):
        back.examples[1]


@pytest.mark.parametrize(
    ("order", "match"),
    [((0, 1, 2, 3, 3, 5), "line 5 repeats an id"), ((0, 1, 1, 2, 3), "line 3 repeats an id"), ((0, 1, 2, 4, 3), "not sorted"),
     ((1, 0, 2, 3, 4), "not sorted")],
)  # fmt: skip
def test_a_large_manifest_with_an_id_twice_or_out_of_order_is_refused(
    order: tuple[int, ...], match: str, large: Manifest
) -> None:
    file = large.folder / MANIFEST_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(UserError, match=match):
        read_manifest(large.folder)
