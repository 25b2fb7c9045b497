"""What the evaluation accepts as images and labels, checked once and in the same words everywhere."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ditkit.base.errors import UserError

LOOKED_AT = 64
"""Images whose values are looked at."""
NEAR = 12
"""Whole numbers about 0 that normal ones become, at most: six standard deviations of 2."""


def check_images(what: str, images: Tensor) -> None:
    """Raises UserError unless ``images`` is uint8 (N, C, H, W) with N >= 1; C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    ``what`` names them in the message ("samples", "reference images").
    """
    if images.dtype != torch.uint8:
        raise UserError(
            f"{what} are {images.dtype}{_range(images)}, expected torch.uint8 with values 0..255: {_convert(images)}"
        )
    if images.ndim != 4 or not 1 <= images.shape[1] <= 4:
        raise UserError(
            f"{what} have shape {tuple(images.shape)}, expected (N, C, H, W) with C of 1 to 4: permute them"
        )
    if images.numel() == 0:
        raise UserError(f"{what} have shape {tuple(images.shape)}, expected at least one image with at least one pixel")


def looked_at(count: int) -> Tensor:
    """Rows of the images, evenly spaced, by which ``check_values`` judges a set of so many."""
    return torch.linspace(0, count - 1, min(count, LOOKED_AT)).long()


def check_values(what: str, images: Tensor) -> None:
    """Raises UserError when the values of uint8 ``images`` are what is left of floats that were cast without scaling.

    Of floats in [0, 1) or (-1, 1) one value is left in all images, of those in [0, 1] or [-1, 1] 0, 1 and 255, and of
    numbers spread about 0 what lies near 0 and near 255 (see ``_wrapped``). Looks at 64 of the images.
    """
    some = images[looked_at(len(images)).to(images.device)]
    values = some.flatten().bincount(minlength=256).nonzero()[:, 0].tolist()
    if len(values) == 1:
        raise UserError(
            f"{what} are all of one value, {values[0]}; expected 0..255: floats in [0, 1) or (-1, 1) become so when "
            "they are cast to uint8; scale to 0..255 before the cast, or give images that show something"
        )
    if 1 in values and set(values) <= {0, 1, 255}:
        raise UserError(
            f"{what} have no values but {values}, expected 0..255: they look like floats in [0, 1] or "
            "[-1, 1] cast to uint8; scale to 0..255 before the cast"
        )
    if _wrapped(some):
        farthest = max(min(value, 255 - value) for value in values)
        raise UserError(
            f"{what} have no values but those within {farthest} of 0 or of 255, expected 0..255: they look like floats "
            "about 0 cast to uint8, where negative numbers are counted down from 256; scale to 0..255, round and clamp "
            "before the cast"
        )


def _wrapped(images: Tensor) -> bool:
    """Whether images (N, C, H, W) hold whole numbers about 0, of which -1 has become 255, -2 254, and so on.

    Those are near 0, and the same below it as above: about as many -1 as 1, and as often side by side. Black and white
    pictures with noise, as from a JPEG, have their values near 0 and 255 too, perhaps as many 255 as 1; but then
    what is white lies together, and what is nearly black lies scattered.
    """
    signed = images.view(torch.int8)
    if signed.min() < -NEAR or signed.max() > NEAR:
        return False
    zeros, ones, others = (int((signed == value).sum()) for value in (0, 1, -1))
    if not _alike(ones, others) or zeros < max(ones, others):
        return False
    beside = [((side[..., 1:] & side[..., :-1]).sum() / side.sum()).item() for side in (signed > 0, signed < 0)]
    return _alike(*beside)


def _alike(a: float, b: float) -> bool:
    """Whether two numbers are above 0, and neither is over one and a half times the other."""
    return 0 < max(a, b) <= 1.5 * min(a, b)


def check_same_shape(what: str, images: Tensor, other: str, others: Tensor) -> None:
    """Raises UserError unless both sets of images have the same channels, height and width."""
    if images.shape[1:] != others.shape[1:]:
        raise UserError(
            f"{what} are {_size(images)} but {other} are {_size(others)}, expected the same: "
            "resize or convert one of them to the other's size and colour"
        )


def check_labels(what: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raises UserError unless ``labels`` is int64 (N,), one per image, each in 0..num_classes-1."""
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise UserError(
            f"labels of {what} are {labels.dtype} {tuple(labels.shape)}, "
            f"expected torch.int64 ({len(images)},), one for each image"
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"label {int(wrong[0])} of {what} is out of range, expected 0..{num_classes - 1}: "
            "use the class numbers of the data that the classifier was trained on"
        )


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def fingerprint(*tensors: Tensor | None) -> str:
    """SHA-256, in hexadecimal, of the types, shapes and contents of tensors (None counts as itself)."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none;")
        else:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _range(images: Tensor) -> str:
    """What floats hold, to follow their type; nothing for other types."""
    if not images.is_floating_point() or not images.numel():
        return ""
    bad = int((~images.flatten(1).isfinite()).any(1).sum()) if images.ndim > 1 else 0
    if bad:
        return f" with NaN or infinite values in {bad} of {len(images)} images"
    return f" with values {images.min().item():.3g}..{images.max().item():.3g}"


def _convert(images: Tensor) -> str:
    """How these values become uint8."""
    if not images.is_floating_point() or not images.numel() or bool((~images.isfinite()).any()):
        return "give finite floats in [-1, 1] to ditkit.base.pixels.to_uint8"
    low, high = images.min().item(), images.max().item()
    if low >= 0 and high > 1.5:
        return "they look like 0..255 already, convert by .round().to(torch.uint8)"
    if low >= 0:
        return "they look like [0, 1], convert by (x * 255).round().to(torch.uint8)"
    return "convert floats in [-1, 1] by ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)"


def _size(images: Tensor) -> str:
    C, H, W = images.shape[1:]
    return f"{H}x{W} (height x width) with {C} channel{'s' if C > 1 else ''}"
