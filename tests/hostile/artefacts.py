"""Everything that the program reads as JSON, YAML, TOML or a model folder: a good one of each, and how it is read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loraloom import plugins
from loraloom.cli.cache_command import lines_of
from loraloom.config.caption import CaptionConfig
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import flatten, read_settings
from loraloom.config.run import RunConfig
from loraloom.data.cache import ContentCache
from loraloom.data.cache_files import examine_cache, removable
from loraloom.data.encode import load_pixels
from loraloom.data.manifest import make_manifest, read_manifest, write_manifest
from loraloom.evaluate.extractors import resolve_extractor
from loraloom.extensions.domains.floorplan.importing.sources import SOURCES, Item
from loraloom.extensions.metrics._towers import Tower
from loraloom.generate.recipes import append_rows
from loraloom.generate.saving import recipe_requests
from loraloom.models.loading import open_model
from loraloom.prepare.caption_versions import undo, versions_text
from loraloom.prepare.captioning import caption_folder
from loraloom.prepare.journal import ImageRow, Journal
from loraloom.prepare.stored_captions import with_stored_captions
from loraloom.protocols.data import Example
from loraloom.protocols.domain import Section
from loraloom.protocols.evaluation import Sample
from loraloom.protocols.model import ModelSource
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder, load_checkpoint
from loraloom.train.components import BestLoss, UpdateCounts
from loraloom.train.optim import LossScale
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.untrusted import library_errors

from .kinds import Artefact, hard_links

EXAMPLE = Example(
    id="a", image="images/a.png", caption="a cat", caption_found=None, split="train", width=16, height=16,
    sha256="0" * 64, source_sha256="1" * 64, source_width=20, source_height=20, crop=(0, 0, 20, 20), scale=0.8,
    num_tokens=4, repeats=2, weight=0.5,
)  # fmt: skip
RECIPE: Mapping[str, Any] = {
    "file": "0.png", "prompt": "a", "negative_prompt": "", "seed": 1, "num_steps": 2, "guidance_scale": 3.0,
    "sampler": "ddim", "width": 32, "height": 32, "expanded_prompt": "", "words": "",
    "model": {"source": "m", "revision": None, "variant": None, "config": None, "family": "auto", "sha256": "0" * 64},
    "adapters": [{"path": "a", "sha256": "0" * 64, "weight": 1.0}],
    "prompt_method": "attention", "domain": "freetext", "weighting": True, "precision": "no", "repair_rounds": 0,
    "repair_guidance": 0.0, "loraloom": "0.1.0",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ captions and plans


def build_captions(folder: Path) -> None:
    """A folder of images whose captions were written to files, over one by hand."""
    (folder / "raw").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), "red").save(folder / f"raw/{name}.png")
    (folder / "raw/a.txt").write_text("by hand", encoding="utf-8")
    values = {"captioner": "template", "caption_template": "a {stem}", "overwrite": True, "write_files": True}
    caption_folder(folder / "raw", read_settings(CaptionConfig, values=values), console=lambda line: None)


def read_captions(folder: Path) -> None:
    """Everything that reads the store: `prepare`, another edit, a list of versions, undo."""
    with_stored_captions(folder / "raw", list(plugins.load("formats", "sidecar").read(folder / "raw", {})))
    versions_text(folder / "raw")
    caption_folder(
        folder / "raw",
        read_settings(CaptionConfig, values={"suffix": "!", "overwrite": True}),
        console=lambda line: None,
    )
    undo(folder / "raw", lambda line: None)


def build_housegan(folder: Path) -> None:
    """Two rooms and a door, as House-GAN++ has them."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes = [[20, 20, 60, 60], [66, 20, 99, 60], [61, 30, 65, 42]]
    sides = [[left, top, right, top] for left, top, right, _ in boxes]
    sides += [[right, top, right, bottom] for _, top, right, bottom in boxes]
    sides += [[right, bottom, left, bottom] for left, _, right, bottom in boxes]
    sides += [[left, bottom, left, top] for left, top, _, bottom in boxes]
    value = {"room_type": [1, 3, 17], "boxes": boxes, "edges": sides, "ed_rm": [[0], [1], [2]] * 4}
    (folder / "plan.json").write_text(json.dumps(value), encoding="utf-8")


