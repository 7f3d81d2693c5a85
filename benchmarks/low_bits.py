"""What frozen weights in 8 or 4 bits cost and save: time of a training step, and memory while a denoiser is read.

A FLUX denoiser in reduced shapes, random weights, LoRA on attention. Two measurements:

    steps     forward, backward and update in bf16 and with fp8 and nf4, in turn in one process, CPU time (on a GPU wall
              time); medians of the ratios of each round to bf16
    reading   the peak of resident memory above that of the process with all libraries, each way in a process of its own:
              read in float32 and then stored, and read tensor by tensor straight into low bits

    python -m benchmarks.low_bits --json benchmarks/results/low_bits_cpu.json
    python -m benchmarks.low_bits --device cuda --json benchmarks/results/low_bits_cuda.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.recording import machine, write_record

KINDS = ("bf16", "fp8", "nf4")
WAYS = ("float32", "fp8 later", "fp8", "nf4 later", "nf4")
"""`later`: read in float32 first."""
FAMILY = "flux"
SHAPES = {
    "num_attention_heads": 12, "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24], "num_layers": 3,
    "num_single_layers": 6, "joint_attention_dim": 512, "pooled_projection_dim": 192,
}  # fmt: skip
TEXTS = {"pooled": (192,), "t5": (128, 512)}


def reduced() -> Any:
    """The card of the family in reduced shapes."""
    from loraloom import plugins

    card = plugins.load_card(FAMILY)
    assert card is not None
    file = "transformer/config.json"
    texts = {name: replace(card.text_tensors[name], shape=shape) for name, shape in TEXTS.items()}
    encoders = {
        "text_encoder/config.json": {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4},
        "text_encoder_2/config.json": {"d_model": 512, "d_ff": 1280, "d_kv": 64, "num_heads": 8, "num_layers": 2},
    }
    changes = {file: SHAPES, **encoders}
    configs = {name: {**config, **changes.get(name, {})} for name, config in card.configs.items()}
    return replace(card, configs=configs, text_tensors=texts)


# ---------------------------------------------------------------------------------------------------------------- steps


def make_step(kind: str, device: Any, size_px: int) -> tuple[Callable[[], None], int]:
    """A training step, and the bytes of frozen weights."""
    import torch

    from loraloom.config.run import LoraConfig
    from loraloom.lora.inject import attach_new
    from loraloom.models.low_bits import store
    from loraloom.models.reference import reference_model
    from loraloom.protocols.model import ImageGeometry
    from loraloom.train.memory import example_texts
    from loraloom.train.swapping import frozen_bytes
    from loraloom.utils.quiet import quiet

    card = reduced()
    with reference_model(FAMILY, card) as model:
        part = model.info.denoiser.name
        torch.manual_seed(0)
        build: Any = model.modules
        module = build.skeleton(part).__class__.from_config(build.skeleton(part).config)
        with quiet():
            module.to(device, torch.bfloat16)
        model.modules.put(part, module.requires_grad_(False))
        if kind != "bf16":
            store(module, kind)  # pyright: ignore[reportArgumentType]
        adapter = attach_new(model, LoraConfig(rank=16, target="attention"), seed=0)
        module.train()
        weights = list(adapter.parameters.values())
        optimizer = torch.optim.AdamW(weights, lr=1e-4)
        place = ImageGeometry(original=(size_px, size_px), crop=(0, 0), target=(size_px, size_px))
        texts = [example_texts(card.text_tensors, torch.bfloat16)]
        given = {name: tensor.to(device) for name, tensor in model.condition(texts, [place], None).items()}
        cells = size_px // model.info.vae_scale_factor
        latents = torch.randn(1, model.info.latent_channels, cells, cells, device=device)
        timesteps = torch.full((1,), 500.0, device=device)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                answer = model.predict(latents, timesteps, given)
            answer.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step, frozen_bytes(module)


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step of each kind in turn."""
    import torch

    device = torch.device(args.device)
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    made = {kind: make_step(kind, device, args.size) for kind in KINDS}
    rounds: list[dict[str, float]] = []
    for number in range(args.rounds + 1):
        seconds: dict[str, float] = {}
        for kind, (step, _) in made.items():
            began = clock()
            for _ in range(args.steps):
                step()
            if cuda:
                torch.cuda.synchronize()
            seconds[kind] = (clock() - began) / args.steps
        if number:  # the first one warms up
            rounds.append(seconds)
            print("steps, s: " + ", ".join(f"{kind} {value:.3f}" for kind, value in seconds.items()), flush=True)
    ratios = {kind: statistics.median(one[kind] / one["bf16"] for one in rounds) for kind in KINDS}
    print("to bf16: " + ", ".join(f"{kind} {value:.2f}" for kind, value in ratios.items()), flush=True)
    return {
        "seconds": rounds,
        "median_to_bf16": ratios,
        "frozen_mib": {kind: size / 2**20 for kind, (_, size) in made.items()},
    }


