"""Learning who is who: a margin softmax over the people of the training set, seen at several ages and scenes.

Each person is a direction that all their portraits are drawn to, child and aged alike, against the directions of all
others: a face meets every lookalike at each step. Contrasts within a batch would have to find a person's two other
portraits and the few people like them among thousands, and would need batches made up for it.

Source: Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition"; the cosine margin is
CosFace's (Wang et al. 2018), in ArcFace's combined form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.data.sources import ImageSource, labels_of
from sam_age.errors import InputError
from sam_age.evaluation.judges import Verification
from sam_age.models.ops import at_least_float32


def with_margin(cosine: Tensor, person: Tensor, angle: float, gap: float) -> Tensor:
    """Make each face's own person harder to reach: cos(theta) becomes cos(theta + angle) - gap.

    Args:
        cosine: (N, P) of each face with each person.
        person: (N,) whose face it is; rows with a person below 0 stay as they are.
        angle: radians, 0 to pi / 2.
        gap: 0 or more.
    Returns:
        (N, P). Where theta + angle would pass pi, and the cosine turn round, a line that falls on goes on instead.

    >>> with_margin(torch.tensor([[0.5, 0.1]]), torch.tensor([0]), angle=math.pi / 6, gap=0.25)
    tensor([[-0.2500,  0.1000]])
    """
    mine = person.clamp_min(0)[:, None]
    own = cosine.gather(1, mine)
    sine = (1 - own.square()).clamp_min(1e-12).sqrt()  # its gradient ends before 0
    turned = own * math.cos(angle) - sine * math.sin(angle)
    harder = torch.where(own > -math.cos(angle), turned, own - math.cos(math.pi - angle) - 1) - gap
    return cosine.scatter(1, mine, torch.where(person[:, None] >= 0, harder, own))


class People(nn.Module):
    """A direction for each person, drawn to their faces as these are drawn to it.

    Args:
        people: how many.
        embedding_dim: length of a direction's vector; its own length means nothing.
    """

    def __init__(self, people: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = {"people": people, "embedding_dim": embedding_dim}
        # short at first, as ArcFace's are: each step then turns them further
        self.weight = nn.Parameter(0.01 * torch.randn(people, embedding_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (N, D) -> their cosines with each person, (N, people)."""
        return embeddings @ F.normalize(self.weight).T


class IdentityTask(nn.Module):
    """An identity network and what it learns by: telling all people of the training set apart, by a margin.

    Args:
        network: faces (N, 3, H, W) -> unit embeddings (N, D), e.g. a `FaceEmbedder`.
        people: how many there are; their labels are 0 to people - 1.
        scale: cosines are multiplied by it before the softmax.
        angle: ArcFace's margin, radians.
        gap: CosFace's margin, of the cosine.
        margin_steps: over these first steps both margins grow from 0, while people have no directions yet.
    """

    score, higher_is_better = "eer", False

    def __init__(
        self,
        network: nn.Module,
        people: int,
        *,
        scale: float = 32.0,
        angle: float = 0.3,
        gap: float = 0.0,
        margin_steps: int = 0,
    ) -> None:
        super().__init__()
        dim = getattr(network, "config", {}).get("embedding_dim")
        if dim is None:
            raise InputError(
                f"{type(network).__name__} does not say its embedding_dim: give a FaceEmbedder or its like."
            )
        if people < 2 or scale <= 0 or not 0 <= angle < math.pi / 2 or gap < 0 or margin_steps < 0:
            raise InputError(
                f"people {people}, scale {scale}, angle {angle}, gap {gap}, margin_steps {margin_steps}: at least two "
                "people, a scale above 0, an angle from 0 to below pi / 2, and the others at least 0."
            )
        self.network = network
        self.people, self.scale, self.angle, self.gap, self.margin_steps = people, scale, angle, gap, margin_steps
        self.directions = People(people, dim)
        self.verification = Verification()

    def check(self, source: ImageSource) -> None:
        """Whether the training set says who is in its pictures, and of no more people than there are directions.

        Raises:
            InputError: it does not.
        """
        if "person" not in labels_of(source, 0):
            raise InputError(
                f"{source.name(0)}: nobody says who this is. The identity network learns from people's names."
            )
        if (people := getattr(source, "people", self.people)) > self.people:
            raise InputError(f"There are {people} people to learn; set module.tasks.identity.people={people}.")

    def loss(self, faces: Tensor, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over people, a scalar, and terms for the log. Faces of nobody known count for nothing.

        faces: (N, 3, H, W) RGB in [-1, 1]; batch["person"]: (N,), below 0 where unknown; step: of the training.
        """
        person = batch["person"]
        known = (person >= 0).float()
        embeddings = at_least_float32(self.network(faces))
        with torch.autocast(faces.device.type, enabled=False):
            cosine = self.directions(embeddings)
        grown = min(1.0, step / self.margin_steps) if self.margin_steps else 1.0
        logits = self.scale * with_margin(cosine, person, grown * self.angle, grown * self.gap)
        each = F.cross_entropy(logits, person.clamp_min(0), reduction="none")
        count = known.sum().clamp_min(1)
        loss = (each * known).sum() / count
        right = ((cosine.argmax(1) == person) * known).sum() / count
        own = (cosine.gather(1, person.clamp_min(0)[:, None])[:, 0] * known).sum() / count
        return loss, {"loss": loss.detach(), "accuracy": right, "cosine": own.detach()}

    def observe(self, network: nn.Module, faces: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Validation: where `network`, this task's own or its average, puts the faces."""
        self.verification.update(network(faces), batch["person"], batch.get("kin"))

    def scores(self) -> dict[str, float]:
        """Of all faces observed since the last call, over all ranks; see `Verification`."""
        scores = self.verification.compute()
        self.verification.reset()
        return scores

    def describe(self, network: nn.Module, faces: Tensor, batch: Mapping[str, Tensor]) -> list[str]:
        """A caption for each face of a panel: how like the first it is."""
        cosine = (network(faces) @ network(faces[:1])[0]).tolist()
        return [f"cosine to the first {value:.2f}" for value in cosine]

    def companions(self) -> dict[str, nn.Module]:
        """The people's directions: without them a run that starts from weights would look for everybody anew."""
        return {"people": self.directions}
