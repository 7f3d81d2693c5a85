"""What every extension promises, of whichever kind and package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins
from loraloom.cli.extension_pages import extension_page, list_extensions
from loraloom.config.describing import leaves, title_of
from loraloom.protocols.settings import Settings
from loraloom.utils.errors import UserError

EXTENSIONS = [(kind, name) for kind in sorted(plugins.ATTRIBUTE) for name in plugins.names(kind)]
CONFIGURED = [one for one in EXTENSIONS if getattr(plugins.load(*one), "settings", None) is not None]


def settings_of(kind: str, name: str) -> type[Settings]:
    found: Any = plugins.load(kind, name).settings
    assert isinstance(found, type)
    assert issubclass(found, Settings)
    return found


@pytest.mark.parametrize(("kind", "name"), EXTENSIONS)
def test_it_carries_its_name_and_says_what_it_is(kind: str, name: str) -> None:
    assert plugins.load(kind, name).name == name
    assert (plugins.load_module(kind, name).__doc__ or "").strip()


def test_loading_what_prepare_asks_for_settings_imports_no_heavy_library() -> None:
    """`prepare --help` loads every format, captioner and domain; scipy alone took it a second."""
    program = (
        "import sys\n"
        "from loraloom import plugins\n"
        "for kind in ('formats', 'captioners', 'domains'):\n"
        "    [plugins.load(kind, name) for name in plugins.names(kind)]\n"
        "heavy = {'torch', 'scipy', 'transformers', 'diffusers', 'ifcopenshell', 'ezdxf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(("kind", "name"), CONFIGURED)
def test_each_of_its_settings_has_a_default_a_help_and_a_heading(kind: str, name: str) -> None:
    settings = settings_of(kind, name)
    assert title_of(settings) != settings.__name__
    for leaf in leaves(settings):
        assert leaf.help, leaf.key
        assert not leaf.required, f"{leaf.key}: whoever does not use {name} cannot give it"
        assert leaf.flag is None or leaf.flag.startswith("--")


@pytest.mark.parametrize(("kind", "name"), CONFIGURED)
def test_its_defaults_pass_its_own_checks(kind: str, name: str) -> None:
    settings = settings_of(kind, name)
    assert settings() == settings(**settings().model_dump())


@pytest.mark.parametrize(("kind", "name"), EXTENSIONS)
def test_its_page_says_what_it_is_and_lists_its_settings(kind: str, name: str) -> None:
    page = extension_page(name)
    assert f"### {kind}: {name}\n" in page
    settings = getattr(plugins.load(kind, name), "settings", None)
    for leaf in leaves(settings) if settings else ():
        assert f"| `{leaf.key}` |" in page
        assert leaf.help in page
    assert f"- `{name}`: " in list_extensions()


def test_an_unknown_extension_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sidecar'"):
        extension_page("sidecars")


def test_the_page_of_extensions_is_made_from_them() -> None:
    script = Path(__file__).parents[2] / "scripts" / "extensions_page.py"
    made = subprocess.run([sys.executable, str(script), "--check"], check=False, timeout=120)
    assert made.returncode == 0, "run: python scripts/extensions_page.py"
