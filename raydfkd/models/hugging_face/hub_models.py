"""Networks of Hugging Face folders: newly initialised, or with the folder's weights; and students written as such folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydfkd.errors import CheckpointError, ConfigError, first_line
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.hugging_face.hub_folder import CONFIG, PREFIX, PROCESSOR, HubFolder, open_hub_folder


def build_from_hub(reference: str, num_classes: int, image_shape: ImageShape, *, pretrained: bool = False) -> nn.Module:
    """The classifier of ``hf:...``, normalised images [B,C,H,W] to logits [B,K], or an object with them; its tensors keep their
    library's names.

    Args:
        pretrained: with the folder's weights, whose classes and channels must be those given; otherwise newly initialised for
            these classes, channels and image size.

    Raises:
        ConfigError: the folder or the library is missing, or the network is not for such images and classes.
        CheckpointError: the folder's weights are missing or do not fill the network.
    """
    folder = open_hub_folder(reference)
    if pretrained:
        _require_fitting(folder, reference, num_classes, image_shape)
    build = _build_timm if folder.library == "timm" else _build_transformers
    with _first_line_of_errors(reference, folder):
        return build(folder, reference, num_classes, image_shape, pretrained)


def _require_fitting(folder: HubFolder, reference: str, num_classes: int, image_shape: ImageShape) -> None:
    if folder.num_classes is not None and folder.num_classes != num_classes:
        raise ConfigError(f"model {reference!r} has {folder.num_classes} classes, the task has {num_classes}: change the task")
    if folder.channels is not None and folder.channels != image_shape[0]:
        raise ConfigError(
            f"model {reference!r} takes {folder.channels}-channel images, the task has {image_shape[0]}: change the task"
        )


def _build_transformers(
    folder: HubFolder, reference: str, num_classes: int, image_shape: ImageShape, pretrained: bool
) -> nn.Module:
    transformers = import_transformers(reference)
    factory = transformers.AutoModelForImageClassification
    if pretrained:
        model, info = factory.from_pretrained(folder.path, local_files_only=True, dtype=torch.float32, output_loading_info=True)
        lacking = sorted(info["missing_keys"])
        if lacking:
            raise CheckpointError(
                f"the weights in {folder.path} lack {len(lacking)} tensors of the classifier, first {lacking[0]!r}: give a "
                "folder whose network was trained to classify"
            )
    else:
        config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True)
        config.num_labels = num_classes
        if hasattr(config, "num_channels"):
            config.num_channels = image_shape[0]
        if hasattr(config, "image_size"):
            height, width = image_shape[1:]
            config.image_size = height if height == width else (height, width)
        model = factory.from_config(config, dtype=torch.float32)
    return model


def _logits(model: nn.Module, args: Any, output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits


def _build_timm(folder: HubFolder, reference: str, num_classes: int, image_shape: ImageShape, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"model {reference!r} needs timm, which is not installed: pip install 'raydfkd[timm]'") from error
    if pretrained:
        return timm.create_model(f"local-dir:{folder.path}", pretrained=True)
    settings = folder.config.get("model_args") or {}
    settings = {**settings, "num_classes": num_classes, "in_chans": image_shape[0]}
    return timm.create_model(folder.config["architecture"], pretrained=False, **settings)


def import_transformers(reference: str) -> Any:
    """The library, silenced.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"model {reference!r} needs transformers, which is not installed: pip install 'raydfkd[transformers]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


@contextmanager
def _first_line_of_errors(reference: str, folder: HubFolder) -> Iterator[None]:
    """The libraries' errors about a folder as one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"model {reference!r} cannot be built from {folder.path}: {first_line(error)}") from error


def require_library(format: str, model: str) -> None:
    """Refuses to write a folder of a library whose architecture the network is not.

    Raises:
        ConfigError: ``model``, the network's name, is not one of that library's.
    """
    named = model.startswith("timm:")
    library = "timm" if named else open_hub_folder(model).library if model.startswith(PREFIX) else None
    if library != format:
        student = "timm:NAME" if format == "timm" else "hf:FOLDER"
        raise ConfigError(
            f"{format} has no architecture for the student {model!r}: export it as pt2, onnx or safetensors, or distil into a "
            f"student of {format} ({student})"
        )


def write_folder(
    network: nn.Module,
    format: str,
    folder: Path,
    image_shape: ImageShape,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | None,
) -> nn.Module:
    """Writes a network of transformers or timm with all that its library needs, and loads it again as a user would.

    Returns:
        The loaded network, normalised images to logits.
    """
    if format == "timm":
        import timm
        from timm.models import save_for_hf

        model: Any = network
        given = {"input_size": list(image_shape), "mean": list(mean), "std": list(std), "num_classes": model.num_classes}
        settings: dict[str, Any] = {"num_classes": model.num_classes, "pretrained_cfg": {**model.pretrained_cfg, **given}}
        if image_shape[0] != 3:
            settings["model_args"] = {"in_chans": image_shape[0]}
        if classes is not None:
            settings["label_names"] = list(classes)
        save_for_hf(network, str(folder), model_config=settings, safe_serialization=True)
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transformers = import_transformers(str(folder))
    config: Any = network.config
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    network.save_pretrained(folder)  # type: ignore[operator]
    height, width = image_shape[1:]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (folder / PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    assert (folder / CONFIG).is_file()
    loaded: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    loaded.register_forward_hook(_logits)
    return loaded
