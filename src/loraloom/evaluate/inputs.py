"""What is scored: a folder of generated images with their prompts, and the references they are compared with.

In: folders that somebody else filled. Out: samples that open their image when somebody asks for it, and a counted line for
whatever is not scored or not read as it is written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from loraloom.generate.recipes import LIST_NAME, read_rows, request_of
from loraloom.prepare.images import ImageSettings, decode
from loraloom.prompts.notes import Losses
from loraloom.protocols.evaluation import Role, Sample
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.listing import Entry, walk
from loraloom.utils.progress import Progress
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, is_file, is_there, read_bytes, read_text, shown

MAX_IMAGE_BYTES = 1 << 30
OWN_FOLDERS = ("receipts", "evaluation")
OWN_FILES = ("sheet.png",)
"""What `generate` and `evaluate` write beside images."""
_SETTINGS = ImageSettings(
    size=512,
    crop="center",
    bucket_step=0,
    max_aspect=0.0,
    resample="nearest",
    background=(255, 255, 255),
    min_size=1,
    max_megapixels=120.0,
    seed=0,
)
"""Decoding only: the size is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A folder of images to score.

    Attributes:
        samples: In the order of their files.
        model: Source of the model that generated them, as their recipes have it; empty where nobody knows.
        domain: Domain of their prompts; empty where nobody knows.
        sizes: How many images have which (width, height).
    """

    samples: tuple[Sample, ...]
    model: str = ""
    domain: str = ""
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What images are compared with.

    Attributes:
        samples: Roles `reference` and `held_out`.
        manifest: The manifest of a prepared dataset; None for a folder of images.
        info: Settings of `prepare`; empty without a manifest.
        sizes: As of `Images`, of the role `reference`.
    """

    samples: tuple[Sample, ...] = ()
    manifest: Manifest | None = None
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])


def open_image(path: Path) -> Image.Image:
    """An image as RGB, upright, its transparency on white.

    Raises:
        UserError: It is gone, or cannot be decoded.
    """
    try:
        return decode(read_bytes(path, f"the image {path.name}", max_bytes=MAX_IMAGE_BYTES), _SETTINGS).image
    except RefusedError as error:
        raise UserError(f"{path.name} cannot be decoded: {error}", got=str(path), fix="replace or remove it") from None


def read_images(folder: Path, losses: Losses, progress: Progress | None = None) -> Images:
    """Images that were generated, with the prompts and seeds of `prompts.jsonl`; without it with texts of the same name.

    Raises:
        UserError: No folder, or no image in it that can be decoded.
    """
    entries = _image_entries(folder, "images")
    table = folder / LIST_NAME
    rows: dict[str, Mapping[str, Any]] = {}
    if is_there(table):
        for row in read_rows(table):
            name = str(row.get("file", ""))
            if name and not path_problem(name):
                rows[name] = row
        _say_unlisted(entries, rows, folder, losses)
        entries = [entry for entry in entries if entry.name in rows]
    samples: list[Sample] = []
    good, sizes = _decodable(entries, losses, progress)
    for entry in good:
        if entry.name in rows:
            request = request_of(rows[entry.name], f"{LIST_NAME}, {shown(entry.name)}")
            prompt, seed = request.prompt, request.seed
        else:
            prompt, seed = _sidecar(entry.path, losses), None
        samples.append(_sample("generated", entry.name, entry.path, prompt, seed))
    if not samples:
        raise UserError("no image there can be scored", got=str(folder), fix="name the folder that the images are in")
    used = [rows[entry.name] for entry in entries if entry.name in rows]
    say_unprompted(samples, losses)
    return Images(samples=tuple(samples), model=_one(used, "model", "source"), domain=_one(used, "domain"), sizes=sizes)


def read_references(place: Path, losses: Losses, progress: Progress | None = None) -> References:
    """The training split of a prepared dataset with its held-out images, or all images of a folder.

    Raises:
        UserError: Neither, or no image in it can be decoded.
    """
    if is_there(place / MANIFEST_FILE):
        manifest = read_manifest(place)
        losses.add(*manifest.notes)
        splits: tuple[tuple[str, Role], ...] = (("train", "reference"), ("validation", "held_out"))
        samples = [
            _sample(role, example.image, manifest.path(example), example.caption, None)
            for split, role in splits
            for example in manifest.split(split)
        ]
        sizes = Counter((example.width, example.height) for example in manifest.split("train"))
        info = manifest.info.get("settings", {})
        return References(samples=tuple(samples), manifest=manifest, info=info, sizes=sizes)
    entries = _image_entries(place, "reference images")
    good, sizes = _decodable(entries, losses, progress)
    samples = [_sample("reference", entry.name, entry.path, _sidecar(entry.path, losses), None) for entry in good]
    if not samples:
        raise UserError("no reference image can be decoded", got=str(place), fix="name another folder with --reference")
    return References(samples=tuple(samples), sizes=sizes)


