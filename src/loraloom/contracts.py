"""Records and interfaces that every room shares. Nothing here computes.

Legend of tensor shapes, used as suffixes of names:

    b  pictures in a batch          l  tokens of the conditioning (windows x window length)
    c  channels                     d  width of the text encoder's hidden state
    h  height   w  width            t  diffusion timesteps, 0 .. num_train_timesteps - 1
    n  windows of one prompt        k  tokens in one encoder window (77 for CLIP)
`pixels_bchw` are float in [-1, 1]; `latents_bchw` are scaled latents (VAE output x scaling factor), float.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # a verb's --help must not pay for torch
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from loraloom.verdicts import Artist, Judge, Metric


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One picture as a `Format` finds it.

    Attributes:
        id: Path below the source or picture folder, no suffix, `/` between parts: stable; unique where there is no problem.
        image: The picture file.
        caption: The text found for it, exactly as found; None when there is none.
        problem: Why this item cannot be used, short, for the user; `image` is then the file it is about (a text
            without picture, a metadata file with a bad row). None when nothing is wrong so far.
        source: The file that `caption` was looked up in, a sidecar or a table; None when there is none.
        notes: What was read in another way than it is written, one line each for the user, the same for the same cause.
    """

    id: str
    image: Path
    caption: str | None
    problem: str | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a prepared dataset's manifest.

    Attributes:
        id: As in `SourceItem`.
        image: Path of the prepared picture relative to the dataset folder, `/` between parts.
        caption: The final caption: what the encoder reads.
        caption_found: The caption as found in the source; None when the captioner wrote it.
        split: `train` or `validation`.
        width, height: Of the prepared picture, pixels.
        sha256, source_sha256: Of the bytes of the prepared picture's file and of the source file.
        source_width, source_height: Of the source picture after EXIF rotation, pixels.
        crop: left, top, right, bottom of what was kept, in source pixels.
        scale: Prepared pixels for one source pixel.
        num_tokens: Of the final caption without BOS and EOS; None when no model was named.
    """

    id: str
    image: str
    caption: str
    caption_found: str | None
    split: Literal["train", "validation"]
    width: int
    height: int
    sha256: str
    source_sha256: str
    source_width: int
    source_height: int
    crop: tuple[int, int, int, int]
    scale: float
    num_tokens: int | None


class Format(Protocol):
    """A folder layout. A module exports one as `FORMAT`."""

    name: str
    expects: str
    """One line for the user: what such a folder holds."""
    priority: int
    """`auto` asks layouts in falling order, the least mistakable first: metadata file 30, paired folders 20, names 10."""

    def sniff(self, folder: Path, options: Mapping[str, str]) -> str | None:
        """Why `folder` has this layout, in a few words for the user, or None when it has not."""

    def read(self, folder: Path, options: Mapping[str, str]) -> Iterator[SourceItem]:
        """All pictures, sorted by id, one at a time; opens no picture. What cannot be used comes with its `problem`.

        `options` carries what the user set: `caption_column`, `caption_suffixes` (with commas), `encoding`,
        `text_folder`, `image_folder`. Files that no item names are reported by `prepare`.

        Raises:
            UserError: The folder does not follow the layout (a caption column that is missing, say).
        """


class Captioner(Protocol):
    """Writes a caption where none was found. A module exports one as `CAPTIONER`."""

    name: str

    def caption(self, image: "Image.Image", item: SourceItem, template: str, trigger: str) -> str:
        """The caption of an RGB picture, which is read from disk only when its pixels are touched.

        `template` is the user's text with `{trigger}`, `{id}`, `{folder}` and `{stem}` still in it.

        Raises:
            UserError: The template cannot be filled in.
        """


@dataclass(frozen=True, slots=True)
class Section:
    """A header and the sentences below it; the header is repeated in every window that carries one of its sentences."""

    header: str
    sentences: tuple[str, ...]


class Domain(Protocol):
    """What texts of one kind are made of. A module exports one as `DOMAIN`; None stands for what it cannot do."""

    name: str
    artist: "Artist | None"
    judge: "Judge | None"

    @property
    def metrics(self) -> "Sequence[Metric]":
        """What is measured on its pictures; empty where there is nothing."""

    def sections(self, caption: str) -> list[Section]:
        """The caption cut at its natural borders. Joined by blanks, the parts are the caption up to white space."""

    def mirrored(self, caption: str) -> str | None:
        """The caption of the mirrored picture; None when that cannot be told, and so the picture may not be flipped."""

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """What RGB colours stand for in a picture of this caption, by name; empty where they stand for nothing."""


class TextEncoder(Protocol):
    """A tokenizer with an encoder of fixed window length."""

    window_tokens: int
    """k: length of one window with BOS and EOS (77 for CLIP)."""

    @property
    def fingerprint(self) -> str:
        """sha256 over tokenizer and encoder weights: the text part of a cache key."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids without BOS, EOS and padding, never cut."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Readable text of some ids, for reports."""

    def window(self, ids: Sequence[int]) -> list[int]:
        """k ids: BOS, `ids` (at most k - 2), EOS, the model's own padding."""

    def encode(self, ids_nk: "Tensor") -> "Tensor":
        """int64 ids (n, k) to hidden states (n, k, d) as the denoiser was trained to read them."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the denoiser's cross-attention reads.

    Attributes:
        hidden_bld: (b, l, d) hidden states.
        mask_bl: (b, l) bool, False where a whole window only pads to a longer neighbour; None when all are real.
    """

    hidden_bld: "Tensor"
    mask_bl: "Tensor | None" = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one device learns from in one forward pass.

    Attributes:
        ids: Sample ids, for messages.
        latents_bchw, noise_bchw: (b, c, h, w) float32: scaled latents, and the noise for them.
        timesteps_b, conditioning: (b,) int64; of the final captions, dropped ones empty.
        weights_b: (b,) float32: 1, or 0 for the repeats that fill a bucket's tail.
        latent_weights_bhw: (b, h, w) float32: how much latents count, mean 1 in each picture; None is all alike.
    """

    ids: tuple[str, ...]
    latents_bchw: "Tensor"
    noise_bchw: "Tensor"
    timesteps_b: "Tensor"
    conditioning: Conditioning
    weights_b: "Tensor"
    latent_weights_bhw: "Tensor | None" = None


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The forward process that the model was trained with.

    Attributes:
        alphas_cumprod_t: (num_train_timesteps,) float64 on the CPU, in (0, 1]: share of signal variance left at t.
        prediction_type: What the denoiser answers: the noise (`epsilon`) or `v_prediction` (Salimans & Ho 2022).
    """

    alphas_cumprod_t: "Tensor"
    prediction_type: Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        location: Hub id (`owner/name`), diffusers folder, or a single `.safetensors` checkpoint.
        revision, variant: Hub branch, tag or commit, None is the default branch; file variant such as `fp16`.
        config: For a single file: hub id or folder of a diffusers model whose configs and tokenizer fit; None: the family's.
        prediction_type: `epsilon` or `v_prediction` where the scheduler's config is wrong or missing; `auto` believes it.
    """

    location: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    prediction_type: str = "auto"


class Sampler(Protocol):
    """One numerical solver with its steps set."""

    @property
    def timesteps(self) -> "Tensor":
        """(num_steps,) from noise to picture."""

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation that the first noise is to have."""

    def scale_input(self, latents_bchw: "Tensor", timestep: "Tensor") -> "Tensor":
        """What the denoiser is to be shown at this step."""

    def noised(self, clean_bchw: "Tensor", noise_bchw: "Tensor", number: int) -> "Tensor":
        """Finished latents as they would stand before step `number`; finished when it is the number of steps."""

    def step(
        self, prediction_bchw: "Tensor", timestep: "Tensor", latents_bchw: "Tensor", generators: "list[torch.Generator]"
    ) -> "Tensor":
        """The latents one step nearer to the picture; fresh noise comes from each picture's own generator."""


