"""Classifiers from outside the catalog: torchvision, timm, Hugging Face's, and the user's own ``package.module:callable``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.models.hugging_face.hub_models import build_from_hub
from raydfkd.models.precision import evaluating
from raydfkd.registry import nearest


def build_external(name: str, num_classes: int, image_shape: ImageShape, *, pretrained: bool = False) -> nn.Module:
    """Builds ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER_OR_NAME`` or ``package.module:callable``, and tests it on two
    black images.

    Args:
        pretrained: ``hf:`` with the weights in its folder; nothing changes for the others.

    Raises:
        UnknownNameError: the library has no such model.
        ConfigError: the library is missing, or the model does not give that many logits for such images.
    """
    source, _, rest = name.partition(":")
    if source == "torchvision":
        model = _from_torchvision(rest, num_classes, image_shape)
    elif source == "timm":
        model = _from_timm(rest, num_classes, image_shape)
    elif name.startswith(PREFIX):
        model = build_from_hub(name, num_classes, image_shape, pretrained=pretrained)
    else:
        model = _from_callable(source, rest, num_classes, image_shape)
    _try_out(model, name, num_classes, image_shape)
    return model


def import_library(model: str) -> Any:
    """torchvision's models for ``torchvision:NAME``, timm for ``timm:NAME``.

    Raises:
        ConfigError: it is not installed.
        UnknownNameError: it has no model of that name.
    """
    source, _, name = model.partition(":")
    if source == "torchvision":
        try:
            from torchvision import models
        except ImportError as error:
            raise ConfigError(f"model {model!r} needs torchvision: pip install torchvision") from error
        known = models.list_models(module=models)
        if name not in known:
            raise UnknownNameError(f"torchvision has no classifier {name!r}: {nearest(name, known)}")
        return models
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"model {model!r} needs timm, which is not installed: pip install 'raydfkd[timm]'") from error
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")
    return timm


def _from_torchvision(name: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    models = import_library(f"torchvision:{name}")
    if image_shape[0] != 3:
        raise ConfigError(f"model 'torchvision:{name}' takes 3-channel images, got {image_shape[0]} channels")
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return network


def _from_timm(name: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    timm = import_library(f"timm:{name}")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=image_shape[0])
    return network


def _from_callable(module_name: str, attribute: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    name = f"{module_name}:{attribute}"
    factory = import_callable(module_name, attribute)
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "num_classes" not in parameters and not takes_any:
        raise ConfigError(f"model {name!r} must accept num_classes=..., its parameters are {list(parameters)}")
    arguments: dict[str, object] = {"num_classes": num_classes}
    # Only if named: **kwargs are often passed on to a constructor that does not accept these.
    if "in_channels" in parameters:
        arguments["in_channels"] = image_shape[0]
    if "image_shape" in parameters:
        arguments["image_shape"] = image_shape
    model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def import_callable(module_name: str, attribute: str) -> Callable[..., object]:
    name = f"{module_name}:{attribute}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is found but misses one of its own imports is the user's bug, and keeps its traceback.
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise
        raise ConfigError(
            f"model {name!r}: there is no Python module {module_name!r}; install it or put its folder on PYTHONPATH"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model {name!r} is not of the form package.module:callable") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        offered = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ConfigError(f"model {name!r}: {module_name!r} has no callable {attribute!r}; {nearest(attribute, offered)}")
    return factory


@torch.no_grad()
def _try_out(model: nn.Module, name: str, num_classes: int, image_shape: ImageShape) -> None:
    """Fails now with a clear message, not with a traceback after the run has started."""
    try:
        with evaluating(model):
            logits = model(torch.zeros(2, *image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model {name!r} cannot take images of shape {tuple(image_shape)}: {reason}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim < 2 or logits.shape[:2] != (2, num_classes):
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"model {name!r} gives {got} for 2 images; it must give logits [2,{num_classes}]")
