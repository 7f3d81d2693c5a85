"""Tiny captioning models of random weights: the real classes of transformers with some thousand weights, for trials and tests.

In: an empty folder. Out: config, processor, tokenizer of some twenty words, and weights, as a published model has them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# torch and transformers are not typed.

from pathlib import Path
from typing import Any

WORDS = (  # noqa: SIM905
    "a the of with and on in at is red blue green dog cat house tree woman man car photo painting sky near large small"
).split()
_SIDE_PX, _WIDTH, _QUERIES = 32, 16, 2
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_LAYERS = {"hidden_size": _WIDTH, "intermediate_size": _WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION = {**_LAYERS, "image_size": _SIDE_PX, "patch_size": _SIDE_PX // 2}
_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def build_blip(folder: Path) -> None:
    """BLIP with a BERT tokenizer."""
    import transformers

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = transformers.BertTokenizer({word: place for place, word in enumerate(vocabulary)})
    text = {
        **_LAYERS,
        "vocab_size": len(vocabulary),
        "encoder_hidden_size": _WIDTH,
        "projection_dim": _WIDTH,
        "max_position_embeddings": 128,
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    config = transformers.BlipConfig(text_config=text, vision_config=_VISION)
    processor = transformers.BlipProcessor(_blip_images(), tokenizer)
    _save(transformers.BlipForConditionalGeneration, config, processor, folder, silent=range(5))


def build_blip2(folder: Path) -> None:
    """BLIP-2 with OPT as its language model."""
    import transformers

    tokenizer = _words()
    processor = transformers.Blip2Processor(_blip_images(), tokenizer, num_query_tokens=_QUERIES)
    image = tokenizer.convert_tokens_to_ids("<image>")
    text = {
        **_IDS,
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": _WIDTH,
        "word_embed_proj_dim": _WIDTH,
        "max_position_embeddings": 128,
    }
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config={**_LAYERS, "vocab_size": 20, "num_hidden_layers": 2, "encoder_hidden_size": _WIDTH},
        text_config=text,
        num_query_tokens=_QUERIES,
        image_token_index=image,
    )
    _save(transformers.Blip2ForConditionalGeneration, config, processor, folder, silent=[*range(4), image])


def build_florence(folder: Path) -> None:
    """Florence-2: a DaViT tower with BART."""
    import transformers

    tokenizer = _words(image_token="<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    tower = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, _WIDTH],
        "num_heads": [1, 2],
        "num_groups": [1, 2],
        "window_size": 2,
        "projection_dim": _WIDTH,
        "max_temporal_embeddings": 4,
    }
    text = {
        **_IDS,
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": _WIDTH,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": _WIDTH,
        "decoder_ffn_dim": _WIDTH,
        "max_position_embeddings": 256,
        "decoder_start_token_id": 2,
    }
    images = _clip_images(do_center_crop=False, size={"height": _SIDE_PX, "width": _SIDE_PX})
    images.image_seq_length = 17  # one temporal feature and 4 x 4 places
    processor = transformers.Florence2Processor(images, tokenizer)
    config = transformers.Florence2Config(vision_config=tower, text_config=text, image_token_id=image)
    _save(transformers.Florence2ForConditionalGeneration, config, processor, folder, silent=[*range(4), image])


def build_llava(folder: Path) -> None:
    """LLaVA: a CLIP tower with Llama, and a chat template."""
    import transformers

    tokenizer = _words(image_token="<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    images = _clip_images(size={"shortest_edge": _SIDE_PX}, crop_size={"height": _SIDE_PX, "width": _SIDE_PX})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=_SIDE_PX // 2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
    text = {
        **_IDS,
        **_LAYERS,
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
    tower = {**_VISION, "model_type": "clip_vision_model", "num_hidden_layers": 2, "projection_dim": _WIDTH}
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=image, vision_feature_layer=-2
    )
    _save(transformers.LlavaForConditionalGeneration, config, processor, folder, silent=[*range(4), image])


def build_qwen2_vl(folder: Path) -> None:
    """Qwen2-VL in the files of a published model, whose processor also has a part for videos."""
    import json

    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    marks = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    marks |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    tokenizer = _words(**marks)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(word) for name, word in marks.items()}
    tokenizer.chat_template = _TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    patch = _SIDE_PX // 2 - 2
    images = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=2, min_pixels=4 * patch**2, max_pixels=16 * patch**2
    )
    text = {
        **_IDS,
        **_LAYERS,
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    tower = {"depth": 1, "embed_dim": _WIDTH, "hidden_size": _WIDTH, "num_heads": 2, "mlp_ratio": 1}
    tower |= {"patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=tower, **ids)
    silent = [*range(4), *ids.values()]
    _save(transformers.Qwen2VLForConditionalGeneration, config, tokenizer, folder, silent=silent)
    images.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    named = {"processor_class": "Qwen2VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | named), encoding="utf-8")


def _words(**special: str) -> Any:
    """A tokenizer of `WORDS`; other words are `<unk>`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: place for place, word in enumerate([*_SPECIAL, *WORDS])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    bos, pad, eos, unk = _SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token=bos,
        pad_token=pad,
        eos_token=eos,
        unk_token=unk,
        extra_special_tokens=special,
    )


def _blip_images() -> Any:
    """BLIP's preprocessing without torchvision."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    return BlipImageProcessorPil(size={"height": _SIDE_PX, "width": _SIDE_PX})


def _clip_images(**settings: Any) -> Any:
    """CLIP's preprocessing without torchvision."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**settings)


def _save(made: Any, config: Any, processor: Any, folder: Path, *, silent: Any) -> None:
    """Random weights; tokens of `silent` are never the most probable ones, so that every caption has words."""
    import torch

    from loraloom.utils.quiet import quiet

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = made(config)
        head = model.get_output_embeddings() or model.text_decoder.get_output_embeddings()
        with torch.no_grad():
            head.weight.normal_()
            rows = torch.tensor(list(silent))
            head.weight[rows] = 0
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
