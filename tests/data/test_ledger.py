"""The ledger says what the sampler does: how often each image is seen, with which weight, in how many updates."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.config.pairs import read_batch_sizes
from loraloom.data.bucket_sampler import Plan
from loraloom.data.ledger import ledger_lines, make_ledger, updates_sentence, write_ledger

SIZES = ((64, 64), (96, 48), (48, 96), (128, 128))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Samplers of random sets: sizes, repeats, weights, batches, devices, accumulation, smaller batches of large images."""
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=30))
    number = len(sizes)
    own = st.sampled_from([None, 1, 2, 5, 8])
    batch = draw(st.integers(1, 6))
    return Plan(
        sizes=tuple(sizes),
        batch_size=batch,
        num_devices=draw(st.integers(1, 3)),
        accumulation=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 9)),
        repeats=tuple(draw(st.lists(st.integers(1, 5), min_size=number, max_size=number))),
        weights=tuple(draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0]), min_size=number, max_size=number))),
        smaller_batches=draw(st.sampled_from([(), ((128 * 128, min(batch, 2)),), ((1, 1),)])),
        batch_sizes=tuple(draw(st.one_of(st.just([]), st.lists(own, min_size=number, max_size=number)))),
    )


@settings(max_examples=150)
@given(plans(), st.integers(0, 3))
def test_the_ledger_is_what_the_sampler_yields_in_every_epoch(plan: Plan, epoch: int) -> None:
    """Counted from the slots that the ranks compute, not from the formula of the ledger."""
    ledger = make_ledger(plan, [f"image {index}" for index in range(len(plan.sizes))])
    seen, weights, padding, batches = Counter[int](), Counter[int](), Counter[tuple[int, int]](), Counter()
    steps = plan.epoch(epoch)
    for step in steps:
        for forward in step:
            first = forward[0].index
            size, own = plan.sizes[first], plan.batch_sizes[first] if plan.batch_sizes else None
            batch = min(
                own or plan.batch_size, *(n for least, n in plan.smaller_batches if size[0] * size[1] >= least), 99
            )
            assert len(forward) == batch * plan.num_devices <= plan.step_size // plan.accumulation
            size = (*size, batch)
            batches[size] += 1
            shares = [plan.micro_batches(forward, rank, plan.num_devices) for rank in range(plan.num_devices)]
            for slot in (slot for share in shares for micro in share for slot in micro):
                assert (*plan.sizes[slot.index], plan.bucket_of(slot.index).batch_size) == size
                seen[slot.index] += slot.weight > 0
                weights[slot.index] += slot.weight
                padding[size] += slot.weight == 0
    assert [row.seen_per_epoch for row in ledger.rows] == [seen[index] for index in range(len(plan.sizes))]
    total = math.fsum(weights.values())
    assert [row.share for row in ledger.rows] == pytest.approx([weights[k] / total for k in range(len(plan.sizes))])
    rows = {(row.width, row.height, row.batch_size): row for row in ledger.sizes}
    assert {key: row.padding for key, row in rows.items()} == {size: padding[size] for size in batches}
    assert {key: row.batches for key, row in rows.items()} == dict(batches)
    assert ledger.steps_per_epoch == len(steps)


@settings(max_examples=60)
@given(plans(), st.integers(1, 40))
def test_the_ledger_counts_the_steps_of_a_run_that_ends_within_an_epoch(plan: Plan, max_steps: int) -> None:
    ledger = make_ledger(plan, [str(index) for index in range(len(plan.sizes))], max_steps)
    seen = Counter[int]()
    walk = [step for epoch in range(max_steps // plan.steps_per_epoch + 1) for step in plan.epoch(epoch)]
    for step in walk[:max_steps]:
        seen.update(slot.index for forward in step for slot in forward if slot.weight > 0)
    assert [row.seen_in_run for row in ledger.rows] == [seen[index] for index in range(len(plan.sizes))]


@settings(max_examples=60)
@given(plans())
def test_without_batch_sizes_of_folders_an_epoch_is_what_it_was_before_there_were_any(plan: Plan) -> None:
    """All images with the batch size of the run are one bucket, so that a run that was begun earlier is resumed exactly."""
    plain = replace(plan, batch_sizes=())
    same = replace(plan, batch_sizes=(plan.batch_size,) * len(plan.sizes))
    assert [plain.epoch(number) for number in range(2)] == [same.epoch(number) for number in range(2)]
    assert plain.step_size == same.step_size == plan.batch_size * plan.num_devices * plan.accumulation


@settings(max_examples=60)
@given(plans(), st.integers(1, 4))
def test_any_number_of_ranks_computes_every_slot_once_in_batches_that_the_folder_allows(plan: Plan, ranks: int) -> None:
    for forward in (forward for step in plan.epoch(0) for forward in step):
        shares = [micro for rank in range(ranks) for micro in plan.micro_batches(forward, rank, ranks)]
        assert [slot for micro in shares for slot in micro] == list(forward)
        assert all(len(micro) <= plan.bucket_of(forward[0].index).batch_size for micro in shares)


@settings(max_examples=40)
@given(plans())
def test_repetitions_of_an_image_in_one_epoch_are_told_apart(plan: Plan) -> None:
    slots = [slot for step in plan.epoch(0) for forward in step for slot in forward if slot.weight > 0]
    assert len({(slot.index, slot.copy) for slot in slots}) == len(slots) == sum(plan.all_repeats())


def test_a_user_reads_repeats_padding_weights_and_updates_in_sentences(tmp_path: Path) -> None:
    plan = Plan(((64, 64),) * 3, 4, 1, 1, seed=0, repeats=(10, 1, 1), weights=(1.0, 1.0, 0.5))
    ledger = make_ledger(plan, ["a", "b", "c"], 30)
    assert ledger_lines(ledger) == [
        "ledger: 3 images; an epoch shows 12 (2 x 1, 1 x 10), in 3 batches of 1 size; no slot is left over",
        "ledger: loss weights 0.5 to 1; c is 4.35% of an epoch's loss, a 86.96%",
    ]
    sentence = "3 images (12 an epoch with repeats) x 10 epochs = 30 updates of batch 4"
    assert updates_sentence(ledger, steps=30) == sentence
    assert updates_sentence(ledger, steps=30, step_seconds=5.0) == f"{sentence}, about 2 min 30 s"
    rows = [json.loads(line) for line in write_ledger(tmp_path, ledger).read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["seen_per_epoch"], row["seen_in_run"]) for row in rows] == [
        ("a", 10, 100),
        ("b", 1, 10),
        ("c", 1, 10),
    ]


def test_without_repeats_a_set_is_said_to_be_seen_once() -> None:
    plan = Plan(((64, 64),) * 5 + ((96, 48),), 4, 1, 1, seed=0)
    assert ledger_lines(make_ledger(plan, list("abcdef"))) == [
        "ledger: 6 images; each is seen once an epoch, in 3 batches of 2 sizes; 6 of 12 slots only complete a batch, with "
        "weight zero"
    ]


@pytest.mark.parametrize("texts", [("768",), ("768=0",), ("x=2",), ("768=2", "768=1"), ("768=8",), ("512=1", "768=2")])
def test_batch_sizes_that_make_no_sense_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"SIDE=N|two batch sizes|larger batch"):
        read_batch_sizes(texts, 4)
