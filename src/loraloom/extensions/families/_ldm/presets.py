"""Which layers of a UNet and of CLIP text encoders carry LoRA, by name."""

from types import MappingProxyType

from loraloom.protocols.model import LoraPreset

UNET_PRESETS = MappingProxyType(
    {
        "cross_attention": LoraPreset(r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)"),
        "attention": LoraPreset(r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"),
        "all_linear": LoraPreset(r".*"),
        "all_linear_conv": LoraPreset(r".*", ("Linear", "Conv2d")),
    }
)

ATTENTION_OF_CLIP = MappingProxyType({"attention": LoraPreset(r".*\.self_attn\.(q_proj|k_proj|v_proj|out_proj)")})


def attention_below(num_layers: int) -> MappingProxyType[str, LoraPreset]:
    """`ATTENTION_OF_CLIP` without the layers from `num_layers` on, whose answers nobody reads: they would never learn."""
    numbers = "|".join(str(number) for number in range(num_layers))
    pattern = rf".*\.layers\.({numbers})\.self_attn\.(q_proj|k_proj|v_proj|out_proj)"
    return MappingProxyType({"attention": LoraPreset(pattern)})
