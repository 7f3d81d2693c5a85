"""Tasks that watch a gang: cancelled for good, and asked once more for the cause when the first fault is only its echo."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from loraloom.cluster.outcomes import Outcome
from loraloom.utils.ranks import LOST


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough where a library waits by `asyncio.wait_for`: that of Python 3.11 swallows a cancellation that meets
    its result.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=0.5)
        for task in done:
            _ = task.cancelled() or task.exception()  # looked at, or asyncio reports it as never retrieved


async def late_faults(
    faults: Sequence[Outcome], tasks: Sequence["asyncio.Task[Outcome]"], seconds: float
) -> list[Outcome]:
    """What other nodes say within some seconds, where all that ended so far are ranks that lost another one.

    The first answer may be one more rank that lost the same one: the others are heard until one tells a cause. A node whose
    ranks all finished tells none.
    """
    found: list[Outcome] = []
    others = {task for task in tasks if not task.done()}
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while others and all(fault.status == LOST for fault in [*faults, *found]):
                done, others = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
                found += [outcome for task in done if (outcome := task.result()).kind != "finished"]
    return found
