"""Nothing that lies in a source folder is lost without a counted line; `strict` turns each such line into an error."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.doubtful import doubt_about
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.utils.errors import UserError
from loraloom.utils.listing import find_masks, near_table_name, walk
from tests.support.images import drawn, encoded, save


def run(source: Path, out: Path, said: list[str] | None = None, **changes: object) -> PrepareReport:
    values = {"size": 64, "bucket_step": 16, "min_size": 16, "num_workers": 1, "validation_share": 0.0}
    values |= {"caption_template": "a photo of sks", **changes}
    return prepare(source, out, PrepareConfig(**values), console=(said if said is not None else []).append)


def captions(report: PrepareReport) -> dict[str, str]:
    return {example.id: example.caption for example in report.manifest.examples}


def image(path: Path, seed: int = 0) -> Path:
    return save(drawn(seed, 48, 48), path)


# ------------------------------------------------------------------------------------ 1. images without a caption


def test_images_without_a_caption_are_counted_aloud_and_an_error_under_strict(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number in range(5):
        image(source / f"{number}.png", number)
    for number in range(2):
        (source / f"{number}.txt").write_text("a dog", encoding="utf-8")
    said: list[str] = []
    report = run(source, tmp_path / "out", said)
    line = "3 of 5 images have no caption; they get 'a photo of sks'"
    assert f"  {line}" in said
    assert line in report.page.read_text(encoding="utf-8").replace("&#39;", "'")
    assert report.num_without_caption == 3
    with pytest.raises(UserError, match="3 of 5 images have no caption, and --strict is on"):
        run(source, tmp_path / "strict", strict=True)
    for number in range(2, 5):
        (source / f"{number}.txt").write_text("a cat", encoding="utf-8")
    assert run(source, tmp_path / "strict", strict=True).num_without_caption == 0


@pytest.mark.parametrize("name", ["a.caption", "a.jpg.txt", "a.jpg.caption", "A.TXT", "a.TXT", "a.Caption"])
def test_a_caption_beside_an_image_is_read_by_each_of_its_usual_names(tmp_path: Path, name: str) -> None:
    source = tmp_path / "raw"
    image(source / "a.jpg")
    (source / name).write_text("a red vase", encoding="utf-8")
    report = run(source, tmp_path / "out")
    assert captions(report) == {"a": "a red vase"}
    assert not report.problems


@pytest.mark.parametrize("suffix", [(".tags",), ("tags",), ("*.tags",), ("x,.tags",), ("_tags.tags", ".tags")])
def test_captions_with_another_suffix_are_read_when_it_is_named(tmp_path: Path, suffix: tuple[str, ...]) -> None:
    source = tmp_path / "raw"
    image(source / "a.jpg")
    (source / "a.tags").write_text("vase, red", encoding="utf-8")
    assert captions(run(source, tmp_path / "out", caption_suffix=suffix)) == {"a": "vase, red"}
    with pytest.raises(UserError, match=r"add --caption-suffix \.tags"):
        run(source, tmp_path / "without")


def test_of_two_captions_of_one_image_the_named_suffix_wins_and_the_other_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.jpg")
    (source / "a.txt").write_text("from txt", encoding="utf-8")
    (source / "a.caption").write_text("from caption", encoding="utf-8")
    report = run(source, tmp_path / "out")
    assert captions(report) == {"a": "from txt"}
    assert [(one.file, one.reason) for one in report.problems] == [
        ("a.caption", "a second text of a.jpg: a.txt is read")
    ]
    report = run(source, tmp_path / "other", caption_suffix=("caption",))
    assert captions(report) == {"a": "from caption"}
    assert [one.file for one in report.problems] == ["a.txt"]


@pytest.mark.parametrize("layout", ["sidecar", "paired_folders", "imagefolder"])
@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_match_in_every_unicode_form(tmp_path: Path, layout: str, forms: tuple[str, str]) -> None:
    source = tmp_path / "raw"
    source_image, text = (unicodedata.normalize(form, "강아지 é") for form in forms)
    folders = {"sidecar": ("", ""), "paired_folders": ("label_floorplan/", "input_text/"), "imagefolder": ("", "")}
    image(source / f"{folders[layout][0]}{source_image}.png")
    if layout == "imagefolder":
        row = json.dumps({"file_name": f"{text}.png", "text": "a puppy"})
        (source / "metadata.jsonl").write_text(row, encoding="utf-8")
    else:
        file = source / f"{folders[layout][1]}{text}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("a puppy", encoding="utf-8")
    report = run(source, tmp_path / "out", strict=True)
    assert list(captions(report).values()) == ["a puppy"]


@pytest.mark.parametrize("layout", ["sidecar", "paired_folders", "imagefolder"])
def test_a_name_that_differs_in_case_is_found_and_said(tmp_path: Path, layout: str) -> None:
    source, said = tmp_path / "raw", list[str]()
    image(source / ("label_floorplan/DSC.png" if layout == "paired_folders" else "DSC.png"))
    if layout == "imagefolder":
        (source / "metadata.csv").write_text("file_name,text\ndsc.PNG,a puppy\n", encoding="utf-8")
    else:
        file = source / ("input_text/dsc.txt" if layout == "paired_folders" else "dsc.txt")
        file.parent.mkdir(exist_ok=True)
        file.write_text("a puppy", encoding="utf-8")
    assert list(captions(run(source, tmp_path / "out", said)).values()) == ["a puppy"]
    assert any("1 image is used, but look at it" in line and "upper and lower case" in line for line in said)
    with pytest.raises(UserError, match="--strict is on"):
        run(source, tmp_path / "strict", strict=True)


def test_two_texts_that_differ_in_case_only_are_not_guessed_between(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "dOg.png")
    image(source / "cat.png", 1).with_suffix(".txt").write_text("a cat", encoding="utf-8")
    for name in ("dog.txt", "DOG.txt"):
        (source / name).write_text(name, encoding="utf-8")
    if len(list(source.iterdir())) < 5:
        pytest.skip("this disk holds names that differ in case as one")
    report = run(source, tmp_path / "out")
    assert captions(report) == {"cat": "a cat", "dOg": "a photo of sks"}
    assert {one.file for one in report.problems} == {"dog.txt", "DOG.txt"}


NEAR_TABLES = (
    "metadata.json metadata.json1 metadata.jsnl metadata.jason meta.jsonl metadata.cvs metadata.tsv metadata.xlsx "
    "metadata.parquet metadata.jsonl.txt metadta.jsonl captions.json captions.csv train.jsonl"
)


@pytest.mark.parametrize("name", NEAR_TABLES.split())
def test_a_table_whose_name_is_nearly_right_is_an_error_that_names_the_right_one(tmp_path: Path, name: str) -> None:
    source = tmp_path / "raw"
    for number in range(2):
        image(source / f"{number}.png", number)
    (source / name).write_text('{"file_name": "0.png", "text": "a dog"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}.*did you mean metadata\.(jsonl|csv)\?") as error:
        run(source, tmp_path / "out")
    assert "none of 2 images has a caption" in str(error.value)
    (source / "0.txt").write_text("a dog", encoding="utf-8")
    said: list[str] = []
    run(source, tmp_path / "out", said)  # with one caption it is a line, not an error
    assert any(name in line and "did you mean metadata." in line for line in said), said


def test_a_table_with_its_name_in_capitals_is_read(tmp_path: Path) -> None:
    image(tmp_path / "raw/a.png")
    (tmp_path / "raw/METADATA.JSONL").write_text('{"file_name": "a.png", "text": "a dog"}', encoding="utf-8")
    assert captions(run(tmp_path / "raw", tmp_path / "out", strict=True)) == {"a": "a dog"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": None}, "null"),
        ({"text": float("nan")}, "null"),
        ({"caption": "a cat"}, "has no 'text'"),
        ({}, "has no 'text'"),
        ({"text": "  "}, "empty"),
    ],
)
def test_a_row_without_its_caption_is_counted_with_its_reason(
    tmp_path: Path, row: dict[str, object], words: str
) -> None:
    source, said = tmp_path / "raw", list[str]()
    image(source / "a.png"), image(source / "b.png", 1)
    rows = [{"file_name": "a.png", "text": "a dog"}, {"file_name": "b.png", **row}]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = run(source, tmp_path / "out", said)
    assert captions(report) == {"a": "a dog", "b": "a photo of sks"}
    assert "  1 of 2 images has no caption; it gets 'a photo of sks'" in said
    assert any(note.file == "b.png" and words in note.reason for note in report.notes)
    with pytest.raises(UserError, match="1 of 2 images has no caption"):
        run(source, tmp_path / "strict", strict=True)


def test_a_table_without_one_caption_is_an_error_and_so_are_texts_in_a_folder_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": null}', encoding="utf-8")
    with pytest.raises(UserError, match="--caption-column"):
        run(source, tmp_path / "out")
    (source / "metadata.jsonl").unlink()
    (source / "captions").mkdir()
    (source / "captions/a.txt").write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError, match=r"captions/a\.txt"):
        run(source, tmp_path / "out")


def test_photographs_beside_a_licence_need_no_captions(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png")
    (source / "LICENSE.txt").write_text("free", encoding="utf-8")
    report = run(source, tmp_path / "out")
    assert captions(report) == {"a": "a photo of sks"}
    assert [one.file for one in report.problems] == ["LICENSE.txt"]


# ----------------------------------------------------------------------------- 2. files that are mentioned nowhere

SUFFIX_WORDS = (
    ".jpe .jfif .cr2 .nef .dng .mp4 .mov .zip .pdf .json .yaml .xml .md .html .npz .safetensors .psd .svg .jxl .tga .ico "
    ".exr .py .log .csv2 .tmp .part .bak .PNG .webp .heic .gif .bmp .avif .ppm .eps .txt .caption .tags"
)
SUFFIXES = [*SUFFIX_WORDS.split(), "", ".", ".x y"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(SUFFIXES), st.sampled_from(["", "sub/", ".hid/", "mask/"])), max_size=6),
    st.integers(),
)
def test_every_file_of_a_folder_is_an_example_or_a_row_or_counted(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str]], seed: int
) -> None:
    source = tmp_path_factory.mktemp("raw")
    image(source / "one.png").with_suffix(".txt").write_text("one", encoding="utf-8")
    for number, (suffix, folder) in enumerate(files):
        file = source / f"{folder}f{number}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"some text" if (seed + number) % 2 else encoded(drawn(number, 48, 48), "PNG"))
    report = run(source, tmp_path_factory.mktemp("work") / "out")
    used = {example.id for example in report.manifest.examples}
    rows = {problem.file for problem in report.problems}
    rows_of_folders = tuple(row for row in rows if row.endswith("/"))
    for path in source.rglob("*"):
        name = path.relative_to(source).as_posix()
        stem = name.removesuffix(path.suffix) if path.suffix else name
        assert path.is_dir() or stem in used or name in rows or name.startswith(rows_of_folders or ("?",)), name


def test_files_that_nothing_names_are_one_line_by_suffix_and_a_row_each(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    image(source / "a.png").with_suffix(".txt").write_text("a", encoding="utf-8")
    for name in ("one.mp4", "two.mp4", "IMG.cr2", "nosuffix", "notes.docx"):
        (source / name).write_bytes(b"II*\0\x10\0\0\0CR" if name == "IMG.cr2" else b"bytes")
    (source / ".DS_Store").write_bytes(b"x")
    (source / "Thumbs.db").write_bytes(b"x")
    report = run(source, tmp_path / "out", said)
    rows = {problem.file: problem.reason for problem in report.problems}
    assert set(rows) == {"one.mp4", "two.mp4", "IMG.cr2", "nosuffix", "notes.docx"}
    assert "video" in rows["one.mp4"]
    assert "raw file" in rows["IMG.cr2"]
    assert "  not read: 2 .mp4, 1 .docx, 1 without suffix" in said
    assert "  passed over: 2 x a file of the system or of a tool" in said
    page = report.page.read_text(encoding="utf-8")
    assert "nosuffix" in page and "passed over: 2" in page
    with pytest.raises(UserError, match="5 files cannot be used"):
        run(source, tmp_path / "strict", strict=True)


def test_images_with_unusual_missing_or_wrong_suffixes_are_used(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    kinds = {"a.jpe": "JPEG", "b.jfif": "JPEG", "c": "PNG", "d.dat": "WEBP", "e.0": "GIF", "f.unknown": "TIFF",
             "g.x": "BMP", "h.dib": "BMP", "i.jif": "JPEG", "j.apng": "PNG", "k.bin": "AVIF"}  # fmt: skip
    source.mkdir()
    for number, (name, kind) in enumerate(kinds.items()):
        (source / name).write_bytes(encoded(drawn(number, 48, 48), kind))
        (source / f"{name}.txt").write_text(f"caption of {name}", encoding="utf-8")
    report = run(source, tmp_path / "out", strict=True)
    assert sorted(captions(report).values()) == [f"caption of {name}" for name in kinds]


def test_masks_are_not_learned_as_images_and_said_so(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    names = "a.png a-masklabel.png b.jpg b_mask.png masks/b.png sub/c.png sub/mask/c.png img/d.png mask/d.png"
    for number, name in enumerate(names.split()):
        image(source / name, number)
    for name in ("party_mask.png", "carnival/masks/venice.png"):  # images of masks
        image(source / name, 50 + len(name))
    report = run(source, tmp_path / "out", said)
    masks = {"a-masklabel.png", "b_mask.png", "masks/b.png", "sub/mask/c.png", "mask/d.png"}
    assert find_masks(walk(source)) == masks
    assert {problem.file for problem in report.problems} == masks
    assert set(captions(report)) == {"a", "b", "sub/c", "img/d", "party_mask", "carnival/masks/venice"}
    assert any("5 files" in line and "a mask of another image" in line for line in said)


def test_a_folder_that_is_a_link_and_hidden_files_are_rows(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png")
    image(source / ".b.png", 1)
    image(source / ".hidden/c.png", 2)
    image(tmp_path / "other/d.png", 3)
    expected = {".b.png", ".hidden/"}
    try:
        (source / "linked").symlink_to(tmp_path / "other", target_is_directory=True)
        expected.add("linked/")
    except OSError:
        pass  # Windows without the privilege
    report = run(source, tmp_path / "out")
    assert {problem.file for problem in report.problems} == expected
    assert set(captions(report)) == {"a"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "x/METADATA.CSV", "splits.json", "a.png", "notes.txt", "a.json"])
def test_a_right_or_a_foreign_name_is_not_taken_for_a_misspelled_table(name: str) -> None:
    assert near_table_name(name) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_a_row_and_is_never_opened(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png").with_suffix(".txt").write_text("a", encoding="utf-8")
    names = ["a.caption", "a.foo", "b.png", "c", "metadata.json", "metadata.jsonl"]
    for name in names:
        os.mkfifo(source / name)
    report = run(source, tmp_path / "out")
    assert {problem.file for problem in report.problems} == set(names)
    assert captions(report) == {"a": "a"}


def test_a_table_that_another_layout_passes_over_is_an_error_when_no_image_has_a_caption(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a dog"}', encoding="utf-8")
    with pytest.raises(UserError, match="--format imagefolder"):
        run(source, tmp_path / "out", format="sidecar")


def test_a_text_beside_an_image_that_a_table_names_is_a_row(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    image(source / "a.png").with_suffix(".txt").write_text("from the text", encoding="utf-8")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from the table"}', encoding="utf-8")
    (source / "metadata.csv").write_text("file_name,text\na.png,from the other\n", encoding="utf-8")
    report = run(source, tmp_path / "out")
    assert captions(report) == {"a": "from the table"}
    assert [(row.file, row.reason) for row in report.problems] == [
        (
            "a.txt",
            "not read: it looks like a caption; --format sidecar reads texts beside images, imagefolder does not",
        ),
        ("metadata.csv", "a second table: metadata.jsonl is read"),
    ]


def test_a_folder_that_cannot_be_read_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.walk` passes over it without a word. Played, because root may read everything."""
    source = tmp_path / "raw"
    image(source / "a.png").with_suffix(".txt").write_text("a", encoding="utf-8")
    image(source / "locked/b.png", 1)
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = run(source, tmp_path / "out")
    assert [(row.file, row.reason) for row in report.problems] == [
        ("locked/", "a folder that cannot be read: Permission denied")
    ]


