"""`loraloom cache`: fresh, stale, missing, corrupt; and a clean-up that removes what it said and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loraloom.cli import cache_command as command
from loraloom.config.prepare import PrepareConfig
from loraloom.data.cache import ContentCache
from loraloom.data.cache_files import CacheReport, examine_cache, removable, remove, text_sha256
from loraloom.data.encode import LatentStore, TextStore
from loraloom.data.manifest import Manifest, make_manifest, read_manifest
from loraloom.prepare.run import prepare
from loraloom.protocols.data import Example
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError
from tests.support.images import folder_of


def example(id_: str, caption: str = "a red vase", sha256: str = "") -> Example:
    return Example(
        id=id_,
        image=f"images/{id_}.png",
        caption=caption,
        caption_found=caption,
        split="train",
        width=64,
        height=64,
        sha256=sha256 or sha256_bytes(id_.encode()),
        source_sha256="0" * 64,
        source_width=64,
        source_height=64,
        crop=(0, 0, 64, 64),
        scale=1.0,
        num_tokens=None,
    )


def fill(folder: Path, manifest: Manifest) -> None:
    """A file for each image and each caption, as a training writes them, with made-up tensors."""
    latents, texts = ContentCache(folder / "latents"), ContentCache(folder / "texts")
    for row in manifest.examples:
        origin = {"kind": "latents", "id": row.id, "image_sha256": row.sha256, "mirrored": "no", "vae": "v" * 64}
        latents.put(sha256_bytes(f"{row.sha256} v".encode()), {"mean": torch.ones(4, 2, 2)}, origin)
    for caption in {row.caption for row in manifest.examples}:
        texts.put(
            sha256_bytes(caption.encode()),
            {"embedding": torch.zeros(3)},
            {"kind": "caption", "text_sha256": text_sha256(caption), "text": caption, "encoder": "e" * 64},
        )


def dataset(tmp_path: Path, *rows: Example) -> Manifest:
    return make_manifest(tmp_path, rows, {})


def look(folder: Path, manifest: Manifest, *, deep: bool = False) -> CacheReport:
    return examine_cache(folder, manifest, lambda caption: caption, deep=deep)


def states(report: CacheReport) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for file in report.files:
        counts[file.kind, file.state] = counts.get((file.kind, file.state), 0) + 1
    return counts


def test_a_cache_of_the_dataset_is_fresh_and_nothing_is_missing(tmp_path: Path) -> None:
    manifest = dataset(tmp_path, example("a"), example("b", "a dog"))
    fill(tmp_path / "cache", manifest)
    report = look(tmp_path / "cache", manifest, deep=True)
    assert states(report) == {("latents", "fresh"): 2, ("texts", "fresh"): 2}
    assert report.missing == {"latents": (), "texts": ()}
    assert not report.strangers


def test_an_edited_image_and_caption_make_their_files_stale_with_the_reason(tmp_path: Path) -> None:
    before = dataset(tmp_path, example("a"), example("b", "a dog"), example("c", "a cat"))
    fill(tmp_path / "cache", before)
    now = dataset(tmp_path, example("a", sha256="1" * 64), example("b", "a small dog"))
    report = look(tmp_path / "cache", now)
    reasons = {file.what: file.reason for file in report.files if file.state == "stale"}
    assert reasons == {
        "a": "its image was prepared anew",
        "c": "its image is no longer in the dataset",
        "a dog": "no caption has this text any more",
        "a cat": "no caption has this text any more",
    }
    assert report.missing == {"latents": ("a",), "texts": ("a small dog",)}


def test_a_file_of_an_earlier_version_is_unknown_and_stays_unless_it_is_asked_for(tmp_path: Path) -> None:
    ContentCache(tmp_path / "cache" / "latents").put("a" * 64, {"mean": torch.ones(2)})
    report = look(tmp_path / "cache", dataset(tmp_path, example("a")))
    assert states(report) == {("latents", "unknown"): 1}
    assert removable(report, ("stale", "corrupt"), prompts=False) == []
    assert len(removable(report, ("stale", "corrupt", "unknown"), prompts=False)) == 1


@pytest.mark.parametrize("harm", ["cut", "flipped", "nan", "emptied", "text"])
def test_verify_finds_every_kind_of_damage(tmp_path: Path, harm: str) -> None:
    manifest = dataset(tmp_path, example("a"), example("b"))
    fill(tmp_path / "cache", manifest)
    path = sorted((tmp_path / "cache" / "latents").rglob("*.safetensors"))[0]
    data = path.read_bytes()
    if harm == "cut":
        path.write_bytes(data[:-3])
    elif harm == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "nan":
        path.write_bytes(data[:-4] + b"\xff\xff\xff\x7f")
    elif harm == "emptied":
        path.write_bytes(b"")
    else:
        path.write_text("no safetensors file", encoding="utf-8")
    report = look(tmp_path / "cache", manifest, deep=True)
    (corrupt,) = [file for file in report.files if file.state == "corrupt"]
    assert corrupt.path == path and corrupt.reason
    assert len(report.missing["latents"]) == 1, "a corrupt file is no fresh one"


def test_the_clean_up_removes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "cache", dataset(tmp_path, example("a"), example("b", "a dog")))
    stranger = tmp_path / "cache" / "latents" / "notes.txt"
    stranger.write_text("mine", encoding="utf-8")
    (tmp_path / "cache" / "latents" / "ab").mkdir(exist_ok=True)
    other = tmp_path / "cache" / "latents" / "ab" / ("c" * 64 + ".safetensors")  # in the wrong folder: not of the cache
    other.write_bytes(b"x")
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    link = tmp_path / "cache" / "latents" / "dd" / ("d" * 64 + ".safetensors")
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(outside)
    except OSError:
        pytest.skip("links cannot be made here")
    now = dataset(tmp_path, example("a"))
    report = look(tmp_path / "cache", now)
    assert {path.name for path in report.strangers} == {stranger.name, other.name, link.name}
    files = removable(report, ("stale", "corrupt"), prompts=False)
    size = sum(file.path.stat().st_size for file in files)
    assert {file.what for file in files} == {"b", "a dog"}
    assert remove(report, files) == size
    assert stranger.exists() and other.exists() and link.is_symlink() and outside.exists()
    assert states(look(tmp_path / "cache", now)) == {("latents", "fresh"): 1, ("texts", "fresh"): 1}


def test_embeddings_of_sample_prompts_stay_unless_they_are_named(tmp_path: Path) -> None:
    origin = {"kind": "prompt", "text_sha256": "0", "text": "a (red:1.3) dog", "encoder": "e"}
    ContentCache(tmp_path / "cache" / "texts").put("b" * 64, {"embedding": torch.ones(2)}, origin)
    report = look(tmp_path / "cache", dataset(tmp_path, example("a")))
    assert removable(report, ("stale", "corrupt"), prompts=False) == []
    assert len(removable(report, ("stale", "corrupt"), prompts=True)) == 1


def test_mirrored_captions_and_the_empty_one_are_the_datasets_own(tmp_path: Path) -> None:
    manifest = dataset(tmp_path, example("a", "left"))
    cache = ContentCache(tmp_path / "cache" / "texts")
    for number, text in enumerate(("right", "", "left")):
        cache.put(f"{number}" * 64, {"x": torch.ones(1)}, {"kind": "caption", "text_sha256": text_sha256(text)})
    report = examine_cache(tmp_path / "cache", manifest, {"left": "right"}.get)
    assert states(report) == {("texts", "fresh"): 3}


# ----------------------------------------------------------------------------------------- with the keys of a training


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset whose cache was precomputed with the built-in base, as a training does."""
    from loraloom.config.domains import open_domain
    from loraloom.models.loading import open_model
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.protocols.model import ModelSource

    folder = tmp_path_factory.mktemp("cached")
    config = PrepareConfig(size=32, crop="center", min_size=16, num_workers=1)
    manifest = prepare(folder_of(folder / "raw", 3), folder / "ds", config, console=lambda line: None).manifest
    model = open_model(ModelSource(location="builtin:mini"))
    latents = LatentStore(
        model,
        folder / "ds",
        ContentCache(folder / "ds" / "cache" / "latents"),
        model.modules.fingerprint(model.info.vae.name),
    )
    latents.fill([(row, False) for row in manifest.examples], 2)
    texts = TextStore(
        PromptEncoder(text=model.text, domain=open_domain("freetext", {})),
        ContentCache(folder / "ds" / "cache" / "texts"),
    )
    texts.fill([(row.caption, False) for row in manifest.examples] + [("", False)])
    return folder / "ds"


