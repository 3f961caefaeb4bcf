"""Ray Train's trainer without actors that a run has no use for.

For every group of ranks Ray Train 2.60 starts an actor that hands out shards of Ray Data sets, and one that asks the
autoscaler for the group's nodes. Samples come from ``pipeline.data`` here, and nodes are asked for by
``jobs.train.places``. Each of the two is a process that imports Ray Data before the first rank starts: together 5 of
the 40 CPU seconds of a small training on two cores.

A third actor, which outlives the driver, removes the placement group of a run that was killed. A private Ray ends with
its driver, and has no state API that the actor could ask.
"""

from __future__ import annotations

from typing import Any

import ray.train.torch
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from jobs.cluster.connect import is_private


class _GivenNumber(FixedScalingPolicy):
    """As many ranks as the configuration says, and no request to the autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(ray.train.torch.TorchTrainer):
    """See the module. It names parts of Ray Train 2.60, the pinned version, that are not its interface: another version
    needs a look here.
    """

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        useless = () if self.datasets else (DatasetsCallback,)
        if is_private():
            useless += (PlacementGroupCleanerCallback,)
        if "callbacks" in options:
            options["callbacks"] = [each for each in options["callbacks"] if not isinstance(each, useless)]
        if isinstance(options.get("scaling_policy"), FixedScalingPolicy):
            options["scaling_policy"] = _GivenNumber(scaling_config=self.scaling_config)
        return super()._initialize_and_run_controller(**options)
