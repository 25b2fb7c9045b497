"""Cases of metrics from features: torch-fidelity, pytorch-fid, and the evaluators of ADM and EDM."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.evaluate.features import frechet_distance, gaussian_of, inception_score
from ditkit.evaluate.kernels import Kernel, kernel_sums, polynomial, rbf, subset_distances
from ditkit.evaluate.neighbours import Reach, reach, squared_neighbours
from ditkit.evaluate.networks.inception import spatial_features
from ditkit.evaluate.statistics import equal_splits, published_order
from tests.conformance.harness import Case, covers

FID_CODES = ("torch_fidelity", "pytorch_fid", "adm", "edm", "eigh")
FIRST = 600
ADM_K = 3


def number(*values: float) -> Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return found[0] if len(values) == 1 else found


def under_every_code(prefix: str, distance: float) -> dict[str, Tensor]:
    """One distance under the names of all the codes that computed it."""
    return {f"{prefix}_{code}": number(distance) for code in FID_CODES}


def moments(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for i in (1, 2):
        gaussian = gaussian_of(inputs[f"features_{i}"])
        found |= {f"mu{i}": gaussian.mean, f"sigma{i}": gaussian.covariance}
    return found


@covers("metrics_fid_singular*")
def singular(case: Case) -> dict[str, Tensor]:
    inputs = case.inputs
    distance = frechet_distance(inputs["features_1"], inputs["features_2"])
    itself = frechet_distance(inputs["same"], inputs["same"])
    return moments(inputs) | under_every_code("fid", distance) | under_every_code("self.fid", itself)


@covers("metrics_sfid*")
def sfid(case: Case) -> dict[str, Tensor]:
    # The case keeps channels last, as TensorFlow does.
    a, b = (spatial_features(case.inputs[f"spatial_{i}"].permute(0, 3, 1, 2), case.config["channels"]) for i in (1, 2))
    return under_every_code("sfid", frechet_distance(a, b))


@covers("metrics_isc*")
def isc(case: Case) -> dict[str, Tensor]:
    logits, config = case.inputs["logits"], case.config
    n, splits = len(logits), config["splits"]
    order = published_order(n, config["seed"])
    rows_each = torch.arange(n) // config["adm_split_size"]
    return {
        "permutation": order,
        "shuffled": number(*inception_score(logits[order], equal_splits(n, splits))),
        "unshuffled": number(*inception_score(logits, equal_splits(n, splits))),
        "one_split": number(inception_score(logits, equal_splits(n, 1)).mean),
        "adm": number(inception_score(logits, rows_each).mean),
    }


@covers("metrics_features*")
def features(case: Case) -> dict[str, Tensor]:
    generated, real = (case.inputs[f"features_{i}"].double() for i in (1, 2))
    found = moments(case.inputs) | under_every_code("fid", frechet_distance(generated, real))
    found |= kid(case, "poly", polynomial, generated, real) | kid(case, "rbf", rbf(10.0), generated, real)
    sums = kernel_sums(generated[:FIRST], real[:FIRST], polynomial)
    found |= {
        "mmd2_poly_first600_biased": number(sums.biased),
        "mmd2_poly_first600_unbiased": number(sums.unbiased),
        "mmd2_poly_first600_u-statistic": number(sums.u_statistic),
    }
    # ADM's evaluator knows k = 3 alone, whatever the others were recorded at.
    ks = list(dict.fromkeys([*case.config["neighborhoods"], ADM_K]))
    for k, result in zip(ks, reach(real, generated, ks), strict=True):
        found |= precision_recall(k, result, real, generated)
    return found | {f"adm_pr.{kind}": found[f"prc.k{ADM_K}"][:2] for kind in ("f64", "f32", "f16")}


def kid(case: Case, name: str, kernel: Kernel, generated: Tensor, real: Tensor) -> dict[str, Tensor]:
    rows = zip(case.inputs["kid_idx1"], case.inputs["kid_idx2"], strict=True)
    values = subset_distances(generated, real, kernel, rows)
    found = {"mean": values.mean(), "std": values.std(correction=0), "per_subset": values}
    return {f"kid_{name}_{key}": value for key, value in found.items()}


def precision_recall(k: int, found: Reach, real: Tensor, generated: Tensor) -> dict[str, Tensor]:
    precision, recall = found.precision_recall
    radii = {i: squared_neighbours(x, k)[:, -1].sqrt() for i, x in ((1, generated), (2, real))}
    distances = torch.cdist(generated, real, compute_mode="donot_use_mm_for_euclid_dist")
    margin = min(((distances - r).abs() / r).min().item() for r in (radii[1][:, None], radii[2]))
    return {
        f"prc.k{k}": number(precision, recall, 2 * precision * recall / (precision + recall)),
        f"prc.k{k}.radii_1": radii[1].float(),
        f"prc.k{k}.radii_2": radii[2].float(),
        f"prc.k{k}.generated_in_real": found.around_generated > 0,
        f"prc.k{k}.real_in_generated": found.around_real.sum(0) > 0,
        f"prc.k{k}.min_relative_margin": number(margin),
    }
