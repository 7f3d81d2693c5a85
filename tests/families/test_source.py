"""Finding a model: what is not there, not allowed or not safe is told in a line; what is cached works without a network."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from loraloom.extensions.families.stable_diffusion import FAMILY
from loraloom.models.files import file_sum
from loraloom.models.loading import open_model, resolve
from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError

REPO = "owner/name"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- folders and files


@pytest.mark.parametrize("location", ["no such folder", "/nowhere/at/all", "a/b/c", "~/not-there"])
def test_what_is_no_folder_file_or_hub_id_is_told_with_what_would_do(location: str) -> None:
    text = refusal(lambda: resolve(ModelSource(location=location)))
    assert text.startswith(f"no such model: got '{location}', expected a diffusers folder")


def test_a_folder_without_model_index_points_to_the_model_inside(model: Path, tmp_path: Path) -> None:
    assert "did you mean" in refusal(lambda: resolve(ModelSource(location=str(tmp_path))))
    (model / "model_index.json").unlink()
    assert "expected a folder with model_index.json" in refusal(lambda: resolve(ModelSource(location=str(model))))


@pytest.mark.parametrize("name", ["v1-5.ckpt", "v1-5.pt", "v1-5.bin"])
def test_pickled_checkpoints_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    assert "which can run code" in refusal(lambda: resolve(ModelSource(location=str(tmp_path / name))))


def test_a_pickled_checkpoint_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweet.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 64)
    assert "under another name" in refusal(lambda: resolve(ModelSource(location=str(tmp_path / "sweet.safetensors"))))


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    assert "no such weight file" in refusal(lambda: resolve(ModelSource(location=str(tmp_path / "gone.safetensors"))))


def test_a_folder_with_pickled_weights_only_is_refused_with_the_reason(model: Path) -> None:
    (model / UNET_WEIGHTS).rename((model / UNET_WEIGHTS).with_suffix(".bin"))
    text = refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion").modules.get("denoiser"))
    assert "no safetensors weights in unet/" in text
    assert "diffusion_pytorch_model.bin" in text
    assert "can run code" in text


def test_weights_of_a_variant_only_name_the_variant(model: Path) -> None:
    (model / UNET_WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert "add --variant fp16" in refusal(
        lambda: open_model(ModelSource(location=str(model)), "stable_diffusion").modules.get("denoiser")
    )
    assert open_model(ModelSource(location=str(model), variant="fp16"), "stable_diffusion").modules.get("denoiser")


def test_a_variant_that_is_not_there_is_named_with_those_that_are(model: Path) -> None:
    """It once said "point to a complete diffusers folder" of a folder that was complete."""
    text = refusal(
        lambda: open_model(ModelSource(location=str(model), variant="fp8"), "stable_diffusion").modules.get("vae")
    )
    assert "there is no variant 'fp8': leave out --variant" in text
    shutil.copy(model / UNET_WEIGHTS, model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    text = refusal(
        lambda: open_model(ModelSource(location=str(model), variant="fp8"), "stable_diffusion").modules.get("denoiser")
    )
    assert "choose one of fp16" in text


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_missing_or_no_json_is_named(file: str, model: Path) -> None:
    (model / file).write_text("{nothing", encoding="utf-8")
    assert f"{file} is not JSON" in refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion"))
    (model / file).write_text("[1]", encoding="utf-8")
    assert f"{file} is not a JSON object" in refusal(
        lambda: open_model(ModelSource(location=str(model)), "stable_diffusion")
    )
    (model / file).unlink()
    assert refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion"))


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_code_that_comes_with_a_model_is_never_run(file: str, model: Path) -> None:
    change(model / file, auto_map={"AutoModel": "evil.Model"})
    assert "auto_map" in refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion"))


def test_an_inpainting_unet_is_refused(model: Path) -> None:
    change(model / "unet" / "config.json", in_channels=9)
    text = refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion"))
    assert "inpainting" in text
    assert "9 input channels" in text


@pytest.mark.parametrize("sign", ["two text encoders", "added time conditions", "image conditions", "a transformer"])
def test_a_model_of_another_family_is_not_recognised(sign: str, model: Path) -> None:
    reason = "not a Stable Diffusion 1.x or 2.x"
    match sign:
        case "two text encoders":
            shutil.copytree(model / "text_encoder", model / "text_encoder_2")
            reason = "got 'sdxl', expected stable_diffusion"
        case "added time conditions":
            change(model / "unet" / "config.json", addition_embed_type="text_time")
            reason = "got 'sdxl', expected stable_diffusion"
        case "image conditions":
            change(model / "unet" / "config.json", addition_embed_type="image")
            assert "no family knows this model" in refusal(lambda: open_model(ModelSource(location=str(model))))
        case _:
            (model / "unet").rename(model / "transformer")
            reason = "the model lacks unet/config.json"
    source = ModelSource(location=str(model))
    assert not FAMILY.matches(resolve(source))
    assert reason in refusal(lambda: open_model(source, "stable_diffusion"))


@pytest.mark.parametrize("part", ["denoiser", "vae", "text_encoder"])
@pytest.mark.parametrize("harm", ["tail", "header", "nothing"])
def test_truncated_weights_are_refused_with_the_part(part: str, harm: str, model: Path) -> None:
    folder = {"denoiser": "unet", "vae": "vae", "text_encoder": "text_encoder"}[part]
    file = next((model / folder).glob("*.safetensors"))
    data = file.read_bytes()
    file.write_bytes({"tail": data[:-100], "header": data[:50], "nothing": b""}[harm])
    text = refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion").modules.get(part))
    assert f"the {folder} cannot be read" in text or "is not a whole safetensors file" in text


@pytest.mark.parametrize("part", ["denoiser", "vae", "text_encoder"])
def test_a_weight_that_is_missing_is_refused_and_not_left_random(part: str, model: Path) -> None:
    """The libraries once filled it with random numbers, and their warning was silenced."""
    from safetensors.torch import load_file, save_file

    folder = {"denoiser": "unet", "vae": "vae", "text_encoder": "text_encoder"}[part]
    file = next((model / folder).glob("*.safetensors"))
    tensors = load_file(file)
    lost = sorted(tensors)[-1]
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file, {"format": "pt"})
    text = refusal(lambda: open_model(ModelSource(location=str(model)), "stable_diffusion").modules.get(part))
    assert "1 of its weights are missing" in text
    assert lost.removeprefix("text_model.") in text


# ------------------------------------------------------------------------------------------------------------- the hub


def answer(status: int) -> Any:
    """What the hub's client knows of a response, whichever HTTP library it uses."""
    request = SimpleNamespace(method="GET", url=f"https://huggingface.co/api/models/{REPO}")
    return SimpleNamespace(status_code=status, headers={"x-request-id": "Root=1"}, request=request)


