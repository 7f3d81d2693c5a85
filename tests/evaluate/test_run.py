"""`evaluate`: images to scores, a run to scores of images it generates itself, and every mistake in a line."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from loraloom import plugins
from loraloom.evaluate.generating import UNRELATED, without_trigger
from loraloom.evaluate.run import REPORT_FILE, SCORES_FILE
from loraloom.utils.errors import UserError
from tests.evaluate.conftest import Score
from tests.generate.conftest import MakeAdapter
from tests.support.images import drawn, folder_of, save


def generated(folder: Path, count: int = 4) -> Path:
    """Images as `loraloom generate` leaves them: `prompts.jsonl`, a sheet, receipts."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        save(drawn(50 + number, 32, 32), folder / f"{number:05d}.png")
        rows.append(
            {
                "file": f"{number:05d}.png", "prompt": f"image {number // 2}", "negative_prompt": "", "seed": number % 2,
                "num_steps": 2, "guidance_scale": 3.0, "sampler": "ddim", "width": 32, "height": 32,
                "model": {"source": "builtin:mini"},
            }
        )  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    save(drawn(99, 64, 64), folder / "sheet.png")
    save(drawn(98, 64, 64), folder / "receipts" / "00000.png")
    return folder


def record_of(out: Path) -> dict[str, object]:
    return json.loads((out / SCORES_FILE).read_text(encoding="utf-8"))


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_images_are_scored_against_a_folder_and_each_score_names_extractor_count_seeds_and_interval(
    tmp_path: Path, scored: Score
) -> None:
    said: list[str] = []
    evaluation = scored(
        tmp_path / "out", said, images=generated(tmp_path / "images"), reference=folder_of(tmp_path / "real", 6)
    )
    record = record_of(tmp_path / "out")
    assert record["counts"] == {"generated": 4, "reference": 6}
    names = {score.figure.name for score in evaluation.scores}
    assert {"clip_score", "clip_i", "style", "fid", "kid", "cmmd", "cmmd_biased", "diversity", "copies"} <= names
    for row in record["scores"]:  # pyright: ignore[reportGeneralTypeIssues]
        takes_one = plugins.load("metrics", row["metric"]).tower
        assert row["extractor"] == ("builtin:mini" if takes_one else None)
        assert row["seeds"] == [0, 1]
        assert row["count"] in (2, 4)
        assert {"interval_95", "anchors", "says_nothing", "references"} <= set(row)
    assert set(record["per_image"]["generated/00000.png"]) >= {"clip_score", "clip_i", "copies"}  # pyright: ignore
    assert any(line.startswith("left out: dino: it needs an extractor for images alone") for line in said)
    assert any(line.startswith("left out: drift, leakage: it needs a run") for line in said)


def test_references_of_one_caption_are_as_many_images_as_they_are(tmp_path: Path, scored: Score) -> None:
    """Grouped by caption, twelve photos with two captions would give no interval at all."""
    for number in range(12):
        save(drawn(number, 32, 32), tmp_path / "real" / f"{number}.png", f"a photo of sks {number % 2}")
    (kid,) = scored(
        tmp_path / "out", images=generated(tmp_path / "images", 10), reference=tmp_path / "real", metrics=["kid"]
    ).scores
    assert kid.figure.sd is not None


def test_the_sheet_and_the_receipts_are_not_scored(tmp_path: Path, scored: Score) -> None:
    scored(tmp_path / "out", images=generated(tmp_path / "images"), metrics=["clip_score"])
    assert record_of(tmp_path / "out")["counts"] == {"generated": 4}


def test_fid_of_few_images_is_a_sentence_and_never_a_number(tmp_path: Path, scored: Score) -> None:
    evaluation = scored(
        tmp_path / "out",
        images=generated(tmp_path / "images"),
        reference=folder_of(tmp_path / "real", 6),
        metrics=["fid"],
    )
    (fid,) = evaluation.scores
    assert fid.figure.value is None
    assert fid.figure.says_nothing.startswith("FID of 4 images says nothing")
    (row,) = record_of(tmp_path / "out")["scores"]  # pyright: ignore[reportGeneralTypeIssues]
    assert row["value"] is None
    assert "FID of 4 images says nothing" in (tmp_path / "out" / REPORT_FILE).read_text(encoding="utf-8")


