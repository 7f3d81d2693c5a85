"""Images to latents and captions to states, by way of the cache.

In: a dataset, a model, a prompt encoder. Out: two stores that hand out what a batch needs. All missing entries are
encoded once at the start, shared out over the devices; afterwards neither VAE nor text encoder is used.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loraloom.data.augment import augmented_pixels
from loraloom.data.cache import ContentCache, finite
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.windows import PromptPlan
from loraloom.protocols.data import Example
from loraloom.protocols.model import DiffusionModel, Tensors
from loraloom.utils.atomic_files import sha256_bytes, sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import FORMATS
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import MAX_TABLE_BYTES, Shown, check_regular_file, library_errors, shown

_SHOWN_TEXT = 200
_MOST_BAD = 20
"""Images that cannot be encoded, after which no more is tried: then it is the VAE."""


def open_prepared(folder: Path, example: Example, *, decode: bool = True) -> Image.Image:
    """The prepared image of a row as RGB, in memory; without `decode` an image without its pixels, when only the check matters.

    Raises:
        UserError: It cannot be decoded, or has another size than its row says; names file and row. The size is compared
            before pixels are decoded.
    """
    path = folder / example.image
    row, again = f"row {shown(example.id)} of {folder}", "run `loraloom prepare` again"
    check_regular_file(path, f"the image of {row}", max_bytes=MAX_TABLE_BYTES)
    with library_errors(f"the image of {row}", path, fix=again), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the row's size is the limit here
        with Image.open(path, formats=FORMATS) as image:
            if image.size != (example.width, example.height):
                raise UserError(
                    f"the image of {row} has another size than the row says",
                    got=Shown(f"{image.width}x{image.height} px in {path}"),
                    expected=f"{example.width}x{example.height}",
                    fix=again,
                )
            return image.convert("RGB") if decode else Image.new("RGB", (1, 1))


def load_pixels(folder: Path, example: Example, mirrored: bool = False) -> Tensor:
    """(3, h, w) float32 in [-1, 1] of the prepared image of a row, or of its variant; raises as `open_prepared`."""
    array_hwc = np.array(augmented_pixels(open_prepared(folder, example), example))
    if mirrored:
        array_hwc = array_hwc[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(array_hwc.transpose(2, 0, 1))).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True, slots=True)
class LatentStore:
    """Latents of prepared images.

    Attributes:
        model: Encodes what is missing.
        folder: The dataset folder.
        cache: Where mean and log-variance are kept.
        vae_fingerprint: Part of every key.
    """

    model: DiffusionModel
    folder: Path
    cache: ContentCache
    vae_fingerprint: str

    def key(self, example: Example, mirrored: bool) -> str:
        """sha256 over image bytes, preprocessing, VAE and dtype."""
        return sha256_bytes(
            f"{example.sha256}\n{'mirrored' if mirrored else 'rgb'}\n{self.vae_fingerprint}\nfp32".encode()
        )

    def origin(self, example: Example, mirrored: bool) -> dict[str, str]:
        """What a key is made of, in words, for `loraloom cache`."""
        return {
            "kind": "latents",
            "id": example.id,
            "image_sha256": example.sha256,
            "mirrored": "yes" if mirrored else "no",
            "vae": self.vae_fingerprint,
        }

    def check(self, examples: Sequence[Example]) -> None:
        """Raise `UserError` when an image is not the one that the manifest was written for."""
        for example in examples:
            path = self.folder / example.image
            if not path.is_file():
                raise UserError("an image of the dataset is gone", got=str(path), fix="run `loraloom prepare` again")
            if sha256_file(path) != example.sha256:
                raise UserError(
                    "an image was changed after `prepare`", got=str(path), fix="run `loraloom prepare` again"
                )

    def fill(self, examples: Sequence[tuple[Example, bool]], batch_size: int, progress: Progress | None = None) -> int:
        """Encode what the cache lacks; returns how many were encoded."""
        waiting: dict[str, tuple[Example, bool]] = {self.key(e, m): (e, m) for e, m in examples}
        missing = self.cache.missing(list(waiting))
        # Images of one size go together; the order inside a size is kept.
        missing.sort(key=lambda key: (waiting[key][0].width, waiting[key][0].height))
        done = 0
        bad: dict[str, None] = {}
        while done < len(missing):
            first = waiting[missing[done]][0]
            group = [
                key
                for key in missing[done : done + batch_size]
                if (waiting[key][0].width, waiting[key][0].height) == (first.width, first.height)
            ]
            for key, tensors in zip(group, self._encode([waiting[key] for key in group]), strict=True):
                if finite(tensors):
                    self.cache.put(key, tensors, self.origin(*waiting[key]))
                else:
                    bad[waiting[key][0].id] = None
            if len(bad) >= _MOST_BAD:
                break
            done += len(group)
            if progress:
                progress(done, len(missing))
        if bad:
            raise _not_finite_image(bad)
        return len(missing)

    def sample(self, example: Example, mirrored: bool, noise: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """(c, h, w) scaled latents sampled from the image's distribution with `noise(shape)`."""
        origin = self.origin(example, mirrored)
        found = self.cache.get(self.key(example, mirrored), lambda: self._encode_one(example, mirrored), origin)
        mean_chw, logvar_chw = found["mean"], found["logvar"]
        return self.model.scale_latents(mean_chw + torch.exp(0.5 * logvar_chw) * noise(tuple(mean_chw.shape)))

    def _encode_one(self, example: Example, mirrored: bool) -> dict[str, Tensor]:
        tensors = self._encode([(example, mirrored)])[0]
        if not finite(tensors):
            raise _not_finite_image([example.id])
        return tensors

    def _encode(self, examples: Sequence[tuple[Example, bool]]) -> list[dict[str, Tensor]]:
        pixels_bchw = torch.stack([load_pixels(self.folder, e, mirrored) for e, mirrored in examples])
        with torch.inference_mode():
            mean_bchw, logvar_bchw = self.model.encode_images(pixels_bchw)
        return [
            {"mean": mean.clone(), "logvar": logvar.clone()}
            for mean, logvar in zip(mean_bchw.cpu(), logvar_bchw.cpu(), strict=True)
        ]


