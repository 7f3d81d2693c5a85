"""Keep blocks of a frozen module in CPU memory and copy each to the device only while it computes.

In: a module on the CPU with its adapters attached, a device, how many blocks. Out: the same module, which computes on the
device. The copies go one way: frozen weights never change, so a block that has computed is dropped. The next block is
copied on a stream of its own meanwhile. Every swapped block is a checkpoint (Chen et al. 2016): autograd keeps its inputs
only, and the backward pass copies the block again and computes its activations again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loraloom.utils.errors import UserError

MAX_SHARE = 1 / 16
"""A block that holds more than this share of the module is taken apart into the blocks inside it."""
ALIGNMENT = 256
"""Each weight begins at a multiple of this many bytes in its block's buffer."""
MOST_UNFINISHED = 2
"""Blocks whose work is enqueued but not finished before another copy begins: each of them still holds its weights."""


def repeated_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a module by name, in the order of their definition: items of its `nn.ModuleList`s that have weights.

    A large item gives the blocks inside it instead where those hold most of its weights: a level of a UNet is no block, its
    transformer blocks are.
    """
    limit = MAX_SHARE * _numbers(module)

    def below(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in parent.named_children():
            if not isinstance(child, nn.ModuleList):
                yield from below(child, f"{prefix}{name}.")
                continue
            for index, item in enumerate(child):
                place, size = f"{prefix}{name}.{index}", _numbers(item)
                inner = list(below(item, f"{place}."))
                if size > limit and 2 * sum(_numbers(block) for _, block in inner) > size:
                    yield from inner
                elif size:
                    yield place, item

    return dict(below(module, ""))


def recomputes(block: Any) -> bool:
    """Whether a block's backward pass computes its activations again by itself, because it is swapped."""
    return getattr(block.forward, "recomputes", False)


def count_blocks(wish: float, available: int, what: str) -> int:
    """How many of `available` blocks a setting means: a share below 1, or a whole number of blocks.

    Raises:
        UserError: Neither, or more blocks than there are.
    """
    if not available:
        raise UserError(f"the {what} of this model has no list of blocks", got="block swap", fix="leave block swap off")
    if 0 < wish < 1:
        return max(1, round(wish * available))
    if wish != int(wish) or not 1 <= wish <= available:
        raise UserError(
            f"block swap cannot keep that many blocks of the {what} in CPU memory",
            got=f"{wish:g}",
            expected=f"1 to {available} blocks, or a share below 1",
        )
    return int(wish)


