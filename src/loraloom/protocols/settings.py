"""Settings that a verb or an extension declares: strict, frozen, and one truth for each setting.

Default, unit, limit and help stand on the field; the command line, the commented YAML and the docs are made from them.
A field with a `flag` in its extras also answers to that short name on the command line.

An extension with settings of its own carries its class as `settings`; `config.extending` adds them to the verb's. Settings
that several extensions share are one class here, which theirs inherit.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from loraloom.utils.listing import IMAGE_SUFFIXES, TABLE_SUFFIXES
from loraloom.utils.safe_paths import encoding_problem


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


class TextEncoding(Settings):
    """Settings of layouts that read texts."""

    encoding: str = setting(
        "", "how captions and tables are saved where not in UTF-8, such as cp949 or utf-16-le", flag="--encoding"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and (problem := encoding_problem(name)):
            expected = "a name as Python has it: cp949 (Korean), cp932 (Japanese), gb18030 (Chinese), cp1252, utf-16-le"
            raise ValueError(f"expected {expected} ({problem})")
        return name


class CaptionFiles(TextEncoding):
    """Settings of layouts with caption files."""

    caption_suffix: tuple[str, ...] = setting(
        (),
        "endings of caption files that are looked for before .txt and .caption, such as .tags; repeat it, or use commas",
        flag="--caption-suffix",
    )

    @field_validator("caption_suffix")
    @classmethod
    def _endings(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        """`tags`, `.tags` and `*.tags` are one; `_caption.txt` stays as it is; `a,b` are two."""
        return tuple(_ending(part) for text in texts for part in text.split(",") if part.strip())


def _ending(text: str) -> str:
    text = text.strip().removeprefix("*")
    if "/" in text or "\\" in text or not text:
        raise ValueError("expected the end of a file name, such as .tags or _caption.txt")
    suffix = f".{text}" if text[0].isalnum() else text
    ending = f".{suffix.rpartition('.')[2].lower()}"
    if ending in TABLE_SUFFIXES | IMAGE_SUFFIXES:
        raise ValueError(
            f"expected the ending of a text: {suffix!r} is that of a table or an image;"
            " write the captions to .txt files, or to one metadata.jsonl"
        )
    return suffix
