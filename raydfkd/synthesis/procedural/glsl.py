"""Fragment shaders on headless OpenGL, through moderngl on an EGL context (Mesa's software renderer suffices)."""

from __future__ import annotations

import contextlib
import importlib
import struct
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from raydfkd.errors import ConfigError

VERTEX_SHADER = """#version 330 core
void main() {
    gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0, 0.0, 1.0);
}
"""
"""Four corners that cover the picture, without any buffer."""

UniformValue = int | float | tuple[float, ...] | np.ndarray


CHECKED_SIZE = 4
"""Height and width of the picture used to test a shader."""


class ShaderError(Exception):
    """A fragment shader that cannot be rendered; the message is the driver's, or names the mistyped uniform."""


_LOCAL = threading.local()
"""Each thread's context, programs and frames: a context is current in one thread only, and a thread has one that is current."""


class GlslRenderer:
    """Draws fragment shaders into uint8 pictures. All renderers of a thread share its one context.

    Raises:
        ConfigError: moderngl is not installed, or no EGL context is available.
    """

    def __init__(self) -> None:
        self._context()

    def check(self, source: str, uniforms: Mapping[str, UniformValue]) -> None:
        """Draws one small picture, because a shader that compiles may still declare a uniform as something else.

        Raises:
            ShaderError: it cannot be drawn.
        """
        self.draw(source, uniforms, CHECKED_SIZE, CHECKED_SIZE)

    def draw(self, source: str, uniforms: Mapping[str, UniformValue], height: int, width: int) -> np.ndarray:
        """One picture, uint8 [height,width,3], the top row first. Uniforms missing from the shader are skipped.

        Raises:
            ShaderError: it does not compile, or a uniform's type does not match its value.
        """
        program, vertices = self._program(source)
        for name, value in uniforms.items():
            if name in program:
                _set(program[name], name, value)
        frame = self._frame(height, width)
        frame.use()
        frame.clear(0.0, 0.0, 0.0, 1.0)
        vertices.render(_moderngl().TRIANGLE_STRIP, vertices=4)
        pixels = np.frombuffer(frame.read(components=3, alignment=1), np.uint8)
        return pixels.reshape(height, width, 3)[::-1]

    def describe(self) -> str:
        """The renderer's name, e.g. ``llvmpipe (LLVM 15)``."""
        return str(self._context().info["GL_RENDERER"])

    def _context(self) -> Any:
        if not hasattr(_LOCAL, "context"):
            _LOCAL.context = _create_context()
            _LOCAL.programs, _LOCAL.frames = {}, {}
        return _LOCAL.context

    def _program(self, source: str) -> tuple[Any, Any]:
        context, programs = self._context(), _LOCAL.programs
        if source not in programs:
            try:
                program = context.program(vertex_shader=VERTEX_SHADER, fragment_shader=source)
            except _moderngl().Error as error:
                raise ShaderError(str(error)) from error
            programs[source] = (program, context.vertex_array(program, []))
        found: tuple[Any, Any] = programs[source]
        return found

    def _frame(self, height: int, width: int) -> Any:
        context, frames = self._context(), _LOCAL.frames
        if (height, width) not in frames:
            frames[height, width] = context.simple_framebuffer((width, height), components=4)
        return frames[height, width]


def _set(uniform: Any, name: str, value: UniformValue) -> None:
    if isinstance(value, np.ndarray):
        # The driver may have cut off the end of an array that nothing reads.
        uniform.write(np.ascontiguousarray(value[: uniform.array_length], np.float32).tobytes())
        return
    try:
        uniform.value = value
    # What moderngl raises depends on the type that the shader declares.
    except (struct.error, TypeError, ValueError, _moderngl().Error) as error:
        wanted = f"vec{len(value)}" if isinstance(value, tuple) else type(value).__name__
        raise ShaderError(f"its uniform {name} is not declared as {wanted}") from error


def _moderngl() -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise ConfigError(
            "rendering GLSL needs moderngl, which is not installed: pip install 'raydfkd[shaders]', or use renderer torch"
        ) from error
    return moderngl


def _load_triton_first() -> None:
    """Mesa's llvmpipe and Triton each bring an LLVM: a Triton that is imported after it, as torch's optimizers do, crashes."""
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def _create_context() -> Any:
    moderngl = _moderngl()
    _load_triton_first()
    try:
        return moderngl.create_context(standalone=True, backend="egl", require=330)
    # moderngl raises plain Exception where libEGL or a driver is missing.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"no headless OpenGL 3.3 context can be made here ({reason}): install EGL and a driver (Mesa's llvmpipe suffices), "
            "or use renderer torch"
        ) from error
