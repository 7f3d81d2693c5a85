"""A PNG of A1111 or ComfyUI tells its prompt and settings; what they say that has no equal here is said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.generate.foreign_recipes import foreign_recipe
from loraloom.utils.errors import UserError

A1111 = """a garden, (roses:1.2), <lora:anime:0.6>
Steps: many, is what the sign says
Negative prompt: blurry,
low quality
Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 123456789, Size: 640x512, Model hash: 6ce0161689, \
Model: v1-5-pruned, Clip skip: 2, Lora hashes: "anime: 0123456789ab", Version: v1.9.4"""


def test_a_png_of_a1111_tells_its_prompt_and_settings() -> None:
    found = foreign_recipe({"parameters": A1111}, "a.png")
    assert found is not None
    assert found.prompt == "a garden, (roses:1.2), <lora:anime:0.6>\nSteps: many, is what the sign says"
    assert found.negative_prompt == "blurry,\nlow quality"
    assert found.settings == {
        "num_steps": 30,
        "guidance_scale": 6.5,
        "seed": 123456789,
        "width": 640,
        "height": 512,
        "sampler": "dpmpp_2m_karras",
    }
    assert found.model == "v1-5-pruned"
    assert found.notes == ["its Clip skip (2) is not used"]


def test_an_unknown_sampler_or_schedule_of_a1111_is_said() -> None:
    def notes(facts: str) -> list[str]:
        found = foreign_recipe({"parameters": f"x\nSteps: 3, {facts}"}, "a.png")
        assert found is not None
        return list(found.notes)

    assert notes("Sampler: Heun, Seed: 1") == ["its sampler (Heun) has no equal here: the model's own is used"]
    assert notes("Sampler: DPM++ 2M, Schedule type: Karras") == []
    assert notes("Sampler: DPM++ 2M, Schedule type: Exponential") == [
        "its schedule (Exponential) has no equal here: Karras is used"
    ]
    assert notes("Sampler: Euler, Schedule type: Karras") == [
        "its schedule (Karras) has no equal here for euler: even steps are used"
    ]
    assert notes("Sampler: Euler a, Schedule type: Automatic") == notes("Sampler: DDIM, Schedule type: DDIM") == []


@pytest.mark.parametrize(
    ("facts", "sampler"),
    [
        ("Sampler: Euler", "euler"),
        ("Sampler: DPM++ 2M, Schedule type: Normal", "dpmpp_2m"),
        ("Sampler: DPM++ 2M, Schedule type: Uniform", "dpmpp_2m"),
        ("Sampler: DPM++ 2M Karras", "dpmpp_2m_karras"),
    ],
)
def test_a_solver_of_a1111_is_ours_with_the_same_steps(facts: str, sampler: str) -> None:
    found = foreign_recipe({"parameters": f"x\nSteps: 3, {facts}"}, "a.png")
    assert found is not None
    assert (found.settings["sampler"], list(found.notes)) == (sampler, [])


def graph() -> dict[str, dict[str, object]]:
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 42, "steps": 20, "cfg": 8.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
                "positive": ["16", 0], "negative": ["7", 0], "latent_image": ["5", 0], "model": ["10", 0],
            },
        },
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
        "16": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
        "8": {"class_type": "PrimitiveString", "inputs": {"value": "a red house"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
        "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "styles\\wc.safetensors", "strength_model": 0.7}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    }  # fmt: skip


def test_a_png_of_comfyui_tells_its_prompt_through_the_graph() -> None:
    found = foreign_recipe({"prompt": json.dumps(graph()), "workflow": "{}"}, "c.png")
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.model) == ("a red house", "fog", "sd15.safetensors")
    assert found.loras == [("wc", 0.7)]
    assert found.settings == {
        "seed": 42, "num_steps": 20, "guidance_scale": 8.0, "sampler": "euler_a", "width": 512, "height": 768,
    }  # fmt: skip
    assert found.as_row()["prompt"] == "a red house <lora:wc:0.7>"


def test_a_graph_that_leads_back_to_itself_ends() -> None:
    looped = graph()
    looped["6"]["inputs"] = {"text": ["16", 0]}
    found = foreign_recipe({"prompt": json.dumps(looped)}, "c.png")
    assert found is not None
    assert found.prompt == ""


def test_a_png_without_a_recipe_has_none_and_a_damaged_one_is_named() -> None:
    assert foreign_recipe({"Software": "Krita", "parameters": "a note"}, "k.png") is None
    assert foreign_recipe({"prompt": '{"1": {"inputs": {}}}'}, "k.png") is None
    with pytest.raises(UserError, match="ComfyUI graph in k"):
        foreign_recipe({"prompt": "{broken"}, "k.png")


@given(st.dictionaries(st.sampled_from(["parameters", "prompt"]), st.text() | st.just("x\nSteps: 9,") | st.just("{}")))
def test_any_chunk_is_read_or_refused(chunks: dict[str, str]) -> None:
    try:
        found = foreign_recipe(chunks, "x.png")
    except UserError:
        return
    assert found is None or isinstance(found.as_row()["prompt"], str)
