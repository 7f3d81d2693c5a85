"""`loraloom prepare` on a command line: one folder, several styles, a style file in YAML and in TOML."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loraloom.cli.app import app
from loraloom.data.manifest import read_manifest
from loraloom.utils.errors import UserError
from tests.support.images import folder_of

SMALL = ["--size", "64", "--min-size", "16", "--num-workers", "1"]


def prepare(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["prepare", *arguments], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    folder_of(folder / "anime", 2)
    folder_of(folder / "wc", 2, first=20)
    return folder


def test_styles_of_flags_and_of_files_make_the_same_datasets(raw: Path, tmp_path: Path) -> None:
    styles = [f"anime={raw / 'anime'}:anistyle", f"wc={raw / 'wc'}:wcstyle"]
    texts = [style.replace("\\", "\\\\") for style in styles]
    (tmp_path / "s.yaml").write_text("style:\n" + "".join(f'  - "{text}"\n' for text in texts), encoding="utf-8")
    (tmp_path / "s.toml").write_text("style = [" + ", ".join(f'"{text}"' for text in texts) + "]\n", encoding="utf-8")
    flags = [part for style in styles for part in ("--style", style)]
    said = prepare(*flags, str(tmp_path / "flags"), *SMALL)
    prepare("--config", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "yaml"), *SMALL)
    prepare("-c", str(tmp_path / "s.toml"), str(tmp_path / "toml"), *SMALL)
    prints = {
        way: [read_manifest(tmp_path / way / name).fingerprint for name in ("anime", "wc")]
        for way in ("flags", "yaml", "toml")
    }
    assert prints["flags"] == prints["yaml"] == prints["toml"]
    assert "style  trigger" in said
    assert "train --dataset" in said.splitlines()[-1]


def test_one_folder_is_prepared_as_before(raw: Path, tmp_path: Path) -> None:
    said = prepare(str(raw / "anime"), "--out", str(tmp_path / "one"), *SMALL)
    assert "next:" in said
    assert len(read_manifest(tmp_path / "one").examples) == 2


def test_two_processes_prepare_the_dataset_of_one(raw: Path, tmp_path: Path) -> None:
    one = ["--size", "64", "--min-size", "16"]
    for count in ("1", "2", "auto"):
        prepare(str(raw / "anime"), "--out", str(tmp_path / count), *one, "--num-processes", count)
    prints = {count: read_manifest(tmp_path / count).fingerprint for count in ("1", "2", "auto")}
    assert len(set(prints.values())) == 1
    with pytest.raises(UserError, match="--num-processes: got 'many', expected auto, or a number from 1 to 1,024"):
        prepare(str(raw / "anime"), "--out", str(tmp_path / "x"), *one, "--num-processes", "many")
    with pytest.raises(UserError, match="the same here"):
        prepare(str(raw / "anime"), "--out", str(tmp_path / "x"), *SMALL, "--num-processes", "2")


def test_parts_are_prepared_and_joined_by_the_lines_that_the_command_prints(raw: Path, tmp_path: Path) -> None:
    prepare(str(raw / "anime"), "--out", str(tmp_path / "whole"), *SMALL)
    for number in (1, 2):
        said = prepare(str(raw / "anime"), "--out", str(tmp_path / "shared"), "--part", f"{number}/2", *SMALL)
    assert f"part {number}/2: 1 of 2 images" in said
    line = said.splitlines()[-1].partition("loraloom ")[2]
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "shared" / "manifest.jsonl").read_bytes() == (tmp_path / "whole" / "manifest.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--style", "a=RAW/anime:x", "OUT", "--part", "1/2"], "--part cannot be used with --style"),
        (["RAW/anime", "--out", "OUT", "--part", "3/2"], "--part"),
        ([], "no folder of images was named"),
        (["RAW/anime"], "no dataset was named"),
        (["--style", "a=RAW/anime:x"], "no folder to write was named"),
        (["--style", "a=RAW/anime:x", "one", "--out", "two"], "two folders to write"),
        (["--style", "a=RAW/anime:x", "one", "--trigger", "sks"], "each style has a trigger word of its own"),
    ],
)
def test_each_mistake_is_one_error_and_writes_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=what):
        prepare(*(part.replace("RAW", str(raw)) for part in arguments))
    assert not list(tmp_path.iterdir())


def test_a_style_that_fails_ends_the_command_with_an_error_after_the_others(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 2 styles could not be prepared \(bad\)"):
        bad, good = f"bad={tmp_path / 'bad'}:x", f"good={raw / 'anime'}:y"
        prepare("--style", bad, "--style", good, str(tmp_path / "out"), *SMALL)
    assert len(read_manifest(tmp_path / "out" / "good").examples) == 2


def test_strict_refuses_a_trigger_word_in_captions_of_another_style(raw: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mixed", 2, first=40)
    (folder / "040.txt").write_text("a cat in anistyle", encoding="utf-8")
    styles = ["--style", f"anime={raw / 'anime'}:anistyle", "--style", f"mixed={folder}:mixstyle"]
    said = prepare(*styles, str(tmp_path / "out"), *SMALL)
    assert "note: 1 of 2 captions of mixed have the trigger word of anime" in said
    with pytest.raises(UserError, match="and --strict is on"):
        prepare(*styles, str(tmp_path / "strict"), "--strict", *SMALL)