def hub_says(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[dict[str, Any]]:
    """Let every download end in `error`; returns the calls."""
    calls: list[dict[str, Any]] = []

    def fake(repo: str, **settings: Any) -> str:
        calls.append({"repo": repo, **settings})
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    return calls


def test_a_gated_model_says_where_to_accept_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(monkeypatch, errors.GatedRepoError("403 Client Error. Access is restricted", response=answer(403)))
    text = refusal(lambda: resolve(ModelSource(location=REPO)))
    assert text.startswith(
        "this model is gated: got 'owner/name'\n  accept its licence at https://huggingface.co/owner/name"
    )
    assert "hf auth login" in text


def test_a_model_that_is_not_on_the_hub_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(
        monkeypatch, errors.RepositoryNotFoundError("404 Client Error. Repository Not Found", response=answer(404))
    )
    assert "no such model on the hub: got 'owner/name'" in refusal(lambda: resolve(ModelSource(location=REPO)))


def test_a_revision_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(monkeypatch, errors.RevisionNotFoundError("404 Client Error. Revision Not Found", response=answer(404)))
    text = refusal(lambda: resolve(ModelSource(location=REPO, revision="v9")))
    assert "owner/name has no such revision: got 'v9'" in text
    assert "/commits" in text


@pytest.mark.parametrize(
    "error",
    [
        errors.HfHubHTTPError("500 Server Error", response=answer(500)),
        errors.LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub"),
        OSError(28, "No space left on device"),
        TimeoutError("timed out"),
    ],
)
def test_a_hub_that_does_not_answer_leads_to_the_cache_and_then_says_why(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    calls = hub_says(monkeypatch, error)
    text = refusal(lambda: resolve(ModelSource(location=REPO)))
    assert calls[-1]["local_files_only"] is True
    assert f"is not in the cache of this machine and the hub cannot be reached ({type(error).__name__})" in text
    assert "hf download owner/name" in text


def test_opening_downloads_configs_and_each_part_its_own_safetensors_when_it_is_first_read(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    calls: list[dict[str, Any]] = []

    def fake(repo: str, **settings: Any) -> str:
        calls.append(settings)
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    for variant in (None, "fp16"):
        located = resolve(ModelSource(location=REPO, variant=variant))
        with suppress(UserError):  # the stand-in has no fp16 files
            for part in ("unet", "text_encoder"):
                located.weight_files(part)
    wanted = ["model_index.json", "unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"]
    plain = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    half = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"]
    other = [
        "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors", "evil.py",
    ]  # fmt: skip
    kept = [
        list(
            filter_repo_objects(
                [*wanted, *plain, *half, *other],
                allow_patterns=settings["allow_patterns"], ignore_patterns=settings["ignore_patterns"],
            )
        )
        for settings in calls
    ]  # fmt: skip
    assert kept == [wanted, [*wanted, plain[0]], [*wanted, plain[1]], wanted, [*wanted, half[0]]]


def test_a_hub_id_that_is_not_cached_says_so_when_offline() -> None:
    text = refusal(lambda: resolve(ModelSource(location="nobody/has-this")))
    assert text.startswith("nobody/has-this is not in the cache of this machine and HF_HUB_OFFLINE is set")


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A Hugging Face home whose cache holds the tiny model as owner/name, laid out as the hub's client does."""
    home = tmp_path_factory.mktemp("hf")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = home / "hub" / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    for file in sorted(path for path in tiny_model.rglob("*") if path.is_file()):
        blob = repo / "blobs" / sha256_file(file)
        shutil.copy(file, blob)
        link = repo / "snapshots" / commit / file.relative_to(tiny_model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return home


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_a_cached_hub_model_is_found_offline_by_either_variable(
    variable: str, hub_home: Path, tiny_model: Path
) -> None:
    """The variables are read when the hub's library is imported, so a process of its own is asked."""
    program = (
        "from loraloom.protocols.model import ModelSource\n"
        "from loraloom.models.loading import resolve\n"
        "found = resolve(ModelSource(location='owner/name'))\n"
        "assert found.hub == ('owner/name', None)\n"
        "print(found.fingerprint('unet'))\n"
    )
    place = hub_home / "hub" if variable == "HF_HUB_CACHE" else hub_home
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False,
        env={**environ, "HF_HUB_OFFLINE": "1", variable: str(place)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == resolve(ModelSource(location=str(tiny_model))).fingerprint("unet")


def test_a_cached_hub_model_gives_all_parts(hub_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_home / "hub"))
    model = open_model(ModelSource(location=REPO))
    for part in ("denoiser", "vae", "text_encoder"):
        assert model.modules.get(part)
    assert model.text.tokenizer.tokenize("abc")
    assert "not in the cache" in refusal(lambda: open_model(ModelSource(location=REPO, revision="other")))


def test_the_sum_of_a_blob_in_the_hubs_cache_is_its_name(hub_home: Path) -> None:
    snapshot = next((hub_home / "hub" / "models--owner--name" / "snapshots").iterdir())
    link = snapshot / UNET_WEIGHTS
    assert file_sum(link) == link.resolve().name == sha256_file(link)


def test_the_sum_of_a_large_file_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path / "sums"))
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    first = file_sum(large)
    assert first == sha256_file(large)
    monkeypatch.setattr("loraloom.models.files.sha256_file", lambda path: "asked again")
    assert file_sum(large) == first
    os.utime(large, (1, 1))
    assert file_sum(large) == "asked again"
