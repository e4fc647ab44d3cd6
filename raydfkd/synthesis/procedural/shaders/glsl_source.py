"""Writes a program as an OpenGL fragment shader (GLSL 3.30), statement by statement in the order of its nodes."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import lattice_noise, operations
from raydfkd.synthesis.procedural.shaders.operations import OPERATIONS
from raydfkd.synthesis.procedural.shaders.sketch import Program

PARAMETERS = "parameters"
"""The uniform array that holds a picture's parameters."""
SIZE = "size"
"""The uniform that holds width and height in pixels."""


def fragment_shader(program: Program) -> str:
    """The whole shader; its uniforms are the float array ``parameters`` (if the family has any) and ``size``."""
    lines = []
    for position, node in enumerate(program.nodes):
        args = [f"v{one}" for one in program.args[position]]
        kind = "float"
        if node.op == "constant":
            text = _number(node.value)
        elif node.op == "parameter":
            text = f"{PARAMETERS}[{int(node.value)}]"
        elif node.op in ("x", "y"):
            text = f"place.{node.op}"
        elif node.op == "item":
            text = f"{args[0]}[{int(node.value)}]"
        else:
            operation = OPERATIONS[node.op]
            text = operation.glsl.format(*args)
            kind = "float" if operation.num_outputs == 1 else f"float[{operation.num_outputs}]"
        lines.append(f"    {kind} v{position} = {text};")
    colour = ", ".join(f"v{output}" for output in program.outputs)
    uniforms = [f"uniform float {PARAMETERS}[{len(program.parameters)}];"] if program.parameters else []
    return "\n".join(
        [
            "#version 330 core",
            f"uniform vec2 {SIZE};",
            *uniforms,
            "out vec4 fragment;",
            lattice_noise.GLSL_SOURCE.strip(),
            operations.GLSL_SOURCE.strip(),
            "void main() {",
            f"    vec2 place = (2.0 * gl_FragCoord.xy - {SIZE}) / min({SIZE}.x, {SIZE}.y);",
            *lines,
            f"    fragment = vec4({colour}, 1.0);",
            "}",
            "",
        ]
    )


def _number(value: float) -> str:
    text = repr(value)
    if "." not in text and "e" not in text:
        text += ".0"
    return f"({text})" if value < 0 else text
