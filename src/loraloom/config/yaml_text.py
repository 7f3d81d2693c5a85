"""Read and write YAML 1.2 as plain values, with the line of every key.

In: YAML text. Out: plain values and the line of every key; or values to YAML text.

Scalars follow the core schema of YAML 1.2: `1e-4` and `010` are numbers, and only `true` and `false` are truth values.
A duplicate key is an error. ruamel.yaml reads the text into nodes; values are built here, so that no tag of a document
builds an object.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (ruamel.yaml is annotated in part)

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver, implicit_resolvers
from ruamel.yaml.scanner import Scanner, ScannerError

from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import MAX_DEPTH, MAX_DIGITS, shown

MAX_NODES = 10_000
"""Maximum number of keys and values of a document, expanded aliases included; reading them takes about two seconds."""
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
_IMPLICIT: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _name, _pattern, _letters in _SCALARS:
    for _letter in _letters:
        _IMPLICIT.setdefault(_letter, []).append((f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z")))


class _Resolver(VersionedResolver):
    """The core schema for every document, whatever its `%YAML` line says: no dates, no `1_000`, no merge keys."""

    @property
    def versioned_resolver(self) -> Any:
        return _IMPLICIT


class _Scanner(Scanner):
    """As the library's, but refuses long tags: decoding a tag of a megabyte would take 15 seconds."""

    def scan_tag_uri(self, name: Any, start_mark: Any) -> Any:
        uri = super().scan_tag_uri(name, start_mark)
        if len(uri) > MAX_DIGITS:
            raise ScannerError(problem=f"a tag of more than {MAX_DIGITS} characters", problem_mark=start_mark)
        return uri


class _Composer(Composer):
    """As the library's, up to `MAX_NODES` and `MAX_DEPTH`."""

    num_nodes = 0
    num_open = 0

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # duplicate anchors are legal YAML

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.num_nodes += 1
        self.num_open += 1
        if self.num_nodes > MAX_NODES:
            raise ComposerError(problem=f"more than {MAX_NODES:,} entries", problem_mark=self._mark())
        if self.num_open > MAX_DEPTH:
            raise ComposerError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=self._mark())
        node = super().compose_node(parent, index)
        self.num_open -= 1
        return node

    def _mark(self) -> Any:
        return self.parser.peek_event().start_mark


class _Representer(SafeRepresenter):
    """Writes YAML that 1.1 and 1.2 read alike; lists of numbers on one line; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> SequenceNode:
        flow_style = not any(isinstance(item, str) for item in data)
        return self.represent_sequence(f"{_TAG}seq", data, flow_style=flow_style)

    def represent_float(self, data: Any) -> ScalarNode:
        node = super().represent_float(data)
        if "." not in node.value:
            node.value = node.value.replace("e", ".0e")
        return node

    def represent_str(self, data: Any) -> ScalarNode:
        style = None
        if not data.isprintable():  # a line break of any kind (U+0085, U+2028) would be folded away in the other styles
            style = '"'
        elif any(pattern.match(data) for versions, _, pattern, _ in implicit_resolvers if (1, 1) in versions):
            style = "'"
        return self.represent_scalar(f"{_TAG}str", data, style=style)


_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)


def parse(text: str, name: str) -> tuple[Any, dict[str, int]]:
    """The value of one YAML document, and the line (from 1) of every dotted key.

    Args:
        text: The document.
        name: What errors call it.

    Raises:
        UserError: Not YAML, a duplicate key, or a tag that would build something else than plain values.
    """
    if text.count("\n%") > MAX_DIRECTIVES:
        raise UserError(f"{name}: not valid YAML: too many lines begin with %", fix="check that it is a settings file")
    try:
        node = _yaml().compose(text)
        if node is None:
            return None, {}
        _check_aliases(node)
        lines: dict[str, int] = {}
        _note_lines(node, "", lines, depth=8)
        return _value(node), lines
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{name}, line {line}: a character that YAML does not allow",
            got=text[error.position],
            fix="delete it, or write it as an escape in double quotes",
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        what = error.problem or error.context or "cannot be read"
        raise UserError(f"{where}: not valid YAML: {what}", fix=_fix(what)) from None
    except (YAMLError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Internal errors of the library on texts that are not YAML, such as a tag without a handle.
        raise UserError(f"{name}: not valid YAML: {type(error).__name__}", fix="write plain nested settings") from None


def dump(value: Mapping[str, Any]) -> str:
    """Block-style YAML of nested mappings, in their order; `parse` gives the same values back."""
    out = io.StringIO()
    _yaml().dump(_plain(value), out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.Scanner = _Scanner
    yaml.Composer = _Composer
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.width = 1_000_000
    return yaml


def _fix(what: str) -> str:
    if "\\t" in what or "\t" in what:
        return "indent with blanks, not with tabs"
    if "duplicate" in what:
        return "keep one of the two"
    if "tag" in what:
        return "write plain values only"
    return "check indentation, colons and quotes there"


def _fault(problem: str, node: Node) -> ComposerError:
    return ComposerError(problem=problem, problem_mark=node.start_mark)


def _note_lines(node: Any, prefix: str, lines: dict[str, int], depth: int) -> None:
    if not isinstance(node, MappingNode) or depth == 0:
        return
    for key, value in node.value:
        if isinstance(key, ScalarNode):
            lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
            _note_lines(value, f"{prefix}{key.value}.", lines, depth - 1)


def _check_aliases(root: Any) -> None:
    """Refuse cyclic aliases, and aliases that expand to more than `MAX_NODES` values in total."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Any) -> int:
        if isinstance(node, ScalarNode):
            return 1
        if id(node) in open_:
            raise _fault("an alias to what it stands in", node)
        if id(node) not in sizes:
            open_.add(id(node))
            inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(node)] = 1 + sum(size(part) for part in inner)
            open_.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise _fault("aliases of aliases without end", root)


def _value(node: Any) -> Any:
    tag = str(node.tag).removeprefix(_TAG)
    if isinstance(node, MappingNode) and tag == "map":
        return _mapping(node)
    if isinstance(node, SequenceNode) and tag == "seq":
        return [_value(item) for item in node.value]
    if isinstance(node, ScalarNode) and tag in _SCALAR_VALUES:
        try:
            return _SCALAR_VALUES[tag](_checked(node, tag))
        except ValueError:
            raise _fault(f"{shown(node.value)} is no {tag}", node) from None
    raise _fault(f"a value with the tag {shown(str(node.tag))}", node)


def _mapping(node: MappingNode) -> dict[str, Any]:
    values: dict[str, Any] = {}
    first: dict[str, int] = {}
    for key_node, value in node.value:
        key = _value(key_node)
        if not isinstance(key, str):
            raise _fault(f"a key must be a word, got {shown(key)}", key_node)
        if key.endswith(":") and not key_node.style:  # the library reads the colon of `{rank:}` as part of the key
            raise _fault(f"no blank between {shown(key)} and its value", key_node)
        if key in first:
            raise _fault(f"duplicate key {shown(key)}, first on line {first[key]}", key_node)
        first[key] = key_node.start_mark.line + 1
        values[key] = _value(value)
    return values


def _checked(node: ScalarNode, tag: str) -> str:
    """The text of a scalar; a number of thousands of digits is refused before it is parsed."""
    text = str(node.value)
    if tag in {"int", "float"} and len(text) > MAX_DIGITS:
        raise _fault(f"a number of more than {MAX_DIGITS} digits", node)
    return text


def _bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return text.lower() == "true"


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _null(text: str) -> None:
    del text


_SCALAR_VALUES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "null": _null,
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