def read_housegan(folder: Path) -> None:
    try:
        SOURCES["housegan"].read(Item(id="plan", file=folder / "plan.json"))
    except RefusedError as error:
        raise UserError(str(error)) from None


# ------------------------------------------------------------------------------------------------- prepared datasets


def build_dataset(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    image = Image.new("RGB", (16, 16), "red")
    image.save(folder / EXAMPLE.image)
    image.save(folder / "images" / "b.png")
    other = replace(EXAMPLE, id="b", image="images/b.png", split="validation")
    info = {"settings": {"trigger": "sks"}, "domain": "freetext", "format": "sidecar"}
    write_manifest(make_manifest(folder, [EXAMPLE, other], info))


def read_dataset(folder: Path) -> None:
    manifest = read_manifest(folder)
    for example in manifest.examples:
        assert 0 < example.width * example.height <= 1 << 26
        assert load_pixels(folder, example).shape == (3, example.height, example.width)
        json.dumps(asdict(example), ensure_ascii=False, allow_nan=False).encode()


CACHE_FILE = f"cache/latents/ab/{'ab' * 32}.safetensors"


def build_cache(folder: Path) -> None:
    build_dataset(folder)
    origin = {"kind": "latents", "id": "a", "image_sha256": EXAMPLE.sha256, "mirrored": "no", "vae": "v"}
    ContentCache(folder / "cache" / "latents").put("ab" * 32, {"mean": torch.ones(4, 2, 2)}, origin)


def read_cache(folder: Path) -> None:
    manifest = read_manifest(folder)
    for deep in (False, True):
        report = examine_cache(folder / "cache", manifest, lambda caption: caption, deep=deep)
        assert len(report.files) + len(report.strangers) <= 2
        lines_of(report)
        for file in removable(report, ("stale", "corrupt"), prompts=True):
            assert file.path.is_relative_to(folder / "cache")


def build_journal(folder: Path) -> None:
    folder.mkdir(parents=True)
    row = ImageRow(
        id="a", settings="s", image="images/a.png", source_sha256="0" * 64, sha256="1" * 64, width=16, height=16,
        source_width=20, source_height=20, crop=(0, 0, 20, 20), scale=0.8, hashes=(1, 2, 3, 4, 5, 6, 7, 8), notes=("n",),
    )  # fmt: skip
    with Journal(folder / "journal.jsonl") as journal:
        journal.compact({"a"})
    (folder / "journal.jsonl").write_text(json.dumps(asdict(row)) + "\n", encoding="utf-8")


def read_journal(folder: Path) -> None:
    with Journal(folder / "journal.jsonl") as journal:
        for row in journal.rows.values():
            assert isinstance(row.width, int)
            assert all(isinstance(value, int) for value in row.hashes)
            assert all(isinstance(note, str) for note in row.notes)


# ----------------------------------------------------------------------------------------------- recipes and settings


def build_recipe(folder: Path) -> None:
    append_rows(folder, [RECIPE])


def build_recipe_image(folder: Path) -> None:
    folder.mkdir(parents=True)
    info = PngInfo()
    info.add_itxt("loraloom", json.dumps(RECIPE))
    Image.new("RGB", (32, 32)).save(folder / "0.png", pnginfo=info)


def read_recipe(name: str, folder: Path) -> None:
    requests, _ = recipe_requests(folder / name, lambda line: None)
    for request in requests:
        assert min(request.width, request.height) >= 1
        assert max(request.width, request.height) <= 1 << 14
        assert request.num_steps >= 1
        (request.prompt + request.negative_prompt + request.sampler).encode()


def build_settings(tree: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML


def build_toml(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.toml").write_text('[train]\nseed = 3\n[model]\nsource = "x"\n', encoding="utf-8")


def read_config(kind: Any, name: str, folder: Path) -> None:
    for value in flatten(read_settings(kind, folder / name)).values():
        json.dumps(value, allow_nan=False).encode()
        assert not isinstance(value, int) or abs(value) < 2**63


# ------------------------------------------------------------------------------------------------------- checkpoints


def build_checkpoint(folder: Path) -> None:
    tensors = {"base_model.model.x.lora_A.weight": torch.ones(2, 2)}
    optimizer = {"0.exp_avg": torch.ones(2, 2), "numbers": {"0.step": 3}, "groups": [{"lr": 0.1}]}
    components = {
        "adapter": tensors,
        "optimizer": optimizer,
        "loss_scale": {"value": 1.0, "good_steps": 3},
        "best_loss": {"step": 2, "loss": 0.5},
        "counts": {"skipped_in_row": 0, "skipped": 1, "largest_norm": 0.5},
    }
    checkpoint = Checkpoint(step=3, components=components, weights_of="adapter")
    CheckpointFolder(folder).save(checkpoint, {"rank": 2})


def read_checkpoint(folder: Path, *, own_sums: bool = False) -> None:
    place = CheckpointFolder(folder).path(3)
    if own_sums and (place / "state.json").is_file():  # by somebody who knows about the sums
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        data = (place / "state.json").read_bytes() if (place / "state.json").stat().st_size < 1 << 24 else b""
        manifest["sha256"]["state.json"] = sha256(data).hexdigest()
        (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    CheckpointFolder(folder).load_newest()
    found = load_checkpoint(place)
    assert 0 <= found.step < 10**13
    assert found.weights_of in found.components
    for component in (LossScale(True), BestLoss(), UpdateCounts()):
        name = {LossScale: "loss_scale", BestLoss: "best_loss", UpdateCounts: "counts"}[type(component)]
        with library_errors(name, place):  # as `Run.restore` loads it
            component.load_state_dict(found.components[name])
        for value in component.state_dict().values():
            assert value is None or isinstance(value, (int, float))


# ------------------------------------------------------------------------------------------------------ model folders


@torch.inference_mode()
def use_model(folder: Path) -> None:
    """Open a model and ask each part once: what is accepted must also work."""
    model = open_model(ModelSource(location=str(folder)))
    ids = torch.tensor([model.text.tokenizer.window(model.text.tokenizer.tokenize("a cat")[:9])])
    text: Any = model.text
    states = text.encode_windows(ids)
    side = model.info.vae_scale_factor * 16
    if side > 1024:
        return  # it can be opened, and a size that it can draw is for the user to choose
    mean, _ = model.encode_images(torch.zeros(1, 3, side, side))
    latents = model.scale_latents(mean)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    answer = model.predict(latents, torch.tensor([10.0]), {"hidden": states, "mask": mask})
    assert answer.shape == latents.shape
    assert model.decode_latents(latents).shape == (1, 3, side, side)
    assert model.info.schedule.signal_t.isfinite().all()


MODEL_FIELDS: dict[str, list[str]] = {
    "unet/config.json": [
        "sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "mid_block_type",
        "block_out_channels", "layers_per_block", "downsample_padding", "act_fn", "norm_num_groups", "norm_eps",
        "cross_attention_dim", "transformer_layers_per_block", "reverse_transformer_layers_per_block",
        "attention_head_dim", "num_attention_heads", "only_cross_attention", "mid_block_only_cross_attention",
        "conv_in_kernel", "conv_out_kernel", "time_embedding_dim", "class_embed_type", "num_class_embeds",
        "encoder_hid_dim", "time_cond_proj_dim", "attention_type", "dropout", "freq_shift", "resnet_time_scale_shift",
        "cross_attention_norm", "dual_cross_attention", "use_linear_projection", "upcast_attention", "quantization_config",
        "auto_map", "_class_name", "addition_embed_type", "mid_block_scale_factor", "resnet_skip_time_act",
        "time_embedding_type", "timestep_post_act", "time_embedding_act_fn", "class_embeddings_concat",
    ],
    "vae/config.json": [
        "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "layers_per_block",
        "act_fn", "latent_channels", "norm_num_groups", "sample_size", "scaling_factor", "shift_factor", "latents_mean",
        "force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention", "quantization_config",
    ],
    "text_encoder/config.json": [
        "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range", "eos_token_id",
        "bos_token_id", "model_type", "architectures", "num_labels", "dtype", "torch_dtype", "attn_implementation",
        "_attn_implementation", "quantization_config", "text_config", "id2label", "auto_map",
    ],
    "scheduler/scheduler_config.json": [
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "timestep_spacing", "steps_offset", "clip_sample", "rescale_betas_zero_snr", "_class_name", "variance_type",
    ],
    "model_index.json": [
        "_class_name", "unet", "vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "controlnet",
    ],
    "tokenizer/tokenizer_config.json": [
        "model_max_length", "bos_token", "eos_token", "pad_token", "unk_token", "tokenizer_class", "added_tokens_decoder",
        "additional_special_tokens", "extra_special_tokens", "auto_map", "truncation_side", "padding_side", "chat_template",
    ],
    "tokenizer/tokenizer.json": [
        "model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "version",
    ],
    "tokenizer/vocab.json": ["a", "<|endoftext|>"],
}  # fmt: skip
OTHER_MODEL_FILES = [
    "tokenizer/merges.txt", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]  # fmt: skip


def build_index(build: Callable[[Path], object], folder: Path) -> None:
    """A model whose UNet has its weights in shards, with an index."""
    from safetensors.torch import load_file, save_file

    build(folder)
    whole = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, whole.with_name(file), {"format": "pt"})
        index.update(dict.fromkeys(part, file))
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    whole.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- extractors


@torch.inference_mode()
def use_extractor(folder: Path) -> None:
    """Open an extractor, and ask it about an image and a text of two windows."""
    tower = Tower(resolve_extractor(str(folder), "--extractor").folder, "cpu")
    image = Image.new("RGB", (40, 30), "red")
    (row,) = tower.images([Sample(role="generated", id="a", open=lambda: image)])
    tower.styles([Sample(role="generated", id="a", open=lambda: image)])
    texts = tower.texts("a", [Section("a house", ("a red house and a tree. " * 6,) * 3)])
    assert row.shape[0] == texts.shape[1]


EXTRACTOR_FIELDS: dict[str, list[tuple[str, ...]]] = {
    "config.json": [
        ("model_type",), ("architectures",), ("projection_dim",), ("logit_scale_init_value",), ("dtype",), ("auto_map",),
        ("quantization_config",), ("vision_config",), ("text_config",), ("attn_implementation",), ("initializer_factor",),
        *(
            ("vision_config", name)
            for name in (
                "hidden_size", "intermediate_size", "image_size", "patch_size", "num_channels", "num_hidden_layers",
                "num_attention_heads", "hidden_act", "layer_norm_eps", "attention_dropout", "model_type",
            )
        ),
        *(
            ("text_config", name)
            for name in (
                "vocab_size", "max_position_embeddings", "eos_token_id", "bos_token_id", "pad_token_id", "hidden_size",
                "hidden_act", "num_attention_heads",
            )
        ),
    ],
    "preprocessor_config.json": [
        ("size",), ("crop_size",), ("crop_size", "height"), ("size", "shortest_edge"), ("resample",), ("image_mean",),
        ("image_std",), ("image_std", 0), ("do_center_crop",), ("rescale_factor",),
    ],
    "tokenizer_config.json": [("bos_token",), ("eos_token",), ("pad_token",), ("unk_token",), ("auto_map",)],
    "vocab.json": [("a",)],
}  # fmt: skip
OTHER_EXTRACTOR_FILES = ["merges.txt", "model.safetensors"]


def artefacts(model: Path) -> list[Artefact]:
    """All of them; `model` is a good model folder, which is copied."""
    build_model = partial(hard_links, model)
    row = [(name,) for name in asdict(EXAMPLE)]
    recipe_fields = [(name,) for name in RECIPE]
    recipe_fields += [("model", "source"), ("adapters", 0), ("adapters", 0, "weight"), ("adapters", 0, "path")]
    info_fields = [("settings",), ("settings", "trigger"), ("domain",), ("format",), ("fingerprint",)]
    journal_fields = [("id",), ("image",), ("width",), ("crop",), ("hashes",), ("hashes", 0), ("notes",), ("scale",)]
    sum_fields = [("layout",), ("step",), ("sha256",), ("sha256", "state.json")]
    state_fields = [
        ("step",),
        ("weights_of",),
        ("components",),
        ("components", "optimizer"),
        ("components", "loss_scale", "value"),
        ("components", "loss_scale", "good_steps"),
        ("components", "best_loss", "step"),
        ("components", "counts", "largest_norm"),
    ]
    read_own = partial(read_checkpoint, own_sums=True)
    read_toml = partial(read_config, RunConfig, "settings.toml")
    found = [
        Artefact("manifest", build_dataset, "manifest.jsonl", read_dataset, [*row, ("crop", 1)]),
        Artefact("dataset.json", build_dataset, "dataset.json", read_dataset, info_fields),
        Artefact("prepared image", build_dataset, "images/a.png", read_dataset),
        Artefact("cache file", build_cache, CACHE_FILE, read_cache),
        Artefact("journal", build_journal, "journal.jsonl", read_journal, journal_fields),
        Artefact(
            "captions current", build_captions, "raw/.captions/current.json", read_captions, [("version",), ("next",)]
        ),
        Artefact(
            "captions version", build_captions, "raw/.captions/v0001.jsonl", read_captions, [("version",), ("words",)]
        ),
        Artefact(
            "plan to import",
            build_housegan,
            "plan.json",
            read_housegan,
            [("room_type",), ("room_type", 0), ("boxes",), ("boxes", 0, 0), ("edges", 0), ("ed_rm",), ("ed_rm", 0, 0)],
        ),
        Artefact("recipe", build_recipe, "prompts.jsonl", partial(read_recipe, "prompts.jsonl"), recipe_fields),
        Artefact("recipe image", build_recipe_image, "0.png", partial(read_recipe, "0.png")),
        Artefact("settings TOML", build_toml, "settings.toml", read_toml),
        Artefact("checkpoint sums", build_checkpoint, "step_0000003/manifest.json", read_checkpoint, sum_fields),
        Artefact("checkpoint state", build_checkpoint, "step_0000003/state.json", read_own, state_fields),
        Artefact("checkpoint weights", build_checkpoint, "step_0000003/state.safetensors", read_checkpoint),
    ]
    run = {"train": {"seed": 3, "max_steps": 9, "compile": False}, "model": {"source": "x"}, "lora": {"rank": 4}}
    for name, kind, tree in (
        ("run", RunConfig, run),
        ("prepare", PrepareConfig, {"size": 64, "caption_template": "x"}),
        ("generate", GenerateConfig, {"seed": 1, "width": 64, "guidance_scale": 2.0}),
    ):
        fields = [tuple(key.split(".")) for key in _keys(tree)]
        read = partial(read_config, kind, "settings.yaml")
        found.append(Artefact(f"settings {name}", partial(build_settings, tree), "settings.yaml", read, fields))
    for file, keys in MODEL_FIELDS.items():
        fields = [("model", "vocab", "a") if key == "vocab" else (key,) for key in keys]
        found.append(Artefact(file, build_model, file, use_model, fields))
    found += [Artefact(file, build_model, file, use_model) for file in OTHER_MODEL_FILES]
    build_extractor = partial(hard_links, resolve_extractor("builtin:mini", "--extractor").folder)
    for file, fields in EXTRACTOR_FIELDS.items():
        found.append(Artefact(f"extractor {file}", build_extractor, file, use_extractor, fields))
    found += [Artefact(f"extractor {file}", build_extractor, file, use_extractor) for file in OTHER_EXTRACTOR_FILES]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    found.append(
        Artefact("shard index", partial(build_index, build_model), index, use_model, [("weight_map",), ("metadata",)])
    )
    return found


def _keys(tree: Mapping[str, Any]) -> list[str]:
    """Dotted keys of groups and of what is in them."""
    inner = [f"{key}.{name}" for key, value in tree.items() if isinstance(value, dict) for name in value]
    return [*tree, *inner]
