"""What training promises for every family: the papers' loss, the sampler's noise levels, exports of all kinds, less memory."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from loraloom.config.run import LoraConfig
from loraloom.diffusion.objective import TimestepSampling, make_objective
from loraloom.lora.export import export_adapter
from loraloom.lora.files import read_adapter
from loraloom.lora.inject import attach_new
from loraloom.lora.layers import LoraLayer
from loraloom.models.loading import open_model
from loraloom.models.low_bits import LowBitLinear, LowBits
from loraloom.protocols.data import Batch
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.distributed import make_runtime
from loraloom.train.run import train
from loraloom.train.step import batch_losses, noise_and_timesteps, sampling_for
from loraloom.train.swapping import ON_CPU

from .conftest import Case, FinishedRun, costly, settings
from .test_families import CAPTION, encoder, layers_of

NUM_DRAWN = 3000


def batch_of(model: DiffusionModel, seed: int, size: int = 3) -> Batch:
    """Random latents at random training steps under one caption."""
    generator = torch.Generator().manual_seed(seed)
    side = 4 * model.info.size_multiple
    cells = side // model.info.vae_scale_factor
    shape = (size, model.info.latent_channels, cells, cells)
    place = ImageGeometry(original=(side, side), crop=(0, 0), target=(side, side))
    with torch.inference_mode():
        texts = encoder(model).encode([CAPTION])
    return Batch(
        ids=("image",) * size,
        rng_parts=tuple((seed, 0, str(number)) for number in range(size)),
        latents_bchw=torch.randn(shape, generator=generator),
        conditioning={
            name: tensor.clone() for name, tensor in model.condition(texts * size, [place] * size, None).items()
        },
        weights_b=torch.ones(size),
    )


def state_of(model: DiffusionModel, sampling: TimestepSampling) -> Any:
    """What a loss reads of a training state: no optimizer, no dataset."""
    return SimpleNamespace(
        model=model,
        objective=make_objective(model.info.schedule),
        runtime=make_runtime("no", cpu=True),
        channels_last=False,
        timestep_sampling=sampling,
    )


def losses_of(model: DiffusionModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's loss as a training step computes it, with the noise and the timesteps that it drew."""
    state = state_of(model, TimestepSampling())
    noise_bchw, timesteps_b = noise_and_timesteps(batch, state.objective, sampling_for(state, batch))
    return batch_losses(state, batch, noise_bchw, timesteps_b), noise_bchw, timesteps_b


# --------------------------------------------------------------------------------------------------------------- loss


