"""Describe a settings class: one record per setting.

In: a `Settings` class. Out: its leaves in reading order, each with its dotted key, default, help, flag and a description
of the accepted values. The command line, the commented template and the error texts are made from these records, so that
they cannot disagree. Nothing here builds a validator: `--help` must stay fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from loraloom.config.base import Settings

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "a mapping"}
_PLURALS = {bool: "truth values", int: "integers", float: "numbers", str: "texts"}
_LIMITS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting.

    Attributes:
        key: Dotted path, such as `lora.rank`.
        kinds: The accepted types, without NoneType.
        optional: Whether null is accepted.
        required: Whether it has no default.
        default: The default; None when it is required.
        help: One line for the user.
        expected: Description of the accepted values: `an integer >= 1`.
        flag: Its flag on the command line, such as `--rank`; None if it has none.
        resumable: Whether a run may be resumed after this setting changed.
        title: Title of its group.
    """

    key: str
    kinds: tuple[Any, ...]
    optional: bool
    required: bool
    default: Any
    help: str
    expected: str
    flag: str | None
    resumable: bool
    title: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted words of a `Literal`; empty for other types."""
        return tuple(str(word) for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind))

    @property
    def repeats(self) -> bool:
        """Whether its value is a list."""
        return any(get_origin(kind) in (tuple, list) for kind in self.kinds)

    @property
    def is_text(self) -> bool:
        """Whether the typed text is used as the value without parsing."""
        return self.kinds == (str,)


def group_of(field: FieldInfo) -> type[Settings] | None:
    """The settings class of a field that is a group; None for a leaf."""
    kind: Any = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def title_of(kind: type[Settings]) -> str:
    """First line of the class docstring."""
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def declaring(kind: type[Settings], name: str) -> type[Settings]:
    """The class that declares a setting: `kind` itself, or a base class."""
    return next(base for base in kind.__mro__ if issubclass(base, Settings) and name in get_annotations(base))


def leaves(kind: type[Settings], prefix: str = "", instance: Settings | None = None) -> Iterator[Leaf]:
    """All settings below `kind` in reading order.

    `instance` is the group's own default; its values override the defaults of the class.
    """
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        if instance is not None:
            default = getattr(instance, name)
        group = group_of(field)
        if group is not None:
            yield from leaves(group, f"{key}.", default)
        else:
            yield _leaf(
                key, field, default, title_of(declaring(kind, name)), required=field.is_required() and instance is None
            )


def show(value: Any) -> str:
    """A value as in YAML, on one line; long texts are shortened."""
    import reprlib

    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        value = list(cast("tuple[Any, ...]", value))
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _leaf(key: str, field: FieldInfo, default: Any, title: str, *, required: bool) -> Leaf:
    extra = cast("dict[str, Any]", field.json_schema_extra or {})  # pyright: ignore[reportUnknownMemberType]
    flag = extra.get("flag")
    kinds = _kinds(field.annotation)
    optional = NoneType in kinds
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    return Leaf(
        key=key,
        kinds=kinds,
        optional=optional,
        required=required,
        default=default,
        help=field.description or "",
        expected=_expected(kinds, field.metadata, optional=optional),
        flag=flag if isinstance(flag, str) else None,
        resumable=bool(extra.get("resumable")),
        title=title,
    )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _expected(kinds: tuple[Any, ...], metadata: list[Any], *, optional: bool) -> str:
    words = " or ".join(_in_words(kind) for kind in kinds)
    limits = [f"{sign} {limit:g}" for name, sign in _LIMITS if (limit := _metadata(metadata, name)) is not None]
    if limits:
        words += " " + " and ".join(limits)
    if min_length := _metadata(metadata, "min_length"):
        words += f" of at least {min_length} " + ("character" if min_length == 1 else "characters")
    if pattern := _metadata(metadata, "pattern"):
        words += f" matching {pattern}"
    return f"{words} or null" if optional else words


def _in_words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(word) for word in arguments)
    if origin in (tuple, list):
        item = _PLURALS.get(arguments[0], "values")
        return f"a list of {item}" if origin is list or Ellipsis in arguments else f"a list of {len(arguments)} {item}"
    return _WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


def _metadata(metadata: list[Any], name: str) -> Any:
    """A limit by name, from annotated_types records or pydantic's own constraint records."""
    return next((getattr(entry, name) for entry in metadata if getattr(entry, name, None) is not None), None)
