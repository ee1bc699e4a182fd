"""nnssl as users run it: its own preprocessing and its own loader, called from outside. Nothing of it is copied.

It has to be importable: `pip install nnssl`'s repository, or its `src` and dependencies on PYTHONPATH.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLLECTION, DATASET = "Dataset001_Benchmark", "ds1"
PATCH = (160, 160, 160)


def _import_paths() -> None:
    """nnssl reads three environment variables when it is imported."""
    for name in ("nnssl_raw", "nnssl_preprocessed", "nnssl_results"):
        os.environ.setdefault(name, tempfile.mkdtemp(prefix=name))
    try:
        import nnssl  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            "this benchmark runs nnssl beside ours: install it, or put it on PYTHONPATH"
        ) from error


def preprocessing(folder: Path, *, splines_everywhere: bool = False) -> Callable[[Path], None]:
    """A function that prepares one raw scan into `folder` as `nnssl_preprocess -c onemmiso` does.

    Across thick slices nnssl takes the nearest one; with `splines_everywhere` it is told to use order 3 there as well.
    """
    _import_paths()
    from nnssl.data.raw_dataset import IndependentImage
    from nnssl.experiment_planning.experiment_planners.plan import ConfigurationPlan, Plan
    from nnssl.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
    from nnssl.preprocessing.preprocessors.default_preprocessor import preprocess_and_save

    resampling = {
        "is_seg": False,
        "order": 3,
        "order_z": 0,
        "force_separate_z": False if splines_everywhere else None,
    }
    wanted = ConfigurationPlan(
        data_identifier="nnsslPlans_onemmiso",
        preprocessor_name="DefaultPreprocessor",
        spacing_style="onemmiso",
        normalization_schemes=["ZScoreNormalization"],
        use_mask_for_norm=[False],
        resampling_fn_data="resample_data_or_seg_to_shape",
        resampling_fn_data_kwargs=resampling,
        resampling_fn_mask="resample_data_or_seg_to_shape",
        resampling_fn_mask_kwargs={**resampling, "is_seg": True, "order": 1},
        spacing=[1, 1, 1],
        patch_size=list(PATCH),
    )

    def prepare(path: Path) -> None:
        reader = determine_reader_writer_from_file_ending(".nii.gz", str(path), verbose=False)
        plan = Plan(
            dataset_name=COLLECTION,
            plans_name="nnsslPlans",
            original_median_spacing_after_transp=[1.0, 1.0, 1.0],
            image_reader_writer=reader.__name__,
            transpose_forward=[0, 1, 2],
            transpose_backward=[0, 1, 2],
            configurations={"onemmiso": wanted},
            experiment_planner_used="ExperimentPlanner",
        )
        image = IndependentImage(
            1, COLLECTION, DATASET, DATASET, "ses-1", path.name.split(".")[0], path.name, str(path), "MR"
        )
        if not preprocess_and_save(image, str(folder), plan, wanted, verbose=False):
            raise SystemExit(f"nnssl could not prepare {path}")

    return prepare


def loader(folder: Path, paths: list[Path], batch: int, *, augmented: bool) -> Callable[[], Any]:
    """A function that makes one batch of crops from what `preprocessing` wrote, on the calling core."""
    _import_paths()
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from batchgenerators.transforms.abstract_transforms import Compose
    from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
    from nnssl.data.dataloading.dataset import nnSSLDatasetBlosc2
    from nnssl.data.raw_dataset import Collection
    from nnssl.ssl_data.configure_basic_dummyDA import (
        configure_rotation_dummyDA_mirroring_and_inital_patch_size,
    )
    from nnssl.ssl_data.dataloading.data_loader_3d import nnsslDataLoader3D

    subjects = {
        path.name.split(".")[0]: {
            "sessions": {
                "ses-1": {"images": [{"name": path.name, "image_path": str(path), "modality": "MR"}]}
            }
        }
        for path in paths
    }
    collection = Collection.from_dict(
        {
            "collection_index": 1,
            "collection_name": COLLECTION,
            "datasets": {DATASET: {"dataset_index": DATASET, "subjects": subjects}},
        }
    )
    names = [f"{COLLECTION}__{DATASET}__{subject}" for subject in subjects]
    dataset = nnSSLDatasetBlosc2(str(folder), collection, names)
    angles, _, larger, axes = configure_rotation_dummyDA_mirroring_and_inital_patch_size(PATCH)
    plain = nnsslDataLoader3D(dataset, batch, larger if augmented else PATCH, PATCH)
    if not augmented:
        return lambda: next(plain)
    spatial = SpatialTransform(  # the settings of its MAE trainer
        PATCH,
        do_elastic_deform=False,
        angle_x=angles["x"],
        angle_y=angles["y"],
        angle_z=angles["z"],
        scale=(0.7, 1.4),
        order_data=3,
        order_seg=1,
        border_mode_data="constant",
        random_crop=False,
        p_el_per_sample=0,
        p_scale_per_sample=0.2,
        p_rot_per_sample=0.2,
    )
    whole = SingleThreadedAugmenter(plain, Compose([spatial, MirrorTransform(axes)]))
    np.random.seed(0)  # noqa: NPY002  # the only source of randomness it knows
    return lambda: next(whole)


def list_reader() -> Callable[[Path], list[Any]]:
    """A function that reads a `pretrain_data.json` into the images that nnssl's trainer draws from."""
    _import_paths()
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnssl.data.raw_dataset import Collection

    return lambda path: list(Collection.from_dict(load_json(str(path))).to_independent_images())
