"""Attention with a mask for kernels without masks, such as flash attention; texts are padded.

In: an attention layer of diffusers, hidden states, a mask. Out: the output of diffusers' own processor. The mask becomes
one more channel of queries and keys: 1 in every query, the mask's bias in each key, so that their product adds the bias.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 8
"""Number of added channels; kernels are fast for multiples of eight."""


class MaskAsChannel:
    """A processor for `set_attn_processor`, for layers without their own norms, as in transformer blocks."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, **_: object,
    ) -> Tensor:  # fmt: skip
        """See diffusers' `AttnProcessor2_0`; `attention_mask` is (b, 1, keys), a bias added to products."""
        context_bld = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads, batch = attn.heads, len(hidden_states)

        def by_head(states_bld: Tensor) -> Tensor:
            return states_bld.view(batch, -1, heads, states_bld.shape[-1] // heads).transpose(1, 2)

        query, key, value = (
            by_head(attn.to_q(hidden_states)), by_head(attn.to_k(context_bld)), by_head(attn.to_v(context_bld)),
        )  # fmt: skip
        width = query.shape[-1]
        scale = width**-0.5
        if attention_mask is not None:
            # Divided by the scale of the product; -10000 stays far below every other value, also in bfloat16.
            bias_bhl1 = (attention_mask / scale).to(query.dtype).transpose(1, 2)[:, None].expand(-1, heads, -1, 1)
            query = torch.cat([query, torch.ones_like(query[..., :ROOM])], -1)
            key = torch.cat([key, bias_bhl1, torch.zeros_like(key[..., : ROOM - 1])], -1)
            value = F.pad(value, (0, ROOM))
        answer_bhld = F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]
        return attn.to_out[1](attn.to_out[0](answer_bhld.transpose(1, 2).reshape(batch, -1, heads * width)))
