"""What a run does beside its updates, and what that will still cost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Activity:
    """What something beside the updates, such as evaluation, has cost so far, in seconds, and what it will cost."""

    count: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)  # of the last three
    first_at: float = 0.0  # training seconds at the first and the last one
    last_at: float = 0.0
    more: int | None = None  # how often it will come again, where that is known
    spare: float = 0.0  # seconds that the last one may take beyond the worst so far

    def add(self, seconds: float, at: float, more: int | None = None) -> None:
        self.first_at = self.first_at if self.count else at
        self.count, self.seconds, self.last_at, self.more = self.count + 1, self.seconds + seconds, at, more
        self.recent = [*self.recent[-2:], seconds] if self.count > 1 else [seconds]

    @property
    def certain(self) -> float:
        """Seconds that will surely come: the known number of times, or once more; the last at the worst recent cost."""
        if self.more == 0:
            return 0.0
        worst = max(self.recent)
        return ((self.more or 1) - 1) * (self.seconds / self.count if self.count else worst) + worst

    def doubt(self, free: float) -> None:
        """Keep a spare for the last one: the more those before differed, and the fewer they were, the more of it.

        Args:
            free: seconds left for training, of which a third may go to it.
        """
        worst = max(self.recent)
        if self.count < 2:  # none was seen, or one: estimates that agree leave a part of the doubt
            doubt = 0.75 * worst / len(self.recent)
        else:
            doubt = min(worst / self.count, 4 * (worst - min(self.recent)))
        self.spare = 0.0 if self.more == 0 else max(0.0, min(doubt, free / 3))

    def rate(self, at: float) -> float:
        """Seconds of it for each second of training, where it came at least twice and nobody said how often it will."""
        if self.count < 2 or self.more is not None:
            return 0.0
        interval = (self.last_at - self.first_at) / (self.count - 1)
        span = max(self.last_at, at - interval) - self.first_at
        return (self.count - 1) * (self.seconds / self.count) / span if span > 0 else 0.0
