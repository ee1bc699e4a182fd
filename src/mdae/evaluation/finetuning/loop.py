"""One fine-tuning: from a probe of frozen features to the epoch with the best validation part."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdae.data import augment
from mdae.data.preprocess import UNKNOWN
from mdae.devices import uses_bf16
from mdae.errors import TrainingError
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.finetuning.inputs import Inputs
from mdae.evaluation.finetuning.labels import Labels
from mdae.evaluation.finetuning.model import FinetuneModel, layerwise, runs
from mdae.evaluation.probing.multiclass import lines_of
from mdae.interop.backbone import Backbone
from mdae.seeding import numpy_generator, torch_generator
from mdae.training.optimiser import learning_rate

CLIP = 1.0  # of the gradient's norm: one odd scan among few must not undo the others
AHEAD = 2  # batches that are read while one is computed


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: from 1; 0 is the probe that fine-tuning starts from.
        train_loss: mean over the scans as they were drawn and augmented; of epoch 0, over the training part.
        val_loss: mean over the validation part, classes weighing the same if they are drawn so.
        val_quality: AUROC (of several classes, the mean of each against the rest), or minus the mean absolute error of
            the standardised label.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_quality: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better; the loss decides between epochs that order few validation subjects alike."""
        return self.val_quality, -self.val_loss


