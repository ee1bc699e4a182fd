"""From 500 scans to a table of ten linear probes: `mdae evaluate`, against embedding anew for every task.

    python -m benchmarks.evaluate

The peer's way is how one-off evaluation scripts work: each task prepares and embeds its scans again, by the network as
it was trained, decoder and conditioning included. Preparation, windows, weights and probes are the same, and ours. The
peer's embedding is measured over `--peer-scans` scans and multiplied, for it would take the better part of an hour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.common import save, show
from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.devices import keep_freed_memory
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.sliding_window import AT_ONCE, cut_window, window_starts
from mdae.networks import preset
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.seeding import numpy_generator

TASKS = 10
CONTRACT = Preprocessing(spacing_mm=(4.0, 4.0, 4.0))
PATCH = (32, 32, 32)


def make_tasks(folder: Path, subjects: int) -> tuple[list[str], Path, list[Path]]:
    """Made-up scans, a table with ten labels of each, and ten tasks."""
    synthesise(SynthConfig(out=folder / "bids", subjects=subjects, contrasts=("T1w",), spacing_mm=4.0))
    scans = sorted((folder / "bids").rglob("*_T1w.nii.gz"))
    rng = numpy_generator(0, "labels")
    labels = {f"label{n}": rng.permutation(np.arange(subjects) % 2) for n in range(TASKS)}
    names = [path.name.split("_")[0] for path in scans]
    table = pd.DataFrame({"path": scans, "subject": names, "contrast": "T1w", **labels})
    table.to_csv(folder / "labels.csv", index=False)
    for n in range(TASKS):
        (folder / f"task{n}.yaml").write_text(
            f"name: task{n}\ntitle: label {n}\nlayout: table\ncontrasts: [T1w]\n"
            f"label: {{column: label{n}, positive: 1}}\n"
        )
    return [str(folder / f"task{n}.yaml") for n in range(TASKS)], folder / "labels.csv", scans


def ours(folder: Path, model: Path, tasks: list[str], table: Path, cache: str) -> float:
    """Seconds of the whole command; with a cache of its own the first time."""
    started = time.perf_counter()
    config = EvaluateConfig(
        encoder=str(model), task=tuple(tasks), data=table, out=folder / "results", cache=folder / cache
    )
    assert len(list(evaluate(config))) == TASKS
    return time.perf_counter() - started


@torch.inference_mode()
def peer_embedding(model: Path, scans: list[Path]) -> float:
    """Seconds to prepare and embed scans by the network as it was trained."""
    saved = load_model(model, "cuda" if torch.cuda.is_available() else "cpu")
    encoder, network = Encoder(saved), saved.network
    device = next(network.parameters()).device
    kept: list[torch.Tensor] = []
    network.encoder.register_forward_hook(lambda module, inputs, output: kept.extend(output))
    started = time.perf_counter()
    for path in scans:
        prepared = encoder.prepare(ScanEntry("", "", "", "", path))
        volume, value = torch.from_numpy(prepared.data), prepared.record.background
        starts = window_starts(volume.shape, PATCH)
        windows = torch.stack([cut_window(volume, start, PATCH, value) for start in starts])[:, None]
        for part in windows.split(AT_ONCE):
            kept.clear()
            network(part.to(device), torch.zeros(len(part), device=device))
            torch.cat([stage.mean(dim=(2, 3, 4)) for stage in kept], dim=1).cpu()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=500)
    parser.add_argument("--peer-scans", type=int, default=100)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks, table, scans = make_tasks(folder, options.subjects)
        for network in ("tiny", "small"):
            model = folder / network
            save_model(model, SavedModel(preset(network).new().eval(), CONTRACT, PATCH))
            first = ours(folder, model, tasks, table, f"cache-{network}")
            again = ours(folder, model, tasks, table, f"cache-{network}")
            peer = peer_embedding(model, scans[: options.peer_scans]) / options.peer_scans * options.subjects
            row = {
                "network": network,
                "scans": options.subjects,
                "tasks": TASKS,
                "ours_s": first,
                "probes_s": again,
                "peer_s": TASKS * peer + again,
                "peer/ours": (TASKS * peer + again) / first,
            }
            rows.append(row)
            show(rows[-1:])
    save("evaluate-" + ("cuda" if torch.cuda.is_available() else "cpu"), rows)


if __name__ == "__main__":
    main()
