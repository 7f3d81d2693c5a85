"""The rules of the house, held by reading the source: who imports whom, how large a thing grows, what is never used.

The order of the rooms is a list below; a new room gets a line there, a new extension needs none.
"""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "loraloom"
FILES = sorted(SOURCE.rglob("*.py"))

LEAVES = {"loraloom", "protocols", "utils", "plugins"}
"""What any room and any extension may import. They import each other only."""

ALSO = {"families": {"models"}}
"""Rooms that extensions of a kind may import beside those: a family keeps its modules in the one module store."""

LEVELS: list[set[str]] = [
    {"loraloom", "utils", "protocols"},
    {"plugins"},
    {"config"},
    {"models", "diffusion", "prompts", "lora", "tracking"},
    {"data", "prepare"},
    {"generate"},
    {"verify"},
    {"evaluate"},
    {"train"},
    {"cluster", "serve"},
    {"compat", "cli", "__main__"},
]
"""Each room imports rooms of lower levels and not its neighbours."""

NEIGHBOURS = {
    ("utils", "loraloom"),
    ("protocols", "utils"),
    ("utils", "protocols"),
    ("prepare", "data"),
    ("__main__", "cli"),
}
"""Imports within a level that are meant."""

ONLY_IN = {
    "accelerate": ["train/distributed.py"],
    "jinja2": ["utils/html_pages.py"],
    "peft": ["lora/"],
    "ruamel": ["config/yaml_text.py"],
    "diffusers": ["extensions/families/", "extensions/captioners/", "extensions/metrics/", "utils/quiet.py"],
    "transformers": ["extensions/families/", "extensions/captioners/", "extensions/metrics/", "utils/quiet.py"],
}
"""Libraries that are imported in one place each, so that a new version of one touches one place."""

ALLOWED_NAMES = {"cli/quickstart.py"}
"""Programs about one domain: the quickstart is the floor-plan showpiece."""

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = {"train/loop.py": 90}
MAX_FUNCTION_LINES_ELSEWHERE = 80

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def short(path: Path) -> str:
    """Path below `src/loraloom`, `/` between parts."""
    return path.relative_to(SOURCE).as_posix()


def room(path: Path) -> str:
    """First part of the path: a folder's or a module's name."""
    return "loraloom" if path == SOURCE / "__init__.py" else short(path).split("/")[0].removesuffix(".py")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file is parsed once for all rules."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file."""
    return tuple(ast.walk(tree_of(path)))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, tree_of(path)


