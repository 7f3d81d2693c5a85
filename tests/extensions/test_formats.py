"""What is particular to each folder layout, and the choice between them."""

import json
import sys
from pathlib import Path

import pytest

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.contracts import SourceItem
from loraloom.data.inspect import choose_format, format_options
from loraloom.errors import UserError
from tests.support.pictures import drawn, save, shared_data

OPTIONS = format_options(PrepareConfig())


def read(name: str, folder: Path, **changes: str) -> dict[str, SourceItem]:
    return {item.id: item for item in plugins.load("formats", name).read(folder, {**OPTIONS, **changes})}


def table(folder: Path, *rows: object, name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return folder


def test_half_pairs_are_reported_from_both_sides(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "label_floorplan/0.png")
    save(drawn(2, 8, 8), tmp_path / "label_floorplan/only.png")
    (tmp_path / "input_text").mkdir()
    (tmp_path / "input_text/0.txt").write_text("zero", encoding="utf-8")
    (tmp_path / "input_text/lost.txt").write_text("lost", encoding="utf-8")
    items = read("paired_folders", tmp_path)
    assert items["0"].problem is None
    assert items["only"].problem == "a picture without a text: no input_text/ file has its name"
    assert items["lost"].problem == "a text without a picture: no label_floorplan/ file has its name"


def test_paired_folders_may_have_other_names_and_lie_deeper(tmp_path: Path) -> None:
    for part in ("train", "test"):
        save(drawn(1, 8, 8), tmp_path / part / "img/x/0.png")
        (tmp_path / part / "txt/x").mkdir(parents=True)
        (tmp_path / part / "txt/x/0.txt").write_text(part, encoding="utf-8")
    items = read("paired_folders", tmp_path, text_folder="txt", image_folder="img")
    assert {key: item.caption for key, item in items.items()} == {"train/x/0": "train", "test/x/0": "test"}
    with pytest.raises(UserError, match="input_text/ with 0 texts"):
        read("paired_folders", tmp_path)


def test_a_byte_order_mark_is_not_part_of_a_caption_and_line_ends_are(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "a.png").with_suffix(".txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read("sidecar", tmp_path)["a"].caption == "one\r\ntwo\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [("왼쪽".encode("cp949"), "not UTF-8"), (b"a\0b", "NUL"), (b"x" * (1 << 20) + b"x", "larger than 1 MiB")],
)
def test_a_text_that_cannot_be_trusted_is_a_problem_that_names_it(tmp_path: Path, data: bytes, reason: str) -> None:
    save(drawn(1, 8, 8), tmp_path / "a.png").with_suffix(".txt").write_bytes(data)
    problem = read("sidecar", tmp_path)["a"].problem or ""
    assert reason in problem
    assert "a.txt" in problem


def test_a_text_in_a_folder_without_pictures_is_a_note_and_one_among_pictures_is_a_problem(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "dog/a.png")
    (tmp_path / "licences.txt").write_text("a note", encoding="utf-8")
    (tmp_path / "dog/b.txt").write_text("lost", encoding="utf-8")
    items = read("sidecar", tmp_path)
    assert sorted(items) == ["dog/a", "dog/b"]
    assert "without a picture" in (items["dog/b"].problem or "")


@pytest.mark.parametrize(
    "name", ["../up.png", "/etc/a.png", "C:\\a.png", "C:a.png", "x\\a.png", "a/../../up.png", "\0", ""]
)
def test_a_row_may_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    save(drawn(1, 8, 8), tmp_path / "up.png")
    folder = table(tmp_path / "in", {"file_name": name, "text": "x"})
    (item,) = read("imagefolder", folder).values()
    assert item.problem is not None
    assert item.image.name == "metadata.jsonl"


def test_rows_and_files_that_do_not_meet_are_problems_and_not_crashes(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "good.png")
    save(drawn(1, 8, 8), tmp_path / "unnamed.png")
    save(drawn(1, 8, 8), tmp_path / "listed.png")
    table(
        tmp_path,
        {"file_name": "good.png", "text": "fine", "additional": [1]},
        {"file_name": "gone.png", "text": "x"},
        "{broken",
        "[1]",
        {"text": "no name"},
        {"file_name": "listed.png", "text": ["a"]},
        {"file_name": "good.png", "text": "again"},
    )
    items = list(plugins.load("formats", "imagefolder").read(tmp_path, OPTIONS))
    assert [item.caption for item in items if item.problem is None] == ["fine"]
    problems = " | ".join(item.problem or "" for item in items)
    for reason in (
        "no file 'gone.png'",
        "line 3 is not JSON",
        "line 4 is not",
        "no file_name",
        "is a list",
        "second time",
    ):
        assert reason in problems
    assert "no row of a metadata file names it" in problems


def test_metadata_csv_in_sub_folders_is_read_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "one/pics/a.png")
    table(tmp_path / "one", "\ufefffile_name,caption", 'pics/a.png,"two\nlines, ""quoted"""', name="metadata.csv")
    items = read("imagefolder", tmp_path, caption_column="caption")
    assert items["one/pics/a"].caption == 'two\nlines, "quoted"'


