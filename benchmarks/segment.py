"""Dice by the number of labelled subjects: `python -m benchmarks.segment DATASET SPLIT ENCODER... [--sizes 1 2 4 8]`.

DATASET is a raw data set in nnU-Net's layout, SPLIT a table with subject and split, ENCODERs what `mdae evaluate`
takes. Each goes through `voxels`, `voxels --with-position` and `segment` on the same draws of train subjects; the table
is printed and recorded with what it ran on, and the result files are kept. Where SPLIT has no val subjects, those who
are learned from are all that is known of anybody.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.common import save
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.results.schema import Evaluation
from mdae.evaluation.segment.config import FewLabelOptions

PROTOCOLS = (("voxels", False), ("voxels", True), ("segment", False))


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--subjects", type=Path, help="table of scan and subject, where cases share people")
    parser.add_argument("--sizes", nargs="+", default=["4"])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--steps", type=int, default=FewLabelOptions.steps)
    parser.add_argument("--out", type=Path, default=Path("segment-results"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(
        "| encoder | protocol | labelled subjects | draws | Dice [95 %] | minutes |\n|---|---|---|---|---|---|"
    )
    for encoder in options.encoders:
        for protocol, with_position in PROTOCOLS:
            started = time.perf_counter()
            (found,) = evaluate(_config(options, encoder, protocol, with_position))
            for row in _rows(found, (time.perf_counter() - started) / 60):
                rows.append(row)
                print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
            save("segment", rows)


def _config(options: argparse.Namespace, encoder: str, protocol: str, with_position: bool) -> EvaluateConfig:
    return EvaluateConfig(
        encoder=encoder,
        task=(str(options.dataset),),
        split=options.split,
        subjects=options.subjects,
        protocol=protocol,  # type: ignore[arg-type]  # one of PROTOCOLS
        with_position=with_position,
        train_sizes=tuple(options.sizes),
        draws=options.draws,
        out=options.out,
        few=FewLabelOptions(steps=options.steps),
    )


def _rows(found: Evaluation, minutes: float) -> list[dict[str, Any]]:
    """A row a number of labelled subjects."""
    return [
        {
            "encoder": found.encoder,
            "protocol": found.protocol,
            "labelled subjects": point.size,
            "draws": len(next(iter(point.values.values()))),
            "dice": str(point.scores["dice"]),
            "minutes": round(minutes, 1),
        }
        for result in found.results
        for point in result.curve
    ]


if __name__ == "__main__":
    main()
