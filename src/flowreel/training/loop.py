"""The one loop of every training run, of a flow, a codec or a vocoder.

Knows: the order in which a run reports, saves, previews, stops and steps; how it resumes; how processes share it.
Does not know: what is trained on what: that is a task (``train.py``, ``train_codec.py``, ``train_vocoder.py``);
nor how a step or a checkpoint is made (``session.py``).

A run is a pure function of its settings and data: the clips of a step, everything random about sample ``n``, the
learning rate and the average's decay all follow from the seed and the position. So a resumed run equals one that was
never stopped, and processes or accumulation steps only change the rounding (and which samples stochastic depth hits).
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path

from flowreel.config import LoopConfig, to_dict
from flowreel.training.logger import Journal
from flowreel.training.optim import learning_rate
from flowreel.training.signals import Stop
from flowreel.training.task import Task
from flowreel.training.trainer import Session
from flowreel.utils.locking import held
from flowreel.utils.reporting import Report
from flowreel.utils.runtime import rank_and_world


def fit(task: Task, run: Path, config: LoopConfig, report: Report) -> Path:
    """Train until ``config.steps``, from the newest checkpoint in ``run`` if there is one. Returns ``run``.

    SIGINT and SIGTERM finish the step and save, then :class:`KeyboardInterrupt` is raised. A process that was killed at
    any moment is gone on from as if it had not been: also what was due at its last checkpoint is made, if it is not.
    Under ``torchrun`` every process calls this, and they share each batch.

    Raises :class:`InputError` for a folder that is not a run's or that another process trains in, settings that differ
    from the run's, a batch that can't be shared evenly, a loss that is not finite, and a checkpoint that can't be
    written.
    """
    rank, _ = rank_and_world()
    with held(run, report) if rank == 0 else nullcontext():
        return _fit(task, run, config, report)


def _fit(task: Task, run: Path, config: LoopConfig, report: Report) -> Path:
    session = Session(task, run, config, report)
    start, seconds, shown = session.resume()
    if start >= config.steps and shown:
        session.report(f"{run} has {start} of {config.steps} steps already: nothing to do (raise steps to go on)")
        return run
    step, lr = start, 0.0
    settings = to_dict(config)
    journal = Journal(run, config.steps, start, seconds, session.report, config.tracker, session.lead, settings, shown)
    with closing(session), Stop() as stop, journal:
        while True:
            last = step >= config.steps or stop.agreed
            saved = last or step == start or step % config.save == 0
            if step > start:
                # report
                if saved or step % config.log == 0:
                    journal.row(lr, shown=last or step % config.log == 0)

                # save
                if saved:
                    session.save(step, journal.seconds)

            if step > start or not shown:  # a process that was killed may have saved a step and shown nothing of it
                # validate
                if _due(step, config.validate, config.steps):
                    journal.validation(step, session.validate())
                if saved and session.lead:
                    journal.draw()

                # preview
                if _due(step, config.preview, config.steps):
                    session.preview(step)
                if saved:
                    session.mark_shown(step)

            # stop?
            if last:
                break

            # step
            lr = learning_rate(config.optim, step, config.steps)
            numbers = session.step(step, lr, stop)
            step += 1
            journal.add(step, numbers)
        session.agree(stop)

    if stop.agreed:
        session.report(
            f"stopped after step {step} of {config.steps}, saved in {run}: the same command goes on from there"
        )
        raise KeyboardInterrupt
    return run


def _due(step: int, every: int, steps: int) -> bool:
    return bool(every) and (step >= steps or step % every == 0)
