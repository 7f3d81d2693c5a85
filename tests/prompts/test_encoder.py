"""One encoder for everything: plain for short prompts, independent of the batch for long ones."""

import pytest
import torch

from loraloom import plugins
from loraloom.config.run import PromptMethod
from loraloom.prompts.combine import collate, combine, concatenate, emphasise
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.report import METHODS

FREETEXT = plugins.load("domains", "freetext")
SHORT = "a photo of a dog"
LONG = "The plan has one living room. The kitchen is left of the living room. The bath is above the kitchen. " * 2


@pytest.mark.parametrize("method", METHODS)
@torch.inference_mode()
def test_one_window_equals_plain_clip_encoding_bit_for_bit(tiny_text, method: PromptMethod) -> None:
    encoder = PromptEncoder(tiny_text, FREETEXT, method)
    plain = tiny_text.encode(torch.tensor([tiny_text.window(tiny_text.tokenize(SHORT))]))
    assert torch.equal(encoder.encode([SHORT])[0], plain)
    assert torch.equal(encoder.encode([SHORT], weighting=True)[0], plain)


@torch.inference_mode()
def test_attention_keeps_all_windows_and_the_others_fold_to_one(tiny_text) -> None:
    windows = {m: PromptEncoder(tiny_text, FREETEXT, m, 20).encode([LONG])[0].shape[0] for m in METHODS}
    assert windows.pop("attention") > 1
    assert set(windows.values()) == {1}


@torch.inference_mode()
def test_a_batch_is_as_long_as_its_longest_prompt_and_masks_the_rest(tiny_text) -> None:
    encoder = PromptEncoder(tiny_text, FREETEXT, "attention", 20)
    short, long = encoder.encode([SHORT, LONG])
    assert collate([short]).mask_bl is None
    batch = collate([short, long])
    assert batch.hidden_bld.shape[1] == long.shape[0] * 77
    assert batch.mask_bl is not None
    assert batch.mask_bl.sum(dim=1).tolist() == [77, long.shape[0] * 77]
    guided = concatenate(collate([short]), collate([long]))
    assert torch.equal(guided.hidden_bld, batch.hidden_bld)
    assert guided.mask_bl is not None
    assert torch.equal(guided.mask_bl, batch.mask_bl)


def test_folding_is_what_it_says() -> None:
    hidden = torch.arange(12.0).reshape(2, 2, 3)
    assert torch.equal(combine(hidden, [1, 3], "mean"), hidden.mean(0, keepdim=True))
    assert torch.equal(combine(hidden, [1, 3], "max"), hidden[1:])
    assert torch.allclose(combine(hidden, [1, 3], "weighted"), (hidden[:1] + 3 * hidden[1:]) / 4)


def test_emphasis_scales_a_token_and_keeps_the_windows_mean() -> None:
    hidden = torch.rand(1, 4, 3) + 1
    weights = torch.tensor([[1.0, 1.5, 1.0, 1.0]])
    out = emphasise(hidden, weights)
    assert torch.allclose(out.mean(), hidden.mean())
    ratio = out / hidden
    assert torch.allclose(ratio[0, 1] / ratio[0, 0], torch.tensor(1.5))


def test_the_cache_key_changes_with_all_that_decides_the_states(tiny_text) -> None:
    attention, mean = (PromptEncoder(tiny_text, FREETEXT, m, 20) for m in ("attention", "mean"))
    keys = {
        attention.cache_key(LONG), mean.cache_key(LONG), attention.cache_key(LONG + "!"),
        attention.cache_key(LONG, dtype=torch.bfloat16), attention.cache_key("(x:1.2) " + LONG, weighting=True),
    }  # fmt: skip
    assert len(keys) == 5
    assert attention.cache_key(SHORT) == mean.cache_key(SHORT)
