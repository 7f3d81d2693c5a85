"""Settings that a verb or an extension declares: strict, frozen, each defined in one place.

Default, unit, limit and help are on the field; the command line, the commented YAML and the docs are made from them.
A field with a `flag` in its extras also answers to that short name on the command line.

An extension with settings of its own carries its class as `settings`; `config.extending` adds them to the verb's. Settings
that several extensions share are one class here, which theirs inherit.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from loraloom.utils.listing import IMAGE_SUFFIXES, TABLE_SUFFIXES
from loraloom.utils.safe_paths import encoding_problem


class Settings(BaseModel):
    """A group of settings. An unknown key is an error; a value never changes after construction.

    Attributes:
        verb: Name of the command that takes the whole tree.
        renamed: Former name of a setting -> its name. The former name, in a file or as a flag, is an error with the new one.
    """

    verb: ClassVar[str] = "train"
    renamed: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, validate_default=False)


def setting(default: Any, help: str, *, flag: str | None = None, resumable: bool = False, **limits: Any) -> Any:  # noqa: A002
    """A settings field with its help.

    Args:
        default: The default value; `...` makes the field required.
        help: One full sentence: what it does, with unit, range and the meaning of special values.
        flag: Short name on the command line, such as `--rank`.
        resumable: Whether a run may be resumed after this setting changed: it does not affect what is learned.
        limits: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`, `pattern`.
    """
    extra: dict[str, Any] = {"resumable": resumable}
    if flag:
        extra["flag"] = flag
    return Field(default=default, description=help, json_schema_extra=extra, **limits)


class TextEncoding(Settings):
    """Settings of layouts that read texts."""

    encoding: str = setting(
        "",
        "Encoding of captions and tables that are not UTF-8, such as cp949 or utf-16-le; empty: UTF-8.",
        flag="--encoding",
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and (problem := encoding_problem(name)):
            expected = "a name as Python has it: cp949 (Korean), cp932 (Japanese), gb18030 (Chinese), cp1252, utf-16-le"
            raise ValueError(f"expected {expected} ({problem})")
        return name


class CaptionColumn(TextEncoding):
    """Settings of layouts with a table of captions."""

    caption_column: str = setting(
        "text", "Column of captions in a table, or key of them in a JSON file of a shard.", flag="--caption-column"
    )


class PackedImages(CaptionColumn):
    """Settings of layouts whose images lie inside tables."""

    image_column: str = setting(
        "", "Column of images in a Parquet or Arrow table; empty: the only column of images.", flag="--image-column"
    )


class CaptionFiles(TextEncoding):
    """Settings of layouts with caption files."""

    caption_suffix: tuple[str, ...] = setting(
        (),
        "Suffix of caption files, such as .tags; takes precedence over .txt and .caption; may be repeated or use commas.",
        flag="--caption-suffix",
    )

    @field_validator("caption_suffix")
    @classmethod
    def _endings(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        """`tags` and `*.tags` become `.tags`; `_caption.txt` is unchanged; `a,b` becomes two suffixes."""
        return tuple(_ending(part) for text in texts for part in text.split(",") if part.strip())


class CaptionModel(Settings):
    """Settings of captioners that run a model."""

    caption_model: str = setting(
        "", "Model that writes captions: hub id or folder; empty: the captioner's default.", flag="--caption-model"
    )
    caption_device: str = setting(
        "auto", "Device of the captioning model: auto, cpu, cuda, cuda:1 or mps.", flag="--caption-device"
    )
    caption_dtype: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "Dtype of the captioning model; auto: bf16 on a GPU that has it, otherwise fp32.",
        flag="--caption-dtype",
    )
    caption_max_tokens: int = setting(
        75,
        "Maximum length of a generated caption in tokens of the captioning model.",
        flag="--caption-max-tokens",
        ge=1,
        le=2048,
    )
    caption_beams: int = setting(
        1, "Beams of the search for the most probable caption; 1: greedy search.", flag="--caption-beams", ge=1, le=32
    )
    caption_temperature: float = setting(
        1.0,
        "Temperature of the further captions of an image, which are sampled; lower: closer to the first one.",
        flag="--caption-temperature",
        gt=0,
        le=10,
    )
    caption_prompt: str = setting(
        "",
        "Prompt of the captioning model; {trigger}, {folder}, {stem}, {text} are replaced; empty: the captioner's default.",
        flag="--caption-prompt",
    )


def _ending(text: str) -> str:
    text = text.strip().removeprefix("*")
    if "/" in text or "\\" in text or not text:
        raise ValueError("expected the end of a file name, such as .tags or _caption.txt")
    suffix = f".{text}" if text[0].isalnum() else text
    ending = f".{suffix.rpartition('.')[2].lower()}"
    if ending in TABLE_SUFFIXES | IMAGE_SUFFIXES:
        raise ValueError(
            f"expected the suffix of a text file: {suffix!r} belongs to tables or images;"
            " write the captions to .txt files, or to one metadata.jsonl"
        )
    return suffix
