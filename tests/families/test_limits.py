"""What a model's configs, headers and tokenizer may say: everything else is refused in a line before a library builds it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraloom.extensions.families._diffusers.limits import make_config
from loraloom.extensions.families._diffusers.t5 import t5_config
from loraloom.models import headers
from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError

UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULE, INDEX = "scheduler/scheduler_config.json", "model_index.json"
TOKENIZER = "tokenizer/tokenizer_config.json"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def refusal(model: Path, part: str = "") -> str:
    with pytest.raises(UserError) as caught:
        opened = open_model(ModelSource(location=str(model)), "stable_diffusion")
        if part:
            opened.modules.get(part)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        (UNET, {"layers_per_block": 100_000}, "layers_per_block: got 100000, expected a whole number from 1 to 8"),
        (UNET, {"attention_head_dim": 0}, "attention_head_dim: got 0"),
        (UNET, {"attention_head_dim": 64}, "at most the block's width of 32"),
        (UNET, {"block_out_channels": [32, 10**9]}, "block_out_channels[1]: got 1000000000"),
        (UNET, {"block_out_channels": [32, 64, 64]}, "lists of different length"),
        (UNET, {"norm_num_groups": 7}, "expected a divisor of every width (32)"),
        (UNET, {"conv_in_kernel": 4}, "expected an odd number"),
        (UNET, {"cross_attention_dim": True}, "cross_attention_dim: got True, expected a whole number"),
        (UNET, {"cross_attention_dim": 96}, "expected the text encoder's hidden_size (64)"),
        (UNET, {"out_channels": 8}, "expected the VAE's latent_channels (4)"),
        (UNET, {"down_block_types": ["EvilBlock", "DownBlock2D"]}, "down_block_types[0]: got 'EvilBlock'"),
        (UNET, {"class_embed_type": "timestep"}, "requires inputs that this family lacks"),
        (UNET, {"quantization_config": {"bits": 4}}, "the weights are quantised"),
        (VAE, {"scaling_factor": -1}, "scaling_factor: got -1"),
        (VAE, {"in_channels": 4}, "in_channels: got 4, expected a whole number from 3 to 3"),
        (VAE, {"latents_mean": [0, 0, 0, 0]}, "latents_mean"),
        (TEXT, {"num_attention_heads": 0}, "num_attention_heads: got 0"),
        (TEXT, {"num_hidden_layers": 10**5}, "num_hidden_layers: got 100000"),
        (TEXT, {"vocab_size": 10**12}, "vocab_size: got 1000000000000"),
        (TEXT, {"vocab_size": 10}, "ids that its text encoder does not have"),
        (TEXT, {"max_position_embeddings": 20}, "at most the text encoder's max_position_embeddings (20)"),
        (TEXT, {"num_labels": 10**9}, "num_labels: got 1000000000"),
        (TEXT, {"_attn_implementation": "somebody/kernels"}, "expected eager or sdpa"),
        (TEXT, {"model_type": "t5"}, "expected clip_text_model or clip"),
        (SCHEDULE, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name: got 'FlowMatchEuler"),
        (SCHEDULE, {"num_train_timesteps": 10**9}, "num_train_timesteps: got 1000000000"),
        (SCHEDULE, {"beta_start": 0.5}, "expected at most beta_end"),
        (SCHEDULE, {"trained_betas": [0.1]}, "trained_betas: got '1 values'"),
        (INDEX, {"_class_name": ["pipeline", "Mine"]}, "model_index.json: _class_name"),
        (INDEX, {"unet": ["my_code", "UNet2DConditionModel"]}, "without custom code"),
        (INDEX, {"controlnet": ["diffusers", "ControlNetModel"]}, "a part that this family does not have"),
        (TOKENIZER, {"model_max_length": "long"}, "model_max_length: got 'long'"),
        (TOKENIZER, {"auto_map": {"AutoTokenizer": "evil.T"}}, "auto_map"),
    ],
)  # fmt: skip
def test_a_config_out_of_its_range_is_named_with_key_value_and_range(
    file: str, values: dict[str, Any], told: str, model: Path
) -> None:
    change(model / file, **values)
    assert told in refusal(model)


def test_a_pipeline_of_its_own_is_refused(model: Path) -> None:
    (model / "pipeline.py").write_text("raise SystemExit", encoding="utf-8")
    assert "which is not run" in refusal(model)


@pytest.mark.parametrize(("part", "folder"), [("denoiser", "unet"), ("vae", "vae"), ("text_encoder", "text_encoder")])
@pytest.mark.parametrize("harm", ["NaN", "infinity", "int8", "shape"])
def test_weights_that_are_not_plain_finite_and_of_the_configs_shape_are_refused(
    part: str, folder: str, harm: str, model: Path
) -> None:
    """NaN was told of images only, after minutes; int8 and other shapes ended in the libraries' own words or tracebacks."""
    file = next((model / folder).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(key for key, tensor in tensors.items() if tensor.ndim == 2)[0]
    if harm == "int8":
        tensors[name] = tensors[name].to(torch.int8)
    elif harm == "shape":
        tensors[name] = torch.zeros(3, 5)
    else:
        tensors[name].view(-1)[1] = float("nan") if harm == "NaN" else float("inf")
    save_file(tensors, file, {"format": "pt"})
    text = refusal(model, part)
    expected = {"int8": "is stored as I8", "shape": "of shape [3, 5] in its files"}.get(harm, "holds NaN or infinity")
    assert expected in text
    assert folder in text


def test_a_config_that_asks_for_much_more_than_its_files_hold_is_refused(model: Path) -> None:
    change(model / TEXT, num_hidden_layers=64, intermediate_size=65_536)
    assert "does not belong to its weights: got a config of" in refusal(model, "text_encoder")


def test_a_model_larger_than_the_machine_is_refused_before_it_is_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "total_memory_bytes", lambda: 1 << 20)
    assert "unet needs more memory than this machine has" in refusal(model, "denoiser")


