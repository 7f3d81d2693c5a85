"""The registry is the folder."""

import subprocess
import sys

import pytest

from loraloom import plugins
from loraloom.errors import UserError


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


@pytest.mark.parametrize("name", ["../errors", "loraloom.errors", "", "__init__", "stable_diffusion.model"])
def test_a_name_is_a_key_and_never_a_path(name: str) -> None:
    with pytest.raises(UserError):
        plugins.load("families", name)


def test_listing_names_imports_no_extension() -> None:
    program = (
        "import sys\n"
        "from loraloom import plugins\n"
        "[plugins.names(kind) for kind in plugins.ATTRIBUTE]\n"
        "assert not [name for name in sys.modules if name.startswith('loraloom.extensions')]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
