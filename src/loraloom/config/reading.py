"""Read settings from files, flags and overrides, and write them as YAML.

In: a settings class, optionally a YAML or TOML file, values with dotted keys, and `key=value` overrides; later sources
override earlier ones. Out: the frozen settings, or one `UserError` that lists all errors.
"""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from pydantic import ValidationError

from loraloom.config.base import Settings
from loraloom.config.describing import Leaf, group_of, leaves, show, title_of
from loraloom.config.extending import complete
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, MAX_DIGITS, is_there, read_text, shown

MAX_ENTRIES = 20_000
"""Maximum number of entries of a settings file; a parser written in Python takes about a second for them."""
MAX_KEY_PARTS = 16
MAX_PROBLEMS = 20
"""Maximum number of problems that are listed; further ones are counted."""
MAX_WHOLE = 2**63 - 1
"""Largest absolute value of an integer setting: the limit of torch and numpy."""

_TOML_TEXTS = re.compile(
    r'"""(?:[^\\"]|\\.|"(?!""))*+(?:"""|$)'
    + r"|'''(?:[^']|'(?!''))*+(?:'''|$)"
    + r'|"(?:[^"\\\n]|\\.)*+"?'
    + r"|'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
_TOML_DEEP_KEY = re.compile(rf"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{MAX_KEY_PARTS}}}")
_LONG_DIGITS = re.compile(rf"(?<!\w)[\da-fA-Fxob_]{{{MAX_DIGITS}}}")
T = TypeVar("T", bound=Settings)


@dataclass(slots=True)
class _Problems:
    """The problems found so far, each with its file and line."""

    source: str
    lines: Mapping[str, int]
    given: dict[str, Any]
    """Values that did not come from the file, by dotted key."""
    found: list[str] = field(default_factory=list[str])
    num_more: int = 0
    """Problems beyond the first `MAX_PROBLEMS`."""

    @property
    def full(self) -> bool:
        """Whether further problems are only counted, because searching similar names for thousands is slow."""
        return len(self.found) >= MAX_PROBLEMS

    def add(self, key: str, text: str) -> None:
        if self.full:
            self.num_more += 1
            return
        overridden = any(key == other or key.startswith(f"{other}.") for other in self.given)
        if self.source and not overridden:
            line = f" (line {self.lines[key]})" if key in self.lines else ""
            self.found.append(f"{self.source}: {_short(key)}: {text}{line}")
        else:
            self.found.append(f"{_short(key)}: {text}")


def read_settings(
    kind: type[T], file: Path | None = None, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> T:
    """Settings of class `kind`: its defaults < `file` < `values` < `overrides`.

    Args:
        kind: The settings class.
        file: YAML (`.yaml`, `.yml`) or TOML (`.toml`) of nested groups.
        overrides: `group.key=value`, the value in YAML syntax.
        values: Dotted key -> value; a text is parsed as a number where a number is expected.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is out of range; every problem is listed.
    """
    kind = complete(kind)
    known = {leaf.key: leaf for leaf in leaves(kind)}
    tree, lines = _read_file(file) if file else ({}, dict[str, int]())
    given = dict(values or {}) | dict(_parse_override(text, known) for text in overrides)
    problems = _Problems(file.name if file else "", lines, given)
    for key, value in given.items():
        _put(tree, key, value)
    checked = _check_tree(kind, tree, known, problems)
    settings: T | None = None
    try:
        settings = kind.model_validate(checked)
    except ValidationError as error:
        _explain(error, checked, known, problems)
    if settings is not None:
        for key, value in flatten(settings).items():
            entries = cast("Iterable[Any]", value) if isinstance(value, (tuple, list)) else (value,)
            if (fault := next(filter(None, map(_unusable, entries)), None)) is not None:
                problems.add(key, f"got {show(value)}, expected {fault}")
    if problems.found or settings is None:
        _refuse(problems, kind.verb)
    return settings


def _unusable(value: Any) -> str | None:
    """The expected value, if a number or text cannot be used by any setting; otherwise None."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        return f"at most {MAX_WHOLE:,}"
    if isinstance(value, str) and "\0" in value:
        return "a text without NUL characters"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a text that UTF-8 can hold"
    return None


def flatten(settings: Settings) -> dict[str, Any]:
    """Every setting by its dotted key, in reading order; `read_settings(kind, values=...)` is the inverse."""
    flat: dict[str, Any] = {}
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if group_of(info) is None:
            flat[name] = value
        else:
            flat.update((f"{name}.{key}", inner) for key, inner in flatten(value).items())
    return flat


def to_yaml(settings: Settings) -> str:
    """The resolved settings as plain YAML; `read_settings` reads them back."""
    from loraloom.config.yaml_text import dump

    return dump(settings.model_dump())


def commented_yaml(kind: type[Settings]) -> str:
    """A template: every setting with its help, accepted values and default. Reading it gives the defaults."""
    from loraloom.config.yaml_text import dump

    kind = complete(kind)
    out = [f"# {title_of(kind)}"]
    groups: list[str] = []
    title = title_of(kind)
    for leaf in leaves(kind):
        *path, name = leaf.key.split(".")
        if not path and not groups and leaf.title != title:  # settings of an extension
            out += ["", f"# {leaf.title}"]
            title = leaf.title
        shared = _common(groups, path)
        if shared < len(path) or shared < len(groups):
            out.append("")
        for depth in range(shared, len(path)):
            note = f"  # {leaf.title}" if depth == len(path) - 1 else ""
            out.append(f"{'  ' * depth}{path[depth]}:{note}")
        groups = path
        indent = "  " * len(path)
        out.append(f"{indent}# {leaf.help} ({leaf.expected})")
        text = f"# {name}: required" if leaf.required else dump({name: leaf.default}).rstrip("\n")
        out.extend(indent + line for line in text.split("\n"))
    return "\n".join(out) + "\n"


def _common(one: list[str], other: list[str]) -> int:
    """Length of the common beginning."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


# ------------------------------------------------------------------------------------------------------------ files


def _read_file(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    if not is_there(file):
        raise UserError("the settings file does not exist", got=str(file), fix="`loraloom config` prints a template")
    if file.is_dir():
        raise UserError(
            "the settings file is a folder",
            got=str(file),
            expected="a YAML or TOML file",
            fix="give the file inside it",
        )
    if file.suffix.lower() not in (".yaml", ".yml", ".toml"):
        raise UserError("settings files are YAML or TOML", got=file.name, expected="a name that ends in .yaml or .toml")
    text = read_text(file, file.name, max_bytes=MAX_CONFIG_BYTES)
    lines: dict[str, int] = {}
    if file.suffix.lower() == ".toml":
        value: Any = _parse_toml(text.replace("\r\n", "\n"), file.name)
    else:
        from loraloom.config.yaml_text import parse

        value, lines = parse(text, file.name)
    if value is None:
        return {}, lines
    if not isinstance(value, dict):
        raise UserError(
            f"{file.name}, line 1: not settings",
            got=value[:80] if isinstance(value, str) else show(value),
            expected="groups of `key: value`",
            fix="`loraloom config` prints an example",
        )
    return cast("dict[str, Any]", value), lines


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML. A dotted key of a million parts would take the parser 4 GB, so depth and length are checked first."""
    bare = _TOML_TEXTS.sub("s", text)
    if _TOML_DEEP_KEY.search(bare):
        raise UserError(
            f"{name}: a key of more than {MAX_KEY_PARTS} parts", fix="settings have only a few levels of groups"
        )
    if _LONG_DIGITS.search(bare):
        raise UserError(f"{name}: a number of more than {MAX_DIGITS} digits", fix="shorten the number")
    if bare.count("=") + bare.count("[") + bare.count(",") > MAX_ENTRIES:
        raise UserError(f"{name}: more than {MAX_ENTRIES:,} entries", fix="check that it is a settings file")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what = str(error)[:200] if not isinstance(error, RecursionError) else "nested too deeply"
        raise UserError(f"{name}: not valid TOML: {what}", fix="check quotes and brackets at this place") from None


def _parse_override(text: str, known: Mapping[str, Leaf]) -> tuple[str, Any]:
    """`lora.rank=8` to a key and a value. A text setting takes the typed text, so that no second pair of quotes is required."""
    from loraloom.config.yaml_text import parse

    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key:
        raise UserError("not an override", got=text, expected="group.key=value")
    leaf = known.get(key)
    null = raw in ("null", "~") and leaf is not None and leaf.optional
    if leaf is not None and leaf.is_text and not null and raw[:1] not in ('"', "'"):
        return key, raw
    return key, parse(raw, text)[0]


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a group given as a mapping is merged. Conflicts are left for the check to report."""
    *path, name = key.split(".")
    for part in path:
        inner = tree.setdefault(part, {})
        if inner is None:  # an empty group in the file
            inner = tree[part] = {}
        if not isinstance(inner, dict):
            return
        tree = cast("dict[str, Any]", inner)
    old = tree.get(name)
    if isinstance(old, dict) and isinstance(value, dict):
        tree[name] = old | value
    else:
        tree[name] = value


# --------------------------------------------------------------------------------------------------------- checking


def _check_tree(
    kind: type[Settings], tree: Mapping[str, Any], known: Mapping[str, Leaf], problems: _Problems, prefix: str = ""
) -> dict[str, Any]:
    """`tree` without unknown keys, values in place of groups, and booleans in place of numbers; each is a problem."""
    checked: dict[str, Any] = {}
    for name, info in kind.model_fields.items():  # a group's own default may differ from its class's
        if isinstance(info.default, Settings) and info.default.model_fields_set:
            checked[name] = info.default.model_dump(exclude_unset=True)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        info = kind.model_fields.get(name)
        if info is None:
            problems.add(key, "" if problems.full else _unknown(key, value, kind, known))
        elif (group := group_of(info)) is not None:
            if isinstance(value, Settings):
                checked[name] = value
            elif isinstance(value, dict) or value is None:
                inner = cast("dict[str, Any]", value or {})
                checked[name] = checked.get(name, {}) | _check_tree(group, inner, known, problems, f"{key}.")
            else:
                expected = "a group of settings: " + ", ".join(group.model_fields)
                problems.add(key, f"got {show(value)}, expected {expected}")
        elif isinstance(value, bool) and bool not in known[key].kinds:
            problems.add(key, f"got {show(value)}, expected {known[key].expected}")
        else:
            checked[name] = value
    return checked


def _unknown(key: str, value: Any, kind: type[Settings], known: Mapping[str, Leaf]) -> str:
    name = key.rpartition(".")[2]
    if name in kind.renamed:
        return f"renamed to {kind.renamed[name]!r}, got {show(value)}"
    siblings = list(kind.model_fields)
    homes = [other for other in known if other.rpartition(".")[2] == name]
    if homes:
        near = get_close_matches(name, siblings, n=1, cutoff=0.8)
        hint = f"{name} belongs to " + " or ".join(homes)
        hint = f"did you mean {near[0]!r}? {hint}" if near else hint
    elif get_close_matches(name, siblings, n=1, cutoff=0.5):
        hint = did_you_mean(name, siblings)
    else:
        tails = {other.rpartition(".")[2]: other for other in known}
        near = get_close_matches(name, tails, n=1, cutoff=0.75)
        hint = f"did you mean {tails[near[0]]!r}?" if near else did_you_mean(name, siblings)
    if isinstance(value, dict):
        return f"unknown group ({hint})"
    return f"unknown ({hint}), got {show(value)}"


def _explain(
    error: ValidationError, checked: Mapping[str, Any], known: Mapping[str, Leaf], problems: _Problems
) -> None:
    """Add one problem for each setting that pydantic refused, even if it gave several reasons."""
    wrong_before = bool(problems.found)
    explained: set[str] = set()
    for detail in error.errors(include_url=False):
        path = [str(part) for part in detail["loc"]]
        key = next((cut for n in range(len(path), 0, -1) if (cut := ".".join(path[:n])) in known), ".".join(path))
        if key in explained:
            continue
        explained.add(key)
        if detail["type"] in ("value_error", "assertion_error"):
            message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            if key in known:
                problems.add(key, f"got {show(_get(checked, key))}, {message}")
            elif not wrong_before:  # settings that are valid alone but not together
                problems.found.append(f"{problems.source}: {message}" if problems.source else message)
        elif detail["type"] == "missing" and key == ".".join(path):
            problems.add(key, f"required, expected {known[key].expected}")
        else:
            expected = known[key].expected if key in known else detail["msg"]
            value = _get(checked, key)
            quotes = "; write it in quotes" if known[key].is_text and isinstance(value, (int, float)) else ""
            problems.add(key, f"got {show(value)}, expected {expected}{quotes}")


def _get(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = cast("dict[str, Any]", value)[part]
    return value


def _refuse(problems: _Problems, verb: str) -> NoReturn:
    fix = f"`loraloom config {verb}` prints every setting with its limits"
    found, count = problems.found, len(problems.found) + problems.num_more
    if count == 1:
        raise UserError(found[0], fix=fix)
    more = [f"and {problems.num_more:,} more"] if problems.num_more else []
    raise UserError("\n  ".join([f"{count:,} settings are invalid", *found, *more]), fix=fix)


def _short(key: str) -> str:
    """A key for an error line: printable and short."""
    return key if key.isprintable() and len(key) <= 80 else str(shown(key))
