"""Trains on two processes and on one; as a program it writes what both found.

python tests/engine/two_ranks.py FILE
"""

import dataclasses
import os
import sys
import tempfile

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.defaults import create_ddp_model
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import distributed

from fisher_detr.engine import FisherTracePenalty, PenaltySettings, QATHook, QATSchedule, prepare
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.penalty_term import LOSS_NAME
from fisher_detr.fisher import PenaltyMethod, TraceEstimate
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import RangeMethod, ScaleTraining
from fisher_detr.structures import CategorySet
from tests.checkpoint.small_detr import make_cfg
from tests.modeling.detectors import make_input

PEOPLE = CategorySet("people", (0, 1), 5)
OBSERVE = 2
ITERATIONS = 6


@dataclasses.dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        model: architecture.
        method, estimate: of the penalty.
        activations: how their scales are trained.
        clip: greatest norm of the task's gradient, and of the penalty's; 0: any.
    """

    model: str
    method: PenaltyMethod
    estimate: TraceEstimate
    activations: ScaleTraining
    clip: float = 0.0

    def __str__(self):
        return ", ".join(map(str, dataclasses.astuple(self)))


_DIFFERENCE = PenaltyMethod.FINITE_DIFFERENCE
CASES = {
    str(case): case
    for case in (
        Case("Detr", PenaltyMethod.EXACT, TraceEstimate.PER_IMAGE, ScaleTraining.LSQ),
        Case("Detr", PenaltyMethod.EXACT, TraceEstimate.MINIBATCH, ScaleTraining.PACT),
        Case("Detr", _DIFFERENCE, TraceEstimate.PER_IMAGE, ScaleTraining.MINMAX),
        Case("Detr", _DIFFERENCE, TraceEstimate.MINIBATCH, ScaleTraining.LSQ, clip=0.01),
        Case("DabDetr", _DIFFERENCE, TraceEstimate.PER_IMAGE, ScaleTraining.LSQ, clip=0.01),
        Case("DeformableDetr", PenaltyMethod.EXACT, TraceEstimate.PER_IMAGE, ScaleTraining.LSQ, clip=0.01),
    )
}


def make_model(case: Case) -> DetrBase:
    torch.manual_seed(0)
    cfg = make_cfg("FrozenBN", CLASS_LOSS="focal", NUM_CLASSES=5, HIDDEN_DIM=32)
    cfg.MODEL.META_ARCHITECTURE = case.model
    cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES, cfg.MODEL.DEFORMABLE_DETR.NUM_LEVELS = ("res2", "res3"), 3
    model = build_model(cfg)
    # The order of a sum must not decide what a value is rounded to: double precision, scales too. Nor which
    # of two neighbours is pooled, or whether a ReLU opens, where sums of products of levels are equal, or 0:
    # a stem that is not quantized, and norms that shift.
    skip = ("class_embed", "bbox_embed", "backbone.stem")
    prepare(model, bits=4, skip=skip, activations=case.activations)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.bias.normal_(std=0.1)
    return model.double()


def train(case: Case) -> dict:
    """Losses by iteration and name, and the model, after some iterations on two images each."""
    model = make_model(case)
    settings = PenaltySettings(
        1.0, case.method, case.estimate, interval=2, warmup_iters=3, clip_norm=case.clip
    )
    objective = DetrObjective(PEOPLE, across_ranks=case.estimate is TraceEstimate.MINIBATCH)
    schedule = QATSchedule(activations=case.activations, observe_iters=OBSERVE, range_method=RangeMethod.MAX)
    # SGD: Adam makes a step of the rounding of a gradient near 0.
    optimizer = build_optimizer(
        model, ParameterGroups(), name="SGD", base_lr=1e-4, momentum=0.9, clip_norm=case.clip
    )
    wrapped = create_ddp_model(model, device_ids=None, broadcast_buffers=False)
    trainer = SimpleTrainer(wrapped, [share(i) for i in range(ITERATIONS)], optimizer)
    trainer.register_hooks([QATHook(schedule, FisherTracePenalty(objective, settings))])
    trainer.train(0, ITERATIONS)
    losses = {
        name: [(iteration, value) for value, iteration in history.values()]
        for name, history in trainer.storage.histories().items()
        if name in ("total_loss", "fisher_trace", LOSS_NAME)
    }
    return {"losses": losses, "model": model.state_dict()}


def share(iteration: int) -> list[dict]:
    """This rank's images of an iteration's two."""
    # Of enough critical objects: DETR divides by one object on each rank where there are fewer.
    batch = [make_input(64, 64, count, seed=2 * iteration + count) for count in (6, 9)]
    return batch[comm.get_rank() :: comm.get_world_size()]


def refusal() -> str:
    """What is said of a model that is wrapped already."""
    wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    try:
        prepare(wrapped, bits=4)
    except ValueError as error:
        return str(error)
    return ""


def one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    comm._LOCAL_PROCESS_GROUP = distributed.new_group([0, 1])
    found = {name: train(case) for name, case in CASES.items()} | {"refusal": refusal()}
    torch.save(found, os.path.join(folder, f"{rank}.pth"))
    distributed.barrier()  # a rank that leaves earlier may end the other's threads
    distributed.destroy_process_group()


def main() -> None:
    """Forks, which spares an import of torch, before anything is computed here."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(2):
            child = os.fork()
            if not child:
                one_of_two(rank, folder)
                os._exit(0)
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        if failed:
            sys.exit("a rank has failed")
        ranks = [torch.load(os.path.join(folder, f"{rank}.pth")) for rank in range(2)]
    one = {name: train(case) for name, case in CASES.items()}
    torch.save({"ranks": ranks, "one": one}, sys.argv[1])


if __name__ == "__main__":
    main()
