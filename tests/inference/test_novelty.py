"""How far from what was fitted on: near for its like, far for others, and in true shares."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import KFold

from mdae.inference.novelty import Cloud, Novelty
from mdae.seeding import numpy_generator


def draw(number, *, seed=0, shift=0.0):
    """Correlated features, more of them than scans."""
    rng = numpy_generator(seed, "cloud")
    mixing = numpy_generator(0, "mixing").standard_normal((8, 90))
    return rng.standard_normal((number, 8)) @ mixing + 0.3 * rng.standard_normal((number, 90)) + shift


def test_the_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance():
    x = draw(60)
    cloud = Cloud.of(x)
    standard = (x - x.mean(0)) / x.std(0)
    wanted = (
        LedoitWolf(assume_centered=True).fit(standard).mahalanobis((draw(9, seed=1) - x.mean(0)) / x.std(0))
    )
    np.testing.assert_allclose(cloud.distance(draw(9, seed=1)) ** 2 * 90, wanted, rtol=1e-6)


def test_the_like_are_near_and_others_are_far():
    novelty = Novelty.fit(draw(80), list(KFold(5).split(np.zeros(80))))
    like, other = novelty.share_as_far(draw(400, seed=3)), novelty.share_as_far(draw(50, seed=4, shift=1.5))
    assert 0.03 < (like <= 0.1).mean() < 0.2 and like.mean() == pytest.approx(0.5, abs=0.12)
    assert (other <= 1 / 81).all() and (novelty.distance(draw(50, seed=4, shift=1.5)) > 1.5).all()


def test_features_that_never_vary_say_nothing_until_they_do():
    x = draw(40)
    x[:, 0] = 3.0
    novelty = Novelty.fit(x, list(KFold(4).split(x)))
    other = x[:1].copy()
    other[0, 0] = 4.0
    assert np.isfinite(novelty.distance(x)).all() and novelty.distance(other)[0] > novelty.distance(x[:1])[0]
