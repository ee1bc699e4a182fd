"""One step, by itself: what it sees of a crop, and that nothing in it waits or is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sources import list_source
from mdae.data.store import Store
from mdae.devices import uses_bf16
from mdae.evaluation.features.encoder import Encoder
from mdae.networks.saved import load_model
from mdae.training.step import on_device
from tests.conftest import COARSE
from tests.data.test_sources import openmind


def test_unknown_voxels_are_the_same_to_a_network_in_training_and_in_embedding(model, tmp_path):
    source = openmind(tmp_path / "openmind")
    prepare(PrepareConfig(source=source, store=tmp_path / "store", preprocessing=COARSE, workers=1))
    store = Store.open(tmp_path / "store")
    scan = next(scan for scan in store.scans if scan.unknown > 0)
    stored = torch.from_numpy(store.read_crop(scan, (0, 0, 0), scan.shape))
    seen, known = on_device(stored[None, None], torch.device("cpu"), partly_unknown=True)
    assert known is not None and not known.all()
    assert np.array_equal(store.read(scan).astype(np.float32), seen[0, 0].numpy()), "embedded from a store"
    entry = next(e for e in list_source(source).entries if e.scan_id == scan.scan_id)
    raw = Encoder(load_model(model)).prepare(entry).data
    assert np.array_equal(raw[~known[0, 0].numpy()], seen[~known].numpy()), "and from a raw scan"


@pytest.mark.parametrize(("native", "emulated", "used"), [(True, True, True), (False, True, False)])
def test_bfloat16_is_for_gpus_whose_own_units_have_it(monkeypatch, native, emulated, used):
    """For pre-training, fine-tuning and embedding alike: nobody else asks."""

    def supported(including_emulation: bool = True) -> bool:
        return emulated if including_emulation else native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    assert uses_bf16(torch.device("cuda")) is used
    assert not uses_bf16(torch.device("cpu"))
