"""Exports through the key maps of ComfyUI and of AUTOMATIC1111's web UI: is every key used, and is every layer's update ours?

Their own code reads our files: `comfy/lora.py` and `extensions-builtin/Lora/networks.py` of a checkout that you name. What they
import beside (their models, web pages, settings) is replaced by empty stand-ins. Layers have the shapes of each family's usual
base, every layer that can learn carries a random LoRA, and no weights of a base are read.

    python -m benchmarks.export_maps --comfyui ../ComfyUI --a1111 ../stable-diffusion-webui \\
        --json benchmarks/results/export_maps.json

A cell is `green` if no key is left over and every update equals ours to 1e-6 of its size; else it says what is wrong. Updates
are compared by what they make of random inputs. Where a layer lies in the program is what ComfyUI's own map from diffusers'
names says (`unet_to_diffusers` and others); for HunyuanDiT and FLUX.2 klein, which it has none of, diffusers' conversion of
their checkpoints. A file that a program is not said to read is tried too. The exit status is 1 if a cell is red although the
file is meant for that program.
"""

import argparse
import importlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.recording import write_record
from loraloom import plugins
from loraloom.lora.export import DIFFUSERS_NAME, NATIVE_NAME, export_adapter
from loraloom.lora.inject import match_modules
from loraloom.lora.layers import LoraLayer
from loraloom.models.reference import reference_model
from loraloom.protocols.model import DiffusionModel

RANK, ALPHA, PROBES, TOLERANCE = 2, 3.0, 4, 1e-6
FILES = {"diffusers": DIFFUSERS_NAME, "kohya": "x.safetensors", "native": NATIVE_NAME}
COMFYUI_CLASS = {
    "hunyuan_dit": "HunyuanDiT", "sd3": "SD3", "flux": "Flux", "z_image": "Lumina2", "flux2_klein": "Flux2",
}  # fmt: skip
"""Family -> its class in ComfyUI's `model_base.py`; UNets need none."""
CLIP_OF = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


# ------------------------------------------------------------------------------------------------------- stand-ins


class Stand(ModuleType):
    """A module of which every name is an empty class, or a stand-in below it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def stand_in(*names: str) -> None:
    """Put stand-ins where these modules would be imported."""
    for name in names:
        made = sys.modules.setdefault(name, Stand(name))
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, made)


def comfyui(folder: Path) -> Any:
    """ComfyUI's `comfy.lora`, and `comfy.utils` and `comfy.lora_convert` beside it."""
    if not (folder / "comfy" / "lora.py").is_file():
        sys.exit(f"{folder} is no checkout of ComfyUI: comfy/lora.py is not there")
    package = ModuleType("comfy")
    package.__path__ = [str(folder / "comfy")]
    sys.modules["comfy"] = package
    stand_in("comfy.model_base", "comfy.model_management", "comfy.cli_args", "comfy.memory_management", "einops")
    base: Any = sys.modules["comfy.model_base"]
    base.Flux2 = type("Flux2", (base.Flux,), {})  # as there
    arguments: Any = sys.modules["comfy.cli_args"]
    arguments.args = SimpleNamespace(mmap_torch_files=False, disable_mmap=True)
    for name in ("utils", "lora_convert"):
        importlib.import_module(f"comfy.{name}")
    return importlib.import_module("comfy.lora")


def a1111(folder: Path) -> Any:
    """The web UI's `networks.py`."""
    place = folder / "extensions-builtin" / "Lora"
    if not (place / "networks.py").is_file():
        sys.exit(f"{folder} is no checkout of the web UI: extensions-builtin/Lora/networks.py is not there")
    sys.path.insert(0, str(place))
    below = (
        "shared", "devices", "sd_models", "errors", "scripts", "sd_hijack", "textual_inversion", "patches", "cache", "hashes",
        "textual_inversion.textual_inversion", "models", "models.sd3", "models.sd3.mmdit",
    )  # fmt: skip
    stand_in("gradio", "modules", *(f"modules.{name}" for name in below), "lora_patches", "lora_logger")
    devices: Any = sys.modules["modules.devices"]
    devices.cpu, devices.dtype = torch.device("cpu"), torch.float32
    models: Any = sys.modules["modules.sd_models"]
    models.read_state_dict = load_file
    shared: Any = sys.modules["modules.shared"]
    shared.walk_files = lambda *folders, **rules: []
    with tempfile.TemporaryDirectory() as empty:
        shared.cmd_opts = SimpleNamespace(lora_dir=empty, lyco_dir_backcompat=empty)
        return importlib.import_module("networks")


# ----------------------------------------------------------------------------------------------------- where layers lie


@dataclass(frozen=True)
class Place:
    """Where a layer lies in the program's model.

    Attributes:
        key: Name of the weight there.
        rows: First row and number of rows, where the weight holds several layers.
        reorder: What is done to its rows, or nothing.
    """

    key: str
    rows: tuple[int, int] | None = None
    reorder: Callable[[Tensor], Tensor] | None = None


