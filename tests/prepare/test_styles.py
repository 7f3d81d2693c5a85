"""Several styles in one call: the text form, what is refused before anything is written, what is counted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.styles import (
    PreparedStyle,
    Style,
    failures,
    foreign_triggers,
    parse_style,
    parse_styles,
    prepare_styles,
    summary,
)
from loraloom.utils.errors import UserError
from tests.support.images import drawn, folder_of, save

NAMES = st.from_regex(r"[a-z][a-z0-9_\-]{0,8}", fullmatch=True).filter(
    lambda name: not name.startswith(("con", "prn", "aux", "nul", "com", "lpt"))
)
FOLDERS = st.text(r"ab/\:=. é", min_size=1, max_size=20).map(str.strip).filter(bool)
TRIGGERS = st.from_regex(r"[a-zé]{1,10}( [a-z]{1,5})?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("anime=raw/anime:anistyle", "raw/anime"),
        (r"anime=C:\raw\anime:anistyle", r"C:\raw\anime"),
        ("anime=C:/raw/anime:anistyle", "C:/raw/anime"),
        (r"anime=C:relative:anistyle", "C:relative"),
        (r"anime=\\server\share\a=b:anistyle", r"\\server\share\a=b"),
        (" anime = raw/my anime : anistyle ", "raw/my anime"),
    ],
)
def test_a_drive_a_colon_and_an_equals_sign_stay_in_the_folder(text: str, folder: str) -> None:
    assert parse_style(text) == Style(name="anime", folder=folder, trigger="anistyle")


@given(NAMES, FOLDERS, TRIGGERS)
def test_the_text_form_of_any_style_is_read_back(name: str, folder: str, trigger: str) -> None:
    style = Style(name=name, folder=folder, trigger=trigger)
    assert parse_style(str(style)) == style


@given(st.text(r"ab=:/\ ,é", max_size=30))
def test_any_other_text_is_one_error_of_the_user(text: str) -> None:
    try:
        style = parse_style(text)
    except UserError as error:
        assert "style" in str(error)
    else:
        assert style.name and style.folder and style.trigger
        assert "/" not in style.trigger and "\\" not in style.trigger


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("raw/anime:anistyle", "a style without a name"),
        ("=raw:x", "a style without a name"),
        ("anime=raw/anime", "the style anime has no trigger word"),
        (r"anime=C:\raw\anime", "the style anime has no trigger word"),
        ("anime=C:/raw/anime", "the style anime has no trigger word"),
        ("anime=raw:", "the trigger word of the style anime cannot be used"),
        ("anime=raw:a,b", "the trigger word of the style anime cannot be used"),
        ("anime=:x", "the style anime has no folder"),
        ("../up=raw:x", "the name of a style cannot be used"),
        ("CON=raw:x", "the name of a style cannot be used"),
        ("nul.txt=raw:x", "the name of a style cannot be used"),
    ],
)
def test_each_mistake_in_a_style_names_the_part(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        parse_style(text)


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["a=x:one", "A=y:two"], "2 styles have the same name"),
        (["a=x:one", "b=y:One"], "2 styles have the same trigger word"),
        (["a=x/:one", "b=x:two"], "2 styles have the same folder"),
    ],
)
def test_two_styles_that_would_be_mixed_up_are_refused(texts: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        parse_styles(texts)


def prepared(
    tmp_path: Path, styles: list[Style], said: list[str] | None = None, **settings: object
) -> list[PreparedStyle]:
    config = PrepareConfig(size=64, min_size=16, num_workers=1, **settings)
    return prepare_styles(
        styles, tmp_path / "out", config, console=said.append if said is not None else lambda line: None
    )


def captions(one: PreparedStyle) -> list[str]:
    assert one.report is not None
    return [example.caption for example in one.report.manifest.examples]


def test_every_caption_of_every_style_begins_with_its_trigger_and_moved_ones_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", 2)
    save(drawn(9), tmp_path / "a" / "x.png", "a cat, anistyle")
    folder_of(tmp_path / "b", 2, first=20)
    said: list[str] = []
    done = prepared(tmp_path, parse_styles([f"anime={tmp_path / 'a'}:anistyle", f"wc={tmp_path / 'b'}:wcstyle"]), said)
    assert captions(done[0]) == ["anistyle, image 0", "anistyle, image 1", "anistyle, a cat"]
    assert captions(done[1]) == ["wcstyle, image 20", "wcstyle, image 21"]
    assert any("1 x its trigger word was moved to the front of a caption" in line for line in said)
    assert all(line.startswith(("anime: ", "wc: ")) for text in said for line in text.split("\n"))
    table = summary(done).splitlines()
    assert table[1].split()[:4] == ["anime", "anistyle", "3", "0"]
    assert table[2].split()[:4] == ["wc", "wcstyle", "2", "0"]
    assert failures(done) is None
    strict = prepare_styles(
        parse_styles([f"anime={tmp_path / 'a'}:anistyle"]),
        tmp_path / "strict",
        PrepareConfig(size=64, min_size=16, num_workers=1, strict=True),
        console=lambda line: None,
    )
    assert strict[0].error is not None and "--strict" in str(strict[0].error)


def test_a_broken_style_is_named_and_the_others_are_prepared(tmp_path: Path) -> None:
    folder_of(tmp_path / "good", 2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    done = prepared(tmp_path, parse_styles([f"bad={tmp_path / 'bad'}:x", f"good={tmp_path / 'good'}:y"]))
    assert [one.report is not None for one in done] == [False, True]
    error = failures(done)
    assert error is not None and "1 of 2 styles could not be prepared (bad)" in str(error)
    assert "failed" in summary(done).splitlines()[1]


@pytest.mark.parametrize("missing", ["nowhere", "a_file"])
def test_a_missing_folder_is_an_error_before_anything_is_written(tmp_path: Path, missing: str) -> None:
    folder_of(tmp_path / "good", 2)
    (tmp_path / "a_file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="the folder of the style bad"):
        prepared(tmp_path, parse_styles([f"good={tmp_path / 'good'}:y", f"bad={tmp_path / missing}:x"]))
    assert not (tmp_path / "out").exists()


def test_a_source_inside_the_output_and_a_shared_trigger_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "out" / "raw", 2)
    with pytest.raises(UserError, match="lies in the output"):
        prepared(tmp_path, parse_styles([f"a={tmp_path / 'out' / 'raw'}:x"]))
    with pytest.raises(UserError, match="each style has a trigger word of its own"):
        prepared(tmp_path, parse_styles([f"a={folder_of(tmp_path / 'raw', 2)}:x"]), trigger="sks")


def test_captions_with_the_trigger_of_another_style_are_one_counted_line(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", 2)
    save(drawn(9), tmp_path / "a" / "x.png", "a wcstyle cat")
    folder_of(tmp_path / "b", 2, first=20)
    done = prepared(tmp_path, parse_styles([f"anime={tmp_path / 'a'}:anistyle", f"wc={tmp_path / 'b'}:wcstyle"]))
    (line,) = foreign_triggers(done)
    assert line.startswith("1 of 3 captions of anime have the trigger word of wc")


def test_preparing_again_keeps_what_is_done(tmp_path: Path) -> None:
    styles = parse_styles([f"a={folder_of(tmp_path / 'a', 3)}:x"])
    prepared(tmp_path, styles)
    (again,) = prepared(tmp_path, styles)
    assert again.report is not None and again.report.num_reused == 3
