"""The registry is the folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from loraloom import plugins
from loraloom.utils.errors import UserError


@pytest.mark.parametrize("kind", sorted(plugins.ATTRIBUTE))
def test_every_extension_loads_and_carries_its_own_name(kind: str) -> None:
    names = plugins.names(kind)
    assert names == sorted(names)
    for name in names:
        assert plugins.load(kind, name).name == name


def test_private_files_are_no_extensions() -> None:
    assert not [name for kind in plugins.ATTRIBUTE for name in plugins.names(kind) if name.startswith(("_", "."))]


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        plugins.load("families", "stable_difusion")
    assert str(caught.value) == (
        "unknown families extension: got 'stable_difusion'\n  did you mean 'stable_diffusion'?"
    )


def test_a_name_with_nothing_near_lists_all() -> None:
    with pytest.raises(UserError, match=r"known: .*sidecar"):
        plugins.load("formats", "zzz")


@pytest.mark.parametrize("name", ["../errors", "loraloom.utils.errors", "", "__init__", "stable_diffusion.model"])
def test_a_name_is_a_key_and_never_a_path(name: str) -> None:
    with pytest.raises(UserError):
        plugins.load("families", name)


def test_listing_names_imports_no_extension() -> None:
    program = (
        "import sys\n"
        "from loraloom import plugins\n"
        "[plugins.names(kind) for kind in plugins.ATTRIBUTE]\n"
        "assert plugins.verbs()\n"
        "assert not [name for name in sys.modules if name.startswith('loraloom.extensions')]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_verb_group_is_a_file_of_an_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "domains" / "gardens"
    folder.mkdir(parents=True)
    (folder / "verb_dig_up.py").write_text('"""Gardens: dig.\n\nMore.\n"""\n\nCOMMANDS = (print,)\n', encoding="utf-8")
    (folder / "other.py").write_text("raise RuntimeError\n", encoding="utf-8")
    monkeypatch.setattr(plugins, "_ROOT", tmp_path)
    verbs = plugins.verbs()
    assert {word: verb.summary for word, verb in verbs.items()} == {"dig-up": "Gardens: dig."}
    assert verbs["dig-up"].module == "loraloom.extensions.domains.gardens.verb_dig_up"
    try:
        module = plugins.load_verb("dig-up")
        assert list(module.COMMANDS) == [print]
        assert plugins.load_verb("dig-up") is module
    finally:
        sys.modules.pop(verbs["dig-up"].module, None)


def test_a_verb_group_that_fails_to_load_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "domains" / "gardens"
    folder.mkdir(parents=True)
    (folder / "verb_dig.py").write_text('"""Dig."""\nraise RuntimeError("ours")\n', encoding="utf-8")
    monkeypatch.setattr(plugins, "_ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="ours"):
        plugins.load_verb("dig")
    assert "loraloom.extensions.domains.gardens.verb_dig" not in sys.modules


def test_every_verb_group_carries_commands_with_help() -> None:
    for word, verb in plugins.verbs().items():
        assert verb.summary.endswith("."), word
        commands = plugins.load_verb(word).COMMANDS
        assert commands
        assert all((command.__doc__ or "").strip() for command in commands)
