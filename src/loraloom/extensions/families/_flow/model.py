"""What the opened models of flow families have in common: parts that are read at first use, VAE, sampler, exports.

In: the files of a model, and how each part is made. Out: the answers of `protocols.model.DiffusionModel` but `text`,
`condition` and `predict`, which a family adds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loraloom.extensions.families._diffusers.parts import save_folder
from loraloom.extensions.families._flow.reference import add_adapter
from loraloom.extensions.families._flow.samplers import FlowSampler, make_sampler
from loraloom.extensions.families._flow.schedule import mu_of, shift_of
from loraloom.extensions.families._flow.source import Kind
from loraloom.extensions.families._flow.weights import FlowWeights, PartKind
from loraloom.extensions.families._ldm.reference import fresh_pipeline
from loraloom.extensions.families._ldm.vae import LatentVae
from loraloom.models.module_store import ModuleStore
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import LoraFormat, ModelFiles, ModelInfo
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.quiet import quiet


class FlowModel(ABC):
    """See `protocols.model.DiffusionModel`.

    Args:
        files: Files of the model.
        configs: Folder -> its config, checked; `scheduler` among them.
        kinds: Part -> how it is made; those that the model was opened with.
        copied: Files and folders that `save` copies.
        absent: Parts of the pipeline that the model was opened without.
        family: How the family's files are recognised and named.
        latents: Scaling factor and shift of latents, where they are not in the VAE's config.
    """

    info: ModelInfo
    lora_format: LoraFormat
    times_from_one = True
    """See `samplers.make_sampler`."""

    def __init__(
        self,
        files: ModelFiles,
        configs: Mapping[str, Mapping[str, Any]],
        kinds: Mapping[str, PartKind],
        *,
        family: Kind,
        copied: Sequence[str],
        absent: Sequence[str] = (),
        latents: Mapping[str, Any] | None = None,
    ) -> None:
        self._files = files
        self._configs = configs
        self._kinds = kinds
        self._copied = copied
        self._absent = absent
        self._weights = FlowWeights(files, configs, kinds, family)
        self.modules = ModuleStore(
            lambda part: self._weights.load(part, self.modules.skeleton),
            self._weights.fingerprint,
            build=self._weights.build,
            file_sha256=files.file_sha256,
            load_small=lambda part, bits: self._weights.load(part, self.modules.skeleton, bits),
        )
        self._vae = LatentVae(self.modules, "vae", {**configs["vae"], **(latents or {})})
        self._schedule_config = configs["scheduler"]
        self._factor = 2 ** (len(configs["vae"].get("block_out_channels", [0])) - 1)

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write a diffusers folder with the weights as they are now, a missing part read first."""
        parts = {part: spec.folder for part, spec in self._kinds.items()}
        save_folder(self._files, self.modules, parts, self._copied, folder, DTYPES[dtype], absent=self._absent)

    # ---------------------------------------------------------------------------------------------------- answers

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to mean and log-variance, float32, not scaled."""
        return self._vae.encode(pixels_bchw)

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return self._vae.scale(raw_bchw)

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Scaled latents to pixels, float32 in [-1, 1]."""
        return self._vae.decode(latents_bchw)

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> FlowSampler:
        """A solver with this model's shift for images of that size; timesteps on the denoiser's device."""
        self.check_size(height, width)
        device = next(self.modules.get("denoiser").parameters()).device
        return self._sampler(name, num_steps, height, width, device)

    def _sampler(self, name: str, num_steps: int, height: int, width: int, device: torch.device) -> FlowSampler:
        mu = self._mu(height, width, num_steps)
        return make_sampler(name, self._schedule_config, num_steps, mu, device, from_one=self.times_from_one)

    def check_size(self, height: int, width: int) -> None:  # noqa: B027 - any size fits rotary positions
        """Raise `UserError` for an image of that many pixels that the denoiser has no positions for."""

    def default_size(self) -> int:
        """Side of a square image, pixels: the `sample_size` of the VAE's config, as the denoiser's has none."""
        side, step = self._configs["vae"].get("sample_size") or 1024, 2 * self._factor
        side = side[0] if isinstance(side, list) else side
        return max(step, side // step * step)

    def num_image_tokens(self, height: int, width: int) -> int:
        """Tokens of an image of that many pixels: patches of 2 x 2 latents."""
        return (height // self._factor // 2) * (width // self._factor // 2)

    def _mu(self, height: int, width: int, num_steps: int) -> float:
        return mu_of(self._schedule_config, self.num_image_tokens(height, width))

    def _shift(self, height: int, width: int) -> float:
        """`NoiseSchedule.shift`."""
        return shift_of(self._schedule_config, self._mu(height, width, self.info.defaults.num_steps))

    # ----------------------------------------------------------------------------------------------------- export

    @abstractmethod
    def pipeline_class(self) -> Any:
        """Imports the class of diffusers' pipeline."""

    @abstractmethod
    def call_pipeline(self, pipeline: Any, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """(1, c, h, w) latents of a request from that first noise, by the pipeline itself."""

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the contract."""
        elsewhere = {
            self._kinds[part].folder: self._weights.load(part, self.modules.skeleton)
            for part in self._weights.elsewhere
        }
        files = self._files.without_single_file()
        pipeline = fresh_pipeline(self.pipeline_class, files, **dict.fromkeys(self._absent), **elsewhere)
        pipeline.set_progress_bar_config(disable=True)
        if adapter_file is not None:
            add_adapter(pipeline, adapter_file, self.lora_format, self.info.parts)
        cpu = torch.device("cpu")
        if request.sampler != "euler":  # the pipeline's own
            pipeline.scheduler = self._sampler(
                request.sampler, request.num_steps, request.height, request.width, cpu
            ).scheduler
        with torch.inference_mode(), quiet():
            return self.call_pipeline(pipeline, request, noise_bchw).float()


def in_its_dtype(module: nn.Module, device: torch.device) -> tuple[torch.dtype, Any]:
    """The dtype of a denoiser's weights, and the context to call it in: autocast where its weights are half and nobody else
    has set it, because times stay float32."""
    dtype = next(module.parameters()).dtype
    half = dtype != torch.float32 and not torch.is_autocast_enabled(device.type)
    return dtype, torch.autocast(device.type, dtype=dtype) if half else nullcontext()
