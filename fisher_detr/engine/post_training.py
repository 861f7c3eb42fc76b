"""Post-training quantization: calibration sample -> Fisher information -> widths -> quantized model."""

import copy
import dataclasses
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from fisher_detr.allocation import Constraint, Costs, allocate_arm, combine, pareto
from fisher_detr.engine.calibration import calibrate_on_ranks
from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.engine.coverage import traced_coverage
from fisher_detr.engine.critical_sets import planned_sets, require_objects
from fisher_detr.engine.distributed import from_main
from fisher_detr.engine.estimation import Estimator
from fisher_detr.engine.fisher_settings import FisherSettings
from fisher_detr.engine.insertion import float_model_for_quantization, insert_quantizers
from fisher_detr.engine.quant_settings import QuantSettings
from fisher_detr.engine.table_origin import check_origin, provenance_of
from fisher_detr.fisher import OVERALL, ErrorFn, LayerError
from fisher_detr.modeling import DetrBase, LabelSource, Reweighted
from fisher_detr.quantization import (
    ActivationQuantizer,
    CoverageReport,
    FisherRounding,
    RoundingMethod,
    bypassed,
    correct_biases,
    count_macs,
    layer_biases,
    layer_infos,
    quantizable_layers,
    quantization_errors,
    round_weights,
)
from fisher_detr.structures import (
    Arm,
    BitAllocation,
    CategorySet,
    LayerInfo,
    Objective,
    ScaleMethod,
    SensitivityForm,
    SensitivityTable,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A quantized, calibrated model, its widths, and what of it is quantized."""

    model: DetrBase
    allocation: BitAllocation
    coverage: CoverageReport


class PostTrainingQuantizer:
    """Quantizes one full-precision model in any arm; what arms share is computed once.

    An arm is an objective: uniform and fisher_overall know L_A alone, fisher_critical L_A and L_F, reweighted
    an L_A in which critical objects count more. The Fisher information of that objective weighs the scales
    and, but for uniform and hawq, decides the widths.
    """

    def __init__(
        self,
        model: DetrBase,
        samples: Sequence[dict[str, Any]],
        settings: QuantSettings,
        critical: CategorySet | Sequence[CategorySet] | None = None,
        provenance: Mapping[str, Any] | None = None,
        fisher_settings: FisherSettings | None = None,
        folder: str | None = None,
    ):
        """Fold and freeze the norms of the model, in place.

        Args:
            model: in full precision; put in eval mode.
            samples: calibration images as the mapper makes them, with `instances`.
            settings: how to quantize.
            critical: the set C of the critical objective, or several sets that one plan serves; None: none.
            provenance: stored with the sensitivities: weights, data sets, seed.
            fisher_settings: how to estimate.
            folder: where an estimate that is cut off leaves what it has; None: nowhere.
        """
        self.model = float_model_for_quantization(model, settings.fold_norm)
        self.samples = samples
        self.settings = settings
        sets = [critical] if isinstance(critical, CategorySet) else list(critical or [])
        self.sets = {chosen.name: chosen for chosen in sets}
        self.provenance = dict(provenance or {})
        self.fisher_settings = fisher_settings or FisherSettings()
        self.folder = folder
        self._tables: dict[Arm, dict[str, SensitivityTable]] = {}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: DetrBase, critical: CategorySet | Sequence[CategorySet] | None = None
    ) -> "PostTrainingQuantizer":
        """Take calibration images from DATASETS.TRAIN.

        Args:
            cfg: the config.
            model: in full precision, with the weights of MODEL.WEIGHTS.
            critical: see `__init__`; None: those of ALLOCATION.CRITICAL_SETS, or else of CRITICAL.TARGET.
        """
        return cls(
            model,
            calibration_images(cfg),
            QuantSettings.from_config(cfg),
            planned_sets(cfg) if critical is None else critical,
            provenance_of(cfg),
            FisherSettings.from_config(cfg),
            cfg.OUTPUT_DIR,
        )

    @property
    def critical(self) -> CategorySet | None:
        """The critical set, of several the first; None: there is none."""
        return next(iter(self.sets.values()), None)

    @property
    def set_weights(self) -> dict[str, float]:
        """How much each of several critical sets counts, by name; empty: all the same, or there is one."""
        if len(self.sets) < 2 or not self.settings.set_weights:
            return {}
        return dict(zip(self.sets, self.settings.set_weights, strict=True))

    @functools.cached_property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers that get a width."""
        return layer_infos(self.model, self.settings.skip, self.settings.per_channel)

    @functools.cached_property
    def weights(self) -> dict[str, Tensor]:
        """Their weights by layer name."""
        return {
            name: layer.weight for name, layer in quantizable_layers(self.model, self.settings.skip).items()
        }

    @property
    def rounded_biases(self) -> dict[str, Tensor]:
        """Biases that make up for rounding, by layer name."""
        if self.settings.rounding is not RoundingMethod.FISHER:
            return {}
        return layer_biases(self.model, self.settings.skip)

    @functools.cached_property
    def estimator(self) -> Estimator:
        """Of what follows from the gradients of L_A and, with critical sets, of L_F."""
        return self._build_estimator(self.sets)

    @functools.cached_property
    def reweighted_estimator(self) -> Estimator:
        """Of what follows from the gradients of L_A in which critical objects count more."""
        return self._build_estimator({}, self.overall_of(Arm.REWEIGHTED))

    def estimator_of(self, arm: Arm) -> Estimator:
        """The one that knows an arm's objective."""
        return self.reweighted_estimator if arm is Arm.REWEIGHTED else self.estimator

    def overall_of(self, arm: Arm) -> Reweighted | None:
        """What an arm calls L_A; None: the losses as they are."""
        return Reweighted(self._require_set(), self.settings.reweight) if arm is Arm.REWEIGHTED else None

    def objective(self, arm: Arm) -> Objective:
        """What an arm minimises.

        Raises:
            ValueError: fisher_critical without a critical set, or without an object of it.
        """
        if arm is not Arm.FISHER_CRITICAL:
            return Objective(1.0, 0.0, self.settings.objective.combine)
        self._require_set()
        return self.settings.objective

    def scale_fisher(self, arm: Arm) -> dict[str, Tensor] | None:
        """The Fisher diagonal that weighs the scales of an arm, where they are weighted by it.

        Rounding against the Fisher looks for scales by itself.
        """
        if self.settings.scale is not ScaleMethod.FISHER or self.settings.rounds_by_fisher:
            return None
        return self.estimator_of(arm).combined(self.objective(arm))

    def moments(self, arm: Arm) -> dict[str, Tensor] | None:
        """How errors within an output channel interact by an arm's objective, where rounding asks for it."""
        if not self.settings.rounds_by_fisher:
            return None
        return self.estimator_of(arm).moments(self.objective(arm))

    def sensitivity(self, arm: Arm) -> SensitivityTable:
        """Sensitivity of every layer and width to the actual quantization error under an arm's scales.

        Of several critical sets, that of the first; `sensitivities` has all.
        """
        return next(iter(self.sensitivities(arm).values()))

    def sensitivities(self, arm: Arm) -> dict[str, SensitivityTable]:
        """Sensitivities by critical set; an arm that knows none has one table."""
        if arm not in self._tables:
            self._tables[arm] = self._estimate_sensitivity(arm)
        tables = self._tables[arm]
        return tables if arm is Arm.FISHER_CRITICAL else dict(list(tables.items())[:1])

    def take_sensitivity(self, arm: Arm, table: SensitivityTable) -> None:
        """Use the sensitivities of an earlier run for an arm.

        Raises:
            ValueError: the table was made for another objective, checkpoint or kind of quantization, or lacks
                a candidate width; or the plan is for several critical sets.
        """
        if len(self.sets) > 1:
            raise ValueError(
                "ALLOCATION.SENSITIVITY_FILE has the sensitivities of one critical set, and "
                f"ALLOCATION.CRITICAL_SETS names {len(self.sets)}: leave it out to compute them"
            )
        check_origin(table, self._meta(arm))
        name = next(iter(self.sets), OVERALL)
        self._tables[arm] = {name: table.at_widths(self.settings.widths)}

    def allocate(self, arm: Arm, average_bits: float) -> BitAllocation:
        """Widths of one arm at the bytes of a uniform width.

        Args:
            arm: uniform, fisher_overall or fisher_critical.
            average_bits: the uniform width whose bytes are the budget.
        """
        settings = self.settings
        tables = None if arm is Arm.UNIFORM else self.sensitivities(arm)
        plan = allocate_arm(
            arm,
            self.layers,
            average_bits,
            tables if tables is None or len(tables) > 1 else next(iter(tables.values())),
            self.objective(arm),
            settings.mip_gap,
            settings.time_limit,
            set_weights=self.set_weights if arm is Arm.FISHER_CRITICAL else None,
            aggregate=settings.aggregate,
            constraints=self._constraints(),
            restrictions=settings.limits.restrictions(self.layers),
        )
        return from_main(plan)  # a search that its time limit ends depends on the machine

    def pareto(self, arm: Arm, points: int) -> list[BitAllocation]:
        """Plans of an arm at sizes from the smallest to the best one; see `allocation.pareto`.

        Args:
            arm: fisher_overall or fisher_critical.
            points: number of sizes.
        """
        settings = self.settings
        objective = self.objective(arm)
        costs = {name: combine(table, objective) for name, table in self.sensitivities(arm).items()}
        plans = pareto(
            Costs.of(costs, self.set_weights if arm is Arm.FISHER_CRITICAL else None, settings.aggregate),
            self.layers,
            settings.widths,
            points,
            settings.mip_gap,
            settings.time_limit,
            {"arm": str(arm)},
            constraints=self._constraints(),
            restrictions=settings.limits.restrictions(self.layers),
        )
        return from_main(plans)

    def check_limits(self) -> None:
        """Raise ValueError where limits name unknown layers or contradict each other, before all else."""
        self._constraints()
        self.settings.limits.restrictions(self.layers).check(
            [layer.name for layer in self.layers], self.settings.widths
        )

    def quantize(self, allocation: BitAllocation, arm: Arm) -> QuantizedModel:
        """A quantized, calibrated copy of the model, with an arm's scales."""
        model = copy.deepcopy(self.model)
        report = insert_quantizers(model, allocation, self.settings, self.scale_fisher(arm))
        if moments := self.moments(arm):
            search = self.settings.scale is ScaleMethod.FISHER
            round_weights(model, moments, damping=self.settings.damping, search_scales=search)
        self._correct_biases(model)
        if self.settings.activation_bits:
            batches = self.estimator_of(arm).batches
            calibrate_on_ranks(model, batches, self.settings.activation_range, self.settings.percentile)
        self.estimator_of(arm).discard_partial()
        return QuantizedModel(model, allocation, traced_coverage(report, model, self.samples[0]))

    def count_macs(self) -> dict[str, int]:
        """Multiply-accumulates of every layer, on the first calibration image."""
        return count_macs(self.model, lambda: self.model(self.samples[:1]), self.settings.skip)

    def _constraints(self) -> list[Constraint]:
        settings = self.settings
        return settings.limits.constraints(
            self.layers, settings.widths, settings.activation_bits, self.count_macs
        )

    def _correct_biases(self, model: DetrBase) -> None:
        if self.settings.bias_correction is None:
            return
        with bypassed(model, ActivationQuantizer):  # which have no range yet
            correct_biases(
                model, self.model, [[sample] for sample in self.samples], self.settings.bias_correction
            )

    def _estimate_sensitivity(self, arm: Arm) -> dict[str, SensitivityTable]:
        meta, error, widths = self._meta(arm), self.error_fn(arm), self.settings.widths
        tables = self.estimator_of(arm).sensitivity(self._form(arm), error, self.layers, widths, meta)
        return {
            name: dataclasses.replace(table, meta={**table.meta, "critical_set": self._describe(name)})
            for name, table in tables.items()
        }

    def _form(self, arm: Arm) -> SensitivityForm:
        return SensitivityForm.HAWQ_TRACE if arm is Arm.HAWQ else self.settings.form

    def _build_estimator(
        self, sets: Mapping[str, CategorySet], overall: Reweighted | None = None
    ) -> Estimator:
        return Estimator(
            self.model,
            self.samples,
            self.weights,
            sets,
            self.settings.aux_loss,
            self.fisher_settings,
            self.folder,
            overall,
            self.set_weights if sets else None,
            self.rounded_biases,
            {**self._origin, "reweighted": overall is not None},
        )

    def _require_set(self) -> CategorySet:
        if self.critical is None:
            raise ValueError("this arm needs a critical set: name it in CRITICAL.TARGET")
        if self.fisher_settings.labels is LabelSource.DATA:  # drawn labels may be of any category
            require_objects(self.sets.values(), self.samples)
        return self.critical

    def _describe(self, name: str) -> dict[str, Any] | None:
        """A critical set as plain JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self.sets[name]))) if name in self.sets else None

    def error_fn(self, arm: Arm, widths: Sequence[int] | None = None) -> ErrorFn:
        """Errors of a layer's weights under an arm's scales and rounding.

        Args:
            arm: whose.
            widths: that will be asked for; None: the candidates.
        """
        widths = self.settings.widths if widths is None else widths
        settings, fisher, moments = self.settings, self.scale_fisher(arm), self.moments(arm)

        @functools.lru_cache(maxsize=1)  # layer by layer, all widths of each at once
        def errors(name: str) -> dict[int, LayerError]:
            weight = self.weights[name]
            rounder = moments and FisherRounding(weight, moments[name], settings.damping)
            found = quantization_errors(
                weight,
                widths,
                settings.scale,
                settings.per_channel,
                fisher and fisher[name],
                rounder,
            )
            shifts = [rounder and rounder.bias_shift(error) for error in found]
            return dict(zip(widths, map(LayerError, found, shifts), strict=True))

        return lambda name, bits: errors(name)[bits]

    def _meta(self, arm: Arm) -> dict[str, Any]:
        """Where a table comes from, as plain JSON."""
        of_arm = {"objective": dataclasses.asdict(self.objective(arm)), **self._origin}
        of_arm |= {"arm": str(arm), "form": str(self._form(arm))}
        return {**of_arm, "critical_set": self._describe(next(iter(self.sets), OVERALL))}

    @functools.cached_property
    def _origin(self) -> dict[str, Any]:
        """What all tables have in common, as plain JSON."""
        origin = {
            "settings": dataclasses.asdict(self.settings),
            "critical_sets": [dataclasses.asdict(chosen) for chosen in self.sets.values()],
            "image_ids": [sample["image_id"] for sample in self.samples],
            "labels": self.fisher_settings.described_labels(),
            "torch": torch.__version__,
            **self.provenance,
        }
        return json.loads(json.dumps(origin))
