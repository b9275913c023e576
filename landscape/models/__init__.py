"""Models: `build(experiment, data)` gives the network at its initial weights, which depend on the seed alone."""

from landscape.models import convnet as _convnet  # noqa: F401  (register themselves)
from landscape.models import mlp as _mlp  # noqa: F401
from landscape.models import pyramidnet as _pyramidnet  # noqa: F401
from landscape.models import resnet as _resnet  # noqa: F401
from landscape.models import vgg as _vgg  # noqa: F401
from landscape.models import wide_resnet as _wide_resnet  # noqa: F401
from landscape.models.factory import build, models

__all__ = ["build", "models"]