def test_copies_of_references_are_found_mirrored_or_turned(tmp_path: Path, scored: Score) -> None:
    real = folder_of(tmp_path / "real", 6)
    images = tmp_path / "images"
    with Image.open(real / "003.png") as image:
        save(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), images / "mirrored.png")
        save(image.transpose(Image.Transpose.ROTATE_90), images / "turned.png")
    save(drawn(77), images / "other.png")
    evaluation = scored(tmp_path / "out", images=images, reference=real, metrics=["memorisation"])
    copies = next(score.figure for score in evaluation.scores if score.figure.name == "copies")
    values = {id_.rpartition("/")[2]: value for id_, value in copies.values.items()}
    assert values == {"mirrored.png": 1.0, "turned.png": 1.0, "other.png": 0.0}
    assert copies.nearest["generated/mirrored.png"] == "reference/003.png"


def test_real_held_out_images_are_an_anchor_of_every_score_that_can_have_one(
    tmp_path: Path, dataset: Path, scored: Score
) -> None:
    evaluation = scored(tmp_path / "out", images=generated(tmp_path / "images"), reference=dataset)
    by_name = {score.figure.name: score for score in evaluation.scores}
    for name in ("clip_score", "clip_i", "kid", "copies"):
        assert list(by_name[name].anchors) == ["held_out"]
    assert by_name["clip_i"].anchors["held_out"].count == 3


# ------------------------------------------------------------------------------------------------------------ a run


