"""`train` on two processes: they learn what one with the double batch learns, each with its own noise."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loraloom.config.reading import to_yaml
from loraloom.data.batches import BatchMaker
from loraloom.data.bucket_sampler import Plan
from loraloom.data.encode import LatentStore, TextStore
from loraloom.diffusion.objective import UNIFORM, draw_noise, make_objective
from loraloom.models.loading import open_model
from loraloom.protocols.data import Batch
from loraloom.train.distributed import check_all_joined, check_one_gpu_each, choose_backend
from loraloom.train.run import train
from loraloom.train.step import noise_and_timesteps
from loraloom.utils.errors import UserError
from loraloom.utils.rng import derive_seed

from .conftest import Configure, first_colour


def torchrun(config: Path, processes: int) -> str:
    """What `train` on that many processes wrote."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    ran = subprocess.run(
        [*launcher, "-m", "loraloom", "train", "--config", str(config), "--cpu"],
        cwd=config.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def as_rank(config: Path, said: Path, environment: dict[str, str]) -> None:
    """`train` in a process that has what a launcher gives it."""
    from loraloom.cli.app import app

    os.environ.update(environment)
    with said.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        app(["train", "--config", str(config), "--cpu"], standalone_mode=False)


def forked(config: Path, processes: int) -> str:
    """The same with processes that have imported torch already (`tests/conftest.py`)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    said = [config.with_name(f"said_{rank}.txt") for rank in range(processes)]
    started = [
        multiprocessing.get_context("forkserver").Process(
            target=as_rank, args=(config, file, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank, file in enumerate(said)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
        if process.is_alive():
            process.kill()
            process.join()
    texts = [file.read_text(encoding="utf-8") for file in said]
    assert [process.exitcode for process in started] == [0] * processes, texts
    return "".join(texts)


def test_the_backend_is_named_by_the_environment_or_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORALOOM_BACKEND", raising=False)
    expected = "gloo" if torch.cuda.is_available() and not torch.distributed.is_nccl_available() else "nccl"
    assert choose_backend() == expected
    monkeypatch.setenv("LORALOOM_BACKEND", "gloo")
    assert choose_backend() == "gloo"
    monkeypatch.setenv("LORALOOM_BACKEND", "mpi")
    with pytest.raises(UserError, match="expected nccl or gloo"):
        choose_backend()


def test_more_processes_than_gpus_are_refused_before_nccl_meets_them() -> None:
    """NCCL says "invalid usage", and each process a page of traceback."""
    check_one_gpu_each(1, 1)
    check_one_gpu_each(4, 8)
    with pytest.raises(UserError, match="2 processes") as refused:
        check_one_gpu_each(2, 1)
    assert "--nproc-per-node=1" in str(refused.value)


def test_a_process_that_did_not_join_the_others_is_named_by_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train alone, each on its own machine, without an error."""
    monkeypatch.setenv("LORALOOM_NODE", "lab-2")
    check_all_joined(2, 2)
    with pytest.raises(UserError, match="this process on lab-2 did not join the others: got 'a process group of 1'"):
        check_all_joined(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("launched", [forked, pytest.param(torchrun, marks=pytest.mark.long)])
def test_two_processes_learn_what_one_with_the_double_batch_learns(
    launched: Callable[[Path, int], str], configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    common = {"max_steps": 4, "validation_every": 2}
    objective = {"balance_noise": True, "class_weights": [f"{first_colour(dataset)}=5"]}
    alone = configure(
        train={**common, "output": str(tmp_path / "alone")},
        data={"batch_size": 4},
        objective=objective,
        samples={"enabled": True, "steps": 2},
    )
    together = configure(
        train={**common, "output": str(tmp_path / "together")},
        data={"batch_size": 2, "cache_dir": str(tmp_path / "cache2")},
        objective=objective,
        samples={"enabled": True, "steps": 2, "sampler": "ddim", "prompts": ["a", "b", "c"]},
    )
    train(alone, say=lambda t: None)
    (tmp_path / "together.yaml").write_text(to_yaml(together), encoding="utf-8")
    said = launched(tmp_path / "together.yaml", 2)
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("alone", "together"))
    for key in one:
        assert torch.allclose(one[key], two[key], atol=2e-5), (key, float((one[key] - two[key]).abs().max()))
    losses = [
        [row["loss"] for line in (tmp_path / name / "events.jsonl").read_text().splitlines()
         if (row := json.loads(line))["kind"] in {"train", "validation"}]
        for name in ("alone", "together")
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    drawn = sorted(p.name for p in (tmp_path / "together" / "samples" / "step_0000004").glob("*.png"))
    assert drawn == ["gpu_0_sample.png", "gpu_0_sample_2.png", "gpu_1_sample.png"], "both processes draw their share"
    assert said.count("learning numbers") == 1, "only the main process speaks"


def batches(plan: Plan, maker: BatchMaker) -> list[Batch]:
    forward = next(f for (f,) in plan.epoch(0) if all(slot.weight for slot in f))
    return [
        maker.make(0, share)
        for device in range(plan.num_devices)
        for share in plan.micro_batches(forward, device, plan.num_devices)
    ]


def test_every_image_has_its_own_noise_and_timestep_on_every_device(dataset: Path, tiny_model: Path) -> None:
    from loraloom import plugins
    from loraloom.data.cache import ContentCache
    from loraloom.data.manifest import read_manifest
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.protocols.model import ModelSource

    model = open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")
    domain = plugins.load("domains", "freetext")
    examples = read_manifest(dataset).split("train")
    latents = LatentStore(model, dataset, ContentCache(None), "vae")
    texts = TextStore(PromptEncoder(text=model.text, domain=domain), ContentCache(None))
    maker = BatchMaker(examples=examples, latents=latents, texts=texts, domain=domain, seed=0)
    sizes = tuple((example.width, example.height) for example in examples)
    first, second = batches(Plan(sizes, 1, 2, 1, seed=0), maker)
    assert first.ids != second.ids
    (double,) = batches(Plan(sizes, 2, 1, 1, seed=0), maker)
    assert double.ids == first.ids + second.ids
    objective = make_objective(model.info.schedule, noise_offset=0.1)
    (noise_1, timesteps_1), (noise_2, timesteps_2), (noises, timesteps) = (
        noise_and_timesteps(batch, objective, UNIFORM) for batch in (first, second, double)
    )
    assert not torch.equal(noise_1, noise_2)
    assert torch.equal(noises, torch.cat([noise_1, noise_2]))
    assert torch.equal(timesteps, torch.cat([timesteps_1, timesteps_2]))


def test_repetitions_of_an_image_in_an_epoch_have_their_own_noise_and_the_weight_of_the_image(
    dataset: Path, tiny_model: Path
) -> None:
    """The first repetition has the noise that the image has without repeats."""
    from loraloom import plugins
    from loraloom.data.cache import ContentCache
    from loraloom.data.manifest import read_manifest
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.protocols.model import ModelSource

    model = open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")
    domain = plugins.load("domains", "freetext")
    example = read_manifest(dataset).split("train")[0]
    latents = LatentStore(model, dataset, ContentCache(None), "vae")
    texts = TextStore(PromptEncoder(text=model.text, domain=domain), ContentCache(None))
    maker = BatchMaker(examples=[example], latents=latents, texts=texts, domain=domain, seed=0)
    sizes = ((example.width, example.height),)
    once, thrice = (
        maker.make(0, plan.epoch(0)[0][0])
        for plan in (Plan(sizes, 1, 1, 1, seed=0), Plan(sizes, 4, 1, 1, seed=0, repeats=(3,), weights=(0.25,)))
    )
    assert thrice.weights_b.tolist() == [0.25, 0.25, 0.25, 0.0]
    noise, timesteps = noise_and_timesteps(thrice, make_objective(model.info.schedule), UNIFORM)
    first, _ = noise_and_timesteps(once, make_objective(model.info.schedule), UNIFORM)
    copies = [noise[place] for place in range(3)]
    assert any(torch.equal(copy, first[0]) for copy in copies)
    assert not any(torch.equal(copies[i], copies[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len({int(step) for step in timesteps[:3]}) > 1


def test_noise_is_decided_by_seed_epoch_and_image_alone() -> None:
    """The numbers of a fresh CPU generator, as runs before noise moved into the train step had them."""
    parts = (7, 3, "folder/image")
    source = torch.Generator().manual_seed(derive_seed(*parts, "noise"))
    assert torch.equal(draw_noise((4, 8, 6), 0.0, *parts), torch.randn(4, 8, 6, generator=source))
    others = [(8, 3, "folder/image"), (7, 4, "folder/image"), (7, 3, "folder/other")]
    assert all(
        not torch.equal(draw_noise((4, 8, 6), 0.0, *parts), draw_noise((4, 8, 6), 0.0, *other)) for other in others
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_noise_of_an_image_every_time() -> None:
    first, second = (draw_noise((4, 8, 6), 0.1, 7, 3, "image", device="cuda") for _ in range(2))
    assert first.device.type == "cuda"
    assert torch.equal(first, second)
