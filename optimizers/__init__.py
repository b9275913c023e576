"""Sharpness-aware optimizers for PyTorch: a base optimizer × direction × metric × policy × reuse."""

from optimizers.batch_norm import frozen_batch_norm as frozen_batch_norm
from optimizers.moments import first_moment as first_moment
from optimizers.msam import MSAM as MSAM
from optimizers.plain import Plain as Plain
from optimizers.registry import OptimizerInfo as OptimizerInfo
from optimizers.registry import available as available
from optimizers.registry import create as create
from optimizers.registry import describe as describe
from optimizers.registry import register as register
from optimizers.sam import SAM as SAM
from optimizers.sharpness_aware import SharpnessAware as SharpnessAware
