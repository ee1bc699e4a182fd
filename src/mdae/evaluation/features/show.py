"""The encoders for people: what `--encoder` takes."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from mdae.errors import ConfigError
from mdae.evaluation.features.clinical import CLINICAL
from mdae.evaluation.features.custom import installed
from mdae.evaluation.features.extractors import POSITION, UNTRAINED
from mdae.evaluation.features.histogram import BASELINE
from mdae.evaluation.features.small_cnn import CNN
from mdae.interop.exposure import describe_exposure
from mdae.interop.known import KNOWN, describe_known
from mdae.interop.third_party import THIRD_PARTY, describe_third_party

# What is no pre-trained network: how it is written, and what it is.
OWN = {
    "RUN/model": "a model of `mdae pretrain`, or OWNER/NAME of one on the Hugging Face Hub",
    "my_encoder.py": "a class of your own, in any framework; docs/evaluation.md has one",
    f"{UNTRAINED}:tiny": "a network as pre-training begins with; :SEED for another",
    BASELINE: "baseline: how often each intensity occurs in the head, and how large the head is; "
    f"{BASELINE}:MODEL of scans prepared as MODEL's are",
    CNN: f"baseline: a small CNN from scratch, by --protocol finetune; {CNN}:MODEL as MODEL sees scans",
    f"{CLINICAL}:age,sex": "baseline without an image: columns of the data set's table",
    POSITION: "baseline of segmentations: where a voxel is and how bright; `place` and `intensities` are its halves",
}


def encoders_table() -> Table:
    """One row an encoder or kind of encoders."""
    table = Table(caption="mdae encoders NAME tells paper, licence, preprocessing and pre-training data")
    table.add_column("encoder", no_wrap=True)
    table.add_column("what it is")
    for name, what in OWN.items():
        table.add_row(name, what)
    for known in KNOWN.values():
        table.add_row(known.name, f"{known.what}, fetched from the Hub when first used")
    for kind in THIRD_PARTY.values():
        table.add_row(f"{kind.name}:PATH", kind.title)
    for name, package in installed().items():
        table.add_row(f"{name}, {name}:PATH", f"of {package}")
    return table


def show_encoder(name: str) -> Iterator[str]:
    """All that is known of one, a line each; raises `ConfigError` for no such name."""
    kind = name.partition(":")[0]
    own = {spec.partition(":")[0]: what for spec, what in OWN.items()}
    packages = installed()
    if name in KNOWN:
        yield from describe_known(name)
        yield from describe_exposure(KNOWN[name].spec)
    elif kind in THIRD_PARTY:
        yield from describe_third_party(kind)
    elif kind in packages:
        yield f"{kind} or {kind}:PATH: of {packages[kind]}"
    elif kind in own:
        yield f"{kind}: {own[kind]}"
    else:
        names = ", ".join([*own, *KNOWN, *THIRD_PARTY, *packages])
        raise ConfigError(f"no encoder {name!r}", mend=f"use one of {names}")
