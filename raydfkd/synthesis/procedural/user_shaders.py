"""Fragment shaders that people wrote for TwiGL or Shadertoy, completed to whole GLSL 3.30 shaders.

Shadertoy: ``void mainImage(out vec4 colour, in vec2 place)`` with iResolution, iTime and so on. TwiGL: *classic* (its own
uniforms ``resolution``, ``mouse``, ``time``, ``frame``, ``backbuffer``), *geek* (the uniforms r, m, t, f, s and b without being
declared), *geeker* (as well PI, PI2, FC, rotate2D, rotate3D, hsv and noises), *geekest* (as well no ``main``: the file is its
body), each in GLSL ES 1.00 (``gl_FragColor``) or 3.00 (an output of its own, or ``o``). The helpers are our own, written to the
documented signatures, so pictures made from their noise look different here.
"""

from __future__ import annotations

import re

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_REMOVED = re.compile(r"^[ \t]*(?:#version|#extension)[^\n]*$|\bprecision\s+\w+\s+\w+\s*;", re.MULTILINE)
_DECLARATION = re.compile(r"(?<![\w.])((?:[a-z]+\s+)*)(float|int|vec[234])\s+([^;(){}=]*)(?=[;=])")
_QUALIFIERS = {"uniform", "in", "out", "inout", "const", "varying", "attribute", "struct", "flat"}

SHADERTOY_UNIFORMS = """
uniform vec3 iResolution;
uniform float iTime, iTimeDelta, iFrameRate, iSampleRate;
uniform int iFrame;
uniform vec4 iMouse, iDate;
uniform float iChannelTime[4];
uniform vec3 iChannelResolution[4];
uniform sampler2D iChannel0, iChannel1, iChannel2, iChannel3;
"""
GEEK_UNIFORMS = {
    "r": "vec2",
    "m": "vec2",
    "t": "float",
    "f": "float",
    "s": "float",
    "b": "sampler2D",
    "b0": "sampler2D",
    "b1": "sampler2D",
}

_HASH = """
float raydfkd_random(vec3 p) {
    uvec3 q = uvec3(ivec3(floor(p))) * uvec3(668265261u, 374761393u, 1274126177u);
    uint h = q.x ^ q.y ^ q.z;
    h ^= h >> 15; h *= 739982445u; h ^= h >> 12; h *= 695872825u; h ^= h >> 15;
    return float(h & 0xFFFFFFu) / 16777216.0;
}
float raydfkd_smooth(vec3 p) {
    vec3 i = floor(p), t = p - i;
    t = t * t * (3.0 - 2.0 * t);
    float total = 0.0;
    for (int k = 0; k < 8; k++) {
        vec3 corner = vec3(k & 1, (k >> 1) & 1, k >> 2);
        vec3 share = mix(1.0 - t, t, corner);
        total += raydfkd_random(i + corner) * share.x * share.y * share.z;
    }
    return total * 2.0 - 1.0;
}
"""
HELPERS = {
    "rotate2D": "mat2 rotate2D(float a) { return mat2(cos(a), sin(a), -sin(a), cos(a)); }",
    "rotate3D": """mat3 rotate3D(float a, vec3 axis) {
    vec3 n = normalize(axis);
    mat3 k = mat3(0.0, n.z, -n.y, -n.z, 0.0, n.x, n.y, -n.x, 0.0);
    return mat3(1.0) + sin(a) * k + (1.0 - cos(a)) * k * k;
}""",
    "hsv": """vec3 hsv(float h, float s, float v) {
    vec3 pure = clamp(abs(fract(h + vec3(0.0, 2.0, 1.0) / 3.0) * 6.0 - 3.0) - 1.0, 0.0, 1.0);
    return v * mix(vec3(1.0), pure, s);
}""",
    "snoise2D": "float snoise2D(vec2 p) { return raydfkd_smooth(vec3(p, 0.0)); }",
    "snoise3D": "float snoise3D(vec3 p) { return raydfkd_smooth(p); }",
    "snoise4D": """float snoise4D(vec4 p) {
    return mix(raydfkd_smooth(p.xyz + 57.0 * floor(p.w)), raydfkd_smooth(p.xyz + 57.0 * (floor(p.w) + 1.0)), fract(p.w));
}""",
    "fsnoise": "float fsnoise(vec2 p) { return raydfkd_random(vec3(p * 4096.0, 1.0)); }",
    "fsnoiseDigits": "float fsnoiseDigits(vec2 p) { return raydfkd_random(vec3(p * 256.0, 2.0)); }",
}
MACROS = {"PI": "3.141592653589793", "PI2": "6.283185307179586", "FC": "gl_FragCoord"}


