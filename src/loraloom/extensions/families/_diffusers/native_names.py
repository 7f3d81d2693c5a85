"""Names of a transformer's layers in the model's original code, by tables: for key formats that use them.

In: names of modules in diffusers. Out: names there, the layers that are one there, and stems of keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loraloom.protocols.model import FusedLayer

PREFIXES = ("diffusion_model.", "model.diffusion_model.", "transformer.", "base_model.model.", "")
"""What stands before a native name in files of ComfyUI, ai-toolkit, peft and others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNames:
    """One list of blocks.

    Attributes:
        ours, theirs: Name of the list in diffusers and in the original code.
        layers: Layer of a block in diffusers -> its name there.
        fused: Layer there -> the layers of diffusers that are its rows, in order.
    """

    ours: str
    theirs: str
    layers: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeNames:
    """The names of one transformer.

    Attributes:
        blocks: Its lists of blocks.
        outer: Layers outside of blocks: name in diffusers -> name there.
    """

    blocks: tuple[BlockNames, ...]
    outer: Mapping[str, str]

    def name(self, module: str) -> str | None:
        """A module's name there; None for one that is part of a fused layer, or has no counterpart."""
        if module in self.outer:
            return self.outer[module]
        for block in self.blocks:
            number, inner = _inside(block.ours, module)
            if inner in block.layers:
                return f"{block.theirs}.{number}.{block.layers[inner]}"
        return None

    def fused(self, names: Sequence[str]) -> list[FusedLayer]:
        """The layers there that hold several of the modules `names`; a fused layer is listed where all of its modules are."""
        known, found = set(names), list[FusedLayer]()
        for block in self.blocks:
            numbers = {int(number) for name in names if (number := _inside(block.ours, name)[0])}
            for number in sorted(numbers):
                for theirs, members in block.fused.items():
                    modules = tuple(f"{block.ours}.{number}.{member}" for member in members)
                    if known.issuperset(modules):
                        found.append(FusedLayer(f"{block.theirs}.{number}.{theirs}", modules))
        return found

    def stems(self, names: Sequence[str]) -> dict[str, str]:
        """Every stem on a native name -> the module, or fused layer, that it means."""
        native = {theirs: name for name in names if (theirs := self.name(name))}
        native.update({layer.name: layer.name for layer in self.fused(names)})
        found: dict[str, str] = {}
        for theirs, name in native.items():
            found.update({f"{prefix}{theirs}": name for prefix in PREFIXES})
            found.update({f"{prefix}{theirs.replace('.', '_')}": name for prefix in ("lora_unet_", "lycoris_")})
        return found


def _inside(blocks: str, module: str) -> tuple[str, str]:
    """Number of the block and name within it; empty texts for a module elsewhere."""
    if not module.startswith(f"{blocks}."):
        return "", ""
    number, _, inner = module[len(blocks) + 1 :].partition(".")
    return (number, inner) if number.isdecimal() else ("", "")
