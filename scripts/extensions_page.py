"""Write docs/extensions.md: every extension of this repository with its description and its settings.

In: the extensions themselves. Out: the page. With `--check` nothing is written; the exit status is 1 if the page is
out of date.

    python scripts/extensions_page.py [--check]
"""

import sys
from pathlib import Path

from loraloom import plugins
from loraloom.cli.extension_pages import page_of

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "extensions.md"
HEAD = """# Extensions

What this version brings, by kind. `loraloom extensions` lists these and those of other packages;
`loraloom extensions <name>` shows one. How to add one: [family](add-a-family.md),
[domain](add-a-domain.md), [format](add-a-format.md), [metric](evaluating.md#add-a-metric).

This page is made by `scripts/extensions_page.py` from the extensions themselves.
"""


def page() -> str:
    """The page of all extensions in this repository; those of other packages are left out."""
    parts = [HEAD]
    for kind in plugins.ATTRIBUTE:
        parts.append(f"## {kind.capitalize()}\n")
        for name in plugins.names(kind):
            if plugins.origin(kind, name) == plugins.OURS:
                pages = [page for page in (f"{kind}/{name}.md", f"{name}.md") if (DOCS / page).is_file()]
                more = f"More: [{name}]({pages[0]})" if pages else ""
                parts.append(page_of(kind, name, link=more) + "\n")
    return "\n".join(parts)


def main() -> None:
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
