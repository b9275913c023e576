"""What trainers wrap around a closure or around a step, seen from inside the step."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from optimizers.closures import Closure


def unwrapped(closure: Closure | None) -> tuple[Closure | None, Callable[[], object] | None]:
    """A closure without what Lightning hangs on to it, and that, to be done once a step on the gradient of the descent.

    Lightning's `Precision.optimizer_step` follows every call of the closure with `on_before_optimizer_step` and with
    clipping; a method of two gradients would have them twice a step, and policies would see clipped gradients at w.
    """
    if isinstance(closure, functools.partial) and getattr(closure.func, "__name__", "") == "_wrap_closure":
        after = getattr(getattr(closure.func, "__self__", None), "_after_closure", None)
        if after is not None and len(closure.args) == 3 and not closure.keywords:
            model, optimizer, inner = closure.args
            return inner, lambda: after(model, optimizer)
    return closure, None


def refuse_skipped_steps() -> None:
    """Raise `RuntimeError` if accelerate, which accumulates by skipping steps, hands over a closure.

    It calls neither the step nor the closure on the other micro-batches, which therefore count for nothing.
    """
    state = sys.modules.get("accelerate.state")
    if state is None or not state.GradientState._shared_state:
        return
    steps = state.GradientState().num_steps
    frame, depth = sys._getframe(2), 0
    while steps != 1 and frame is not None and depth < 6:
        if frame.f_globals.get("__name__") == "accelerate.optimizer":
            raise RuntimeError(
                f"expected a closure of the whole step, got one under accelerate with gradient_accumulation_steps={steps}, "
                f"which skips {steps - 1} of {steps} steps with their closures: the micro-batches in them count for "
                "nothing. Leave gradient_accumulation_steps at 1, without accelerator.accumulate, and accumulate inside "
                "the closure: accelerator.backward(loss / n) for each of n micro-batches"
            )
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
