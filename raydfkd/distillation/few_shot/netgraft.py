"""NetGraft: the student's blocks are grafted onto the teacher, one by one and then together (Shen et al., AAAI 2021).

Teacher and student are VGG networks, which are five blocks and a classifier here. Leading blocks in which the student does not
differ from the teacher are the teacher's. Each of the others replaces its counterpart in the teacher, between 1x1 convolutions
(adapters) that map the teacher's width to the student's and back:

1. Block grafting: one block with its adapters is trained in the otherwise frozen teacher, block after block.
2. Network grafting: the first two grafted blocks are put together, with the adapters between them, and trained in the teacher;
   then the first three, and so on, until the whole student is trained.

Both minimise the sum over images of ||s / |s| - t / |t| ||^2, with the logits t of the teacher and s of the teacher with
grafted blocks. At the end the two adapters of each boundary are one linear map, which the next layer's weights absorb: the
student has no layers of its own for it.

Deviations: the adapters have no bias, so that absorbing them is exact where a convolution pads with zeros; they stand behind
the max-pool; and the weights at the end of each stage are kept, where the authors' program keeps the best on the test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.few_shot.few_shot_method import FewShotConfig, FewShotEntry, FewShotParts, FewShotStep
from raydfkd.errors import ConfigError
from raydfkd.settings import Budget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd import augment
    from raydfkd.losses import logit_distillation
    from raydfkd.models.classifiers import initialization, vgg
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, nn, augment = deferred("torch"), deferred("torch.nn"), deferred("raydfkd.augment")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")
    initialization = deferred("raydfkd.models.classifiers.initialization")
    vgg = deferred("raydfkd.models.classifiers.vgg")

PUBLISHED_SHOTS = 10
"""Images a class for which the batch size and the learning rates are given; the authors scale them in proportion."""
REPORTED_EPOCHS = 10
"""Epochs between two records."""


class NetGraftConfig(FewShotConfig):
    """NetGraft's two stages, with Adam. ``batch_size``, ``block_lr`` and ``adapter_lr`` are for ten images a class: with K they
    are K / 10 of that."""

    kind: Literal["netgraft"] = "netgraft"
    """Name of the method."""
    first_block_epochs: Annotated[int, Budget()] = Field(100, ge=1)
    """Passes over the images for the first grafted block."""
    block_epochs: Annotated[int, Budget()] = Field(60, ge=1)
    """Passes over the images for each later block."""
    network_epochs: Annotated[int, Budget()] = Field(100, ge=1)
    """Passes over the images for each number of blocks that are put together."""
    batch_size: int = Field(64, ge=2)
    """Images per optimizer step, at ten images a class."""
    block_lr: float = Field(2.5e-4, gt=0)
    """Learning rate of a grafted block, at ten images a class."""
    adapter_lr: float = Field(2.5e-3, gt=0)
    """Learning rate of its adapters, at ten images a class."""
    network_lr: float = Field(1e-4, gt=0)
    """Learning rate of the second stage."""


class Graft:
    """A student's blocks and adapters, and the teacher that they are grafted onto. Unit i is block i, unit 5 the classifier.

    Attributes:
        first: the first unit that is grafted.
        adapters: of the boundary before unit i, ``into_i`` from the teacher's width to the student's, and ``out_i`` back.
    """

    def __init__(self, teacher: vgg.VGG, student: vgg.VGG, first: int, device: torch.device) -> None:
        self.teacher, self.student, self.first = teacher, student, first
        self.num_units = len(teacher.blocks) + 1
        self.adapters = nn.ModuleDict()
        for unit in range(first + 1, self.num_units):
            wide, narrow = (_input_width(unit_of(network, unit)) for network in (teacher, student))
            self.adapters[f"into_{unit}"] = nn.Conv2d(wide, narrow, 1, bias=False)
            self.adapters[f"out_{unit}"] = nn.Conv2d(narrow, wide, 1, bias=False)
        initialization.initialize_fan_out(self.adapters)
        self.adapters.to(device)

    def blocks(self, begin: int, end: int) -> list[nn.Module]:
        """The student's units from ``begin`` to before ``end``."""
        return [unit_of(self.student, unit) for unit in range(begin, end)]

    def adapters_of(self, begin: int, end: int) -> list[nn.Module]:
        """The adapters that a span of grafted units needs."""
        into = [f"into_{unit}" for unit in range(begin, end)]
        out = [f"out_{unit}" for unit in range(begin + 1, end + 1)]
        return [self.adapters[name] for name in (*into, *out) if name in self.adapters]

    def logits(self, view: Tensor, begin: int, end: int) -> Tensor:
        """Of the teacher with the student's units from ``begin`` to before ``end`` in it; normalised images [B,C,H,W]."""
        with torch.no_grad():
            x = self._through(self.teacher, view, 0, begin)
        for unit in range(begin, end):
            if unit > self.first:
                x = self.adapters[f"into_{unit}"](x)
            x = self._through(self.student, x, unit, unit + 1)
            if unit + 1 < self.num_units:
                x = self.adapters[f"out_{unit + 1}"](x)
        return self._through(self.teacher, x, end, self.num_units)

    def _through(self, network: vgg.VGG, x: Tensor, begin: int, end: int) -> Tensor:
        for unit in range(begin, end):
            if unit == len(network.blocks):
                return network.pool_and_classify(x)
            x = network.pooled(network.blocks[unit](x), unit)
        return x

    def absorb(self) -> None:
        """Puts each boundary's two adapters into the layer behind it, and the teacher's leading blocks into the student."""
        with torch.no_grad():
            for unit in range(self.first + 1, self.num_units):
                names = (f"into_{unit}.weight", f"out_{unit}.weight")
                into, out = (self.adapters.get_parameter(name).double().flatten(1) for name in names)
                weight = _first_layer(unit_of(self.student, unit)).weight
                weight.copy_(torch.einsum("oi...,ij->oj...", weight.double(), into @ out))
            for unit in range(self.first):
                self.student.blocks[unit].load_state_dict(self.teacher.blocks[unit].state_dict())


