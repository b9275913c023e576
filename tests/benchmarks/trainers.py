"""What trainers make of four methods: each beside a loop over the large batches, `python trainers.py` writes results/trainers.md.

The number is the distance of the final weights from those of the reference loop, over the way that this one went from
the start: one closure of the whole batch, gradients clipped as the base optimizer gets them. Trainers get micro-batches
of a quarter where they accumulate, and the documented way to do it (README, notebooks/examples).
`torchrun --nproc-per-node=2 trainers.py ddp` prints the column of two replicas, with half of each batch.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import optimizers

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "optimizers" / "core"))
import without_torchvision  # noqa: E402

without_torchvision.hide()
os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
METHODS = {
    "sam": {"rho": 0.1}, "msam": {"rho": 0.3}, "fsam": {"rho": 0.1}, "vsam": {"rho": 0.1, "warmup": 3, "window": 4},
}  # fmt: skip
TEXT = """Distance of the final weights from those of a loop over the large batches, over the way that this one went: 12 steps,
SGD with momentum, float64 (bf16: float32 under autocast). Micro-batches are a quarter of a batch; clipping acts on what
the base optimizer gets. Lightning with `LightningSteps`, Hugging Face's Trainer with `HuggingFaceSteps`, accelerate with
all micro-batches inside the closure, the plain loop with `BatchClosure(..., at_once=)`; DDP has two replicas.

"""
EXAMPLES, BATCH, EPOCHS, LIMIT = 96, 16, 2, 0.5


@dataclass(frozen=True)
class Setting:
    """What is special about a run."""

    parts: int = 1
    clip: bool = False
    bf16: bool = False
    resume: bool = False
    ranks: int = 1

    @property
    def size(self) -> int:
        return BATCH // self.parts // self.ranks

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.bf16 else torch.float64  # autocast leaves float64 alone


SETTINGS = {
    "accumulation": Setting(parts=4),
    "clipping": Setting(clip=True),
    "both": Setting(parts=4, clip=True),
    "bf16": Setting(bf16=True),
    "resume": Setting(resume=True),
}
DDP = Setting(ranks=2)


def dataset(setting: Setting) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, 10, generator=generator)
    return TensorDataset(x.to(setting.dtype), torch.randint(0, 3, (EXAMPLES,), generator=generator))


def loader(setting: Setting) -> DataLoader:
    return DataLoader(dataset(setting), batch_size=setting.size)


def network(setting: Setting) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3)).to(setting.dtype)


def make(method: str, model: nn.Module, setting: Setting, *, clip: bool = True) -> optimizers.SharpnessAware:
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if setting.clip and clip:  # what the base gets, and not the gradient at w

        def clip_gradient(*_):  # torch takes what a hook returns for new arguments
            nn.utils.clip_grad_norm_(model.parameters(), LIMIT)

        base.register_step_pre_hook(clip_gradient)
    return optimizers.create(method, base, **METHODS[method])


def autocast(setting: Setting):
    return torch.autocast("cpu", torch.bfloat16) if setting.bf16 else contextlib.nullcontext()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def reference(method: str, setting: Setting) -> torch.Tensor:
    """The loop over large batches: forward, backward, twice where the method says so."""
    whole = Setting(clip=setting.clip, bf16=setting.bf16)
    model = network(whole)
    optimizer = make(method, model, whole)
    for x, y in itertools.chain.from_iterable(loader(whole) for _ in range(EPOCHS)):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            with autocast(whole):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return flat(model)


def plain(method: str, setting: Setting, directory: str) -> torch.Tensor:
    """`BatchClosure`, with `at_once` where it accumulates."""
    whole = Setting(bf16=setting.bf16, ranks=setting.ranks)
    batches = [tensors[rank(setting) :: setting.ranks] for tensors in dataset(setting).tensors]
    inner = network(setting)
    optimizer = make(method, inner, setting)
    for epoch in range(EPOCHS):
        model = nn.parallel.DistributedDataParallel(inner) if setting.ranks > 1 else inner
        for x, y in zip(*(tensor.split(whole.size) for tensor in batches), strict=True):
            optimizer.step(
                optimizers.BatchClosure(
                    model, nn.functional.cross_entropy, x, y, at_once=setting.size,
                    autocast=autocast(setting) if setting.bf16 else None,
                )
            )  # fmt: skip
        if setting.resume and epoch == 0:
            torch.save({"model": inner.state_dict(), "optimizer": optimizer.state_dict()}, f"{directory}/plain.pt")
            saved = torch.load(f"{directory}/plain.pt")
            inner = network(setting)
            optimizer = make(method, inner, setting)
            inner.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
    return flat(inner)


def accelerate(method: str, setting: Setting, directory: str) -> torch.Tensor:
    """All micro-batches of a step inside the closure, `Accelerator()` without accumulation of its own."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if setting.bf16 else "no")
    inner = network(setting)
    bare = make(method, inner, setting)
    model, optimizer, batches = accelerator.prepare(inner, bare, loader(setting))
    for epoch in range(EPOCHS):
        micro_batches = iter(batches)
        while parts := list(itertools.islice(micro_batches, setting.parts)):

            def closure(accelerator=accelerator, model=model, optimizer=optimizer, parts=parts):
                optimizer.zero_grad()
                losses = [nn.functional.cross_entropy(model(x), y) / len(parts) for x, y in parts]
                for loss in losses:
                    accelerator.backward(loss)
                return sum(losses).detach()

            optimizer.step(closure)
        if setting.resume and epoch == 0:
            accelerator.save_state(f"{directory}/{method}")
            AcceleratorState._reset_state()
            accelerator = Accelerator(cpu=True)
            inner = network(setting)
            bare = make(method, inner, setting)
            model, optimizer, batches = accelerator.prepare(inner, bare, loader(setting))
            accelerator.load_state(f"{directory}/{method}")
    return flat(inner)


