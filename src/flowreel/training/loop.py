"""The one loop of every training run: the order of reports, saves, previews and steps, and how a run resumes.

A run is a pure function of its settings and data: the clips of a step, everything random about sample ``n``, the
learning rate and the average's decay all follow from the seed and the position. So a resumed run equals an
uninterrupted one, and the number of processes or accumulation steps only changes the rounding (and which samples
stochastic depth drops).
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path

from flowreel.config import LoopConfig, to_dict
from flowreel.training.logger import TrainingLogger
from flowreel.training.optim import learning_rate
from flowreel.training.signals import SignalHandler
from flowreel.training.task import Task
from flowreel.training.trainer import Trainer
from flowreel.utils.locking import held
from flowreel.utils.reporting import Report
from flowreel.utils.runtime import rank_and_world


def fit(task: Task, run: Path, config: LoopConfig, report: Report) -> Path:
    """Train until ``config.steps``, from the newest checkpoint in ``run`` if there is one. Returns ``run``.

    After SIGINT or SIGTERM the step is finished and saved, then :class:`KeyboardInterrupt` is raised. A run whose
    process was killed at any moment resumes with the same result; what was due at its last checkpoint is made first if
    it is missing. Under ``torchrun`` every process calls this, and they share each batch.

    Raises:
        InputError: the folder is not a run's or another process trains in it, the settings differ from the run's, the
            batch can't be shared evenly, a loss is not finite, or a checkpoint can't be written.
    """
    rank, _ = rank_and_world()
    with held(run, report) if rank == 0 else nullcontext():
        return _fit(task, run, config, report)


def _fit(task: Task, run: Path, config: LoopConfig, report: Report) -> Path:
    trainer = Trainer(task, run, config, report)
    start, seconds, shown = trainer.resume()
    if start >= config.steps and shown:
        trainer.report(f"{run} has {start} of {config.steps} steps already: nothing to do (raise steps to continue)")
        return run
    step, lr = start, 0.0
    logger = TrainingLogger(
        run,
        config.steps,
        start,
        seconds,
        trainer.report,
        names=task.loss_names,
        tracker=config.tracker,
        lead=trainer.lead,
        settings=to_dict(config),
        shown=shown,
    )
    with closing(trainer), SignalHandler() as stop, logger:
        while True:
            last = step >= config.steps or stop.agreed
            saved = last or step == start or step % config.save == 0
            if step > start:
                # report
                if saved or step % config.log == 0:
                    logger.row(lr, shown=last or step % config.log == 0)

                # save
                if saved:
                    trainer.save(step, logger.seconds)

            if step > start or not shown:  # a killed process may have saved a step and not shown it
                # validate
                if _due(step, config.validate, config.steps):
                    logger.validation(step, trainer.validate())
                if saved and trainer.lead:
                    logger.draw()

                # preview
                if _due(step, config.preview, config.steps):
                    trainer.preview(step)
                if saved:
                    trainer.mark_shown(step)

            # stop?
            if last:
                break

            # step
            lr = learning_rate(config.optim, step, config.steps)
            numbers = trainer.step(step, lr, stop)
            step += 1
            logger.add(step, numbers)
        trainer.agree(stop)

    if stop.agreed:
        trainer.report(
            f"stopped after step {step} of {config.steps}, saved in {run}: the same command resumes from there"
        )
        raise KeyboardInterrupt
    return run


def _due(step: int, every: int, steps: int) -> bool:
    return bool(every) and (step >= steps or step % every == 0)
