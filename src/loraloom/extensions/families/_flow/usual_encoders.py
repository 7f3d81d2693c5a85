"""Configs of text encoders that several bases have, for the cards of their families. No library is imported.

In: nothing. Out: mappings as `config.json` has them.
"""

from collections.abc import Mapping
from typing import Any

QWEN3_4B: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
"""Text encoder of Z-Image and of FLUX.2 klein 4B."""
