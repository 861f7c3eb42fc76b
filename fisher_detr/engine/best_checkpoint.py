"""The best model of a training by one of its metrics."""

import difflib
import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from detectron2.engine import HookBase

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.engine.hooks import unwrapped

logger = logging.getLogger(__name__)

FILE_NAME = "model_best"


class BestCheckpointHook(HookBase):
    """Saves the model as `model_best.pth` whenever a metric, of which more is better, has a new maximum.

    The file holds the weights, the metric and the iteration, and a resumed run goes on from the value in it:
    value and weights cannot disagree, wherever a run is killed. `last_checkpoint` stays as it is.

    Register it behind the hooks that evaluate, in the main process only.
    """

    def __init__(
        self,
        metric: str,
        period: int,
        output_dir: str,
        weights: Callable[[], AbstractContextManager] = nullcontext,
    ):
        """Build.

        Args:
            metric: its name in the event storage, such as "bbox/AP".
            period: iterations between two evaluations; 0: there is one only, at the end.
            output_dir: where the model is saved.
            weights: inside what it gives the model has the weights that were evaluated.
        """
        self.metric = metric
        self.best = -math.inf
        self._period, self._output_dir, self._weights = period, output_dir, weights

    def before_train(self) -> None:
        """Take the best value of the run that goes on."""
        path = os.path.join(self._output_dir, f"{FILE_NAME}.pth")
        if self.trainer.start_iter > 0 and os.path.isfile(path):
            stored = load_tensors(path)
            if stored.get("metric") == self.metric:
                self.best = stored["value"]
                logger.info("Best %s so far: %.4f, in %s", self.metric, self.best, path)

    def after_step(self) -> None:
        """Look at the metric after an evaluation."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._look(self.trainer.iter)

    def after_train(self) -> None:
        """Look at the metric after the last evaluation, where the training has come to its end."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._look(self.trainer.max_iter - 1)

    def _look(self, iteration: int) -> None:
        latest = self.trainer.storage.latest()
        if self.metric not in latest:
            near = difflib.get_close_matches(self.metric, latest, n=3, cutoff=0.3)
            raise ValueError(
                f"the evaluation gives no metric {self.metric!r} (TEST.BEST_METRIC)"
                + (f", did you mean {' or '.join(near)}?" if near else "")
            )
        value, _ = latest[self.metric]
        if math.isnan(value):
            logger.warning("%s is NaN: the data set has nothing to find for it", self.metric)
        elif value > self.best:
            logger.info("Best %s: %.4f at iteration %d", self.metric, value, iteration)
            self.best = value
            self._save(iteration)

    def _save(self, iteration: int) -> None:
        checkpointer = SafeCheckpointer(unwrapped(self.trainer.model), self._output_dir)
        with self._weights():
            checkpointer.save(FILE_NAME, tag=False, metric=self.metric, value=self.best, iteration=iteration)
