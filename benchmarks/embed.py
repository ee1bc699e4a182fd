"""Scans a second of `embed`: the folded encoder alone, against the peer's encoder and our own unfolded network.

    python -m benchmarks.embed

All see the same windows of the same prepared scans; the last column is the whole command from raw .nii.gz files.
The peer is the encoder of dynamic-network-architectures with the same weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import in_turn, median_ratio, own_peak_memory_gib, peak_memory_gib, save, show
from benchmarks.step import peer_network
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.devices import keep_freed_memory
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed_items
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.items import list_items
from mdae.networks import preset
from mdae.networks.norm import lay_channels_last
from mdae.networks.saved import SavedModel

CASES = [("tiny", 48, 8), ("small", 64, 4), ("resenc-l", 64, 1)]
SCANS = 8


def networks(name: str, side: int, batch: int) -> dict[str, object]:
    """Forward passes of one batch of windows by the three networks."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = preset(name).new().to(device).eval()
    folded = unet.at(0.0).encoder
    if device == "cuda":
        lay_channels_last(unet)
        lay_channels_last(folded)
    peer = peer_network(preset(name).config).encoder.to(device).eval()
    peer.load_state_dict(folded.state_dict(), strict=False)
    x, t = torch.randn(batch, 1, side, side, side, device=device), torch.zeros(batch, device=device)

    def guarded(function):  # type: ignore[no-untyped-def]
        def run() -> None:
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                function()

        return run

    return {
        "folded": guarded(lambda: folded(x)),
        "peer": guarded(lambda: peer(x)),
        "whole": guarded(lambda: unet(x, t)),
    }


def command_scans_per_s(name: str, side: int, folder: Path) -> float:
    """The rate of the whole command, from raw files to features."""
    network = preset(name).new()
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    encoder = Encoder(
        SavedModel(network, contract, (side, side, side)), "cuda" if torch.cuda.is_available() else "cpu"
    )
    items = list_items(folder, encoder)
    started = time.perf_counter()
    embed_items(encoder, items, EmbedConfig(model="", scans=(folder,)))
    return len(items) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs=4, metavar=("KIND", "NETWORK", "SIDE", "BATCH"))
    parser.add_argument("--report-memory", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        keep_freed_memory()
    if options.only:
        kind, name, side, batch = options.only
        networks(name, int(side), int(batch))[kind]()  # type: ignore[operator]
        print(own_peak_memory_gib())
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cohort = synthesise(SynthConfig(out=Path(folder) / "bids", subjects=SCANS, contrasts=("T1w",)))
        for name, side, batch in CASES:
            seconds = in_turn(networks(name, side, batch), rounds=5)  # type: ignore[arg-type]
            memory = {
                kind: peak_memory_gib(["-m", "benchmarks.embed", "--only", kind, name, str(side), str(batch)])
                for kind in ("folded", "peer", "whole")
            }
            rows.append(
                {
                    "network": name,
                    "side": side,
                    "batch": batch,
                    "windows/s": batch / sorted(seconds["folded"])[2],
                    "peer/ours": median_ratio(seconds["folded"], seconds["peer"]),
                    "whole/ours": median_ratio(seconds["folded"], seconds["whole"]),
                    "ours_gib": memory["folded"],
                    "peer_gib": memory["peer"],
                    "scans/s": command_scans_per_s(name, side, cohort),
                }
            )
            show(rows[-1:])
    save("embed-" + ("cuda" if torch.cuda.is_available() else "cpu"), rows)


if __name__ == "__main__":
    main()
