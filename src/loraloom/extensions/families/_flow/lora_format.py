"""How adapter files name the layers of a flow family: diffusers' names, and kohya's on those of the original code.

In: names of modules. Out: stems of keys, and the layers that kohya's layout and ComfyUI hold as one (qkv).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loraloom.extensions.families._diffusers.native_names import NativeNames
from loraloom.protocols.model import FusedLayer


@dataclass(slots=True, kw_only=True)
class FlowLoraFormat:
    """See `protocols.lora_format.LoraFormat`.

    Attributes:
        architecture, kohya_version, programs: As in the protocol.
        components: Part -> its name in a diffusers pipeline.
        prefixes: Part that learns -> first word of its keys in kohya's layout.
        names: Names of the denoiser's layers in the original code.
        denoiser: Name of the denoiser's part.
    """

    architecture: str
    kohya_version: str
    programs: Mapping[str, str]
    components: Mapping[str, str]
    prefixes: Mapping[str, str]
    names: NativeNames
    denoiser: str = "denoiser"

    def unlearned(self, part: str) -> Sequence[str]:
        """None: there is no native format."""
        return ()

    def component(self, part: str) -> str:
        """`transformer`, `vae` or a text encoder's."""
        return self.components[part]

    def kohya_prefix(self, part: str) -> str:
        """`lora_unet`, `lora_te1` and so on."""
        return self.prefixes.get(part, f"lora_{part}")

    def diffusers_name(self, part: str, module_name: str) -> str:
        """The name with the `text_model.` that files have and some of transformers' modules do not."""
        text = part != self.denoiser
        if text and part in self.prefixes and not module_name.startswith(("text_model.", "text_projection")):
            return f"text_model.{module_name}"
        return module_name

    def kohya_name(self, part: str, name: str) -> str:
        """The original code's name of a layer of the denoiser; a text encoder's layer has diffusers'."""
        if part != self.denoiser:
            return self.diffusers_name(part, name)
        return self.names.name(name) or name

    def other_stems(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Stems on the original code's names."""
        return self.names.stems(names) if part == self.denoiser else {}

    def fused(self, part: str, names: Sequence[str]) -> Sequence[FusedLayer]:
        """The layers that are one in the original code."""
        return self.names.fused(names) if part == self.denoiser else ()
