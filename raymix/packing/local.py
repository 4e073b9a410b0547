"""A trial that has a pack to itself, in this process: `raymix train`, tests, and whoever trains without Ray."""

from __future__ import annotations

from raymix.algorithms import base
from raymix.checkpoint import Checkpoint
from raymix.config import AlgorithmConfig
from raymix.evaluation.weights import PolicyWeights
from raymix.learner.learner import Learner
from raymix.packing.boundary import Boundary
from raymix.packing.seating import Seating
from raymix.types import Dataset


class LocalPack:
    """Trains the members of one configuration, one per seed, to the end of the algorithm's last phase."""

    def __init__(
        self,
        algorithm: str,
        config: AlgorithmConfig,
        seeds: list[int],
        dataset: Dataset,
        report_every: int,
        device: str = "cpu",
        capture: str = "auto",
        held_out: float = 0.0,
    ) -> None:
        self.algorithm, self.config, self.seeds, self.dataset = base.find(algorithm), config, seeds, dataset
        self._report_every = report_every
        widths = [len(seeds)] * len(self.algorithm.phases)
        self._seating = Seating(algorithm, config, dataset, widths, device, capture, held_out)
        self.restore(None)

    def restore(self, start: Checkpoint | None) -> None:
        """Go on from a checkpoint of these seeds, never taking its hyperparameters; None: from the beginning."""
        self._seating.leave("alone")
        self._seating.join("alone", self.config, self.seeds, self._report_every, start)
        self._at = self._seating.standing("alone")

    def advance(self) -> Boundary:
        """Train to the next multiple of `report_every`, or to the end of the phase."""
        if self.finished:
            raise RuntimeError("this pack has finished its last phase")
        while (boundary := self._seating.take("alone")) is None:
            self._seating.advance()
        self._at = boundary
        return boundary

    def boundary(self) -> Boundary:
        """Where training stands now."""
        return self._at

    @property
    def finished(self) -> bool:
        """Whether the last phase is done."""
        return self._at.finished

    @property
    def diverged(self) -> list[bool]:
        """Per seed: a loss or a weight was not finite."""
        return self._at.diverged

    @property
    def learner(self) -> Learner:
        """The learner of the phase that trained last; seat i holds seed i."""
        return self._seating.learner([phase.name for phase in self.algorithm.phases].index(self._at.phase))

    def policies(self) -> list[PolicyWeights]:
        """The members' policies as they are now; empty before the last phase."""
        return self._at.policies
