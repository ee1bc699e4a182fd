"""What every objective must do: functions of its name, which any test may call on an objective of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.encoder import Encoder
from mdae.networks import PRESETS, NetworkSpec
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.networks.unet import UNetConfig
from mdae.objectives import OBJECTIVES, Objective, StepOutput, build_objective, objective_config
from mdae.objectives.registry import describe
from mdae.objectives.settings import as_text, flatten, rebuilt, setting_types
from mdae.seeding import torch_generator
from mdae.training.loop import Trainer, pretrain
from tests.conftest import short_run

NETWORK = UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8)  # sides are multiples of 4
UNET = replace(PRESETS["tiny"], config=NETWORK, patch=(16, 16, 16))
SHAPES = ((16, 16, 16), (12, 20, 16), (32, 8, 16))
DOCS = Path(__file__).parent.parent.parent / "docs" / "objectives.md"


@dataclass(frozen=True)
class Case:
    """An objective under test, with settings that suit volumes of sixteen voxels where the published ones do not.

    `network` is a preset to train, of a stride of 4; a small U-Net if left out.
    """

    name: str
    changes: dict[str, str] = field(default_factory=dict)
    network: str = ""

    @property
    def spec(self) -> NetworkSpec:
        return PRESETS[self.network] if self.network else UNET

    def build(self, seed: int = 0) -> Objective:
        """On a small network, every trainable weight moved away from its start, where many gradients are zero."""
        network = self.spec.new(torch_generator(seed, "weights"))
        generator = torch_generator(seed, "heads")
        objective = build_objective(self.name, network, changes=self.changes, generator=generator)
        with torch.no_grad():
            for index, parameter in enumerate(p for p in objective.parameters() if p.requires_grad):
                jitter = torch.randn(parameter.shape, generator=torch_generator(seed, "jitter", index))
                parameter.add_(0.1 * jitter)
        return objective

    def batch(self) -> int:
        """Samples enough for it, and two at least."""
        return max(2, self.build().min_batch)


def volumes(number: int, shape: tuple[int, int, int] = SHAPES[0], seed: int = 0) -> torch.Tensor:
    """A smooth head on a flat background, with texture, (B, 1, D, H, W)."""
    axes = [torch.linspace(-1, 1, side) for side in shape]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    rows = []
    for index in range(number):
        texture = torch.randn(shape, generator=torch_generator(seed, "volumes", index))
        rows.append(torch.where(distance < 0.9, 1 - distance + 0.7 * texture, -1.5))
    return torch.stack(rows)[:, None]


def generators(number: int, seed: int = 0, first: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "contract", first + index) for index in range(number)]


def step(
    objective: Objective, clean: torch.Tensor, known: torch.Tensor | None = None, seed: int = 0
) -> tuple[StepOutput, dict[str, torch.Tensor]]:
    """One step and the gradient of everything that has one."""
    objective.zero_grad(set_to_none=True)
    output = objective(clean, generators(len(clean), seed), known)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal bit for bit."""
    assert one.keys() == other.keys() and one
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def trainable(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


# -- what is checked ----------------------------------------------------------------------------------------------


def check_loss_and_gradients_are_finite(case: Case) -> None:
    """For every shape and batch; what is trained has a gradient, always, and what is frozen has none."""
    objective = case.build()
    for shape in SHAPES:
        for batch in (1, 2, 3):
            clean = volumes(batch, shape)
            if batch < objective.min_batch:
                with pytest.raises(ConfigError, match="--batch") as caught:
                    objective(clean, generators(batch))
                assert "\n" not in str(caught.value)
                continue
            output, gradients = step(objective, clean)
            assert output.loss.shape == () and output.loss.isfinite(), (shape, batch)
            assert gradients.keys() == trainable(objective)
            assert all(gradient.isfinite().all() for gradient in gradients.values()), (shape, batch)


def check_every_weight_of_the_encoder_learns(case: Case) -> None:
    """A gradient reaches each that the network itself does not freeze."""
    objective = case.build()
    weights = trainable(objective.network.encoder)
    assert weights == trainable(case.spec.new().encoder)
    _, gradients = step(
        objective, volumes(max(3, objective.min_batch), (32, 32, 32))
    )  # several blocks of a mask
    silent = [name for name in weights if not gradients[f"network.encoder.{name}"].any()]
    assert not silent


def check_follows_from_its_generators(case: Case) -> None:
    """Bit for bit, from them alone, and from them indeed."""
    objective, batch = case.build(), case.batch()
    state = torch.get_rng_state()
    one, gradients = step(objective, volumes(batch))
    fresh = case.build()
    torch.manual_seed(7)  # must not matter
    other, again = step(fresh, volumes(batch))
    assert torch.equal(one.loss, other.loss)
    assert_same(gradients, again)
    torch.set_rng_state(state)
    step(objective, volumes(batch))
    assert torch.equal(state, torch.get_rng_state()), "it drew from the global generator"
    assert any(
        not torch.equal(step(case.build(), volumes(batch), seed=s)[0].loss, one.loss) for s in (1, 2, 3)
    )


def check_initial_weights_follow_from_the_generator(case: Case) -> None:
    assert_same(dict(case.build(1).state_dict()), dict(case.build(1).state_dict()))
    one, other = case.build(1).state_dict(), case.build(2).state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def check_changes_nothing_it_is_given(case: Case) -> None:
    objective, clean = case.build(), volumes(case.batch())
    known = torch.ones_like(clean, dtype=torch.bool)
    known[:, :, :3] = False
    kept, kept_known = clean.clone(), known.clone()
    step(objective, clean, known)
    assert torch.equal(clean, kept) and torch.equal(known, kept_known)


def check_logs_are_detached_scalars(case: Case) -> None:
    """The same names in training, in validation and with unknown voxels."""
    objective, clean = case.build(), volumes(case.batch())
    names = None
    for training in (True, False):
        for known in (None, torch.ones_like(clean, dtype=torch.bool)):
            objective.train(training)
            logs = objective(clean, generators(len(clean)), known).logs
            assert all(value.shape == () and not value.requires_grad for value in logs.values())
            assert not {"loss", "grad_norm", "lr"} & logs.keys()
            assert names in (None, list(logs))
            names = list(logs)


def check_pictures_are_volumes(case: Case) -> None:
    """None in training; in evaluation detached, finite volumes of the batch, or none."""
    objective, clean = case.build(), volumes(case.batch())
    assert objective(clean, generators(len(clean))).pictures == {}
    objective.eval()
    for name, picture in objective(clean, generators(len(clean))).pictures.items():
        assert picture.dim() == 5 and len(picture) == len(clean), name
        assert not picture.requires_grad and picture.isfinite().all(), name


def check_unknown_voxels_teach_nothing(case: Case) -> None:
    """What stands in them changes neither loss nor gradient; all known is as if nothing were said."""
    shape = SHAPES[1]
    clean = volumes(case.batch(), shape)
    known = torch.ones(len(clean), 1, *shape, dtype=torch.bool)
    plain, told = step(case.build(), clean)[0], step(case.build(), clean, known)[0]
    torch.testing.assert_close(plain.loss, told.loss, rtol=1e-5, atol=1e-7)
    known[:, :, 3:7, 5:, :9] = False
    known[0, :, -4:] = False
    one, gradients = step(case.build(), torch.where(known, clean, 0.0), known)
    other, again = step(case.build(), torch.where(known, clean, 9.0), known)
    assert torch.equal(one.loss, other.loss) and one.loss.isfinite()
    assert_same(gradients, again)


def check_no_sample_leaks_into_another(case: Case) -> None:
    """A batch is the mean of its samples, where the method says so."""
    if case.build().mixes_samples:
        return
    clean = volumes(3, SHAPES[1])
    together = case.build()(clean, generators(3)).loss
    alone = [case.build()(clean[i : i + 1], generators(1, first=i)).loss for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-5, atol=1e-7)


def check_bf16_is_close(case: Case) -> None:
    clean = volumes(case.batch())
    exact, _ = step(case.build(), clean)
    with torch.autocast("cpu", torch.bfloat16):
        output = (rough := case.build())(clean, generators(len(clean)))
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, exact.loss, rtol=0.1, atol=0.02)
    for name, parameter in rough.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # Not all: of maps of a few voxels oneDNN's bf16 kernel (torch 2.13) now and then reads what nobody wrote.
            assert parameter.grad.isfinite().double().mean() > 0.9, name


