"""A clinic's table of made-up subjects: a scan each, three kinds of tumour, survival, sex, age and site."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.results.schema import Evaluation
from tests.tasks.trees import save

KINDS = ("glioma", "meningioma", "metastasis")
NAMES = [f"{start}{number:03d}" for number in range(9) for start in ("A0", "ADNI-002-S-0", "Müller-0")]

TASKS = {
    "kind": "label: {column: kind, classes: [glioma, meningioma, metastasis]}",
    "survival": "kind: survival\nlabel: {column: days, event: died, happened: 1}",
    "benign": "label: {column: kind, positive: meningioma}",
}


def clinic(root: Path) -> Path:
    """The table, with scans beside it; brighter pieces are other kinds, and live longer."""
    rows = []
    for number, name in enumerate(NAMES):
        kind = number % 3
        save(root / "scans" / f"{name}_T1w.nii.gz", number, kind)
        about = {"path": f"scans/{name}_T1w.nii.gz", "subject": name, "contrast": "T1w", "kind": KINDS[kind]}
        about |= {"days": 100 + 200 * kind + number, "died": int(number % 5 > 0)}
        about |= {"Sex": "MF"[number // 3 % 2], "Age at MRI": "" if number == 4 else 35 + number}
        rows.append(about | {"site": ("Heidelberg", "Köln")[number // 2 % 2]})
    pd.DataFrame(rows).to_csv(root / "clinic.csv", index=False)
    for name, rule in TASKS.items():
        about = f"name: clinic-{name}\ntitle: {name}\nlayout: table\ncontrasts: [T1w]\n{rule}\n"
        (root / f"{name}.yaml").write_text(about)
    return root


def run(root: Path, out: Path, task: str, **changes: object) -> Evaluation:
    """Evaluate on one of its tasks with few folds."""
    options = {"encoder": "histogram", "data": root / "clinic.csv", "out": out, "cache": root / "cache"}
    options |= {"folds": 3, "repeats": 1, "device": "cpu", "workers": 1, **changes}
    (found,) = evaluate(EvaluateConfig(task=(str(root / f"{task}.yaml"),), **options))  # type: ignore[arg-type]
    return found
