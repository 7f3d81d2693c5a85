"""Settings of `caption`, which writes captions for the images of a folder and edits them."""

from pathlib import Path

from pydantic import field_validator

from loraloom.config.base import setting
from loraloom.config.extending import Extended
from loraloom.utils.untrusted import is_folder


class CaptionConfig(Extended):
    """How captions are written and edited.

    An instance also has every setting that a format or captioner declares.
    """

    verb = "caption"
    extension_kinds = ("formats", "captioners")

    format: str = setting("auto", "Folder layout; auto detects it.", flag="--format")
    captioner: str = setting(
        "", "Captioner that writes the captions; empty: the captions that exist are edited.", flag="--captioner"
    )
    trigger: str = setting("", "Trigger word; placed first in every caption; empty: none.", flag="--trigger")
    num_captions: int = setting(
        1,
        "Number of captions of an image; training takes one of them in each epoch.",
        flag="--num-captions",
        ge=1,
        le=64,
    )
    overwrite: bool = setting(
        False,
        "Also replace captions written by hand; each is kept, and --undo brings it back.",
        flag="--overwrite",
    )
    write_files: bool = setting(
        False,
        "Also write the first caption of an image to a .txt file beside it, for other programs.",
        flag="--write-files",
    )
    replace: tuple[str, ...] = setting(
        (), "OLD=NEW: replace OLD by NEW in every caption; /PATTERN/=NEW takes a regular expression.", flag="--replace"
    )
    prefix: str = setting("", "Text put before every caption.", flag="--prefix")
    suffix: str = setting("", "Text put after every caption.", flag="--suffix")
    shuffle_tags: bool = setting(
        False,
        "Shuffle the parts of a caption between commas, in another order for each caption.",
        flag="--shuffle-tags",
    )
    keep_tags: int = setting(
        1, "Number of first tags that --shuffle-tags leaves in place, the trigger included.", flag="--keep-tags", ge=0
    )
    wildcards: str = setting(
        "",
        "Folder of wildcards: __colour__ becomes a line of colour.txt, {a|b} one of the two; inline: only {a|b}; empty: none.",
        flag="--wildcards",
    )
    seed: int = setting(0, "Seed of further captions, shuffles and wildcards.", flag="--seed", ge=0)
    batch_size: int = setting(
        8, "Number of images that a captioning model reads at once.", flag="--batch-size", ge=1, le=4096
    )
    max_megapixels: float = setting(
        120.0, "Maximum size of an image in megapixels; larger ones are not captioned.", flag="--max-megapixels", gt=0
    )
    strict: bool = setting(
        False,
        "Treat as errors: images without a caption at the end, and edits that change no caption.",
        flag="--strict",
    )

    @field_validator("wildcards")
    @classmethod
    def _a_folder(cls, text: str) -> str:
        if text not in {"", "inline"} and not is_folder(Path(text)):
            raise ValueError("expected a folder of .txt files, or inline")
        return text