@dataclass(frozen=True, slots=True)
class LoraPreset:
    """Which layers of the denoiser carry LoRA: modules of a type in `kinds` whose name matches `pattern`."""

    pattern: str
    kinds: tuple[str, ...] = ("Linear",)


class DiffusionModel(Protocol):
    """An opened model. Weights of a part (`denoiser`, `vae`, `text_encoder`) are read when first used; they can be dropped."""

    family: str
    source: ModelSource
    schedule: NoiseSchedule
    latent_channels: int
    latent_scale: int
    """Pixels along a side for one latent."""
    default_size_px: int
    architecture: str
    """Name in `modelspec.architecture`, such as `stable-diffusion-v1`."""
    kohya_version: str
    """Name in `ss_base_model_version`, such as `sd_v1`."""
    lora_presets: Mapping[str, LoraPreset]
    text_encoder_preset: LoraPreset
    """Which layers of the text encoder carry LoRA when it learns too."""

    @property
    def text(self) -> TextEncoder:
        """The tokenizer and encoder of prompts."""

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weights and config: the VAE's in cache keys, the denoiser's in adapters."""

    def file_sha256(self) -> str | None:
        """sha256 of the whole model where it is one file: what other programs know a base by."""

    def module(self, part: str) -> "nn.Module":
        """The part's module, loaded if need be, frozen, in evaluation mode."""

    def loaded(self, part: str) -> bool:
        """Whether the part's weights are in memory."""

    def place(self, part: str, device: "torch.device", dtype: "torch.dtype") -> "nn.Module":
        """The part's module on a device in a dtype."""

    def drop(self, part: str) -> None:
        """Forget the part's weights; the next use reads them again."""

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write the whole model as it is now to a folder that `open` reads; appears whole."""

    def encode_images(self, pixels_bchw: "Tensor") -> "tuple[Tensor, Tensor]":
        """Mean and log-variance of the latents' distribution, (b, c, h, w) float32, **not** scaled."""

    def scale_latents(self, raw_bchw: "Tensor") -> "Tensor":
        """Raw VAE latents to what the denoiser works on."""

    def decode_latents(self, latents_bchw: "Tensor") -> "Tensor":
        """Scaled latents to pixels (b, 3, H, W), float32, clipped to [-1, 1]."""

    def predict(self, latents_bchw: "Tensor", timesteps_b: "Tensor", conditioning: Conditioning) -> "Tensor":
        """The denoiser's answer (b, c, h, w)."""

    def sampler(self, name: str, num_steps: int) -> Sampler:
        """A solver by name, for this model's schedule.

        Raises:
            UserError: The name is unknown; the known ones are listed.
        """

    def component(self, part: str) -> str:
        """The part's name in a diffusers pipeline (`unet`), the first word of keys in adapter files."""

    def kohya_prefix(self, part: str) -> str:
        """The first word of the part's keys in kohya's layout (`lora_unet`)."""

    def exchange_name(self, part: str, module_name: str) -> str:
        """A module's name as adapter files spell it; differs where a library renamed its modules."""

    def peer_latents(self, adapter_file: Path | None, request: "PictureRequest", noise_bchw: "Tensor") -> "Tensor":
        """(1, c, h, w) float32 latents on the CPU: that first noise denoised in a fresh pipeline of the peer library with an
        exported adapter (None: the base alone), its proof."""


