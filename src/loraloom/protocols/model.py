"""Interfaces of a model: `Family` opens it, `DiffusionModel` encodes, predicts and decodes.

Legend of tensor shapes, used as suffixes of names:

    b  images in a batch            l  tokens of the conditioning (windows x window length)
    c  channels                     d  width of the text encoder's hidden state
    h  height   w  width            t  training steps of the forward process, 0 .. T - 1
    n  windows of one prompt        k  tokens in one encoder window (77 for CLIP)
`pixels_bchw` are float in [-1, 1]; `latents_bchw` are scaled latents (VAE output x scaling factor), float.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from loraloom.protocols.lora_format import FusedLayer as FusedLayer
from loraloom.protocols.lora_format import LoraFormat as LoraFormat
from loraloom.protocols.model_files import ModelFiles as ModelFiles
from loraloom.protocols.model_files import ModelSource as ModelSource

if TYPE_CHECKING:  # a verb's --help must not import torch
    import torch
    from torch import Tensor, nn

    from loraloom.protocols.generation import ImageRequest


Tensors = Mapping[str, "Tensor"]
"""The prompt embeddings of one prompt, without a batch axis; the family chooses the names. Shared code caches them."""

Conditioning = Mapping[str, "Tensor"]
"""The inputs of the denoiser besides latents and timesteps, batch axis first; the family chooses the names. Shared code
moves them between devices and passes them to `predict`."""


class Tokenizer(Protocol):
    """A tokenizer with a fixed window length."""

    window_tokens: int
    """k: length of one window with BOS and EOS (77 for CLIP)."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids without BOS, EOS and padding, never cut."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Readable text of some ids, for reports."""

    def window(self, ids: Sequence[int]) -> list[int]:
        """k ids: BOS, `ids` (at most k - 2), EOS, the model's own padding."""


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids of one encoder window without BOS, EOS and padding, and a weight for each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt as input of text encoders. CLIP reads the windows; T5 and language models read the text.

    Attributes:
        text: Plain text without emphasis syntax.
        spans: The same text as runs of equal weight.
        windows: The encoder windows by `TextModel.tokenizer`, at least one.
        num_tokens: Number of tokens of the whole text by that tokenizer.
        method: How several windows become one sequence: `attention` keeps all, `mean`, `max` and `weighted` combine them.
    """

    text: str
    spans: tuple[tuple[str, float], ...]
    windows: tuple[Window, ...]
    num_tokens: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGeometry:
    """Where an image comes from, for families that are conditioned on it (SDXL, Podell et al. 2023).

    Attributes:
        original: (width, height) of the source image in pixels.
        crop: (left, top) of what was kept, in pixels of the scaled image.
        target: (width, height) of the training image or generated image.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTokens:
    """How much of a text one encoder reads.

    Attributes:
        name: Name of the encoder, for tables.
        capacity: Tokens that it reads, special ones left out.
        tokens: Number of tokens of the whole text by its own tokenizer, never cut.
        unknown: Those that stand for letters that its tokenizer does not know.
    """

    name: str
    capacity: int
    tokens: int
    unknown: int


