"""How much memory one LoRA training step takes, found by running it on tensors without data.

In: an opened model and the tensors of a prompt; no weights are read. Out: `StepMemory`, three sums that add up:

    weights      frozen weights of the denoiser in the run's precision
    adapter      12 bytes for each number that learns: itself and AdamW's two averages, float32
    activations  the most that one forward and one backward pass hold at a time, gradients included

The third is no formula of ours: torch runs the step's real operators on tensors that know their shape only (fake tensors),
and every allocation and release is counted. Attention counts as PyTorch's fused kernel does, which keeps no matrix of
scores. Not in it: the CUDA context and workspaces of its libraries (about half a GiB), and what the allocator loses.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loraloom.config.run import LoraConfig
from loraloom.lora.inject import attach_new
from loraloom.models.low_bits import LowBits, store
from loraloom.protocols.family_card import TextTensor
from loraloom.protocols.model import DiffusionModel, ImageGeometry

ADAPTER_BYTES = 12
"""For each learning number: itself and two averages, float32. Its gradient is counted where it is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of one training step, see the module.

    Attributes:
        num_learning: Numbers that learn.
    """

    weights: int
    adapter: int
    activations: int
    num_learning: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.adapter + self.activations


def step_memory(
    model: DiffusionModel,
    texts: Mapping[str, TextTensor],
    *,
    size_px: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    lora: LoraConfig | None = None,
    checkpointing: bool = False,
    low_bits: LowBits | None = None,
) -> StepMemory:
    """The memory of a step on images of `size_px` squared; the denoiser is dropped afterwards.

    Args:
        model: Its denoiser is tried.
        texts: Tensors of a prompt.
        size_px: Side of the images, pixels.
        batch_size: Images of the step.
        dtype: The precision of frozen weights and of the forward pass.
        lora: The adapter.
        checkpointing: With gradient checkpointing.
        low_bits: How frozen layers are stored; None: in `dtype`.
    """
    part = model.info.denoiser.name
    model.modules.put(part, deepcopy(model.modules.skeleton(part)))
    try:
        adapter = attach_new(model, lora or LoraConfig(), seed=0)
        if low_bits:
            store(model.modules.get(part), low_bits)
        if checkpointing:
            model.modules.checkpoint_gradients(part)
        module = model.modules.get(part).train()
        prompts = [example_texts(texts, dtype)] * batch_size
        size = (size_px, size_px)
        conditioning = model.condition(
            prompts, [ImageGeometry(original=size, crop=(0, 0), target=size)] * batch_size, None
        )
        cells = size_px // model.info.vae_scale_factor
        shape = (batch_size, model.info.latent_channels, cells, cells)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            _without_data(module, dtype)
            given = {name: mode.from_tensor(tensor) for name, tensor in conditioning.items()}
            latents_bchw, timesteps_b = torch.zeros(shape), torch.full((batch_size,), 500.0)

            def step() -> None:
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    answer_bchw = model.predict(latents_bchw, timesteps_b, given)
                answer_bchw.float().square().mean().backward()

            activations = peak_of(step, known=[*module.parameters(), *module.buffers(), *given.values()])
        frozen = [weight for weight in module.parameters() if not weight.requires_grad]
        return StepMemory(
            weights=sum(weight.numel() * weight.element_size() for weight in frozen),
            adapter=ADAPTER_BYTES * adapter.num_parameters,
            activations=activations,
            num_learning=adapter.num_parameters,
        )
    finally:
        model.modules.drop(part)


def peak_of(work: Callable[[], None], known: list[Tensor]) -> int:
    """The most bytes that tensors made by `work` hold at a time; those of `known` count nothing."""
    ledger = _Ledger(known)
    with ledger:
        work()
    return ledger.peak


class _Ledger(TorchDispatchMode):
    """Counts storages when an operator gives them and when the last reference to one goes."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._live = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self._kept = [tensor.untyped_storage() for tensor in known]  # so that none of their addresses is used again
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self._now -= self._live.pop(key, 0)


def _without_data(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters and buffers on the meta device by fake ones on the CPU: frozen ones in `dtype`, others float32."""
    made: dict[int, nn.Parameter] = {}
    for child, name, weight in _weights(module):
        kind = (torch.float32 if weight.requires_grad else dtype) if weight.is_floating_point() else weight.dtype
        if id(weight) not in made:
            data = torch.empty_strided(weight.shape, weight.stride(), dtype=kind)
            made[id(weight)] = nn.Parameter(data, requires_grad=weight.requires_grad)
        child._parameters[name] = made[id(weight)]
    for child in module.modules():
        for name, value in child.named_buffers(recurse=False):
            if value.is_meta:
                child._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def _weights(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for child in module.modules():
        for name, weight in list(child.named_parameters(recurse=False, remove_duplicate=False)):
            yield child, name, weight


def example_texts(texts: Mapping[str, TextTensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Ones in the place of what the text encoders give for a prompt, floats in `dtype`."""
    kinds = {"float": dtype, "int": torch.int64, "bool": torch.bool}
    return {name: torch.ones(tensor.shape, dtype=kinds[tensor.dtype]) for name, tensor in texts.items()}
