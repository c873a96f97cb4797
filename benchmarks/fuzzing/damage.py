"""Damaged files, drawn by Hypothesis from good ones."""

import io
import json
import re
import struct
import zipfile
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

PLAIN: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 384, 2**31, 2**53, 10**18, 2**63, -(10**30), 1.5, -0.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), "", "a", "0", "auto", "float16", "bfloat16", "sdpa", "eager", "owner/kernel"),
    *(
        "((a+)+)+$",
        "(.*)*x",
        "\u0000",
        "\x1b[2J",
        "error: forged\nerror: forged",
        "../../x",
        "/dev/zero",
        "/etc/passwd",
    ),
    *("\ud800", "{{ 1 }}", "https://example.com/x", [], [1], ["a"], [[]], [None], {}, {"a": 1}, {"": {}}, [{}, 1, "a"]),
]
KEYS = [
    *(
        "auto_map",
        "dtype",
        "torch_dtype",
        "rope_scaling",
        "rope_parameters",
        "vision_config",
        "text_config",
        "quantizer",
    ),
    *("quantization_config", "transformers_weights", "_attn_implementation", "tie_word_embeddings", "layer_types"),
    *("base_model_name_or_path", "modules_to_save", "layer_replication", "runtime_config", "auto_mapping", "extra"),
    *("schema_version", "__metadata__", "__class__", "", "a" * 300),
]
_NESTED = "nested lists: "
"""Stands for so many lists within each other until the value is written: Python cannot copy them."""
large = st.one_of(
    st.integers(1, 7).map(lambda power: 10**power),
    st.integers(1, 6).map(lambda power: "a" * 10**power),
    st.integers(1, 5).map(lambda power: [0] * 10**power),
    st.integers(1, 4).map(lambda power: {str(i): i for i in range(10**power)}),
    st.sampled_from([30, 900, 1_500, 100_000]).map(lambda depth: f"{_NESTED}{depth}"),
)
values = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(PLAIN),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.recursive(st.sampled_from(PLAIN), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v)),
    large,
)
RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1e999",
    b"9" * 6_000,
]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a JSON value holds others, at any depth; of long lists and tables the first and last entries."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if len(entries) > 24:
        entries = entries[:16] + entries[-8:]
    below = [place for key, child in entries for place in places(child, (*at, key))]
    return [at, *below] if at else below


@st.composite
def damaged_value(draw: st.DrawFn, content: Any) -> Any:
    """A JSON value with one to four places of it replaced, removed, renamed, exchanged or added to."""
    value = deepcopy(content)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        at = places(value)
        if not at:
            break
        *parents, key = draw(st.sampled_from(at))
        holder = value
        for parent in parents:
            holder = holder[parent]
        how = draw(st.sampled_from(["replace", "replace", "replace", "number", "remove", "add", "rename", "copy"]))
        old = holder[key]
        if how == "number" and type(old) in (int, float):
            holder[key] = draw(st.sampled_from([old + 1, old - 1, -old, old * 2, old * 1000, old / 2, str(old)]))
        elif how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS))] = deepcopy(draw(values))
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS) | st.text(max_size=5))] = holder.pop(key)
        elif how == "copy":
            *others, last = draw(st.sampled_from(at))
            source = value
            try:
                for parent in (*others, last):
                    source = source[parent]
            except (KeyError, IndexError, TypeError):
                continue  # removed by an earlier step
            holder[key] = deepcopy(source)
        else:
            holder[key] = deepcopy(draw(values))
    return value


def as_json(value: Any) -> bytes:
    text = json.dumps(value)
    text = re.sub(f'"{_NESTED}([0-9]+)"', lambda match: "[" * int(match[1]) + "]" * int(match[1]), text)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes, within: int = 4_000) -> bytes:
    """Bytes with one to four places replaced, inserted or removed, or cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        start = draw(st.integers(0, min(len(changed), within)))
        changed[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    if draw(st.integers(0, 9)) == 0:
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed)


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file: mostly valid JSON with other values, sometimes damaged as bytes."""
    how = draw(st.integers(0, 19))
    if how == 0:
        return draw(st.sampled_from(RAW))
    if how == 1:
        return draw(damaged_bytes(content))
    return as_json(draw(damaged_value(json.loads(content))))


