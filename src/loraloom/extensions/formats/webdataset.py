"""WebDataset shards: tar files whose members of one key are an image and its caption: `000.jpg`, `000.txt`, `000.json`.

In: a folder of `.tar` files, not compressed. Out: one source item per image; its bytes are read from the shard at first use,
nothing is unpacked. The caption is the member `.txt` or `.caption`, or the key `caption_column` of the `.json`; a list
`captions` in the `.json` gives further ones. Only headers and captions are read here, so a shard is passed over once.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loraloom.extensions.formats._common import (
    CAPTION_SUFFIXES,
    decode_text,
    has_images,
    more_captions,
    sorted_unique,
)
from loraloom.protocols.contracts import FormatContract, SaveImage
from loraloom.protocols.data import PackedImage, SourceItem, WritableFormat
from loraloom.protocols.settings import CaptionColumn
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.listing import IMAGE_SUFFIXES, Entry, walk
from loraloom.utils.safe_paths import path_problem, printable_name
from loraloom.utils.untrusted import MIB, parse_json

_MAX_TEXT_BYTES = MIB
_MAX_MEMBERS = 5_000_000
_SHARD = "shard-{split}-{number:06d}.tar"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of a file; see `ImageData`."""

    path: Path
    offset: int
    size: int

    def read(self, max_bytes: int) -> bytes:
        """The bytes."""
        if self.size > max_bytes:
            raise UserError("it is larger than any image within --max-megapixels needs", got=f"{self.size:,} bytes")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise UserError("the shard ends before the image does", got=str(self.path))
        return data


@dataclass(slots=True)
class _Sample:
    """What a shard has under one key."""

    image: ByteRange | None = None
    text: str | None = None
    record: dict[str, Any] = field(default_factory=dict[str, Any])
    problem: str | None = None


class WebDataset:
    """The `webdataset` layout."""

    name = "webdataset"
    settings = CaptionColumn
    expects = "shards, .tar files that are not compressed, with an image and a .txt or .json of the same key (000.jpg, 000.txt)"
    priority = 26

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The number of shards and images; only the headers of members are read."""
        shards = _shards(folder)
        if not shards or has_images(folder):
            return None
        images = 0
        for entry in shards:
            if entry.problem is None:
                images += sum(sample.image is not None for _, sample in _samples(entry.path, options))
        return f"{counted(images, 'image')} in {counted(len(shards), 'shard')}" if images else None

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All images of all shards. A key that two shards have gets the name of its shard before it."""
        items: list[SourceItem] = []
        homes: dict[str, Path] = {}
        clash = False
        for entry in _shards(folder):
            if entry.problem is not None:
                items.append(SourceItem(id=entry.name, image=entry.path, caption=None, problem=entry.problem))
                continue
            for key, sample in _samples(entry.path, options):
                clash |= homes.setdefault(key, entry.path) != entry.path
                items.append(_item(key, entry.path, sample, options))
        if clash:
            items = [replace(item, id=f"{item.image.stem}/{item.id}") if item.data else item for item in items]
        yield from sorted_unique(items)

    def write(self, folder: Path, images: Iterator[PackedImage], shard_size: int) -> list[str]:
        """Shards `shard-train-000000.tar`; see `WritableFormat`."""
        renamed = 0
        shard: tarfile.TarFile | None = None
        split, number, inside = "", 0, 0
        try:
            for image in images:
                if shard is None or image.split != split or inside == shard_size:
                    if shard is not None:
                        shard.close()
                    number = number + 1 if image.split == split else 0
                    split, inside = image.split, 0
                    shard = tarfile.open(folder / _SHARD.format(split=split, number=number), "w")  # noqa: SIM115
                key = image.id.replace(".", "_")  # the first dot of a name ends its key
                renamed += key != image.id
                record = {"id": image.id, "text": image.captions[0], "captions": list(image.captions)}
                _add(shard, f"{key}.png", image.data)
                _add(shard, f"{key}.txt", image.captions[0].encode())
                _add(shard, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
                inside += 1
        finally:
            if shard is not None:
                shard.close()
        return [f"{counted(renamed, 'id')} with a dot: written with _ instead"] if renamed else []


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def _shards(folder: Path) -> list[Entry]:
    return [entry for entry in walk(folder) if entry.suffix == ".tar" and not entry.system]


def _samples(path: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, _Sample]]:
    """The samples of a shard. Members of one key need not follow each other."""
    samples: dict[str, _Sample] = {}
    broken: str | None = None
    try:
        with tarfile.open(path, "r:") as shard:
            for number, member in enumerate(shard):
                if number >= _MAX_MEMBERS:
                    broken = f"it has more than {_MAX_MEMBERS:,} members"
                    break
                if member.isfile():
                    _take(samples, shard, path, member, options)
                shard.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile would keep them all
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        broken = f"the shard cannot be read to its end: {' '.join(str(error).split())[:80] or type(error).__name__}"
    yield from samples.items()
    if broken is not None:
        yield path.name, _Sample(problem=broken)


