"""One encoder for everything: plain for short prompts, independent of the batch for long ones."""

import pytest
import torch

from loraloom import plugins
from loraloom.config.run import PromptMethod
from loraloom.extensions.families._diffusers.windows import collate, combine, emphasise
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.report import METHODS
from loraloom.protocols.model import Prompt

FREETEXT = plugins.load("domains", "freetext")
SHORT = "a photo of a dog"
LONG = "The plan has one living room. The kitchen is left of the living room. The bath is above the kitchen. " * 2


@pytest.mark.parametrize("method", METHODS)
@torch.inference_mode()
def test_one_window_equals_plain_clip_encoding_bit_for_bit(tiny_text, method: PromptMethod) -> None:
    encoder = PromptEncoder(text=tiny_text, domain=FREETEXT, method=method)
    plain = tiny_text.encode_windows(torch.tensor([tiny_text.window(tiny_text.tokenize(SHORT))]))
    assert torch.equal(encoder.encode([SHORT])[0]["hidden"], plain)
    assert torch.equal(encoder.encode([SHORT], weighting=True)[0]["hidden"], plain)


@torch.inference_mode()
def test_attention_keeps_all_windows_and_the_others_fold_to_one(tiny_text) -> None:
    windows = {
        m: PromptEncoder(text=tiny_text, domain=FREETEXT, method=m, max_windows=20).encode([LONG])[0]["hidden"].shape[0]
        for m in METHODS
    }
    assert windows.pop("attention") > 1
    assert set(windows.values()) == {1}


@torch.inference_mode()
def test_a_batch_is_as_long_as_its_longest_prompt_and_masks_the_rest(tiny_text) -> None:
    encoder = PromptEncoder(text=tiny_text, domain=FREETEXT, method="attention", max_windows=20)
    short, long = (tensors["hidden"] for tensors in encoder.encode([SHORT, LONG]))
    assert collate([short])[1] is None
    hidden, mask = collate([short, long])
    assert hidden.shape[1] == long.shape[0] * 77
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [77, long.shape[0] * 77]
    assert torch.equal(hidden[1], long.flatten(0, 1))
    assert torch.equal(hidden[0, :77], short[0])


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
    attention, mean = (
        PromptEncoder(text=tiny_text, domain=FREETEXT, method=m, max_windows=20) for m in ("attention", "mean")
    )
    keys = {
        attention.cache_key(LONG), mean.cache_key(LONG), attention.cache_key(LONG + "!"),
        attention.cache_key(LONG, dtype=torch.bfloat16), attention.cache_key("(x:1.2) " + LONG, weighting=True),
    }  # fmt: skip
    assert len(keys) == 5
    assert attention.cache_key(SHORT) == mean.cache_key(SHORT)


def test_prompts_whose_first_window_agrees_have_keys_of_their_own(words) -> None:
    """A second text encoder reads what the first window does not hold: equal windows are not equal prompts."""

    class Fixed(type(words)):
        """The denoiser reads one window; another encoder reads 16 words of the text."""

        max_windows = 1

        def unread(self, prompt: Prompt) -> tuple[str, ...]:
            rest = prompt.text.split()[16:]
            return (" ".join(rest),) if rest else ()

    encoder = PromptEncoder(text=Fixed(), domain=FREETEXT, method="attention")
    begin = " ".join(f"w{n}" for n in range(10))
    one, other = f"{begin} red red", f"{begin} red blue"
    assert [w.ids for w in encoder.plan(one).windows] == [w.ids for w in encoder.plan(other).windows]
    assert encoder.cache_key(one) != encoder.cache_key(other)
    assert encoder.cache_key(one) != encoder.cache_key(f"{begin} red (red:1.2)", weighting=True)
    assert encoder.plan(one).lost == ()
    assert encoder.plan(f"{begin} " + "x " * 8).lost == ("x x",)
    assert encoder.plan(f"{begin} " + "x " * 8).lost_tokens == 2
