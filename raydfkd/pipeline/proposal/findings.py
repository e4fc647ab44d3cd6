"""What is known of a teacher without being told: its classes, image size, normalisation and class names, and from where."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from raydfkd.data.data_root import named_teacher
from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.kinds import open_source
from raydfkd.errors import CheckpointError, ConfigError, RaydfkdError
from raydfkd.models.catalog import EXPORTED_SUFFIX, build_classifier, require_known
from raydfkd.models.exported import load_exported
from raydfkd.models.external import import_library
from raydfkd.models.hugging_face.hub_folder import PREFIX, HubFolder, is_hub_folder, open_hub_folder
from raydfkd.models.weights import read_metadata, read_states

T = TypeVar("T")

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

NO_WEIGHTS = ("torchvision", "timm")
"""Libraries whose networks are built with random weights."""
TRIED_CLASSES, TRIED_SIDE = 10, 32
MULTIPLE = 4
"""What image sides are multiples of, in every task."""
SAID = "what you gave"
FIXED = {"num_classes": ("classes", "--classes"), "channels": ("channels", "--channels")}
LOOKED_AT = 5
"""Evaluation images whose size is looked at."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """A value and where it is from, as the end of a sentence.

    Attributes:
        assumed: it is the usual one for this network, and this teacher's may be another.
    """

    value: T
    where: str
    assumed: bool = False


@dataclass(frozen=True)
class Told:
    """What the user says of a teacher; None: nothing."""

    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Findings:
    """What is known of a teacher; None: it is not.

    Attributes:
        model: as ``teacher.model`` names it.
        checkpoint: as ``teacher.checkpoint`` names it; None: the model brings its weights.
        num_classes: of its logits.
        channels: of its images.
        image_size: (H, W) of its images.
        normalization: of its images, for pixels in [0,1].
        classes: their names, in the order of its logits.
    """

    model: str
    checkpoint: str | None = None
    num_classes: Found[int] | None = None
    channels: Found[int] | None = None
    image_size: Found[tuple[int, int]] | None = None
    normalization: Found[Statistics] | None = None
    classes: Found[tuple[str, ...]] | None = None

    def missing(self) -> list[str]:
        """Which of classes, channels, image size and normalisation are unknown, by the names in ``Told``."""
        wanted = {"num_classes": self.num_classes, "channels": self.channels, "image_size": self.image_size}
        lacking = [name for name, found in wanted.items() if found is None]
        return lacking + (["mean", "std"] if self.normalization is None else [])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        assert self.channels is not None
        assert self.image_size is not None
        return (self.channels.value, *self.image_size.value)


def locate_teacher(teacher: str | None, model: str | None) -> tuple[str | None, str | None]:
    """(model, checkpoint) as an experiment names them; the model is None if it must be asked for.

    Args:
        teacher: a file of weights, a named teacher, a ``.pt2`` file, a Hugging Face folder, or a model that brings its weights.
        model: the network of a file of weights.

    Raises:
        CheckpointError: there is no such file or named teacher.
        ConfigError: both say what the network is, or neither gives weights.
    """
    if teacher is None:
        if model is None:
            raise ConfigError("no teacher is given: give --teacher with a file of weights, a named teacher or hf:ORG/NAME")
        return _without_file(model), None
    path = Path(teacher).expanduser()
    if ":" in teacher and not path.exists():
        whole = teacher
    elif is_hub_folder(path):
        whole = f"{PREFIX}{path.absolute()}"
    elif path.suffix == EXPORTED_SUFFIX:
        whole = str(path.absolute())
    elif path.suffix or "/" in teacher or path.exists():
        if not path.is_file():
            raise CheckpointError(f"there is no teacher's file {path}: correct the path, or name a teacher or hf:ORG/NAME")
        return model or _model_in(path), str(path.absolute())
    else:
        return model or _model_in(named_teacher(teacher)), teacher
    if model is not None:
        raise ConfigError(f"the teacher {teacher} says which network it is, and so does --model {model}: leave --model out")
    return _without_file(whole), None


def _without_file(model: str) -> str:
    """The model, made absolute if it is a folder.

    Raises:
        ConfigError: it has random weights.
    """
    if model.startswith(PREFIX):
        folder = Path(model.removeprefix(PREFIX)).expanduser()
        return f"{PREFIX}{folder.absolute()}" if folder.is_dir() else model
    if model.endswith(EXPORTED_SUFFIX):
        if not Path(model).is_file():
            raise CheckpointError(f"there is no exported program {model}: correct the path of the teacher")
        return str(Path(model).absolute())
    if ":" not in model or model.split(":")[0] in NO_WEIGHTS:
        raise ConfigError(f"{model} has random weights: give the file of its trained weights with --teacher")
    return model


def identify(
    teacher: str | None,
    model: str | None,
    told: Told,
    evaluation: DatasetConfig | None,
    ask: Callable[[list[str]], dict[str, Any]],
) -> Findings:
    """As :func:`find_out`, of a teacher as a user names it (see :func:`locate_teacher`); what is missing is asked for.

    Args:
        ask: from names of ``Told``, or ``model``, to their values; raises where nobody answers.

    Raises:
        CheckpointError, ConfigError: see both.
    """
    network, checkpoint = locate_teacher(teacher, model)
    if network is None:
        network = ask(["model"])["model"]
    findings = find_out(network, checkpoint, told, evaluation)
    missing = findings.missing()
    return findings if not missing else find_out(network, checkpoint, replace(told, **ask(missing)), evaluation)


def find_out(model: str, checkpoint: str | None, told: Told, evaluation: DatasetConfig | None = None) -> Findings:
    """Everything that is known of a teacher: what the user says, else its file's header, else its library's files, else the
    shapes of its weights, else what its evaluation images or its library's own weights of that name suggest.

    Raises:
        CheckpointError: its file cannot be read.
        ConfigError: what the user says contradicts the file, or the model's files cannot be read.
    """
    require_known(model)
    known: dict[str, Found[Any]] = _told(told)
    path = None if checkpoint is None else _path_of(checkpoint)
    for source in (_of_header(path), _of_hub(model, path), _of_program(model), _of_shapes(model, path, known)):
        for name, found in source.items():
            _refuse_contradiction(name, known.setdefault(name, found), found)
    for name, found in (_of_library(model) | _of_images(evaluation)).items():
        if name != "normalization" or "channels" not in known or len(found.value[0]) == known["channels"].value:
            known.setdefault(name, found)
    classes = known.get("classes")
    if classes is not None and "num_classes" in known and len(classes.value) != known["num_classes"].value:
        del known["classes"]
    return Findings(model, checkpoint, **known)


def _refuse_contradiction(name: str, believed: Found[Any], found: Found[Any]) -> None:
    """Of classes and channels, which a network's weights fix: what the user says must be what is found."""
    if name in FIXED and believed.where == SAID and believed.value != found.value:
        what, option = FIXED[name]
        raise ConfigError(
            f"the teacher has {found.value} {what}, from {found.where}, and {option} is {believed.value}: leave it out, or "
            "give other weights"
        )


