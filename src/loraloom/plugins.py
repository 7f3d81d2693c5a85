"""The registry is the folder: `extensions/<kind>/<name>.py` or `extensions/<kind>/<name>/` is the extension `<name>`.

In: a kind and a name. Out: the extension object that the module carries under the kind's own attribute name (`FAMILY`,
`DOMAIN`, `FORMAT`, `CAPTIONER`). Listing names imports nothing; loading imports one module. Adding an extension is
adding a file. So is adding a verb group: `verb_<word>.py` anywhere in `extensions/<kind>/<name>/` is `loraloom <word>`.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from loraloom.utils.errors import UserError, did_you_mean

_ROOT = Path(__file__).parent / "extensions"

ATTRIBUTE = {"families": "FAMILY", "domains": "DOMAIN", "formats": "FORMAT", "captioners": "CAPTIONER"}
"""The name that a module of each kind exports its one extension under."""


def names(kind: str) -> list[str]:
    """All extension names of a kind, sorted, without importing any."""
    assert kind in ATTRIBUTE, kind
    found: list[str] = []
    for entry in (_ROOT / kind).iterdir():
        if entry.name.startswith(("_", ".")):
            continue
        if (entry.is_dir() and (entry / "__init__.py").is_file()) or entry.suffix == ".py":
            found.append(entry.stem)
    return sorted(found)


def load(kind: str, name: str) -> Any:
    """The extension `name` of `kind`.

    Raises:
        UserError: There is no such extension; the nearest names are listed.
    """
    known = names(kind)
    if name not in known:
        raise UserError(f"unknown {kind} extension", got=name, fix=did_you_mean(name, known))
    module = import_module(f"loraloom.extensions.{kind}.{name}")
    return getattr(module, ATTRIBUTE[kind])


# ------------------------------------------------------------------------------------------------------ verb groups


@dataclass(frozen=True, slots=True)
class VerbFile:
    """A verb group that an extension folder brings.

    Attributes:
        word: What the user types.
        summary: First line of the module's docstring.
        path: The module's file.
    """

    word: str
    summary: str
    path: Path

    @property
    def module(self) -> str:
        """Full name of the module."""
        return ".".join(["loraloom.extensions", *self.path.relative_to(_ROOT).with_suffix("").parts])


def verbs() -> dict[str, VerbFile]:
    """Every verb group by its word, sorted; reads the first line of each file and imports none."""
    found: dict[str, VerbFile] = {}
    for path in sorted(_ROOT.glob("*/*/**/verb_*.py"), key=lambda path: path.name):
        word = path.stem.removeprefix("verb_").replace("_", "-")
        assert word not in found, f"{path} and {found[word].path} bring the same verb"
        with path.open(encoding="utf-8") as file:
            found[word] = VerbFile(word, file.readline().strip().strip('"').strip(), path)
    return found


def load_verb(word: str) -> Any:
    """The module of a verb group; its `COMMANDS` are functions that typer makes commands of.

    The extension's own package is not imported with it but by the first command that needs it: help must not pay for numpy.
    """
    verb = verbs()[word]
    if verb.module in sys.modules:
        return sys.modules[verb.module]
    plan = spec_from_file_location(verb.module, verb.path)
    assert plan and plan.loader
    module = module_from_spec(plan)
    sys.modules[verb.module] = module
    try:
        plan.loader.exec_module(module)
    except BaseException:
        del sys.modules[verb.module]
        raise
    return module
