"""Every image has its exact share, whatever the buckets, the batch and the number of devices."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.data.bucket_sampler import EpochCache, Plan

SIZES = st.lists(st.sampled_from([(64, 64), (96, 48), (48, 96)]), min_size=1, max_size=40)


@settings(max_examples=80)
@given(SIZES, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_every_image_has_weight_one_in_every_epoch(
    sizes: list[tuple[int, int]], batch: int, devices: int, accumulation: int, epoch: int
) -> None:
    plan = Plan(tuple(sizes), batch, devices, accumulation, seed=1)
    weights: Counter[int] = Counter()
    for step in plan.epoch(epoch):
        assert len(step) <= accumulation
        for forward in step:
            assert len(forward) == plan.pass_size
            assert len({sizes[slot.index] for slot in forward}) == 1
            for device in range(devices):
                (share,) = plan.micro_batches(forward, device, devices)
                for slot in share:
                    weights[slot.index] += int(slot.weight)
    assert weights == Counter(dict.fromkeys(range(len(sizes)), 1))
    assert len(plan.epoch(epoch)) == plan.steps_per_epoch


@settings(max_examples=40)
@given(SIZES, st.integers(1, 3), st.integers(0, 5))
def test_two_devices_learn_the_same_steps_as_one_with_the_double_batch(
    sizes: list[tuple[int, int]], batch: int, epoch: int
) -> None:
    assert Plan(tuple(sizes), batch, 2, 1, seed=3).epoch(epoch) == Plan(tuple(sizes), 2 * batch, 1, 1, seed=3).epoch(
        epoch
    )


@settings(max_examples=80)
@given(SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_any_number_of_ranks_shares_out_the_passes_of_the_first_start(
    sizes: list[tuple[int, int]], batch: int, devices: int, ranks: int
) -> None:
    plan = Plan(tuple(sizes), batch, devices, 2, seed=1)
    for step in plan.epoch(0):
        for forward in step:
            shares = [plan.micro_batches(forward, rank, ranks) for rank in range(ranks)]
            assert all(1 <= len(micro) <= batch for share in shares for micro in share)
            assert tuple(slot for share in shares for micro in share for slot in micro) == forward


def test_a_resume_on_other_ranks_keeps_the_steps_of_the_run() -> None:
    started = EpochCache(Plan(((64, 64),) * 10, 2, 2, 1, seed=0))
    resumed = EpochCache(Plan(((64, 64),) * 10, 2, 1, 1, seed=0))
    resumed.load_state_dict(started.state_dict())
    assert resumed.steps_per_epoch == started.steps_per_epoch == 3
    assert [resumed.step(k) for k in range(7)] == [started.step(k) for k in range(7)]


def test_a_steps_place_is_found_without_walking_the_run() -> None:
    plan = Plan(((64, 64),) * 10, 3, 1, 1, seed=0)
    walk = [(epoch, step) for epoch in range(4) for step in plan.epoch(epoch)]
    jumps = EpochCache(plan)
    for place in (0, 15, 3, 9):
        assert jumps.step(place) == walk[place]


def test_epochs_have_different_orders() -> None:
    plan = Plan(((64, 64),) * 30, 4, 1, 1, seed=0)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) == plan.epoch(0)
