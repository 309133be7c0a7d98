"""When a run ends before its last step, and which of its states was the best."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from detsd.config import EarlyStopConfig
from detsd.methods import Method

log = logging.getLogger(__name__)


class Stopper(Protocol):
    """What the loop knows of it."""

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in what a checkpoint measured."""

    @property
    def done(self) -> bool:
        """Whether it is time to end."""

    def best(self) -> Any:
        """Return a context in which the method is as it was at its best; it yields that step."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""


class Never:
    """Without a rule a run goes on to its last step, and its last state is the best."""

    done = False

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    @contextmanager
    def best(self) -> Iterator[int | None]:
        """Leave the method as it is."""
        yield None

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class EarlyStop:
    """Ends a run whose metric was no better for `patience` checkpoints."""

    def __init__(
        self, config: EarlyStopConfig, method: Method, state: Mapping[str, Any], basis: str
    ):
        self._config = config
        self._method = method
        # A value of the loss means the same whatever the samples are scored by.
        self._measure = f"{config.metric} {'' if config.metric == 'loss' else basis}"
        same = state.get("measure") == self._measure and _fits(state["method"], method)
        if state and not same:
            log.warning("what early_stop saw up to the checkpoint does not compare: it starts anew")
        self._value: float | None = state["value"] if same else None
        self._step: int | None = state["step"] if same else None
        self._method_then: dict[str, Any] | None = state["method"] if same else None
        self._waited: int = state["waited"] if same else 0

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in what a checkpoint measured."""
        value = metrics[self._config.metric]
        if self._is_better(value):
            self._value, self._step, self._waited = value, step, 0
            self._method_then = self._method.state_dict()
            return
        self._waited += 1
        if self.done:
            log.info(
                "step %d: %s was no better for %d checkpoints: the run ends; its best was %.4f at "
                "step %s, and that is what export/ holds",
                *(step, self._config.metric, self._waited, self._value, self._step),
            )

    @property
    def done(self) -> bool:
        """Whether patience is at its end."""
        return self._waited >= self._config.patience

    @contextmanager
    def best(self) -> Iterator[int | None]:
        """Give the method its best state for as long as the context lasts; yield that step."""
        if self._method_then is None:
            yield None
            return
        now = self._method.state_dict()
        self._method.load_state_dict(self._method_then)
        try:
            yield self._step
        finally:
            self._method.load_state_dict(now)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "measure": self._measure,
            "value": self._value,
            "step": self._step,
            "waited": self._waited,
            "method": self._method_then,
        }

    def _is_better(self, value: float) -> bool:
        if self._value is None:
            return math.isfinite(value)
        less = value < self._value
        return less if self._config.smaller_is_better else value > self._value


def early_stop(
    config: EarlyStopConfig | None, method: Method, state: Mapping[str, Any], basis: str
) -> Stopper:
    """Return the rule that the config has; `basis` is what scores are measured by."""
    return EarlyStop(config, method, state, basis) if config else Never()


def _fits(then: Mapping[str, Any] | None, method: Method) -> bool:
    return then is None or _shapes(then) == _shapes(method.state_dict())


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.shape for name, value in state.items()}
