"""How `fit` shows its progress: as bars, as lines, or not at all.

The number of batches, losses and the record of each epoch enter; text leaves. Bars are
tqdm's, on stderr or in a notebook; where it is not installed, every epoch prints one
line. Invariant: what is shown never changes what is computed.
"""

from __future__ import annotations

import warnings
from typing import Any

from jitseq.runtime.history import Record, formatted

LEFT_OUT = ("epoch", "seconds")


class Silent:
    """Shows nothing."""

    def start(self, epoch: int, batches: int) -> None:
        """An epoch of so many batches begins."""

    def batch(self, loss: float) -> None:
        """One batch is done; ``loss`` is the mean of the epoch so far."""

    def end(self, record: Record) -> None:
        """The epoch is complete."""

    def close(self) -> None:
        """Nothing follows, perhaps in the middle of an epoch."""


class Lines(Silent):
    """One printed line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def end(self, record: Record) -> None:
        shown = [f"{name} {formatted(name, v)}" for name, v in _shown(record).items()]
        epoch = f"epoch {record['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
        print("  ".join([epoch, *shown, f"{record['seconds']:.2f} s"]), flush=True)


class Bars(Silent):
    """One tqdm bar for each epoch."""

    def __init__(self, epochs: int, tqdm: Any) -> None:
        self._epochs, self._tqdm = epochs, tqdm
        self._bar: Any = None

    def start(self, epoch: int, batches: int) -> None:
        label = f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}"
        self._bar = self._tqdm(total=batches, desc=label, unit="batch")

    def batch(self, loss: float) -> None:
        self._bar.set_postfix_str(f"loss={formatted('loss', loss)}", refresh=False)
        self._bar.update()

    def end(self, record: Record) -> None:
        shown = [f"{name}={formatted(name, v)}" for name, v in _shown(record).items()]
        self._bar.set_postfix_str(", ".join(shown))
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def make_progress(wanted: bool, epochs: int) -> Silent:
    """What to show; bars only where tqdm is installed."""
    if not wanted:
        return Silent()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a notebook has no widgets
            from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return Lines(epochs)
    return Bars(epochs, tqdm)


def _shown(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in LEFT_OUT}