class Family(Protocol):
    """A kind of model. A module exports one as `FAMILY`."""

    name: str

    def recognises(self, source: ModelSource) -> bool:
        """Whether the source looks like this family, from its configs or keys alone, no weights read."""

    def open(self, source: ModelSource) -> DiffusionModel:
        """Open a model without reading weights.

        Raises:
            UserError: Missing, gated, unreadable or of another family; says what to do.
        """

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of the family's layout, about a million parameters, and return its folder."""


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """The whole recipe of one picture beside model and adapters.

    Attributes:
        prompt, negative_prompt: Text; `(word:1.3)` weighs a word when `weighting` is on.
        seed: Decides the first noise and every later one, whatever the batch.
        guidance_scale: Classifier-free guidance (Ho & Salimans 2022); 1.0 switches it off.
        sampler, num_steps: Name of the solver, and its steps.
        width, height: Pixels, multiples of the model's latent scale.
        told: The prompt with what it leaves open decided (`Judge.filled`), for the model alone; empty where it is the prompt.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    num_steps: int = 25
    guidance_scale: float = 7.5
    sampler: str = "dpmpp_2m_karras"
    width: int = 512
    height: int = 512
    told: str = ""

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.told or self.prompt


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture and its place in the request list."""

    index: int
    request: PictureRequest
    image: "Image.Image"
    seconds: float


Progress = Callable[[int, int], None]
"""Called with (done, total)."""