def _path_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    return path if path.suffix or path.is_absolute() else named_teacher(checkpoint)


def _told(told: Told) -> dict[str, Found[Any]]:
    given: dict[str, Any] = {"num_classes": told.num_classes, "channels": told.channels, "image_size": told.image_size}
    if (told.mean is None) != (told.std is None):
        raise ConfigError("--mean and --std belong together: give both, one number per channel for pixels in [0,1]")
    if told.mean is not None and told.std is not None:
        if len(told.mean) != len(told.std):
            raise ConfigError(
                f"--mean has {len(told.mean)} numbers and --std {len(told.std)}: give one number per channel in both"
            )
        given["normalization"] = (told.mean, told.std)
    return {name: Found(value, SAID) for name, value in given.items() if value is not None}


def _model_in(path: Path) -> str | None:
    """The network that a file's header names."""
    header = _recorded(path)
    return header.get("model", header.get("architecture"))


def _recorded(path: Path) -> dict[str, str]:
    return read_metadata(path) if path.suffix == ".safetensors" else {}


def _of_header(path: Path | None) -> dict[str, Found[Any]]:
    """What ``raydfkd train-teacher``, or a finished run, wrote into the file."""
    header = {} if path is None else _recorded(path)
    where = "the header of its file"
    found: dict[str, Found[Any]] = {}
    try:
        if "num_classes" in header:
            found["num_classes"] = Found(int(header["num_classes"]), where)
        if "image_shape" in header:
            channels, height, width = json.loads(header["image_shape"])
            found |= {"channels": Found(channels, where), "image_size": Found((height, width), where)}
        if "mean" in header and "std" in header:
            mean, std = json.loads(header["mean"]), json.loads(header["std"])
            found["normalization"] = Found((tuple(mean), tuple(std)), where)
        if "classes" in header:
            found["classes"] = Found(tuple(json.loads(header["classes"])), where)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the header of {path} is not as raydfkd writes it ({error}): save it again") from error
    return found


