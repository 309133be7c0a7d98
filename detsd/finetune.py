"""The entry point of fine-tuning, and its loop."""

import logging
from pathlib import Path

import torch

from detsd import __version__
from detsd.classimages import Stopped
from detsd.config import FinetuneConfig, read
from detsd.data import read_examples
from detsd.meter import Meter
from detsd.optimization import learning_rate_at, set_learning_rate, sum_gradients
from detsd.prior import keep_latents
from detsd.recording import forget
from detsd.resume import write_state
from detsd.run import Run, prepare, target_step
from detsd.sampler import check_scheduler
from detsd.samples import Drawn, missing_samples, names_no_concept, sample_settings
from detsd.trial import Trial
from detsd.validation import conclude, validate

log = logging.getLogger(__name__)

ADVICE = (
    "The last checkpoint stands. Try a lower training.learning_rate (here {rate:g} after "
    "scale_lr), training.max_grad_norm: 1.0, or training.precision: fp32."
)


def finetune(trial: Trial) -> None:
    """Teach the trial's model its concepts."""
    config = read(FinetuneConfig, trial.hparams)
    if config.inference.prompts:
        where = "inference.other_inference_scheduler_kwargs"
        settings = sample_settings(config.inference)
        check_scheduler(settings, where, config.training.forward_process)
        log.info("samples are drawn by %s in %d steps", settings.scheduler, settings.steps)
    for prompt in names_no_concept(config.inference.prompts, config.concepts.concept_strs):
        log.info("the inference prompt %r names no concept: drawn for comparison", prompt)
    examples = read_examples(config.concepts)
    target = target_step(config.training, trial)
    with trial.restore() as checkpoint:
        if checkpoint and checkpoint.own and checkpoint.steps_completed >= target:
            log.info("%d of %d steps are done", checkpoint.steps_completed, target)
            if not missing_samples(config.sample_prompts, trial, checkpoint.steps_completed):
                log.info("nothing is left to do; for more, raise training.num_sgd_steps")
                return
        try:
            run = prepare(config, trial, examples, checkpoint)
        except Stopped:
            log.info("stopped while pictures of the class were made: the next start goes on")
            return
    train(run)


def train(run: Run) -> None:
    """Step until the target, or until asked to stop; report, then save, then maybe leave."""
    config, trial, method, optimizer = run.config, run.trial, run.method, run.optimizer
    batch_size = run.batches.batch_size

    def rate_at(first: float | None = None) -> float:
        return learning_rate_at(config, run.step, batch_size, run.target, first)

    meter = Meter(method.terms, batch_size, ADVICE.format(rate=rate_at()))
    if not begin(run, meter):
        return
    if run.stopper.done:
        log.info("ended early, at step %d: for more, raise early_stop.patience", run.step)
        return
    while run.step < run.target and not run.stopper.done:
        meter.start()
        rate = rate_at()
        set_learning_rate(optimizer, rate_at)
        losses = accumulate_gradients(run)
        norm = sum_gradients(optimizer, trial.total_of_step, config.max_grad_norm)
        optimizer.step()
        method.after_step(run.step)
        optimizer.zero_grad(set_to_none=True)
        run.step += 1
        meter.add(losses, norm)

        trial.progress(run.step, run.target)
        stopping = run.step < run.target and trial.should_stop_after_step()
        saving = due(run.step, config.checkpoint_freq, run.target)
        if saving or stopping or due(run.step, config.metric_report_freq, run.target):
            metrics = meter.read(run.step, trial.total) | method.metrics()
            metrics["peak_memory_gb"] = trial.peak_memory() / 1e9
            meter.check(run.step, metrics)
            trial.report("training", run.step, metrics | {"learning_rate": rate})
        run.reviewed = not (saving or due(run.step, run.sample_freq, run.target))
        stopping = stopping or not review(run, meter)
        if saving or stopping:
            save(run)
        if stopping:
            log.info("stopped at step %d of %d: the next start goes on", run.step, run.target)
            return
    conclude(run)


def begin(run: Run, meter: Meter) -> bool:
    """Do what comes before the first step, or what a stop has cut off; return whether to go on."""
    if run.reviewed:
        if due(run.step, run.sample_freq, run.target):
            with run.method.shown():
                run.samples.complete(run.step)
        return True
    if not review(run, meter):
        log.info("stopped at step %d of %d: the next start goes on", run.step, run.target)
        return False
    if run.step == 0:
        run.first_loss = run.loss
    else:
        save(run)  # what early stopping made of it, too
    return True


def review(run: Run, meter: Meter) -> bool:
    """Draw the samples and take the measures that are due; return whether nothing cut it short."""
    if run.reviewed:
        return True
    measuring = due(run.step, run.config.checkpoint_freq, run.target)
    drawn: Drawn | None = {}
    with run.method.shown():
        if due(run.step, run.sample_freq, run.target) or (measuring and run.critic.looks):
            drawn = run.samples.draw(run.step, may_stop=run.step < run.target)
        if drawn is None:
            return False
        metrics = validate(run, drawn) if measuring else {}
    if measuring:
        meter.check(run.step, {f"validation {name}": value for name, value in metrics.items()})
        run.trial.report("validation", run.step, metrics)
        run.stopper.see(run.step, metrics)
    run.reviewed = True
    return True


def accumulate_gradients(run: Run) -> dict[str, torch.Tensor]:
    """Take the step's micro-batches forward and backward; if they do not fit, in smaller pieces."""
    while True:
        try:
            return _accumulate(run)
        except torch.OutOfMemoryError:
            if run.batches.micro_batch_size == 1:
                raise
        # Out here the failed attempt's graph, which the error kept alive, is gone.
        run.optimizer.zero_grad(set_to_none=True)
        forget(run.model.unet)
        run.batches.halve()
        log.info("out of memory: on with micro-batches of %d", run.batches.micro_batch_size)


def _accumulate(run: Run) -> dict[str, torch.Tensor]:
    losses: dict[str, torch.Tensor] = {}
    for batch in run.batches.micro_batches(run.step, run.trial.rank, run.trial.size):
        terms = run.method.losses(run.model, batch)
        torch.stack(list(terms.values())).sum().backward()
        # Each is this batch's share of the effective batch's mean, so they add up, as gradients do.
        losses = {name: losses.get(name, 0) + term.detach() for name, term in terms.items()}
    return losses


def due(step: int, every: int, target: int) -> bool:
    """Return whether something that happens every so many steps, and at the end, happens now."""
    return step % every == 0 or step == target


def save(run: Run) -> None:
    """Keep the run as it is: what others read in export/, what only it goes on from in resume/."""
    about = {"version": __version__, "base_model": run.base_model}
    noted = {
        "base_model": run.base_model,
        "batch_size": run.batches.batch_size,
        "processes": run.trial.size,
        "first_loss": run.first_loss,
        "reviewed": run.reviewed,
        "basis": run.critic.basis,
        "references": run.critic.state(),
        "early_stop": run.stopper.state(),
    }

    def write(folder: Path) -> None:
        with run.stopper.best() as best:
            steps = run.step if best is None else best
            run.method.export(folder / "export", {**about, "steps": steps})
        write_state(
            folder,
            step=run.step,
            method=run.method,
            optimizer=run.optimizer,
            config=run.config,
            run=noted,
        )
        keep_latents(folder, run.batches.prior)

    run.trial.save(run.step, write, about)


def main() -> None:
    """Run as a process of a trial on a cluster."""
    from detsd.clustertrial import run_trial  # and with it Determined, which no other run needs

    run_trial(finetune)


if __name__ == "__main__":
    main()
