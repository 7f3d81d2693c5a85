"""YAML as people expect it, in both directions.

In: YAML text. Out: plain values and the line of every key; and the way back.

PyYAML speaks YAML 1.1, in which `lr: 1e-4` is a text, `no` is False and `010` is eight. Scalars here follow the core
schema of YAML 1.2: `1e-4` is a number, and only `true` and `false` are truth values. A key that
stands twice is an error.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of PyYAML are partial)

import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import yaml

from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import MAX_DIGITS, shown

MAX_NODES = 10_000
"""Keys and values of a document, those that aliases stand for counted each time: PyYAML takes a second for as many."""
MAX_DIRECTIVES = 100

_TAG = "tag:yaml.org,2002:"
_FIRST = "-+.0123456789"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _FIRST),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        _FIRST,
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """Safe constructors only, scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own way; filled once below
    # Dates, sets and bytes are no settings; filled once below.
    yaml_constructors: dict[Any, Any] = {}  # noqa: RUF012  # pyright: ignore[reportIncompatibleVariableOverride]

    num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the library's, up to `MAX_NODES`."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} entries")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> Any:
        """As the library's; a number of thousands of digits is refused before it is one."""
        node = super().compose_scalar_node(anchor)
        if len(node.value) > MAX_DIGITS and node.tag in {f"{_TAG}int", f"{_TAG}float"}:
            self._refuse(f"a number of more than {MAX_DIGITS} digits")
        return node

    def _refuse(self, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, self.peek_event().start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that either version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse(text: str, name: str) -> tuple[Any, dict[str, int]]:
    """The value of one YAML document, and the line (from 1) of every dotted key.

    Args:
        text: The document.
        name: What errors call it.

    Raises:
        UserError: Not YAML, a key that stands twice, or a tag that would build something else than plain values.
    """
    if text.count("\n%") > MAX_DIRECTIVES:
        raise UserError(f"{name}: not valid YAML: too many lines begin with %", fix="check that it is a settings file")
    loader = _open(text, name)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _check_aliases(node)
        lines: dict[str, int] = {}
        _note_lines(node, "", lines, depth=8)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        what = error.problem or error.context or "cannot be read"
        raise UserError(f"{where}: not valid YAML: {what}", fix=_fix(what)) from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name}: not valid YAML: {type(error).__name__}", fix="write plain nested settings") from None
    finally:
        loader.dispose()


def dump(value: Mapping[str, Any]) -> str:
    """Block-style YAML of nested mappings, in their order; `parse` gives the same values back."""
    return yaml.dump(_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _open(text: str, name: str) -> _Loader:
    try:
        return _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{name}, line {line}: a character that YAML does not allow",
            got=text[error.position],
            fix="delete it, or write it as an escape in double quotes",
        ) from None


def _fix(what: str) -> str:
    if "\\t" in what or "\t" in what:
        return "indent with blanks, not with tabs"
    if "twice" in what:
        return "keep one of the two"
    if "tag" in what:
        return "write plain values only"
    return "check indentation, colons and quotes there"


def _note_lines(node: Any, prefix: str, lines: dict[str, int], depth: int) -> None:
    if not isinstance(node, yaml.MappingNode) or depth == 0:  # an alias may make a circle
        return
    for key, value in node.value:
        lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
        _note_lines(value, f"{prefix}{key.value}.", lines, depth - 1)


def _check_aliases(root: Any) -> None:
    """Refuse circles, and aliases that stand for more than `MAX_NODES` in all: nine of nine of nine, and so on."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Any) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in open_:
            raise yaml.constructor.ConstructorError(None, None, "an alias to what it stands in", node.start_mark)
        if id(node) not in sizes:
            open_.add(id(node))
            inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(node)] = 1 + sum(size(part) for part in inner)
            open_.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise yaml.constructor.ConstructorError(None, None, "aliases of aliases without end", root.start_mark)


def _mapping(loader: _Loader, node: Any) -> dict[str, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            problem = f"a key must be a word, got {shown(key)}"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        if key in seen:
            problem = f"the key {shown(key)} stands twice, first on line {seen[key]}"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen[key] = line
    return cast("dict[str, Any]", loader.construct_mapping(node, deep=True))


def _bool(loader: _Loader, node: Any) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return text == "true"


def _int(loader: _Loader, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(loader: _Loader, node: Any) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    # Numbers fit on a line; texts get a line each.
    return dumper.represent_sequence(f"{_TAG}seq", value, flow_style=not any(isinstance(item, str) for item in value))


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    # A line break of any kind (U+0085, U+2028) would be folded away in the other styles.
    return dumper.represent_scalar(f"{_TAG}str", value, style=None if value.isprintable() else '"')


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


for _name, _pattern, _letters in _SCALARS:
    _expression = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _expression, list(_letters))
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", _expression, list(_letters))
_Loader.yaml_constructors = {
    tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (f"{_TAG}seq", f"{_TAG}str", f"{_TAG}null", None)
}
_Loader.add_constructor(f"{_TAG}map", _mapping)
_Loader.add_constructor(f"{_TAG}bool", _bool)
_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}float", _float)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
