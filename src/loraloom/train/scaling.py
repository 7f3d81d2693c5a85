"""Predict how training scales over ranks and machines, from a measured step and the size of its one message.

In: seconds of a step on one rank, bytes of the gradients, and the speed of the links. Out: throughput relative to one
rank. The model: every rank computes as one rank does, then a ring all-reduce within a machine and one between machines,
not overlapped with anything, as in `train/distributed.py`. It knows no contention between ranks for disk, CPU or power,
so it is an upper limit.
"""

from dataclasses import dataclass

from loraloom.utils.counted import counted

EXPECTED = ((4, 1, 3.5), (4, 2, 6.5), (4, 4, 12.0))
"""What people expect: (ranks per machine, machines, throughput relative to one rank)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Speed of the connections.

    Attributes:
        local_gb_per_s: Between the GPUs of a machine, 1e9 bytes per second; 8 is PCIe 4.0 with 8 lanes at half its peak.
        network_gbit_per_s: Between machines, 1e9 bits per second; nine tenths of it carry data.
        network_latency_s: Seconds that a message between machines takes at least.
    """

    local_gb_per_s: float = 8.0
    network_gbit_per_s: float = 1.0
    network_latency_s: float = 2e-4


def message_seconds(num_bytes: float, ranks: int, nodes: int, links: Links) -> float:
    """Seconds of the all-reduce of a step: over the ranks of a machine, then over the machines."""
    local = 2 * (ranks - 1) / ranks * num_bytes / (links.local_gb_per_s * 1e9)
    network = 2 * (nodes - 1) / nodes * num_bytes / (links.network_gbit_per_s * 0.9e9 / 8)
    return local + network + 2 * (nodes - 1) * links.network_latency_s


def speedup(step_seconds: float, num_bytes: float, ranks: int, nodes: int, links: Links) -> float:
    """Throughput of `ranks` ranks on each of `nodes` machines, relative to one rank."""
    message = message_seconds(num_bytes, ranks, nodes, links)
    return ranks * nodes * step_seconds / (step_seconds + message)


def prediction_lines(
    *, step_seconds: float, images: int, num_bytes: float, ranks: int, nodes: int, links: Links
) -> list[str]:
    """The prediction for people, with the usual expectations beside it."""
    lines = [
        f"measured on one rank: {step_seconds:.3f} s a step of {counted(images, 'image')}; "
        f"one message of {num_bytes / 1e6:.1f} MB a step",
        f"assumed: {links.local_gb_per_s:g} GB/s within a machine, {links.network_gbit_per_s:g} Gbit/s between machines",
    ]
    wanted = (ranks, nodes, None)
    for each, machines, expected in (wanted, *EXPECTED):
        factor = speedup(step_seconds, num_bytes, each, machines, links)
        message = message_seconds(num_bytes, each, machines, links)
        place = f"{each} on each of {machines} machines" if machines > 1 else f"{each} on one machine"
        line = (
            f"{each * machines} ranks ({place}): {factor:.0%} of one rank, {factor * images / step_seconds:.1f} images/s, "
            f"{message / (step_seconds + message):.0%} of a step in the message"
        )
        if expected is not None:
            line += f"; often expected: {expected:.0%}, {'reached' if factor >= expected else 'NOT reached'}"
        lines.append(line)
    lines.append("an upper limit: ranks that share cores, a disk or a power supply are slower")
    return lines