def test_a_missing_caption_column_lists_the_columns_and_the_nearest(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "a.png")
    table(tmp_path, {"file_name": "a.png", "texts": "x", "id": 1})
    with pytest.raises(UserError) as error:
        read("imagefolder", tmp_path)
    assert "columns file_name, id, texts" in str(error.value)
    assert "did you mean 'texts'" in str(error.value)


def test_a_null_caption_is_left_to_the_captioner(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "a.png")
    save(drawn(1, 8, 8), tmp_path / "b.png")
    items = read(
        "imagefolder", table(tmp_path, {"file_name": "a.png", "text": None}, {"file_name": "b.png", "text": "b"})
    )
    assert (items["a"].caption, items["a"].problem) == (None, None)


def test_auto_prefers_a_metadata_file_and_then_paired_folders(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "label_floorplan/0.png", "beside")
    assert choose_format(tmp_path, "auto", OPTIONS).format.name == "sidecar"
    (tmp_path / "input_text").mkdir()
    (tmp_path / "input_text/0.txt").write_text("paired", encoding="utf-8")
    assert choose_format(tmp_path, "auto", OPTIONS).format.name == "paired_folders"
    table(tmp_path, {"file_name": "label_floorplan/0.png", "text": "listed"})
    assert choose_format(tmp_path, "auto", OPTIONS).format.name == "imagefolder"


def test_the_reason_counts_what_was_seen() -> None:
    assert choose_format(shared_data("sjh"), "auto", OPTIONS).reason == "3 pictures, 3 with a .txt of the same name"


def test_an_unknown_layout_says_what_was_seen_and_what_each_format_expects(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/a.pdf").touch()
    with pytest.raises(UserError) as error:
        choose_format(tmp_path, "auto", OPTIONS)
    for words in ("1 .pdf; folders plans", *plugins.names("formats"), "metadata.jsonl", "input_text/0.txt", "dog.jpg"):
        assert words in str(error.value)
    with pytest.raises(UserError, match="did you mean 'sidecar'"):
        choose_format(tmp_path, "sidecars", OPTIONS)
    with pytest.raises(UserError, match="not a folder"):
        choose_format(tmp_path / "plans/a.pdf", "auto", OPTIONS)


@pytest.mark.skipif(sys.platform != "linux", reason="only here may a file name be any bytes")
def test_a_file_name_that_is_not_unicode_is_a_problem_that_can_be_printed(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "a.png")
    Path(str(tmp_path).encode().decode() + "/\udcff.png").write_bytes((tmp_path / "a.png").read_bytes())
    problems = [item for item in read("sidecar", tmp_path).values() if item.problem]
    assert "not valid Unicode" in (problems[0].problem or "")
    problems[0].id.encode("utf-8")
