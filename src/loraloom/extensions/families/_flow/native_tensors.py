"""Where the tensors of diffusers' denoiser are in a checkpoint in the original code's names, as ComfyUI and others use it.

In: tables of names. Out: for a tensor of the module the tensor of the checkpoint, and which of its rows. Layers that are one
there (qkv) are cut by rows; the last layer's modulation has its two halves in the other order there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loraloom.extensions.families._diffusers.native_names import NativeNames

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor of the module -> its shape."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one tensor of the module is.

    Attributes:
        name: The checkpoint's tensor, without the prefix of the denoiser.
        rows: Its rows; None: all of it.
        swapped: Whether its first half is the second one of the module's.
    """

    name: str
    rows: tuple[int, int] | None = None
    swapped: bool = False

    @property
    def layer(self) -> str:
        """The checkpoint's layer, whose scale 8-bit files keep beside the weight."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeTensors:
    """The tensors of one denoiser.

    Attributes:
        names: Its layers.
        renamed: Patterns of whole names of tensors -> the name there, for what is no layer: norms, positions, padding tokens.
        swapped: Pattern of layers with halves in the other order -> the layer there.
        swapped_in_last: As `swapped`, for the last block alone; group 1 of the pattern is the block's number.
        ignored: Patterns of tensors of the checkpoint that the module does not have.
    """

    names: NativeNames
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    swapped: Mapping[str, str] = field(default_factory=dict[str, str])
    swapped_in_last: Mapping[str, str] = field(default_factory=dict[str, str])
    ignored: tuple[str, ...] = ()

    def pieces(self, shapes: Shapes) -> dict[str, Piece]:
        """Where each tensor of a module is. One without a place is the module's own fault, and an error of ours."""
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
        starts: dict[str, tuple[str, tuple[str, ...]]] = {}
        for fused in self.names.fused(layers):
            starts.update(dict.fromkeys(fused.modules, (fused.name, fused.modules)))
        found: dict[str, Piece] = {}
        for name in shapes:
            layer, _, leaf = name.rpartition(".")
            if layer in starts:
                theirs, members = starts[layer]
                before = [shapes[f"{one}.{leaf}"][0] for one in members[: members.index(layer)]]
                found[name] = Piece(f"{theirs}.{leaf}", (sum(before), sum(before) + shapes[name][0]))
            elif (swapped := self._swapped(layer, layers)) is not None:
                found[name] = Piece(f"{swapped}.{leaf}", swapped=True)
            else:
                found[name] = self._alone(name, layer, leaf)
        return found

    def _swapped(self, layer: str, layers: Sequence[str]) -> str | None:
        """The name there of a layer with halves in the other order; None for others."""
        for pattern, theirs in self.swapped.items():
            if match := re.fullmatch(pattern, layer):
                return match.expand(theirs)
        for pattern, theirs in self.swapped_in_last.items():
            if match := re.fullmatch(pattern, layer):
                numbers = [int(other[1]) for one in layers if (other := re.fullmatch(pattern, one))]
                if int(match[1]) == max(numbers):
                    return match.expand(theirs)
        return None

    def _alone(self, name: str, layer: str, leaf: str) -> Piece:
        for pattern, theirs in self.renamed.items():
            if match := re.fullmatch(pattern, name):
                return Piece(match.expand(theirs))
        theirs = self.names.name(layer)
        assert theirs is not None, f"{name} has no name in the original code"
        return Piece(f"{theirs}.{leaf}")