def _of_hub(model: str, path: Path | None) -> dict[str, Found[Any]]:
    if not model.startswith(PREFIX):
        return {}
    folder: HubFolder = open_hub_folder(model)
    given = {
        "num_classes": folder.num_classes if path is None else None,  # other weights may have other classes
        "channels": folder.channels,
        "image_size": folder.image_size,
        "normalization": folder.normalization,
        "classes": folder.classes,
    }
    return {name: Found(value, "the configuration in its folder") for name, value in given.items() if value is not None}


def _of_program(model: str) -> dict[str, Found[Any]]:
    """The shapes that an exported program takes and gives."""
    if not model.endswith(EXPORTED_SUFFIX):
        return {}
    nodes = list(load_exported(model).program.graph.nodes)
    shapes = [node.meta["val"].shape for node in nodes if node.op == "placeholder" and "val" in node.meta]
    outputs = [value.meta["val"].shape for node in nodes if node.op == "output" for value in node.args[0] if value is not None]
    where = "the program's own shapes"
    found: dict[str, Found[Any]] = {}
    if shapes and len(shapes[0]) == 4:
        channels, *size = shapes[0][1:]
        if isinstance(channels, int):
            found["channels"] = Found(channels, where)
        if all(isinstance(side, int) for side in size):
            found["image_size"] = Found((size[0], size[1]), where)
    if outputs and len(outputs[0]) == 2 and isinstance(outputs[0][1], int):
        found["num_classes"] = Found(outputs[0][1], where)
    return found


def _of_shapes(model: str, path: Path | None, known: Mapping[str, Found[Any]]) -> dict[str, Found[Any]]:
    """Channels by the first convolution of the weights, classes by their last matrix."""
    if path is None or ("num_classes" in known and "channels" in known and "normalization" in known):
        return {}
    states = read_states(path)
    state = next(iter(states.values()))
    names = list(state) if path.suffix != ".safetensors" else _in_order(model, state, known)
    filters = [state[name] for name in names if state[name].ndim == 4]
    matrices = [state[name] for name in names if state[name].ndim == 2 and name.endswith("weight")]
    found: dict[str, Found[Any]] = {}
    if filters:
        found["channels"] = Found(filters[0].shape[1], f"the first convolution in {path.name}")
    if matrices:
        found["num_classes"] = Found(len(matrices[-1]), f"the last layer in {path.name}")
    return found


def _in_order(model: str, state: Mapping[str, Tensor], known: Mapping[str, Found[Any]]) -> list[str]:
    """Names of the state in the order of the network's layers, which a safetensors file does not keep; none if unknown."""
    size = known["image_size"].value if "image_size" in known else (TRIED_SIDE, TRIED_SIDE)
    for channels in (known["channels"].value,) if "channels" in known else (3, 1):
        try:
            network = build_classifier(model, TRIED_CLASSES, (channels, *size))
        except RaydfkdError:
            continue
        names = [name for name in network.state_dict() if name in state]
        return names or [name for wanted in network.state_dict() for name in state if name.endswith(f".{wanted}")]
    return []


def _of_images(evaluation: DatasetConfig | None) -> dict[str, Found[Any]]:
    """The size of the evaluation images where some of them have the same."""
    if evaluation is None:
        return {}
    source = open_source(evaluation.model_copy(update={"max_images": LOOKED_AT}), labelled=False)
    sizes = {source.opener(item).size for chunk in source.chunks for item in chunk.items}
    if len(sizes) != 1:
        return {}
    width, height = sizes.pop()
    return {"image_size": Found((height, width), "the size of the evaluation images", assumed=True)}


def _of_library(model: str) -> dict[str, Found[Any]]:
    """What the library's own weights of that name take, which these weights probably do too."""
    library, _, name = model.partition(":")
    if library == "torchvision":
        weights: Any = import_library(model).get_model_weights(name).DEFAULT
        transforms = weights.transforms()
        mean, std, side = transforms.mean, transforms.std, int(transforms.crop_size[0])
        classes = tuple(weights.meta["categories"])
    elif library == "timm":
        config: Any = import_library(model).get_pretrained_cfg(name)
        if config is None:
            return {}
        mean, std, side, classes = config.mean, config.std, int(config.input_size[1]), ()
    else:
        return {}
    where = f"what {library}'s own weights of {name} take"
    found: dict[str, Found[Any]] = {
        "image_size": Found((MULTIPLE * round(side / MULTIPLE),) * 2, where, assumed=True),
        "normalization": Found((tuple(mean), tuple(std)), where, assumed=True),
    }
    if classes:
        found["classes"] = Found(classes, where, assumed=True)
    return found
