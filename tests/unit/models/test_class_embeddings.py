"""Class embeddings: files of every format, text encoders, drawn codes; and the generator whose input they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raydfkd.errors import ConfigError
from raydfkd.models.generators import build_generator
from raydfkd.models.generators.class_embeddings import encode_names, random_codes, read_embeddings
from raydfkd.models.generators.noisy_label_generator import NoisyLabelGenerator

ARRAY = np.arange(12, dtype=np.float64).reshape(4, 3)


def written(path: Path) -> Path:
    tensor = torch.from_numpy(ARRAY)
    match path.name:
        case "one.safetensors":
            save_file({"any": tensor}, path)
        case "bare.pt":
            torch.save(tensor, path)
        case "named.pth":
            torch.save({"text": tensor, "scale": torch.ones(())}, path)
        case "one.npz":
            np.savez(path, other=np.ones(7), text=ARRAY)
        case "one.npy":
            np.save(path, ARRAY)
    return path


@pytest.mark.parametrize("name", ["one.safetensors", "bare.pt", "named.pth", "one.npz", "one.npy"])
def test_a_file_s_only_array_with_a_row_for_each_class_is_read(name: str, tmp_path: Path) -> None:
    found = read_embeddings(written(tmp_path / name), 4)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, ARRAY)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("one.npz", 5, r"one.npz hold \[7\], \[4, 3\]: give one array \[5,width\]"),
        ("missing.pt", 4, "there is no file .*missing.pt of class embeddings"),
        ("words.txt", 4, "end in '.txt'; allowed are .safetensors"),
        ("broken.npz", 4, "broken.npz cannot be read"),
        ("broken.pt", 4, "broken.pt cannot be read"),
        ("objects.npy", 4, "objects.npy cannot be read"),
        ("code.pt", 4, "code.pt cannot be read"),
        ("two.pt", 4, r"hold \[4, 3\], \[4, 3\]: give one array"),
    ],
)
def test_a_file_without_one_is_refused(name: str, classes: int, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / name)
    match name:
        case "words.txt" | "broken.npz" | "broken.pt":
            path.write_text("not an array")
        case "objects.npy":
            np.save(path, np.array([print], dtype=object))
        case "code.pt":
            torch.save({"text": print}, path)
        case "two.pt":
            torch.save({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, path)
    with pytest.raises(ConfigError, match=message):
        read_embeddings(path, classes)


@pytest.mark.parametrize(("classes", "width"), [(5, 12), (12, 5)])
def test_drawn_codes_have_unit_variance_and_are_orthogonal_where_there_is_room(classes: int, width: int) -> None:
    codes = random_codes(classes, width, torch.Generator().manual_seed(3))
    products = codes @ codes.T if classes <= width else codes.T @ codes
    torch.testing.assert_close(products, max(classes, width) * torch.eye(min(classes, width)), atol=1e-4, rtol=0)
    assert codes.square().mean().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(codes, random_codes(classes, width, torch.Generator().manual_seed(3)))


class FakeCLIP:
    """Encodes a text as its length, in place of transformers."""

    texts: list[str]

    def library(self) -> Any:
        loader = SimpleNamespace(from_pretrained=lambda place: self)
        silent = SimpleNamespace(set_verbosity_error=lambda: None, disable_progress_bar=lambda: None)
        return SimpleNamespace(AutoTokenizer=loader, CLIPTextModelWithProjection=loader, utils=SimpleNamespace(logging=silent))

    def eval(self) -> FakeCLIP:
        return self

    def __call__(self, texts: list[str] | None = None, **given: Any) -> Any:
        if texts is not None:
            self.texts = texts
            return {"lengths": [len(text) for text in texts]}
        return SimpleNamespace(text_embeds=torch.tensor(given["lengths"], dtype=torch.float64)[:, None])


def test_names_are_encoded_as_images_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = FakeCLIP()
    monkeypatch.setitem(sys.modules, "transformers", clip.library())
    found = encode_names("hf:some/clip", ["cat", "pick-up_truck"])
    assert clip.texts == ["a image of cat", "a image of pick up truck"]
    assert found.dtype == torch.float32
    assert found.tolist() == [[14], [24]]


def test_a_text_encoder_without_its_library_or_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(FakeCLIP):
        def eval(self) -> FakeCLIP:
            raise OSError("there is no such model\nand more")

    monkeypatch.setitem(sys.modules, "transformers", Empty().library())
    with pytest.raises(ConfigError, match=r"'hf:some/clip' cannot encode the class names \(there is no such model\)"):
        encode_names("hf:some/clip", ["cat"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydfkd\[transformers\]'"):
        encode_names("hf:some/clip", ["cat"])


def test_the_generator_has_a_noisy_layer_for_each_group_of_classes() -> None:
    with torch.device("meta"):
        generator = NoisyLabelGenerator(build_generator("standard", (3, 32, 32), 256, 64), torch.empty(100, 512), 400)
    assert len(generator.noisy_layers) == 4
    noisy = 4 * (512 * 256 + 256)
    # NAYER's: BatchNorm of the embedding, the noisy layers, and the standard generator with a latent of 256.
    assert sum(p.numel() for p in generator.parameters()) == 2 * 512 + noisy + 2_328_899


def test_images_are_of_the_normalised_embedding_through_the_layer_of_their_group() -> None:
    torch.manual_seed(0)
    generator = NoisyLabelGenerator(build_generator("standard", (1, 8, 8), 6, 4), torch.randn(3, 5), 7)
    generator.redraw_noise(torch.Generator().manual_seed(2))
    classes = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    seen: list[torch.Tensor] = []
    generator.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert generator(classes).shape == (7, 1, 8, 8)
    embedded = generator.embeddings_KD[classes]
    normal = (embedded - embedded.mean(0)) / (embedded.var(0, unbiased=False) + 1e-5).sqrt()
    expected = [normal[row] @ generator.noisy_layers[row // 3].weight.T for row in range(7)]
    torch.testing.assert_close(seen[0], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_noise_is_standard_normal_without_a_bias() -> None:
    generator = NoisyLabelGenerator(build_generator("standard", (1, 8, 8), 128, 4), torch.randn(2, 64), 4)
    before = generator.body.first_linear.weight.clone()
    generator.redraw_noise(torch.Generator().manual_seed(2))
    weights = [layer.weight.detach() for layer in generator.noisy_layers]
    assert not torch.equal(*weights)
    for layer, weight in zip(generator.noisy_layers, weights, strict=True):
        assert weight.mean().item() == pytest.approx(0, abs=0.05)
        assert weight.std().item() == pytest.approx(1, rel=0.05)
        assert not layer.bias.any()
    assert torch.equal(generator.body.first_linear.weight, before)


@pytest.mark.slow
def test_names_are_encoded_by_a_clip_model_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(vocabulary) - 1
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), projection_dim=12, eos_token_id=end, bos_token_id=end - 1, pad_token_id=end, **sizes
    )
    torch.manual_seed(0)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    found = encode_names(f"hf:{tmp_path}", ["cat", "pick-up"])
    with torch.no_grad():
        expected = [model(**tokenizer([f"a image of {name}"], return_tensors="pt")).text_embeds for name in ("cat", "pick up")]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)
