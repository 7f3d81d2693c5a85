"""What every settings class shares: strict, frozen, and one truth for each setting.

Default, unit, limit and help stand on the field; the command line, the commented YAML and the docs are made from them.
A field with a `flag` in its extras also answers to that short name on the command line.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A group of settings. An unknown key is an error; a value never changes after construction.

    Attributes:
        verb: Of the command that takes the whole tree.
    """

    verb: ClassVar[str] = "train"

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, validate_default=False)


def setting(default: Any, help: str, *, flag: str | None = None, resumable: bool = False, **limits: Any) -> Any:  # noqa: A002
    """A field with its help.

    Args:
        default: The value when nothing is said; `...` makes the field required.
        help: One line: what it does, with its unit.
        flag: Short name on the command line, such as `--rank`.
        resumable: Whether a run may go on after this setting was changed, because it does not touch what is learned.
        limits: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`, `pattern`.
    """
    extra: dict[str, Any] = {"resumable": resumable}
    if flag:
        extra["flag"] = flag
    return Field(default=default, description=help, json_schema_extra=extra, **limits)
