"""Walking a folder so that every file in it is accounted for: listed, or left out with the reason."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mdae.data.set_aside import NOT_LOOKED, SetAside

LEFT_OUT_FOLDERS = ("derivatives", "sourcedata", "code", "stimuli")
ANNEX = ".git/annex/objects"


@dataclass
class Tree:
    """What lies below a folder.

    Attributes:
        files: regular files, and links to such, at any depth, in order.
        left_out: what is neither: broken links, pipes, folders that cannot be opened or are left out whole.
        passed_over: how many hidden files and folders there are, by what they are called.
    """

    files: list[Path] = field(default_factory=list)
    left_out: list[SetAside] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def walk(source: Path) -> Tree:
    """Look through a folder; links to folders are followed after all others, and no folder is listed twice."""
    tree, seen, links = Tree(), {os.path.realpath(source)}, [source]
    for start in links:  # it grows
        if start is not source and not _first(start, tree, seen):
            continue
        waiting = [start]
        while waiting:
            inside, linked = _look(waiting.pop(), tree)
            links += linked
            waiting += [folder for folder in reversed(inside) if _first(folder, tree, seen)]
    return tree


def _first(folder: Path, tree: Tree, seen: set[str]) -> bool:
    """Whether a folder is met for the first time, under any name."""
    real = os.path.realpath(folder)
    if real in seen:
        reason = "a link to a folder that is listed under another name"
        tree.left_out.append(SetAside(str(folder), reason, "nothing, one of them is enough", num_files="0"))
        return False
    seen.add(real)
    return True


def _look(folder: Path, tree: Tree) -> tuple[list[Path], list[Path]]:
    """Sort a folder's files into the tree, and return its folders, and its links to folders."""
    try:
        with os.scandir(folder) as found:
            items = sorted(found, key=lambda item: item.name)
    except OSError as error:
        reason = f"a folder that cannot be opened ({error.strerror or error})"
        tree.left_out.append(SetAside(str(folder), reason, "change its permissions", num_files="0"))
        return [], []
    inside: list[Path] = []
    linked: list[Path] = []
    bids = any(item.name.startswith("sub-") or item.name == "dataset_description.json" for item in items)
    for item in items:
        path, kind = folder / item.name, _kind(item)
        if item.name.startswith("."):
            _hidden(path, tree)
        elif kind == "folder" and item.name in LEFT_OUT_FOLDERS and (bids or item.name == "derivatives"):
            tree.left_out.append(_left_out_whole(path, bids))
        elif kind == "folder":
            (linked if item.is_symlink() else inside).append(path)
        elif kind == "file":
            tree.files.append(path)
        else:
            tree.left_out.append(SetAside(str(path), *no_file(path)))
    return inside, linked


def _kind(item: os.DirEntry[str]) -> str:
    try:
        return "folder" if item.is_dir() else "file" if item.is_file() else "neither"
    except OSError:  # a loop of links
        return "neither"


def _hidden(path: Path, tree: Tree) -> None:
    """Hidden scans are told of; what systems and programs keep for themselves is only counted."""
    from mdae.data.formats import is_scan_name

    if is_scan_name(path.name) and not path.name.startswith("._"):
        tree.left_out.append(
            SetAside(str(path), "a hidden file", "rename it without the dot if it is wanted")
        )
    else:
        tree.passed_over["hidden"] += 1


def _left_out_whole(path: Path, bids: bool) -> SetAside:
    """One row for a folder with all that is in it."""
    reason = NOT_LOOKED + (
        f"{path.name} of a BIDS tree" if bids else "derivatives, which are made from scans"
    )
    number = 0
    for _, folders, files in os.walk(path):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if name not in hidden]
        number += len(files) + len(hidden)
    return SetAside(str(path), reason, "give it by itself to take scans from it", num_files=str(number))


def no_file(path: Path) -> tuple[str, str]:
    """Why a path is no file that can be read, and the mend."""
    if path.is_symlink():
        target = path.readlink()
        if ANNEX in target.as_posix():
            return "its content is not here, only git-annex's link to it", annex_mend(path)
        return f"a link to nothing ({target})", "bring its target, or remove the link"
    if not path.exists():
        return "no such file", "download it, or mend the list"
    return "no regular file (a pipe, socket or device)", "remove it, or give a file"


def annex_mend(path: Path) -> str:
    """How a file's content comes from git-annex."""
    return f"fetch it: datalad get {path.name}, or git annex get {path.name}"
