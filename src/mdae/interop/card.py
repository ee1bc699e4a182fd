"""The model card of a folder: what it is for and not for, how it came about, how well it does, and how to use it.

Everything in it is read from the folder and from result files; nothing is promised that stands nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdae.errors import DataError, ModelError
from mdae.networks.registry import built
from mdae.networks.saved import CONFIG
from mdae.text import counted

CARD = "README.md"
FITTED = "fitted.json"
LEFT_OUT = ("subjects", "scans", "versions")  # of the provenance: hashes and what has a line of its own


def model_card(folder: Path, *, name: str, results: Path | None = None, licence: str = "other") -> str:
    """The card in Markdown, with the Hub's metadata in front.

    Args:
        folder: of a model or of what was fitted on one.
        name: OWNER/NAME, for the lines that use it.
        results: a folder of result files; those of this model are told.
        licence: of the weights, by the Hub's short name.

    Raises:
        ModelError: no model there.
        DataError: results that cannot be read, or none of this model.
    """
    fitted = (folder / FITTED).is_file()
    about = _json(folder / (FITTED if fitted else CONFIG))
    body = _fitted(about, name) if fitted else _model(folder, about, name)
    lines = [
        *_metadata(about, licence, fitted),
        "",
        *body,
        "",
        *_scores(folder, results),
        *_checksums(folder),
    ]
    return "\n".join(lines) + "\n"


def _json(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        assert isinstance(about, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise ModelError(f"no model there ({error})", where=path, mend="give RUN/model") from error
    return about


def _metadata(about: dict[str, Any], licence: str, fitted: bool) -> list[str]:
    task = "image-segmentation" if about.get("kind") == "segmentation" else "image-feature-extraction"
    if fitted and task != "image-segmentation":
        task = "image-classification"
    own = "fitted" if fitted else str(about.get("objective", {}).get("name", "mdae"))
    tags = ["medical", "mri", "3d", "self-supervised-learning", "mdae", own]
    return [
        "---",
        f"license: {licence}",
        "library_name: mdae",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in dict.fromkeys(tags)),
        "---",
    ]


def _model(folder: Path, about: dict[str, Any], name: str) -> Iterator[str]:
    """Of a pre-trained model."""
    provenance = dict(about.get("provenance", {}))
    objective = about.get("objective", {}).get("name", "unknown")
    yield f"# {name.partition('/')[2] or name}"
    yield ""
    yield f"A 3D encoder for medical scans, pre-trained without labels by `{objective}` with mdae."
    yield ""
    yield "## Use"
    yield ""
    yield from _code(
        "python", ["import mdae", f'encoder = mdae.load("{name}")', 'features = encoder.embed("scan.nii.gz")']
    )
    yield ""
    yield f"Or `mdae embed {name} scans`, `mdae fit {name} labels.csv fitted`, `mdae pretrain store run --init {name}`."
    yield ""
    yield "## For what, and not for what"
    yield ""
    yield (
        "For research: embedding scans, probing and fine-tuning, starting segmentation from. Not for diagnosis or any "
        "decision about a patient: it is no medical device, and nothing was tried in a clinic. What it was not "
        "pre-trained on (other modalities, anatomies, children, implants) may be embedded badly without a word."
    )
    yield ""
    yield "## Scans as it wants them"
    yield ""
    yield "Raw scans are prepared by these settings when they are embedded; `mdae embed` warns of scans outside them."
    yield ""
    channels = {"channels": about["channels"]} if about.get("channels") else {}
    wanted = {**channels, "patch": about["patch"], **about["preprocessing"]}
    yield from _code("json", json.dumps(wanted, indent=1).splitlines())
    yield ""
    yield "## Network and pre-training"
    yield ""
    untrained = built(about["network"])
    number = sum(p.numel() for p in untrained.parameters())
    yield f"- network: {number / 1e6:.1f} M parameters with the decoder; features {list(untrained.widths)}"
    for key, value in provenance.items():
        if key not in LEFT_OUT:
            yield f"- {key.replace('_', ' ')}: {value}"
    yield f"- versions: {provenance.get('versions', {})}"
    yield f"- objective: `{json.dumps(about.get('objective', {}))}`"
    yield ""
    yield "## Who it was pre-trained on"
    yield ""
    yield from _who(provenance)


def _who(provenance: dict[str, Any]) -> Iterator[str]:
    """How to tell contamination."""
    scans = len(provenance.get("scans", {}).get("hashes", ()))
    people = len(provenance.get("subjects", {}).get("hashes", ()))
    if not scans:
        yield "Nothing is on record: whether a test set overlaps with it cannot be told."
        return
    yield (
        f"{counted(people, 'subject')} and {counted(scans, 'scan')}, kept as salted hashes in `{CONFIG}`. "
        "`mdae embed` and `mdae evaluate` "
        "say how many of the scans that they are given were among them: scores on those are not on unseen data."
    )


def _fitted(about: dict[str, Any], name: str) -> Iterator[str]:
    """Of what was fitted on an encoder."""
    on = about["fitted_on"]
    yield f"# {name.partition('/')[2] or name}"
    yield ""
    yield f"A {about['kind']} of {about['label']}, fitted by mdae on {counted(on['num_subjects'], 'subject')}."
    yield ""
    yield "## Use"
    yield ""
    yield from _code(
        "python",
        ["import mdae", f'model = mdae.load_fitted("{name}")', 'said = model.predict("scan.nii.gz")'],
    )
    yield ""
    yield f"Or `mdae predict {name} scans --out predictions`. Its encoder: {about['encoder']['name']}."
    yield ""
    yield "## For what, and not for what"
    yield ""
    yield (
        "For research. Not for diagnosis or any decision about a patient: it is no medical device. It holds for people "
        "and scanners like those that it was fitted on; `distance` and `warnings` of each prediction say how like."
    )
    yield ""
    yield "## Expected performance on new subjects"
    yield ""
    yield from _table(about["expected"]["scores"])
    yield ""
    yield about["expected"]["how"] + "."
    yield ""
    yield f"Fitted on, by label: {on['subjects_by_label']}. Subjects and scans are kept as salted hashes in `{FITTED}`."


def _code(language: str, lines: list[str]) -> list[str]:
    return [f"```{language}", *lines, "```"]


def _table(scores: dict[str, dict[str, float | None]]) -> Iterator[str]:
    yield "| figure | value | 95 % interval |"
    yield "|---|---|---|"
    for name, own in scores.items():
        known = "too few subjects" if own["low"] is None else f"{own['low']:.3f} to {own['high']:.3f}"
        yield f"| {name.replace('_', ' ')} | {own['value']:.3f} | {known} |"


def _scores(folder: Path, results: Path | None) -> Iterator[str]:
    """The scores of result files of `mdae evaluate` that are this model's."""
    if results is None:
        return
    own = folder.absolute()
    name = own.parent.name if own.name == "model" else own.name
    rows = []
    for path in sorted(results.glob("*.json")):
        try:
            said = json.loads(path.read_text())
            if said["encoder"] != name:
                continue
            for result in said["results"]:
                for figure, one in list(result["scores"].items())[:2]:
                    rows.append((said["task"]["name"], result["modality"], said["protocol"], figure, one))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"no result file ({error})", where=path, mend="give what `mdae evaluate` wrote"
            ) from error
    if not rows:
        raise DataError(
            f"no score of {name} there", where=results, mend="evaluate it, with --name its folder's"
        )
    yield "## Scores"
    yield ""
    yield "| task | contrast | protocol | figure | value | 95 % interval |"
    yield "|---|---|---|---|---|---|"
    for task, contrast, protocol, figure, one in rows:
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        yield f"| {task} | {contrast} | {protocol} | {figure} | {one['value']:.3f} | {interval} |"
    yield ""


def _checksums(folder: Path) -> Iterator[str]:
    yield "## Checksums (SHA-256)"
    yield ""
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            yield f"- `{path.relative_to(folder).as_posix()}`: `{hashlib.file_digest(file, 'sha256').hexdigest()}`"
