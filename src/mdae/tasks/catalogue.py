"""The tasks of the paper's benchmarks and of its author's public logs, and a user's own from YAML files.

What is known of the published scores, and what is not, stands in each task's note and in `SCENARIO_REFERENCES`.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

from mdae.errors import ConfigError
from mdae.files import read_yaml
from mdae.tasks.layouts import LAYOUTS
from mdae.tasks.nnunet_raw import is_nnunet_raw, nnunet_task
from mdae.tasks.record import LabelRule, Reference, Task, task_from_dict

SEG_SPLIT = "5 folds by subject; nnU-Net's own validation within each training part"
LOGS = "author's public logs of August 2025, mean over 44 cells of data set and contrast, runs chosen by VALIDATION"
PAPER = "CVPR 2026, as summarised publicly; how runs were selected is not stated"
TCIA = "https://www.cancerimagingarchive.net/collection"

BRATS18 = {
    "layout": "brats18",
    "contrasts": ("t1", "t1ce", "t2", "flair"),
    "access": "https://www.med.upenn.edu/sbia/brats2018/data.html",
    "licence": "registration; for research",
    "cohort": "the 285 training subjects, 210 HGG and 75 LGG",
}
BRATS23 = {
    "layout": "brats23",
    "contrasts": ("t1n", "t1c", "t2w", "t2f"),
    "access": "https://www.synapse.org/brats2023",
    "licence": "registration at Synapse; CC BY 4.0",
    "cohort": "training subjects of the two kinds, first time point",
    "note": "The paper gives 96.3 and 96.6 AUROC for tumour type, without saying for which pairs.",
}
UCSF = {
    "layout": "ucsf-pdgm",
    "access": f"{TCIA}/ucsf-pdgm/",
    "licence": "CC BY 4.0",
    "cohort": "first scans; follow-ups (FU) left out",
}
UPENN = {
    "layout": "upenn-gbm",
    "contrasts": ("T1", "T1GD", "T2", "FLAIR"),
    "access": f"{TCIA}/upenn-gbm/",
    "licence": "CC BY 4.0",
    "cohort": "scans before surgery (_11) with the label",
}
TCGA = {
    "layout": "tcga-gbm",
    "contrasts": ("T1w", "T1w-gd", "T2w", "FLAIR"),
    "access": f"{TCIA}/tcga-gbm/",
    "licence": "TCIA restricted",
    "cohort": "patients with imaging and a row in the TCGA clinical data resource",
    "note": "Contrasts are guessed from the series' descriptions.",
}


def _brats23(first: str, second: str) -> Task:
    words = {"GLI": "glioma", "MEN": "meningioma", "MET": "metastasis"}
    return Task(
        name=f"brats23-{first.lower()}-{second.lower()}",
        title=f"{words[first]} or {words[second]}",
        label=LabelRule(column="tumour", positive=(second,), negative=(first,)),
        **BRATS23,  # type: ignore[arg-type]
    )


def _os(name: str, title: str, time: str, event: str, happened: str, record: Mapping[str, object]) -> Task:
    rule = LabelRule(column=time, event=event, happened=(happened,))
    split = "5 x 5-fold cross-validation by subject"
    return Task(name=name, title=title, kind="survival", label=rule, split=split, **record)  # type: ignore[arg-type]


def _survival(name: str, words: str, days: float) -> Task:
    rule = LabelRule(
        column="Survival_from_surgery_days_UPDATED",
        above=days,
        event="Survival_Status",
        happened=("Deceased",),
    )
    note = "Who was lost alive before that, or died on an uncertain date, is left out."
    title = f"survival of more than {words} after surgery"
    return Task(name=f"upenn-survival-{name}", title=title, label=rule, note=note, **UPENN)  # type: ignore[arg-type]


def _upenn(name: str, title: str, rule: LabelRule, note: str = "") -> Task:
    return Task(name=f"upenn-{name}", title=title, label=rule, note=note, **UPENN)  # type: ignore[arg-type]


def _tcga(name: str, title: str, time: str, event: str) -> Task:
    rule = LabelRule(column=time, above=365.0, event=event, happened=("1",))
    record = TCGA | {"note": f"{TCGA['note']} Who was lost before a year is left out."}
    return Task(name=f"tcga-{name}", title=title, label=rule, **record)  # type: ignore[arg-type]


CATALOGUE: tuple[Task, ...] = (
    Task(
        name="brats18-grade",
        title="high- or low-grade glioma",
        label=LabelRule(column="grade", positive=("HGG",), negative=("LGG",)),
        references=(Reference(encoder="MDAE", metric="AUROC", value=0.921, source=PAPER),),
        note="The published score is of all contrasts together.",
        **BRATS18,  # type: ignore[arg-type]
    ),
    _brats23("GLI", "MEN"),
    _brats23("GLI", "MET"),
    _brats23("MEN", "MET"),
    Task(
        name="brats23-tumour",
        title="glioma, meningioma or metastasis",
        label=LabelRule(column="tumour", classes=("GLI", "MEN", "MET")),
        **BRATS23,  # type: ignore[arg-type]
    ),
    Task(
        name="rsna-mgmt",
        title="MGMT promoter methylation",
        layout="rsna-miccai",
        label=LabelRule(column="MGMT_value", positive=("1",), negative=("0",)),
        contrasts=("T1w", "T1wCE", "T2w", "FLAIR"),
        cohort="training subjects but 00109, 00123 and 00709, which the organisers found faulty",
        access="https://www.kaggle.com/c/rsna-miccai-brain-tumor-radiogenomic-classification",
        licence="the competition's rules",
        note="Published AUROCs stay at 0.58 to 0.60, the challenge's winner among them: expect little.",
    ),
    Task(
        name="ucsf-idh",
        title="IDH mutation",
        label=LabelRule(column="IDH", positive=("*",), negative=("wildtype",)),
        contrasts=("SWI", "ASL"),
        **UCSF,  # type: ignore[arg-type]
    ),
    _survival("1y", "a year", 365.0),
    _survival("18m", "18 months", 547.5),
    _survival("2y", "two years", 730.0),
    _upenn(
        "age-group",
        "older than 60 years",
        LabelRule(column="Age_at_scan_years", above=60.0),
        "The published cut is not known; 60 is ours.",
    ),
    _upenn("sex", "sex", LabelRule(column="Gender", positive=("M",), negative=("F",))),
    _upenn("idh1", "IDH1 mutation", LabelRule(column="IDH1", positive=("Mutated",), negative=("Wildtype",))),
    _upenn(
        "resection",
        "gross total resection, over 90 %",
        LabelRule(column="GTR_over90percent", positive=("Y", "Yes"), negative=("N", "No")),
    ),
    _tcga("dss-1y", "disease-specific survival of more than a year", "DSS.time", "DSS"),
    _tcga("pfi-1y", "no progression for more than a year", "PFI.time", "PFI"),
    Task(
        name="upenn-age",
        title="age in years",
        kind="regression",
        label=LabelRule(column="Age_at_scan_years"),
        **UPENN,  # type: ignore[arg-type]
    ),
    _os(
        "upenn-os",
        "survival after surgery",
        "Survival_from_surgery_days_UPDATED",
        "Survival_Status",
        "Deceased",
        UPENN,
    ),
    _os("ucsf-os", "overall survival", "OS", "1-dead 0-alive", "1", UCSF | {"contrasts": ("T1c", "FLAIR")}),
    _os("tcga-dss", "disease-specific survival", "DSS.time", "DSS", "1", TCGA),
    _os("tcga-pfi", "progression-free interval", "PFI.time", "PFI", "1", TCGA),
    Task(
        name="brats18-seg",
        title="tumour segmentation",
        kind="segmentation",
        split=SEG_SPLIT,
        references=(
            Reference(encoder="MDAE", metric="Dice", value=0.814, source=PAPER),
            Reference(encoder="MDAE", metric="NSD", value=0.753, source=PAPER),
        ),
        **BRATS18,  # type: ignore[arg-type]
    ),
    Task(
        name="ucsf-seg",
        title="tumour segmentation",
        kind="segmentation",
        split=SEG_SPLIT,
        contrasts=("T1", "T1c", "T2", "FLAIR"),
        references=(
            Reference(encoder="MDAE", metric="Dice", value=0.852, source=PAPER),
            Reference(encoder="MDAE", metric="NSD", value=0.881, source=PAPER),
        ),
        **UCSF,  # type: ignore[arg-type]
    ),
)

SCENARIO_REFERENCES: dict[str, tuple[Reference, ...]] = {
    "in-domain": (
        Reference(encoder="MDAE", metric="AUROC", value=0.736, source=PAPER),
        Reference(encoder="MDAE", metric="AP", value=0.716, source=PAPER),
        Reference(encoder="MAE", metric="AUROC", value=0.695, source=PAPER),
    ),
    "cross-modality": (
        Reference(encoder="MDAE", metric="AUROC", value=0.786, source=PAPER),
        Reference(encoder="MAE", metric="AUROC", value=0.700, source=PAPER),
        Reference(encoder="BrainIAC", metric="AUROC", value=0.679, source=PAPER),
        Reference(encoder="DINOv2", metric="AUROC", value=0.721, source=PAPER),
    ),
    "classification": tuple(
        Reference(encoder=encoder, metric="AUROC", value=value, source=LOGS)
        for encoder, value in (
            ("VoCo", 0.684),
            ("SwinUNETR", 0.661),
            ("BrainIAC", 0.660),
            ("MDAE", 0.640),
            ("SimCLR", 0.634),
            ("Models Genesis", 0.625),
            ("MAE", 0.615),
            ("DINOv2", 0.612),
            ("VolumeFusion", 0.595),
            ("S3D", 0.595),
            ("ResNet-50 from scratch", 0.584),
            ("BrainMVP", 0.576),
            ("MRI-CORE", 0.573),
        )
    ),
}


def find_task(name: str) -> Task:
    """A task by its name in the catalogue, from a user's YAML or Python file, or of a raw data set for nnU-Net.

    Raises:
        ConfigError: no such task, or a file that holds none.
    """
    if name.endswith((".yaml", ".yml")):
        return _with_layout(_from_yaml(Path(name)), Path(name))
    if name.endswith(".py"):
        return _with_layout(_from_python(Path(name)), Path(name))
    if is_nnunet_raw(Path(name)):
        return nnunet_task(Path(name))
    found = next((task for task in CATALOGUE if task.name == name), None)
    if found is None:
        names = ", ".join(task.name for task in CATALOGUE)
        raise ConfigError(
            f"no task {name!r}", mend=f"use a YAML or Python file of your own or one of {names}"
        )
    return found


def _with_layout(task: Task, path: Path) -> Task:
    """The same task, if its layout is one that can be read."""
    if task.layout not in LAYOUTS:
        raise ConfigError(f"no layout {task.layout!r}", where=path, mend=f"use one of {', '.join(LAYOUTS)}")
    return task


def _from_yaml(path: Path) -> Task:
    values = read_yaml(path, "a task's")
    if not isinstance(values, dict):
        raise ConfigError("not a task: it holds no names", where=path, mend="see `mdae tasks brats18-grade`")
    try:
        return task_from_dict(values)
    except ConfigError as error:
        raise ConfigError(error.what, where=path, mend=error.mend) from error


def _from_python(path: Path) -> Task:
    """The variable `TASK` of a user's own file, which is run."""
    try:
        found = runpy.run_path(str(path)).get("TASK")
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's own lines raise
        raise ConfigError(
            f"it cannot be run ({type(error).__name__}: {error})", where=path, mend="check it"
        ) from error
    if not isinstance(found, Task):
        raise ConfigError(
            "it sets no TASK that is a mdae.tasks.Task", where=path, mend="see docs/evaluation.md for one"
        )
    return found