def complete_shader(text: str) -> str:
    """A whole fragment shader with one colour output, whatever convention ``text`` follows."""
    body = _REMOVED.sub("", _COMMENT.sub(" ", text.lstrip("\ufeff")))
    if _uses(body, "mainImage"):
        return _shadertoy(body)
    has_main = re.search(r"\bvoid\s+main\s*\(", body) is not None
    if has_main and re.search(r"\buniform\b", body):
        return _whole(body, "")
    uniforms = "".join(f"uniform {kind} {name};\n" for name, kind in GEEK_UNIFORMS.items() if _uses(body, name))
    if not has_main:
        body = f"void main() {{\n{body}\n}}\n"
    return _whole(body, uniforms)


def _shadertoy(body: str) -> str:
    call = "void main() {\n    vec4 colour = vec4(0.0, 0.0, 0.0, 1.0);\n    mainImage(colour, gl_FragCoord.xy);\n"
    end = "    raydfkd_fragment = vec4(colour.rgb, 1.0);\n}\n"
    return f"#version 330 core\nout vec4 raydfkd_fragment;\n{SHADERTOY_UNIFORMS}\n{zero_initialised(body)}\n{call}{end}"


def _whole(body: str, uniforms: str) -> str:
    return "\n".join(
        [
            "#version 330 core",
            "#define texture2D texture",
            _output(body),
            uniforms,
            _helpers(body),
            _renamed(zero_initialised(body)),
        ]
    )


def _output(body: str) -> str:
    """The declaration of the output, unless the shader has it."""
    if re.search(r"\bgl_Frag(?:Color|Data)\b", body):
        return "out vec4 raydfkd_fragment;"
    if re.search(r"\bout\s+(?:\w+\s+)?vec4\s+\w+\s*;", body):
        return ""
    if _uses(body, "o0"):
        return "layout(location = 0) out vec4 o0;\nlayout(location = 1) out vec4 o1;"
    return f"out vec4 {'outColor' if _uses(body, 'outColor') else 'o'};"


def _renamed(body: str) -> str:
    """GLSL ES 1.00's outputs and inputs, as 3.30 has them."""
    body = re.sub(r"\bgl_FragColor\b|\bgl_FragData\s*\[\s*0\s*\]", "raydfkd_fragment", body)
    return re.sub(r"\bvarying\b", "in", body)


def _helpers(body: str) -> str:
    found = [f"#define {name} {value}" for name, value in MACROS.items() if _uses(body, name) and not _defined(body, name)]
    functions = [code for name, code in HELPERS.items() if _uses(body, name) and not _defined(body, name)]
    if any("raydfkd_" in code for code in functions):
        functions.insert(0, _HASH)
    return "\n".join(found + functions)


def _uses(body: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){name}\b", body) is not None


def _defined(body: str, name: str) -> bool:
    return re.search(rf"#define\s+{name}\b|\b(?:float|vec[234]|mat[234])\s+{name}\s*[(=;]", body) is not None


def zero_initialised(body: str) -> str:
    """Variables that are declared without a value get 0, as most browsers do; short shaders rely on it.

    A declaration within a ``struct`` may not have one, so a text with structs stays as it is.
    """
    if re.search(r"\bstruct\b", body):
        return body

    def with_values(match: re.Match[str]) -> str:
        before, kind, names = match.groups()
        follows_value = body[match.end()] == "="
        if not _QUALIFIERS.isdisjoint(before.split()) or _inside_parameters(body, match.start()) or "[" in names:
            return match.group()
        zero = {"float": "0.0", "int": "0"}.get(kind, f"{kind}(0.0)")
        listed = [name.strip() for name in names.split(",")]
        # The last name before "=" has a value; what comes after it is unchanged.
        listed = [name if follows_value and k == len(listed) - 1 else f"{name} = {zero}" for k, name in enumerate(listed)]
        return f"{before}{kind} {', '.join(listed)}{' ' if follows_value else ''}"

    return _DECLARATION.sub(with_values, body)


def _inside_parameters(body: str, position: int) -> bool:
    """Whether the place lies between the brackets of something other than a ``for``."""
    depth = 0
    for k in range(position - 1, -1, -1):
        if body[k] == ")":
            depth += 1
        elif body[k] == "(":
            if depth == 0:
                return re.search(r"\bfor\s*$", body[:k]) is None
            depth -= 1
        elif body[k] in "{};" and depth == 0:
            return False
    return False
