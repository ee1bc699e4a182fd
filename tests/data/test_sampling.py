"""Sampling: contrasts by their weights, crops with something in them, margins around them, all by number alone."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from mdae.data.sampling import ATTEMPTS, CropDataset, CropSampler
from mdae.data.store import Store
from mdae.errors import DataError


def test_contrasts_are_chosen_by_their_weights(store):
    scans = Store.open(store).scans
    for weights, share in (({}, 0.5), ({"FLAIR": 3.0}, 0.75), ({"T1w": 0.0}, 1.0)):
        sampler = CropSampler(scans, (8, 8, 8), seed=0, weights=weights)
        seen = Counter(sampler(i).scan.contrast for i in range(1200))
        assert seen["FLAIR"] / 1200 == pytest.approx(share, abs=0.04)
        subjects = [sampler(i).scan.subject for i in range(12)]
        assert len(set(subjects)) == 12, "an epoch still takes every subject once"
    with pytest.raises(DataError, match="no scans to draw from"):
        CropSampler(scans, (8, 8, 8), seed=0, weights={"T1w": 0.0, "FLAIR": 0.0})


def test_equal_weights_are_no_weights(store):
    scans = Store.open(store).scans
    seen = Counter(
        CropSampler(scans, (8, 8, 8), seed=0, weights={"T1w": 2.0, "FLAIR": 2.0})(i).scan.contrast
        for i in range(600)
    )
    assert abs(seen["T1w"] - seen["FLAIR"]) < 80


def shares(dataset: CropDataset, number: int) -> np.ndarray:
    out = []
    for sample in range(number):
        crop, _, name = dataset[sample]
        scan = next(scan for scan in dataset.store.scans if scan.scan_id == name)
        out.append((np.abs(crop[0, ::2, ::2, ::2] - np.float32(scan.background)) > 0.25).mean())
    return np.array(out)


def test_empty_crops_are_drawn_again_elsewhere(store):
    opened = Store.open(store)
    sampler = CropSampler(opened.scans, (6, 6, 6), seed=0)
    plain = shares(CropDataset(opened, sampler), 60)
    fuller = shares(CropDataset(opened, sampler, min_foreground=0.6), 60)
    assert (plain < 0.6).sum() > 5, "else this proves nothing"
    assert (fuller < 0.6).sum() < (plain < 0.6).sum() / 3
    kept = plain >= 0.6
    assert np.array_equal(plain[kept], fuller[kept]), "full crops stay as they were"
    impossible = CropDataset(opened, sampler, min_foreground=0.999)
    best = max(shares_of(opened, sampler, 0, attempt) for attempt in range(ATTEMPTS))
    assert shares(impossible, 1)[0] == pytest.approx(best), "the fullest of all attempts"


def test_the_foreground_is_that_of_the_crop_whatever_surrounds_it(store):
    opened = Store.open(store)
    sampler = CropSampler(opened.scans, (6, 6, 6), seed=0)
    plain = CropDataset(opened, sampler, min_foreground=0.6)
    wide = CropDataset(opened, sampler, min_foreground=0.6, margin=(4, 4, 4))
    for sample in range(30):
        assert np.array_equal(wide[sample][0][:, 4:-4, 4:-4, 4:-4], plain[sample][0])


def test_where_there_is_one_place_alone_it_is_taken_at_once(store, monkeypatch):
    opened = Store.open(store)
    sampler = CropSampler(opened.scans, (64, 64, 64), seed=0)
    read: list[object] = []
    crop = opened.read_crop
    monkeypatch.setattr(opened, "read_crop", lambda *place: read.append(place) or crop(*place))
    assert CropDataset(opened, sampler, min_foreground=0.999)[0][0].shape == (1, 64, 64, 64)
    assert len(read) == 1


def shares_of(store: Store, sampler: CropSampler, sample: int, attempt: int) -> float:
    place = sampler(sample, attempt)
    crop = store.read_crop(place.scan, place.start, sampler.size)[::2, ::2, ::2].astype(np.float32)
    return float((np.abs(crop - place.scan.background) > 0.25).mean())


def test_a_margin_surrounds_the_same_crop(store):
    opened = Store.open(store)
    sampler = CropSampler(opened.scans, (8, 8, 8), seed=3)
    for sample in range(10):
        inner, _, name = CropDataset(opened, sampler)[sample]
        outer, _, same = CropDataset(opened, sampler, margin=(2, 0, 5))[sample]
        assert outer.shape == (1, 12, 8, 18) and name == same
        assert np.array_equal(outer[:, 2:-2, :, 5:-5], inner)


def test_a_sampler_travels_to_loader_processes(store):
    sampler = CropSampler(Store.open(store).scans, (8, 8, 8), seed=3, weights={"T1w": 2.0})
    copy = pickle.loads(pickle.dumps(sampler))
    assert [copy(i) for i in range(20)] == [sampler(i) for i in range(20)]
