"""Captions to vectors by encoders that stay as they are.

Axis letters: P captions, E text features.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxdd.errors import SettingError
from jaxdd.io import npz
from jaxdd.io.files import atomic_write
from jaxdd.io.integrity import digest

HASHED = 512
"""E of `hashed`."""
KEPT = "~/.cache/jaxdd/texts"
"""Where embeddings are kept for the next start, each file by the digest of its encoder and captions; safe to delete."""
KEPT_ABOVE = 1.0
"""Seconds of embedding from which on. [our choice]"""
IN_A_FILE = "file:"
"""What the name of an encoder begins with, before the path of an npz, whose embeddings were computed in advance."""


def embed(encoder: str, captions: Sequence[str]) -> np.ndarray:
    """Embed captions, or read what was made of the same ones before, see `KEPT`.

    Args:
        encoder: `hashed`, `wordllama`, or `file:NPZ`, see the functions of this module.
        captions: P texts, none of them empty.

    Returns:
        `[P, E]` float32; equal captions have equal rows.

    Raises:
        SettingError: there is no such encoder, it is not installed, or it does not know a caption.
    """
    if encoder.startswith(IN_A_FILE) and encoder != IN_A_FILE:
        return from_file(Path(encoder.removeprefix(IN_A_FILE)), captions)
    if encoder not in ENCODERS:
        raise SettingError(
            f"no text encoder is called {encoder!r}; choose {', '.join(ENCODERS)}, or file:NPZ with embeddings of any"
        )
    name = digest([encoder, _version(encoder), list(captions)])
    file = Path(KEPT).expanduser() / f"{name}.npz"
    with contextlib.suppress(OSError, KeyError, SettingError):  # there is none, or it is damaged
        return npz.read(file, lambda name: name == "embeddings")["embeddings"]
    began = time.monotonic()
    rows = ENCODERS[encoder](captions)
    if time.monotonic() - began > KEPT_ABOVE:
        buffer = io.BytesIO()
        np.savez(buffer, embeddings=rows)
        with contextlib.suppress(OSError):  # a home that cannot be written to costs time alone
            atomic_write(file, buffer.getvalue())
    return rows


def _version(encoder: str) -> str | None:
    """Return the version of the package that an encoder comes from; None for jaxdd's own, which stay as they are."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(encoder)
    return None


def hashed(captions: Sequence[str]) -> np.ndarray:
    """Embed captions by their characters: no download, and captions that share words are near to each other.

    Every run of 3 to 5 characters of a caption in small letters, a space at both ends, adds ±1 at one of 512 places,
    both given by its CRC-32; rows have norm one. [our choice]

    Args:
        captions: P texts.

    Returns:
        `[P, 512]` float32.
    """
    rows = np.zeros((len(captions), HASHED), np.float32)
    for row, caption in zip(rows, captions, strict=True):
        text = f" {' '.join(caption.lower().split())} "
        for size in (3, 4, 5):
            for start in range(len(text) - size + 1):
                code = zlib.crc32(text[start : start + size].encode())
                row[code % HASHED] += 1 if code >> 31 else -1
    return unit_rows(rows)


def wordllama(captions: Sequence[str]) -> np.ndarray:
    """Embed captions by the mean of their tokens' vectors, of WordLlama's 256 features (extra `text`).

    Weights and tokenizer lie in its wheel and are read there: nothing is downloaded.

    Args:
        captions: P texts.

    Returns:
        `[P, 256]` float32, rows of norm one.

    Raises:
        SettingError: it is not installed.
    """
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise SettingError("the text encoder wordllama is not installed: pip install 'jaxdd[text]', or choose hashed")
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    home = Path(found.origin).parent
    (table,) = load_file(home / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(home / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokens = [coded.ids for coded in tokenizer.encode_batch(list(captions), add_special_tokens=False)]
    return unit_rows(np.stack([table[ids].astype(np.float32).mean(0) for ids in tokens]))


def from_file(path: Path, captions: Sequence[str]) -> np.ndarray:
    """Look captions up among embeddings of any encoder, such as BERT's.

    Args:
        path: an npz file with `captions` `[P']` strings and `embeddings` `[P', E]` floats.
        captions: P texts.

    Returns:
        `[P, E]` float32.

    Raises:
        SettingError: the file lacks an array, or has one that does not fit, or a caption is not in it.
    """
    try:
        arrays = npz.read(path, lambda name: name in ("captions", "embeddings"))
    except ValueError as error:
        raise SettingError(f"cannot read text embeddings from {path}: {error}") from error
    if missing := {"captions", "embeddings"} - arrays.keys():
        raise SettingError(f"{path} has no array {', '.join(sorted(missing))}; text embeddings need both")
    names, rows = arrays["captions"], arrays["embeddings"]
    if rows.ndim != 2 or rows.dtype.kind != "f" or len(names) != len(rows) or not np.isfinite(rows).all():
        raise SettingError(
            f"{path} has {len(names)} captions and embeddings {rows.dtype} {list(rows.shape)}; give finite floats, a "
            "row for each caption"
        )
    place = {str(name): i for i, name in enumerate(names)}
    if unknown := [caption for caption in captions if caption not in place]:
        raise SettingError(f"{path} has no embedding of the caption {unknown[0]!r} ({len(unknown)} are missing)")
    return rows[[place[caption] for caption in captions]].astype(np.float32)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scale every row of `[P, E]` to norm one; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


ENCODERS: dict[str, Callable[[Sequence[str]], np.ndarray]] = {"hashed": hashed, "wordllama": wordllama}
"""Name to `(captions) -> [P, E]`."""