class Finetuner:
    """A network in training, the rows that it learns from, and those that it is watched on.

    Args:
        backbone: becomes part of the model, on `device`.
        inputs: of N rows.
        labels: (N,).
        train, val: numbers of rows; no other row's input or label is looked at.
        learned: what the labels are to a network, of the train rows.
        options: how.
        device: where.
        seed: of order, augmentation and dropout.
    """

    def __init__(
        self,
        backbone: Backbone,
        inputs: Inputs,
        labels: np.ndarray,
        train: np.ndarray,
        val: np.ndarray,
        *,
        learned: Labels,
        options: FinetuneOptions,
        device: torch.device,
        seed: int,
    ) -> None:
        self.backbone, self.inputs, self.options, self.seed = backbone, inputs, options, seed
        self.train, self.val, self.learned, self.device = train, val, learned, device
        self.targets = learned.targets(labels)
        outputs = len(learned.offset)
        self.model = FinetuneModel(backbone, inputs.shape[1], outputs, options.fusion, options.at_once).to(
            device
        )
        self.optimiser = torch.optim.AdamW(
            layerwise(self.model.network, self.model.head, options), lr=options.lr, fused=True
        )
        self.micro_batch = max(1, options.at_once // self.model.volumes_each)
        self.steps_each = len(self._batches(1))  # as many as of any epoch
        self.bf16 = uses_bf16(device, options.precision)

    def fit(self, on_epoch: Callable[[Epoch], None] | None = None) -> tuple[list[Epoch], int]:
        """Train, and leave the weights of the best epoch in the model.

        Returns:
            All epochs, and the number of the best one.

        Raises:
            TrainingError: a loss or an output that is not finite.
        """
        epochs = [self._start()]
        best = epochs[0]
        weights = self._weights()
        while (
            epochs[-1].epoch < self.options.epochs and epochs[-1].epoch - best.epoch < self.options.patience
        ):
            epochs.append(self._epoch(epochs[-1].epoch + 1))
            if epochs[-1].rank > best.rank:
                best, weights = epochs[-1], self._weights()
            if on_epoch is not None:
                on_epoch(epochs[-1])
        self.model.load_state_dict(weights)
        return epochs, best.epoch

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _start(self) -> Epoch:
        """Fit the probe that does best on the validation part, and let the head be it."""
        train, val = (self._features(rows) for rows in (self.train, self.val))
        y, watched = self.targets[self.train], self.targets[self.val]
        protocol = self.learned.probe
        probes = [protocol.fit(train, y, candidate) for candidate in protocol.candidates]
        best = max(probes, key=lambda probe: protocol.quality(watched, probe(val)))
        self.model.start_from(lines_of(best), train, self.learned.offset)
        with torch.no_grad():
            outputs = self.model.outputs(torch.from_numpy(train).to(self.device, torch.float32))
        return self._watched(0, float(self._losses(outputs, self.train).mean()))

    # -- training -------------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> Epoch:
        """Train on as many rows as the training part has."""
        batches, losses = self._batches(epoch), []
        for number, (batch, x) in enumerate(self._read(batches)):
            self._set_rates((epoch - 1) * self.steps_each + number)
            losses.append(self._step(epoch, number * self.options.batch, batch, x))
        means = torch.stack(losses).cpu().double().numpy()  # the device was not waited for until here
        if not np.isfinite(means).all():
            first = int(np.flatnonzero(~np.isfinite(means))[0])
            raise self._diverged(f"the loss of step {first + 1} of epoch {epoch} is not finite")
        sizes = [len(batch) for batch in batches]
        return self._watched(epoch, float(np.average(means, weights=sizes)))

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of an epoch, a batch a step."""
        rows = self.learned.draw(self.targets, self.train, numpy_generator(self.seed, "order", epoch))
        return [rows[some] for some in runs(len(rows), self.options.batch)]

    def _set_rates(self, step: int) -> None:
        total = self.options.epochs * self.steps_each
        warmup = round(self.options.warmup * total)
        share = learning_rate(step, peak=1.0, warmup_steps=warmup, total_steps=total)
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]

    def _step(self, epoch: int, first: int, rows: np.ndarray, x: Tensor) -> Tensor:
        """One optimiser step, a micro-batch after the other; the mean loss, on the device.

        Args:
            epoch, first: of which draw the first row is, for its random numbers.
            rows, x: the batch (B, K, D, H, W).
        """
        total = torch.zeros((), device=self.device)
        for some in runs(len(rows), self.micro_batch):
            draws = range(first + some.start, first + some.stop)
            with torch.no_grad() if epoch <= self.options.freeze else nullcontext():
                features = self._encode(self._augmented(x[some], epoch, draws))
            outputs = self.model.outputs(features, self._dropout(epoch, draws))
            loss = self._losses(outputs, rows[some]).sum() / len(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return total

    def _augmented(self, x: Tensor, epoch: int, draws: range) -> Tensor:
        options = self.options.augment
        if not options.any:
            return x
        drawn = augment.draw(options, self._generators("augmentation", epoch, draws))
        how = {"options": options, "patch": self.backbone.patch, "spacing_mm": self.backbone.spacing_mm}
        turned, _ = augment.apply(drawn, x, None, **how)  # type: ignore[arg-type]
        return turned.masked_fill(augment.lacking(x), UNKNOWN)

    def _dropout(self, epoch: int, draws: range) -> Tensor | None:
        p = self.options.dropout
        if not p:
            return None
        size = self.model.num_features
        noise = [
            torch.rand(size, generator=generator, device=self.device)
            for generator in self._generators("dropout", epoch, draws)
        ]
        return (torch.stack(noise) >= p) / (1 - p)

    def _generators(self, purpose: str, epoch: int, draws: range) -> list[torch.Generator]:
        """One for each draw of an epoch, so that micro-batches change nothing."""
        return [torch_generator(self.seed, purpose, epoch, draw, device=self.device) for draw in draws]

    # -- looking --------------------------------------------------------------------------------------------------

    def _watched(self, epoch: int, train_loss: float) -> Epoch:
        """The epoch with its validation figures."""
        y, outputs = self.targets[self.val], self.outputs(self.val)
        losses = self._losses(torch.from_numpy(outputs).to(self.device), self.val).cpu().numpy()
        val_loss = float(np.average(losses, weights=self.learned.weights(y)))
        return Epoch(epoch, train_loss, val_loss, self.learned.quality(y, outputs))

    @torch.no_grad()
    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """The model's numbers, (R,) or (R, O), of unaugmented rows, float64; raises `TrainingError` if not finite."""
        batches = [rows[some] for some in runs(len(rows), self.micro_batch)]
        found = [self.model.outputs(self._encode(x)) for _, x in self._read(batches)]
        return self._finite(torch.cat(found), rows, "output")

    @torch.no_grad()
    def _features(self, rows: np.ndarray) -> np.ndarray:
        batches = [rows[some] for some in runs(len(rows), self.micro_batch)]
        return self._finite(torch.cat([self._encode(x) for _, x in self._read(batches)]), rows, "features")

    def _encode(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.features(x)

    def _losses(self, outputs: Tensor, rows: np.ndarray) -> Tensor:
        return self.learned.losses(outputs, self.targets[rows])

    def _finite(self, values: Tensor, rows: np.ndarray, what: str) -> np.ndarray:
        found = values.cpu().double().numpy()
        fit = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        if not fit.all():
            raise self._diverged(f"the {what} of subject number {rows[~fit][0] + 1} is not finite")
        return found

    def _diverged(self, what: str) -> TrainingError:
        rates = f"--finetune.lr {self.options.lr:g} and --finetune.head-lr {self.options.head_lr:g}"
        mend = f"lower {rates}, or use --finetune.precision 32"
        return TrainingError(what, where=self.backbone.name, mend=mend)

    def _read(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Batches of rows with their volumes (B, K, D, H, W), float32 on the device; the next are read meanwhile."""

        def load(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(np.stack([self.inputs[int(row)] for row in rows]))

        waiting: deque[tuple[np.ndarray, Future[Tensor]]] = deque()
        todo = iter(batches)
        with ThreadPoolExecutor(1) as pool:
            while True:
                while len(waiting) <= AHEAD and (rows := next(todo, None)) is not None:
                    waiting.append((rows, pool.submit(load, rows)))
                if not waiting:
                    return
                rows, volumes = waiting.popleft()
                yield rows, volumes.result().to(self.device, torch.float32)