@functools.cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and full name of every import, inside functions too; `from a import b` gives `a.b`."""
    package = ["loraloom", *short(path).split("/")[:-1]]
    found: list[tuple[int, str]] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            found += [(node.lineno, ".".join([*base, name.name])) for name in node.names]
    return tuple(found)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a call's function, as far as it is names."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def target_room(name: str) -> str:
    """The room that an import of ours points into."""
    parts = name.split(".")
    if len(parts) == 1 or not ((SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").is_file()):
        return "loraloom"  # `from loraloom import __version__`
    return parts[1]


def test_every_room_has_its_place_in_the_order() -> None:
    placed = set().union(*LEVELS) | {"extensions"}
    assert {room(path) for path in FILES} <= placed


def test_rooms_import_only_rooms_below_them() -> None:
    level = {name: index for index, names in enumerate(LEVELS) for name in names}
    wrong: list[str] = []
    for path in FILES:
        here = room(path)
        if here == "extensions":
            continue
        for line, name in imports(path):
            if name.split(".")[0] != "loraloom":
                continue
            there = target_room(name)
            below = there in level and level[there] < level[here]
            if not (below or there == here or (here in LEAVES and there in LEAVES) or (here, there) in NEIGHBOURS):
                wrong.append(f"{short(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_an_extension_imports_leaves_and_its_own_folder_only() -> None:
    wrong: list[str] = []
    for path in FILES:
        parts = short(path).split("/")
        if parts[0] != "extensions" or len(parts) < 3:
            continue
        own = f"loraloom.extensions.{parts[1]}.{parts[2].removesuffix('.py')}"
        shared = f"loraloom.extensions.{parts[1]}._"
        for line, name in imports(path):
            if name.split(".")[0] != "loraloom" or target_room(name) in LEAVES | ALSO.get(parts[1], set()):
                continue
            if not (name == own or name.startswith((f"{own}.", shared))):
                wrong.append(f"{short(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_an_extension_but_the_registry() -> None:
    wrong = [
        f"{short(path)}:{line} imports {name}"
        for path in FILES
        if room(path) != "extensions"
        for line, name in imports(path)
        if name.startswith("loraloom.extensions")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_in_its_one_place(library: str) -> None:
    wrong = [
        f"{short(path)}:{line} imports {name}"
        for path in FILES
        for line, name in imports(path)
        if name.split(".")[0] == library and not short(path).startswith(tuple(ONLY_IN[library]))
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_fit_in_one_reading() -> None:
    counts = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in counts.items() if count > MAX_MODULE_LINES}


def test_functions_fit_on_a_screen() -> None:
    wrong: list[str] = []
    for path in FILES:
        limit = MAX_FUNCTION_LINES.get(short(path), MAX_FUNCTION_LINES_ELSEWHERE)
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > limit:
                    wrong.append(f"{short(path)}:{node.lineno} {node.name} has {length} lines, limit {limit}")
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    assert not [short(path) for path, tree in trees() if not (ast.get_docstring(tree) or "").strip()]


def test_nothing_from_outside_is_ever_executed() -> None:
    wrong: list[str] = []
    for path in FILES:
        for line, name in imports(path):
            if name.split(".")[0] in FORBIDDEN_IMPORTS:
                wrong.append(f"{short(path)}:{line} imports {name}")
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            keywords = {word.arg: word.value for word in node.keywords}
            called = dotted(node.func)
            if called in FORBIDDEN_CALLS:
                wrong.append(f"{short(path)}:{node.lineno} calls {called}")
            if isinstance(shell := keywords.get("shell"), ast.Constant) and shell.value:
                wrong.append(f"{short(path)}:{node.lineno} starts a shell")
            if called == "torch.load":
                safe = keywords.get("weights_only")
                if not (isinstance(safe, ast.Constant) and safe.value is True):
                    wrong.append(f"{short(path)}:{node.lineno} calls torch.load without weights_only=True")
            trusts = keywords.get("trust_remote_code")
            if isinstance(trusts, ast.Constant) and trusts.value:
                wrong.append(f"{short(path)}:{node.lineno} trusts remote code")
    assert not wrong, "\n".join(wrong)


def test_no_function_rewrites_a_module() -> None:
    """Module state that changes makes two runs in one process see each other: `global` is how it would be written."""
    wrong = [
        f"{short(path)}:{node.lineno} global {', '.join(node.names)}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Global)
    ]
    assert not wrong, "\n".join(wrong)


def modules() -> dict[str, Path]:
    """Full name of every module to its file."""
    return {
        ".".join(["loraloom", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in FILES
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count: a cycle that is hidden in one is still a cycle to whoever reads."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = [target for _, target in imports(path)]
        found = {target if target in known else target.rpartition(".")[0] for target in targets}
        edges[name] = {target for target in found if target in known and target != name}
    for cycle in cycles(edges):
        raise AssertionError(" -> ".join([*cycle, cycle[0]]))


def cycles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Modules that can reach themselves, one list for each knot (Tarjan 1972), without packages' own `__init__`."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    knots: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            knot = [stack.pop()]
            while knot[-1] != node:
                knot.append(stack.pop())
            if len(knot) > 1:
                knots.append(knot[::-1])

    for node in sorted(edges):
        if node not in order:
            visit(node)
    yield from knots


def test_the_tree_of_the_architecture_page_is_made_from_the_docstrings() -> None:
    made = subprocess.run([sys.executable, str(ROOT / "scripts" / "architecture_tree.py"), "--check"], check=False)
    assert made.returncode == 0, "run: python scripts/architecture_tree.py"


def test_every_module_can_be_told_in_a_phrase() -> None:
    short_ones = [short(path) for path, tree in trees() if len((ast.get_docstring(tree) or "").strip()) < 10]
    assert not short_ones


def test_shared_code_names_no_domain_and_no_family() -> None:
    """What one extension is about stays in its folder: a second one would need an edit elsewhere."""
    families = "|".join(
        path.name for path in (SOURCE / "extensions" / "families").iterdir() if path.name[0] not in "_."
    )
    wrong = [
        f"{short(path)}:{number} {line.strip()[:80]}"
        for path in FILES
        if room(path) != "extensions" and short(path) not in ALLOWED_NAMES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(rf"(?i:floor.?plan|\bsjh\b)|\b({families})\b", line)
    ]
    assert not wrong, "\n".join(wrong)


def test_shared_code_asks_for_parts_of_a_model_by_their_role() -> None:
    """A part's name is its family's own: a model may have three text encoders and no UNet."""
    wrong = [
        f"{short(path)}:{number} {line.strip()[:80]}"
        for path in FILES
        if room(path) != "extensions"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"modules\.\w+\(\s*[\"']|for part in \([\"']", line)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_model_answers_at_most_fourteen_questions() -> None:
    tree = tree_of(SOURCE / "protocols" / "model.py")
    model = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DiffusionModel")
    members = [node for node in model.body if isinstance(node, (ast.FunctionDef, ast.AnnAssign))]
    assert len(members) <= 14