def say_sizes(sizes: Mapping[tuple[int, int], int], noun: str, losses: Losses) -> None:
    """One line where images have several sizes: each is resized to what its extractor reads."""
    if len(sizes) < 2:
        return
    (width, height), most = max(sizes.items(), key=lambda item: (item[1], item[0]))
    few = sum(sizes.values()) - most
    losses.add(
        f"note: {noun} have {len(sizes)} sizes: {few:,} of {sum(sizes.values()):,} are not {width} x {height}; each is "
        "resized to what its extractor reads"
    )


def say_unprompted(samples: Sequence[Sample], losses: Losses) -> None:
    """One line where some images have a prompt and some have none."""
    without = [sample for sample in samples if not sample.prompt]
    if without and len(without) < len(samples):
        losses.add(
            f"note: {len(without):,} of {len(samples):,} images have no prompt: scores of prompts leave them out"
        )


def images_of(folder: Path, role: Role, files: Sequence[tuple[Path, str, int]], pairs: Sequence[str]) -> list[Sample]:
    """Samples of images that were generated for this evaluation: file, prompt and seed of each, and its pair."""
    return [
        replace(_sample(role, path.relative_to(folder).as_posix(), path, prompt, seed), pair=pair)
        for (path, prompt, seed), pair in zip(files, pairs, strict=True)
    ]


def _sample(role: Role, name: str, path: Path, prompt: str, seed: int | None) -> Sample:
    real = role in ("reference", "held_out")
    opened = partial(open_image, path)
    return Sample(role=role, id=f"{role}/{name}", open=opened, prompt=prompt, seed=seed, pair=name, real=real)


def _image_entries(folder: Path, noun: str) -> list[Entry]:
    if not folder.is_dir():
        raise UserError(f"there is no such folder of {noun}", got=str(folder), fix="check the path")
    found = [
        entry
        for entry in walk(folder)
        if entry.is_image
        and entry.name not in OWN_FILES
        and not entry.name.startswith(tuple(f"{one}/" for one in OWN_FOLDERS))
    ]
    if not found:
        raise UserError(f"this folder holds no {noun}", got=str(folder), expected="PNG, JPEG, WebP, ... files")
    return found


def _decodable(
    entries: Sequence[Entry], losses: Losses, progress: Progress | None
) -> tuple[list[Entry], Counter[tuple[int, int]]]:
    """The entries whose images can be decoded, and their sizes; the others are one line."""
    good: list[Entry] = []
    sizes: Counter[tuple[int, int]] = Counter()
    refused: list[str] = []
    notes: Counter[str] = Counter()
    for number, entry in enumerate(entries, 1):
        try:
            if entry.problem:
                raise RefusedError(entry.problem)
            data = read_bytes(entry.path, f"the image {entry.name}", max_bytes=MAX_IMAGE_BYTES)
            decoded = decode(data, _SETTINGS)
            notes.update(note.partition(":")[0] for note in decoded.notes)
            sizes[decoded.image.size] += 1
            good.append(entry)
        except (RefusedError, UserError) as error:
            refused.append(f"{shown(entry.name)} ({error if isinstance(error, RefusedError) else error.what})")
        if progress:
            progress(number, len(entries))
    if refused:
        more = f" and {len(refused) - 3:,} more" if len(refused) > 3 else ""
        losses.add(
            f"warning: {len(refused):,} of {len(entries):,} images are not scored: {', '.join(refused[:3])}{more}"
        )
    losses.add(*(f"note: {count:,} of {len(entries):,} images: {note}" for note, count in sorted(notes.items())))
    return good, sizes


def _say_unlisted(entries: Sequence[Entry], rows: Mapping[str, Any], folder: Path, losses: Losses) -> None:
    unlisted = [str(shown(entry.name)) for entry in entries if entry.name not in rows]
    gone = [str(shown(name)) for name in rows if not is_file(folder / name)]
    for names, what in ((unlisted, f"not in {LIST_NAME}, so not scored"), (gone, f"of {LIST_NAME} gone")):
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            losses.add(f"note: {counted(len(names), 'image')} {what}: {', '.join(names[:3])}{more}")


def _sidecar(path: Path, losses: Losses) -> str:
    text = path.with_suffix(".txt")
    if not is_file(text):
        return ""
    try:
        return read_text(text, f"the text {text.name}", max_bytes=MAX_CONFIG_BYTES).strip()
    except UserError as error:
        losses.add(f"warning: {error.what}: its image counts as one without a prompt")
        return ""


def _one(rows: Sequence[Mapping[str, Any]], *keys: str) -> str:
    """What all rows say; empty where they differ or say nothing."""
    found: set[str] = set()
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        found.add(str(value or ""))
    return next(iter(found)) if len(found) == 1 else ""
