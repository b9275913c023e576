r"""The one loop of all sharpness-aware optimizers, over any base optimizer.

    two gradients a step                              one gradient a step
    g   = ∇L_B(w)                                     ε  = ρ · direction known beforehand
    ε   = ρ · metric(direction(g, ...))               g  = ∇L_B(w + ε)
    g_s = ∇L_B(w + ε)      same batch, BN frozen      restore w;  base step
    restore w;  base step along reuse(g, g_s)

Four choices make a method: the direction, the metric, the policy (on which steps to climb) and the reuse of gradients.
Between steps the parameters are w bit for bit.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizers.core import one_gradient, saved_state
from optimizers.core.axes import Always, Axis, Direction, Euclidean, Metric, Policy, Reuse, Steepest
from optimizers.core.closures import BatchClosure, Closure, batch_closure
from optimizers.core.combinations import check_base, check_combination, check_names
from optimizers.core.m_sharpness import part_by_part
from optimizers.core.passes import LayersInGraphs, all_frozen, two_gradients
from optimizers.core.radius import check_radius, warn_about_radius
from optimizers.core.scaling import scaling_of
from optimizers.core.step import Step, perturbation
from optimizers.core.trainer_closures import refuse_skipped_steps, unwrapped
from optimizers.ground.signatures import at_least


class SharpnessAware(Optimizer):
    """A base optimizer that steps along the gradient at w + ε.

    `base` is an optimizer instance; the two share `param_groups` (one list, also after `load_state_dict` and
    `add_param_group`), so schedulers, hooks and groups work on either. `rho` is put into every group that has none.
    `direction`, `metric`, `policy` and `reuse` are the four choices; a combination without a meaning is refused.
    `rho_schedule(group)` gives each group its ρ before every step, for example `FollowLearningRate`.
    `m` gives every m examples of a batch their own perturbation and averages the gradients (m-sharpness).
    `no_sync` is for DistributedDataParallel: without it every replica climbs along the averaged gradient, with
    `no_sync=model.no_sync` each along that of its own examples. The weights stay equal either way. `model` is needed only
    where layers must be known and are not found (it says so): choices by name, `gc.freeze()`.

    BatchNorm: running statistics come from the first pass of a step; extra passes use batch statistics and write none.
    Cost: two gradients a step, one where the direction needs no gradient at w or the policy says so, counted in
    `gradient_evaluations`. Memory: one copy of the perturbed parameters while they are. `ValueError` for a senseless ρ.
    """

    rho_range: ClassVar[tuple[float, float] | None] = None
    settings: ClassVar[tuple[str, ...]] = ("m",)
    """Attributes of the method itself that a saved state must agree with; those of the four choices are found."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        direction: Direction | None = None,
        metric: Metric | None = None,
        policy: Policy | None = None,
        reuse: Reuse | None = None,
        rho_schedule: Callable[[dict[str, Any]], float] | None = None,
        m: Annotated[int, at_least(1)] | None = None,
        no_sync: Callable[[], AbstractContextManager[Any]] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        check_base(base)
        self.base = base
        self.direction = direction or Steepest()
        self.metric = metric or Euclidean()
        self.policy = policy or Always()
        self.reuse = reuse
        self.rho_schedule = rho_schedule
        self.m = m
        self.no_sync = no_sync
        self.model = model
        self.gradient_evaluations = 0
        self._skipped: Tensor | int = 0
        self.side = one_gradient.Side()
        self._in_graphs = LayersInGraphs()
        self._of_closure: nn.Module | None = None
        defaults: dict[str, Any] = {"rho": rho}
        for axis in self.axes.values():
            defaults |= axis.group_defaults
        check_names(base, defaults)
        super().__init__(base.param_groups, base.defaults | defaults)
        check_combination(self)
        check_radius(self)
        warn_about_radius(self)
        for axis in self.axes.values():
            axis.bind(self)

    @property
    def axes(self) -> dict[str, Axis]:
        """The four choices by name; `reuse` only where there is one."""
        chosen = {"direction": self.direction, "metric": self.metric, "policy": self.policy, "reuse": self.reuse}
        return {name: axis for name, axis in chosen.items() if axis is not None}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's parameter groups themselves: one list for both, whoever replaces it."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:  # torch's constructor assigns an empty list first
            self.base.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base, completed with this method's hyperparameters."""
        if not any(param_group is group for group in self.param_groups):
            self.base.add_param_group(param_group)
        for name, value in self.defaults.items():
            if name not in self.base.defaults:
                param_group.setdefault(name, value)

    @torch._disable_dynamo  # compile the model, or base.step; the closure in between is Python's
    @torch.no_grad()
    def step(
        self,
        closure: Closure | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        again: Closure | None = None,
    ) -> Any:
        """Take one step; return the loss of the first pass.

        `closure` zeroes the gradients, computes the loss, backpropagates and returns it; it is called as often as the
        method needs, at w first where the method looks at w at all. Without it, gradients must be in `.grad` already
        (methods of one gradient only): then w + ε stays loaded until the next step or `eval()`, and `model.state_dict()`,
        averages of weights and evaluations see it: take them inside `with optimizer.clean():`.

        `scaler`: in fp16 let the closure do `scaler.scale(loss).backward()` and pass the scaler here instead of calling
        `scaler.step(optimizer)`; `scaler.update()` follows. The base step is skipped where gradients are not finite.

        `again` is for trainers that accumulate by themselves: the gradient at w is being gathered in `.grad`, `closure` adds
        the last part (if any is missing), and `again()` computes all of it anew. Methods of one gradient then take two.

        A step that raises leaves clean weights and counts nothing; only running averages have seen its first gradient.
        Raises `RuntimeError` if a closure is missing, or if it adds to gradients of an earlier backward pass.
        """
        if self.rho_schedule is not None:
            for group in self.param_groups:
                group["rho"] = self.rho_schedule(group)
        if not all(0 <= group["rho"] < math.inf for group in self.param_groups):
            check_radius(self)
        known = [c for c in (closure, again) if isinstance(c, BatchClosure)]
        self._of_closure = known[0].model if known else None
        if closure is None and again is None:
            return one_gradient.step_without_closure(self, scaler)
        finish = None
        if isinstance(closure, functools.partial):
            closure, finish = unwrapped(closure)
        if closure is not None and "accelerate.state" in sys.modules:
            refuse_skipped_steps()
        for batch in known:
            scaler = batch.scale_by(scaler)
        step = self.coming_step()
        step.closure = closure if again is None else again
        step.scaling = None if scaler is None else scaling_of(scaler)
        try:
            loss = self.gather(step, closure, gathered=again is not None)
            self.descend(step, finish)
        except BaseException:
            self.side.coming = None  # the step is to be taken again, and nothing has moved on
            raise
        return loss

    def gather(self, step: Step, closure: Closure | None, *, gathered: bool) -> Any:
        """All passes of a step with a closure, from w to w; leaves the descent direction in `.grad`."""
        if not self.direction.needs_gradient:
            return one_gradient.gather(self, step, closure, gathered=gathered)
        assert step.closure is not None
        self.check_closure(step.closure)
        if gathered and self.no_sync is not None:
            raise ValueError("no_sync keeps replicas apart in the pass at w, which again= takes for done; drop either")
        if self.m is None or not self.perturbs:
            return two_gradients(self, step, closure, gathered=gathered)
        return part_by_part(self, step, batch_closure(step.closure, f"m={self.m} splits the batch"), self.m)

    def descend(self, step: Step, finish: Callable[[], object] | None = None) -> None:
        """The base's step along `.grad`; only then do counters move."""
        for axis in self.axes.values():
            axis.conclude(step)
        if finish is not None:
            with torch.enable_grad():
                finish()
        step.descend(self.base)
        step.done()
        self.side.coming = self.side.ahead = None

    def coming_step(self) -> Step:
        """The step that comes, the same one until it is done."""
        if self.side.coming is None:
            self.side.coming = Step(self, self._decides)
        return self.side.coming

    def _decides(self, step: Step) -> bool:
        return self.policy.decides(step) if self.side.ahead is None else self.side.ahead

    @torch.no_grad()
    def perturbation(self) -> list[Tensor]:
        """The ε of now, one tensor for each parameter in the order of `param_groups`; changes nothing.

        Directions that need the gradient at w take what `.grad` holds. Of a sharded parameter it is the local shard.
        """
        step = Step(self, self._decides)
        step.clean = step.gradient()
        return perturbation(self, self.metric(step, self.direction(step)))

    @torch.no_grad()
    def eval(self) -> None:
        """Load the clean weights, for evaluation or a checkpoint; may be repeated."""
        one_gradient.evaluate(self)

    @torch.no_grad()
    def train(self) -> None:
        """Load w + ε again if steps are taken without a closure; otherwise nothing needs to change. May be repeated.

        From here on the model holds w + ε: copies of its weights belong before it or inside `with optimizer.clean():`.
        """
        one_gradient.train(self)

    def clean(self) -> AbstractContextManager[None]:
        """Inside the block the model holds the clean weights w, whichever side is loaded; after it, that side again.

            with optimizer.clean():
                averaged.update_parameters(model)  # or torch.save(model.state_dict(), ...), or an evaluation

        ε is computed anew at the end, for the price of a norm. With a closure the model holds w between steps anyway.
        """
        return one_gradient.clean(self)

    @property
    def skipped_ascents(self) -> int:
        """How many ascents were skipped because the gradient was not finite; asking waits for the device."""
        self._skipped = int(self._skipped)
        return self._skipped

    def count_skipped_ascent(self, number: Tensor | int = 1) -> None:
        """Note that an ascent did not take place because something was not finite."""
        self._skipped = self._skipped + number

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: the base's state dictionary and an entry of our own."""
        return {**self.base.state_dict(), saved_state.ENTRY: saved_state.pack(self)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()` of the same method and settings; another's is refused, and nothing changes."""
        saved_state.load(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """All of it (torch's own keeps three attributes), but for the model of the last closure."""
        return {**self.__dict__, "_of_closure": None}

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of `param_groups`."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def perturbs(self) -> bool:
        """Whether any group has ρ ≠ 0."""
        return any(group["rho"] != 0 for group in self.param_groups)

    @property
    def radius(self) -> dict[Tensor, float]:
        """ρ of each parameter with the direction's sign, ε = radius · d/‖d‖: a loss that is maximised is worst at its least."""
        sign, turns = self.direction.sign, self.direction.turns
        radii = [sign * (-g["rho"] if turns and g.get("maximize", False) else g["rho"]) for g in self.param_groups]
        return {p: radius for g, radius in zip(self.param_groups, radii, strict=True) for p in g["params"]}

    def check_closure(self, closure: Closure) -> None:
        """Refuse a closure that cannot do what the method needs, before anything has changed."""
        why = f"{type(self).__name__} differentiates twice" if self.m is None else f"m={self.m} splits the batch"
        if self.m is not None or any(axis.differentiates_twice for axis in self.axes.values()):
            batch_closure(closure, why)

    def descent_closure(self, step: Step) -> Closure:
        """The closure to evaluate at w + ε."""
        assert step.closure is not None
        return step.closure

    def frozen_batch_norms(self) -> AbstractContextManager[None]:
        """Freeze the running statistics of BatchNorm (of every layer in the process) inside the block."""
        return all_frozen(self._in_graphs(lambda: self.modules))

    @property
    def modules(self) -> list[nn.Module] | None:
        """All modules of the model, the whole first, where `model=` or a `BatchClosure` says which it is."""
        known = [module for model in (self.model, self._of_closure) if model is not None for module in model.modules()]
        return known or None
