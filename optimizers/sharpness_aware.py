r"""The one loop of all sharpness-aware optimizers, over any base optimizer.

    two gradients a step                              one gradient a step
    g   = ∇L_B(w)                                     ε  = ρ · direction known beforehand
    ε   = ρ · metric(direction(g, ...))               g  = ∇L_B(w + ε)
    g_s = ∇L_B(w + ε)      same batch, BN frozen      restore w;  base step
    restore w;  base step along reuse(g, g_s)

Four choices make a method: the direction, the metric, the policy (on which steps to climb) and the reuse of gradients.
Between steps the parameters are w bit for bit: a copy is kept and copied back, since adding ε and taking it away again
leaves a rounding error behind on every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizers import displacement, micro_batches, one_gradient, saved_state, two_gradients
from optimizers.axis import Axis, advancing_nothing_if_raised
from optimizers.batch_norm import LayersInGraphs, all_frozen
from optimizers.closures import BatchClosure, Closure, batch_closure
from optimizers.combinations import check_base, check_combination, check_names, check_parameters
from optimizers.directions import Direction, Steepest
from optimizers.gradients import Gradient
from optimizers.metrics import Euclidean, Metric
from optimizers.norms import shards
from optimizers.policies import Always, Policy
from optimizers.radius import check_radius, warn_about_radius
from optimizers.reuse import Reuse
from optimizers.scaling import Scaling
from optimizers.trainer_closures import refuse_skipped_steps, unwrapped


class SharpnessAware(Optimizer):
    """A base optimizer that steps along the gradient at w + ε.

    `base` is an optimizer instance; the two share `param_groups` (one list, also after `load_state_dict` and
    `add_param_group`), so schedulers, hooks and groups work on either. `rho` is put into every group that has none.
    `direction`, `metric`, `policy` and `reuse` are the four choices; a combination without a meaning is refused.

    `rho_schedule(group)` gives each group its ρ before every step, for example `FollowLearningRate`.

    `micro_batch=m` gives every m examples of a batch their own perturbation and averages the gradients (m-sharpness).

    `no_sync` is for DistributedDataParallel: without it every replica climbs along the averaged gradient, with
    `no_sync=model.no_sync` each along that of its own examples (m-sharpness). The weights stay equal either way.

    `model` is needed only where the optimizer must know layers and cannot find them (it says so then): for choices by
    name, and after `gc.freeze()`.

    BatchNorm: running statistics come from the first pass of a step; extra passes use batch statistics and write none.
    Cost: two gradients a step, one where the direction needs no gradient at w or the policy says so, counted in
    `gradient_evaluations`. Memory: one copy of the perturbed parameters while they are perturbed.

    Raises `ValueError` for a negative ρ where the method gives it no meaning.
    """

    rho_range: ClassVar[tuple[float, float] | None] = None
    settings: ClassVar[tuple[str, ...]] = ("micro_batch",)
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
        micro_batch: int | None = None,
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
        self.micro_batch = micro_batch
        self.no_sync = no_sync
        self.model = model
        self.gradient_evaluations = 0
        self._skipped: Tensor | int = 0
        self._side = one_gradient.Side()
        self._in_graphs = LayersInGraphs()
        self._of_closure: nn.Module | None = None
        defaults: dict[str, Any] = {"rho": rho}
        for axis in self.axes.values():
            defaults |= axis.group_defaults
        check_names(base, defaults)
        super().__init__(base.param_groups, base.defaults | defaults)
        check_parameters(self)
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

    # One list of groups for both, whoever replaces it.
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's parameter groups themselves."""
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
    @advancing_nothing_if_raised
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

        `scaler`: in fp16 let the closure do `scaler.scale(loss).backward()` and pass the scaler here instead of
        calling `scaler.step(optimizer)`; `scaler.update()` follows as usual. The base step is skipped where gradients
        are not finite.

        `again` is for trainers that accumulate by themselves: the gradient at w is being gathered in `.grad`, `closure`
        adds the last part of it (or is left out if nothing is missing), and `again()` computes all of it anew wherever
        it is needed. Methods of one gradient then take two.

        A step that raises leaves clean weights and counts nothing; only running averages have seen its first gradient.

        Raises `RuntimeError` if a closure is missing, or if it adds to gradients of an earlier backward pass.
        """
        if self.rho_schedule is not None:
            for group in self.param_groups:
                group["rho"] = self.rho_schedule(group)
        check_radius(self)
        known = [c for c in (closure, again) if isinstance(c, BatchClosure)]
        self._of_closure = known[0].model if known else None
        if closure is None and again is None:
            return one_gradient.step_without_closure(self, scaler)
        closure, finish = unwrapped(closure)
        if closure is not None:
            refuse_skipped_steps()
        for batch in known:
            scaler = batch.scale_by(scaler)
        scaling = Scaling(scaler)
        if self.direction.needs_gradient:
            loss = self._gather(closure, scaling, again)
        else:
            loss = one_gradient.gather(self, closure, scaling, again)
        self._descend(scaling, finish)
        return loss

    @torch.no_grad()
    def perturbation(self) -> list[Tensor]:
        """The ε of now, one tensor for each parameter in the order of `param_groups`; changes nothing.

        Directions that need the gradient at w take what `.grad` holds: evaluate it at the clean weights before. Of a
        sharded parameter it is the local shard.
        """
        return displacement.perturbation(self)

    @torch.no_grad()
    def eval(self) -> None:
        """Load the clean weights, for evaluation or a checkpoint; may be repeated."""
        one_gradient.evaluate(self)

    @torch.no_grad()
    def train(self) -> None:
        """Load w + ε again if steps are taken without a closure; otherwise nothing needs to change. May be repeated.

        From here on the model holds w + ε, which is ρ away: copies of its weights (`model.state_dict()`, `AveragedModel`)
        belong before it or inside `with optimizer.clean():`.
        """
        one_gradient.train(self)

    def clean(self) -> AbstractContextManager[None]:
        """Inside the block the model holds the clean weights w, whichever side is loaded; after it, that side again.

            with optimizer.clean():
                averaged.update_parameters(model)  # or torch.save(model.state_dict(), ...), or an evaluation

        ε is computed anew at the end, for the price of a norm; no gradient, and no counter moves. With a closure, and for
        methods of two gradients, the model holds w between steps anyway.
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
    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def _perturbs(self) -> bool:
        return any(group["rho"] != 0 for group in self.param_groups)

    def _gradients(self) -> Iterator[Tensor]:
        return (parameter.grad for parameter in self._parameters if parameter.grad is not None)

    def _gradient(self) -> Gradient:
        """What `.grad` holds now."""
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        return Gradient(parameters, shards([p.grad for p in parameters if p.grad is not None]))

    def _gather(self, closure: Closure | None, scaling: Scaling, again: Closure | None) -> Any:
        """All passes of a step that looks at w first; leaves the descent direction in `.grad`."""
        whole = closure if again is None else again
        assert whole is not None
        self._check_closure(whole)
        if again is not None and self.no_sync is not None:
            raise ValueError("no_sync keeps replicas apart in the pass at w, which again= takes for done; drop either")
        if self.micro_batch is None or not self._perturbs:
            return two_gradients.passes(self, closure, scaling, again)
        return micro_batches.passes(self, whole, scaling, self.micro_batch)

    def _evaluate(self, closure: Closure | None, scaling: Scaling) -> Any:
        """One pass, into `.grad`; None stands for one that somebody else has taken."""
        torch.clear_autocast_cache()  # around the whole step, it would hold the weights before they were moved
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.gradient_evaluations += 1
        scaling.unscale(self._gradients())
        return loss

    def _descend(self, scaling: Scaling, finish: Callable[[], object] | None = None) -> None:
        self.direction.conclude(self)
        if finish is not None:
            with torch.enable_grad():
                finish()
        scaling.step(self.base, self._gradients())
        self._side.climbs = None  # of the step that is done

    @property
    def radius(self) -> dict[Tensor, float]:
        """ρ of each parameter, with the direction's sign: ε = radius · d/‖d‖."""
        return {p: self.signed_radius(group) for group in self.param_groups for p in group["params"]}

    def signed_radius(self, group: dict[str, Any]) -> float:
        """ρ of a group with the direction's sign: where a loss is maximised, the worst is where it is least."""
        rho: float = self.direction.sign * group["rho"]
        return -rho if self.direction.turns and group.get("maximize", False) else rho

    def _check_closure(self, closure: Closure) -> None:
        """Refuse a closure that cannot do what the method needs, before anything has changed."""
        if self.micro_batch is not None:
            batch_closure(closure, f"micro_batch={self.micro_batch} splits the batch")

    def _descent_closure(self, closure: Closure) -> Closure:
        """The closure to evaluate at w + ε."""
        return closure

    def frozen_batch_norms(self) -> AbstractContextManager[None]:
        """Freeze the running statistics of BatchNorm (of every layer in the process) inside the block."""
        return all_frozen(self._in_graphs(lambda: self.modules))

    @property
    def modules(self) -> list[nn.Module] | None:
        """All modules of the model, the whole first, where `model=` or a `BatchClosure` says which it is."""
        known = [model for model in (self.model, self._of_closure) if model is not None]
        return [module for model in known for module in model.modules()] if known else None
