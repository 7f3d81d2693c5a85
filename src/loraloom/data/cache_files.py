"""What lies in the cache of a dataset: which files are fresh, which are stale and why, which are missing or corrupt.

In: the cache folder, the dataset, and perhaps the exact keys that a training would ask for. Out: a `CacheReport`. Files are
known by the origin in their headers; a file without one is of an earlier version, and is fresh only if its key is asked for.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loraloom.data.cache import SUM_KEY, finite, tensors_sha256
from loraloom.data.manifest import Manifest
from loraloom.utils.atomic_files import remove_leftovers, sha256_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.safetensors_io import read_header, read_tensors

State = Literal["fresh", "stale", "unknown", "corrupt"]
STATES: tuple[State, ...] = ("fresh", "stale", "unknown", "corrupt")
KINDS = ("latents", "texts")
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_NO_ORIGIN = "written by an earlier version, which did not record of what; --model tells whether it is used"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFile:
    """One file of the cache.

    Attributes:
        path: The file.
        kind: `latents` or `texts`.
        num_bytes: Its size.
        state: See the module's docstring.
        reason: Why it is stale, unknown or corrupt; empty for a fresh one.
        what: The image or the beginning of the text that it is of; empty where that is not known.
        origin: Its header's record.
    """

    path: Path
    kind: str
    num_bytes: int
    state: State
    reason: str = ""
    what: str = ""
    origin: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def key(self) -> str:
        return self.path.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a training with known settings asks the cache for.

    Attributes:
        latents, texts: Key -> the image's id, or the text.
        vae, encoder: Fingerprints of the models that are used.
        dtype: Dtype of kept prompt embeddings, such as `float32`.
        method: How long captions are encoded.
    """

    latents: Mapping[str, str]
    texts: Mapping[str, str]
    vae: str
    encoder: str
    dtype: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """All files of a cache, and what is not there.

    Attributes:
        folder: The cache.
        files: Sorted by path.
        missing: Kind -> images or texts that have no fresh file.
        strangers: Files that are none of the cache's; they are never touched.
        models: Fingerprints of VAEs and text encoders -> number of files made by each.
        exact: Whether the settings of a training were known.
    """

    folder: Path
    files: tuple[CacheFile, ...]
    missing: Mapping[str, tuple[str, ...]]
    strangers: tuple[Path, ...]
    models: Mapping[str, int]
    exact: bool

    def of(self, kind: str, state: State) -> list[CacheFile]:
        """Files of a kind in a state."""
        return [file for file in self.files if file.kind == kind and file.state == state]


def examine_cache(
    folder: Path,
    manifest: Manifest,
    mirrored: Callable[[str], str | None],
    wanted: Wanted | None = None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> CacheReport:
    """Look at every file of a cache.

    Args:
        folder: The cache; a missing one has no files.
        manifest: The dataset as it is now.
        mirrored: The caption of the mirrored image; None where there is none.
        wanted: The keys that a training asks for; None compares images and captions only.
        deep: Read every tensor too, and compare it with the sum in its file's header; else headers only.
        progress: Called with files done and all.
    """
    paths, strangers = _paths(folder)
    known = _Known.of(manifest, mirrored)
    files: list[CacheFile] = []
    for done, (kind, path) in enumerate(paths, start=1):
        files.append(_examine(kind, path, known, wanted, deep=deep))
        if progress:
            progress(done, len(paths))
    models: dict[str, int] = {}
    for file in files:
        if name := file.origin.get("vae") or file.origin.get("encoder"):
            label = f"{'VAE' if file.kind == 'latents' else 'text encoder'} {name[:12]}"
            models[label] = models.get(label, 0) + 1
    return CacheReport(
        folder=folder,
        files=tuple(files),
        missing=_missing(files, manifest, wanted),
        strangers=tuple(strangers),
        models=models,
        exact=wanted is not None,
    )


def removable(report: CacheReport, states: Collection[State], *, prompts: bool) -> list[CacheFile]:
    """Files that a clean-up removes.

    Args:
        report: The cache.
        states: States that go.
        prompts: Whether embeddings of sample prompts go too; they belong to no caption.
    """
    return [file for file in report.files if file.state in states or (prompts and file.origin.get("kind") == "prompt")]


def remove(report: CacheReport, files: Iterable[CacheFile]) -> int:
    """Delete files of a cache, and what killed processes left in it; returns the bytes that are free now."""
    freed = 0
    for file in files:
        assert file.path.is_relative_to(report.folder), file.path
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            fix = "check who owns it; what was removed so far stays removed"
            raise UserError(
                f"a file of the cache cannot be removed: {error.strerror}", got=str(file.path), fix=fix
            ) from error
        freed += file.num_bytes
    remove_leftovers(report.folder, deep=True)
    return freed


@dataclass(frozen=True, slots=True)
class _Known:
    """Images and captions of the dataset: sha256 of prepared images by id, and sha256 of captions."""

    images: Mapping[str, str]
    sums: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, manifest: Manifest, mirrored: Callable[[str], str | None]) -> "_Known":
        images = {example.id: example.sha256 for example in manifest.examples}
        captions = {text for example in manifest.examples for text in example.captions} | {""}  # "": caption dropout
        captions |= {other for caption in captions if (other := mirrored(caption)) is not None}
        return cls(images, frozenset(images.values()), frozenset(text_sha256(text) for text in captions))


