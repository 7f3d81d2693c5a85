"""Write the tree of docs/architecture.md from the first sentence of every module's docstring.

In: `src/loraloom`. Out: the part of the page below "## The tree", one row per module, one heading per room. With
`--check` nothing is written; the exit status is 1 if the page is out of date.

    python scripts/architecture_tree.py [--check]
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "loraloom"
PAGE = ROOT / "docs" / "architecture.md"
HEADING = "## The tree\n"
ROOMS = [
    "protocols", "utils", "config", "models", "diffusion", "prompts", "lora", "data", "prepare", "generate", "verify",
    "evaluate", "train", "cluster", "compat", "cli", "extensions",
]  # fmt: skip
"""Rooms in the order of imports; modules beside the rooms come first."""


def phrase(path: Path) -> str:
    """First sentence of a module's docstring, without its full stop."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text)[0]
    return sentence.rstrip(".")


def rows(folder: Path, *, deep: bool) -> list[str]:
    """One row for each module of a folder, `__init__` of its packages first."""
    files = sorted(folder.rglob("*.py") if deep else folder.glob("*.py"))
    return [f"- `{path.relative_to(SOURCE).as_posix()}` {phrase(path)}" for path in files]


def tree() -> str:
    """The page's tree."""
    parts = ["Made by `scripts/architecture_tree.py` from the modules' docstrings. Below `src/loraloom/`:\n"]
    parts.append("### Beside the rooms\n\n" + "\n".join(rows(SOURCE, deep=False)) + "\n")
    for room in ROOMS:
        inner = [row for row in rows(SOURCE / room, deep=True) if not row.startswith(f"- `{room}/__init__.py`")]
        init = SOURCE / room / "__init__.py"
        parts.append(f"### {room}: {phrase(init)}\n\n" + "\n".join(inner) + "\n")
    return "\n".join(parts)


def page(text: str) -> str:
    """The page with a new tree; text after the tree is kept."""
    before, _, rest = text.partition(HEADING)
    following = rest.find("\n## ")
    after = rest[following:] if following >= 0 else ""
    return f"{before}{HEADING}\n{tree()}{after}"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if "--check" in sys.argv[1:]:
        sys.exit(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
