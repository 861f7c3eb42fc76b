"""A pass over images that gathers what follows from their gradients, on one rank or many."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisher_detr.fisher.gradients import GradientMethod, LossFn, check_parameters, image_gradients
from fisher_detr.fisher.image_sums import ImageSums, TraceRows
from fisher_detr.fisher.ranks import gather_rows, gathered, rank_and_size, sum_over_ranks
from fisher_detr.fisher.statistics import standard_error
from fisher_detr.fisher.weight_products import AmbiguousBatchError, Product, UncaughtWeightError

logger = logging.getLogger(__name__)

# Opens a pass where an earlier one stopped; returns what to call after each batch.
PassKeeper = Callable[["ImagePass"], Callable[["ImagePass"], None]]
_SAME_NORM = 0.01  # part to which float32 norms of one gradient agree, by factors and by autograd
_LEAST = 16  # images before a standard error is believed
_HINT = "check the image, its labels and the checkpoint"


@dataclasses.dataclass(frozen=True)
class PassSettings:
    """How images are differentiated.

    Attributes:
        method: how the images of a batch are told apart, where it has several.
        skip_broken: leave out an image whose loss is not finite, with a warning; otherwise it is an error.
        relative_error: end once the standard error of every objective's total trace is at most this part of
            it, from 16 images on; 0: take all images.
        progress: show a progress bar, on a terminal.
    """

    method: GradientMethod = GradientMethod.BATCHED
    skip_broken: bool = False
    relative_error: float = 0.0
    progress: bool = True

    def __post_init__(self):
        if not 0.0 <= self.relative_error < 1.0:
            raise ValueError(f"relative error {self.relative_error}: expected 0 (all images), or below 1")


class ImagePass:
    """Differentiates every objective on every image of some batches, and lets `sums` take the gradients.

    The ranks of torch.distributed's default group, where there is one, share the batches.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        parameters: Mapping[str, Tensor],
        sums: Sequence[ImageSums] = (),
        settings: PassSettings | None = None,
    ):
        """Begin.

        Args:
            loss_fn: maps a batch to losses by objective, one of each image (see `image_gradients`).
            parameters: weights by layer name; leaf tensors, each listed once.
            sums: take the gradients.
            settings: how images are differentiated.

        Raises:
            ValueError: no weights, or an aliased one.
        """
        check_parameters(parameters)
        self.settings = settings or PassSettings()
        self.objectives: tuple[str, ...] = ()
        self.traces = TraceRows(parameters)
        self.sums = (self.traces, *sums)
        self.positions: list[int] = []  # of the images that count, among all
        self.rounds = 0  # batches of this rank that are done
        self.is_done = False
        self._loss_fn = loss_fn
        self._parameters = parameters
        self._with_gradient: set[str] = set()
        self._checked = False

    def run(
        self,
        batches: Sequence[Sequence[Any]],
        after_round: Callable[["ImagePass"], None] | None = None,
    ) -> None:
        """Take the batches that are left, and bring the ranks' parts together.

        Args:
            batches: all images, of all ranks; in a batch of one size, or padded so that losses stay as alone.
            after_round: called after each batch of this rank, to write down how far it has come.

        Raises:
            ValueError: no images, a loss or gradient that is not finite, a loss of another shape or without
                gradient, or a batch whose gradients are not those of its images.
        """
        if self.settings.method is GradientMethod.SINGLE:
            batches = [[sample] for batch in batches for sample in batch]
        starts = np.cumsum([0, *map(len, batches)])
        if not starts[-1]:
            raise ValueError("no images: the Fisher information needs at least one")
        rank, size = rank_and_size()
        own = range(rank, len(batches), size)
        with self._progress_bar(sum(len(batches[i]) for i in own)) as bar:
            bar.update(sum(len(batches[i]) for i in own[: self.rounds]))
            for turn in range(self.rounds, -(-len(batches) // size)):
                failure = None
                if turn < len(own):
                    failure = self._try(batches[own[turn]], int(starts[own[turn]]))
                    bar.update(len(batches[own[turn]]))
                if self.settings.relative_error:
                    self._agree(failure)  # every round: all ranks stop at the same one
                elif failure:
                    break
                self.rounds = turn + 1
                self.is_done = turn + 1 >= len(own)
                if after_round is not None:
                    after_round(self)
                if self._enough():
                    break
            else:
                failure = None
        self._agree(failure)
        self._gather()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What was gathered by this rank so far: plain values, and tensors by name."""
        values = {
            "objectives": list(self.objectives),
            "with_gradient": sorted(self._with_gradient),
            "positions": self.positions,
            "rounds": self.rounds,
            "method": str(self.settings.method),
        }
        tensors = {}
        for number, part in enumerate(self.sums):
            tensors[f"{number}/rows"] = part.rows
            tensors |= {f"{number}/sums/{name}": total for name, total in part.sums.items()}
        return values, tensors

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.objectives = tuple(values["objectives"])
        self._with_gradient = set(values["with_gradient"])
        self.positions, self.rounds = list(values["positions"]), values["rounds"]
        for number, part in enumerate(self.sums):
            part.rows = tensors[f"{number}/rows"].to(part.rows)
            head = f"{number}/sums/"
            part.sums.update(
                {
                    name.removeprefix(head): total.to(part.rows.device)
                    for name, total in tensors.items()
                    if name.startswith(head)
                }
            )

    def _progress_bar(self, total: int) -> tqdm:
        hidden = None if self.settings.progress else True
        return tqdm(total=total, desc="Fisher information", unit="image", disable=hidden)

    def _try(self, batch: Sequence[Any], start: int) -> str:
        """Take a batch; what cannot be told apart in it, in words."""
        try:
            self._take(batch, start)
        except AmbiguousBatchError:  # in smaller batches it can
            return self._try(batch[:1], start) or self._try(batch[1:], start + 1)
        except UncaughtWeightError as error:
            return str(error)
        return ""

    def _agree(self, failure: str | None) -> None:
        """All ranks raise UncaughtWeightError where one of them has to."""
        if texts := [text for text in gathered(failure) if text]:
            raise UncaughtWeightError(texts[0])

    def _take(self, batch: Sequence[Any], start: int) -> None:
        first, rows = len(self.positions), {}

        def select(losses: Mapping[str, Tensor]) -> list[int]:
            kept = self._kept(losses, batch, start)
            rows.update({image: first + row for row, image in enumerate(kept)})
            self.positions += [start + image for image in kept]
            for part in self.sums:
                part.begin(len(kept), self.objectives)
            return kept

        def visit(layer: str, image: int, gradients: Tensor) -> None:
            for part in self.sums:
                part.add(layer, rows[image], gradients)

        def visit_products(layer: str, products: Sequence[Product], images: Sequence[int]) -> None:
            for part in self.sums:
                part.add_products(layer, products, images)

        method = self._method_for(batch)
        image_gradients(self._loss_fn, self._parameters, batch, visit, method, select, visit_products)
        for part in self.sums:
            part.end()
        self._check_gradients(first, {row: describe(start + i, batch[i]) for i, row in rows.items()})
        if method is GradientMethod.BATCHED and not self._checked and rows:
            self._compare_with_autograd(batch, rows)
            self._checked = True

    def _method_for(self, batch: Sequence[Any]) -> GradientMethod:
        """Of one image autograd forms the gradients a little faster than they are multiplied here."""
        if len(batch) == 1 and not any(part.needs_products for part in self.sums):
            return GradientMethod.SINGLE
        return self.settings.method

    def _kept(self, losses: Mapping[str, Tensor], batch: Sequence[Any], start: int) -> list[int]:
        """Images with finite losses."""
        if self.objectives and tuple(losses) != self.objectives:
            raise ValueError(
                f"{describe(start, batch[0])} has objectives {list(losses)}, expected "
                f"{list(self.objectives)}: the same on every image"
            )
        self.objectives = tuple(losses)
        self._with_gradient |= {objective for objective, loss in losses.items() if loss.requires_grad}
        values = torch.stack([loss.detach().double() for loss in losses.values()]).cpu()  # [O, B]
        for objective, image in zip(*torch.nonzero(~values.isfinite(), as_tuple=True), strict=True):
            text = f"loss {self.objectives[objective]!r} of {describe(start + int(image), batch[image])}"
            text += f" is {values[objective, image].item()}"
            if not self.settings.skip_broken:
                raise ValueError(f"{text}: {_HINT}, or skip such images")
            logger.warning("%s: the image is left out", text)
        return values.isfinite().all(dim=0).nonzero().flatten().tolist()

    def _check_gradients(self, first: int, names: Mapping[int, str]) -> None:
        """Raise ValueError where a gradient of the newest images is not finite."""
        broken = ~self.traces.rows[first:].diagonal(dim1=-2, dim2=-1).isfinite()  # [B, L, O]
        for row, layer, objective in broken.nonzero().tolist():
            raise ValueError(
                f"gradient of loss {self.objectives[objective]!r} on {names[first + row]} is not finite in "
                f"layer {list(self._parameters)[layer]!r}: {_HINT}"
            )

    def _compare_with_autograd(self, batch: Sequence[Any], rows: Mapping[int, int]) -> None:
        """Two images must disagree before it is an error: a near tie in an assignment may fall either way."""
        for image in list(rows)[:2]:
            alone = TraceRows(self._parameters)
            alone.begin(1, self.objectives)
            image_gradients(self._loss_fn, self._parameters, [batch[image]], alone.add, GradientMethod.SINGLE)
            found, expected = (
                part.diagonal(dim1=-2, dim2=-1).sqrt()
                for part in (self.traces.rows[rows[image]], alone.rows[0])
            )  # [L, O] norms
            allowed = _SAME_NORM * torch.maximum(expected, 0.01 * expected.norm(dim=0))
            if ((found - expected).abs() <= allowed).all():
                return
        layer = list(self._parameters)[
            int(((found - expected).abs() / allowed.clamp_min(1e-300)).amax(1).argmax())
        ]
        raise ValueError(
            f"the gradients of layer {layer!r} from a batch are not those of its images alone: the loss of "
            "an image depends on others, or the weight is used where it cannot be seen; take the method "
            "single"
        )

    def _enough(self) -> bool:
        """Whether the total traces of all ranks' images are known well enough."""
        if not self.settings.relative_error:
            return False
        rows = self.traces.rows
        own = rows.diagonal(dim1=-2, dim2=-1).sum(1).cpu().numpy() if len(rows) else None  # [n, O]
        parts = [part for part in gathered(own) if part is not None]
        if sum(map(len, parts)) < _LEAST:
            return False
        totals = np.concatenate(parts)
        allowed = self.settings.relative_error * totals.mean(axis=0)
        return bool((standard_error(totals) <= allowed).all())

    def _gather(self) -> None:
        parts = gathered((self.objectives, self._with_gradient, self.positions))
        self.objectives = next(names for names, _, _ in parts if names)
        self._with_gradient = set().union(*(reached for _, reached, _ in parts))
        if constant := [name for name in self.objectives if name not in self._with_gradient]:
            hint = "they were computed under torch.no_grad() or depend on no weight"
            raise ValueError(f"losses {constant} have no gradient on any image: {hint}")
        order = np.argsort([position for _, _, positions in parts for position in positions])
        for part in self.sums:
            part.begin(0, self.objectives)  # on a rank that had no batch
            part.align()
            rows = gather_rows(part.rows)
            part.rows = rows[order] if len(rows) else rows
            for total in part.sums.values():
                sum_over_ranks(total)
        self.positions = sorted(position for _, _, positions in parts for position in positions)
        if not self.positions:
            raise ValueError("no image has finite losses: check the checkpoint")


def describe(index: int, sample: Any) -> str:
    """Name an image in a message: its position and, for Detectron2's dictionaries, its id."""
    if isinstance(sample, Mapping) and "image_id" in sample:
        return f"image {index} (image_id {sample['image_id']})"
    return f"image {index}"