def run_on(make_adapter: MakeAdapter, folder: Path, dataset: Path) -> Path:
    """A run folder with an adapter and the settings that name its dataset."""
    make_adapter(folder, trigger="sks")
    (folder / "run.yaml").write_text(f"data:\n  dataset: {json.dumps(str(dataset))}\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_run_generates_what_it_is_scored_by_and_a_second_evaluation_uses_the_images_again(
    tmp_path: Path, make_adapter: MakeAdapter, dataset: Path, scored: Score
) -> None:
    run = run_on(make_adapter, tmp_path / "run", dataset)
    evaluation = scored(tmp_path / "out", lora=run)
    by_name = {score.figure.name: score for score in evaluation.scores}
    assert by_name["clip_i"].figure.count == 4
    assert set(by_name["clip_i"].anchors) == {"base", "held_out"}
    assert by_name["drift"].figure.count == len(UNRELATED) == 10
    assert by_name["drift"].figure.value > 0  # pyright: ignore[reportOptionalOperand]
    assert by_name["leakage"].figure.count == 4
    assert by_name["score_norm_ratio"].figure.value != 1
    assert by_name["score_auc"].figure.says_nothing
    record = record_of(tmp_path / "out")
    assert record["counts"] == {
        "reference": 9, "held_out": 3, "generated": 4, "base": 4, "no_trigger": 4, "no_trigger_base": 4,
        "drift": 10, "drift_base": 10, "probe": 4,
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    said: list[str] = []
    again = scored(tmp_path / "out", said, lora=run)
    assert [score.figure for score in again.scores] == [score.figure for score in evaluation.scores]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    assert "scored: 4 of 4 images are there already" in said


def test_an_adapter_that_changes_nothing_drifts_by_nothing(
    tmp_path: Path, make_adapter: MakeAdapter, dataset: Path, scored: Score
) -> None:
    run = run_on(make_adapter, tmp_path / "run", dataset)
    evaluation = scored(
        tmp_path / "out", lora=run, adapter_weight=0.0, metrics=["drift", "score_difference"], num_seeds=1
    )
    by_name = {score.figure.name: score.figure for score in evaluation.scores}
    assert by_name["drift"].value == pytest.approx(0, abs=1e-6)
    assert by_name["score_norm_ratio"].value == pytest.approx(1)
    assert {score.seeds for score in evaluation.scores} == {(100_000_000,)}
    assert files_below(tmp_path / "out" / "images" / "drift")
    assert not (tmp_path / "out" / "images" / "generated").exists(), "drift reads none of them"


def test_without_a_trigger_leakage_is_left_out_with_its_reason(
    tmp_path: Path, make_adapter: MakeAdapter, scored: Score, adapter: Path
) -> None:
    real = folder_of(tmp_path / "real", 6)
    with pytest.raises(UserError, match="leakage cannot be computed: the run has no trigger word"):
        scored(tmp_path / "out", lora=adapter, reference=real, metrics=["leakage"])
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------- users' mistakes


def test_a_run_whose_dataset_is_gone_says_so_and_writes_nothing(
    tmp_path: Path, make_adapter: MakeAdapter, dataset: Path, scored: Score
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(dataset, gone)
    run = run_on(make_adapter, tmp_path / "run", gone)
    shutil.rmtree(gone)
    with pytest.raises(UserError, match="the dataset of this run is gone") as caught:
        scored(tmp_path / "out", lora=run)
    assert "--reference" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bare_adapter_file_asks_for_references(tmp_path: Path, adapter: Path, scored: Score) -> None:
    with pytest.raises(UserError, match="nobody says which dataset"):
        scored(tmp_path / "out", lora=adapter / "adapter.safetensors")


def test_references_without_captions_give_a_run_no_prompts(tmp_path: Path, adapter: Path, scored: Score) -> None:
    save(drawn(1), tmp_path / "real" / "a.png")
    with pytest.raises(UserError, match="there are no prompts to generate"):
        scored(tmp_path / "out", lora=adapter, reference=tmp_path / "real")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics": ["clip_scor"]}, "did you mean 'clip_score'"),
        ({"metrics": ["kid"]}, "kid cannot be computed: it compares with reference images"),
        ({"metrics": ["drift"]}, "drift cannot be computed: it needs a run"),
        ({"metrics": ["sentences_met"]}, "the domain does not verify images"),
        ({"metrics": ["clip_score"], "extractor": "builtin:mni"}, "did you mean 'mini'"),
        ({"domain": "floorplans"}, "did you mean"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_and_writes_nothing(
    tmp_path: Path, scored: Score, given: dict[str, object], words: str
) -> None:
    images = generated(tmp_path / "images")
    before = files_below(tmp_path)
    with pytest.raises(UserError) as caught:
        scored(tmp_path / "out", images=images, **given)
    assert words in str(caught.value)
    assert files_below(tmp_path) == before


def test_dino_without_its_extractor_is_one_line(tmp_path: Path, scored: Score) -> None:
    images, real = generated(tmp_path / "images"), folder_of(tmp_path / "real", 2)
    with pytest.raises(UserError, match="no such extractor") as caught:
        scored(tmp_path / "out", images=images, reference=real, metrics=["dino"], vision_extractor="nowhere")
    assert "--vision-extractor" in str(caught.value)


def test_a_metric_of_prompts_on_images_without_prompts_says_how_to_get_them(tmp_path: Path, scored: Score) -> None:
    save(drawn(1), tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"clip_score cannot be computed: the images have no prompts.*prompts\.jsonl"):
        scored(tmp_path / "out", images=tmp_path / "images", metrics=["clip_score"])


@pytest.mark.parametrize("kind", ["missing", "empty", "texts", "file"])
def test_a_reference_folder_without_images_is_one_line(tmp_path: Path, scored: Score, kind: str) -> None:
    place = tmp_path / "real"
    if kind == "file":
        place.write_text("x", encoding="utf-8")
    elif kind != "missing":
        place.mkdir()
        if kind == "texts":
            (place / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match="reference images"):
        scored(tmp_path / "out", images=generated(tmp_path / "images"), reference=place)
    assert not (tmp_path / "out").exists()


def test_one_reference_is_too_few_for_a_distance_between_sets_and_enough_for_likeness(
    tmp_path: Path, scored: Score
) -> None:
    images, real = generated(tmp_path / "images"), folder_of(tmp_path / "real", 1)
    with pytest.raises(UserError, match="kid cannot be computed: it needs 2 reference images and there is 1"):
        scored(tmp_path / "out", images=images, reference=real, metrics=["kid"])
    (likeness,) = scored(tmp_path / "out", images=images, reference=real, metrics=["clip_i"]).scores
    assert likeness.figure.references == 1


def test_files_that_are_not_scored_are_one_counted_line_and_an_error_with_strict(tmp_path: Path, scored: Score) -> None:
    images = generated(tmp_path / "images")
    (images / "00001.png").write_bytes(b"no image")
    save(drawn(5, 32, 32), images / "unlisted.png")
    (images / "00003.png").unlink()
    said: list[str] = []
    scored(tmp_path / "out", said, images=images, metrics=["clip_score"])
    assert any(line.startswith("warning: 1 of 3 images are not scored: '00001.png' (") for line in said)
    assert "note: 1 image not in prompts.jsonl, so not scored: 'unlisted.png'" in " ".join(said)
    assert any("of prompts.jsonl gone: '00003.png'" in line for line in said)
    notes = record_of(tmp_path / "out")["notes"]
    assert len(notes) == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="--strict is on"):
        scored(tmp_path / "strict", images=images, metrics=["clip_score"], strict=True)
    assert not (tmp_path / "strict").exists()


def test_images_of_several_sizes_are_scored_with_one_line(tmp_path: Path, scored: Score) -> None:
    images = generated(tmp_path / "images")
    save(drawn(51, 64, 32), images / "00001.png")
    said: list[str] = []
    scored(tmp_path / "out", said, images=images, metrics=["clip_score"])
    assert any("the images have 2 sizes: 1 of 4 are not 32 x 32" in line for line in said)


def test_a_row_of_a_recipe_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path, scored: Score) -> None:
    images = generated(tmp_path / "images")
    save(drawn(5, 32, 32), tmp_path / "secret.png")
    row = json.loads((images / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[0])
    with (images / "prompts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "file": "../secret.png"}) + "\n")
    scored(tmp_path / "out", images=images, metrics=["clip_score"])
    assert record_of(tmp_path / "out")["counts"] == {"generated": 4}


def test_settings_of_a_metric_that_is_not_computed_are_one_line(tmp_path: Path, scored: Score) -> None:
    said: list[str] = []
    scored(tmp_path / "out", said, images=generated(tmp_path / "images"), metrics=["clip_score"], copy_bits=3)
    assert "note: --copy-bits is not used: add memorisation to --metrics" in said


def test_the_report_runs_nothing_and_shows_hostile_texts_as_texts(tmp_path: Path, scored: Score) -> None:
    images = generated(tmp_path / "images", 10)
    text = (images / "prompts.jsonl").read_text(encoding="utf-8").replace("image 0", "<script>alert(1)</script>")
    (images / "prompts.jsonl").write_text(text, encoding="utf-8")
    evaluation = scored(tmp_path / "out", images=images, reference=folder_of(tmp_path / "real", 5))
    page = evaluation.report_file.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert page.count("<svg") >= 3
    assert page.count("data:image/png;base64,") >= 4


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("sks, a dog on grass", "a dog on grass"),
        ("a photo of sks dog", "a photo of dog"),
        ("a dog, sks", "a dog"),
        ("sksdog and sks", "sksdog and"),
        ("a dog", "a dog"),
        ("line one\nsks line two", "line one\nline two"),
    ],
)
def test_the_trigger_is_removed_as_a_whole_word_with_its_comma(prompt: str, left: str) -> None:
    assert without_trigger(prompt, "sks") == left
    assert without_trigger(prompt, "") == prompt