def place_of(found: Any) -> Place:
    """A value of ComfyUI's maps: a name; with (axis, first, number); with a function of the weight."""
    if isinstance(found, str):
        return Place(found)
    key, offset, *more = found
    return Place(key, tuple(offset[1:]) if offset else None, more[0] if more else None)


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A UNet's config as ComfyUI has it, from diffusers'."""
    levels = len(config["block_out_channels"])
    layers = [config["layers_per_block"]] * levels
    depth = config.get("transformer_layers_per_block", 1)
    depths = depth if isinstance(depth, list) else [depth] * levels
    depths = [
        number if "CrossAttn" in kind else 0 for number, kind in zip(depths, config["down_block_types"], strict=True)
    ]
    return {
        "num_res_blocks": layers,
        "channel_mult": [width // config["block_out_channels"][0] for width in config["block_out_channels"]],
        "transformer_depth": [number for number, many in zip(depths, layers, strict=True) for _ in range(many)],
        "transformer_depth_output": [
            number for number, many in zip(depths, layers, strict=True) for _ in range(many + 1)
        ],
        "transformer_depth_middle": depth[-1] if isinstance(depth, list) else depth,
    }


def denoiser_places(name: str, config: Mapping[str, Any], utils: Any) -> tuple[dict[str, Place], dict[str, Any]]:
    """Name of every layer's weight in diffusers to its place, and the config as ComfyUI has it."""
    prefix, known = "diffusion_model.", dict[str, Place]()
    if name in {"stable_diffusion", "sdxl"}:
        own = unet_config(config)
        return {k: Place(prefix + v) for k, v in utils.unet_to_diffusers(own).items()}, own
    if name == "hunyuan_dit":
        from loraloom.extensions.families.hunyuan_dit.reference import targets

        width, places = config["hidden_size"], dict[str, Place]()
        for theirs, ours in targets(config["num_layers"]).items():
            for number, one in enumerate(ours):
                rows = (number * width, width) if len(ours) > 1 else None
                places[f"{one}.weight"] = Place(f"{prefix}{theirs}.weight", rows)
        return places, {}
    if name == "sd3":
        own = {"depth": config["num_attention_heads"], "num_blocks": config["num_layers"]}
        found = utils.mmdit_to_diffusers(own, output_prefix=prefix)
    elif name == "z_image":
        own = {key: config[key] for key in ("n_layers", "dim", "n_refiner_layers")}
        found = utils.z_image_to_diffusers(own, output_prefix=prefix)
    else:
        if name == "flux2_klein":
            known = klein_places(config, prefix)
        own = {
            "depth": config["num_layers"],
            "depth_single_blocks": config["num_single_layers"],
            "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        }
        found = utils.flux_to_diffusers(own, output_prefix=prefix)
    return known or {key: place_of(value) for key, value in found.items()}, own


def klein_places(config: Mapping[str, Any], prefix: str) -> dict[str, Place]:
    """diffusers' conversion of a FLUX.2 checkpoint, given weights of three rows that hold their own number."""
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    names = [f"{side}_in" for side in ("img", "txt")] + ["time_in.in_layer", "time_in.out_layer", "final_layer.linear"]
    names += [f"double_stream_modulation_{side}.lin" for side in ("img", "txt")] + ["single_stream_modulation.lin"]
    for number in range(config["num_layers"]):
        block = f"double_blocks.{number}"
        names += [
            f"{block}.{side}_{inner}"
            for side in ("img", "txt")
            for inner in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
        ]
    names += [f"single_blocks.{n}.linear{k}" for n in range(config["num_single_layers"]) for k in (1, 2)]
    rows = {f"{name}.weight": torch.full((3, 1), n) * 3 + torch.arange(3)[:, None] for n, name in enumerate(names)}
    width, places = config["num_attention_heads"] * config["attention_head_dim"], dict[str, Place]()
    for ours, found in convert_flux2_transformer_checkpoint_to_diffusers(rows).items():
        number, row = divmod(int(found.flatten()[0]), 3)
        fused = (row * width, width) if len(found) == 1 else None
        places[ours] = Place(f"{prefix}{names[number]}.weight", fused)
    return places


def encoder_place(name: str, part: str, module: str) -> Place:
    """A text encoder's layer."""
    if name == "hunyuan_dit":
        return Place(f"hydit_clip.transformer.bert.{module}.weight")
    return Place(f"{CLIP_OF[part]}.transformer.text_model.{module.removeprefix('text_model.')}.weight")


# --------------------------------------------------------------------------------------------------------- comparison


def random_layers(model: DiffusionModel) -> list[LoraLayer]:
    """A LoRA on every layer that can carry one, in the shapes of the model's config."""
    generator, layers = torch.Generator().manual_seed(0), list[LoraLayer]()
    for part in model.info.parts:
        if not part.lora_targets:
            continue
        names = {name for preset in part.lora_targets.values()
                 for name in match_modules(model.modules.skeleton(part.name), preset)}  # fmt: skip
        modules = dict(model.modules.skeleton(part.name).named_modules())
        for name in sorted(names):
            shape: Any = modules[name].weight.shape
            down = torch.randn(RANK, *shape[1:], generator=generator)
            up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator)
            layers.append(LoraLayer(part=part.name, module=name, down=down, up=up, alpha=ALPHA))
    return layers


