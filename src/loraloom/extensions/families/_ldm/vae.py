"""An AutoencoderKL between pixels and latents, always in float32.

In: pixels in [-1, 1], or scaled latents. Out: mean and log-variance of latents, or pixels. Half precision overflows in the
VAE of Stable Diffusion XL (`force_upcast` in its config) and gains little elsewhere, so neither autocast nor a module that
somebody placed in float16 is used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loraloom.protocols.model import Modules


class LatentVae:
    """Encodes, scales and decodes.

    Args:
        modules: Modules of the model.
        part: Name of the VAE's part.
        config: Config of the VAE, checked.
    """

    def __init__(self, modules: Modules, part: str, config: Mapping[str, Any]) -> None:
        self._modules = modules
        self._part = part
        self._scaling = float(config.get("scaling_factor") or 0.18215)
        self._shift = float(config.get("shift_factor") or 0.0)
        self._force_upcast = bool(config.get("force_upcast", True))

    def encode(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, float32, not scaled."""
        vae, weight = self._ready()
        with torch.autocast(weight.device.type, enabled=False):
            posterior = vae.encode(pixels_bchw.to(weight), return_dict=False)[0]
        return posterior.mean.float(), posterior.logvar.float()

    def scale(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return (raw_bchw - self._shift) * self._scaling

    def decode(self, latents_bchw: Tensor) -> Tensor:
        """Scaled latents to pixels, float32 in [-1, 1]."""
        vae, weight = self._ready()
        raw_bchw = latents_bchw.float() / self._scaling + self._shift
        with torch.autocast(weight.device.type, enabled=False):
            return vae.decode(raw_bchw.to(weight), return_dict=False)[0].float().clamp(-1, 1)

    def _ready(self) -> tuple[Any, Tensor]:
        """The module and one of its weights; a module in float16 that must not be is made float32."""
        vae: Any = self._modules.get(self._part)
        weight = next(vae.parameters())
        if self._force_upcast and weight.dtype == torch.float16:
            vae = self._modules.place(self._part, weight.device, torch.float32)
            weight = next(vae.parameters())
        return vae, weight
