"""Classifiers from outside the catalog: torchvision, timm, Hugging Face's, and the user's own ``package.module:callable``."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from raydfkd.errors import ConfigError, RaydfkdError, UnknownNameError, described
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.exported import ScriptedClassifier
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.models.hugging_face.hub_models import build_from_hub
from raydfkd.models.network_output import give_logits, output_described
from raydfkd.models.precision import evaluating, in_float32
from raydfkd.registry import nearest

WRAP = (
    "it must take one tensor [B,C,H,W]; wrap a network that takes a dict or several arguments in an nn.Module whose "
    'forward(images) calls it, such as by net({"image": images}), and name a function that returns that'
)
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build_external(name: str, num_classes: int, image_shape: ImageShape, *, pretrained: bool = False) -> nn.Module:
    """Builds ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER_OR_NAME`` or ``package.module:callable``, and tests it on two
    black images.

    Args:
        pretrained: ``hf:`` with the weights in its folder; nothing changes for the others.

    Lazy layers get their shapes, and weights of another precision are converted to float32. Where the model gives an object, a
    tuple or a dict, its logits are found in it, and it gives them alone from then on. One logit will do for two classes.

    Raises:
        UnknownNameError: the library has no such model.
        ConfigError: the library is missing, the user's code fails, or the model does not give that many logits.
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
        known = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
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
    # Those of models.segmentation would download weights of ImageNet for their backbones.
    of_pixels = {"weights_backbone": None} if name in models.list_models(module=models.segmentation) else {}
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **of_pixels)
    return network


def _from_timm(name: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    timm = import_library(f"timm:{name}")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=image_shape[0])
    return network


def _from_callable(module_name: str, attribute: str, num_classes: int, image_shape: ImageShape) -> nn.Module:
    name = f"{module_name}:{attribute}"
    factory = import_callable(module_name, attribute)
    if isinstance(factory, nn.Module):
        return _module(copy.deepcopy(factory))
    parameters = inspect.signature(factory).parameters
    offered: dict[str, object] = {"num_classes": num_classes, "in_channels": image_shape[0], "image_shape": image_shape}
    arguments = {key: value for key, value in offered.items() if key in parameters}
    # Only what is named: **kwargs are often passed on to a constructor that does not accept the others.
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        arguments["num_classes"] = num_classes
    missing = [key for key, p in parameters.items() if p.default is p.empty and p.kind not in _ANY and key not in arguments]
    if missing:
        raise ConfigError(
            f"model {name!r} needs {', '.join(missing)}, and is called with num_classes, in_channels and image_shape, those of "
            "them that it names: rename these parameters, give them defaults, or name a function that calls it"
        )
    try:
        model = factory(**arguments)
    except RaydfkdError:
        raise
    except Exception as error:
        told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ConfigError(f"model {name!r} cannot be built: called with ({told}), it ends with {described(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return _module(model)


def _module(model: nn.Module) -> nn.Module:
    """The network in a form whose layers can be seen, or that hides that they cannot."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper: a student's setting compile compiles it again
    return ScriptedClassifier(model) if isinstance(model, torch.jit.ScriptModule) else model


def import_callable(module_name: str, attribute: str) -> Callable[..., object]:
    name = f"{module_name}:{attribute}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise _import_failed(name, error) from error
        raise ConfigError(
            f"model {name!r}: there is no Python module {module_name!r}; install it or put its folder on PYTHONPATH"
        ) from error
    except (ValueError, TypeError) as error:
        if module_name and all(part.isidentifier() for part in module_name.split(".")):
            raise _import_failed(name, error) from error
        raise ConfigError(f"model {name!r} is not of the form package.module:callable") from error
    except Exception as error:
        raise _import_failed(name, error) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        offered = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ConfigError(f"model {name!r}: {module_name!r} has no callable {attribute!r}; {nearest(attribute, offered)}")
    return factory


def _import_failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"model {name!r}: importing its module ends with {described(error)}")


@torch.no_grad()
def _try_out(model: nn.Module, name: str, num_classes: int, image_shape: ImageShape) -> None:
    """Fails now with a clear message, not with a traceback after the run has started."""
    in_float32(model)
    try:
        with evaluating(model):
            output = model(torch.zeros(2, *image_shape))
    except RaydfkdError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        told = described(error).removeprefix(f"{type(error).__name__}: ")
        raise ConfigError(f"model {name!r} cannot take images of shape {tuple(image_shape)}: {told}") from error
    except Exception as error:
        raise ConfigError(f"model {name!r} does not take a tensor of images: {described(error)}; {WRAP}") from error
    _require_initialised(model, name)
    logits = give_logits(model, output, num_classes)
    one_logit = num_classes == 2 and isinstance(logits, torch.Tensor) and logits.shape in ((2,), (2, 1))
    if not isinstance(logits, torch.Tensor) or (logits.shape[:2] != (2, num_classes) and not one_logit):
        raise ConfigError(
            f"model {name!r} gives {output_described(output)} for 2 images; it must give logits [2,{num_classes}]"
            + ("" if isinstance(logits, torch.Tensor) else ": return them alone")
        )


def _require_initialised(model: nn.Module, name: str) -> None:
    lazy = next((n for n, tensor in [*model.named_parameters(), *model.named_buffers()] if is_lazy(tensor)), None)
    if lazy is not None:
        raise ConfigError(
            f"model {name!r} has a lazy layer that its forward pass does not call, so that the shape of {lazy!r} stays "
            "unknown: leave it out"
        )
