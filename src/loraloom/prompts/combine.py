"""From encoded windows to one prompt's states, and from prompts to a batch.

In: hidden states (n, k, d) of a prompt's windows. Out: the states that the denoiser reads, and a `Conditioning` of a
batch whose length is the batch's own longest prompt.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loraloom.config.run import PromptMethod
from loraloom.protocols.model import Conditioning


def emphasise(hidden_nkd: Tensor, weights_nk: Tensor) -> Tensor:
    """Multiply every token's state by its weight and give each window its mean back.

    The rule of AUTOMATIC1111 ("Original"): the mean over all of a window's values stays what it was.

    Args:
        hidden_nkd: (n, k, d) float.
        weights_nk: (n, k) float, 1 for BOS, EOS and padding.
    """
    weighted = hidden_nkd * weights_nk[..., None].to(hidden_nkd)
    before = hidden_nkd.mean(dim=(1, 2), keepdim=True)
    after = weighted.mean(dim=(1, 2), keepdim=True)
    usable = after.abs() > 1e-8  # a mean of nothing cannot be restored
    return weighted * torch.where(usable, before / torch.where(usable, after, torch.ones_like(after)), 1.0)


def combine(hidden_nkd: Tensor, num_tokens: Sequence[int], method: PromptMethod) -> Tensor:
    """One prompt's windows (n, k, d) to the states that cross-attention reads: (n, k, d) or (1, k, d).

    Args:
        hidden_nkd: States of the prompt's windows.
        num_tokens: Tokens in each window without BOS and EOS; the weights of `weighted`.
        method: `attention` keeps all windows; `mean`, `max` and `weighted` fold them position by position; `truncate`
            and `smart` have one window already.
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


def collate(prompts: Sequence[Tensor]) -> Conditioning:
    """Prompts of (n_i, k, d) states to a batch: (b, max n_i x k, d).

    Windows that only a longer neighbour needs hold zeros and are masked, so that no image depends on its batch.
    """
    most = max(states.shape[0] for states in prompts)
    window = prompts[0].shape[1]
    hidden_bld = torch.stack(
        [torch.nn.functional.pad(states, (0, 0, 0, 0, 0, most - states.shape[0])).flatten(0, 1) for states in prompts]
    )
    if all(states.shape[0] == most for states in prompts):
        return Conditioning(hidden_bld)
    num_windows_b = torch.tensor([states.shape[0] for states in prompts], device=hidden_bld.device)
    positions_l = torch.arange(most * window, device=hidden_bld.device)
    return Conditioning(hidden_bld, positions_l[None, :] < (num_windows_b * window)[:, None])


def concatenate(first: Conditioning, second: Conditioning) -> Conditioning:
    """Two batches below each other, the shorter padded by masked windows: the two halves of guidance."""

    def unmerge(part: Conditioning) -> list[Tensor]:
        lengths = (
            [part.hidden_bld.shape[1]] * part.hidden_bld.shape[0]
            if part.mask_bl is None
            else [int(length) for length in part.mask_bl.sum(dim=1)]
        )
        return [hidden[:length][None] for hidden, length in zip(part.hidden_bld, lengths, strict=True)]

    rows = [*unmerge(first), *unmerge(second)]
    longest = max(row.shape[1] for row in rows)
    hidden_bld = torch.cat([torch.nn.functional.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])
    lengths_b = torch.tensor([row.shape[1] for row in rows], device=hidden_bld.device)
    if bool((lengths_b == longest).all()):
        return Conditioning(hidden_bld)
    return Conditioning(hidden_bld, torch.arange(longest, device=hidden_bld.device)[None, :] < lengths_b[:, None])
