"""OpenGL draws what torch draws, and a user's shaders of every convention. Pictures are skipped without moderngl and EGL."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydfkd.errors import ConfigError, DataError
from raydfkd.synthesis.procedural import glsl
from raydfkd.synthesis.procedural.glsl import GlslRenderer, ShaderError
from raydfkd.synthesis.procedural.glsl_folder import GlslFolder, uniforms
from raydfkd.synthesis.procedural.shader_images import ShaderImages, render_glsl
from raydfkd.synthesis.procedural.shaders.glsl_source import fragment_shader
from raydfkd.synthesis.procedural.shaders.shader_catalog import family_names, program
from raydfkd.synthesis.procedural.shaders.torch_renderer import render
from raydfkd.synthesis.procedural.user_shaders import complete_shader, zero_initialised

CPU = torch.device("cpu")
COMPARED = family_names()[::6]
"""A sixth of the families: each takes the driver about 0.15 s to compile."""


@functools.cache
def renderer() -> GlslRenderer:
    try:
        return GlslRenderer()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", COMPARED)
def test_both_renderers_draw_the_same_picture(name: str) -> None:
    """At most 1% of the pixels differ by more than 4/255: those where a driver's rounding puts a hard edge on another side.

    With Mesa's llvmpipe no pixel of any family differed by more than 3/255.
    """
    compiled = program(name)
    parameters = compiled.draw(2, torch.Generator().manual_seed(5))
    ours = render(compiled, parameters, 24, 20, CPU)
    theirs = render_glsl(renderer(), compiled, parameters, 24, 20)
    different = (ours - theirs).abs().amax(1) > 4 / 255
    assert different.float().mean() < 0.01


def test_every_family_s_shader_is_well_formed() -> None:
    """Every value is assigned before it is used, and every bracket is closed; this needs no OpenGL."""
    for name in family_names():
        source = fragment_shader(program(name))
        assert source.startswith("#version 330 core\n")
        for opening, closing in ("()", "{}", "[]"):
            assert source.count(opening) == source.count(closing), name
        known: set[str] = set()
        body = source[source.index("void main()") :]
        for line in body.splitlines()[2:-2]:
            target, _, value = line.strip().partition(" = ")
            assert line.endswith(";"), line
            assert set(re.findall(r"\bv\d+\b", value)) <= known, f"{name}: {line}"
            known.add(target.split()[-1])
        assert "nan" not in body
        assert "inf" not in body


def test_glsl_images_have_the_shape_and_repeat_for_a_seed() -> None:
    renderer()
    source = ShaderImages((1, 8, 12), CPU, renderer="glsl", images_per_family=2)
    first, again = (source.render(3, torch.Generator().manual_seed(2)) for _ in range(2))
    assert first.shape == (3, 1, 8, 12)
    assert torch.equal(first, again)


RED_RIGHT = {
    "shadertoy.glsl": "void mainImage(out vec4 c, in vec2 p) { c = vec4(p.x / iResolution.x, fract(iTime) * 0.0, 0.0, 1.0); }",
    "classic.frag": "precision mediump float; uniform vec2 resolution; uniform float time;\n"
    "void main() { gl_FragColor = vec4(gl_FragCoord.x / resolution.x, 0.0, 0.0 * time, 1.0); }",
    "precise.frag": "#version 300 es\nuniform highp vec2 resolution;\nout highp vec4 mine;\n"
    "void main() { highp float x; x += gl_FragCoord.x; mine = vec4(x / resolution.x, 0.0, 0.0, 1.0); }",
    "classic_es3.frag": "#version 300 es\nprecision highp float;\nuniform vec2 resolution;\nout vec4 mine;\n"
    "void main() { mine = vec4(gl_FragCoord.x / resolution.x, 0.0, 0.0, 1.0); }",
    "geek.frag": "void main() { gl_FragColor = vec4(gl_FragCoord.x / r.x, 0.0 * t, 0.0, 1.0); }",
    "geeker.frag": "void main() { vec2 p = rotate2D(PI2) * FC.xy; gl_FragColor = vec4(hsv(0.0, 1.0, p.x / r.x), 1.0); }",
    "geekest.frag": "gl_FragColor = vec4(FC.x / r.x, 0.0, 0.0, 1.0);",
    "geekest_es3.frag": "#version 300 es\nfloat i, e; for (float k; k++ < 9.0;) i += 1.0;"
    "o = vec4(FC.x / r.x + e, i - 9.0, 0, 1);",
    "noisy.frag": "o = vec4(FC.x / r.x, 0.0 * (snoise2D(FC.xy) + snoise3D(vec3(FC.xy, t)) + fsnoise(FC.xy)), 0.0, 1.0);",
    "two_targets.frag": "o0 = vec4(FC.x / r.x, 0.0, 0.0, 1.0); o1 = vec4(1.0);",
}


@pytest.mark.parametrize("name", RED_RIGHT)
def test_a_user_s_shader_of_every_convention(name: str) -> None:
    """Each gets redder to the right, and draws nothing else."""
    drawn = renderer().draw(complete_shader(RED_RIGHT[name]), uniforms(1.0, 4, 8), 4, 8)
    expected = np.round((np.arange(8) + 0.5) / 8 * 255)
    assert np.abs(drawn[..., 0].astype(float) - expected).max() <= 1
    assert (drawn[..., 1:] == 0).all()


def test_the_top_row_comes_first() -> None:
    drawn = renderer().draw(complete_shader("o = vec4(FC.y / r.y);"), uniforms(0.0, 6, 2), 6, 2)
    assert drawn[0, 0, 0] > drawn[5, 0, 0]


def test_each_thread_draws_in_a_context_of_its_own() -> None:
    shader = complete_shader(RED_RIGHT["geekest.frag"])
    drawn: list[np.ndarray] = []
    here = renderer()
    thread = threading.Thread(target=lambda: drawn.append(here.draw(shader, uniforms(1.0, 4, 8), 4, 8)))
    thread.start()
    thread.join(timeout=60)
    assert np.array_equal(drawn[0], here.draw(shader, uniforms(1.0, 4, 8), 4, 8))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_can_be_imported_after_a_context_was_made() -> None:
    """torch's optimizers import it; with Mesa's LLVM loaded before it, that used to end the process."""
    renderer()
    code = "from raydfkd.synthesis.procedural.glsl import GlslRenderer; GlslRenderer(); import torch._dynamo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_time_reaches_the_shader() -> None:
    shader = complete_shader(
        "void mainImage(out vec4 c, in vec2 p) { c = vec4(iTime / 10.0, float(iFrame) / 600.0, 0.0, 1.0); }"
    )
    red, green, _ = renderer().draw(shader, uniforms(5.0, 1, 1), 1, 1)[0, 0]
    assert (int(red), int(green)) == (128, 128)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float a, b = 2.0; a += b;", "float a = 0.0, b = 2.0; a += b;"),
        ("for (float i, k; i < 3.0; i++) {}", "for (float i = 0.0, k = 0.0; i < 3.0; i++) {}"),
        ("vec3 p; int n;", "vec3 p = vec3(0.0); int n = 0;"),
        ("uniform vec2 r;", "uniform vec2 r;"),
        ("float f(vec2 p, float q) { return q; }", "float f(vec2 p, float q) { return q; }"),
        ("struct S { float a; };", "struct S { float a; };"),
        ("const float k = 1.0;", "const float k = 1.0;"),
        ("out highp vec4 c;", "out highp vec4 c;"),
        ("uniform lowp float a, b;", "uniform lowp float a, b;"),
        ("varying mediump vec2 v;", "varying mediump vec2 v;"),
        ("flat in highp int n;", "flat in highp int n;"),
        ("highp vec3 p; mediump float q;", "highp vec3 p = vec3(0.0); mediump float q = 0.0;"),
    ],
)
def test_variables_without_a_value_get_zero(text: str, expected: str) -> None:
    assert zero_initialised(text) == expected


def test_a_broken_shader_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    renderer()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "good.glsl").write_text(RED_RIGHT["shadertoy.glsl"])
    (tmp_path / "broken.frag").write_text("void main() { gl_FragColor = vec5(1.0); }")
    (tmp_path / "notes.txt").write_text("no shader")
    with caplog.at_level(logging.WARNING):
        source = GlslFolder(tmp_path, (3, 4, 8), CPU)
    assert [file.name for file in source.files] == ["good.glsl"]
    assert len(caplog.records) == 1
    assert "broken.frag cannot be rendered and is skipped: 0:" in caplog.text
    images = source.render(2, torch.Generator().manual_seed(0))
    assert images.shape == (2, 3, 4, 8)
    assert (images[:, 0].diff(dim=2) > 0).all()


@pytest.mark.parametrize(
    ("declared", "used", "wanted"),
    [
        ("int frame", "float(frame)", "frame is not declared as float"),
        ("bool frame", "float(frame)", "frame is not declared as float"),
        ("vec3 resolution", "resolution.x", "resolution is not declared as vec2"),
        ("float mouse", "mouse", "mouse is not declared as vec2"),
        ("vec2 time", "time.x", "time is not declared as float"),
        ("float time[3]", "time[2]", "time is not declared as float"),
        ("sampler2D time", "texture2D(time, vec2(0.0)).x", "time is not declared as float"),
        ("mat2 time", "time[0][0]", "time is not declared as float"),
        ("vec2 iFrame", "iFrame.x", "iFrame is not declared as int"),
    ],
)
def test_a_shader_that_compiles_but_cannot_be_drawn_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, declared: str, used: str, wanted: str
) -> None:
    renderer()
    (tmp_path / "good.glsl").write_text(RED_RIGHT["shadertoy.glsl"])
    (tmp_path / "odd.frag").write_text(f"uniform {declared};\nvoid main() {{ gl_FragColor = vec4({used}); }}")
    with caplog.at_level(logging.WARNING):
        source = GlslFolder(tmp_path, (3, 4, 8), CPU)
    assert [file.name for file in source.files] == ["good.glsl"]
    assert len(caplog.records) == 1
    assert f"odd.frag cannot be rendered and is skipped: its uniform {wanted}" in caplog.text
    assert source.render(3, torch.Generator().manual_seed(0)).shape == (3, 3, 4, 8)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    renderer()
    with pytest.raises(DataError, match=r"does not exist: correct images\.path"):
        GlslFolder(tmp_path / "none", (3, 4, 4), CPU)
    with pytest.raises(DataError, match=r"holds no \.glsl"):
        GlslFolder(tmp_path, (3, 4, 4), CPU)
    (tmp_path / "broken.frag").write_text("nothing sensible")
    with pytest.raises(DataError, match="none of the 1 shaders"):
        GlslFolder(tmp_path, (3, 4, 4), CPU)


def test_a_shader_error_is_the_driver_s() -> None:
    with pytest.raises(ShaderError, match="vec5"):
        renderer().check("#version 330 core\nout vec4 o; void main() { o = vec5(1.0); }", {})


def test_without_moderngl_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "moderngl":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(glsl, "_LOCAL", threading.local())
    monkeypatch.delitem(sys.modules, "moderngl", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'raydfkd\[shaders\]', or use renderer torch"):
        GlslRenderer()


def test_without_egl_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        @staticmethod
        def create_context(**settings: Any) -> None:
            raise Exception("libEGL.so.1 not loaded.\nmore")

    monkeypatch.setattr(glsl, "_LOCAL", threading.local())
    monkeypatch.setattr(glsl, "_moderngl", lambda: NoDriver)
    with pytest.raises(
        ConfigError, match=r"no headless OpenGL 3\.3 context can be made here \(libEGL\.so\.1 not loaded\): install"
    ):
        GlslRenderer()
