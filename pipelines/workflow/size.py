"""How large the Workflow of a run becomes, which a cluster keeps as one object, and what ends above which size.

The nodes are those of `hrf_pipelines.workflow.model`. What Kubeflow makes of a package beside them, templates and
arguments, is counted as its compiler writes them; that part has not been compared with a real one.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrf.errors import ConfigError
from hrf_pipelines.package import dags_of, read_package
from hrf_pipelines.workflow.model import Retried, WorkflowModel

#: Argo packs the nodes of a larger Workflow, and from then on Kubeflow's API and its UI learn nothing of its tasks. If
#: it is larger than that even so, Argo gives up.
MOST_UNPACKED = 1 << 20
#: What etcd takes at once. Kubeflow's Retry writes the Workflow back unpacked.
MOST_RETRIED = 3 << 19
#: Of the system's templates (drivers, executors), and of each task in the template of its pipeline.
_TEMPLATES, _TASK = 15_000, 900
#: Argo's own gzip packs less tightly: 151 kB of the recorded run's 1.4 MB, where this module's has 127 kB.
_PACKED_LARGER = 1.2


@dataclass(frozen=True, kw_only=True)
class WorkflowSize:
    """What a run's Workflow comes to at the run's end."""

    num_steps: int
    """Tasks that have a pod for their work."""
    num_nodes: int
    """Entries of the Workflow's status."""
    nodes_bytes: int
    """Of all nodes."""
    packed_bytes: int
    """Of the same once Argo has packed them."""
    spec_bytes: int
    """What Argo is told to run."""

    @property
    def total_bytes(self) -> int:
        """Of the whole object, unpacked."""
        return self.spec_bytes + self.nodes_bytes

    @property
    def is_shown(self) -> bool:
        """Whether Kubeflow's UI and its API tell of tasks up to the end."""
        return self.total_bytes <= MOST_UNPACKED

    @property
    def can_be_retried(self) -> bool:
        """Whether Retry in Kubeflow's UI is possible up to the end."""
        return self.total_bytes <= MOST_RETRIED

    @property
    def can_run(self) -> bool:
        """Whether Argo can keep it at all."""
        return self.spec_bytes + self.packed_bytes <= MOST_UNPACKED

    def in_words(self) -> str:
        """Size and consequences, in a sentence or two."""
        size = f"{self.num_nodes} nodes, about {megabytes(self.total_bytes)} at the end"
        if self.is_shown:
            most = megabytes(MOST_UNPACKED)
            return f"{size}; up to {most} Kubeflow's UI shows each task, and its Retry works"
        silent = (
            f"{size}. Above {megabytes(MOST_UNPACKED)} Kubeflow's UI and API tell nothing of tasks any more; "
            "`hrf runs show` and the report do"
        )
        if self.can_be_retried:
            return f"{silent}. Its Retry works up to {megabytes(MOST_RETRIED)}"
        return (
            f"{silent}. Above {megabytes(MOST_RETRIED)} its Retry is refused; `hrf runs resume` goes on with such a run"
        )


def estimate(package: str, retried: Retried = "every") -> WorkflowSize:
    """Estimate the Workflow of a run of a package."""
    documents = read_package(package)
    return measure(WorkflowModel.of(documents, retried=retried), documents)


def measure(model: WorkflowModel, documents: Sequence[Mapping[str, Any]]) -> WorkflowSize:
    """Measure a Workflow."""
    # As the object holds them: by their ids, which are in no order.
    nodes = json.dumps(dict(sorted((node["id"], node) for node in model.nodes)), separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(nodes, 6))
    return WorkflowSize(
        num_steps=sum(node["templateName"] == "system-container-driver" for node in model.nodes if _begins(node)),
        num_nodes=len(model.nodes),
        nodes_bytes=len(nodes),
        packed_bytes=int(_PACKED_LARGER * len(packed)),
        spec_bytes=_spec_bytes(documents),
    )


def check_size(size: WorkflowSize) -> None:
    """Refuse a run that Argo could not keep.

    Raises:
        ConfigError: Its Workflow is too large even when it is packed.
    """
    if not size.can_run:
        raise ConfigError(
            "run.epochs",
            expected=f"a run whose Workflow, packed, has at most {megabytes(MOST_UNPACKED)}",
            got=f"{megabytes(size.spec_bytes + size.packed_bytes)} for {size.num_steps} steps",
            fix="train several epochs per step (run.epochs_per_step), evaluate less often, or chain shorter runs",
        )


def megabytes(number: int) -> str:
    """Such as `1.05 MB`."""
    return f"{number / 1e6:.2f} MB"


def _begins(node: Mapping[str, Any]) -> bool:
    """Whether it is the first, or the only, node of what it runs."""
    return not node.get("nodeFlag", {}).get("retried", False)


def _spec_bytes(documents: Sequence[Mapping[str, Any]]) -> int:
    """Each component, container and Kubernetes setting is an argument of the Workflow; each task is in a template."""
    spec, *platforms = documents
    arguments = [*spec["components"].values(), spec["root"], *spec["deploymentSpec"]["executors"].values(), *platforms]
    tasks = [task for dag in dags_of(spec) for task in dag["tasks"].values()]
    # As text within JSON, whose quotes take two bytes.
    texts = [json.dumps(json.dumps(part, separators=(",", ":"))) for part in (*arguments, *tasks)]
    return _TEMPLATES + _TASK * len(tasks) + sum(map(len, texts))
