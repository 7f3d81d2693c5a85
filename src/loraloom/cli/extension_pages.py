"""Pages about extensions: the list of all, or one with its description and settings.

In: a name, or none. Out: Markdown for the terminal and for `docs/extensions.md` (`scripts/extensions_page.py`).
"""

import inspect
import textwrap

from loraloom import plugins
from loraloom.config.describing import Leaf, leaves, show
from loraloom.utils.errors import UserError, did_you_mean

MAX_COLUMNS = 100


def list_extensions() -> str:
    """Every extension by kind, with its summary, and with its package if it is not built in."""
    parts: list[str] = []
    for kind in plugins.ATTRIBUTE:
        rows = [f"- `{name}`: {_summary(kind, name)}{_package(kind, name)}" for name in plugins.names(kind)]
        parts.append(f"## {kind.capitalize()}\n\n" + "\n".join(map(_wrapped, rows)))
    return "\n\n".join(parts)


def extension_page(name: str) -> str:
    """The pages of the extensions that have this name.

    Raises:
        UserError: There is none; similar names are listed.
    """
    known = {one: kind for kind in plugins.ATTRIBUTE for one in plugins.names(kind)}
    if name not in known:
        raise UserError("unknown extension", got=name, fix=did_you_mean(name, known))
    kinds = [kind for kind in plugins.ATTRIBUTE if name in plugins.names(kind)]
    return "\n\n".join(page_of(kind, name) for kind in kinds)


def page_of(kind: str, name: str, *, link: str = "") -> str:
    """The page of one extension: heading, description from its docstring, optional link to a longer page, settings."""
    paragraphs = [_wrapped(" ".join(text.split())) for text in _docstring(kind, name).split("\n\n")]
    parts = [f"### {kind}: {name}", *paragraphs]
    if brought := _package(kind, name):
        parts.append(f"Provided by{brought.removeprefix(', by')}.")
    if link:
        parts.append(link)
    settings = getattr(plugins.load(kind, name), "settings", None)
    if settings is not None and (rows := [_row(leaf) for leaf in leaves(settings)]):
        parts.append("\n".join(["| setting | flag | default | help |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _row(leaf: Leaf) -> str:
    cells = (f"`{leaf.key}`", f"`{leaf.flag}`" if leaf.flag else "", f"`{show(leaf.default)}`", leaf.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _docstring(kind: str, name: str) -> str:
    return inspect.cleandoc(plugins.load_module(kind, name).__doc__ or plugins.load(kind, name).__doc__ or name)


def _summary(kind: str, name: str) -> str:
    return " ".join(_docstring(kind, name).split("\n\n")[0].split()).rstrip(".")


def _package(kind: str, name: str) -> str:
    origin = plugins.origin(kind, name)
    return "" if origin == plugins.OURS else f", by {origin}"


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, MAX_COLUMNS, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)
