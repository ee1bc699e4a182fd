"""The denoising family by name: MDAE, MAE, DSM and DiffMAE are four settings of one objective."""

from __future__ import annotations

from mdae.corruption import CorruptionConfig, Schedule
from mdae.objectives.denoising import Denoising, DenoisingConfig
from mdae.objectives.registry import ObjectiveSpec, register

register(
    "mdae",
    ObjectiveSpec(
        paper="Masked-Diffusion Autoencoders, CVPR 2026",
        summary="inpaint what is masked and denoise what is visible, at once",
        settings=DenoisingConfig(corruption=CorruptionConfig()),
        build=Denoising,
    ),
)
register(
    "mdae-masked",
    ObjectiveSpec(
        paper="Masked-Diffusion Autoencoders, CVPR 2026, as its author's public code and logs read",
        summary="inpaint what is masked while the rest is noisy; the loss is taken on masked voxels alone",
        settings=DenoisingConfig(
            corruption=CorruptionConfig(schedule=Schedule(kind="flow"), exact_count=True), supervise="masked"
        ),
        build=Denoising,
    ),
)
register(
    "mae",
    ObjectiveSpec(
        paper="He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022",
        summary="inpaint what is masked; the rest is clean",
        settings=DenoisingConfig(
            corruption=CorruptionConfig(schedule=Schedule(kind="none"), p_min=0.75, p_max=0.75),
            supervise="masked",
        ),
        build=Denoising,
        fixed=("corruption.schedule.kind", "corruption.schedule.sigma_max", "corruption.noise_on"),
    ),
)
register(
    "dsm",
    ObjectiveSpec(
        paper="Vincent, A Connection Between Score Matching and Denoising Autoencoders, 2011",
        summary="denoise; nothing is masked",
        settings=DenoisingConfig(corruption=CorruptionConfig(p_min=0.0, p_max=0.0), supervise="visible"),
        build=Denoising,
        fixed=("corruption.p_min", "corruption.p_max"),
    ),
)
register(
    "diffmae",
    ObjectiveSpec(
        paper="Wei et al., Diffusion Models as Masked Autoencoders, ICCV 2023",
        summary="denoise what is masked; the rest is clean",
        settings=DenoisingConfig(
            corruption=CorruptionConfig(
                schedule=Schedule(kind="vp"), p_min=0.75, p_max=0.75, noise_on="masked"
            ),
            supervise="masked",
        ),
        build=Denoising,
    ),
)
