"""Print how far our ResNet-50 is from that of transformers, with the same weights: max |difference| / max |output|."""

import torch
import transformers
from torch import nn

from landscape.models import models

torch.manual_seed(0)
widths = {"embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [3, 4, 6, 3]}
config = transformers.ResNetConfig(layer_type="bottleneck", num_labels=5, **widths)
theirs = transformers.ResNetForImageClassification(config)
ours = models.create("resnet50_imagenet", {"input_shape": (3, 64, 64), "classes": 5}, {"width": 8})
embedder = theirs.resnet.embedder.embedder
pairs = [(ours[0], embedder.convolution), (ours[1], embedder.normalization), (ours[-1], theirs.classifier[1])]
layers = [layer for stage in theirs.resnet.encoder.stages for layer in stage.layers]
for block, layer in zip([b for b in ours if hasattr(b, "body")], layers, strict=True):
    mine = [m for m in block.body if not isinstance(m, nn.ReLU)]
    pairs += zip(mine, [m for m in layer.layer.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)], strict=True)
    if not isinstance(block.shortcut, nn.Identity):
        pairs += [(block.shortcut[0], layer.shortcut.convolution), (block.shortcut[1], layer.shortcut.normalization)]
assert {id(p) for m, _ in pairs for p in m.parameters()} == {id(p) for p in ours.parameters()}
for mine, other in pairs:
    mine.load_state_dict(other.state_dict())
images = torch.randn(2, 3, 64, 64)
with torch.no_grad():  # in training mode, so that the batch is what normalises: other orders of operations would show
    expected = theirs.train()(images).logits
    found = ours.train()(images)
print(float((found - expected).abs().max() / expected.abs().max()))
