"""What looks at every run."""

from __future__ import annotations

from mdae.errors import ConfigError
from mdae.training.diagnostics import Diagnostic
from mdae.training.diagnostics.deviation import Deviation
from mdae.training.diagnostics.features import Looker
from mdae.training.diagnostics.rank import Rank
from mdae.training.run import Run


def standard(run: Run) -> list[Diagnostic]:
    """Rank and deviation of features.

    Raises:
        ConfigError: a probe is wanted as well, and that is `mdae.evaluation.online.watching`.
    """
    if run.config.probe is not None or run.config.masks is not None:
        raise ConfigError(
            "a probe is asked for, which training alone does not have",
            mend="pretrain(config, mdae.evaluation.online.watching.watching)",
        )
    return without_labels()


def without_labels() -> list[Diagnostic]:
    """What needs scans alone."""
    looker = Looker()
    return [Rank(looker), Deviation(looker)]
