"""What test_optimizer_trainers.py runs in a process of its own: `trainer_checks.py lightning|huggingface DIRECTORY`."""

import contextlib
import logging
import sys
import warnings
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[3] / "notebooks" / "examples"), str(Path(__file__).parents[1])]
from expectations import one_gradient, simplest, two_gradients  # noqa: E402

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
STEPS = 28  # per epoch: 1400 examples in batches of 50


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def check_lightning(directory):
    import lightning
    import lightning_trainer
    from torch import nn

    whole = lightning_trainer.train(simplest(two_gradients), f"{directory}/whole")
    assert whole.optimizers[0].gradient_evaluations == 2 * 3 * STEPS
    assert int(whole.model.net[1].num_batches_tracked) == 3 * STEPS  # the first pass of each step alone

    lightning_trainer.train(simplest(two_gradients), f"{directory}/first", epochs=1)
    (saved,) = Path(directory, "first").rglob("*.ckpt")
    resumed = lightning_trainer.train(simplest(two_gradients), f"{directory}/second", resume=str(saved))
    assert resumed.optimizers[0].gradient_evaluations == 2 * 3 * STEPS
    assert equal(weights(resumed.model), weights(whole.model))

    # the same as a plain loop over the same batches
    lightning.seed_everything(0, verbose=False)
    module = lightning_trainer.Digits(simplest(two_gradients))
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]
    for _ in range(3):
        for batch in whole.train_dataloader:

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = module.training_step(batch)
                loss.backward()
                return loss

            optimizer.step(closure)
        scheduler.step()
    assert equal(weights(module), weights(whole.model))

    msam = lightning_trainer.train(simplest(one_gradient), f"{directory}/msam")
    assert msam.optimizers[0].gradient_evaluations == 3 * STEPS

    module = lightning_trainer.Digits(simplest(two_gradients))
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, accumulate_grad_batches=2,
                                enable_progress_bar=False, enable_checkpointing=False)  # fmt: skip
    with contextlib.suppress(RuntimeError):
        trainer.fit(module, whole.train_dataloader)
        raise AssertionError("accumulated micro-batches went unnoticed")
    assert isinstance(module.net, nn.Module)


def check_huggingface(directory):
    import huggingface_trainer

    whole = huggingface_trainer.train(simplest(one_gradient), f"{directory}/whole")
    optimizer = whole.optimizer.optimizer if hasattr(whole.optimizer, "optimizer") else whole.optimizer
    assert optimizer.gradient_evaluations == 3 * STEPS
    assert optimizer.state_dict()["sharpness_aware"]["loaded"] == "clean"  # evaluated last
    clean = weights(whole.model)
    optimizer.train()
    away = torch.cat([(a - b).flatten() for a, b in zip(weights(whole.model).values(), clean.values(), strict=True)])
    assert abs(float(away.norm()) - 0.5) < 1e-4

    resumed = huggingface_trainer.train(
        simplest(one_gradient), f"{directory}/whole", resume=f"{directory}/whole/checkpoint-{STEPS}"
    )
    assert equal(weights(resumed.model), clean)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"lightning": check_lightning, "huggingface": check_huggingface}[sys.argv[1]](sys.argv[2])
    print("checked")
