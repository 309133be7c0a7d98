"""What the steps since the last report measured."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch


class NonFiniteError(RuntimeError):
    """A loss, a gradient or a learnt tensor that is not a number any more."""

    def __init__(self, step: int, name: str, value: float, advice: str):
        super().__init__(f"step {step}: {name} is {value}, and learning ends here. {advice}")


class Meter:
    """Means over steps; nothing is read from the device until a report is due."""

    def __init__(self, terms: Sequence[str], samples_a_step: int, advice: str):
        self._terms = tuple(terms)
        self._samples_a_step = samples_a_step
        self._advice = advice
        self._losses: list[torch.Tensor] = []  # (terms,) a step, this process's part
        self._norms: list[torch.Tensor] = []
        self._seconds = 0.0
        self._since = time.perf_counter()

    def start(self) -> None:
        """Begin to time a step."""
        self._since = time.perf_counter()

    def add(self, losses: Mapping[str, torch.Tensor], norm: torch.Tensor) -> None:
        """Take in a step's terms, of this process, and its gradient norm, of all of them."""
        row = [losses.get(term, torch.zeros_like(norm)).detach().float() for term in self._terms]
        self._losses.append(torch.stack(row))
        self._norms.append(norm)
        self._seconds += time.perf_counter() - self._since

    def read(self, step: int, total: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means up to `step` and begin anew; a number that is none is an error."""
        steps = len(self._norms)
        losses, norms = total(torch.stack(self._losses)).cpu(), torch.stack(self._norms).cpu()
        self._losses, self._norms = [], []
        columns = {**dict(zip(self._terms, losses.T, strict=True)), "gradient_norm": norms}
        self._refuse_non_finite(step - steps + 1, columns)
        means = {name: column.mean().item() for name, column in columns.items()}
        loss = losses.sum(dim=1).mean().item()
        rate = steps * self._samples_a_step / max(self._seconds, 1e-9)
        self._seconds = 0.0
        return {"loss": loss, **means, "samples_per_second": rate}

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Refuse a value that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteError(step, name, value, self._advice)

    def _refuse_non_finite(self, first: int, columns: Mapping[str, torch.Tensor]) -> None:
        rows = torch.stack(list(columns.values()), dim=1)
        for offset, row in enumerate(rows.tolist()):
            self.check(first + offset, dict(zip(columns, row, strict=True)))
