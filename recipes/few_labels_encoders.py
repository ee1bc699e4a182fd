"""What `recipes.few_labels` pre-trains: objectives, changes to them, and which of these are tried on val subjects.

An encoder's name says all that is set: "mae, block 4, lr 1e-3" is the objective with two changes. Every objective is
searched alike: three learning rates, and three values of one setting of its own, one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

Options = dict[str, Any]

PLUGIN = Path(__file__).parent / "more_objectives.py"
UNTRAINED = "untrained"
BLOCK = {"block": "8,8,8"}  # a quarter of a crop's side; the published 16 would be half of it
BASES: dict[str, Options] = {
    UNTRAINED: {"objective": "mdae", "steps": 1, "lr": 1e-12, "settings": BLOCK},
    "mdae": {"objective": "mdae", "settings": BLOCK},
    "mae": {"objective": "mae", "settings": BLOCK},
    "dsm": {"objective": "dsm"},
    "mdae-masked": {"objective": "mdae-masked", "settings": BLOCK},
    "diffmae": {"objective": "diffmae", "settings": BLOCK},
    "spark": {"objective": "spark"},  # its blocks are the network's stride, 8 as well
    "simmim": {"objective": "simmim", "settings": BLOCK},
    "voco": {"objective": "voco"},
    "simclr": {"objective": "simclr"},
    "spectral": {"objective": "mdae-spectral", "plugin": PLUGIN, "settings": BLOCK},
    "spread": {"objective": "mdae-spread", "plugin": PLUGIN, "settings": BLOCK},
}
CHANGES: dict[str, Options] = {
    "lr 1e-3": {"lr": 1e-3},
    "lr 4e-3": {"lr": 4e-3},
    "block 4": {"settings": {"block": "4,4,4"}},
    "block 16": {"settings": {"block": "16,16,16"}},
    "ratio 45 %": {"settings": {"ratio": "0.45"}},
    "ratio 75 %": {"settings": {"ratio": "0.75"}},
    "grid 2": {"settings": {"grid": "2,2,2"}},
    "grid 4": {"settings": {"grid": "4,4,4"}},
    "temperature 0.1": {"settings": {"temperature": "0.1"}},
    "temperature 1": {"settings": {"temperature": "1"}},
    "noise to 1": {"settings": {"sigma_max": "1"}},
    "noise to 15": {"settings": {"sigma_max": "15"}},
    "noise to 0.3": {"settings": {"sigma_max": "0.3"}},
    "variance preserving": {"settings": {"corruption.schedule.kind": "vp"}},
    "flow": {"settings": {"corruption.schedule.kind": "flow"}},
    "75 % masked": {"settings": {"p_min": "0.75", "p_max": "0.75"}},
    "variable ratio": {"settings": {"p_min": "0.01", "p_max": "0.99"}},
    "low noise": {"settings": {"corruption.times.kind": "low_noise"}},
    "foreground": {"settings": {"foreground": "true"}},
    "gradient": {"settings": {"lambda_gradient": "0.1"}},
    "blocks 4 to 16": {"settings": {"edges": "4,8,16"}},
    "small": {"network": "small"},
    "25 volumes": {"volumes": 25},
    "80 volumes": {"volumes": 80},
}
RATES = ("lr 1e-3", "lr 4e-3")  # beside 2e-3, which is every objective's first
OWN: dict[str, tuple[str, ...]] = {  # beside the value of `BASES`, or the objective's published one
    "mdae": ("block 4", "block 16"),
    "mae": ("block 4", "block 16"),
    "mae, variable ratio": ("block 4", "block 16"),
    "dsm": ("noise to 1", "noise to 15"),
    "mdae-masked": ("block 4", "block 16"),
    "diffmae": ("block 4", "block 16"),
    "spark": ("ratio 45 %", "ratio 75 %"),
    "simmim": ("block 4", "block 16"),
    "voco": ("grid 2", "grid 4"),
    "simclr": ("temperature 0.1", "temperature 1"),
}
DESIGNS = (  # of MDAE, one change each
    *(
        "mdae, noise to 1",
        "mdae, noise to 15",
        "mdae, variance preserving",
        "mdae, flow",
        "mdae, 75 % masked",
    ),
    *("mdae, low noise", "mdae, foreground", "mdae, gradient", "mdae, blocks 4 to 16", "spectral", "spread"),
)
BLOCKS = ("block 4", "", "block 16")  # of the landscape; blocks of 8 and noise to 5 are MDAE's as it is
NOISES = ("noise to 0.3", "noise to 1", "", "noise to 15")
CELLS = {  # mask x noise
    (block, noise): ", ".join(filter(None, ("mdae", block, noise))) for block in BLOCKS for noise in NOISES
}
LANDSCAPE = tuple(name for name in CELLS.values() if name != "mdae")


def options_of(name: str) -> Options:
    """What an encoder's name says: keywords of `PretrainConfig`, and `volumes` where it sees fewer than all."""
    base, *changes = name.split(", ")
    found: Options = {"settings": {}}
    for part in (BASES[base], *(CHANGES[change] for change in changes)):
        found |= part | {"settings": found["settings"] | part.get("settings", {})}
    return found | {"settings": tuple(f"{key}={value}" for key, value in found["settings"].items())}


def tried(base: str) -> tuple[str, ...]:
    """All that is tried of an objective, its first setting first."""
    return (base, *(f"{base}, {change}" for change in (*RATES, *OWN[base])))


def searched(base: str, rows: pd.DataFrame) -> pd.Series:
    """Mean Dice of all that was tried of an objective, over the seeds that all of it has; nothing without such a seed.

    Args:
        base: one of `OWN`.
        rows: of val subjects, of one readout and one number of steps.
    """
    names = list(tried(base))
    by = rows[rows.encoder.isin(names)].groupby(["seed", "encoder"]).dice.mean().unstack("encoder")
    whole = by.reindex(columns=names).dropna()
    return whole.mean() if len(whole) else pd.Series(dtype=float)


def chosen(base: str, rows: pd.DataFrame) -> str:
    """The learning rate and the own setting that were best on val subjects, each by itself; arguments as `searched`."""
    dice = searched(base, rows)
    if dice.empty:
        raise SystemExit(f"{base}: its search is not finished; run it with --scored val --encoders search")
    found = base
    for changes in (RATES, OWN[base]):
        candidates = (base, *(f"{base}, {one}" for one in changes))
        found += str(dice.reindex(candidates).idxmax()).removeprefix(base)
    return found