# -------------------------------------------------------------------------------------------------------------- reading


def write_base(folder: Path) -> None:
    """The reduced model with random weights, in bf16 as bases are published."""
    import torch

    from loraloom.models.reference import reference_model

    with reference_model(FAMILY, reduced()) as model:
        for part in model.info.parts:
            torch.manual_seed(0)
            build: Any = model.modules
            model.modules.put(part.name, build._build(part.name))
        model.save(folder, "bf16")


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def read(folder: Path, way: str) -> dict[str, float]:
    """Read the denoiser one way; MiB above the process before it."""
    import torch

    from loraloom.models.loading import open_model
    from loraloom.models.low_bits import store
    from loraloom.protocols.model import ModelSource

    model = open_model(ModelSource(location=str(folder)))
    part = model.info.denoiser.name
    model.modules.skeleton(part)  # imports its library
    warm = torch.randn(64, 64) @ torch.randn(64, 64)
    before, began = peak_mib(), time.process_time()
    kind, _, later = way.partition(" ")
    if kind != "float32" and not later:
        model.modules.read_in_low_bits(part, kind)  # pyright: ignore[reportArgumentType]
    module = model.modules.get(part)
    if later:
        store(module, kind)  # pyright: ignore[reportArgumentType]
    seconds = time.process_time() - began
    kept = sum(weight.numel() * weight.element_size() for weight in module.parameters()) / 2**20
    del warm
    return {"peak_mib": peak_mib() - before, "kept_mib": kept, "cpu_seconds": seconds}


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Every way in a process of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        subprocess.run([sys.executable, "-m", "benchmarks.low_bits", "--write", str(folder)], check=True)
        size = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors")) / 2**20
        print(f"reading a denoiser of {size:.0f} MiB in bf16", flush=True)
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.low_bits", "--read", str(folder), "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{way}: " + ", ".join(f"{key} {value:.1f}" for key, value in found[way].items()), flush=True)
    return {"file_mib": size, "ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, help="side of the image, pixels [default: 64 on the CPU, 256 on a GPU]")
    parser.add_argument("--steps", type=int, default=2, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    for internal in ("--write", "--read", "--way"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = args.size or (256 if args.device == "cuda" else 64)  # a CPU without bf16 takes half a minute for 128 px
    if args.write:
        write_base(Path(args.write))
        return
    if args.read:
        print(json.dumps(read(Path(args.read), args.way)))
        return
    record: dict[str, Any] = {"machine": machine(), "load": os.getloadavg()[0], "shapes": {FAMILY: SHAPES, **TEXTS}}
    record["settings"] = {key: getattr(args, key) for key in ("device", "size", "steps", "rounds")}
    record["reading"] = reading(args)
    record["steps"] = steps(args)
    if args.json:
        write_record(args.json, record)


if __name__ == "__main__":
    main()
