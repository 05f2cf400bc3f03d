"""How a swarm thinks: its role, how many are awake, samples, judging. And the name of a run, by which it is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from warpcortex_cli.errors import UsageError

if TYPE_CHECKING:
    from warpcortex_cli.profile import Profile, Role

_NO_DEADLINE = 86_400.0  # seconds; nobody waits for a Stream here, so a slow machine gives the same thoughts


@dataclass(frozen=True)
class Plans:
    """How a swarm thinks.

    Attributes:
        role: of all its Streams.
        awake: how many of them at once.
        samples: Streams for each task.
        judge: whether the Gate judges each thought by what the River has read.
        temperature: of the Streams; None: the profile's.
    """

    role: str
    awake: int
    samples: int = 1
    judge: bool = False
    temperature: float | None = None

    def role_of(self, profile: Profile) -> Role:
        """The role, as Streams of a swarm have it.

        Raises:
            UsageError: the profile has none of that name.
        """
        for role in profile.roles:
            if role.name == self.role:
                patient = {"deadline_seconds": _NO_DEADLINE} if role.work == "model" else {}
                return role.model_copy(update={"judged": self.judge, "offers": "end", "arrives": "aside", **patient})
        names = ", ".join(role.name for role in profile.roles) or "none"
        raise UsageError(f"the profile {profile.name} has no role {self.role!r}.", f"Its roles are: {names}.")

    def applied(self, profile: Profile) -> Profile:
        """The profile with room for all that are awake."""
        limits = profile.limits.model_copy(update={"streams": self.awake, "queue": self.awake})
        injection = profile.injection.model_copy(update={"enabled": True})
        sampling = profile.stream_sampling
        if self.temperature is not None:
            sampling = sampling.model_copy(update={"temperature": self.temperature})
        return profile.model_copy(update={"limits": limits, "injection": injection, "stream_sampling": sampling})

    def run(self, profile: Profile, *besides: object) -> str:
        """Eight hexadecimal digits that stand for all that decides what is written, but for the tasks themselves.

        Args:
            besides: what the profile does not say: the model, the seed, the notes.
        """
        own = {name: value for name, value in asdict(self).items() if name != "awake"}
        said = json.dumps([own, profile.model_dump(mode="json"), [str(part) for part in besides]])
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