def test_ids_of_a_split_that_are_of_no_image_are_counted(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    for number in range(3):
        image(source / f"{number}.png", number).with_suffix(".txt").write_text("x", encoding="utf-8")
    split = {"train": ["0"], "validation": ["1", "2.png"]}
    (source / "splits.json").write_text(json.dumps(split), encoding="utf-8")
    report = run(source, tmp_path / "out", said, validation_share=0.1)
    line = "1 of 2 ids that splits.json holds out are of no image that is used: '2.png'"
    assert f"  {line}" in said
    assert [example.id for example in report.manifest.split("validation")] == ["1"]
    with pytest.raises(UserError, match="1 of 2 ids"):
        run(source, tmp_path / "strict", validation_share=0.1, strict=True)
    (source / "splits.json").write_text('{"train": [], "validation": ["0"], "validation": ["1"]}', encoding="utf-8")
    with pytest.raises(UserError, match="has a duplicate key: got 'validation'"):
        run(source, tmp_path / "twice")


@pytest.mark.parametrize("suffix", ["json", ".JSONL", "_caption.csv", ".png", "a/b", "*", "\\x"])
def test_a_caption_suffix_that_no_text_has_is_refused(tmp_path: Path, suffix: str) -> None:
    image(tmp_path / "raw/a.png")
    with pytest.raises(UserError, match="caption_suffix"):
        read_settings(PrepareConfig, values={"caption_suffix": suffix})


# ------------------------------------------------------------------------------- 3. captions that are none by their look


DOUBTFUL = [
    (r"{\rtf1\ansi\deff0 a dog}", "looks like RTF, not text"),
    ("<!DOCTYPE html>\n<html><body>a dog</body></html>", "looks like HTML, not text"),
    ("\ufeff <HTML>a dog</HTML>", "looks like HTML, not text"),
    ("<?xml version='1.0'?><a>dog</a>", "looks like XML, not text"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5", "looks like a pointer of Git LFS, not text"),
    ("0 0.5 0.25 0.1 0.2\n3 0.1 .5 0.5 1.0\n", "looks like boxes of a detector, not text"),
    ("a d\ufffdg", "has U+FFFD where letters were lost"),
    ("a\x01b\x02c\x03", "looks like a binary file, not text"),
    *((text, "is what programs write for an empty cell") for text in ("NaN", "None", "null", " nan\n", "#N/A", "<NA>")),
]


@pytest.mark.parametrize(("text", "kind"), DOUBTFUL)
@pytest.mark.parametrize("layout", ["sidecar", "imagefolder"])
def test_a_caption_that_is_none_by_its_look_is_counted_and_an_error_under_strict(
    tmp_path: Path, layout: str, text: str, kind: str
) -> None:
    """The model learned `{\\rtf1` and `NaN` without a word."""
    source, said = tmp_path / "raw", list[str]()
    rows: list[str] = []
    for number in range(3):
        image(source / f"{number}.png", number)
        caption = text if number else "a dog, none left <here>"
        rows.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
        if layout == "sidecar":
            (source / f"{number}.txt").write_text(caption, encoding="utf-8")
    if layout == "imagefolder":
        (source / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = run(source, tmp_path / "out", said)
    assert f"  2 images are used, but look at them: 2 x its caption {kind}" in said
    assert {note.file for note in report.notes} == {"1.png", "2.png"}
    with pytest.raises(UserError, match="2 images are used, but look at them, and --strict is on"):
        run(source, tmp_path / "strict", strict=True)


@settings(max_examples=200)
@given(st.text(st.characters(categories=["L", "N", "P", "Z"], exclude_characters="<{%#\ufeff"), max_size=30))
def test_ordinary_texts_are_not_doubted(text: str) -> None:
    assert doubt_about(f"a {text}") is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"%PDF-1.7\n%\xe2\xe3", "a PDF"), (b"PK\x03\x04\x14\0", "an Office file"), (b"\x89PNG\r\n\x1a\n\0", "an image")],
)
@pytest.mark.parametrize("name", ["a.txt", "metadata.csv"])
def test_a_file_of_another_program_with_the_name_of_a_text_is_named(
    tmp_path: Path, name: str, data: bytes, kind: str
) -> None:
    source = tmp_path / "raw"
    image(source / "a.png")
    (source / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        run(source, tmp_path / "out")
    assert f"{name} is {kind}" in str(error.value)
    assert "plain text" in str(error.value)


def test_every_image_that_gets_the_template_is_a_row_that_the_error_points_to(tmp_path: Path) -> None:
    """`--strict` said "all that is not used is listed", and the list was empty."""
    source = tmp_path / "raw"
    for number in range(7):
        image(source / f"{number}.png", number)
    (source / "0.txt").write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError, match="6 of 7 images have no caption") as error:
        run(source, tmp_path / "out", strict=True)
    assert f"all are listed in {tmp_path / 'out' / 'problems.jsonl'}" in str(error.value)
    rows = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"file": f"{number}.png", "reason": "no caption: it gets 'a photo of sks'", "used": True}
        for number in range(1, 7)
    ]
    page = run(source, tmp_path / "out").page.read_text(encoding="utf-8")
    assert all(f"{number}.png" in page for number in range(1, 7))


