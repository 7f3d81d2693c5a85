"""`loraloom train` on a terminal: progress bar, log lines, results and the next command."""

from typing import TYPE_CHECKING

from loraloom.utils.output_paths import COMMAND
from loraloom.utils.progress import bars, duration
from loraloom.utils.reporting import reporting

if TYPE_CHECKING:
    from loraloom.config.run import RunConfig


def train_on_terminal(settings: "RunConfig", *, cpu: bool = False) -> None:
    """Train; show a progress bar and log lines; print the results and the next command."""
    from loraloom.train.run import train

    max_steps = settings.train.max_steps

    def report(done: int, numbers: dict[str, float]) -> None:
        left = (max_steps - done) / max(numbers["steps_per_second"], 1e-9)
        held_out = f"validation {numbers['validation_loss']:.4f}  " if "validation_loss" in numbers else ""
        say(
            f"step {done}/{max_steps}  loss {numbers['loss']:.4f}  {held_out}lr {numbers['learning_rate']:.2e}  "
            f"norm {numbers['grad_norm']:.3f}  {numbers['images_per_second']:.1f} images/s  "
            f"{numbers['peak_memory_mib'] / 1024:.2f} GiB  {duration(left)} left"
        )

    def say(text: str) -> None:
        print(text, flush=True)

    with bars() as bar, reporting(say=say, bar=bar, numbers=report):
        result = train(settings, say=None, cpu=cpu)
    if result.is_main and result.adapter is not None:
        say(f"done in {duration(result.finished.seconds)}: {result.adapter}")
        if settings.samples.enabled:
            say(f"samples: {result.folder / 'samples' / 'sheet.png'}")
        say(f"for other programs: {result.folder / 'exports'}")
        say(f'next: {COMMAND} generate --adapter {result.folder} "a prompt"')