MAX_KEYS = 200_000
"""Cache keys of texts that are kept, about 0.4 kB each."""
Wanted = tuple[str, bool]
"""A text, and whether `(word:1.3)` in it is a weight. Captions are literal; prompts that a user wrote are not."""


@dataclass(frozen=True, slots=True)
class TextStore:
    """States of final captions and sample prompts.

    Attributes:
        encoder: Encodes what is missing.
        cache: Where states are kept.
        dtype: Dtype of the kept embeddings.
        live: Encode at every use instead, because the text encoder is learning.
        keys: Cache keys of texts, at most `MAX_KEYS`: cutting a long caption takes milliseconds.
        plans: For the same reason, how each text is cut, while the encoder is learning.
    """

    encoder: PromptEncoder
    cache: ContentCache
    dtype: torch.dtype = torch.float32
    live: bool = False
    keys: dict[Wanted, str] = field(default_factory=dict[Wanted, str])
    plans: dict[Wanted, PromptPlan] = field(default_factory=dict[Wanted, PromptPlan])

    def missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Texts whose states the cache lacks, each once."""
        waiting = {self.key(text): text for text in wanted}
        return [waiting[key] for key in self.cache.missing(list(waiting))]

    def fill(self, wanted: Sequence[Wanted], progress: Progress | None = None) -> int:
        """Encode what the cache lacks; returns how many were encoded.

        One text at a time: its states must not depend on its neighbours' lengths.
        """
        missing = self.missing(wanted)
        for done, text in enumerate(missing, 1):
            self.cache.put(self.key(text), self._encode(text), self.origin(text))
            if progress:
                progress(done, len(missing))
        return len(missing)

    def states(self, texts: Sequence[str], *, weighting: bool = False) -> list[Tensors]:
        """The tensors of each text."""
        if self.live:
            return self.encoder.encode_plans([self._plan((text, weighting)) for text in texts])
        wanted = [(text, weighting) for text in texts]
        return [self.cache.get(self.key(text), lambda t=text: self._encode(t), self.origin(text)) for text in wanted]

    def origin(self, wanted: Wanted) -> dict[str, str]:
        """What a key is made of, in words, for `loraloom cache`."""
        return {
            "kind": "prompt" if wanted[1] else "caption",
            "text_sha256": sha256_bytes(wanted[0].encode("utf-8", "backslashreplace")),
            "text": wanted[0][:_SHOWN_TEXT].encode("utf-8", "backslashreplace").decode("utf-8"),
            "encoder": self.encoder.text.fingerprint,
            "method": self.encoder.method,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def _plan(self, wanted: Wanted) -> PromptPlan:
        if wanted not in self.plans:
            self.plans[wanted] = self.encoder.plan(wanted[0], weighting=wanted[1])
        return self.plans[wanted]

    def key(self, wanted: Wanted) -> str:
        """See `PromptEncoder.cache_key`."""
        if wanted not in self.keys:
            if len(self.keys) >= MAX_KEYS:
                self.keys.clear()
            self.keys[wanted] = self.encoder.cache_key(wanted[0], weighting=wanted[1], dtype=self.dtype)
        return self.keys[wanted]

    def _encode(self, wanted: Wanted) -> dict[str, Tensor]:
        with torch.inference_mode():
            made = self.encoder.encode([wanted[0]], weighting=wanted[1])[0]
        kept = {
            name: tensor.to("cpu", self.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in made.items()
        }
        if not finite(kept):
            overflow = finite(made)
            raise UserError(
                f"the text encoder gives NaN or infinity{f' in {self.dtype}' if overflow else ''} for a text",
                got=f"{wanted[0][:60]}…" if len(wanted[0]) > 60 else wanted[0],
                fix="use train.mixed_precision=bf16 or no" if overflow else "use another model, or get its files again",
            )
        return kept


def _not_finite_image(ids: Iterable[str]) -> UserError:
    named = list(ids)
    listed = ", ".join(named[:_MOST_BAD]) + (" …" if len(named) >= _MOST_BAD else "")
    return UserError(
        f"the VAE gives NaN or infinity for {'an image' if len(named) == 1 else 'images'}: nothing of it is cached",
        got=listed,
        fix="look at what is named and take it out of the dataset; if all are, use another model or VAE",
    )
