"""The encoder's backbones by name: convolutional networks without their heads, with their input size and range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras

from model.efficientnet_lite import efficientnet_lite

Build = Callable[[int, str | None, bool], keras.Model]


class BackboneError(ValueError):
    """The backbone is unknown, or its weights are not available; the message says what to do."""


@dataclass(frozen=True)
class Backbone:
    """A convolutional network that maps an image to a grid of features.

    Attributes:
      name: as in `--backbone` and config.json.
      input_size: side of the images that it was trained on, in pixels.
      scale: `pixel * scale + offset` maps uint8 to the range that it was trained on.
      offset: see `scale`.
      build: (input_size, weights, int8) -> Keras model float32[B, S, S, 3] -> float32[B, h, w, C], where weights is
        None (random) or "imagenet", and int8 is as in `CaptionerConfig`.
    """

    name: str
    input_size: int
    scale: float
    offset: float
    build: Build


def backbone_named(name: str) -> Backbone:
    """The backbone called `name`. Raises BackboneError, with the names of all backbones, if it is unknown."""
    if name not in BACKBONES:
        raise BackboneError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_backbone(backbone: Backbone, input_size: int, weights: str | None, int8: bool = False) -> keras.Model:
    """The Keras model of `backbone`, with random weights (None) or ImageNet weights ("imagenet").

    Raises:
      BackboneError: Keras does not have the weights, or cannot download them.
    """
    return backbone.build(input_size, weights, int8)


def _lite(variant: int, width: float, depth: float) -> Build:
    def build(input_size: int, weights: str | None, int8: bool) -> keras.Model:
        if weights is not None:
            raise BackboneError(
                f"Keras has no ImageNet weights for EfficientNet-Lite{variant}; write them with `python -m model "
                f"convert --variant={variant} --output=FILE`, and give --backbone_weights=FILE"
            )
        return efficientnet_lite(input_size, width, depth, name="efficientnet_lite", int8=int8)

    return build


def _application(constructor: str) -> Build:
    def build(input_size: int, weights: str | None, int8: bool) -> keras.Model:
        make = getattr(keras.applications, constructor)
        try:
            return make(include_top=False, weights=weights, input_shape=(input_size, input_size, 3))
        except Exception as error:
            # Keras raises a bare Exception("URL fetch failure on ...") if it cannot reach the server.
            if weights is None or "URL fetch failure" not in str(error):
                raise
            raise BackboneError(
                f"the ImageNet weights of {constructor} could not be downloaded ({error}); run once with a network "
                "and copy ~/.keras/models here, or train from scratch with --backbone_weights=none"
            ) from error

    return build


# Ranges of the original training: Keras's "tf" mode is [-1, 1]; EfficientNetV2 rescales inside the network and takes
# [0, 255]; the authors of EfficientNet-Lite use (pixel - 127) / 128.
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("efficientnet_lite0", 224, 1 / 128, -127 / 128, _lite(0, width=1.0, depth=1.0)),
        Backbone("efficientnet_lite2", 260, 1 / 128, -127 / 128, _lite(2, width=1.1, depth=1.2)),
        Backbone("inception_resnet_v2", 299, 1 / 127.5, -1.0, _application("InceptionResNetV2")),
        Backbone("resnet50_v2", 224, 1 / 127.5, -1.0, _application("ResNet50V2")),
        Backbone("efficientnet_v2_b0", 224, 1.0, 0.0, _application("EfficientNetV2B0")),
    )
}