def test_shards_are_read_and_an_index_that_leads_elsewhere_is_refused(model: Path, tmp_path: Path) -> None:
    whole = model / "unet/diffusion_pytorch_model.safetensors"
    shutil.move(whole, tmp_path / "secret.safetensors")
    index = whole.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}), encoding="utf-8")
    shutil.copy(tmp_path / "secret.safetensors", whole.with_name("other.safetensors"))
    assert "names a file that is not beside it" in refusal(model, "denoiser")


def test_an_adapter_in_the_place_of_a_text_encoder_is_refused(model: Path) -> None:
    """transformers would have loaded the base that the adapter names, from the hub."""
    config = {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}
    (model / "text_encoder/adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "says that this is an adapter, not a model" in refusal(model, "text_encoder")


@pytest.mark.skipif(os.name == "nt", reason="no such files on Windows")
@pytest.mark.parametrize(
    "place", ["unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "vae/extra.json"]
)
def test_a_fifo_anywhere_in_a_model_is_never_opened(place: str, model: Path) -> None:
    (model / place).unlink(missing_ok=True)
    os.mkfifo(model / place)
    assert "is not a regular file" in refusal(model, "vae")


@pytest.mark.parametrize("location", ["~nobody-of-that-name/model", "a\0b", "x" * 5000])
def test_a_location_that_is_no_path_is_no_model(location: str) -> None:
    with pytest.raises(UserError, match="no such model"):
        open_model(ModelSource(location=location), "stable_diffusion")


# ---------------------------------------------------------------------------------------------------------- tokenizer


def vocabulary(*words: str) -> dict[str, int]:
    """Letters alone and at the end of a word, as CLIP has them, words made of them, and the special tokens."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def with_tokenizer(model: Path, vocab: dict[str, int], merges: str | None, whole: dict[str, Any] | None = None) -> Path:
    """The model with these tokenizer files, and a text encoder whose vocab_size fits."""
    folder = model / "tokenizer"
    for name in ("tokenizer.json", "merges.txt", "vocab.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    if merges is not None:
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
    if whole is not None:
        (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    change(model / TEXT, vocab_size=max(vocab.values()) + 1)
    return model


MERGES = "#version: 0.2\nd o\ndo g</w>\nc a\nca t</w>\n"
WORDS = ("do", "dog</w>", "ca", "cat</w>")


def test_a_tokenizer_with_its_merges_is_read(model: Path) -> None:
    text = open_model(
        ModelSource(location=str(with_tokenizer(model, vocabulary(*WORDS), MERGES))), "stable_diffusion"
    ).text.tokenizer
    assert len(text.tokenize("dog cat")) == 2


@pytest.mark.parametrize("merges", ["", "#version: 0.2\n", "#version: 0.2\nd o\nc a\n", None])
def test_a_tokenizer_without_its_merges_is_refused_and_never_reads_letters(model: Path, merges: str | None) -> None:
    """An emptied merges.txt made a token of every letter, and a caption of 20 words was cut after 10."""
    told = refusal(with_tokenizer(model, vocabulary(*WORDS), merges))
    assert "merges" in told
    assert "download" in told


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_a_tokenizer_of_another_kind_is_refused(model: Path, kind: str) -> None:
    whole = {"version": "1.0", "model": {"type": kind, "vocab": vocabulary(), "unk_token": "a"}}
    assert f"got '{kind}', expected BPE" in refusal(with_tokenizer(model, vocabulary(), MERGES, whole))


def test_a_tokenizer_of_four_words_is_refused(model: Path) -> None:
    """A WordLevel tokenizer.json of four words was read without a word: every prompt was all unknown."""
    few = {"a": 0, "dog": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    whole = {"version": "1.0", "model": {"type": "WordLevel", "vocab": few, "unk_token": "a"}}
    assert "expected BPE" in refusal(with_tokenizer(model, few, MERGES, whole))
    whole["model"] = {"vocab": few, "merges": []}
    told = refusal(with_tokenizer(model, few, MERGES, whole))
    assert "4 tokens" in told
    assert "expected 258 to" in told


def test_a_tokenizer_of_another_model_is_told_by_its_size(model: Path) -> None:
    change(with_tokenizer(model, vocabulary(), "") / TEXT, vocab_size=49408)
    assert "less than half of its text encoder's tokens" in refusal(model)


def test_a_vocabulary_without_ends_of_words_is_not_clips(model: Path) -> None:
    plain = [f"{first}{second}" for first in "abcdefghijklmnopqrstuvwxyz" for second in "abcdefghijklmnopqrstuvwxyz"]
    vocab = {token: index for index, token in enumerate([*plain, "<|startoftext|>", "<|endoftext|>"])}
    assert "not a BPE as in CLIP" in refusal(with_tokenizer(model, vocab, ""))


@pytest.mark.parametrize("key", ["initializer_factor", "layer_norm_epsilon", "dropout_rate"])
def test_a_whole_number_where_a_float_is_asked_for_is_that_float(key: str) -> None:
    """JSON has no floats of its own: `1` in a T5's config ended in a traceback of transformers."""
    config = t5_config({"d_model": 16, "num_heads": 2, "vocab_size": 32, key: 1})
    assert getattr(config, key) == 1.0


def test_what_a_librarys_config_refuses_names_the_file() -> None:
    class Refuses:
        def __init__(self, **values: object) -> None:
            raise TypeError(f"no {values}")

    with pytest.raises(UserError, match=r"text_encoder/config\.json cannot be read \(TypeError"):
        make_config(Refuses, {"a": 1}, "text_encoder/config.json")