def lightning(method: str, setting: Setting, directory: str) -> torch.Tensor:
    """Automatic optimization; `LightningSteps` for `accumulate_grad_batches`, clipping by the trainer."""
    import lightning

    class Module(optimizers.LightningSteps, lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network(setting)
            self.before_steps = 0

        def training_step(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return make(method, self.net, setting, clip=False)

        def on_before_optimizer_step(self, optimizer):
            self.before_steps += 1

    def fit(epochs, resume=None):
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=setting.ranks, strategy="ddp" if setting.ranks > 1 else "auto",
            accumulate_grad_batches=setting.parts, gradient_clip_val=LIMIT if setting.clip else None,
            precision="bf16-mixed" if setting.bf16 else "32-true", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
            enable_model_summary=False, enable_checkpointing=setting.resume, default_root_dir=f"{directory}/{method}",
        )  # fmt: skip
        batches = loader(setting)
        if setting.ranks > 1:  # Lightning's own sampler shuffles
            sampler = DistributedSampler(dataset(setting), setting.ranks, rank(setting), shuffle=False)
            batches = DataLoader(dataset(setting), batch_size=setting.size, sampler=sampler)
        trainer.fit(module, batches, ckpt_path=resume, weights_only=False if resume else None)
        assert module.before_steps == (EPOCHS - bool(resume)) * EXAMPLES // BATCH or setting.resume
        return module

    if setting.resume:
        fit(1)
        (saved,) = Path(directory, method).rglob("*.ckpt")
        return flat(fit(EPOCHS, str(saved)))
    return flat(fit(EPOCHS))


class Scored(nn.Module):
    """What Hugging Face's trainer expects."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def huggingface(method: str, setting: Setting, directory: str) -> torch.Tensor:
    """`HuggingFaceSteps`; accumulation and clipping by the trainer."""
    from accelerate.state import AcceleratorState
    from transformers import Trainer, TrainingArguments

    class Mine(optimizers.HuggingFaceSteps, Trainer):
        pass

    def fit(epochs, resume=None):
        AcceleratorState._reset_state()
        model = Scored(network(setting))
        optimizer = make(method, model, setting, clip=False)
        arguments = TrainingArguments(
            output_dir=f"{directory}/{method}", num_train_epochs=epochs, per_device_train_batch_size=setting.size,
            gradient_accumulation_steps=setting.parts, max_grad_norm=LIMIT if setting.clip else 0.0, use_cpu=True,
            bf16=setting.bf16, train_sampling_strategy="sequential", report_to="none", disable_tqdm=True,
            logging_strategy="no", save_strategy="epoch" if setting.resume else "no",
        )  # fmt: skip
        trainer = Mine(
            model=model, args=arguments, train_dataset=[{"x": x, "labels": y} for x, y in dataset(setting)],
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        optimizer.eval()
        return model

    if setting.resume:
        fit(1)
        return flat(fit(EPOCHS, f"{directory}/{method}/checkpoint-{EXAMPLES // BATCH}"))
    return flat(fit(EPOCHS))


TRAINERS = {"plain loop": plain, "Lightning": lightning, "accelerate": accelerate, "HF Trainer": huggingface}


def rank(setting: Setting) -> int:
    return int(os.environ["RANK"]) if setting.ranks > 1 else 0


def distance(trainer: str, method: str, setting: Setting, directory: str) -> str:
    """The number of one cell, or the first words of the refusal."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = TRAINERS[trainer](method, setting, directory)
        except (RuntimeError, TypeError, ValueError) as refusal:
            return f"refused: {refusal}"
    expected = reference(method, setting)
    return f"{float((found - expected).norm() / (expected - flat(network(setting))).norm()):.0e}"


def column(setting: Setting, trainers: list[str]) -> dict[str, str]:
    cells = {}
    for trainer in trainers:
        for method in METHODS:
            with tempfile.TemporaryDirectory() as directory:
                cells[f"{trainer} | {method}"] = distance(trainer, method, setting, directory)
    return cells


def two_replicas(trainers: list[str]) -> dict[str, str]:
    """The column of two processes, in processes of their own."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "cells.json")
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
             "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, "ddp", str(out), *trainers],
            check=True, capture_output=True, timeout=250,
        )  # fmt: skip
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", nargs="*")
    arguments = parser.parse_args().arguments
    torch.set_num_threads(1)
    if arguments[:1] == ["ddp"]:
        torch.distributed.init_process_group("gloo")
        cells = column(DDP, arguments[2:])
        if rank(DDP) == 0:
            Path(arguments[1]).write_text(json.dumps(cells))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        return
    trainers = arguments or list(TRAINERS)
    columns = {name: column(setting, trainers) for name, setting in SETTINGS.items()}
    columns["DDP"] = two_replicas(trainers)
    rows = [[row, *(columns[name][row] for name in columns)] for row in next(iter(columns.values()))]
    lines = ["| trainer | method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    text = TEXT + "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
    if not arguments:
        (HERE / "results" / "trainers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
