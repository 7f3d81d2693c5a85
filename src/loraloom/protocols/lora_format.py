"""How adapter files name a family's layers, which they hold as one, and which programs read them: `LoraFormat`.

In: names of modules. Out: names and stems of keys in each key format. No tensor is read or written here.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """Several linear layers of a part that other programs hold as one, such as to_q, to_k and to_v as qkv.

    Attributes:
        name: The one layer's name there, as a module name: `blocks.0.attn.qkv`.
        modules: The layers here, in the order of the one layer's output rows.
    """

    name: str
    modules: tuple[str, ...]


class LoraFormat(Protocol):
    """How adapter files of this and other programs name a family's layers, and which of them hold several as one."""

    architecture: str
    """Name in `modelspec.architecture`, such as `stable-diffusion-v1`."""
    kohya_version: str
    """Name in `ss_base_model_version`, such as `sd_v1`."""
    programs: Mapping[str, str]
    """Key format of an export -> the programs that read it: `diffusers`, `kohya`, and `native` where there is one: peft's own
    files with the names of `kohya_name`, for programs that run the model's original code and adapt its denoiser only."""

    def unlearned(self, part: str) -> Sequence[str]:
        """Modules that files in the native format hold as zeros, because the programs that read them expect them."""

    def component(self, part: str) -> str:
        """The part's name in a diffusers pipeline (`unet`), the first word of keys in adapter files."""

    def kohya_prefix(self, part: str) -> str:
        """The first word of the part's keys in kohya's layout (`lora_unet`)."""

    def diffusers_name(self, part: str, module_name: str) -> str:
        """A module's name in adapter files; differs from `module_name` if a library renamed its modules."""

    def kohya_name(self, part: str, name: str) -> str:
        """The name of a module, or of a fused layer, in kohya's layout before its dots become underscores; differs where
        that layout names layers as the model's original code does."""

    def other_stems(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Further stem of keys -> the module of `names` that it means."""

    def fused(self, part: str, names: Sequence[str]) -> Sequence[FusedLayer]:
        """The layers of kohya's layout that hold several of the modules `names`."""
