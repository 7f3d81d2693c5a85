"""What a model answers: `Family` opens it, `DiffusionModel` encodes, predicts and decodes.

Legend of tensor shapes, used as suffixes of names:

    b  images in a batch          l  tokens of the conditioning (windows x window length)
    c  channels                     d  width of the text encoder's hidden state
    h  height   w  width            t  diffusion timesteps, 0 .. num_train_timesteps - 1
    n  windows of one prompt        k  tokens in one encoder window (77 for CLIP)
`pixels_bchw` are float in [-1, 1]; `latents_bchw` are scaled latents (VAE output x scaling factor), float.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # a verb's --help must not pay for torch
    import torch
    from torch import Tensor, nn

    from loraloom.protocols.generation import ImageRequest


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
        """(num_steps,) from noise to image."""

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
        """The latents one step nearer to the image; fresh noise comes from each image's own generator."""


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

    def diffusers_name(self, part: str, module_name: str) -> str:
        """A module's name as adapter files spell it; differs where a library renamed its modules."""

    def reference_latents(self, adapter_file: Path | None, request: "ImageRequest", noise_bchw: "Tensor") -> "Tensor":
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