def place(dataset: Path, **changes: object) -> command.Place:
    return replace(command.Place(dataset, None, "builtin:mini", None, None, ()), **changes)  # pyright: ignore[reportArgumentType]


def test_the_keys_are_those_that_training_asks_for(cached: Path) -> None:
    report = command.look(place(cached), deep=True)
    assert states(report) == {("latents", "fresh"): 3, ("texts", "fresh"): 4}
    assert report.missing == {"latents": (), "texts": ()}


def test_settings_of_a_training_decide_what_is_missing_and_stale(cached: Path) -> None:
    flipped = command.look(place(cached, overrides=("data.random_flip=true",)), deep=False)
    assert len(flipped.missing["latents"]) == 3
    half = command.look(place(cached, overrides=("train.mixed_precision=bf16",)), deep=False)
    assert len(half.of("texts", "stale")) == 4
    assert {file.reason for file in half.of("texts", "stale")} == {"kept as float32, and this training uses bfloat16"}
    assert len(half.missing["texts"]) == 4


def test_latents_of_augmented_variants_are_asked_for_and_are_the_images_own(cached: Path, tmp_path: Path) -> None:
    overrides = ("augment.variants=2", "augment.crop=0")
    report = command.look(place(cached, overrides=overrides), deep=False)
    assert len(report.missing["latents"]) == 6
    manifest = dataset(tmp_path, example("a"))
    origin = {"kind": "latents", "id": "a", "image_sha256": f"{sha256_bytes(b'a')} 0.1,0.2", "mirrored": "no"}
    ContentCache(tmp_path / "cache" / "latents").put("a" * 64, {"mean": torch.ones(2)}, origin)
    assert states(look(tmp_path / "cache", manifest)) == {("latents", "fresh"): 1}


def test_lines_json_and_dry_run_tell_the_same(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = command.look(place(cached, model=None), deep=False)
    lines = command.lines_of(report)
    assert "7 files" in lines[0]
    assert lines[1].startswith("  latents  3 fresh (") and lines[1].endswith("0 missing")
    command.show(report, print, as_json=True)
    value = json.loads(capsys.readouterr().out)
    assert value["counts"]["latents"] == {"fresh": 3, "stale": 0, "unknown": 0, "corrupt": 0}
    said: list[str] = []
    command.clean(place(cached, model=None), said.append, dry_run=True, prompts=False, unknown=False)
    assert said == ["would remove 0 files and free 0 bytes; 7 would be kept"]


def test_mistakes_of_a_user_are_named(cached: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such dataset"):
        command.look(place(tmp_path / "none"), deep=False)
    with pytest.raises(UserError, match="the run has no settings"):
        command.look(place(cached, model=None, run=tmp_path), deep=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the cache is not a folder"):
        command.look(place(cached, model=None, cache_dir=tmp_path / "file"), deep=False)
    assert command.look(place(cached, model=None, cache_dir=tmp_path / "empty"), deep=False).files == ()
    assert len(read_manifest(cached).examples) == 3
