"""The one trainer: Detectron2's, with this project's data, evaluator, optimizer and checkpoints."""

import contextlib
import logging
import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.utils.data import DataLoader

from fisher_detr.checkpoint import SafeCheckpointer, load_backbone
from fisher_detr.data import TrainLoader
from fisher_detr.engine.best_checkpoint import BestCheckpointHook
from fisher_detr.engine.console import ProgressBar, build_writers
from fisher_detr.engine.distributed import distribute, share_buffers
from fisher_detr.engine.ema import ModelEMA
from fisher_detr.engine.evaluation_record import evaluation_folder, record_evaluation
from fisher_detr.engine.finite_guard import FiniteGuard
from fisher_detr.engine.loaders import build_test_loader, build_train_loader
from fisher_detr.engine.micro_batches import MicroBatchTrainer
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.qat import add_training_terms, build_hook, load_teacher, quantize_for_training
from fisher_detr.engine.seeding import SeedHook
from fisher_detr.engine.trainer_check import EMA
from fisher_detr.evaluation import CriticalCategoryEvaluator
from fisher_detr.modeling import DetrBase, Predictions
from fisher_detr.modeling.meta_arch.detr_base import Batch

logger = logging.getLogger(__name__)

FINAL_NAME = "model_final"  # of Detectron2's last checkpoint


class Trainer(DefaultTrainer):
    """Trains and tests every model of this project from a config."""

    def __init__(self, cfg: CfgNode):
        """Build model, optimizer, data and hooks from a frozen config."""
        TrainerBase.__init__(self)  # DefaultTrainer's own wraps the model for GPUs only
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = MicroBatchTrainer(
            distribute(model),
            self.build_train_loader(cfg),
            optimizer,
            cfg.SOLVER.ACCUMULATION_STEPS,
            torch.amp.GradScaler(enabled=cfg.SOLVER.AMP.ENABLED),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.max_iter = cfg.SOLVER.MAX_ITER
        # Never leaves half a file; a proxy, or trainer and checkpointer would keep each other alive.
        self.checkpointer = SafeCheckpointer(
            self.model, cfg.OUTPUT_DIR, backbone_only=True, trainer=weakref.proxy(self)
        )
        self.register_hooks(self.build_hooks())
        teacher = None
        if cfg.QUANT.QAT.ENABLED and cfg.QUANT.QAT.DISTILL.ENABLED:
            teacher = load_teacher(cfg, self.build_float_model(cfg))
        add_training_terms(cfg, model, teacher)
        model.register_forward_hook(FiniteGuard(_predict))

    def train(self) -> dict[str, Any]:
        """Train to the last iteration; returns the metrics of the last evaluation."""
        if self.start_iter >= self.max_iter:
            self._save_final()
        super().train()
        return getattr(self, "_last_eval_results", {})

    def _save_final(self) -> None:
        """What a run that was killed behind its last iteration has not come to."""
        checkpointer = self.checkpointer
        if (
            checkpointer.has_checkpoint()
            and os.path.basename(checkpointer.get_checkpoint_file()) != f"{FINAL_NAME}.pth"
        ):
            checkpointer.save(FINAL_NAME, iteration=self.start_iter - 1)

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the optimizer, which 0.6 leaves out: a resumed run keeps its moments."""
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks and this project's: first what changes the model, then what saves it."""
        cfg, is_main = self.cfg, comm.is_main_process()
        period = cfg.TEST.EVAL_PERIOD
        timer, scheduler, precise_norms, *saving = super().build_hooks()
        writers = [saving.pop()] if is_main else []
        hooks = [SeedHook(cfg.SEED), timer]
        if cfg.QUANT.QAT.ENABLED:
            hooks.append(build_hook(cfg))
        hooks += [scheduler, precise_norms]
        weights = contextlib.nullcontext
        if cfg.MODEL_EMA.ENABLED:
            ema = ModelEMA(cfg.MODEL_EMA.DECAY, cfg.OUTPUT_DIR)
            hooks.append(ema)
            saving.append(EvalHook(period, lambda: self._test_average(ema)))
            weights = ema.applied if cfg.TEST.BEST_METRIC.startswith(f"{EMA}/") else weights
        if cfg.TEST.BEST_METRIC and is_main:
            saving.append(BestCheckpointHook(cfg.TEST.BEST_METRIC, period, cfg.OUTPUT_DIR, weights))
        return [*hooks, *saving, *writers, ProgressBar()]

    def build_writers(self) -> list[EventWriter]:
        """See `console.build_writers`."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _test_average(self, ema: ModelEMA) -> dict[str, Any]:
        """Evaluate the averaged weights, whose files go to the folder `ema`; below `ema` in the metrics."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, EMA)
        logger.info("Evaluation of the averaged weights (MODEL_EMA)")
        with ema.applied():
            results = self.test(cfg, self.model)
        self._last_eval_results[EMA] = results
        return {EMA: results} if results else {}

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint, or start from MODEL.WEIGHTS and MODEL.BACKBONE.WEIGHTS."""
        resumes = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume)
        if self.cfg.MODEL.BACKBONE.WEIGHTS and not resumes:
            load_backbone(self.checkpointer.model.backbone, self.cfg.MODEL.BACKBONE.WEIGHTS)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model to train: quantized where QUANT.QAT is enabled."""
        model = cls.build_float_model(cfg)
        if cfg.QUANT.QAT.ENABLED:
            quantize_for_training(cfg, model)
        return model

    @classmethod
    def build_float_model(cls, cfg: CfgNode) -> nn.Module:
        """The model in full precision."""
        return super().build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build from the keys of SOLVER."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        return build_optimizer(
            model,
            ParameterGroups.from_config(cfg),
            name=cfg.SOLVER.OPTIMIZER,
            base_lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            clip_norm=clip.CLIP_VALUE if clip.ENABLED else 0.0,
        )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """See `loaders.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """See `loaders.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> dict[str, Any]:
        """Evaluate on DATASETS.TEST the model of the main process, which alone gets the results."""
        share_buffers(model)
        results = super().test(cfg, model, evaluators)
        record_evaluation(cfg, model)
        return results

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CriticalCategoryEvaluator:
        """Overall AP and AP of every set of CRITICAL.SETS."""
        return CriticalCategoryEvaluator(
            dataset_name,
            cfg.CRITICAL.SETS,
            output_dir=evaluation_folder(cfg, dataset_name),
            top_k=cfg.MODEL.DETR.TOP_K,
            use_fast_impl=cfg.TEST.FAST_EVAL,
        )


def _predict(model: DetrBase, batch: Batch) -> Predictions:
    """What a pass computes before its losses."""
    return model.decode(model.preprocess(batch))
