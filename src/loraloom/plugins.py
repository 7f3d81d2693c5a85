"""The registry is the folder: `extensions/<kind>/<name>.py` or `extensions/<kind>/<name>/` is the extension `<name>`.

In: a kind and a name. Out: the extension object that the module carries under the kind's own attribute name (`FAMILY`,
`DOMAIN`, `FORMAT`, `CAPTIONER`). Listing names imports nothing; loading imports one module. Adding an extension is
adding a file.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from loraloom.errors import UserError, did_you_mean

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
