"""The drop-in: a ledger and a schedule bound to an optimizer, in anybody's training loop.

The rate is set in the optimizer's own pre-step hook and the update counted in its post-step hook. Accumulated
micro-batches and updates that mixed precision skips never reach the hooks, so they are not counted.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..core.budget import Amount, Budget, Cap, Deadline, Limit, Terms
from ..core.clock import process_age
from ..core.compose import Cooldown, Over, Warmup, absolute_warmup, ends_low
from ..core.drive import driver, phase_caps, position
from ..core.errors import BudgetError, BudgetWarning, ScheduleError
from ..core.ledger import Ledger
from ..core.schedule import Plateau, PlateauState, Points, Schedule
from ..core.signals import Signals
from ..core.spec import schedule as read_schedule
from ..core.text import format_number, format_seconds
from ..core.trace import Trace
from .energy import meter
from .knobs import Knobs, put
from .pipeline import Pipeline, device_of
from .probe import Gradient, full_gradient
from .ranks import several_ranks
from .schedule_free import is_schedule_free
from .shared import SharedLedger
from .tally import Tally

Batch = TypeVar("Batch")
Hook = Callable[[Optimizer, Any, Any], None]
_ANCHORS = ("now", "process", "first step")
_HOW_TO_COUNT = {
    "samples": "samples_per_step=, use run.over(loader) or call run.count(samples=...)",
    "tokens": "tokens_per_step=, tokens_in= with run.over(loader), or call run.count(tokens=...)",
    "flops": "flops_per_step=, use run.over(loader) or call run.count(flops=...)",
}


def attach(
    optimizer: Optimizer | Sequence[Optimizer],
    budget: Budget | Limit | str,
    schedule: Schedule | Plateau | str | Mapping[str, Any] = "linear",
    *,
    warmup: str | Limit | None = None,
    steps_per_epoch: int | None = None,
    full: Budget | str | None = None,
    samples_per_step: float = 0,
    tokens_per_step: float = 0,
    flops_per_step: float = 0,
    tokens_in: Callable[[Any], float] | None = None,
    energy: Callable[[], float] | None = None,
    devices: int = 1,
    anchor: str | float = "now",
    reserve: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Run:
    """Let a budget drive an optimizer's learning rate to its end exactly when the budget ends.

    Where torch.distributed has several ranks, all of them attach, and share one ledger: rank 0's clocks count, samples,
    tokens and FLOPs are summed, and rates and the stop are the same on all ranks at every update.

    Args:
        optimizer: any PyTorch optimizer, or several on one ledger in the order in which a turn of the loop steps them; an
            update of the last counts as a step.
        budget: text such as `45min or 30ep`, or a `Budget`.
        schedule: text such as `linear` or `step(2/3, 8/9)`, a dict, a `Schedule` or a `Plateau`.
        warmup: a ramp before the schedule, `500 steps` or `5%`; an absolute one is the same at every budget.
        steps_per_epoch: optimizer updates in an epoch; needed where epochs are a limit.
        full: the full budget that `5%` is a share of.
        samples_per_step, tokens_per_step, flops_per_step: what one update spends, where that is constant; see also
            `Run.count`. Without `flops_per_step`, FLOPs are counted in what runs between two batches of `Run.over`.
        tokens_in: the number of tokens in a batch, asked of every batch of `Run.over`.
        energy: a counter of joules, such as a power meter's; the device's own where none is given.
        devices: accelerators that the run holds, for GPU-hours.
        anchor: what seconds are counted from: `now`, `process` (its start) or `first step`; or how many are spent.
        reserve: seconds to keep for what comes after training, beside what `measure` finds out.
        clock, wall: the monotonic and the wall clock, in seconds.

    Raises:
        BudgetError: for a budget that cannot be kept: an unknown epoch length, an unmeasured unit, no time left.
        ScheduleError: for an unknown schedule, or an optimizer that something else drives already.
    """
    optimizers = [_unwrapped(o) for o in ([optimizer] if isinstance(optimizer, Optimizer) else optimizer)]
    if not optimizers or len({id(o) for o in optimizers}) < len(optimizers):
        raise ScheduleError("give an optimizer, or several different ones")
    _require_whole("steps_per_epoch", steps_per_epoch)
    _require_whole("devices", devices)
    if not 0 <= reserve < math.inf:
        raise BudgetError(f"reserve is seconds to keep, at least 0 and finite, and is {reserve}")
    plan, budget = read_schedule(schedule), Budget.of(budget)
    if warmup is not None:
        plan = _with_warmup(plan, warmup)
    terms = Terms(steps_per_epoch, Budget.of(full) if full else None, devices)
    caps, phases = budget.caps(terms), phase_caps(plan, terms)
    warmup_caps = () if isinstance(plan, Over) else phases
    _require_room(warmup_caps, caps)
    limited = {cap.resource for cap in (*caps, *phases)}
    if "joules" in limited and energy is None:
        energy = meter(device_of(optimizers[-1]))
    elapsed = _elapsed(anchor)
    ledger = (SharedLedger if several_ranks() else Ledger)(
        caps, warmup=warmup_caps, elapsed=elapsed, reserve=reserve, clock=clock, wall=wall, meter=energy
    )
    if ledger.done:
        kept = f", and {format_seconds(reserve)} are kept in reserve" if reserve else ""
        raise BudgetError(
            f"budget '{budget}': nothing is left of it to train in; {format_seconds(elapsed)} had passed before "
            f"the first update{kept}. Give a longer one, or another anchor"
        )
    driven = {"momentum", "beta1"} & set(plan.drives if isinstance(plan, Schedule) else ())
    if driven and any(is_schedule_free(o) for o in optimizers):
        raise ScheduleError(
            f"schedule '{plan}' drives {driven.pop()}, of which a schedule-free optimizer makes its average; leave that out"
        )
    tally = Tally(samples_per_step, tokens_per_step, flops_per_step, tokens_in, limited)
    return Run(optimizers, budget, plan, ledger, terms, caps, phases, tally, anchor)


class Run:
    """A budget at work: what `attach` returns. All that changes in it is the ledger."""

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        budget: Budget,
        schedule: Schedule | Plateau,
        ledger: Ledger | SharedLedger,
        terms: Terms,
        caps: Sequence[Cap],
        phases: Sequence[Cap],
        tally: Tally,
        anchor: str | float,
    ) -> None:
        self.budget, self.schedule, self.ledger, self.anchor = budget, schedule, ledger, anchor
        self.factor = math.nan  # of the last update that ran
        self._terms, self._caps = terms, tuple(caps)
        self._began = terms.moment()  # the day that 'until 18:00' is on
        self._phases = tuple(phases)  # the length of an absolute warm-up, or of the schedule's own horizon
        self._tally = tally
        self._trace: Trace | None = None  # another run's rates, where they are followed
        self._ask_for_proof()
        self._plateau = PlateauState()
        self._wasted = False
        self.probes: list[Probe] = []  # what `probe` measured
        self.hear: Callable[[Any], None] = _nothing_to_do  # with what rank 0 announces, on all ranks at the same update
        if isinstance(ledger, SharedLedger):
            ledger.hear = self._hear
        curves = dict(schedule.drives) if isinstance(schedule, Schedule) else {}
        self._knobs = [Knobs(optimizer, curves) for optimizer in optimizers]
        for knobs in self._knobs:
            knobs.claim()
        # Counted at the last, so that every optimizer's update k runs at s(k/T), and none at the end before it has ended.
        self._pipeline = Pipeline.of(optimizers[-1], ledger)
        self._handles = [k.optimizer.register_step_pre_hook(_nothing) for k in self._knobs]
        self._handles.append(optimizers[-1].register_step_post_hook(_nothing))
        self._bind()
        self._starter: RemovableHandle | None = None
        if anchor == "first step":
            ledger.hold_clock()
            start = _eager(lambda *_: ledger.start_clock(), optimizers[0])
            self._starter = optimizers[0].register_step_pre_hook(start)

    def __repr__(self) -> str:
        state = "done" if self.ledger.ended_by else f"at p = {self.progress:.4f}"
        return f"<Run: budget {self.budget}, schedule {self.schedule}, {state}>"

    # What a loop asks

    @property
    def done(self) -> bool:
        """Whether training is over: the budget for it is spent, or the run was interrupted. Stop updating, evaluate, save."""
        ledger = self.ledger
        if ledger.ended_by is not None or ledger.interrupted is not None:
            return True
        if not ledger.done:
            return False
        self._hold_end()  # time ran out between two updates
        return True

    @property
    def progress(self) -> float:
        """Progress p through the budget, 0 to 1."""
        if self._trace is not None:
            return self._position()
        return self.ledger.progress

    @property
    def remaining(self) -> dict[str, float]:
        """What is left for training, by resource, for instance `{"steps": 120.0, "seconds": 33.1}`."""
        return self.ledger.remaining()

    def over(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the loader's batches until training is over, and count what is in them.

        Samples are the length of a batch's first tensor, tokens what `tokens_in` says; FLOPs, where the budget limits
        them, what the loop's body runs.
        """
        if self.done:
            return  # without a batch, or the workers that would make it
        for batch in self._same_number(loader):
            if self.done:
                return  # time ran out while the batch was made
            with self.counted(batch):
                yield batch
            if self.done:
                return

    def _same_number(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """As many batches on every rank as the one with the fewest has: a rank without one would leave the rest waiting."""
        ledger = self.ledger
        if isinstance(ledger, Ledger):
            yield from loader
        elif isinstance(loader, Sized):
            yield from itertools.islice(loader, ledger.agree(len(loader)))
        else:
            batches, nothing = iter(loader), object()
            while ledger.agree((batch := next(batches, nothing)) is not nothing):
                yield batch  # type: ignore[misc]

    def counted(self, batch: Any) -> AbstractContextManager[None]:
        """A context that counts a batch as `over` does, for a loop that gets its batches elsewhere."""
        return self._tally.around(batch)

    @contextmanager
    def measure(self, name: str = "evaluation", more: int | None = None) -> Iterator[None]:
        """Time what happens inside, and keep as much in reserve so that the next one ends inside the budget.

        Args:
            name: what it is; each name has its own forecast.
            more: how often it will come again, if known; else its rhythm so far, and once at the end.

        A step of the optimizer inside is no update: it keeps the rate that it has, and is not counted.
        """
        with self._unhooked(), self._tally.aside(), self.ledger.measure(name, more):
            yield

    def every(self, seconds: float) -> Callable[[], bool]:
        """A question for after each update: whether so many seconds have gone by since it was last answered with yes.

        All ranks get the same answer at the same update, so each must ask. At a yes they agree on what is spent, and
        `state_dict` holds all of it; what is done then, such as a checkpoint, does not count towards the next. Once
        training is over the answer is no.

        Raises:
            BudgetError: where seconds is negative or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise BudgetError(f"every takes seconds, at least 0 and finite, and was given {seconds!r}")
        ledger, since, answered = self.ledger, self.ledger.seconds, False

        def due() -> bool:
            nonlocal since, answered
            if self.done:
                return False
            if answered:
                self._synchronise()  # all learn how long it took
                since = ledger.seconds
            answered = ledger.seconds - since >= seconds
            if answered:
                self._synchronise()
            return answered and not self.done

        return due

    def probe(
        self,
        model: torch.nn.Module,
        loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
        batches: Iterable[Batch],
        *,
        of: float | None = None,
        charged: bool = True,
        more: int | None = None,
    ) -> Probe:
        """Measure the norm of the full gradient between two updates; nothing of the training is changed by it.

        Under budgeted convergence it follows the rate down to nothing (Li et al., section 5, figure 4). What was measured is
        kept in `run.probes`, and its first and last one are in the summary.

        Args:
            model, loss, batches, of: as of `train.probe.full_gradient`: the loss of a model and a batch is a mean, the
                batches are the training set, or with `of` a random part of it, which has so many samples.
            charged: whether the budget pays for it; where not, no second of it counts, except against a deadline.
            more: how often it will come again, if known, as of `measure`.

        Raises:
            BudgetedError: as `full_gradient`, and for charged=False in a run of several ranks.
        """
        ledger = self.ledger
        paid = ledger.measure("probe", more) if charged else ledger.uncharged()
        with self._unhooked(), self._tally.aside(), paid:
            found = full_gradient(model, loss, batches, of=of)
        self.probes.append(Probe(ledger.steps, self.progress, self.next_factor, found))
        return self.probes[-1]

    def count(self, samples: float = 0, tokens: float = 0, flops: float = 0) -> None:
        """Say what the update under way spends; micro-batches of one update add up."""
        self._tally.add(samples, tokens, flops)

    def report(self, figure: float) -> None:
        """Tell drop-on-plateau the metric; other schedules do not look at it."""
        if isinstance(self.schedule, Plateau):
            self._plateau = self.schedule.report(self._plateau, figure)

    def extend(self, budget: Budget | str | None = None, *, by: Budget | str | None = None) -> None:
        """Go on under another budget, longer or shorter: the decay bends from where it is to the new end.

        Of several ranks, rank 0's call counts, whether the others make it or not: all change over at the same update,
        within about 50 ms. Where training ends before that, a `BudgetWarning` says so.

        Args:
            budget: the new one.
            by: or what the old one is to have more, such as `1h`.

        Raises:
            BudgetError: where the run has ended, or the new budget is spent already.
        """
        if (budget is None) == (by is None):
            raise BudgetError("give the new budget, or by= what it is to have more")
        if self._is_for_rank_0():
            return
        if by is not None:
            budget = self.budget.plus(by, devices=self._terms.devices, now=self._began)
        new = Budget.of(budget)  # type: ignore[arg-type]
        if not self._left_to_all("extend", new):
            self._change(new)

    def stop_in(self, more: Budget | Limit | str, cooldown: Schedule | str | None = "auto") -> None:
        """Have the run end after so much more, such as `5min` or `500 steps`, its rate brought down over just that.

        Of several ranks, rank 0's call counts, as in `extend`.

        Args:
            more: one limit, counted from now.
            cooldown: the shape in which the rate goes to its end from where it is, such as `linear`; None leaves the end
                of the schedule to bring it down, quickened; `auto` is None where that end is low, else `linear`.

        Raises:
            BudgetError: where the run ends sooner anyway, or has ended.
        """
        if self._is_for_rank_0():
            return
        budget = self._sooner(more)
        schedule = self._cooled(cooldown)
        if self._left_to_all("stop_in", more, cooldown):
            return
        self._change(budget)
        if schedule is not self.schedule:
            self.schedule = schedule
            self._bind()

    def interrupt(self, reason: str) -> None:
        """Have training stop, on all ranks, at the next update, for a resume to go on from; `done` is true from there."""
        self.ledger.interrupt(reason)

    @property
    def interrupted(self) -> str | None:
        """Why training was stopped before its budget ended, or None."""
        return self.ledger.interrupted

    def heed(self) -> Signals:
        """A context in which SIGINT, SIGTERM and SIGUSR1 interrupt the run instead of killing the process.

        >>> import torch
        >>> run = attach(torch.optim.SGD([torch.zeros(1)], lr=0.1), "10 steps")
        >>> with run.heed():
        ...     run.done
        False
        """
        return Signals(self.interrupt)

    @property
    def next_factor(self) -> float:
        """The factor that an update now would run at."""
        return self._driver()

    def pass_over(self) -> None:
        """Count an update that another run's optimizer made for this one too, at the rate that it has here."""
        for knobs, set_rates in zip(self._knobs, self._setters, strict=True):
            set_rates(knobs.optimizer, (), {})
        tally = self._tally
        self.ledger.update(*(tally.take() if tally.said else tally.per_step))
        if self.ledger.ended_by is not None:
            self._hold_end()
        elif self._unproven:
            self._after_first_update()

    def follow(self, trace: Trace) -> None:
        """Use the rates and the progress of another run's updates, instead of the schedule over this run's own."""
        self._trace = trace
        self._bind()

    def summary(self) -> Summary:
        """What was given, what was spent, where the rate ended, and what ended the run."""
        ledger = self.ledger
        ended = str(ledger.ended_by.limit) if ledger.ended_by else None
        others = {name: activity.seconds for name, activity in ledger.activities.items()}
        norms = [probe.gradient.norm for probe in self.probes]
        return Summary(
            str(self.budget),
            str(self.schedule),
            ledger.spent(),
            ledger.progress,
            self.factor,
            ended,
            others,
            self.anchor,
            ledger.interrupted,
            norms[-1] / norms[0] if len(norms) > 1 and norms[0] else None,
        )

    def close(self) -> None:
        """Let go of the optimizers, whose rates stay as they are, and of the other ranks; each closes its own."""
        for handle in (*self._handles, *([self._starter] if self._starter else [])):
            handle.remove()
        self._handles.clear()
        for knobs in self._knobs:
            knobs.release()
        self._tally.close()
        if isinstance(self.ledger, SharedLedger):
            self.ledger.close()

    def _synchronise(self) -> None:
        if isinstance(self.ledger, SharedLedger):
            self.ledger.synchronise()

    # Changing what is under way

    def _is_for_rank_0(self) -> bool:
        """Whether a change is for another rank to announce; one that raised here alone would leave the others waiting."""
        ledger = self.ledger
        return isinstance(ledger, SharedLedger) and not ledger.hearing and not ledger.leads

    def _left_to_all(self, method: str, *arguments: Any) -> bool:
        """Whether a change waits for all ranks to make it at the same update; they are making it when they hear of it."""
        ledger = self.ledger
        if not isinstance(ledger, SharedLedger) or ledger.hearing:
            return False
        if self.done:
            raise BudgetError("the run has ended: there is nothing left to change; start a new run")
        ledger.announce((method, arguments))
        return True

    def _hear(self, message: Any) -> None:
        """Make a change that rank 0 announced; anything else is for whoever listens."""
        match message:
            case ("extend" | "stop_in" as method, arguments):
                try:
                    getattr(self, method)(*arguments)
                except BudgetError as error:  # it was right when it was asked for
                    warnings.warn(f"the change of the budget came too late: {error}", BudgetWarning, stacklevel=2)
            case _:
                self.hear(message)

    def _change(self, budget: Budget) -> None:
        caps = budget.caps(self._terms)
        if any(cap.resource == "joules" for cap in caps) and not self.ledger.meters:
            raise BudgetError(f"budget '{budget}': this run was not given a counter of energy to begin with")
        if self.ledger.warmup_progress is not None:
            _require_room(self._phases, caps)
        self.ledger.extend(caps)
        self.budget, self._caps = budget, caps
        self._tally.limited |= {cap.resource for cap in caps}
        self._ask_for_proof()

    def _sooner(self, more: Budget | Limit | str) -> Budget:
        """The budget with one more limit, so much from now."""
        wanted = Budget.of(more).limits
        caps = [cap for limit in wanted for cap in limit.caps(self._terms)]
        if len(caps) != 1:
            raise BudgetError(f"stop in '{more}': give one limit, such as 5min or 500 steps")
        cap = caps[0]
        if cap.resource == "clock":
            limit = wanted[0]
        else:
            unit = {"flops": "FLOP", "joules": "J", "seconds": "s"}.get(cap.resource, cap.resource)
            limit = Amount(round(self.ledger.spent_of(cap) + cap.amount, 3), unit)
            for old in self._caps:
                if old.resource == cap.resource and old.amount <= limit.amount:
                    raise BudgetError(f"stop in '{more}': the run ends sooner anyway, at '{old.limit}'")
        replaced = limit.unit if isinstance(limit, Amount) else None
        others = (old for old in self.budget.limits if not (isinstance(old, Amount) and old.unit == replaced))
        return Budget((limit, *(old for old in others if str(old) != str(limit))))

    def _cooled(self, cooldown: Schedule | str | None) -> Schedule | Plateau:
        """The schedule, with a cooldown from here on where one is wanted."""
        schedule, progress = self.schedule, self.ledger.progress
        if isinstance(schedule, Plateau):
            if cooldown in ("auto", None):
                return schedule
            raise ScheduleError(f"'{schedule}' has no cooldown: it follows the metric; give cooldown=None")
        if cooldown == "auto":
            cooldown = None if ends_low(schedule) else "linear"
        if cooldown is None:
            return schedule
        if isinstance(schedule, Over):  # from where its own horizon has brought it
            factor = self._driver()
            schedule = Points(((0.0, factor), (1.0, factor)))
        return Cooldown(schedule, progress, read_schedule(cooldown))  # type: ignore[arg-type]

    # State

    def state_dict(self) -> dict[str, Any]:
        """The ledger and what it belongs to, as numbers, text, lists and dicts."""
        return {
            "schema": 1,
            "budget": str(self.budget),
            "caps": [[cap.resource, cap.amount, str(cap.limit)] for cap in self._caps],
            "schedule": str(self.schedule),
            "factor": self.factor,
            "bases": [knobs.bases for knobs in self._knobs],
            "plateau": asdict(self._plateau),
            "ledger": self.ledger.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, change: bool = False, lost: float = 0.0) -> None:
        """Go on from a state: what was spent stays spent, and the rate follows from it.

        Args:
            state: what `state_dict` returned.
            change: whether this run's budget, being another than the state's, is meant to replace it.
            lost: seconds that were spent after the state was taken, on updates that a kill undid.

        Raises:
            BudgetError: where the budget is another one and `change` is not given.
            ScheduleError: where the schedule is another one.
        """
        if not isinstance(state, Mapping) or state.get("schema") != 1:
            raise BudgetError(
                "this is not a state of a run, or one of a newer version; give what state_dict() returned"
            )
        if len(state["bases"]) != len(self._knobs):
            raise ScheduleError(
                f"the state is of {len(state['bases'])} optimizers, and this run has {len(self._knobs)}"
            )
        if state["schedule"] != str(self.schedule):
            raise ScheduleError(
                f"the state was made under schedule '{state['schedule']}', this run has '{self.schedule}'; attach with that one"
            )
        # The same text is another budget where an epoch became longer or the SLURM job is a new one.
        differs = [row[:2] for row in state["caps"]] != [[cap.resource, cap.amount] for cap in self._caps]
        if differs and not change:
            raise BudgetError(self._explain_change(state))
        if differs and state["ledger"]["done"]:
            raise BudgetError(
                f"the state's budget '{state['budget']}' has ended and the rate has reached its end: a longer one would train "
                "at that rate; start a new run"
            )
        wanted, self._caps = self._caps, tuple(Cap(r, a, Budget.parse(text).limits[0]) for r, a, text in state["caps"])
        self.ledger.rebase(self._caps)
        self.ledger.load_state_dict(state["ledger"], lost)
        self._ask_for_proof()
        self.factor = state["factor"]
        self._plateau = PlateauState(**state["plateau"])
        for knobs, bases in zip(self._knobs, state["bases"], strict=True):
            knobs.bases = [dict(base) for base in bases]
        if differs:
            self.ledger.extend(wanted)
            self._caps = wanted
        if self.done:
            self._hold_end()

    def _explain_change(self, state: Mapping[str, Any]) -> str:
        spent, then = state["ledger"]["spent"], state["ledger"]["progress"]
        naive = max((min(1.0, spent.get(cap.resource, 0.0) / cap.amount) for cap in self._caps), default=0.0)
        jump = ""
        if isinstance(self.schedule, Schedule):
            before, after = self.schedule.factor(then), self.schedule.factor(naive)
            jump = f" Taken as a share of the new budget, the rate would jump from {before:.3g} to {after:.3g} of its base."
        old, new = f"'{state['budget']}'", f"'{self.budget}'"
        if old == new:
            old += f" ({_amounts((resource, amount) for resource, amount, _ in state['caps'])})"
            new += f" ({_amounts((cap.resource, cap.amount) for cap in self._caps)})"
        return (
            f"this run was made under budget {old} and is resumed under {new}.{jump} "
            "Pass change=True (--extend or --shorten) and the decay bends from where it is to the new end, or give the old budget"
        )

    # The hooks

    def _bind(self) -> None:
        """Let the schedule now in force turn the optimizers, in the place that our hooks have among others."""
        self._driver = self._choose_driver()
        curves = dict(self.schedule.drives) if isinstance(self.schedule, Schedule) else {}
        for knobs in self._knobs:
            knobs.curves = curves
        self._setters = [self._setter(knobs) for knobs in self._knobs]
        hooks = [*self._setters, self._counter()]
        optimizers = [knobs.optimizer for knobs in self._knobs]
        for handle, hook, optimizer in zip(self._handles, hooks, [*optimizers, optimizers[-1]], strict=True):
            handle.hooks_dict_ref()[handle.id] = _eager(hook, optimizer)  # type: ignore[index]

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        """No update happens within: torch.distributed.checkpoint steps an optimizer at rate 0 to have it make its state."""
        places = [(handle.hooks_dict_ref(), handle.id) for handle in self._handles]
        hooks = [table[key] for table, key in places]  # type: ignore[index]
        for table, key in places:
            table[key] = _nothing  # type: ignore[index]
        try:
            yield
        finally:
            for (table, key), hook in zip(places, hooks, strict=True):
                if table.get(key) is _nothing:  # type: ignore[union-attr]  # else a new schedule has put in its own
                    table[key] = hook  # type: ignore[index]

    def _choose_driver(self) -> Callable[[], float]:
        """The function that gives the factor now: a pure function of the ledger, but for drop-on-plateau."""
        ledger, schedule, trace = self.ledger, self.schedule, self._trace
        if trace is not None:
            return lambda: trace[min(ledger.steps, len(trace) - 1)][1]
        if isinstance(schedule, Plateau):
            return lambda: self._plateau.factor
        return driver(schedule, ledger, self._phases)

    def _position(self) -> float:
        """Progress through what the schedule spans: the budget, a horizon of its own, or another run's."""
        if self._trace is not None:
            return self._trace[self.ledger.steps][0] if self.ledger.steps < len(self._trace) else 1.0
        return position(self.schedule, self.ledger, self._phases)

    def _setter(self, knobs: Knobs) -> Hook:
        """The pre-step hook of one optimizer: the rate of the update about to happen."""
        ledger, driver, schedule, curves = self.ledger, self._driver, self.schedule, knobs.curves
        # The common case, one schedule of p and nothing else, is asked without a function in between.
        simple = not isinstance(schedule, Plateau | Over) and absolute_warmup(schedule) is None and self._trace is None
        formula: Callable[[float], float] = schedule.factor if simple else lambda _: driver()  # type: ignore[union-attr]

        def set_rates(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self.factor = factor = formula(ledger.progress)
            groups, rates = optimizer.param_groups, knobs.rates
            if len(groups) != len(rates):
                rates = knobs.learn_new_groups()
            g = 0  # by hand: zip and enumerate cost as much as all the rest
            for group in groups:
                if type(group["lr"]) is float:
                    group["lr"] = rates[g] * factor
                else:
                    put(group, "lr", rates[g] * factor)
                g += 1
            if curves:
                knobs.turn_others(ledger.progress if simple else self._position())

        return set_rates

    def _counter(self) -> Hook:
        """The post-step hook of the last optimizer: one update happened."""
        ledger, update, pipeline, tally = self.ledger, self.ledger.update, self._pipeline, self._tally
        samples, tokens, flops = tally.per_step

        def count(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if pipeline is not None and not pipeline.happened(optimizer):
                return
            if ledger.ended_by is not None:
                self._warn_of_waste()
            if tally.said:
                update(*tally.take())
            else:
                update(samples, tokens, flops)
            if ledger.ended_by is not None:
                self._hold_end()
            elif self._unproven:
                self._after_first_update()

        return count

    def _hold_end(self) -> None:
        """After the last update the optimizer holds s(1)."""
        if isinstance(self.schedule, Schedule) and not isinstance(self.schedule, Over):
            for knobs in self._knobs:
                knobs.turn(self.schedule.factor(1.0), 1.0)

    def _ask_for_proof(self) -> None:
        """Let the next update show that what the budget counts is counted."""
        self._unproven, self._spent_before = True, self.ledger.spent()

    def _after_first_update(self) -> None:
        self._unproven = False
        if self._starter is not None:
            self._starter.remove()  # the clock has started
        spent = self.ledger.spent()
        for resource, how in _HOW_TO_COUNT.items():
            counted = any(cap.resource == resource for cap in (*self._caps, *self._phases))
            if counted and spent.get(resource, 0) == self._spent_before.get(resource, 0):
                raise BudgetError(
                    f"budget '{self.budget}', schedule '{self.schedule}': the first update spent no {resource}; pass {how}"
                )

    def _warn_of_waste(self) -> None:
        if not self._wasted:
            self._wasted = True
            sentence = f"the optimizer was stepped after budget '{self.budget}' had ended; leave the loop when run.done, or iterate run.over(loader)"
            warnings.warn(sentence, BudgetWarning, stacklevel=4)


def _nothing_to_do(message: Any) -> None:
    pass


def _nothing(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Keeps the place of a hook."""


def _eager(hook: Hook, optimizer: Optimizer) -> Hook:
    """The hook, left out of what torch.compile traces: it changes at every update, and each time would be compiled anew.

    Only a step with a tensor rate is worth compiling or capturing (torch itself compiles one with a float rate anew
    whenever the rate changes), so the other hooks are spared the detour of some microseconds.
    """
    tensors = any(isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups)
    return torch.compiler.disable(hook) if tensors else hook


@dataclass(frozen=True, slots=True)
class Probe:
    """The full gradient between two updates: after so many updates, at this progress, before an update at this factor."""

    steps: int
    progress: float
    factor: float
    gradient: Gradient


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended, in figures; `str` of it is for people."""

    budget: str
    schedule: str
    spent: dict[str, float]
    progress: float
    last_factor: float
    ended_by: str | None
    activities: dict[str, float]
    anchor: str | float
    interrupted: str | None = None
    gradient_fell_to: float | None = None  # the full gradient's norm at the last probe, as a share of that at the first

    def __str__(self) -> str:
        spent = [f"{int(self.spent['steps']):,} updates"]
        spent += [f"{int(self.spent[name]):,} {name}" for name in ("samples", "tokens") if self.spent.get(name)]
        units = {"flops": "FLOP", "joules": "J"}
        spent += [f"{self.spent[name]:.3g} {unit}" for name, unit in units.items() if self.spent.get(name)]
        spent.append(format_seconds(self.spent["seconds"]))
        others = "".join(f", of which {name} {format_seconds(seconds)}" for name, seconds in self.activities.items())
        state = f"ended by {self.ended_by}" if self.ended_by else f"at p = {self.progress:.4f}"
        if self.interrupted and not self.ended_by:
            state = f"interrupted by {self.interrupted} {state}"
        return (
            f"budget {self.budget}, schedule {self.schedule}: {state} after {', '.join(spent)}{others}; "
            f"the last update ran at {self.last_factor:.3g} of the base rate"
            + (
                ""
                if self.gradient_fell_to is None
                else f", and the full gradient's norm came to {self.gradient_fell_to:.2g} of its first"
            )
        )


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside one that only passes calls on, as accelerate's does: it has no hooks of its own."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return _unwrapped(inner)
    return optimizer


def _elapsed(anchor: str | float) -> float:
    if isinstance(anchor, int | float) and not isinstance(anchor, bool) and 0 <= anchor < math.inf:
        return float(anchor)
    if anchor not in _ANCHORS:
        raise BudgetError(
            f"anchor '{anchor}' is unknown; it is one of {', '.join(_ANCHORS)}, or the seconds spent already"
        )
    return process_age() if anchor == "process" else 0.0


def _with_warmup(schedule: Schedule | Plateau, warmup: str | Limit) -> Schedule:
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"a warm-up leads into a schedule; '{schedule}' follows the metric")
    limits = Budget.of(warmup).limits
    if len(limits) != 1:
        raise ScheduleError(f"warm-up '{warmup}' is more than one limit; give one, such as 500 steps or 5%")
    return Warmup(schedule, limits[0])


def _require_whole(name: str, number: int | None) -> None:
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
        raise BudgetError(f"{name} is a whole number from 1, and is {number!r}")


def _amounts(caps: Iterable[tuple[str, float]]) -> str:
    return " or ".join(
        str(Deadline(dt.datetime.fromtimestamp(amount, dt.UTC)))
        if resource == "clock"
        else f"{format_number(amount)} {resource}"
        for resource, amount in caps
    )


def _require_room(warmup: Iterable[Cap], caps: Iterable[Cap]) -> None:
    for ramp in warmup:
        for cap in caps:
            if ramp.resource == cap.resource and ramp.amount >= cap.amount:
                raise BudgetError(
                    f"warm-up '{ramp.limit}' leaves nothing of budget '{cap.limit}' to decay over; shorten it, or give it as a share such as 5%"
                )
