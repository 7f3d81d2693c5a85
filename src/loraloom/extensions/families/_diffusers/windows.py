"""Encode prompts that are cut into windows: encode each window, combine the windows, collate prompts to a batch.

In: prompts with their windows, and an encoder of windows. Out: the prompt embeddings for cross-attention, and a batch
of the length of its longest prompt.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loraloom.protocols.model import Prompt, Tokenizer


def emphasise(hidden_nkd: Tensor, weights_nk: Tensor) -> Tensor:
    """Multiply the hidden state of every token by its weight and restore the mean of each window.

    The rule of AUTOMATIC1111 ("Original"): the mean over all values of a window stays the same.

    Args:
        hidden_nkd: (n, k, d) float hidden states.
        weights_nk: (n, k) float weights, 1 for BOS, EOS and padding.
    """
    weighted = hidden_nkd * weights_nk[..., None].to(hidden_nkd)
    before = hidden_nkd.mean(dim=(1, 2), keepdim=True)
    after = weighted.mean(dim=(1, 2), keepdim=True)
    usable = after.abs() > 1e-8  # a mean of zero cannot be restored
    return weighted * torch.where(usable, before / torch.where(usable, after, torch.ones_like(after)), 1.0)


def combine(hidden_nkd: Tensor, num_tokens: Sequence[int], method: str) -> Tensor:
    """Combine one prompt's windows (n, k, d) to its prompt embedding: (n, k, d) or (1, k, d).

    Args:
        hidden_nkd: Hidden states of the prompt's windows.
        num_tokens: Number of tokens in each window without BOS and EOS; the weights of `weighted`.
        method: `attention` keeps all windows; `mean`, `max` and `weighted` combine them position by position;
            `truncate` and `smart` have only one window.
    """
    if hidden_nkd.shape[0] == 1 or method == "attention":
        return hidden_nkd
    if method == "mean":
        return hidden_nkd.mean(dim=0, keepdim=True)
    if method == "max":
        return hidden_nkd.amax(dim=0, keepdim=True)
    assert method == "weighted", method
    share_n = torch.tensor(list(num_tokens), dtype=hidden_nkd.dtype, device=hidden_nkd.device)
    return ((share_n / share_n.sum())[:, None, None] * hidden_nkd).sum(dim=0, keepdim=True)


def encode_windows(prompts: Sequence[Prompt], tokenizer: Tokenizer, encode: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The prompt embeddings (n, k, d) of each prompt, n its number of windows (1 for every method but `attention`).

    Args:
        prompts: Prompts, cut into windows for `tokenizer`.
        tokenizer: Adds BOS, EOS and padding.
        encode: Function of int64 ids (n, k) that returns hidden states (n, k, d).
    """
    ids_nk = torch.tensor([tokenizer.window(window.ids) for prompt in prompts for window in prompt.windows])
    hidden_nkd = encode(ids_nk)
    embeddings: list[Tensor] = []
    start = 0
    for prompt in prompts:
        own_nkd = hidden_nkd[start : start + len(prompt.windows)]
        start += len(prompt.windows)
        if any(weight != 1.0 for window in prompt.windows for weight in window.weights):
            own_nkd = emphasise(own_nkd, _weights(prompt, tokenizer.window_tokens))
        embeddings.append(combine(own_nkd, [len(window.ids) for window in prompt.windows], prompt.method))
    return embeddings


def _weights(prompt: Prompt, window_tokens: int) -> Tensor:
    """(n, k) weights, 1 at BOS, EOS and padding."""
    weights_nk = torch.ones(len(prompt.windows), window_tokens)
    for row, window in zip(weights_nk, prompt.windows, strict=True):
        row[1 : 1 + len(window.ids)] = torch.tensor(window.weights)
    return weights_nk


def collate(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Collate prompt embeddings (n_i, k, d) to a batch (b, l, d), l = max n_i x k, with a mask (b, l) if lengths differ.

    Missing windows of shorter prompts are zeros and masked, so that no image depends on the other prompts of its batch.
    """
    most = max(hidden.shape[0] for hidden in prompts)
    window = prompts[0].shape[1]
    hidden_bld = torch.stack(
        [torch.nn.functional.pad(hidden, (0, 0, 0, 0, 0, most - hidden.shape[0])).flatten(0, 1) for hidden in prompts]
    )
    if all(hidden.shape[0] == most for hidden in prompts):
        return hidden_bld, None
    num_windows_b = torch.tensor([hidden.shape[0] for hidden in prompts], device=hidden_bld.device)
    positions_l = torch.arange(most * window, device=hidden_bld.device)
    return hidden_bld, positions_l[None, :] < (num_windows_b * window)[:, None]
