"""Export a prepared dataset to a layout that other programs read: images with all their captions, split by split.

In: a dataset folder and the name of a format that can be written. Out: a folder that appears whole or not at all.
"""

from collections.abc import Iterator
from pathlib import Path

from loraloom import plugins
from loraloom.data.manifest import Manifest
from loraloom.protocols.data import PackedImage, WritableFormat
from loraloom.utils.atomic_files import sha256_bytes, whole_directory
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import read_bytes

_MAX_IMAGE_BYTES = 1 << 30


def writable_formats() -> list[str]:
    """Names of the formats that datasets can be exported to."""
    return [name for name in plugins.names("formats") if hasattr(plugins.load("formats", name), "write")]


def export_dataset(
    manifest: Manifest, out: Path, name: str, shard_size: int, progress: Progress | None = None
) -> list[str]:
    """Write the images of a dataset to `out` in the layout `name`; returns lines about what the layout changes.

    Raises:
        UserError: The format cannot be written, the folder is there already, or an image was changed after `prepare`.
    """
    known = writable_formats()
    if name not in known:
        raise UserError("datasets cannot be exported to this format", got=name, fix=did_you_mean(name, known))
    if out.exists():
        raise UserError("the output is there already", got=str(out), fix="choose a new --out: nothing is overwritten")
    layout: WritableFormat = plugins.load("formats", name)
    with whole_directory(out) as folder:
        return layout.write(folder, _images(manifest, progress), shard_size)


def _images(manifest: Manifest, progress: Progress | None) -> Iterator[PackedImage]:
    """All images, those of one split after each other."""
    done = 0
    for split in ("train", "validation"):
        for example in manifest.split(split):
            path = manifest.path(example)
            data = read_bytes(path, str(path), max_bytes=_MAX_IMAGE_BYTES)
            if sha256_bytes(data) != example.sha256:
                fix = "run `loraloom prepare` again"
                raise UserError("an image was changed after `prepare`", got=str(path), fix=fix)
            yield PackedImage(id=example.id, data=data, captions=example.captions, split=split)
            done += 1
            if progress:
                progress(done, len(manifest.examples))