def check_encoder_exports_and_folds(case: Case, folder: Path) -> None:
    """After a step of training the model is saved, loaded, folded, and embeds."""
    objective = case.build()
    step(objective, volumes(case.batch()))
    torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1e-3).step()
    record = describe(case.name, objective_config(case.name, changes=case.changes))
    save_model(folder, SavedModel(objective.network, Preprocessing(), SHAPES[0], record))
    model = load_model(folder)
    features = Encoder(model).embed_volume(volumes(1)[0, 0].numpy(), -1.5)
    assert features.shape == (sum(model.network.widths),) and np.isfinite(features).all() and features.any()
    t = torch.zeros(1)
    folded, conditioned = model.network.at(0.0).encoder(volumes(1)), model.network.stages(volumes(1), t)
    for one, other in zip(folded, conditioned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def check_settings_are_recorded_and_rebuilt(case: Case) -> None:
    settings = objective_config(case.name, changes=case.changes)
    record = json.loads(json.dumps(describe(case.name, settings)))
    assert record.pop("name") == case.name
    assert rebuilt(type(settings), record) == settings
    assert list(flatten(settings)) == list(setting_types(type(settings)))
    texts = {path: as_text(value) for path, value in flatten(settings).items()}
    for path in OBJECTIVES[case.name].fixed:
        del texts[path]
    assert objective_config(case.name, changes=texts) == settings, "every setting can be given as text"


def check_resumes_exactly(case: Case, store: Path, folder: Path) -> None:
    """Broken off between two checkpoints and started again, a run ends as an undisturbed one, heads and log too."""
    settings = tuple(f"{name}={value}" for name, value in case.changes.items())
    changes = {"objective": case.name, "settings": settings, "batch": case.batch()}
    changes |= {"network": case.network} if case.network else {}
    changes |= {"steps": 4, "checkpoint_every": 2, "log_every": 1, "val_every": 3, "picture_every": 4}
    whole, broken = (short_run(store, folder / name, **changes) for name in ("whole", "broken"))
    pretrain(whole)
    with _broken_off_before(step=4), pytest.raises(_BrokenOffError):
        pretrain(broken)
    pretrain(broken)
    one, other = (
        torch.load(run.out / "checkpoints" / "step-00000004.pt", weights_only=True) for run in (whole, broken)
    )
    assert_same(one["objective"], other["objective"])
    for log in ("train.csv", "val.csv"):
        assert (whole.out / log).read_text() == (broken.out / log).read_text()


class _BrokenOffError(Exception):
    """Stands for a power cut."""


@contextmanager
def _broken_off_before(step: int) -> Iterator[None]:
    original = Trainer._train_step

    def breaking(self: Trainer, batches: object) -> None:
        if self.step + 1 == step:
            raise _BrokenOffError
        original(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", breaking)
        yield


def check_documented(case: Case) -> None:
    """A row in docs/objectives.md, with paper, what it learns from, the published settings, and what is scaled down."""
    (row,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{case.name}` |")]
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    assert len(cells) == 5 and all(cells), row


QUICK: Sequence[Callable[[Case], None]] = (
    check_loss_and_gradients_are_finite,
    check_every_weight_of_the_encoder_learns,
    check_follows_from_its_generators,
    check_initial_weights_follow_from_the_generator,
    check_changes_nothing_it_is_given,
    check_logs_are_detached_scalars,
    check_pictures_are_volumes,
    check_unknown_voxels_teach_nothing,
    check_no_sample_leaks_into_another,
    check_bf16_is_close,
    check_settings_are_recorded_and_rebuilt,
)


def losses_of_training(
    objective: Objective, clean: torch.Tensor, draws: Callable[[int], list[torch.Generator]], steps: int
) -> list[float]:
    """The losses of so many steps of Adam on one batch, each with the generators that `draws` makes anew."""
    optimiser = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = objective(clean, draws(len(clean))).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
