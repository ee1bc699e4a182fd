"""Models by their name on the Hugging Face Hub: OWNER/NAME, or OWNER/NAME@REVISION; nothing else is ever fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mdae.errors import ModelError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
# What is fetched of a repository: a model, or what was fitted on one; never code.
PATTERNS = ["*.json", "*.safetensors", "encoder/*.json", "encoder/*.safetensors", "README.md"]


def is_hub_name(spec: str | Path) -> bool:
    """Whether it is a repository's name, and no path that exists."""
    return bool(HUB_NAME.fullmatch(str(spec))) and not Path(spec).exists()


def local_folder(spec: str | Path, patterns: Sequence[str] = PATTERNS) -> Path:
    """A folder as it is, or the local copy of a repository on the Hub, fetched if need be.

    Args:
        spec: a path, or OWNER/NAME with or without @REVISION (a branch, a tag, or the hash of a commit).
        patterns: names of files that are fetched.

    Raises:
        ModelError: a repository that is not to be had.
    """
    if not is_hub_name(spec):
        return Path(spec)
    from huggingface_hub import snapshot_download  # here: it is slow to import

    name, _, revision = str(spec).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
    except Exception as error:  # huggingface_hub, its HTTP client and the system each have their own
        raise unavailable(error, str(spec)) from error


def pinned(spec: str, folder: Path) -> str:
    """A repository's name with the commit that a local copy of it is of, so that it means the same for ever."""
    return f"{spec.partition('@')[0]}@{folder.name}"


def unavailable(error: Exception, where: str) -> ModelError:
    """Why a repository is not to be had, in one line with what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        what, mend = "gated", "ask for access on its page, then `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        what, mend = "no such revision", "leave @REVISION out, or name one of its commits"
    elif isinstance(error, RepositoryNotFoundError):
        what, mend = (
            "no such folder, nor such a repository",
            "check the name; of a private one, `hf auth login`",
        )
    elif isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        what = "no such folder, and the Hugging Face Hub cannot be reached"
        mend = "go online once, then it is kept; or give a folder"
    else:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what, mend = f"not to be had from the Hugging Face Hub ({reason})", "check name and network"
    return ModelError(what, where=where, mend=mend)
