"""Settings of extensions beside those of the verb."""

import pickle
from copy import deepcopy
from pathlib import Path

import pytest
from pydantic import ValidationError

from loraloom import plugins
from loraloom.config.extending import Extended, complete, options_of, unused_lines
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import commented_yaml, read_settings, to_yaml
from loraloom.prepare.run import prepare
from loraloom.protocols.settings import Settings, setting
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save


def used(layout: str) -> dict[str, object]:
    names = {"formats": layout, "captioners": "template", "domains": "freetext"}
    return {kind: plugins.load(kind, name) for kind, name in names.items()}


def test_an_instance_has_the_settings_of_every_extension_however_it_is_made() -> None:
    values = {"caption_column": "caption", "size": 64}
    one = PrepareConfig(**values)
    assert one == read_settings(PrepareConfig, values=values) == complete(PrepareConfig)(**values)
    assert isinstance(one, PrepareConfig)
    assert options_of(one, [plugins.load("formats", "imagefolder")]) == {"caption_column": "caption", "encoding": ""}
    with pytest.raises(ValidationError):
        PrepareConfig(**{**values, "caption_colum": "caption"})


def test_a_copy_and_a_pickle_are_equal_to_it_and_remember_what_was_given() -> None:
    values = {"caption_column": "caption", "validation_share": 0.1}
    one = PrepareConfig(**values)
    for other in (deepcopy(one), pickle.loads(pickle.dumps(one)), one.model_copy(update={})):
        assert other == one
        assert other.model_fields_set == one.model_fields_set


def test_the_template_heads_what_an_extension_brings_and_reads_back(tmp_path: Path) -> None:
    text = commented_yaml(PrepareConfig)
    assert "\n\n# Settings of layouts with a table of captions.\n# Column of captions" in text
    assert text.count("Settings of layouts that read texts") == 1
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    assert read_settings(PrepareConfig, tmp_path / "p.yaml") == PrepareConfig()
    assert "caption_template: a photo of {trigger}\n" in to_yaml(PrepareConfig())


def test_a_value_out_of_its_limits_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("size: 64\nencoding: klingon\ncaption_suffix: [a/b]\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_settings(PrepareConfig, tmp_path / "p.yaml")
    assert "p.yaml: encoding: got 'klingon', expected a name as Python has it" in str(caught.value)
    assert "p.yaml: caption_suffix: got ['a/b'], expected the end of a file name" in str(caught.value)
    assert "(line 3)" in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "given", "lines"),
    [
        ("sidecar", {"caption_column": "caption"}, 1),
        ("sidecar", {"caption_column": "text", "caption_suffix": (".tags",), "caption_template": "x"}, 0),
        ("imagefolder", {"caption_suffix": (".tags",), "text_folder": "texts", "encoding": "cp949"}, 2),
        ("paired_folders", {"text_folder": "texts", "caption_suffix": (".tags",)}, 0),
    ],
)
def test_a_setting_that_no_extension_in_use_declares_is_a_line(
    layout: str, given: dict[str, object], lines: int
) -> None:
    assert len(unused_lines(PrepareConfig(**given), used(layout))) == lines


def test_a_setting_that_was_given_for_nothing_is_told_and_an_error_under_strict(tmp_path: Path) -> None:
    """`--caption-column` was ignored without a word where the folder was read by another layout."""
    save(drawn(1, 32, 32), tmp_path / "raw/a.png", "a dog")
    values = {"size": 16, "bucket_step": 8, "min_size": 1, "num_workers": 1, "caption_column": "caption"}
    said: list[str] = []
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(**values), console=said.append)
    line = "--caption-column is not used: the layout sidecar has no such setting; choose another one with --format"
    assert f"  {line}" in said
    with pytest.raises(UserError, match="--caption-column is not used"):
        prepare(tmp_path / "raw", tmp_path / "strict", PrepareConfig(**values, strict=True), console=lambda line: None)


class _Group(Settings):
    """A group."""


class _Required(Settings):
    """Settings that are needed."""

    needed_word: str = setting(..., "a word")


class _Grouped(Settings):
    """Settings in a group."""

    inner: _Group = _Group()


class _Own(Settings):
    """Settings with a key of the verb."""

    size: int = setting(3, "another size")


class _Flag(Settings):
    """Settings with a flag of the verb."""

    other_size: int = setting(3, "another size", flag="--size")


@pytest.mark.parametrize(
    ("declared", "what"),
    [
        ("no class", "are not a subclass of Settings"),
        (_Required, "'needed_word' of odd .* has no default"),
        (_Grouped, "'inner' of odd .* is a group"),
        (_Own, "the setting 'size' has two declarations: got `prepare` itself and odd"),
        (_Flag, "the flag --size has two declarations: got `prepare` itself and odd"),
    ],
)
def test_settings_that_cannot_be_added_are_told_with_their_extension(
    declared: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = type("Odd", (), {"name": "odd", "settings": declared})()
    monkeypatch.setattr(plugins, "names", lambda kind: ["odd"])
    monkeypatch.setattr(plugins, "load", lambda kind, name: odd)

    class Verb(Extended):
        """Settings of a verb."""

        verb = "prepare"
        extension_kinds = ("captioners",)
        size: int = setting(1, "a size", flag="--size")

    with pytest.raises(UserError, match=what):
        complete(Verb)
