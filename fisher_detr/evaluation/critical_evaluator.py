"""COCO evaluation with the critical categories as an objective of its own (method.md section 1)."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from fisher_detr.critical import collapse_logits, metric_names, num_collapsed, resolve_category_sets
from fisher_detr.data import CocoDataset, complete_metadata, dataset_ids
from fisher_detr.evaluation.coco import (
    complete_ground_truth,
    evaluate_boxes,
    keep_annotations,
    mean_precision,
    quiet,
    set_metrics,
)
from fisher_detr.evaluation.compiled import compiled_evaluation, detectron2_evaluates_by, require_compiled
from fisher_detr.evaluation.record import save_record
from fisher_detr.files import write_atomically, write_text
from fisher_detr.layers import select_detections
from fisher_detr.structures import CategorySet

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CriticalDetections:
    """K detections of critical categories in one image, as arrays: dicts would take ten times as much.

    Attributes:
        boxes: xywh in pixels of the original image, `[K, 4]`.
        scores: under the transform, `[K]`.
        categories: data set ids, `[K]`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO's result format."""
        columns = zip(self.boxes.tolist(), self.scores.tolist(), self.categories.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for box, score, category in columns
        ]


class CriticalCategoryEvaluator(COCOEvaluator):
    """COCOEvaluator that adds the AP of critical sets and of every category.

    To "bbox" it adds, for every set, `APcrit_<set>` under the logit-label transform and `AP_<set>` by plain
    filtering, each with 50, 75, S, M and L after "AP" or "APcrit", and `APcat_<category>` in place of
    Detectron2's `AP-<category>`, whose "-" hides it from the printed results.

    The ground truth is the annotation file's, as for every COCO tool: boxes that reach up to a pixel out of
    their image, which are clipped for training, count here as they are written. Only what
    DATASETS.DROP_BAD_BOXES leaves out of a registered set is left out here too.

    The transform needs the logits of the queries: `output["queries"]`, Instances with `pred_boxes` (original
    size) and `logits` (`[Q, n + 1]` softmax head or `[Q, n]` sigmoid head). A model whose outputs have none
    (Faster R-CNN) gets the filtered AP only.
    """

    def __init__(
        self,
        dataset_name: str,
        category_sets: Iterable[CategorySet | str],
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        top_k: int = 100,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = False,
    ):
        """Load the ground truth and resolve the sets.

        Args:
            dataset_name: a registered data set.
            category_sets: sets, or what `resolve_category_set` makes them from.
            tasks: see COCOEvaluator.
            distributed: gather the predictions of all processes.
            output_dir: for `coco_instances_results.json`, one `critical_<set>_results.json` for each set, and
                `evaluation.json`: the metrics, and what they are of.
            top_k: detections kept for each image under the transform; the model's own limit.
            max_dets_per_image: see COCOEvaluator.
            use_fast_impl: evaluate boxes by faster-coco-eval, which is compiled; the numbers are the same.

        Raises:
            ValueError: an unknown category, or a set made for another number of categories.
            ImportError: faster-coco-eval is asked for and not installed.
        """
        if use_fast_impl:
            require_compiled()
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=use_fast_impl,
        )
        # Detectron2 writes into the file that was there before: what is cut off would be lost, and half of
        # another in its place.
        self._folder, self._output_dir = self._output_dir, None
        self._leave_out_dropped(dataset_name)
        complete_ground_truth(self._coco_api)
        self._top_k = top_k
        self._image_ids: Sequence[int] | None = None
        complete_metadata(dataset_name, self._coco_api.dataset["categories"])
        self._dataset_ids = dataset_ids(dataset_name)
        self._sets = self._resolve(list(category_sets))

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the detections of a batch, those under the transform for every set; logits are not kept."""
        for image, output in zip(inputs, outputs, strict=True):
            before = len(self._predictions)
            super().process([image], [output])
            if "queries" in output and len(self._predictions) > before:
                self._predictions[-1]["critical"] = self._transformed(output["queries"].to(self._cpu_device))

    def _transformed(self, queries: Instances) -> dict[str, CriticalDetections]:
        boxes = queries.pred_boxes.tensor.numpy()
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        logits = queries.logits.double() if queries.logits.element_size() == 8 else queries.logits.float()
        detections = {}
        for category_set in self._sets:
            scores, classes, chosen = select_detections(
                collapse_logits(logits, category_set), num_collapsed(category_set), self._top_k
            )
            critical = classes < len(category_set)
            ids = np.array([self._dataset_ids[i] for i in category_set.indices])
            detections[category_set.name] = CriticalDetections(
                boxes[chosen[critical].numpy()], scores[critical].numpy(), ids[classes[critical].numpy()]
            )
        return detections

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Detectron2's hook between gathering and results: adds the metrics under the transform."""
        self._image_ids = img_ids
        if self._folder:
            path = os.path.join(self._folder, "instances_predictions.pth")
            write_atomically(path, lambda file: torch.save(predictions, file))
        results = [result for found in predictions for result in found["instances"]]
        keys = {key for result in results for key in result}
        with detectron2_evaluates_by(self._use_fast_impl):
            super()._eval_predictions(predictions, img_ids=img_ids)
        # Within, ids have become those of the data set; what pycocotools has added is left out.
        written = [{key: value for key, value in result.items() if key in keys} for result in results]
        self._write("coco_instances_results", written)
        if "bbox" not in self._results:
            return
        if all("critical" in prediction for prediction in predictions):
            for category_set in self._sets:
                self._results["bbox"].update(self._critical_metrics(predictions, category_set))
        elif self._sets:
            log_first_n(
                logging.WARNING,
                "The model's outputs carry no logits ('queries'): critical sets are evaluated by filtering "
                "only, there is no APcrit",
                name=__name__,
            )
        if self._sets:
            self._log_table()
        if self._folder:
            save_record(self._folder, self._results["bbox"], self._metadata, self._coco_api, self._sets)

    def _critical_metrics(
        self, predictions: list[dict[str, Any]], category_set: CategorySet
    ) -> dict[str, float]:
        results = [
            result
            for prediction in predictions
            for result in prediction["critical"][category_set.name].to_coco(prediction["image_id"])
        ]
        self._write(f"critical_{category_set.name}_results", results)
        ids = self._set_ids(category_set)
        evaluation = self._evaluate_boxes(results, ids)
        return set_metrics(evaluation, ids, "APcrit", category_set.name)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Detectron2's hook after the evaluation of all categories: adds filtered and per-category AP."""
        if iou_type != "bbox":
            return super()._derive_coco_results(coco_eval, iou_type, class_names)
        # Without any detection Detectron2 evaluates nothing and reports NaN; finding nothing is an AP of 0.
        if coco_eval is None:
            coco_eval = self._evaluate_boxes([], self._dataset_ids)
            with quiet():
                coco_eval.summarize()
        results = {
            key: value
            for key, value in super()._derive_coco_results(coco_eval, iou_type, class_names).items()
            if not key.startswith("AP-")
        }
        for category_set in self._sets:
            results |= set_metrics(coco_eval, self._set_ids(category_set), "AP", category_set.name)
        names = metric_names(self._metadata.thing_classes, self._dataset_ids)
        for name, id_ in zip(names, self._dataset_ids, strict=True):
            results[f"APcat_{name}"] = mean_precision(coco_eval, [id_])
        return results

    def _write(self, name: str, results: list[dict[str, Any]]) -> None:
        if self._folder:
            write_text(os.path.join(self._folder, f"{name}.json"), json.dumps(results))

    def _evaluate_boxes(self, results: list[dict[str, Any]], category_ids: Sequence[int]) -> COCOeval:
        return evaluate_boxes(
            self._coco_api,
            results,
            category_ids,
            self._image_ids,
            self._max_dets_per_image,
            compiled_evaluation if self._use_fast_impl else COCOeval,
        )

    def _set_ids(self, category_set: CategorySet) -> list[int]:
        return [self._dataset_ids[i] for i in category_set.indices]

    def _resolve(self, specs: list[CategorySet | str]) -> list[CategorySet]:
        sets = resolve_category_sets(specs, self._metadata)
        if specs and not sets:
            log_first_n(
                logging.INFO,
                "The data set gives its categories no super-category: there is no critical set; name some in "
                "CRITICAL.SETS, as in 'name=category+category'",
                name=__name__,
            )
        return sets

    def _leave_out_dropped(self, dataset_name: str) -> None:
        """What registration has left out (DATASETS.DROP_BAD_BOXES) is nothing to find either."""
        dataset = DatasetCatalog.data.get(dataset_name)
        if isinstance(dataset, CocoDataset) and dataset.drop_bad_boxes:
            keep_annotations(self._coco_api, dataset.annotations.positions)

    def _log_table(self) -> None:
        metrics = self._results["bbox"]
        columns = ("AP", "AP50", "APcrit", "APcrit50")
        rows = [
            [category_set.name, len(category_set)]
            + [metrics.get(f"{column}_{category_set.name}", float("nan")) for column in columns]
            for category_set in self._sets
        ]
        table = tabulate(rows, ["set", "categories", *columns], tablefmt="pipe", floatfmt=".3f")
        logger.info("Critical sets:\n%s", table)
