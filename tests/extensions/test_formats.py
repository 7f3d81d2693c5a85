"""What is particular to each folder layout, and the choice between them."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.extensions.formats import _tables
from loraloom.prepare.detect import choose_format, format_options
from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save, shared_data

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
    assert items["only"].problem == "an image without a text: no input_text/ file has its name"
    assert items["lost"].problem == "a text without an image: no label_floorplan/ file has its name"


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


def test_a_text_in_a_folder_without_images_is_a_note_and_one_among_images_is_a_problem(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "dog/a.png")
    (tmp_path / "licences.txt").write_text("a note", encoding="utf-8")
    (tmp_path / "dog/b.txt").write_text("lost", encoding="utf-8")
    items = read("sidecar", tmp_path)
    assert sorted(items) == ["dog/a", "dog/b"]
    assert "without an image" in (items["dog/b"].problem or "")


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
    assert choose_format(shared_data("sjh"), "auto", OPTIONS).reason == "3 images, 3 with a .txt of the same name"


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


# ------------------------------------------------------------------------------------- tables as people save them


def csv_table(folder: Path, data: str | bytes, *images: str, name: str = "metadata.csv") -> Path:
    for image in images or ("0.png", "1.png"):
        save(drawn(1, 8, 8), folder / image)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return folder


def test_a_caption_with_a_comma_and_without_quotes_is_a_problem_that_says_to_quote_it(tmp_path: Path) -> None:
    items = read("imagefolder", csv_table(tmp_path, 'file_name,text\n0.png,a dog, on a beach\n1.png,"a cat, asleep"\n'))
    assert items["1"].caption == "a cat, asleep"
    assert items["0"].problem == (
        "metadata.csv: line 2 has 3 cells, the header has 2: put texts that hold ',' into double quotes"
    )


@pytest.mark.parametrize("line", ["0.png", "0.png\r", '"0.png"'])
def test_a_row_with_too_few_cells_is_a_problem_of_that_row(tmp_path: Path, line: str) -> None:
    items = read("imagefolder", csv_table(tmp_path, f"file_name,text\n{line}\n1.png,a cat\n"))
    assert "line 2 has 1 cell, the header has 2" in (items["0"].problem or "")
    assert items["1"].caption == "a cat"


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a column twice: got 'text'"):
        read("imagefolder", csv_table(tmp_path, "file_name,text,text\n0.png,a,b\n"))


@pytest.mark.parametrize("start", ["", "\ufeff", "sep={0}\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_usual_separator_and_line_end_is_read(tmp_path: Path, separator: str, end: str, start: str) -> None:
    rows = [f"id{separator}file_name{separator} text", f'1{separator}0.png{separator}"a{separator}b; c, d"', ""]
    rows.insert(2, separator * 2)  # a row of nothing, as Excel leaves them
    rows.insert(3, f"2{separator}1.png{separator}plain{separator}{separator}")
    items = read("imagefolder", csv_table(tmp_path, start.format(separator) + end.join(rows)))
    assert {key: item.caption for key, item in items.items()} == {"0": f"a{separator}b; c, d", "1": "plain"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "0.txt"])
def test_a_byte_order_mark_says_how_a_file_is_saved(tmp_path: Path, encoding: str, name: str) -> None:
    save(drawn(1, 8, 8), tmp_path / "0.png")
    texts = {
        "metadata.csv": "file_name;text\r\n0.png;거실 é\r\n",
        "metadata.jsonl": '{"file_name": "0.png", "text": "거실 é"}',
        "0.txt": "거실 é",
    }
    (tmp_path / name).write_bytes(texts[name].encode(encoding))
    assert read("sidecar" if name == "0.txt" else "imagefolder", tmp_path)["0"].caption == "거실 é"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("cp949", "왼쪽에 침실"), ("cp932", "左の部屋"), ("gb18030", "左边的卧室"), ("cp1252", "un café à côté")],
)
@pytest.mark.parametrize("name", ["metadata.csv", "0.txt"])
def test_another_encoding_is_suggested_and_read_when_it_is_named(
    tmp_path: Path, encoding: str, text: str, name: str
) -> None:
    save(drawn(1, 8, 8), tmp_path / "0.png")
    content = text if name == "0.txt" else f"file_name,text\n0.png,{text}\n"
    (tmp_path / name).write_bytes(content.encode(encoding))
    layout = "sidecar" if name == "0.txt" else "imagefolder"
    assert read(layout, tmp_path, encoding=encoding)["0"].caption == text
    if layout == "sidecar":
        problem = read(layout, tmp_path)["0"].problem or ""
    else:
        with pytest.raises(UserError) as error:
            read(layout, tmp_path)
        problem = str(error.value)
    assert "is not UTF-8" in problem
    assert "--encoding" in problem and ("cp949" in problem or encoding == "cp1252")


@pytest.mark.parametrize("name", ["nope", "base64", "unicode_escape", "rot13", "idna", "a\0b"])
def test_an_encoding_that_is_none_is_refused_before_any_file_is_read(name: str) -> None:
    with pytest.raises(UserError, match="encoding"):
        read_settings(PrepareConfig, values={"encoding": name})


def test_half_of_a_surrogate_pair_is_a_problem_of_its_row(tmp_path: Path) -> None:
    lines = r'{"file_name": "0.png", "text": "a \ud800 b"}' + "\n" + '{"file_name": "1.png", "text": "fine"}'
    items = read("imagefolder", csv_table(tmp_path, lines, name="metadata.jsonl"))
    problems = [item.problem for item in items.values() if item.image.name == "metadata.jsonl"]
    assert "line 1 holds half of a surrogate pair" in (problems[0] or "")
    assert items["1"].caption == "fine"


@pytest.mark.parametrize("lines", ["{broken\n{too", "[1, 2]\n[3]", '[{"file_name": "0.png", "text": "x"}]', "[" * 5000])
def test_when_no_line_parses_the_first_lines_error_is_shown(tmp_path: Path, lines: str) -> None:
    csv_table(tmp_path, lines, name="metadata.jsonl")
    with pytest.raises(UserError, match=r"no line of metadata.jsonl can be read: got .line 1 ") as error:
        read("imagefolder", tmp_path)
    assert "no column" not in str(error.value)
    if lines.startswith("["):
        assert "write one object a line" in str(error.value)


def test_line_numbers_are_right_after_rows_of_several_lines(tmp_path: Path) -> None:
    text = 'file_name,text\n\n0.png,"one\ntwo\n\nfour"\n1.png\n2.png,a,b\n'
    items = read("imagefolder", csv_table(tmp_path, text, "0.png", "1.png", "2.png"))
    assert items["0"].caption == "one\ntwo\n\nfour"
    assert "line 7 has 1 cell" in (items["1"].problem or "")
    assert "line 8 has 3 cells" in (items["2"].problem or "")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1e"])
def test_breaks_that_only_python_sees_are_part_of_a_text(tmp_path: Path, mark: str) -> None:
    text = f"before{mark}after"
    row = json.dumps({"file_name": "0.png", "text": text}, ensure_ascii=False) if mark > "\x1f" else None
    items = read("imagefolder", csv_table(tmp_path, f"file_name,text\n0.png,{text}\n1.png,x\n"))
    assert items["0"].caption == text
    if row:
        (tmp_path / "metadata.csv").unlink()
        (tmp_path / "metadata.jsonl").write_text(row, encoding="utf-8")
        assert read("imagefolder", tmp_path)["0"].caption == text


@pytest.mark.parametrize(
    ("file_name", "meant"),
    [("train/0.png", "0.png"), ("./train/0.png", "0.png"), ("0", "0.png"), ("0.jpg", "0.png"), ("1.png", "sub/1.png")],
)
def test_a_path_from_another_folder_or_with_another_suffix_is_named_as_it_should_be(
    tmp_path: Path, file_name: str, meant: str
) -> None:
    save(drawn(1, 8, 8), tmp_path / "train/0.png")
    save(drawn(1, 8, 8), tmp_path / "train/sub/1.png")
    table(tmp_path / "train", {"file_name": file_name, "text": "x"})
    problems = [item.problem or "" for item in read("imagefolder", tmp_path).values()]
    assert any(f"did you mean {meant!r}? paths are relative to the table" in problem for problem in problems)


def test_backslashes_that_name_an_existing_file_are_that_file_and_said(tmp_path: Path) -> None:
    save(drawn(1, 8, 8), tmp_path / "sub/0.png")
    table(tmp_path, {"file_name": "sub\\0.png", "text": "x"}, {"file_name": "..\\0.png", "text": "x"})
    items = read("imagefolder", tmp_path)
    assert items["sub/0"].caption == "x"
    assert items["sub/0"].notes == (r"its row has \ between folders: read as /",)
    assert [item.problem is None for item in items.values()] == [False, True]


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6))
def test_what_pythons_own_writers_save_is_read_back_exactly(texts: list[str]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerows([["file_name", "text"], *([f"{number}.png", text] for number, text in enumerate(texts))])
    rows = _tables.rows_of_csv("metadata.csv", buffer.getvalue(), "file_name")
    assert [row.values["text"] for row in rows] == texts
    lines = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    assert [row.values["text"] for row in _tables.rows_of_jsonl("metadata.jsonl", lines)] == texts


@pytest.mark.parametrize("rows", ["0.png\n1.png\n", "0.png;a dog\n1.png;a cat\n", "0.png,a dog, a cat\n", "", "\n"])
def test_a_table_of_which_no_row_has_all_cells_is_an_error_about_its_rows(tmp_path: Path, rows: str) -> None:
    """It said "no column 'text'", and the header had one: columns were taken from the rows."""
    with pytest.raises(UserError) as error:
        read("imagefolder", csv_table(tmp_path, f"file_name,text\n{rows}"))
    assert "no column" not in str(error.value)
    if not rows.strip():
        assert "has no rows below its header" in str(error.value)
    else:
        assert re.search(
            r"no row of metadata\.csv can be read: got 'line 2 has . cells?, the header has 2'", str(error.value)
        )
    if ";" in rows:
        assert "separate its cells by ',', as in the header, and not by ';'" in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        '{"file_name": "0.png", "text": "a", "text": "b"}',
        '{"file_name": "0.png", "text": "a", "file_name": "1.png"}',
        r'{"file_name": "0.png", "text": "a", "te\u0078t": "a"}',
        '{"file_name": "0.png", "text": "a", "x": {"y": 1, "y": 2}}',
    ],
)
def test_a_key_that_a_row_has_twice_is_a_problem_of_that_row(tmp_path: Path, row: str) -> None:
    """The second value was taken without a word."""
    lines = f'{row}\n{{"file_name": "2.png", "text": "fine"}}\n'
    items = list(
        plugins.load("formats", "imagefolder").read(
            csv_table(tmp_path, lines, "0.png", "2.png", name="metadata.jsonl"), OPTIONS
        )
    )
    assert [item.caption for item in items if item.problem is None] == ["fine"]
    assert any("line 1 has a duplicate key" in (item.problem or "") for item in items)
    (tmp_path / "metadata.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(UserError, match=r"no line of metadata\.jsonl can be read: got .line 1 has a duplicate key"):
        read("imagefolder", tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metadata.csv", "File_Name,Text\n0.png,a dog\n"),
        ("metadata.csv", "id;FILE_NAME;text \n1;0.png;a dog\n"),
        ("metadata.jsonl", '{"File_Name": "0.png", "TEXT": "a dog"}'),
        ("metadata.jsonl", '{"file_name": "0.png", " Text": "a dog"}'),
    ],
)
def test_columns_in_other_cases_are_read_and_said(tmp_path: Path, name: str, data: str) -> None:
    (item,) = read("imagefolder", csv_table(tmp_path, data, "0.png", name=name)).values()
    assert item.caption == "a dog"
    assert item.notes and all("its column" in note and "is read as" in note for note in item.notes)


@pytest.mark.parametrize(
    ("header", "options", "words"),
    [
        ("image,text", {}, "rename the column 'image' to 'file_name'"),
        ("filename,text", {}, "rename the column 'filename' to 'file_name'"),
        ("a,b", {}, "rename the column of the images' paths to 'file_name'"),
        ("file_name,caption", {}, "add --caption-column caption"),
        ("file_name,my texts", {"caption_column": "my text"}, '--caption-column "my texts"'),
        ("file_name,Text,TEXT", {}, "keep one of 'TEXT' and 'Text', and rename it to 'text'"),
        ("file_name,zzz", {}, "--caption-column"),
    ],
)
def test_a_missing_column_is_named_with_what_to_type(
    tmp_path: Path, header: str, options: dict[str, str], words: str
) -> None:
    row = ",".join(["0.png", *["a dog"] * header.count(",")])
    with pytest.raises(UserError) as error:
        read("imagefolder", csv_table(tmp_path, f"{header}\n{row}\n"), **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "a number"), (0.5, "a number"), (True, "true or false"), ([1], "a list"), ({}, "an object")]
)
def test_values_of_another_kind_are_named_as_their_writer_knows_them(tmp_path: Path, value: object, kind: str) -> None:
    """`{"file_name": 5}` had "no file_name", and a caption was "a int"."""
    rows = [
        {"file_name": value, "text": "x"},
        {"file_name": "0.png", "text": value},
        {"file_name": "1.png", "text": "x"},
    ]
    save(drawn(1, 8, 8), tmp_path / "0.png")
    save(drawn(1, 8, 8), tmp_path / "1.png")
    problems = " | ".join(item.problem or "" for item in read("imagefolder", table(tmp_path, *rows)).values())
    assert f"line 1: its 'file_name' is {kind}, not a text" in problems
    assert f"line 2: its 'text' is {kind}, not a text" in problems


def test_the_reason_names_the_whole_ending_of_the_texts(tmp_path: Path) -> None:
    """`a.jpg.txt` was said to have the name of `a.jpg`."""
    for number, text in enumerate(["0.jpg.txt", "1.txt", "2_tags.txt"]):
        save(drawn(1, 8, 8), tmp_path / f"{number}.jpg")
        (tmp_path / text).write_text("a dog", encoding="utf-8")
    options = format_options(PrepareConfig(caption_suffix=("_tags.txt",)))
    reason = choose_format(tmp_path, "auto", options).reason
    assert reason == "3 images, 3 with a text: .jpg.txt, .txt or _tags.txt after the image's name"
    (tmp_path / "0.jpg.txt").unlink()
    (tmp_path / "2_tags.txt").unlink()
    assert choose_format(tmp_path, "auto", options).reason == "3 images, 1 with a .txt of the same name"