class TextModel(Protocol):
    """The tokenizers and text encoders of a model.

    A model of several text encoders may also have `without(text, empty, encoders) -> Tensors`, for caption dropout of single
    encoders: the tensors of one prompt as if the parts named in `encoders` had read the empty text, whose tensors are `empty`.
    It computes from the tensors alone: encoders may be gone from memory.
    """

    max_windows: int | None
    """Maximum number of windows of one prompt that the denoiser reads: 1 if its text length is fixed; None: no limit."""

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """What each encoder reads of a text. Empty where one encoder reads any number of windows and knows all letters.

        Asked where `max_windows` is a number.
        """

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that determines the windows."""

    @property
    def fingerprint(self) -> str:
        """sha256 over all tokenizers and the weights of all encoders: the text part of a cache key."""

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """The tensors of each prompt, on the encoders' device."""

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """The parts of a prompt's text that no encoder reads if only its first `max_windows` windows are encoded; empty if all
        is read.

        Called if `max_windows` is a number.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """The forward process that the model was trained with: x_t = signal_t x_0 + sigma_t noise.

    Three tables over training steps 0 (least noise) to T - 1 carry DDPM (Ho et al. 2020) and rectified flow (Liu et al. 2022)
    alike.

    Attributes:
        timestep_t: (T,) float64 on the CPU: timestep input of the denoiser at each training step.
        signal_t, sigma_t: (T,) float64 on the CPU, in [0, 1].
        prediction_type: What the denoiser predicts: the noise (`epsilon`), signal_t noise - sigma_t x_0 (`v_prediction`,
            Salimans & Ho 2022) or noise - x_0 (`flow`).
        shift: (height, width) in pixels -> how far the model's samplers move times of such an image towards much noise (Esser
            et al. 2024, eq. 23); training samples its noise levels with the same shift. None: they do not move them.
        shift_steps: Number of sampling steps that `shift` is for, where samplers shift by that number too; None: any.
    """

    timestep_t: "Tensor"
    signal_t: "Tensor"
    sigma_t: "Tensor"
    prediction_type: Literal["epsilon", "v_prediction", "flow"]
    shift: Callable[[int, int], float] | None = None
    shift_steps: int | None = None

    @property
    def num_timesteps(self) -> int:
        """T: training steps of the forward process."""
        return int(self.signal_t.shape[0])


class Modules(Protocol):
    """The modules of an opened model by part name; `models.module_store.ModuleStore` is the one in use."""

    def get(self, part: str) -> "nn.Module":
        """The part's module, loaded if necessary, frozen, in evaluation mode."""

    def skeleton(self, part: str) -> "nn.Module":
        """The part's module on the meta device: names and shapes of its layers, from configs alone."""

    def put(self, part: str, module: "nn.Module") -> None:
        """Use `module` as the part until it is dropped."""

    def loaded(self, part: str) -> bool:
        """Whether the part's weights are in memory."""

    def place(self, part: str, device: "torch.device", dtype: "torch.dtype") -> "nn.Module":
        """The part's module on a device in a dtype."""

    def read_in_low_bits(self, part: str, kind: Literal["fp8", "nf4"]) -> None:
        """Store the linear layers of the part's blocks in low bits when it is read next; it may not be in memory yet."""

    def drop(self, part: str) -> None:
        """Free the part's weights; the next use reads them again."""

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weights and config: the VAE's in cache keys, the denoiser's in adapters."""

    def file_sha256(self) -> str | None:
        """sha256 of a single-file model, by which other programs identify a base model; None for a folder."""

    def swap_blocks(self, part: str, device: "torch.device", wish: float) -> Any:
        """Keep blocks of a part in CPU memory, a number or a share; the `BlockSwap`, or `UserError` if it has fewer."""

    def checkpoint_gradients(self, part: str) -> None:
        """Recompute activations of the part in the backward pass (gradient checkpointing).

        Raises:
            UserError: The part does not support it.
        """


class Sampler(Protocol):
    """One numerical solver with its steps set."""

    @property
    def timesteps(self) -> "Tensor":
        """(num_steps,) timestep inputs of the denoiser, from noise to image."""

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the initial noise."""

    def scale_input(self, latents_bchw: "Tensor", timestep: "Tensor") -> "Tensor":
        """The latents scaled to the denoiser's input at this step."""

    def noised(self, clean_bchw: "Tensor", noise_bchw: "Tensor", number: int) -> "Tensor":
        """Clean latents with the noise of step `number`; without noise if `number` is the number of steps."""

    def step(
        self, prediction_bchw: "Tensor", timestep: "Tensor", latents_bchw: "Tensor", generators: "list[torch.Generator]"
    ) -> "Tensor":
        """The latents one step nearer to the image; new noise comes from each image's own generator."""