def answers(up: Tensor, down: Tensor, alpha: float | None) -> Tensor:
    """(out, probes) what an update makes of random inputs."""
    up, down = up.double().flatten(1), down.double().flatten(1)
    probes = torch.randn(down.shape[1], PROBES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (down.shape[0] if alpha is None else alpha) / down.shape[0] * (up @ (down @ probes))


Found = Mapping[tuple[str, tuple[int, int] | None], Tensor]
"""Key of a weight, and the rows that are changed (None: all) -> `answers` there."""


def compare(layers: list[tuple[LoraLayer, Place]], found: Found) -> tuple[int, float]:
    """Number of layers that were not changed, and the worst relative difference of the others."""
    lacking, worst = 0, 0.0
    for layer, place in layers:
        wanted = answers(layer.up, layer.down, layer.alpha)
        wanted = place.reorder(wanted) if place.reorder else wanted
        if (place.key, place.rows) in found:
            made = found[place.key, place.rows]
        elif (place.key, None) in found:
            whole = found[place.key, None]
            made = whole if place.rows is None else whole[place.rows[0] : sum(place.rows)]
        else:
            lacking += 1
            continue
        worst = max(worst, float((made - wanted).norm() / wanted.norm()))
    return lacking, worst


class Unused(logging.Handler):
    """Counts the keys that ComfyUI says it does not load."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "not loaded" in text:
            self.keys.append(text.rsplit(" ", 1)[-1])


def through_comfyui(
    lora: Any, file: Path, name: str, weights: Mapping[str, None], clips: Mapping[str, None], own: Mapping[str, Any]
) -> tuple[Found, int]:
    """What ComfyUI makes of a file: changes by weight, and the number of keys that it does not load.

    Args:
        lora: `comfy.lora`.
        file: An export.
        name: The family.
        weights, clips: Names of the weights of its denoiser and its text encoders.
        own: Config of its denoiser.
    """
    kind = getattr(sys.modules["comfy.model_base"], COMFYUI_CLASS.get(name, "BaseModel"))
    model: Any = kind()
    model.state_dict = lambda: weights
    model.model_config = SimpleNamespace(unet_config=own)
    keys = lora.model_lora_keys_unet(model, {})
    keys = lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: clips), keys)
    unused = Unused()
    logging.getLogger().addHandler(unused)
    try:
        convert = sys.modules["comfy.lora_convert"].convert_lora
        patches = lora.load_lora(convert(load_file(file)), keys)
    finally:
        logging.getLogger().removeHandler(unused)
    found: dict[tuple[str, tuple[int, int] | None], Tensor] = {}
    for target, adapter in patches.items():
        place, (up, down, alpha, *_) = place_of(target), adapter.weights
        made = answers(up, down, alpha)
        found[place.key, place.rows] = place.reorder(made) if place.reorder else made
    return found, len(unused.keys)


def tree(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Modules of these names: linear and convolution layers; a name that ends in `attn` is open_clip's attention."""
    root = nn.Module()
    for name, shape in shapes.items():
        *above, last = name.split(".")
        parent = root
        for step in above:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        with torch.device("meta"):
            if last == "attn":
                made: nn.Module = nn.MultiheadAttention(shape[0], 1)
            elif len(shape) == 4:
                made = nn.Conv2d(shape[1], shape[0], shape[2])
            else:
                made = nn.Linear(shape[1], shape[0])
        parent.add_module(last, made)
    return root


def through_a1111(networks: Any, file: Path, layers: list[tuple[LoraLayer, Place]], *, xl: bool) -> tuple[Found, int]:
    """What the web UI makes of a file for Stable Diffusion 1 or XL."""
    unet, first, second = (dict[str, tuple[int, ...]]() for _ in range(3))
    theirs: dict[str, str] = {}
    for layer, place in layers:
        shape = (layer.up.shape[0], *layer.down.shape[1:])
        name = place.key.removesuffix(".weight")
        if layer.part == "denoiser":
            unet[name] = shape
            theirs[name.replace(".", "_")] = place.key
        elif layer.part == "text_encoder":
            name = name.removeprefix("clip_l.")
            first[name] = shape
            theirs[f"{'0_' if xl else ''}{name.replace('.', '_')}"] = place.key
        else:  # open_clip's names
            block, _, inner = name.removeprefix("clip_g.transformer.text_model.encoder.layers.").partition(".")
            stem = f"model.transformer.resblocks.{block}."
            if inner.startswith("self_attn"):
                second[f"{stem}attn"] = shape
            else:
                inner = {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}[inner]
                second[stem + inner] = shape
            theirs[f"1_{stem}{inner}".replace(".", "_").replace("self_attn", "attn")] = place.key
    shared: Any = sys.modules["modules.shared"]
    embedders = [SimpleNamespace(wrapped=tree(one)) for one in (first, second)]
    shared.sd_model = SimpleNamespace(
        is_sdxl=xl, model=tree(unet), cond_stage_model=embedders[0], conditioner=SimpleNamespace(embedders=embedders)
    )
    networks.assign_network_names_to_compvis_modules(shared.sd_model)
    net = networks.load_network("x", SimpleNamespace(filename=str(file), name="x"))
    found: dict[tuple[str, tuple[int, int] | None], Tensor] = {
        (theirs[key], None): answers(module.up_model.weight.detach(), module.down_model.weight.detach(), module.alpha)
        for key, module in net.modules.items()
    }
    stems = {key.partition(".")[0] for key in load_file(file)}
    return found, len(stems) - len(net.modules)


def cell(found: Found, unused: int, layers: list[tuple[LoraLayer, Place]], *, meant: bool) -> dict[str, Any]:
    """The receipt of one file in one program."""
    lacking, worst = compare(layers, found)
    return {
        "verdict": "red" if unused or lacking or worst > TOLERANCE else "green",
        "meant": meant,
        "layers": len(layers),
        "keys_not_loaded": unused,
        "layers_not_changed": lacking,
        "worst_relative_difference": worst,
    }


def receipts(name: str, lora: Any, networks: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(layout, program, cell) of one family."""
    card = plugins.load_card(name)
    assert card is not None
    with reference_model(name, card) as model, tempfile.TemporaryDirectory() as folder:
        part = model.info.denoiser.name
        config = dict(card.configs[f"{model.lora_format.component(part)}/config.json"])
        places, own = denoiser_places(name, config, sys.modules["comfy.utils"])
        weights = dict.fromkeys(place.key for place in places.values())
        every = [
            (
                layer,
                places[f"{layer.module}.weight"]
                if layer.part == part
                else encoder_place(name, layer.part, layer.module),
            )
            for layer in random_layers(model)
        ]
        for layout, programs in model.lora_format.programs.items():
            placed = [one for one in every if layout != "native" or one[0].part == part]
            layers = [layer for layer, _ in placed]
            export_adapter(model, layers, {"rank": RANK, "alpha": ALPHA}, Path(folder) / layout, "x", "fp32")
            file = Path(folder) / layout / FILES[layout]
            clips = dict.fromkeys(place.key for layer, place in placed if layer.part != part)
            found, unused = through_comfyui(lora, file, name, weights, clips, own)
            yield layout, "ComfyUI", cell(found, unused, placed, meant="ComfyUI" in programs)
            if networks and name in {"stable_diffusion", "sdxl"}:
                found, unused = through_a1111(networks, file, placed, xl=name == "sdxl")
                yield layout, "A1111", cell(found, unused, placed, meant="A1111" in programs)


def last_change(folder: Path, file: str) -> str | None:
    """Commit and date of the last change of their code, by git."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h of %cs", "--", file]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="checkout of ComfyUI")
    parser.add_argument("--a1111", type=Path, help="checkout of AUTOMATIC1111's web UI")
    parser.add_argument("--family", action="append", help="repeat for several [default: all]")
    parser.add_argument("--json", type=Path, help="also write the cells here")
    args = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # their warnings are counted
    lora, networks = comfyui(args.comfyui), a1111(args.a1111) if args.a1111 else None
    cells: list[dict[str, Any]] = []
    for name in args.family or plugins.names("families"):
        for layout, program, found in receipts(name, lora, networks):
            cells.append({"family": name, "layout": layout, "program": program, **found})
            print(", ".join(f"{key} {value}" for key, value in cells[-1].items()), flush=True)
    if args.json:
        code = {"comfy/lora.py": last_change(args.comfyui, "comfy/lora.py")}
        if args.a1111:
            own = "extensions-builtin/Lora/networks.py"
            code[own] = last_change(args.a1111, own)
        write_record(args.json, {"code": code, "cells": cells})
    if wrong := [one for one in cells if one["meant"] and one["verdict"] == "red"]:
        sys.exit(f"{len(wrong)} cells are red: {wrong[0]['family']}, {wrong[0]['layout']}, {wrong[0]['program']}")


if __name__ == "__main__":
    main()
