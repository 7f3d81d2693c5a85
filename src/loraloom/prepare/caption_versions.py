"""Go back to an earlier version of a folder's captions, and list all versions.

In: a folder that `loraloom caption` captioned. Out: another version made current, caption files with it; or lines for the user.
"""

from collections.abc import Callable
from pathlib import Path

from loraloom import plugins
from loraloom.prepare.caption_store import CaptionStore
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import lock_folder


def undo(folder: Path, console: Callable[[str], None] = print, number: int | None = None) -> None:
    """Make the version before the current one current, or the version `number` (0: none), caption files with it.

    Raises:
        UserError: There is no such version.
    """
    store = CaptionStore(folder)
    current = store.current() if store.place.is_dir() else None
    if number is None and current is None:
        raise UserError("there is no version of captions to undo", got=str(folder), fix="`loraloom caption` writes one")
    wanted = number if number is not None else current.header.parent if current else 0
    if wanted and wanted not in store.numbers():
        known = ", ".join(map(str, [0, *store.numbers()]))
        raise UserError("there is no such version of the captions", got=wanted, expected=f"one of {known}")
    with lock_folder(store.place, console):
        store.finish()
        left = store.use(wanted)
    what = f"version {wanted}" if wanted else "the captions as they were found"
    console(f"{what} of {folder} {'holds' if wanted else 'hold'}; `loraloom caption {folder} --versions` lists all")
    if left:
        console(f"  {counted(len(left), 'caption file')} changed since: left as they are: {', '.join(left[:3])}")


def versions_text(folder: Path) -> str:
    """A line for each version of the captions of a folder, the current one marked."""
    store = CaptionStore(folder)
    headers = store.headers()
    if not headers:
        return f"{folder} has no captions by `loraloom caption`"
    current = store.current()
    holds = current.header.version if current else 0
    rows = [("  " if holds else "* ") + "0  captions as they were found"]
    rows += [
        f"{'* ' if one.version == holds else '  '}{one.version}  {one.created}  after {one.parent}  {one.summary}"
        for one in headers
    ]
    return "\n".join(rows)


def check_captioner(name: str) -> None:
    """Raise `UserError` for a captioner that is not there, with near names."""
    if name and name not in plugins.names("captioners"):
        raise UserError("unknown captioner", got=name, fix=did_you_mean(name, plugins.names("captioners")))
