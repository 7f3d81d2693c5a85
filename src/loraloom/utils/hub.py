"""Files on the Hugging Face hub: a model's configs and tokenizers first, weights when they are first read; names of files.

In: a hub id and revision. Out: the snapshot's folder in the hub's own cache. Without a network the cache is used as it is.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loraloom.utils.errors import UserError

_SMALL_FILES = ["model_index.json", "*/config.json", "*/*_config.json", "*/*.safetensors.index.json", "tokenizer*/*"]


def download(repo: str, revision: str | None, variant: str | None, weights: Sequence[str]) -> Path:
    """The hub's snapshot folder with configs and tokenizers, and the weights of the named part folders.

    Raises:
        UserError: Gated, not there, no such revision, or neither the hub nor the cache has it.
    """
    suffix = f".{variant}" if variant else ""
    patterns = list(_SMALL_FILES)
    patterns += [f"{folder}/*model{suffix}*.safetensors" for folder in weights]
    ignore = None if variant else ["*.fp16.*", "*.non_ema.*"]
    return download_files(repo, revision, patterns, ignore, complete="model_index.json")


def download_files(
    repo: str,
    revision: str | None,
    patterns: Sequence[str],
    ignore: Sequence[str] | None = None,
    *,
    complete: str = "config.json",
    flag: str = "--model",
) -> Path:
    """The hub's snapshot folder with the files that match; without a network the cache's, if it has the file `complete`.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for the main branch.
        patterns: Patterns of the files that are wanted.
        ignore: Patterns of files that are left out.
        complete: File that the cache must have.
        flag: That names it, for errors.

    Raises:
        UserError: As `download`.
    """
    from huggingface_hub import errors, snapshot_download

    page, wanted = f"https://huggingface.co/{repo}", list(patterns)
    left_out = list(ignore) if ignore else None
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=left_out))
    except errors.GatedRepoError:
        fix = f"accept its licence at {page}, then run `hf auth login`"
        raise UserError("this model is gated", got=repo, fix=fix) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo} has no such revision", got=revision, fix=f"look at {page}/commits") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            "no such model on the hub",
            got=repo,
            fix=f"check the name at {page}; for a private model run `hf auth login`",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        return _from_cache(repo, revision, wanted, error, complete, flag)


def list_files(repo: str) -> list[str] | None:
    """Paths of all files of a repository, or of those in the cache where the hub cannot be reached; None for none.

    Nothing is downloaded.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    with suppress(Exception):  # also what the client's HTTP library raises where nothing answers
        return sorted(HfApi().list_repo_files(repo))
    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError, ValueError):
        return None
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def why_unreachable() -> str:
    """Why the hub is not asked, or does not answer, for errors."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    return "HF_HUB_OFFLINE is set" if offline else "the hub has none of this name or cannot be reached"


def _from_cache(
    repo: str, revision: str | None, patterns: list[str], reason: Exception, complete: str, flag: str
) -> Path:
    """What the hub's cache holds when the hub cannot be reached."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        folder = None
    if folder is None or not (folder / complete).is_file():
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({type(reason).__name__})"
        raise UserError(
            f"{repo} is not in the cache of this machine and {why}",
            fix=f"on a machine with a network run `hf download {repo}`, or give {flag} a folder or .safetensors file",
        ) from None
    return folder