@dataclass(frozen=True, slots=True)
class LoraPreset:
    """Which layers of a part carry LoRA: modules of a type in `kinds` whose name matches `pattern`."""

    pattern: str
    kinds: tuple[str, ...] = ("Linear",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a model that has weights of its own.

    Attributes:
        name: Name that the family chooses, unique in the model: the key of `Modules`.
        role: Role of the part for shared code.
        lora_targets: Name -> layers that carry LoRA, the default first; empty if the part is never trained.
        excluded: Pattern of full module names -> reason why these layers cannot carry LoRA: an adapter there would be dead, or
            lost in other programs. A target that matches one is refused, and so is a file that changes one.
    """

    name: str
    role: Literal["denoiser", "vae", "text_encoder"]
    lora_targets: Mapping[str, LoraPreset] = field(default_factory=dict[str, LoraPreset])
    excluded: Mapping[str, str] = field(default_factory=dict[str, str])

    def why_excluded(self, module_name: str) -> str | None:
        """Why a layer cannot carry LoRA; None where it can."""
        found = (why for pattern, why in self.excluded.items() if re.fullmatch(pattern, module_name))
        return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """Generation settings for options that the user leaves open.

    Attributes:
        sampler: Name of the solver.
        num_steps: Number of denoising steps.
        guidance_scale: Scale of classifier-free or embedded guidance, see `ModelInfo.guidance`.
        size_px: Side of a square image in pixels.
        exact_sampler: A deterministic sampler; exports are compared with it.
    """

    sampler: str
    num_steps: int
    guidance_scale: float
    size_px: int
    exact_sampler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Information about a model that does not require its weights.

    Attributes:
        family: Name of the family.
        source: The source as the user named it.
        parts: One denoiser, one VAE, any number of text encoders.
        schedule: The forward process.
        latent_channels: Number of channels of the latents that `DiffusionModel.predict` takes.
        vae_scale_factor: Pixels per latent along a side.
        size_multiple: Width and height of images are multiples of this number of pixels.
        guidance: `cfg`: a negative prompt is encoded and the difference scaled (Ho & Salimans 2022); `embedded`: the denoiser
            takes the scale as input, and there is no negative prompt.
        defaults: Generation settings for options that the user leaves open.
        clip_skip: Layer of the text encoders that is read, as in `ModelSource`; None if the family has no such choice.
        distilled: That the model was distilled to few steps, as a clause; training unlearns that. None: it was not.
        trains_if: Why a distilled model is not trained as it is: what to do instead. None: training warns of it
            and runs.
    """

    family: str
    source: ModelSource
    parts: tuple[Part, ...]
    schedule: NoiseSchedule
    latent_channels: int
    vae_scale_factor: int
    size_multiple: int
    guidance: Literal["cfg", "embedded"]
    defaults: SamplingDefaults
    clip_skip: int | None = None
    distilled: str | None = None
    trains_if: str | None = None

    @property
    def denoiser(self) -> Part:
        """The part that predicts."""
        return next(part for part in self.parts if part.role == "denoiser")

    @property
    def vae(self) -> Part:
        """The part that encodes and decodes images."""
        return next(part for part in self.parts if part.role == "vae")

    @property
    def text_encoders(self) -> tuple[Part, ...]:
        """The parts that read prompts."""
        return tuple(part for part in self.parts if part.role == "text_encoder")

    def part(self, name: str) -> Part:
        """The part of that name."""
        return next(part for part in self.parts if part.name == name)


class DiffusionModel(Protocol):
    """An opened model. Weights of a part are read when first used; they can be dropped.

    A model whose denoiser answers more than a prediction may also have `predict_and_loss(noisy_bchw, timesteps_b,
    conditioning, *, clean_bchw, steps_b) -> (prediction_bchw, loss_b or None)`: what `predict` gives, and a loss of each image
    that training adds to the objective's, such as the variational bound of a learned variance. `steps_b` are training steps.
    """

    @property
    def info(self) -> ModelInfo:
        """Information that does not require weights."""

    @property
    def text(self) -> TextModel:
        """The tokenizers and encoders of prompts."""

    @property
    def modules(self) -> Modules:
        """The modules of its parts."""

    @property
    def lora_format(self) -> LoraFormat:
        """How adapter files name its modules."""

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write the current model to a folder that `Family.open` reads, atomically."""

    def encode_images(self, pixels_bchw: "Tensor") -> "tuple[Tensor, Tensor]":
        """Mean and log-variance of the latents' distribution, (b, c, h, w) float32, **not** scaled."""

    def scale_latents(self, raw_bchw: "Tensor") -> "Tensor":
        """Raw VAE latents to scaled latents, the denoiser's input."""

    def decode_latents(self, latents_bchw: "Tensor") -> "Tensor":
        """Scaled latents to pixels (b, 3, H, W), float32, clipped to [-1, 1]."""

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """Conditioning of one batch.

        Args:
            texts: Results of `TextModel.encode`, one for each image.
            geometry: Geometry of each image.
            guidance_scale: Scale of embedded guidance; None in training: the family's value.
        """

    def predict(self, latents_bchw: "Tensor", timesteps_b: "Tensor", conditioning: Conditioning) -> "Tensor":
        """The denoiser's prediction (b, c, h, w); `timesteps_b`: float32 from `NoiseSchedule.timestep_t` or a sampler."""

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> Sampler:
        """A sampler by name, for this model's schedule and an image of this size in pixels.

        Raises:
            UserError: The name is unknown; the known ones are listed.
        """

    def reference_latents(self, adapter_file: Path | None, request: "ImageRequest", noise_bchw: "Tensor") -> "Tensor":
        """(1, c, h, w) float32 latents on the CPU: the noise, denoised by a new pipeline of the reference library with an
        exported adapter (None: the base model alone). Used to check exports."""


class Family(Protocol):
    """A kind of model. A module exports one as `FAMILY`.

    What a family may have beside the members below:

    - `settings`, the class of its own options (`protocols.settings.Settings`, without groups); they reach it as
      `ModelFiles.options`, and an adapter records them with its base;
    - `wrap(pipeline) -> DiffusionModel | None`: a loaded pipeline of the reference library as a model whose parts are the
      pipeline's own modules, with as much as adapters need; None for a pipeline of another family;
    - `title` and `adapter_keys`: its name in sentences, and a pattern that is found in keys of adapter files made for it.
    """

    name: str

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files look like this family, from configs or keys alone. Pure: nothing is downloaded."""

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open a model without reading weights.

        Raises:
            UserError: The files cannot be read, or belong to another family.
        """

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of the family's layout, about a million parameters, and return its folder."""
