"""Add the settings of extensions to the settings of a verb.

In: a verb's settings class that derives from `Extended`. Out: the same class with the fields of every extension's
`settings`, on one flat level, so that flags, template, reading, errors and records treat them as the verb's own. A key or
flag belongs to one extension; extensions share one by inheriting from one class (`protocols.settings.CaptionFiles`).
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import create_model

from loraloom import plugins
from loraloom.config.describing import declaring, group_of, leaves
from loraloom.protocols.settings import Settings
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown

T = TypeVar("T", bound=Settings)

_WORDS = {
    "formats": ("layout", "--format"),
    "captioners": ("captioner", "--captioner"),
    "domains": ("domain", "--domain"),
    "metrics": ("metric", "--metrics"),
}
"""Kind of extensions -> its name for users, and the flag that selects one."""


class Extended(Settings):
    """A verb's settings to which extensions add theirs. An instance always has the settings of all extensions.

    Attributes:
        extension_kinds: Kinds of extensions whose settings are added.
    """

    extension_kinds: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, **values: Any) -> Self:
        """An instance of the class with all settings."""
        return super().__new__(complete(cls))

    def __reduce__(self) -> tuple[Any, ...]:
        kind = next(base for base in type(self).__mro__ if "extension_kinds" in vars(base))
        return _rebuild, (kind, self.model_dump(exclude_unset=True))


def _rebuild(kind: type[T], values: dict[str, Any]) -> T:
    return kind(**values)


def complete(kind: type[T]) -> type[T]:
    """`kind` with the settings of extensions. Other settings classes, and complete ones, are returned unchanged.

    Raises:
        UserError: Two extensions declare the same key or flag differently, or one declares a key or flag of the verb.
    """
    if "extension_kinds" not in vars(kind) or not issubclass(kind, Extended):
        return kind
    return _complete(kind)  # pyright: ignore[reportReturnType]


@cache
def _complete(kind: type[Extended]) -> type[Extended]:
    keys = {name: (declaring(kind, name), f"`{kind.verb}` itself") for name in kind.model_fields}
    flags = {leaf.flag: leaf.key for leaf in leaves(kind) if leaf.flag}
    found: list[type[Settings]] = []
    for extension_kind in kind.extension_kinds:
        for name in plugins.names(extension_kind):
            owner = f"{name} ({plugins.origin(extension_kind, name)})"
            settings = _declared(plugins.load(extension_kind, name), extension_kind, owner)
            if settings is None:
                continue
            for leaf in leaves(settings):
                home = declaring(settings, leaf.key)
                other, other_owner = keys.setdefault(leaf.key, (home, owner))
                if other is not home:
                    raise _clash(f"the setting {leaf.key!r}", other_owner, owner)
                if leaf.flag and flags.setdefault(leaf.flag, leaf.key) != leaf.key:
                    raise _clash(f"the flag {leaf.flag}", keys[flags[leaf.flag]][1], owner)
            found.append(settings)
    # A base class of another class in the list is left out. Field order is that of the bases from last to first.
    bases = [one for one in dict.fromkeys(found) if not any(one is not two and issubclass(two, one) for two in found)]
    parents: Any = (*reversed(bases), kind)
    made: Any = create_model(kind.__name__, __base__=parents, __module__=kind.__module__, __doc__=kind.__doc__)
    return made


def _declared(extension: Any, kind: str, owner: str) -> type[Settings] | None:
    """The settings class of an extension.

    Raises:
        UserError: It is not a settings class, has groups, or has a setting without a default.
    """
    settings: Any = getattr(extension, "settings", None)
    if settings is None:
        return None
    fix = "see `Settings` in protocols/settings.py; update or uninstall the extension"
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise UserError(
            f"the settings of {owner} are not a subclass of Settings", got=shown(cast("object", settings)), fix=fix
        )
    for key, field in settings.model_fields.items():
        if field.is_required() or group_of(field) is not None:
            what = "has no default" if field.is_required() else "is a group"
            raise UserError(f"the setting {key!r} of {owner} {what}", fix=fix)
    if kind == "domains" and not hasattr(extension, "configured"):
        raise UserError(f"the domain {owner} has settings but no method `configured`", fix=fix)
    return settings


def options_of(config: Settings, extensions: Iterable[Any]) -> dict[str, Any]:
    """The values of the settings that these extensions declare, by key."""
    return {key: getattr(config, key) for extension in extensions for key in _keys(extension)}


def unused_lines(config: Extended, used: Mapping[str, Any]) -> list[str]:
    """One line for each setting that the user gave and that no extension in use declares.

    Args:
        config: A setting counts as given if its value is not the default.
        used: Kind -> the extension of this kind that is in use.
    """
    known = {key for extension in used.values() for key in _keys(extension)}
    lines: dict[str, str] = {}
    for kind, extension in used.items():
        noun, flag = _WORDS[kind]
        for name in plugins.names(kind):
            for leaf in leaves(getattr(plugins.load(kind, name), "settings", Settings)):
                if leaf.key not in known and getattr(config, leaf.key) != leaf.default:
                    what = f"{leaf.flag or leaf.key} is not used: the {noun} {extension.name} has no such setting"
                    lines.setdefault(leaf.key, f"{what}; choose another one with {flag}")
    return list(lines.values())


def _keys(extension: Any) -> Iterable[str]:
    settings = getattr(extension, "settings", None)
    return settings.model_fields if settings is not None else ()


def _clash(what: str, one: str, other: str) -> UserError:
    return UserError(
        f"{what} has two declarations",
        got=plugins.Origins((one, other)),
        fix="uninstall one of them; its author can prefix the key with the name of the extension",
    )
