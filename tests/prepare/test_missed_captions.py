"""A folder whose captions are all missed is an error that names them; a folder without captions is none."""

import re
import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loraloom.prepare.near_names import is_note_name, loose_key
from loraloom.utils.errors import UserError
from tests.prepare.test_accounting import captions, image, run

NEAR = [
    ("IMG_{0}.jpg", "img-{0}.txt"),
    ("{0}.jpg", "{0:03}.txt"),
    ("a ({0}).jpg", "a({0}).txt"),
    ("{0}.png", "{0} (copy).txt"),
    ("{0}.png", "{0} - Copy (2).txt"),
    ("a{0}.png", "a{0} .txt"),
    ("a{0}.png", "a{0}_.caption"),
    ("DSC{0:04}.jpg", "dsc_{0}.txt"),
    ("DSC{0:04}.jpg", "dsc_{0}.jpg.txt"),
    ("사진 {0}.jpg", "사진-{0}.txt"),
    ("IMG_{0}.jpg", "captions/img-{0}.txt"),
    ("IMG_{0}.jpg", "img-{0}.wd14"),
    ("photograph{0}.jpg", "photographs{0}.txt"),
]


@pytest.mark.parametrize("names", NEAR)
def test_captions_with_nearly_the_names_of_the_images_are_an_error_that_names_pairs(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """Every image learned the template, with exit status 0: each text was "a text without an image", so it was no caption."""
    source = tmp_path / "raw"
    for number in range(3):
        image(source / names[0].format(number), number)
        text = source / names[1].format(number)
        text.parent.mkdir(exist_ok=True)
        text.write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError, match="none of 3 images has a caption") as error:
        run(source, tmp_path / "out", trigger="sks", caption_template="a photo of {trigger}")
    for number in range(2):
        assert f"{names[1].format(number)} for {names[0].format(number)}?" in str(error.value)
    assert "captions every image" in str(error.value)
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_captions_with_quite_other_names_are_an_error_too(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number in range(3):
        image(source / f"{number}.png", number)
        (source / f"shot by night {chr(65 + number)}.txt").write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError, match=r"look like captions: got 'shot by night A\.txt and 2 more'"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    "note",
    ["README.txt", "LICENSE.txt", "LICENCE-MIT.txt", "notes.txt", "credits.md", "Read Me.txt", "COPYING", "story.txt"],
)
def test_notes_beside_images_are_no_captions(tmp_path: Path, note: str) -> None:
    source = tmp_path / "raw"
    for number in range(3):
        image(source / f"{number}.png", number)
    (source / note).write_text("free to use", encoding="utf-8")
    report = run(source, tmp_path / "out")
    assert report.num_without_caption == 3
    assert [one.file for one in report.problems] == [note]


def test_files_of_photo_programs_with_the_images_names_are_no_captions(tmp_path: Path) -> None:
    for number, name in enumerate(["IMG_0.AAE", "IMG_1.xmp", "IMG_2.jpg.pp3", "IMG_3.MOV"]):
        image(tmp_path / f"raw/IMG_{number}.jpg", number)
        (tmp_path / "raw" / name).write_text("<x:xmpmeta/>", encoding="utf-8")
    report = run(tmp_path / "raw", tmp_path / "out")
    assert (report.num_without_caption, len(report.problems)) == (4, 4)


def test_of_one_image_it_is_not_said_that_none_of_1_has_a_caption(tmp_path: Path) -> None:
    said: list[str] = []
    image(tmp_path / "raw/IMG_1.png")
    run(tmp_path / "raw", tmp_path / "none", said)
    assert "  the only image has no caption; it gets 'a photo of sks'" in said
    (tmp_path / "raw/img-1.txt").write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError, match="the only image has no caption, and there is a file that looks like a caption"):
        run(tmp_path / "raw", tmp_path / "out")