def plain_schedule(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], str]:
    """What the denoiser is given, signal, sigma and prediction type, from the scheduler's file and the papers alone.

    Ho et al. 2020: signal^2 is the product of 1 - beta; Stable Diffusion's `scaled_linear` betas are the squares of a line.
    A flow scheduler's file, or none: rectified flow, Liu et al. 2022, in 1000 steps.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"_class_name": "FlowMatch"}
    if config["_class_name"].startswith("FlowMatch"):
        share = np.arange(1, 1001) / 1000
        return 1000 * share, 1 - share, share, "flow"
    steps, first, last = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    assert config["beta_schedule"] in {"linear", "scaled_linear"}
    scaled = config["beta_schedule"] == "scaled_linear"
    betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2 if scaled else np.linspace(first, last, steps)
    left = np.cumprod(1 - betas)
    return np.arange(steps, dtype=np.float64), np.sqrt(left), np.sqrt(1 - left), config["prediction_type"]


def test_the_training_loss_is_the_formula_of_the_paper(case: Case, model: DiffusionModel) -> None:
    """Ho et al. 2020, eq. 14, for epsilon; Salimans & Ho 2022, appendix D, for v; Liu et al. 2022, eq. 1, for flow."""
    batch = batch_of(model, seed=3)
    with torch.no_grad():
        ours_b, noise_bchw, timesteps_b = losses_of(model, batch)
    timestep_t, signal_t, sigma_t, kind = plain_schedule(case.folder)
    for index, step in enumerate(timesteps_b.tolist()):
        clean, noise = (t[index].double().numpy() for t in (batch.latents_bchw, noise_bchw))
        noisy = signal_t[step] * clean + sigma_t[step] * noise
        target = {
            "epsilon": noise,
            "v_prediction": signal_t[step] * noise - sigma_t[step] * clean,
            "flow": noise - clean,
        }[kind]
        conditioning = {name: tensor[index : index + 1] for name, tensor in batch.conditioning.items()}
        with torch.inference_mode():
            answer = model.predict(
                torch.from_numpy(noisy).float()[None], torch.tensor([timestep_t[step]]).float(), conditioning
            )
        wanted = float(np.mean((answer[0].double().numpy() - target) ** 2))
        assert float(ours_b[index]) == pytest.approx(wanted, rel=2e-4)


# ------------------------------------------------------------------------------------------------------- noise levels


def distance(drawn: NDArray[np.float64], visited: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two samples: the largest difference of their shares below any value."""
    both = np.concatenate([drawn, visited])
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (drawn, visited)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (4, 4)])
def test_training_learns_the_noise_levels_that_the_sampler_visits(
    shape: tuple[int, int], model: DiffusionModel
) -> None:
    """A shift by resolution that only the sampler knew would leave its first steps to noise that was hardly learned."""
    schedule, side = model.info.schedule, 4 * model.info.size_multiple
    width, height = (factor * side for factor in shape)
    sampler = model.sampler(model.info.defaults.exact_sampler, schedule.shift_steps or 250, height, width)
    visited = sampler.timesteps.double().cpu().numpy()
    if schedule.shift_steps:  # few steps, from noise to image: what lies between them is a straight line
        ends = np.append(visited, 0.0)
        visited = np.interp(np.linspace(0, 1, 250), np.linspace(0, 1, len(ends)), ends)

    factor = model.info.vae_scale_factor
    batch = Batch(
        ids=("image",) * NUM_DRAWN,
        rng_parts=tuple((11, index, "image") for index in range(NUM_DRAWN)),
        latents_bchw=torch.zeros(1, 1, height // factor, width // factor).expand(NUM_DRAWN, -1, -1, -1),
        conditioning={},
        weights_b=torch.ones(NUM_DRAWN),
    )

    def drawn(sampling: TimestepSampling) -> NDArray[np.float64]:
        own = sampling_for(state_of(model, sampling), batch)
        steps = [own.draw(schedule.num_timesteps, *parts) for parts in batch.rng_parts]
        return schedule.timestep_t[torch.tensor(steps)].numpy()

    # 1.95 / sqrt(n) is exceeded once in 1000 seeds; the sampler's grid and where it begins account for the rest.
    limit = 1.95 / math.sqrt(NUM_DRAWN) + 2 / len(visited)
    assert distance(drawn(TimestepSampling()), visited) < limit
    for wrong in (1.5, 1 / 1.5, 3.0):
        assert distance(drawn(TimestepSampling(shift=wrong)), visited) > 2 * limit, f"a shift of {wrong} goes unseen"


# ------------------------------------------------------------------------------------------------------------- exports


def test_every_target_goes_through_both_exports_and_back(case: Case, tmp_path: Path) -> None:
    """Each green cell of `loraloom families`: the update of every layer survives to 1e-6, and no key is left over."""
    targets = list(open_model(ModelSource(location=str(case.folder))).info.denoiser.lora_targets)
    for target in targets:
        model = open_model(ModelSource(location=str(case.folder)))
        learns = any(part.lora_targets for part in model.info.text_encoders)
        adapter = attach_new(
            model, LoraConfig(rank=2, target=target, text_encoder=learns and target == targets[0]), seed=0
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in adapter.parameters.values():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        layers = layers_of(adapter, model, tmp_path)
        files = export_adapter(model, layers, {"rank": 2}, tmp_path / target, "x", "fp32")
        assert len(files) >= 2
        for file in files:
            back = read_adapter(file).layers(model)
            found = {(layer.part, layer.module): layer for layer in back}
            assert found.keys() == {(layer.part, layer.module) for layer in layers}, file
            for layer in layers:
                torch.testing.assert_close(update(found[layer.part, layer.module]), update(layer), atol=1e-6, rtol=1e-5)


def update(layer: LoraLayer) -> Tensor:
    return layer.factor * layer.up.flatten(1) @ layer.down.flatten(1)


def test_every_layer_that_carries_lora_gets_a_gradient(model: DiffusionModel) -> None:
    """A layer whose output nobody reads would be an adapter that never learns: `Part.excluded` names such layers."""
    adapter = attach_new(model, LoraConfig(rank=2, target="all_linear"), seed=0)
    for parameter in adapter.parameters.values():
        parameter.data.add_(0.05)
    model.modules.get(model.info.denoiser.name).train()
    losses_b, _, _ = losses_of(model, batch_of(model, seed=7))
    losses_b.sum().backward()
    dead = [key for key, parameter in adapter.parameters.items() if parameter.grad is None or not parameter.grad.any()]
    assert not dead, dead


# -------------------------------------------------------------------------------------------------------------- memory


def test_swapped_blocks_give_the_same_losses_and_gradients(case: Case) -> None:
    def learned(share: float) -> tuple[Tensor, dict[str, Tensor]]:
        model = open_model(ModelSource(location=str(case.folder)))
        part = model.info.denoiser.name
        batch = batch_of(model, seed=5)
        adapter = attach_new(model, LoraConfig(rank=2, target="all_linear"), seed=0)
        for parameter in adapter.parameters.values():
            parameter.data.add_(0.01)
        if share:
            swap = model.modules.swap_blocks(part, torch.device("cpu"), share)
            assert swap.swapped_bytes > 0
        model.modules.get(part).train()
        losses_b, _, _ = losses_of(model, batch)
        losses_b.sum().backward()
        return losses_b.detach(), {key: p.grad for key, p in adapter.parameters.items() if p.grad is not None}

    losses_b, gradients = learned(0)
    assert gradients
    for share in (0.5, 0.999):
        other_b, others = learned(share)
        torch.testing.assert_close(other_b, losses_b, rtol=1e-6, atol=1e-7)
        assert others.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(others[key], gradient, rtol=1e-5, atol=1e-7, msg=key)


@pytest.mark.parametrize(("kind", "near"), [("fp8", 0.05), ("nf4", 0.3)])
def test_a_denoiser_in_low_bits_learns_nearly_the_same(kind: LowBits, near: float, case: Case) -> None:
    """And exactly the same whether its blocks are swapped or not."""

    def learned(low: bool, swapped: bool) -> tuple[Tensor, dict[str, Tensor]]:
        model = open_model(ModelSource(location=str(case.folder)))
        part = model.info.denoiser.name
        batch = batch_of(model, seed=5)
        if low:
            model.modules.drop(part)
            model.modules.read_in_low_bits(part, kind)
        adapter = attach_new(model, LoraConfig(rank=2), seed=0)
        for parameter in adapter.parameters.values():
            parameter.data.add_(0.01)
        assert any(isinstance(layer, LowBitLinear) for layer in model.modules.get(part).modules()) == low
        if swapped:
            model.modules.swap_blocks(part, torch.device("cpu"), 0.999)
        model.modules.get(part).train()
        losses_b, _, _ = losses_of(model, batch)
        losses_b.sum().backward()
        return losses_b.detach(), {key: p.grad for key, p in adapter.parameters.items() if p.grad is not None}

    (plain_b, gradients), (low_b, low), (again_b, again) = (
        learned(*how) for how in ((False, False), (True, False), (True, True))
    )
    torch.testing.assert_close(low_b, plain_b, rtol=near, atol=near)
    torch.testing.assert_close(again_b, low_b, rtol=1e-6, atol=1e-7)
    assert gradients.keys() == low.keys() == again.keys()
    ours, theirs = (torch.cat([one[key].flatten() for key in gradients]) for one in (low, gradients))
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 1 - near
    for key, gradient in low.items():
        torch.testing.assert_close(again[key], gradient, rtol=1e-5, atol=1e-7, msg=key)


@costly
def test_a_run_with_swapped_and_recomputed_blocks_learns_the_same_adapter(
    case: Case, dataset: Path, tmp_path: Path, plain_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ON_CPU, "1")
    swapped = {"train": {"block_swap": 0.5, "gradient_checkpointing": True}}
    lines: list[str] = []
    train(settings(case, dataset, tmp_path, samples={"enabled": True, "steps": 1}, **swapped), say=lines.append)
    assert sum(line.startswith("block swap: ") for line in lines) == 1
    one, other = (load_file(folder / "run" / "adapter.safetensors") for folder in (plain_run.folder, tmp_path))
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6, msg=key)


def test_encoders_and_vae_are_gone_from_memory_while_the_denoiser_learns(plain_run: FinishedRun) -> None:
    """Not only forgotten by the store: no module with weights is alive beside the denoiser."""
    assert len(plain_run.beside) == 4
    assert not any(plain_run.beside), plain_run.beside