def unit_of(network: vgg.VGG, unit: int) -> nn.Module:
    """Block ``unit``, or the classifier after the last."""
    return network.classifier if unit == len(network.blocks) else network.blocks[unit]


def vggs(teacher: nn.Module, student: nn.Module) -> tuple[vgg.VGG, vgg.VGG]:
    """The two networks.

    Raises:
        ConfigError: they do not consist of the same blocks.
    """
    if not (isinstance(teacher, vgg.VGG) and isinstance(student, vgg.VGG)):
        raise ConfigError(
            f"few_shot netgraft grafts blocks, and teacher ({type(teacher).__name__}) and student ({type(student).__name__}) "
            "do not consist of the same ones: use VGG networks of the catalog for both, such as vgg16_bn and a pruned one"
        )
    return teacher, student


def first_grafted(teacher: vgg.VGG, student: vgg.VGG) -> int:
    """The first unit in which the student differs from the teacher.

    Raises:
        ConfigError: they do not differ.
    """
    for unit in range(len(teacher.blocks) + 1):
        shapes = [{n: t.shape for n, t in unit_of(net, unit).state_dict().items()} for net in (teacher, student)]
        if shapes[0] != shapes[1]:
            return unit
    raise ConfigError(
        "few_shot netgraft has nothing to graft, because the student's blocks are the teacher's: choose a smaller student, for "
        "example by pruned.ratio 0.5"
    )


def require(teacher: FrozenTeacher, student: nn.Module) -> None:
    """Raises ConfigError if the student's blocks cannot be grafted onto the teacher."""
    first_grafted(*vggs(teacher.model, student))


def train(config: NetGraftConfig, parts: FewShotParts) -> Iterator[FewShotStep]:
    """Both stages. A step is an epoch; every tenth and the last of each span is reported, with the mean loss of an image."""
    teacher, student = vggs(parts.teacher.model, parts.student)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parts.seed)
        graft = Graft(teacher, student, first_grafted(teacher, student), parts.device)
    share = len(parts.images) / parts.teacher.num_classes / PUBLISHED_SHOTS
    first, last = graft.first, graft.num_units
    spans = [(unit, unit + 1) for unit in range(first, last)] + [(first, end) for end in range(first + 2, last + 1)]
    epochs = [config.first_block_epochs] + [config.block_epochs] * (last - first - 1)
    epochs += [config.network_epochs] * (len(spans) - len(epochs))
    done, batch_size = 0, max(2, round(config.batch_size * share))
    run_epoch = _epochs(graft, parts, batch_size)
    for number, ((begin, end), length) in enumerate(zip(spans, epochs, strict=True)):
        alone = number < last - first
        lrs = (config.block_lr * share, config.adapter_lr * share) if alone else (config.network_lr, config.network_lr)
        optimizer = torch.optim.Adam(_parameter_groups(graft, begin, end, lrs))
        student.eval()
        for block in graft.blocks(begin, end):
            block.train()
        for epoch in range(1, length + 1):
            loss = run_epoch(optimizer, begin, end)
            done += 1
            if epoch == length or epoch % REPORTED_EPOCHS == 0:
                yield FewShotStep(done, sum(epochs), {"loss": loss, "first_block": float(begin), "last_block": float(end - 1)})
    graft.absorb()
    student.train()


def _parameter_groups(graft: Graft, begin: int, end: int, lrs: tuple[float, float]) -> list[dict[str, Any]]:
    parts = zip((graft.blocks(begin, end), graft.adapters_of(begin, end)), lrs, strict=True)
    return [{"params": nn.ModuleList(modules).parameters(), "lr": lr} for modules, lr in parts if modules]


def _epochs(graft: Graft, parts: FewShotParts, batch_size: int) -> Callable[[torch.optim.Optimizer, int, int], float]:
    """Runs an epoch on augmented images at each call; returns the mean loss of an image."""
    random = torch.Generator().manual_seed(parts.seed)
    augmentation = augment.BatchAugmentation(parts.augmentations, parts.teacher.normalization.mean)
    number = -(-len(parts.images) // batch_size)

    def run(optimizer: torch.optim.Optimizer, begin: int, end: int) -> float:
        total = torch.zeros((), device=parts.device)
        for rows in torch.randperm(len(parts.images), generator=random).tensor_split(number):  # nearly equal parts
            view = parts.teacher.normalize(augmentation(parts.images[rows].to(parts.device), random))
            with torch.no_grad():
                wanted = parts.teacher.model(view)
            loss = logit_distillation.normalized_logits_per_sample(graft.logits(view, begin, end), wanted).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / len(parts.images)

    return run


def _first_layer(unit: nn.Module) -> Any:
    return next(layer for layer in unit.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def _input_width(unit: nn.Module) -> int:
    layer = _first_layer(unit)
    return int(layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features)


FEW_SHOT_METHOD = FewShotEntry(
    config=NetGraftConfig,
    train=train,
    title="NetGraft: blocks grafted onto the teacher",
    paper="Shen et al., AAAI 2021",
    require=require,
)
