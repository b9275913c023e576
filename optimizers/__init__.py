"""Sharpness-aware optimizers for PyTorch: a base optimizer × direction × metric × policy × reuse."""

from typing import Any as _Any

from optimizers.adaptive_msam import AdaptiveMSAM as AdaptiveMSAM
from optimizers.adaptive_msam import Proportional as Proportional
from optimizers.aesam import AESAM as AESAM
from optimizers.aesam import LongGradient as LongGradient
from optimizers.asam import ASAM as ASAM
from optimizers.asam import Adaptive as Adaptive
from optimizers.budget_sam import Budget as Budget
from optimizers.budget_sam import BudgetSAM as BudgetSAM
from optimizers.core.axes import Always as Always
from optimizers.core.axes import Euclidean as Euclidean
from optimizers.core.axes import PerTensor as PerTensor
from optimizers.core.axes import Steepest as Steepest
from optimizers.core.axes import Unnormalized as Unnormalized
from optimizers.core.choices import choice as choice
from optimizers.core.choices import choices as choices
from optimizers.core.choices import create_choice as create_choice
from optimizers.core.closures import BatchClosure as BatchClosure
from optimizers.core.moments import first_moment as first_moment
from optimizers.core.passes import frozen_batch_norm as frozen_batch_norm
from optimizers.core.policies import Bernoulli as Bernoulli
from optimizers.core.policies import Between as Between
from optimizers.core.policies import EveryK as EveryK
from optimizers.core.psf import DecayedPSF as DecayedPSF
from optimizers.core.radius import FollowLearningRate as FollowLearningRate
from optimizers.core.radius import RhoSchedule as RhoSchedule
from optimizers.core.registry import OptimizerInfo as OptimizerInfo
from optimizers.core.registry import available as available
from optimizers.core.registry import create as create
from optimizers.core.registry import describe as describe
from optimizers.core.registry import discover as _discover
from optimizers.core.registry import hyperparameters as hyperparameters
from optimizers.core.registry import register as register
from optimizers.core.sharpness_aware import SharpnessAware as SharpnessAware
from optimizers.esam import ESAM as ESAM
from optimizers.esam import RandomTensors as RandomTensors
from optimizers.fsam import FSAM as FSAM
from optimizers.fsam import Friendly as Friendly
from optimizers.gsam import GSAM as GSAM
from optimizers.gsam import SurrogateGap as SurrogateGap
from optimizers.late_sam import LateSAM as LateSAM
from optimizers.looksam import LookSAM as LookSAM
from optimizers.looksam import Orthogonal as Orthogonal
from optimizers.m_sam import MicroSAM as MicroSAM
from optimizers.msam import MSAM as MSAM
from optimizers.msam import Momentum as Momentum
from optimizers.multistep_sam import Ball as Ball
from optimizers.multistep_sam import Climb as Climb
from optimizers.multistep_sam import MultistepSAM as MultistepSAM
from optimizers.plain import Plain as Plain
from optimizers.random_sam import Noise as Noise
from optimizers.random_sam import RandomSAM as RandomSAM
from optimizers.s2sam import S2SAM as S2SAM
from optimizers.s2sam import Previous as Previous
from optimizers.sam import SAM as SAM
from optimizers.sam_on import MSAMON as MSAMON
from optimizers.sam_on import SAMON as SAMON
from optimizers.sam_on import Only as Only
from optimizers.second_order_sam import SecondOrderSAM as SecondOrderSAM
from optimizers.second_order_sam import ThroughAscent as ThroughAscent
from optimizers.sssam import SSSAM as SSSAM
from optimizers.trainers.huggingface import HuggingFaceSteps as HuggingFaceSteps
from optimizers.trainers.lightning import LightningSteps as LightningSteps
from optimizers.vasso import Averaged as Averaged
from optimizers.vasso import VaSSO as VaSSO
from optimizers.vsam import VSAM as VSAM
from optimizers.vsam import VarianceWindow as VarianceWindow
from optimizers.wsam import WSAM as WSAM
from optimizers.wsam import Weighted as Weighted


def __getattr__(name: str) -> _Any:
    """A public name of a method's file that nobody has written above: such a file needs no line here."""
    if not name.startswith("_"):
        for module in _discover():
            if getattr(vars(module).get(name), "__module__", None) == module.__name__:
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
