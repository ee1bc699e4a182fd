"""`mdae push`: a model or what was fitted on one to the Hugging Face Hub, with its card."""

from __future__ import annotations

import re
from pathlib import Path

from mdae.errors import ConfigError, ModelError
from mdae.files import atomic_write
from mdae.interop.card import CARD, model_card
from mdae.interop.configs import CardConfig, PushConfig
from mdae.networks.hub import PATTERNS, unavailable
from mdae.networks.saved import CONFIG

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FITTED = "fitted.json"


def push(config: PushConfig) -> str:
    """Write the card if there is none, and upload a model's folder.

    Returns:
        OWNER/NAME@COMMIT, by which it can be loaded anywhere.

    Raises:
        ConfigError: no name of a repository.
        ModelError: no model there, or the Hub refuses.
    """
    if not REPOSITORY.fullmatch(config.name):
        raise ConfigError(f"{config.name!r} is no name of a repository", mend="write OWNER/NAME")
    if not any((config.model / name).is_file() for name in (CONFIG, FITTED)):
        raise ModelError(
            f"neither {CONFIG} nor {FITTED} there",
            where=config.model,
            mend="give RUN/model, or what mdae fit wrote",
        )
    if not (config.model / CARD).is_file():
        write_card(CardConfig(model=config.model, name=config.name, licence=config.licence))
    from huggingface_hub import HfApi  # here: it is slow to import

    try:
        api = HfApi()
        api.create_repo(config.name, private=config.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=config.name,
            folder_path=config.model,
            allow_patterns=PATTERNS,
            commit_message="Upload by mdae",
        )
    except Exception as error:  # huggingface_hub, its HTTP client and the system each have their own
        raise unavailable(error, config.name) from error
    return f"{config.name}@{commit.oid}"


def write_card(config: CardConfig) -> Path:
    """Write a model's card beside it, or where it is wanted; raises `ModelError`."""
    path = config.out or config.model / CARD
    text = model_card(config.model, name=config.name, results=config.results, licence=config.licence)
    with atomic_write(path) as temporary:
        temporary.write_text(text)
    return path
