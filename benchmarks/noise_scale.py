"""Which sigma_max and w_max: short MDAE runs on the made-up cohort over more than a decade of each.

    python -m benchmarks.noise_scale [--seeds 3] [--steps 300]

Every run has the same steps, crops and subjects; only the noise differs, one of the two at a time. All are judged
alike on held-out subjects: error of inpainting (75 % masked, no noise), error of denoising at one fixed sigma, and the
probe of lesion against none in a contrast seen and one never seen, by mean and by maximum pooling.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import save, show
from mdae.corruption import CorruptionConfig, Schedule, apply, draw
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.sampling import CropDataset
from mdae.data.store import Store
from mdae.data.synth import SynthConfig, synthesise
from mdae.data.tables import attach_labels, read_table
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed_items
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.items import list_items
from mdae.evaluation.probing.cross_validation import cross_validate
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.probing.probe import feature_matrix
from mdae.evaluation.statistics.intervals import auroc
from mdae.networks.saved import SavedModel, load_model
from mdae.objectives import squared_error_terms
from mdae.options import ObjectiveOptions
from mdae.seeding import torch_generator
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from mdae.training.run import open_run

GRID = [(0.5, 5.0), (1.5, 5.0), (5.0, 5.0), (15.0, 5.0), (5.0, 1.5), (5.0, 20.0)]  # sigma_max, w_max
PATCH, BLOCK = (32, 32, 32), (8, 8, 8)
SIGMA_JUDGED = 0.5


def cohorts(folder: Path, subjects: int) -> tuple[Path, Path, Path]:
    """The store to pre-train on, and the cohort and store to probe; no subject in common."""
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    for name, count, contrasts, seed in (
        ("train", 40, ("T1w", "T2w"), 11),
        ("probe", subjects, ("T2w", "FLAIR"), 12),
    ):
        synthesise(SynthConfig(out=folder / name, subjects=count, contrasts=contrasts, seed=seed))
        prepare(PrepareConfig(source=folder / name, store=folder / f"{name}-store", preprocessing=contract))
    return folder / "train-store", folder / "probe", folder / "probe-store"


def judged_errors(model: SavedModel, config: PretrainConfig) -> dict[str, float]:
    """Inpainting and denoising errors on held-out crops, the same for every run."""
    run = open_run(config)
    assert run.validation is not None
    crops = CropDataset(run.store, run.validation)
    tasks = {
        "inpaint": CorruptionConfig(schedule=Schedule(kind="none"), p_min=0.75, p_max=0.75, block=BLOCK),
        "denoise": CorruptionConfig(
            schedule=Schedule(sigma_max=SIGMA_JUDGED), t_min=1.0, t_max=1.0, p_min=0.0, p_max=0.0, block=BLOCK
        ),
    }
    assert config.options.sigma_max is not None
    errors: dict[str, list[float]] = {name: [] for name in tasks}
    for sample in range(4 * run.num_validation):
        clean = torch.from_numpy(crops[sample][0].astype(np.float32))[None]
        for name, task in tasks.items():
            shape = (1, *PATCH)
            corrupted = apply(task, clean, draw(task, shape, [torch_generator(0, name, sample)]))
            own_t = min(
                1.0, SIGMA_JUDGED / config.options.sigma_max
            )  # where this run's schedule has that sigma
            t = own_t if name == "denoise" else 0.0
            with torch.inference_mode():
                prediction = model.network(corrupted.input, torch.tensor([t]))
            terms = squared_error_terms(prediction, clean, corrupted.mask)
            errors[name].append(float(terms.masked if name == "inpaint" else terms.visible))
    return {name: statistics.mean(values) for name, values in errors.items()}


def features_by_pool(model: SavedModel, store: Path) -> dict[str, pd.DataFrame]:
    """The features of a prepared store by pooling: means and maxima of the same maps."""
    encoder = Encoder(model)
    config = EmbedConfig(model="", scans=(store,), pool="both")
    table = embed_items(encoder, list_items(store, encoder), config).table
    names = [name for name in table.columns if name[1:].isdigit()]
    half = len(names) // 2
    return {"mean": table.drop(columns=names[half:]), "max": table.drop(columns=names[:half])}


def probed(model: SavedModel, cohort: Path, store: Path) -> dict[str, float]:
    """AUROC of lesion against none by contrast and pooling."""
    labels = read_table(cohort / "participants.tsv")
    out = {}
    for pool, table in features_by_pool(model, store).items():
        for contrast in sorted({scan.contrast for scan in Store.open(store).scans}):
            rows = attach_labels(table[table["contrast"] == contrast], labels, "lesion", cohort)
            y, subjects = rows["lesion"].to_numpy(), rows["subject"].to_numpy(dtype=str)
            scores = cross_validate(LINEAR, feature_matrix(rows), y, subjects, repeats=2).scores
            out[f"{contrast}_{pool}"] = auroc(y, scores, subjects).value
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("noise-scale"), help="to work in; kept, so that it resumes"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--subjects", type=int, default=60, help="to probe")
    options = parser.parse_args()
    train, cohort, probe_store = cohorts(options.folder, options.subjects)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for sigma_max, w_max in GRID:
            config = PretrainConfig(
                store=train,
                out=options.folder / f"run-{sigma_max}-{w_max}-{seed}",
                steps=options.steps,
                patch=PATCH,
                lr=2e-3,
                val_fraction=0.2,
                val_every=0,
                picture_every=0,
                seed=seed,
                options=ObjectiveOptions(sigma_max=sigma_max, block=BLOCK),
                settings=(f"w_max={w_max}",),
            )
            model = load_model(pretrain(config))
            result = {**judged_errors(model, config), **probed(model, cohort, probe_store)}
            rows.append({"sigma_max": sigma_max, "w_max": w_max, "seed": seed, **result})
            show(rows[-1:])
            save("noise_scale", [*rows, *summary(rows)])
    show(summary(rows))
    shutil.rmtree(options.folder)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds with their standard deviation, a row a setting."""
    out = []
    for sigma_max, w_max in GRID:
        same = [row for row in rows if (row["sigma_max"], row["w_max"]) == (sigma_max, w_max)]
        if not same:
            continue
        means: dict[str, Any] = {"sigma_max": sigma_max, "w_max": w_max, "seed": f"mean of {len(same)}"}
        for name in list(same[0])[3:]:
            values = [row[name] for row in same]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            means[name] = f"{statistics.mean(values):.3f} ± {spread:.3f}"
        out.append(means)
    return out


if __name__ == "__main__":
    main()