def test_where_some_images_have_captions_the_others_texts_are_named_aloud(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    for number in range(3):
        image(source / f"IMG_{number}.jpg", number)
        (source / (f"img-{number}.txt" if number else "IMG_0.txt")).write_text("a dog", encoding="utf-8")
    run(source, tmp_path / "out", said)
    assert "  a text has the name of its image: img-1.txt for IMG_1.jpg? img-2.txt for IMG_2.jpg?" in said


def test_pairs_of_two_folders_with_nearly_equal_names_are_named(tmp_path: Path) -> None:
    for number in range(2):
        image(tmp_path / f"raw/label_floorplan/IMG_{number}.png", number)
        text = tmp_path / f"raw/input_text/img-{number}.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text("a plan", encoding="utf-8")
    with pytest.raises(UserError, match=r"img-0\.txt for label_floorplan/IMG_0\.png\?") as error:
        run(tmp_path / "raw", tmp_path / "out")
    assert "none of 2 images has a caption" in str(error.value)


@pytest.mark.parametrize(
    ("source_image", "text"),
    [
        ("images/a.jpg", "captions/a.txt"),
        ("a.jpg", "captions/a.txt"),
        ("images/a.jpg", "a.txt"),
        ("train/images/dogs/a.jpg", "train/my texts/dogs/a.txt"),
        ("images/a.jpg", "tags/a.tags"),
        ("a_1.jpg", "a_1_caption.txt"),
        ("a.jpg", "a.jpg.tags"),
        ("a.jpg", "a-caption-en.txt"),
    ],
)
def test_the_flags_that_the_error_names_do_read_the_captions(tmp_path: Path, source_image: str, text: str) -> None:
    """For a text in another folder the advice was `--caption-suffix .txt`, which changes nothing there."""
    source = tmp_path / "raw"
    image(source / source_image)
    (source / text).parent.mkdir(exist_ok=True, parents=True)
    (source / text).write_text("a dog", encoding="utf-8")
    with pytest.raises(UserError) as error:
        run(source, tmp_path / "out")
    words = shlex.split(re.findall(r"add (--.*)", str(error.value))[0])
    flags = {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    suffix = flags.pop("caption_suffix", None)
    report = run(source, tmp_path / "read", strict=True, **flags, **({"caption_suffix": (suffix,)} if suffix else {}))
    assert list(captions(report).values()) == ["a dog"]


@pytest.mark.parametrize("texts", [["", ""], [" \n", "\ufeff"]])
def test_texts_that_are_all_empty_are_an_error_as_a_table_of_empty_cells_is(tmp_path: Path, texts: list[str]) -> None:
    source = tmp_path / "raw"
    for number, text in enumerate(texts):
        image(source / f"{number}.png", number).with_suffix(".txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="none of 2 images has a caption") as error:
        run(source, tmp_path / "out")
    assert "0.txt: it is read, and it is empty" in str(error.value)
    (source / "0.txt").write_text("a dog", encoding="utf-8")
    assert captions(run(source, tmp_path / "out")) == {"0": "a dog", "1": "a photo of sks"}


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "img", "0", "7", "12", "사진"]), min_size=1, max_size=4), st.data())
def test_names_of_the_same_words_have_one_key_whatever_stands_between_them(
    words: list[str], data: st.DataObject
) -> None:
    def joined() -> str:
        marks = st.sampled_from([" ", "-", "_", " (", "."])
        return "".join(data.draw(marks) + word for word in words)

    one, two = joined(), joined()
    assert loose_key(one) == loose_key(two.upper()) == loose_key(f"{one} (copy)")
    assert loose_key(one) != loose_key(f"{one} b")


def test_a_name_that_only_begins_as_a_notes_is_none() -> None:
    assert not any(map(is_note_name, ["noted.txt", "listening.txt", "0.txt", "a/b.txt"]))


CHANGES = [
    str.upper, str.title, lambda stem: stem.replace("_", "-"), lambda stem: stem.replace("_", ""), lambda stem: f"{stem} ",
    lambda stem: f"{stem} (copy)", lambda stem: f"{stem}_caption", lambda stem: f"captions/{stem}", lambda stem: stem[1:],
    lambda stem: f"x{stem}", lambda stem: stem[::-1], lambda stem: f"{stem}.jpg", lambda stem: f"{stem}.jpg.x",
    lambda stem: f"00{stem}", lambda stem: unicodedata.normalize("NFD", stem),
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["photo_{}", "IMG_{}", "개 {}", "é_{}", "{}_dog"]),
    st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2),
    st.sampled_from([".txt", ".caption", ".tags"]),
)
def test_however_the_names_of_all_texts_differ_not_every_image_learns_the_template_in_silence(
    tmp_path_factory: pytest.TempPathFactory, stem: str, changes: list[Callable[[str], str]], suffix: str
) -> None:
    names = [stem.format(number) for number in range(3)]
    texts = list(names)
    for change in changes:
        texts = [change(text) for text in texts]
    assume(len(set(texts)) == 3)
    source = tmp_path_factory.mktemp("raw")
    for number, name in enumerate(names):
        image(source / f"{name}.png", number)
        text = source / f"{texts[number]}{suffix}"
        text.parent.mkdir(exist_ok=True, parents=True)
        text.write_text("a dog", encoding="utf-8")
    try:
        found = run(source, tmp_path_factory.mktemp("work") / "out").num_without_caption
    except UserError as error:
        assert "none of 3 images has a caption" in str(error)
    else:
        assert found == 0