def text_sha256(text: str) -> str:
    """Hash of a text as origins have it."""
    return sha256_bytes(text.encode("utf-8", "backslashreplace"))


def _paths(folder: Path) -> tuple[list[tuple[str, Path]], list[Path]]:
    """Files of the cache with their kinds, and all other files below it; links are others."""
    own: list[tuple[str, Path]] = []
    others: list[Path] = []
    for path in sorted(_walk(folder)):
        parts = path.relative_to(folder).parts
        is_own = (
            len(parts) == 3
            and parts[0] in KINDS
            and _NAME.fullmatch(parts[2])
            and parts[1] == parts[2][:2]
            and path.is_file()
            and not path.is_symlink()
        )
        if is_own:
            own.append((parts[0], path))
        elif not path.name.startswith("."):  # half-written files have their own clean-up
            others.append(path)
    return own, others


def _walk(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _examine(kind: str, path: Path, known: _Known, wanted: Wanted | None, *, deep: bool) -> CacheFile:
    size = path.stat().st_size
    try:
        if deep:
            tensors, origin = read_tensors(path)
            problem = _damage(tensors, origin)
        else:
            origin, problem = dict(read_header(path).metadata), ""
    except UserError as error:
        return CacheFile(path=path, kind=kind, num_bytes=size, state="corrupt", reason=" ".join(str(error).split()))
    what = origin.get("id") or origin.get("text", "")
    if problem:
        return CacheFile(
            path=path, kind=kind, num_bytes=size, state="corrupt", reason=problem, what=what, origin=origin
        )
    state, reason = _state(kind, path.stem, origin, known, wanted)
    return CacheFile(path=path, kind=kind, num_bytes=size, state=state, reason=reason, what=what, origin=origin)


def _damage(tensors: dict, origin: Mapping[str, str]) -> str:
    if not tensors:
        return "it holds no tensors"
    if not finite(tensors):
        return "it holds NaN or infinity"
    if SUM_KEY in origin and tensors_sha256(tensors) != origin[SUM_KEY]:
        return "its content has changed since it was written"
    return ""


def _state(kind: str, key: str, origin: Mapping[str, str], known: _Known, wanted: Wanted | None) -> tuple[State, str]:
    asked = None if wanted is None else (wanted.latents if kind == "latents" else wanted.texts)
    if asked is not None and key in asked:
        return "fresh", ""
    if "kind" not in origin:
        return ("unknown", _NO_ORIGIN) if wanted is None else ("stale", "nothing of this training asks for it")
    reason = _stale_latents(origin, known, wanted) if kind == "latents" else _stale_text(origin, known, wanted)
    return ("stale", reason) if reason else ("fresh", "")


def _stale_latents(origin: Mapping[str, str], known: _Known, wanted: Wanted | None) -> str:
    if origin.get("image_sha256", "").partition(" ")[0] not in known.sums:  # behind it: how a variant differs
        again = origin.get("id") in known.images
        return "its image was prepared anew" if again else "its image is no longer in the dataset"
    if wanted is None:
        return ""
    if origin.get("vae") != wanted.vae:
        return "made by another VAE"
    return (
        "mirrored images are not asked for" if origin.get("mirrored") == "yes" else "this training does not ask for it"
    )


def _stale_text(origin: Mapping[str, str], known: _Known, wanted: Wanted | None) -> str:
    is_prompt = origin.get("kind") == "prompt"
    if not is_prompt and origin.get("text_sha256") not in known.texts:
        return "no caption has this text any more"
    if wanted is None:
        return ""
    if origin.get("encoder") != wanted.encoder:
        return "made by another text encoder or tokenizer"
    if origin.get("dtype") != wanted.dtype:
        return f"kept as {origin.get('dtype')}, and this training uses {wanted.dtype}"
    if is_prompt:
        return ""  # a sample prompt: which ones a training has, may change while it runs
    if origin.get("method") != wanted.method:
        return f"encoded by the method {origin.get('method')}, and this training uses {wanted.method}"
    return "this training does not ask for it"


def _missing(files: Sequence[CacheFile], manifest: Manifest, wanted: Wanted | None) -> dict[str, tuple[str, ...]]:
    fresh = [file for file in files if file.state == "fresh"]
    if wanted is not None:
        keys = {file.key for file in fresh}
        return {
            "latents": tuple(what for key, what in wanted.latents.items() if key not in keys),
            "texts": tuple(what for key, what in wanted.texts.items() if key not in keys),
        }
    images = {file.origin.get("image_sha256") for file in fresh}
    texts = {file.origin.get("text_sha256") for file in fresh}
    captions = dict.fromkeys(text for example in manifest.examples for text in example.captions)
    return {
        "latents": tuple(example.id for example in manifest.examples if example.sha256 not in images),
        "texts": tuple(caption for caption in captions if text_sha256(caption) not in texts),
    }