@st.composite
def damaged_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSONL file with one line damaged, repeated, exchanged or removed."""
    lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["json", "json", "json", "repeat", "exchange", "remove", "bytes"]))
    if how == "json":
        lines[number] = draw(damaged_json(lines[number]))
    elif how == "repeat":
        lines[number:number] = [lines[number]] * draw(st.sampled_from([1, 2, 10_000]))
    elif how == "exchange":
        other = draw(st.integers(0, len(lines) - 1))
        lines[number], lines[other] = lines[other], lines[number]
    elif how == "remove":
        del lines[number]
    else:
        return draw(damaged_bytes(content, len(content)))
    return b"\n".join(lines) + draw(st.sampled_from([b"\n", b"", b'\n{"seconds": 1']))


@st.composite
def damaged_header(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose header has other values, with or without its length corrected; or damaged as bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    how = draw(st.integers(0, 9))
    if how == 0:
        return draw(damaged_bytes(content))
    if how == 1:
        other = draw(st.sampled_from([0, 1, length - 1, length + 1, 10**8, 2**31, 2**63, 2**64 - 1]))
        return struct.pack("<Q", other) + header + data
    changed = draw(damaged_json(header))
    changed += b" " * (-len(changed) % 8)
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=9))
    return struct.pack("<Q", len(changed)) + changed + data


@st.composite
def damaged_workbook(draw: st.DrawFn, content: bytes) -> bytes:
    """A zip archive with one part damaged, missing or much larger when unpacked; or damaged as bytes."""
    how = draw(st.sampled_from(["part", "part", "part", "attribute", "attribute", "missing", "large", "bytes"]))
    if how == "bytes":
        return draw(damaged_bytes(content, len(content)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(parts)))
    if how == "part":
        parts[name] = draw(damaged_bytes(parts[name], len(parts[name])))
    elif how == "attribute":
        parts[name] = _other_attribute(draw, parts[name])
    elif how == "missing":
        del parts[name]
    else:
        parts[name] += draw(st.sampled_from([b" ", b"<row>", b"<c>0</c>"])) * draw(st.sampled_from([10**4, 10**7]))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return packed.getvalue()


def _other_attribute(draw: st.DrawFn, xml: bytes) -> bytes:
    """XML with another value in one attribute, such as a cell's position, type or repetition."""
    values = list(re.finditer(rb'="([^"]*)"', xml))
    if not values:
        return xml
    chosen = draw(st.sampled_from(values))
    other = draw(
        st.sampled_from([b"", b"-1", b"0", b"1048576", b"XFD1048576", b"99999999999", b"s", b"e", b"d", b"&x;"])
    )
    return xml[: chosen.start(1)] + other + xml[chosen.end(1) :]


TEMPLATE_PARTS = [
    *("{% for i in range(99999) %}x{% endfor %}", "{{ messages }}", "{{ bos_token * 9 }}", "{% set x = x ~ x %}", "{{"),
    *("{% include '/etc/passwd' %}", "{{ cycler.__init__.__globals__ }}", "{% raw %}", "{{ raise_exception('x') }}"),
    *(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'a'.__class__.__mro__ }}",
        "{% endfor %}",
        "\x00",
        "<bos>",
    ),
    *("{{ '%99999s' % 'a' }}", "{{ 'a'.center(99999) }}", "{{ [1]|batch(9)|list }}", "{{ strftime_now('%Y') }}"),
    *("{{ '{:99999}'.format(1) }}", "{% for i in messages %}{% for j in messages %}{{ i }}{% endfor %}{% endfor %}"),
]


@st.composite
def damaged_template(draw: st.DrawFn, content: bytes) -> bytes:
    text = content.decode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        part = draw(st.sampled_from(TEMPLATE_PARTS) | st.text(max_size=6))
        text = text[:start] + part + text[start + draw(st.integers(0, 6)) :]
    return text.encode("utf-8", "surrogatepass")
