"""The training loop. It knows stores, devices, optimisers and logs, and nothing of any objective."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from mdae.data import augment
from mdae.data.sampling import CropDataset, rank_batches
from mdae.data.splits import write_parts
from mdae.errors import ConfigError, TrainingError
from mdae.figures import save_png, to_pixels, volume_grid
from mdae.files import atomic_write
from mdae.networks.saved import SavedModel, manifest, save_model
from mdae.progress import Progress
from mdae.seeding import torch_generator
from mdae.training.checkpoint import load_latest, save_checkpoint
from mdae.training.config import PretrainConfig
from mdae.training.device import launch
from mdae.training.log import RunLog
from mdae.training.optimiser import MovingAverage, build_optimiser, learning_rate
from mdae.training.run import Run, micro_batch_size, open_run
from mdae.training.stopping import StopRequest
from mdae.training.window import Window

PICTURED = 3  # volumes in a picture of reconstructions

logger = logging.getLogger(__name__)


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train as configured and return the folder of the model.

    Started again with the same configuration after any interruption, it goes on from the last checkpoint and ends
    with the weights and the log of an uninterrupted run, bit for bit on a CPU.

    Raises:
        ConfigError, DataError: what cannot be carried out, before the first step.
        TrainingError: a loss that is not finite or has exploded.
        KeyboardInterrupt: after the checkpoint that a SIGINT or SIGTERM asked for.
    """
    run = open_run(config)
    trainer = Trainer(run, launch(config))
    trainer.restore()
    trainer.fit()
    return trainer.model_folder


