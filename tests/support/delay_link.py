"""Join two bridges by a link that delays every frame, for kernels without netem: `delay_link.py BRIDGE_A BRIDGE_B SECONDS`.

Each bridge gets a TAP device; what one gives is written to the other after the delay. Runs until it is killed.
"""

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
MTU = 9000


def tap(name: str, bridge: str) -> int:
    """A TAP device as a port of a bridge; its file descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    for words in (["mtu", str(MTU), "txqueuelen", "10000"], ["master", bridge], ["up"]):
        subprocess.run(["ip", "link", "set", name, *words], check=True)
    return device


def carry(source: int, target: int, seconds: float) -> None:
    """Frames of one direction."""
    waiting: deque[tuple[float, bytes]] = deque()
    arrived = threading.Semaphore(0)

    def deliver() -> None:
        while True:
            arrived.acquire()
            due, frame = waiting.popleft()
            if (rest := due - time.monotonic()) > 0:
                time.sleep(rest)
            os.write(target, frame)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        frame = os.read(source, MTU + 100)
        waiting.append((time.monotonic() + seconds, frame))
        arrived.release()


def main() -> None:
    one, two = tap("delay-a", sys.argv[1]), tap("delay-b", sys.argv[2])
    seconds = float(sys.argv[3])
    threading.Thread(target=carry, args=(one, two, seconds), daemon=True).start()
    print("ready", flush=True)
    carry(two, one, seconds)


main()
