"""Store the frozen linear layers of a module in 8 or 4 bits, and expand each while it computes.

In: a module with its adapters attached, and a kind. Out: the same module, in which the frozen linear layers of repeated blocks
hold codes and scales. `fp8` is a float of 8 bits (e4m3) with a scale for each output; `nf4` is the 4-bit NormalFloat of QLoRA
(Dettmers et al. 2023, appendix E) with a scale for every 64 weights, 4.5 bits a weight. Gradients pass through to the inputs:
the backward pass expands a weight again instead of keeping it. It costs time, and saves memory only.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loraloom.models.block_swap import repeated_blocks

LowBits = Literal["fp8", "nf4"]
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
BLOCK = 64
"""Weights of `nf4` that share a scale."""
BYTES_EACH = {"fp8": 1.1, "nf4": 0.7}
"""About how many bytes a weight of a whole denoiser takes: the layers that are stored, and the few that are not."""
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 values: quantiles of a normal distribution, zero exact."""


class LowBitLinear(nn.Linear):
    """A frozen linear layer whose weight is stored as codes.

    Attributes:
        weight: uint8 codes: (out, in) floats of 8 bits, or two codes of 4 bits a byte in a row.
        scales: int32: the bits of float32 scales, so that no cast of the module changes them.
        kind: `fp8` or `nf4`.
    """

    scales: nn.Parameter
    kind: LowBits

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """(out, in) the weight in a dtype."""
        return _expand(self.weight, self.scales, self.kind, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """The layer's output, in the dtype of autocast or of the input."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        shape = (self.out_features, self.in_features)
        # Aliases of the codes: block swap exchanges the data of a parameter while autograd still needs it.
        codes, scales = self.weight.detach(), self.scales.detach()
        function: Any = _Linear.apply
        return function(input.to(dtype), codes, scales, bias, self.kind, shape)


class _Linear(torch.autograd.Function):
    """x W^T + b with W expanded in the forward and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, kind: LowBits, shape: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.kind, ctx.shape = kind, shape
        return nn.functional.linear(x, _expand(codes, scales, kind, shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        codes, scales = ctx.saved_tensors
        [grad] = grads
        weight = _expand(codes, scales, ctx.kind, ctx.shape, grad.dtype)
        return grad @ weight, None, None, None, None, None


def store(module: nn.Module, kind: LowBits) -> int:
    """Store the frozen linear layers of a module's repeated blocks in low bits; returns the number of layers.

    Layers outside of blocks (embeddings, the last layer) are few and sensitive: they keep their precision.
    """
    layers = frozen_layers(module)
    for layer in layers:
        store_layer(layer, kind)
    return len(layers)


def frozen_layers(module: nn.Module) -> list[nn.Linear]:
    """The layers that `store` stores: frozen linear ones of repeated blocks."""
    return [layer for block in repeated_blocks(module).values() for layer in _frozen_linear(block)]


def stored_bytes(layer: LowBitLinear) -> int:
    """Bytes of a layer's codes and scales."""
    return sum(weight.numel() * weight.element_size() for weight in (layer.weight, layer.scales))


def plain_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer as numbers, low bits expanded to float32."""
    if isinstance(layer, LowBitLinear):
        return layer.expanded(torch.float32)
    weight: Any = layer.weight
    return weight


def _frozen_linear(block: nn.Module) -> Iterator[nn.Linear]:
    for layer in block.modules():
        if type(layer) is nn.Linear and not layer.weight.requires_grad:
            yield layer


@torch.no_grad()
def store_layer(layer: Any, kind: LowBits) -> None:
    """Exchange a layer's weight for codes and scales, in place: those who hold the layer keep it."""
    codes, scales = _pack(layer.weight.data, kind)
    layer.__class__ = LowBitLinear
    layer.kind = kind
    layer.weight = nn.Parameter(codes, requires_grad=False)
    layer.scales = nn.Parameter(scales.view(torch.int32), requires_grad=False)


def _pack(weight: Tensor, kind: LowBits) -> tuple[Tensor, Tensor]:
    """uint8 codes and float32 scales of a weight (out, in); shapes alone on the meta device."""
    if kind == "fp8":
        if weight.is_meta:
            return torch.empty_like(weight, dtype=torch.uint8), weight.new_empty(len(weight), 1, dtype=torch.float32)
        scales = (weight.float().abs().amax(dim=1, keepdim=True) / FP8_MAX).clamp(min=1e-30)
        return (weight.float() / scales).to(FP8).view(torch.uint8), scales
    blocks = -(-weight.numel() // BLOCK)
    if weight.is_meta:
        return weight.new_empty(blocks * BLOCK // 2, dtype=torch.uint8), weight.new_empty(
            blocks, 1, dtype=torch.float32
        )
    flat = nn.functional.pad(weight.float().flatten(), (0, blocks * BLOCK - weight.numel())).view(blocks, BLOCK)
    scales = flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    table = torch.tensor(NF4, device=weight.device)
    codes = torch.bucketize(flat / scales, (table[1:] + table[:-1]) / 2).to(torch.uint8).flatten()
    return codes[0::2] << 4 | codes[1::2], scales


def _expand(codes: Tensor, scales: Tensor, kind: LowBits, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """(out, in) the numbers that codes and scales mean."""
    factors = scales.view(torch.float32).to(dtype)
    if kind == "fp8":
        return codes.view(FP8).to(dtype) * factors
    table = torch.tensor(NF4, device=codes.device, dtype=dtype)
    numbers = table[torch.stack([codes >> 4, codes & 15], dim=-1).int()].view(-1, BLOCK) * factors
    return numbers.flatten()[: shape[0] * shape[1]].view(shape)