def _take(
    samples: dict[str, _Sample], shard: tarfile.TarFile, path: Path, member: tarfile.TarInfo, options: Mapping[str, Any]
) -> None:
    """Put a member into its sample."""
    folder, _, last = member.name.removeprefix("./").rpartition("/")
    stem, dot, ending = last.partition(".")
    if not stem or not dot:
        return
    key = printable_name(f"{folder}/{stem}" if folder else stem)
    suffix = f".{ending.lower()}"
    is_text = suffix in CAPTION_SUFFIXES or suffix == ".json"
    if not is_text and suffix not in IMAGE_SUFFIXES:
        return
    sample = samples.setdefault(key, _Sample())
    if problem := path_problem(member.name.removeprefix("./")):
        sample.problem = f"the name of its member {problem}"
    elif member.size < 0:
        sample.problem = "the shard gives its member a negative size"
    elif not is_text:
        if sample.image is not None:
            sample.problem = "the shard has two images of this key"
        sample.image = ByteRange(path, member.offset_data, member.size)
    elif member.size > _MAX_TEXT_BYTES:
        sample.problem = f"its {suffix} is larger than 1 MiB: not a caption"
    else:
        file = shard.extractfile(member)
        assert file is not None
        _read_text(sample, suffix, file.read(_MAX_TEXT_BYTES), str(options.get("encoding", "")))


def _read_text(sample: _Sample, suffix: str, data: bytes, encoding: str) -> None:
    text, problem = decode_text(data, encoding)
    if text is None:
        sample.problem = f"its {suffix} {problem}"
    elif suffix == ".json":
        try:
            value = parse_json(text, "its .json", constants=True)
        except UserError as error:
            sample.problem = error.what
            return
        sample.record = value if isinstance(value, dict) else {}
    elif sample.text is None or suffix == CAPTION_SUFFIXES[0]:
        sample.text = text


def _item(key: str, path: Path, sample: _Sample, options: Mapping[str, Any]) -> SourceItem:
    if sample.problem is None and sample.image is None:
        sample.problem = "a caption without an image of the same key"
    caption = sample.text
    if caption is None and isinstance(found := sample.record.get(str(options.get("caption_column", "text"))), str):
        caption = found
    return SourceItem(
        id=key,
        image=path,
        caption=caption,
        problem=sample.problem,
        source=path if caption is not None else None,
        more_captions=more_captions(caption, sample.record.get("captions")),
        data=sample.image or ByteRange(path, 0, 0),
    )


FORMAT: WritableFormat = WebDataset()


def _write(folder: Path, captions: Mapping[str, str], save_image: SaveImage) -> None:
    scratch = folder / "scratch.png"
    with tarfile.open(folder / "000.tar", "w") as shard:
        for item_id, caption in captions.items():
            save_image(scratch)
            _add(shard, f"{item_id}.png", scratch.read_bytes())
            _add(shard, f"{item_id}.txt", caption.encode())
    os.unlink(scratch)  # noqa: PTH108


CONTRACT = FormatContract(write=_write, packed=True)