class Trainer:
    """One process's share of a run.

    Attributes:
        step: optimiser steps made so far.
    """

    def __init__(self, run: Run, fabric: Fabric) -> None:
        config = run.config
        self.run, self.config, self.fabric = run, config, fabric
        self.micro_batch = micro_batch_size(config, fabric.world_size)
        self.raw = run.objective  # without the wrapper that synchronises gradients
        self.raw.check_batch(self.micro_batch)
        optimiser = build_optimiser(self.raw, lr=config.lr, weight_decay=config.weight_decay)
        self.objective, self.optimiser = fabric.setup(self.raw, optimiser)
        self.average = MovingAverage((p for p in self.raw.parameters() if p.requires_grad), config.ema)
        self.window = Window()
        self.step = 0

    @property
    def checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    @property
    def model_folder(self) -> Path:
        return self.config.out / "model"

    # -- resuming ---------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = load_latest(self.checkpoints, device=self.fabric.device)
        if found is None:
            return
        path, state = found
        _check_same_run(path, state["fingerprint"], self.run.fingerprint)
        self.raw.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.average = state["average"]
        self.window.restore(state["window"])
        self.step = state["step"]

    def checkpoint(self) -> None:
        """Write everything that `restore` takes up, and the model as it stands."""
        self.watch()
        if not self.fabric.is_global_zero:
            return
        state = {
            "step": self.step,
            "objective": self.raw.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.average,
            "window": self.window.state(),
            "fingerprint": self.run.fingerprint,
        }
        save_checkpoint(self.checkpoints, self.step, state)
        self.average.swap()
        self.export()
        self.average.swap()

    def export(self) -> None:
        """Write the model folder."""
        scans = self.run.scans
        provenance = {
            "steps": self.step,
            "volumes": self.step * self.config.batch,
            "seed": self.config.seed,
            "contrasts": sorted({scan.contrast for scan in scans}),
            "num_scans": len(scans),
            "subjects": manifest(scan.subject for scan in scans),
            "scans": manifest(scan.content for scan in scans),
        }
        model = SavedModel(
            network=self.raw.network,
            contract=self.run.store.contract,
            patch=self.run.patch,
            objective=self.run.describe_objective(),
            provenance=provenance,
        )
        save_model(self.model_folder, model)

    # -- training ---------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from the current step to the last."""
        config, lead = self.config, self.fabric.is_global_zero
        if self.step == config.steps:
            logger.info("%s is complete: nothing to do", config.out)
            return
        log = RunLog(config.out, self.step) if lead else None
        if lead:
            with atomic_write(config.out / "run.json") as temporary:
                temporary.write_text(json.dumps(self.run.fingerprint, indent=2) + "\n")
            write_parts(config.out / "split.csv", self.run.parts)
        batches = iter(self._loader())
        started = time.monotonic()
        with self._progress() as progress, StopRequest() as stop:
            while self.step < config.steps:
                self._train_step(batches)
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    row = self._drain()
                    seconds, started = time.monotonic() - started, time.monotonic()
                    rate = row.pop("volumes") / seconds
                    progress.update(self.step, f"{rate:.1f} volumes/s · loss {row['loss']:.4f}")
                    if log is not None:
                        log.row("train", self.step, row)
                if config.val_every and (self.step % config.val_every == 0 or last):
                    self._validate(log)
                if config.picture_every and (self.step % config.picture_every == 0 or last):
                    self._picture(log)
                stopped = self._any_rank(stop.requested)
                if self.step % config.checkpoint_every == 0 or last or stopped:
                    self.checkpoint()
                if stopped and not last:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}; the same command goes on from there"
                    )
        if log is not None:
            log.close()

    def _progress(self) -> Progress:
        shown = self.fabric.is_global_zero
        return Progress("pre-training", self.config.steps, done=self.step, unit=None, shown=shown)

    def _loader(self) -> DataLoader[Any]:
        """Micro-batches of (crops in float16, sample numbers, scan names) from the current step on."""
        workers = self.config.workers
        on_cpu = self.fabric.device.type == "cpu"
        if workers < 0:
            workers = 0 if on_cpu else 8
        samples = rank_batches(
            self.step,
            self.config.steps,
            batch=self.config.batch,
            micro_batch=self.micro_batch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        crops = CropDataset(
            self.run.store,
            self.run.train,
            margin=augment.margin(self.config.augment, self.run.patch, self.run.store.contract.spacing_mm),
            min_foreground=self.config.min_foreground,
        )
        return DataLoader(
            crops,  # type: ignore[arg-type]  # a map is all it needs
            batch_sampler=samples,  # type: ignore[arg-type]  # any iterable of lists
            num_workers=workers,
            pin_memory=not on_cpu,
        )

    def _train_step(self, batches: Any) -> None:
        """One optimiser step over this rank's micro-batches."""
        config = self.config
        rate = learning_rate(
            self.step,
            peak=config.lr,
            warmup_steps=round(config.warmup * config.steps),
            total_steps=config.steps,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        parts: list[dict[str, Tensor]] = []
        for micro in range(config.accumulate):
            crops, samples, _ = next(batches)
            clean, known = self._augmented(*self._on_device(crops), samples.tolist())
            with self.fabric.no_backward_sync(self.objective, enabled=micro + 1 < config.accumulate):
                output = self.objective(clean, self._generators("corruption", samples.tolist()), known)
                self.fabric.backward(output.loss / config.accumulate)
            parts.append({"loss": output.loss.detach(), **output.logs})
        norm = self.fabric.clip_gradients(
            self.objective, self.optimiser, max_norm=config.clip, error_if_nonfinite=False
        )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        means = {name: torch.stack([part[name] for part in parts]).nanmean() for name in parts[0]}
        assert norm is not None
        self.window.add(self.step, {**means, "grad_norm": norm, "lr": torch.tensor(rate).to(norm)})

    def _on_device(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Crops in float32 and which of their voxels are known; NaN means unknown in the store."""
        clean = crops.to(self.fabric.device, torch.float32, non_blocking=True)
        if not self.run.partly_unknown:
            return clean, None
        known = ~clean.isnan()
        return clean.masked_fill(~known, 0.0), known

    def _augmented(
        self, clean: Tensor, known: Tensor | None, samples: list[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Training crops, augmented if that is wanted."""
        options = self.config.augment
        if not options.any:
            return clean, known
        return augment.apply(
            augment.draw(options, self._generators("augmentation", samples)),
            clean,
            known,
            options=options,
            patch=self.run.patch,
            spacing_mm=self.run.store.contract.spacing_mm,
        )

    def _generators(self, purpose: str, samples: list[int]) -> list[torch.Generator]:
        device = self.fabric.device
        return [torch_generator(self.config.seed, purpose, sample, device=device) for sample in samples]

    # -- looking ----------------------------------------------------------------------------------------------

    def watch(self) -> Tensor:
        """The numbers since the last row of the log, averaged over ranks; stops the run if they diverge."""
        table = self.window.table() if self.window.rows else torch.empty(0, 0)
        if self.fabric.world_size > 1 and self.window.rows:
            gathered = self.fabric.all_gather(table)
            assert isinstance(gathered, Tensor)
            table = gathered.nanmean(dim=0)
        step = self.window.diverged(table)
        if step is not None:
            self._stop_diverged(step, table)
        return table

    def _stop_diverged(self, step: int, table: Tensor) -> None:
        row = table[self.window.steps.index(step)].tolist()
        values = ", ".join(
            f"{name} {value:.3g}" for name, value in zip(self.window.names, row, strict=True) if name != "lr"
        )
        first = (step - 1) * self.config.batch
        scans = [self.run.train(first + n).scan.scan_id for n in range(self.config.batch)]
        good = sorted(self.checkpoints.glob("step-*.pt"))
        raise TrainingError(
            f"training diverged at step {step} ({values}) on scans {', '.join(scans)}; "
            f"last good checkpoint: {good[-1] if good else 'none yet'}",
            where=self.config.out,
            mend="look at these scans, or lower --lr or --clip and give another --out",
        )

    def _drain(self) -> dict[str, float]:
        """The next row of the log."""
        volumes = len(self.window.steps) * self.config.batch
        return {**self.window.drain(self.watch()), "volumes": float(volumes)}

    def _any_rank(self, flag: bool) -> bool:
        """Whether any rank was asked to stop; asked among ranks at log steps only, for it costs a wait."""
        if self.fabric.world_size == 1:
            return flag
        if self.step % self.config.log_every:
            return False
        total = self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum")
        return bool(total > 0)  # type: ignore[operator]  # a tensor, given a tensor

    @torch.no_grad()
    def _held_out(self, samples: list[int]) -> Any:
        """The objective on held-out volumes, always with the same crops and corruptions."""
        assert self.run.validation is not None
        dataset = CropDataset(self.run.store, self.run.validation)
        crops = torch.stack([torch.from_numpy(dataset[sample][0]) for sample in samples])
        clean, known = self._on_device(crops)
        self.raw.eval()
        with self.fabric.autocast():
            output = self.raw(clean, self._generators("validation corruption", samples), known)
        self.raw.train()
        return output

    def _held_out_groups(self) -> list[list[int]]:
        """The held-out samples as they are given to the objective: one by one, where it does not compare them.

        Else as many at once as in training, or all where these are fewer, and what is left over not at all: a loss
        over more negatives is another loss.
        """
        number = self.run.num_validation
        size = min(self.micro_batch, number) if self.raw.mixes_samples else 1
        if size < self.raw.min_batch:
            return []
        return [list(range(start, start + size)) for start in range(0, number - size + 1, size)]

    def _validate(self, log: RunLog | None) -> None:
        """Mean loss and terms over the held-out volumes, dealt to the ranks one by one."""
        if self.run.validation is None:
            return
        self.average.swap()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        names = [name for name in self.window.names if name not in ("grad_norm", "lr")]
        rows = [torch.zeros(0, len(names), device=self.fabric.device)]
        for samples in self._held_out_groups()[rank::world]:
            output = self._held_out(samples)
            rows.append(torch.stack([output.loss, *output.logs.values()]).float()[None])
        self.average.swap()
        table = torch.cat(rows)
        sums = torch.stack([table.nansum(0), table.isfinite().sum(0).float()])
        if world > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        if log is not None:
            log.row("val", self.step, dict(zip(names, (sums[0] / sums[1]).tolist(), strict=True)))

    def _picture(self, log: RunLog | None) -> None:
        """What the objective shows of the first held-out volumes, as a file and in TensorBoard."""
        if self.run.validation is None or log is None:
            return
        self.average.swap()
        outputs = [self._held_out(samples) for samples in self._held_out_groups()[:PICTURED]]
        self.average.swap()
        rows = [
            {name: volume[0, 0].float().cpu().numpy() for name, volume in output.pictures.items()}
            for output in outputs
            if output.pictures
        ]
        if not rows:
            return
        figure = volume_grid(rows)
        save_png(self.config.out / "pictures" / f"step-{self.step:08d}.png", figure)
        log.picture("reconstructions", self.step, to_pixels(figure))


def _check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A checkpoint is taken up by the very run that wrote it, or not at all."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        changes = ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise ConfigError(
            f"a checkpoint of another run: {changes}",
            where=path,
            mend="repeat the first command, or give another --out",
        )
