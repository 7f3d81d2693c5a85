"""The registry is the folder: `extensions/<kind>/<name>.py` or `extensions/<kind>/<name>/` is the extension `<name>`.

In: a kind and a name. Out: the extension object that the module carries under the kind's own attribute name (`FAMILY`,
`DOMAIN`, `FORMAT`, `CAPTIONER`, `METRIC`, `TRANSPORT`). Loading imports one module, listing names none. Adding an extension is
adding a file. So is adding a verb group: `verb_<word>.py` anywhere in `extensions/<kind>/<name>/` is `loraloom <word>`.

Other packages bring extensions by entry points of the groups `loraloom.families`, `loraloom.domains`, `loraloom.formats`,
`loraloom.captioners`, `loraloom.metrics` and `loraloom.transports`: `<name> = <module>`. The installed packages are asked
only when names are listed, or a name is not among ours.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from loraloom.protocols.family_card import FamilyCard

_ROOT = Path(__file__).parent / "extensions"

ATTRIBUTE = {
    "families": "FAMILY",
    "domains": "DOMAIN",
    "formats": "FORMAT",
    "captioners": "CAPTIONER",
    "metrics": "METRIC",
    "transports": "TRANSPORT",
}
"""The name that a module of each kind exports its one extension under."""
OURS = "loraloom itself"
"""The origin of an extension in our own folder."""
CARD = "CARD"
"""The name that a family's module, or `card.py` in its folder, exports its `FamilyCard` under."""
CONTRACT = "CONTRACT"
"""The name that such a module exports its contract examples under, for the suite of its kind."""


def names(kind: str) -> list[str]:
    """All extension names of a kind, sorted, without importing any.

    Raises:
        UserError: Two extensions have one name; both are named.
    """
    own, brought = _own_names(kind), _entry_points(f"loraloom.{kind}")
    for name, points in brought.items():
        if name in own or len(points) > 1:
            raise _clash(kind, name, [*([OURS] if name in own else []), *map(_package, points)])
    return sorted([*own, *brought])


def load(kind: str, name: str) -> Any:
    """The extension `name` of `kind`.

    Raises:
        UserError: There is no such extension; the nearest names are listed. Or another package's cannot be loaded.
    """
    module = load_module(kind, name)
    extension = getattr(module, ATTRIBUTE[kind], None)
    if extension is None:
        fix = f"its module {module.__name__} has to export {ATTRIBUTE[kind]}"
        raise UserError(f"the {kind} extension {name!r} is not there", got=origin(kind, name), fix=fix)
    return extension


def load_module(kind: str, name: str) -> Any:
    """The module that carries the extension, and its `CONTRACT` beside it.

    Raises:
        UserError: As `load`.
    """
    if name in _own_names(kind):
        return import_module(f"loraloom.extensions.{kind}.{name}")
    if name not in names(kind):
        raise UserError(f"unknown {kind} extension", got=name, fix=did_you_mean(name, names(kind)))
    (point,) = _entry_points(f"loraloom.{kind}")[name]
    try:
        return import_module(point.module)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"the {kind} extension {name!r} cannot be loaded ({reason})",
            got=origin(kind, name),
            fix="update or uninstall that package",
        ) from error


def load_contract(kind: str, name: str) -> Any:
    """The contract examples of an extension, for the suite of its kind.

    Raises:
        UserError: As `load`, or its module exports none.
    """
    contract = getattr(load_module(kind, name), CONTRACT, None)
    if contract is None:
        fix = f"export {CONTRACT} beside {ATTRIBUTE[kind]}; see protocols/contracts.py"
        raise UserError(f"the {kind} extension {name!r} brings no contract examples", got=origin(kind, name), fix=fix)
    return contract


def load_card(name: str) -> "FamilyCard | None":
    """What a family says of itself: `CARD` of its module or of `card.py` in its folder; None where there is none.

    Raises:
        UserError: As `load`.
    """
    module = load_module("families", name)
    card = getattr(module, CARD, None)
    if card is None and hasattr(module, "__path__") and find_spec(f"{module.__name__}.card"):
        card = getattr(import_module(f"{module.__name__}.card"), CARD, None)
    return card


def origin(kind: str, name: str) -> str:
    """Where an extension comes from, for the user: `loraloom itself`, or another package and its version."""
    if name in _own_names(kind):
        return OURS
    return " and ".join(_package(point) for point in _entry_points(f"loraloom.{kind}").get(name, ())) or "nowhere"


def _own_names(kind: str) -> list[str]:
    assert kind in ATTRIBUTE, kind
    found: list[str] = []
    for entry in (_ROOT / kind).iterdir():
        if entry.name.startswith(("_", ".")):
            continue
        if (entry.is_dir() and (entry / "__init__.py").is_file()) or entry.suffix == ".py":
            found.append(entry.stem)
    return sorted(found)


@cache
def _entry_points(group: str) -> "dict[str, tuple[EntryPoint, ...]]":
    """What other packages bring, by name. A package that is found twice on the path counts once."""
    from importlib.metadata import entry_points

    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else ""
        found.setdefault(point.name, {}).setdefault((package, point.value), point)
    return {name: tuple(points.values()) for name, points in found.items()}


def _package(point: "EntryPoint") -> str:
    return f"{point.dist.name} {point.dist.version} ({point.value})" if point.dist else point.value


def _clash(kind: str, name: str, origins: Sequence[str]) -> UserError:
    fix = "uninstall one of them, or ask its author for another name"
    return UserError(f"two {kind} extensions have one name, {name!r}", got=Origins(origins), fix=fix)


class Origins(tuple[str, ...]):
    """Packages as an error line shows them."""

    def __str__(self) -> str:
        return " and ".join(self)


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
