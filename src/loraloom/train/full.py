"""`method: full`: every weight learns, not an adapter beside them.

In: an opened model with its denoiser placed in float32. Out: the same record that LoRA training works on, so that step,
checkpoint, average and resume are the same code; and in the end a model folder instead of an adapter.
"""

from torch import nn

from loraloom.lora.inject import Adapter, learning_text_encoders
from loraloom.protocols.model import DiffusionModel


def attach_full(model: DiffusionModel, text_encoder: bool) -> Adapter:
    """All parameters of the denoiser, and of the text encoder where it learns too, as float32 and in a fixed order.

    Keys are the part's name in a diffusers pipeline and the parameter's own: `unet.conv_in.weight`.
    """
    modules: dict[str, tuple[str, ...]] = {}
    parameters: dict[str, nn.Parameter] = {}
    owner: dict[str, str] = {}
    encoders = learning_text_encoders(model) if text_encoder else []
    for part in [each.name for each in (model.info.denoiser, *encoders)]:
        module = model.modules.get(part)
        module.float().requires_grad_(True)
        found = dict(sorted(module.named_parameters()))
        modules[part] = tuple(sorted({name.rpartition(".")[0] for name in found}))
        for name, parameter in found.items():
            key = f"{model.lora_format.component(part)}.{name}"
            parameters[key], owner[key] = parameter, part
    return Adapter(
        name="",
        modules=modules,
        parameters=parameters,
        parts=owner,
        roles={part: model.info.part(part).role for part in modules},
    )
