"""The one trainer: Detectron2's, with this project's data, evaluator, optimizer and checkpoints."""

import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.utils.data import DataLoader

from fisher_detr.checkpoint import SafeCheckpointer, load_backbone
from fisher_detr.data import TrainLoader
from fisher_detr.engine.distributed import distribute, share_buffers
from fisher_detr.engine.loaders import build_test_loader, build_train_loader
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.qat import add_training_terms, build_hook, load_teacher, quantize_for_training
from fisher_detr.engine.seeding import SeedHook
from fisher_detr.evaluation import CriticalCategoryEvaluator


class Trainer(DefaultTrainer):
    """Trains and tests every model of this project from a config."""

    def __init__(self, cfg: CfgNode):
        """Build model, optimizer, data and hooks from a frozen config."""
        TrainerBase.__init__(self)  # DefaultTrainer's own wraps the model for GPUs only
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        stepper = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = stepper(distribute(model), self.build_train_loader(cfg), optimizer)
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
        self.model.register_forward_hook(refuse_non_finite)

    def train(self) -> dict[str, Any]:
        """Train to the last iteration; returns the metrics of the last evaluation."""
        super().train()
        return getattr(self, "_last_eval_results", {})

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the optimizer, which 0.6 leaves out: a resumed run keeps its moments."""
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])

    def build_hooks(self):
        """Detectron2's hooks, and those that seed and quantize."""
        hooks = [SeedHook(self.cfg.SEED), *super().build_hooks()]
        if self.cfg.QUANT.QAT.ENABLED:
            hooks.insert(2, build_hook(self.cfg))  # before what saves and evaluates, after the timer
        return hooks

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
        return super().test(cfg, model, evaluators)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CriticalCategoryEvaluator:
        """Overall AP and AP of every set of CRITICAL.SETS."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return CriticalCategoryEvaluator(
            dataset_name, cfg.CRITICAL.SETS, output_dir=folder, top_k=cfg.MODEL.DETR.TOP_K
        )


def refuse_non_finite(_model: nn.Module, _inputs: tuple, outputs: object) -> None:
    """Forward hook that stops a training whose loss is NaN or infinite.

    Raises:
        FloatingPointError: names the losses and the iteration.
    """
    # One look at all losses: each would make the GPU wait.
    if not isinstance(outputs, dict) or torch.stack([*outputs.values()]).isfinite().all():
        return
    broken = [f"{name} = {v.item():g}" for name, v in outputs.items() if not v.isfinite()]
    raise FloatingPointError(
        f"loss became NaN or infinite at iteration {get_event_storage().iter}: {', '.join(broken)}; "
        "lower SOLVER.BASE_LR, clip gradients, or look at the images of this iteration"
    )