def test_lines_of_the_journal_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    source, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        image(source / f"{number}.png", number).with_suffix(".txt").write_text("a dog", encoding="utf-8")
    said: list[str] = []
    first = run(source, out, said)
    assert not any("cannot be read" in line for line in said)
    journal = out / ".prepare.jsonl"
    rows = journal.read_text(encoding="utf-8").splitlines()
    outside = json.dumps({**json.loads(rows[1]), "image": "../1.png"})
    journal.write_text("\n".join([rows[0][:40], outside, rows[2], "", '{"caption_of": 5}']), encoding="utf-8")
    second = run(source, out, said, strict=True)
    assert "  3 lines of .prepare.jsonl cannot be read: what they were about is done again" in said
    assert second.manifest.examples == first.manifest.examples
    assert second.num_reused == 1
    said.clear()
    run(source, out, said)
    assert not any("cannot be read" in line for line in said)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("sidecar", {"text_folder": "captoins", "image_folder": "images"}),
        ("sidecar", {"caption_column": "caption"}),
        ("imagefolder", {"caption_suffix": (".tags",)}),
        ("imagefolder", {"text_folder": "input_text"}),
        ("sidecar", {"format": "sidecar", "image_folder": "images"}),
    ],
)
def test_a_flag_that_the_layout_does_not_know_is_a_line_and_an_error_under_strict(
    tmp_path: Path, layout: str, changes: dict[str, object]
) -> None:
    source, said = tmp_path / "raw", list[str]()
    image(source / "a.png")
    if layout == "sidecar":
        (source / "a.txt").write_text("a dog", encoding="utf-8")
    else:
        (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a dog"}', encoding="utf-8")
    run(source, tmp_path / "out", said, **changes)
    flags = [f"--{name.replace('_', '-')}" for name in changes if name != "format"]
    for flag in flags:
        assert (
            f"  {flag} is not used: the layout {layout} has no such setting; choose another one with --format" in said
        )
    with pytest.raises(UserError, match=f"{flags[0]} is not used"):
        run(source, tmp_path / "strict", strict=True, **changes)


def test_flags_that_the_layout_knows_are_no_lines(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    image(source / "img/a.png")
    (source / "txt").mkdir()
    (source / "txt/a.tags").write_text("a dog", encoding="utf-8")
    run(source, tmp_path / "out", said, text_folder="txt", image_folder="img", caption_suffix=("tags",), strict=True)
    assert not any("is not used" in line for line in said)


def test_the_error_of_strict_shows_the_first_file_of_each_kind_of_fault(tmp_path: Path) -> None:
    """It showed the first three files, all of one kind, or images that are small, which is no fault under `--strict`."""
    source = tmp_path / "raw"
    for number in range(5):
        save(
            drawn(number, 20, 20), source / f"{number}.png", None if number == 4 else "NaN" if number == 3 else "a dog"
        )
        (source / f"{number}.mp4").write_bytes(b"x")
    with pytest.raises(UserError) as error:
        run(source, tmp_path / "out", strict=True)
    assert "enlarged" not in str(error.value)
    for words in ("0.mp4: not read", "4.png: no caption", "3.png: its caption is what programs write"):
        assert words in str(error.value)
    assert "1.mp4" not in str(error.value)
