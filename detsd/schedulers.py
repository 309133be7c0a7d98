"""The schedulers by name: which class of diffusers each is, and with which arguments."""

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from detsd.reason import reason

# Arguments that diffusers takes at each step, and not when the scheduler is made.
OF_A_STEP = ("eta",)


class SchedulerError(ValueError):
    """A scheduler that is not known, or cannot do what it is asked for."""


class Kind(NamedTuple):
    """A scheduler that has a name here."""

    class_name: str  # diffusers takes seconds to import, and a config only asks for the name
    arguments: Mapping[str, Any]


KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
THIRD = {"solver_order": 3}
# Latents are no pixels: many of their values lie beyond -1…1.
UNCLIPPED = {"clip_sample": False}
# Without it the last step would go to no noise at all by a formula that cannot.
LOWER = {"lower_order_final": True}

SCHEDULERS = {
    "pndm": Kind("PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": Kind("DDIMScheduler", UNCLIPPED),
    "ddpm": Kind("DDPMScheduler", UNCLIPPED),
    "lms-discrete": Kind("LMSDiscreteScheduler", {}),
    "lms-karras": Kind("LMSDiscreteScheduler", KARRAS),
    "euler": Kind("EulerDiscreteScheduler", {}),
    "euler-karras": Kind("EulerDiscreteScheduler", KARRAS),
    "euler-ancestral": Kind("EulerAncestralDiscreteScheduler", {}),
    "heun": Kind("HeunDiscreteScheduler", {}),
    "heun-karras": Kind("HeunDiscreteScheduler", KARRAS),
    "dpm-2": Kind("KDPM2DiscreteScheduler", {}),
    "dpm-2-karras": Kind("KDPM2DiscreteScheduler", KARRAS),
    "dpm-2-ancestral": Kind("KDPM2AncestralDiscreteScheduler", {}),
    "dpm-2-ancestral-karras": Kind("KDPM2AncestralDiscreteScheduler", KARRAS),
    "dpm++-2m": Kind("DPMSolverMultistepScheduler", {}),
    "dpm++-2m-karras": Kind("DPMSolverMultistepScheduler", KARRAS),
    "dpm++-2m-sde": Kind("DPMSolverMultistepScheduler", SDE),
    "dpm++-2m-sde-karras": Kind("DPMSolverMultistepScheduler", SDE | KARRAS),
    "dpm++-3m": Kind("DPMSolverMultistepScheduler", THIRD),
    "dpm++-3m-karras": Kind("DPMSolverMultistepScheduler", THIRD | KARRAS),
    "dpm++-3m-sde": Kind("DPMSolverMultistepScheduler", THIRD | SDE),
    "dpm++-3m-sde-karras": Kind("DPMSolverMultistepScheduler", THIRD | SDE | KARRAS),
    "dpm++-2s": Kind("DPMSolverSinglestepScheduler", LOWER),
    "dpm++-2s-karras": Kind("DPMSolverSinglestepScheduler", LOWER | KARRAS),
    "deis": Kind("DEISMultistepScheduler", {}),
    "deis-karras": Kind("DEISMultistepScheduler", KARRAS),
    "unipc": Kind("UniPCMultistepScheduler", {}),
    "unipc-karras": Kind("UniPCMultistepScheduler", KARRAS),
    "sa-solver": Kind("SASolverScheduler", {}),
    # For models that were distilled for few steps.
    "lcm": Kind("LCMScheduler", {}),
    "tcd": Kind("TCDScheduler", {"eta": 0.3}),
}


def known_scheduler(name: str) -> str:
    """Return the name, if a scheduler has it."""
    if name not in SCHEDULERS:
        near = _nearest(name)
        meant = f"; did you mean {near}?" if near else ""
        raise SchedulerError(f"no scheduler is called {name}{meant} ({', '.join(SCHEDULERS)})")
    return name


def build(name: str, arguments: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return a new scheduler, set up as `config` says where neither its name nor the caller does.

    `config` may be another class's: what this one does not know of it is left out.
    """
    kind = _class(name)
    known = inspect.signature(kind.__init__).parameters
    inherited = {key: value for key, value in config.items() if key in known}
    own = {**inherited, **SCHEDULERS[name].arguments, **arguments}
    return kind(**{key: value for key, value in own.items() if key not in OF_A_STEP})


def step_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that each step takes."""
    own = {**SCHEDULERS[name].arguments, **arguments}
    return {key: own[key] for key in OF_A_STEP if key in own}


def draws_noise(scheduler: Any) -> bool:
    """Return whether its steps may add noise, and so take generators."""
    return "generator" in inspect.signature(scheduler.step).parameters


def check(
    name: str, arguments: Mapping[str, Any], steps: int, config: Mapping[str, Any] | None = None
) -> None:
    """Refuse what the scheduler cannot take."""
    kind = _class(known_scheduler(name))
    of_a_step = set(OF_A_STEP) & set(inspect.signature(kind.step).parameters)
    known = set(inspect.signature(kind.__init__).parameters) - {"self"} | of_a_step
    for key in sorted(set(arguments) - known):
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise SchedulerError(f"{name} has no such argument as {key}{meant}")
    try:
        build(name, arguments, config or {}).set_timesteps(steps)
    # Each scheduler refuses what it cannot use in its own way.
    except Exception as error:
        given = {**(config or {}), **arguments}
        said = f"{name} cannot take {steps} steps with {given} ({reason(error)})"
        raise SchedulerError(said) from None


def _class(name: str) -> Any:
    import diffusers

    return getattr(diffusers, SCHEDULERS[name].class_name)


def _nearest(name: str) -> str | None:
    # Other tools write "DPM++ 2M Karras" and "euler_a", and diffusers' users know the classes.
    said = re.sub(r"[\s_]+", "-", name.strip().lower())
    spellings = {kind.class_name.lower(): known for known, kind in reversed(SCHEDULERS.items())}
    spellings |= {known: known for known in SCHEDULERS}
    begun = [spelling for spelling in spellings if spelling.startswith(said)]
    near = begun or difflib.get_close_matches(said, spellings, n=1)
    return spellings[near[0]] if near else None