class BlockSwap:
    """Swaps blocks of one module; made once, after its adapters were attached.

    Args:
        module: Lies on the CPU. Everything but the frozen weights of the swapped blocks is moved to the device.
        device: Where the module computes.
        count: Number of blocks that stay in CPU memory, spread evenly over all, so that blocks that stay on the device give
            the copies time.

    Attributes:
        names: Names of the swapped blocks.
        swapped_bytes: Frozen weights in CPU memory.
        largest_bytes: The largest swapped block.
        copies: Number of blocks copied to the device so far.
        prefetched: Number of those that were under way before they were asked for.
    """

    def __init__(self, module: nn.Module, device: torch.device, count: int) -> None:
        blocks = list(repeated_blocks(module).items())
        assert 1 <= count <= len(blocks), "count_blocks comes first"
        chosen = [blocks[(2 * number + 1) * len(blocks) // (2 * count)] for number in range(count)]
        self.device = device
        self.names = tuple(name for name, _ in chosen)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        owners: dict[int, int] = {}
        for _, block in blocks:
            for weight in set(block.parameters()):
                owners[id(weight)] = owners.get(id(weight), 0) + 1
        outside = {id(weight) for name, weight in module.named_parameters() if not _inside(name, dict(blocks))}
        self._buffers = [
            _Buffer(
                [w for w in block.parameters() if _swappable(w) and owners[id(w)] == 1 and id(w) not in outside], self
            )
            for _, block in chosen
        ]
        self.swapped_bytes = sum(buffer.num_bytes for buffer in self._buffers)
        self.largest_bytes = max(buffer.num_bytes for buffer in self._buffers)
        self.copies = self.prefetched = 0
        self._after: dict[tuple[bool, int], int] = {}
        self._last: tuple[bool, int] | None = None
        self._ahead: int | None = None
        self._computed: deque[Any] = deque()
        kept = {id(weight) for buffer in self._buffers for weight in buffer.weights}
        for weight in module.parameters():
            if id(weight) not in kept:
                weight.data = weight.data.to(device)
        for child in module.modules():
            for name, value in child.named_buffers(recurse=False):
                setattr(child, name, value.to(device))
        for index, (_, block) in enumerate(chosen):
            self._wrap(index, block)

    def _wrap(self, index: int, block: Any) -> None:
        forward: Callable[..., Any] = block.forward

        def swapped(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return self._compute(index, False, forward, args, kwargs)
            times = iter((False, True))

            def region(*inner: Any, **named: Any) -> Any:
                return self._compute(index, next(times, True), forward, inner, named)

            return checkpoint(region, *args, use_reentrant=False, **kwargs)

        swapped.recomputes = True  # pyright: ignore[reportFunctionMemberAccess] - read by `recomputes`
        block.forward = swapped

    def _compute(
        self,
        index: int,
        backward: bool,
        forward: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run a block with its weights on the device, the copy of the block after it under way."""
        with torch.inference_mode(False):  # a block that is copied while sampling may serve a training step
            self._fetch(index, backward)
        try:
            return forward(*args, **kwargs)
        finally:  # a recomputation ends by an exception when it has what it needs
            self._buffers[index].drop()
            if self._stream is not None:
                self._computed.append(torch.cuda.current_stream(self.device).record_event())

    def _fetch(self, index: int, backward: bool) -> None:
        if self._ahead is not None and self._ahead != index:
            self._buffers[self._ahead].drop()  # the order has changed: validation after training
        self.prefetched += self._ahead == index
        self._ahead = None
        self._start(index)
        self._buffers[index].use()
        if self._last is not None:
            self._after[self._last] = index
        self._last = (backward, index)
        after = self._after.get((backward, index))
        if after is not None and after != index:
            self._start(after)
            self._ahead = after

    def _start(self, index: int) -> None:
        while len(self._computed) > MOST_UNFINISHED:  # the CPU enqueues faster than the device computes
            self._computed.popleft().synchronize()
        self.copies += self._buffers[index].start(self._stream)


class _Buffer:
    """The frozen weights of one block: in one CPU buffer, and on the device while the block computes."""

    def __init__(self, weights: Sequence[nn.Parameter], owner: BlockSwap) -> None:
        self.weights = list({id(weight): weight for weight in weights}.values())
        self._device = owner.device
        self._places: list[int] = []
        end = 0
        for weight in self.weights:
            self._places.append(end)
            end += -(-weight.numel() * weight.element_size() // ALIGNMENT) * ALIGNMENT
        self.num_bytes = end
        self._home = torch.empty(end, dtype=torch.uint8, pin_memory=owner.device.type == "cuda")
        self._away: Tensor | None = None
        self._ready: Any = None
        views = self._views(self._home)
        for weight, view in zip(self.weights, views, strict=True):
            view.copy_(weight.data)
            weight.data = view
        self._home_views = views

    def start(self, stream: Any) -> bool:
        """Begin to copy the block to the device unless that has begun; returns whether it did."""
        if self._away is not None:
            return False
        if stream is None:
            self._away = self._home.to(self._device, copy=True)
            return True
        with torch.cuda.stream(stream):
            self._away = self._home.to(self._device, non_blocking=True)
            self._ready = stream.record_event()
        return True

    def use(self) -> None:
        """Let the block's weights be those on the device; computing waits for the copy."""
        assert self._away is not None
        if self._ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._ready)
            self._away.record_stream(current)
            self._ready = None
        for weight, view in zip(self.weights, self._views(self._away), strict=True):
            weight.data = view

    def drop(self) -> None:
        """Let the weights be those in CPU memory again. What autograd holds for a backward pass under way stays."""
        for weight, view in zip(self.weights, self._home_views, strict=True):
            weight.data = view
        self._away = self._ready = None

    def _views(self, flat: Tensor) -> list[Tensor]:
        views: list[Tensor] = []
        for weight, place in zip(self.weights, self._places, strict=True):
            part = flat[place : place + weight.numel() * weight.element_size()].view(weight.dtype)
            views.append(part.as_strided(weight.shape, weight.stride(), part.storage_offset()))
        return views


def _swappable(weight: nn.Parameter) -> bool:
    """Whether a weight is frozen and dense: its strides are a permutation of a contiguous tensor's."""
    order = sorted(range(weight.dim()), key=weight.stride, reverse=True)
    return not weight.requires_grad and weight.permute(order).is_contiguous()


def _inside(name: str, blocks: Mapping[str, nn.Module]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in blocks for end in range(1, len(parts)))


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
