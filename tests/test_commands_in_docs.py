"""Commands and flags that the pages name exist in the program, and so do the files.

Read are README, CONTRIBUTING and `docs/` without the notes of experiments, which keep the commands of their day.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from loraloom.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.match("experiments/[0-9]*.md")),
]
OTHER_PROGRAMS = {"--standalone", "--nproc-per-node", "--extra", "--ar", "--help", "--torch-backend", "--undo"}
"""torchrun's, uv's, Midjourney's, everybody's, uv's, that of `scripts/worker_setup.sh`."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands_of(page: str) -> Iterator[str]:
    """Every command line that names a program of ours, in code blocks and in inline code; backslashes join lines."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").split("\n")]
    outside = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside)]
    for line in lines:
        found = re.search(r"(?:^|[\s;&])((?:loraloom|python -m (?:benchmarks|recipes)\.\w+) .*)", line)
        if found and "accelerate launch" not in line:
            yield found[1]


def words_of(command: str) -> list[str]:
    """The words of a command line up to a pipe, a `>` or a `;`."""
    words = shlex.split(command.replace("…", " "), comments=True)
    ends = [index for index, word in enumerate(words) if word in {"|", ">", "&&", "&"} or word.endswith(";")]
    return words[: ends[0]] if ends else words


@cache
def root() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def flags_of(command: Any) -> set[str]:
    return {flag for item in command.params for flag in (*item.opts, *item.secondary_opts) if flag.startswith("-")}


def flags_in_file(path: Path) -> set[str]:
    """Every string of a script that looks like a flag, with the other half of a switch, and typer's from parameters."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"--[a-z][a-z0-9-]+", node.value))
        if isinstance(node, ast.arg):
            found.add("--" + node.arg.replace("_", "-"))
    return found | {flag.replace("--", "--no-", 1) for flag in found}


def wrong_in(command: str) -> Iterator[str]:
    """What of a command line does not exist."""
    words = words_of(command)
    used = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)} - OTHER_PROGRAMS
    if words[0] == "python":
        folder, module = words[2].split(".")
        file = next(
            (
                path
                for path in (ROOT / folder / f"{module}.py", ROOT / folder / module / "__main__.py")
                if path.is_file()
            ),
            None,
        )
        if file is None:
            yield f"no module {words[2]}"
        else:
            yield from sorted(used - flags_in_file(file))
        return
    here: Any = root()
    for word in words[1:]:
        if not isinstance(here, TyperGroup) or word.startswith(("-", "<")):
            break
        there = here.get_command(here.context_class(here), word)
        if there is None:
            yield f"no verb {word}"
            return
        here = there
    yield from sorted(used - flags_of(here))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_in_the_pages_exist_with_their_flags(path: Path) -> None:
    wrong = [
        f"{command!r}: {part}"
        for command in commands_of(path.read_text(encoding="utf-8"))
        for part in wrong_in(command)
    ]
    assert not wrong, "\n".join(wrong)


def all_flags(group: TyperGroup) -> set[str]:
    found = flags_of(group)
    context: Any = group.context_class(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        found |= all_flags(command) if isinstance(command, TyperGroup) else flags_of(command)
    return found


@cache
def flags_of_all_programs() -> set[str]:
    files = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "recipes").rglob("__main__.py")]
    return all_flags(root()).union(OTHER_PROGRAMS, *(flags_in_file(file) for file in files))


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "coming-from-diffusers.md"], ids=name)
def test_flags_that_a_page_names_exist_in_some_verb(path: Path) -> None:
    """`coming-from-diffusers.md` names another script's flags; `tests/compat` compares those."""
    known = flags_of_all_programs()
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S))
    used = {flag for code in inline for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)}
    assert not sorted(used - known)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_files_of_the_project_that_a_page_names_are_there(path: Path) -> None:
    inline = re.findall(r"`([^`\s]+)`", path.read_text(encoding="utf-8"))
    named = {
        code for code in inline if re.fullmatch(r"(?:src|tests|docs|scripts|benchmarks|recipes|\.ci)/[\w./-]+", code)
    }
    assert not sorted(code for code in named if "NAME" not in code and not (ROOT / code).exists())


@cache
def words_of_the_source() -> set[str]:
    files = [path.read_text(encoding="utf-8") for part in ("src", "tests") for path in (ROOT / part).rglob("*.py")]
    names = {part for path in (ROOT / "src").rglob("*") for part in (path.stem, path.name)}
    return names.union(*(re.findall(r"\w+", text) for text in files))


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("add-a-*.md")), ids=name)
def test_names_in_the_pages_about_extensions_occur_in_the_source(path: Path) -> None:
    """A protocol's member that is renamed leaves a page that tells people to write something that nobody calls."""
    inline = re.findall(r"`([^`]+)`", path.read_text(encoding="utf-8"))
    used = {word for code in inline for word in re.findall(r"\w+", re.sub(r"<\w+>|--[\w-]+", "", code))}
    assert not sorted(
        used
        - words_of_the_source()
        - {"src", "tests", "contract", "test_formats", "py", "bash", "pytest", "my_package"}
    )


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("loraloom trian --dataset x", "no verb trian"),
        ("loraloom train --dataste x", "--dataste"),
        ("loraloom plan reed x.png", "no verb reed"),
        ("python -m benchmarks.minni --prompts 3", "no module benchmarks.minni"),
        ("python -m benchmarks.mini --promts 3", "--promts"),
    ],
)
def test_a_wrong_command_is_found(command: str, part: str) -> None:
    assert list(wrong_in(command)) == [part]
