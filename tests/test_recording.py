"""A recorded UNet is the UNet: what cannot be recorded, or comes out otherwise, is not used."""

import logging
import weakref
from types import SimpleNamespace

import pytest
import torch

from detsd import compiling
from detsd.config import ConfigError, FinetuneConfig, read
from detsd.recording import MOST, Recorded, forget, record
from tests.trials import LORA, changed, last, rows, run


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, held, *tensors):
        ctx.held = held
        return held.replay(tensors)

    @staticmethod
    def backward(ctx, gradient):
        return None, *ctx.held.way_back(gradient)


class Held:
    """What a CUDA graph is to its callers: tensors that each replay writes anew, in place."""

    def __init__(self, function, examples):
        self._function = function
        self._inputs = examples
        self._output = function(*examples).detach().clone()
        self._gradients = [torch.zeros_like(one) for one in examples]

    def replay(self, tensors):
        with torch.no_grad():
            for held, tensor in zip(self._inputs, tensors, strict=True):
                held.copy_(tensor)
        with torch.enable_grad():
            self._live = self._function(*self._inputs)
        return self._output.copy_(self._live.detach()).detach()

    def way_back(self, gradient):
        wanted = [one for one in self._inputs if one.requires_grad]
        found = iter(torch.autograd.grad(self._live, wanted, gradient))
        for held, one in zip(self._gradients, self._inputs, strict=True):
            if one.requires_grad:
                held.copy_(next(found))
        pairs = zip(self._gradients, self._inputs, strict=True)
        return [held.detach() if one.requires_grad else None for held, one in pairs]


@pytest.fixture
def recordings(monkeypatch):
    """Stand in for the GPU's recorder; return the examples that something was recorded with."""
    seen = []

    def graphed(function, examples):
        seen.append(examples)
        held = Held(function, examples)
        return lambda *tensors: _Replay.apply(held, *tensors)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    return seen


def asked(count=2):
    """What training asks of a UNet that doubles what it is told."""
    torch.manual_seed(0)
    sample, states = torch.randn(count, 4), torch.randn(count, 4, requires_grad=True)
    return sample, torch.arange(count), states


def unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=None, return_dict=True):
    made = sample * encoder_hidden_states.square() + timestep[:, None]
    for one in (added_cond_kwargs or {}).values():
        made = made + one
    return SimpleNamespace(sample=made) if return_dict else (made,)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_training_ends_where_it_does_without(
    tmp_path, hparams, models, monkeypatch, family, recordings
):
    hparams["model"]["pretrained_model_name_or_path"] = str(models[family])
    hparams = changed(hparams, training__micro_batch_size=4)
    plain = run(tmp_path / "plain", hparams)
    used = lambda unet: setattr(unet, "forward", Recorded(unet.forward))  # noqa: E731
    monkeypatch.setattr(compiling, "record", used)
    other = run(tmp_path / "recorded", changed(hparams, training__compile="graph"))
    assert len(recordings) == 1  # of validation, which needs no gradients, and of samples none
    assert last(plain).name == last(other).name
    for key, wanted in rows(plain).items():
        assert torch.equal(rows(other)[key], wanted)


def test_what_needs_no_gradient_goes_the_usual_way(recordings):
    recorded = Recorded(unet)
    sample, timestep, states = asked()
    with torch.no_grad():
        recorded(sample, timestep, states)
    recorded(sample, timestep, states.detach())
    assert recorded(sample, timestep, states, return_dict=False)[0].shape == sample.shape
    assert not recordings


def test_each_replay_is_of_its_own_numbers(recordings):
    recorded = Recorded(unet)
    added = {"text_embeds": torch.ones(2, 4), "time_ids": torch.ones(2, 4)}
    for factor in (1.0, 2.0):
        sample, timestep, states = asked()
        made = recorded(sample * factor, timestep, states, added_cond_kwargs=added).sample
        made.sum().backward()
        torch.testing.assert_close(made, unet(sample * factor, timestep, states, added).sample)
        torch.testing.assert_close(states.grad, 2 * states.detach() * sample * factor)
    assert len(recordings) == 1


def test_few_shapes_are_recorded(recordings):
    recorded = Recorded(unet)
    for count in (1, 2, 3, 4, 3, 1):
        assert len(recorded(*asked(count)).sample) == count
    assert len(recordings) == MOST


@pytest.mark.parametrize("trouble", ["refused", "other numbers", "no numbers", "no gradient"])
def test_what_is_not_the_same_is_not_used(monkeypatch, caplog, trouble):
    def graphed(function, examples):
        if trouble == "refused":
            raise RuntimeError("operation not permitted when stream is capturing")
        wrong = {"other numbers": 1.1, "no numbers": float("nan"), "no gradient": 1.0}[trouble]
        if trouble == "no gradient":
            return lambda *tensors: function(*tensors).detach() + 0 * tensors[2]
        return lambda *tensors: function(*tensors) * wrong

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    recorded = Recorded(unet)
    sample, timestep, states = asked()
    for _ in range(2):
        states.grad = None
        made = recorded(sample, timestep, states).sample
        made.sum().backward()
    assert torch.equal(made, unet(sample, timestep, states).sample)
    torch.testing.assert_close(states.grad, 2 * states.detach() * sample)
    assert caplog.text.count("the usual way") == 1


def test_where_it_does_not_fit_smaller_pieces_are_tried(monkeypatch):
    def graphed(function, examples):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    with pytest.raises(torch.OutOfMemoryError):
        Recorded(unet)(*asked())
    one = asked(1)
    assert torch.equal(Recorded(unet)(*one).sample, unet(*one).sample)  # there are none smaller


def test_what_is_forgotten_is_gone_and_recorded_anew(recordings):
    recorded = Recorded(unet)
    recorded(*asked())
    model = SimpleNamespace(forward=recorded)
    held = weakref.ref(recordings[0][0])
    recordings.clear()
    forget(model)
    assert held() is None
    recorded(*asked(1))
    assert len(recordings) == 1
    forget(SimpleNamespace(forward=unet))  # which was not recorded at all


def test_a_recording_that_is_not_used_holds_no_memory(monkeypatch):
    held = []

    def graphed(function, examples):
        examples[0].cycle = examples  # as a recording is in one
        held.append(weakref.ref(examples[0]))
        return lambda *tensors: function(*tensors) * 2 + 0 * examples[0].sum()

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    Recorded(unet)(*asked())
    assert held[0]() is None


def test_on_a_cpu_it_changes_nothing_and_says_so(load, caplog):
    model = load("sd1")
    with caplog.at_level(logging.WARNING):
        record(model.unet)
    assert "forward" not in vars(model.unet)
    assert "is for a GPU" in caplog.text


@pytest.mark.parametrize(
    ("method", "checkpointed"), [(LORA, False), ({"kind": "textual_inversion"}, True)]
)
def test_only_a_frozen_unet_can_be_recorded(hparams, method, checkpointed):
    hparams["method"] = method
    training = {"training__compile": "graph", "training__gradient_checkpointing": checkpointed}
    with pytest.raises(ConfigError, match="training.compile: graph"):
        read(FinetuneConfig, changed(hparams, **training))
