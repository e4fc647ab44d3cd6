"""Checkpoints of a live run: every student saves its state of one step, and then the first writes the shared state.

A student at a checkpoint waits for the others, so that no student is ever beyond a checkpoint that the run may have to return
to. This costs no time overall, because the run lasts as long as its slowest student.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from raydfkd.distillation.distiller import Distiller
from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import checkpoints
from raydfkd.pipeline.run.messages import NotYet
from raydfkd.run_dir import RunDir

POLL_S = 0.1

Meet = Callable[[str, int], NotYet | None]
"""Reports that a student has reached the checkpoint of a step; returns None once all have. May block for seconds."""


class CheckpointMeeting:
    """One student's part in every checkpoint; on its first worker.

    Args:
        config: the experiment.
        run: the run directory.
        student: the student's name.
        meet: see its type.
        save_shared: writes generators and buffer to a checkpoint folder.
        while_waiting: called periodically while waiting for the others.
        clock: in seconds.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunDir,
        student: str,
        meet: Meet,
        save_shared: Callable[[Path], None],
        while_waiting: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._student = run, student
        self._label = config.label_of(student)
        self._leads = student == config.student_name
        self._timeout_s = config.runtime.wait_timeout_s
        self._meet, self._save_shared, self._while_waiting = meet, save_shared, while_waiting
        self._clock = clock

    def save(self, step: int, distiller: Distiller) -> float:
        """Returns, once the checkpoint of ``step`` is complete, the seconds spent waiting for the other students.

        Raises:
            WaitTimeoutError: no progress for ``runtime.wait_timeout_s``.
        """
        if self._is_whole(step):
            return 0.0  # Already complete, with the state that this student saved before it was restarted.
        checkpoints.save_student(checkpoints.folder_of(self._run, step), self._student, distiller)
        came = moved = self._clock()
        reason, waited_s = "", 0.0
        while not self._is_whole(step):
            answer = self._meet(self._student, step)
            waited_s = waited_s or (self._clock() - came if answer is None else 0.0)
            if answer is None and self._leads:
                with checkpoints.writing(self._run, step) as folder:
                    self._save_shared(folder)
                return waited_s
            told = f"the checkpoint of step {step} to be written" if answer is None else answer.reason
            if told != reason:
                moved, reason = self._clock(), told
            if self._clock() - moved > self._timeout_s:
                raise WaitTimeoutError(f"{self._label} waited {self._timeout_s:.0f} s for {reason}")
            if answer is None:
                time.sleep(POLL_S)
            else:
                self._while_waiting()
        return waited_s or self._clock() - came

    def _is_whole(self, step: int) -> bool:
        newest = self._run.latest_checkpoint()
        return newest is not None and newest.name >= checkpoints.folder_of(self._run, step).name
