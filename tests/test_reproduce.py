"""ditkit reproduce: pinned protocols from their files to their verdict; the one whose weights are here, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditkit.app import build, checks
from ditkit.app.model import Model, check_sampling
from ditkit.app.reproduction import verdict
from ditkit.app.reproduction.model import load_published
from ditkit.app.reproduction.protocol import load_protocol, ready_protocols
from ditkit.backbones.dit import DiT
from ditkit.base.errors import UserError
from ditkit.base.files import sha256
from ditkit.base.rng import generator
from ditkit.condition import Condition
from ditkit.convert.autoencoder import CONFIG, WEIGHTS
from ditkit.convert.dit import FacebookDiT
from ditkit.evaluate import suite
from ditkit.evaluate.networks.inception import Inception
from ditkit.evaluate.networks.pixels import Pixels
from ditkit.evaluate.protocol import protocol_hash
from tests.running import Trial, ditkit, made
from tests.storing import tiny, write
from tests.test_evaluate_command import numbers
from tests.test_refusals import assert_refused

DIGITS = ready_protocols()["digits"]
OWN = DIGITS.parent / "digits" / "digits-dit.safetensors"


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "reproduce.json").read_text())


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No published weights are at hand."""
    for name in ("DITKIT_WEIGHTS", "DITKIT_INCEPTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, reproduced. Not to be changed."""
    out = tmp_path_factory.mktemp("reproduced") / "digits"
    said = made(ditkit("reproduce", "digits", "--out", out, "--device", "cpu"))
    assert "PASS: 4 of 4 scores" in said.out
    return out


def own(folder: Path, **changes: Any) -> Path:
    """A protocol like that of the digits but for some keys, in a folder with its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(DIGITS, folder / "digits.yaml")
    shutil.copytree(OWN.parent, folder / "digits")
    (folder / "mine.yaml").write_text(yaml.safe_dump({"like": "digits", "about": "mine", **changes}))
    return folder / "mine.yaml"


# --- from files to a verdict ---


def test_the_digits_pass_and_keep_all_that_the_numbers_hang_on(reproduced: Path) -> None:
    found, protocol = read(reproduced), load_protocol("digits")
    assert found["verdict"] == "pass"
    assert found["protocol_hash"] == protocol.hash == protocol_hash(found["protocol"])
    assert found["files"] == {"digits/digits-dit.safetensors": dict.fromkeys(("sha256", "pinned"), sha256(OWN))}
    measured = found["measured"]
    assert measured["protocol"]["sampling"]["guidance"] == protocol.pinned.recipe.sample.guidance
    assert measured["protocol"]["labels"].startswith("random")
    assert measured["about"]["weights_sha256"] == sha256(OWN)
    for row in found["scores"]:
        assert row["measured"] == measured[row["score"]]["value"]
    assert json.loads((reproduced / "metrics.json").read_text()) == measured
    assert not (reproduced / ".evaluating").exists()


def test_another_number_of_steps_fails(tmp_path: Path) -> None:
    mine = own(tmp_path / "p", recipe={"sample": {"steps": "4"}})
    said = ditkit("reproduce", mine, "--out", tmp_path / "out")
    assert said.code == 1
    assert "FAIL: frechet_distance" in said.out
    assert "PASS" not in said.out
    assert read(tmp_path / "out")["verdict"] == "fail"


def test_altered_weights_are_refused_and_where_they_are_pinned_they_fail(tmp_path: Path) -> None:
    mine = own(tmp_path / "p")
    altered = tmp_path / "p" / "digits" / OWN.name
    state = load_file(altered)
    state["blocks.1.mlp.fc2.weight"].zero_()
    save_file(state, altered)
    refused = ditkit("reproduce", mine, "--out", tmp_path / "out")
    assert_refused(refused, sha256(altered), sha256(OWN), "fetch it anew")
    weights = yaml.safe_load(DIGITS.read_text())["weights"] | {"sha256": sha256(altered)}
    mine.write_text(yaml.safe_dump({"like": "digits", "weights": weights}))
    said = ditkit("reproduce", mine, "--out", tmp_path / "out")
    assert said.code == 1
    assert "FAIL: frechet_distance" in said.out


def test_fewer_samples_are_no_published_protocol(tmp_path: Path) -> None:
    said = ditkit("reproduce", "digits", "--num", 40, "--npz", tmp_path / "samples.npz", "--out", tmp_path / "out")
    assert said.code == 1
    assert "not the published protocol: 40 samples, published are 512" in said.out
    assert "pass" not in said.out.lower()
    assert read(tmp_path / "out")["verdict"] == "not the published protocol"
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (40, 8, 8, 3)


def test_several_sets_have_a_standard_error_over_them(tmp_path: Path) -> None:
    ditkit("reproduce", "digits", "--num", 16, "--repeats", 3, "--out", tmp_path)
    found = read(tmp_path)["measured"]
    assert len(found["frechet_distance"]["values"]) == 3
    assert found["protocol"]["seeds"] == [0, 47]
    said = ditkit("reproduce", "digits", "--repeats", 2, "--npz", tmp_path / "x.npz", "--out", tmp_path)
    assert_refused(said, "--npz", "2 sets", "one at a time")


def test_a_kill_while_drawing_loses_one_part(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Model.draw

    def counted(self: Model, seeds: range, *args: Any, **kwargs: Any) -> Tensor:
        drawn.append(seeds[0])
        return draw(self, seeds, *args, **kwargs)

    mine, out = own(tmp_path / "p", num=300, recipe={"sample": {"steps": "2"}}), tmp_path / "out"
    assert trial(["reproduce", mine, "--out", out], at=["ditkit.evaluate.parts.atomic_file", 3])["code"] == -9
    assert not (out / "reproduce.json").exists()
    monkeypatch.setattr(Model, "draw", counted)
    ditkit("reproduce", mine, "--out", out)
    assert drawn == [256]
    ditkit("reproduce", mine, "--out", tmp_path / "whole")
    assert drawn == [256, 0, 128, 256]
    assert numbers(read(out)["measured"]) == numbers(read(tmp_path / "whole")["measured"])


# --- files ---


def test_missing_files_are_all_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = load_protocol("dit-xl-2-256-cfg1.5")
    said = ditkit("reproduce", protocol.name, "--weights", tmp_path / "w", "--out", tmp_path / "out")
    assert said.code == 2
    text = "\n".join(said.err)
    assert "needs 5 files that are not there" in text
    for file in protocol.pinned.files:
        assert file.file in text
        assert file.url in text
    assert all(word in text for word in ("--weights", "DITKIT_WEIGHTS", "DITKIT_INCEPTION", str(tmp_path / "w")))
    assert not (tmp_path / "out").exists()
    assert f"{protocol.pinned.weights.url} (about 2.7 GB)" in text
    assert f"{protocol.pinned.files[-1].url} (about 96 MB)" in text
    for name in ("DiT-XL-2-256x256.pt", "sd-vae-ft-ema/config.json", "inception.pth"):
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).write_bytes(b"")
    monkeypatch.setenv("DITKIT_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.setenv("DITKIT_INCEPTION", str(tmp_path / "w" / "inception.pth"))
    text = "\n".join(ditkit("reproduce", protocol.name).err)
    assert "needs 2 files" in text
    assert "VIRTUAL_imagenet256_labeled.npz" in text
    assert "config.json" not in text


def published_like(folder: Path) -> dict[str, Any]:
    """Made-up files such as those of SiT in latents, and the protocol that takes them."""
    net = DiT((2, 4), 2, 4, 8, 1, 2, num_classes=3, learned_variance=True)
    for i, value in enumerate(net.parameters()):
        torch.nn.init.normal_(value, std=0.1, generator=generator(i, "published"))
    save_file({k: v.contiguous() for k, v in FacebookDiT.from_ditkit(net.state_dict()).items()}, folder / "w.pt")
    (folder / "w.pt").rename(folder / "w.safetensors")
    write(folder / "vae", tiny())
    random = np.random.default_rng(0)
    np.savez(folder / "reference.npz", arr_0=random.integers(0, 256, (30, 8, 16, 3), dtype=np.uint8))
    files = [{"file": f"vae/{name}", "url": "x"} for name in (CONFIG, WEIGHTS)]
    return {
        "about": "made up",
        "weights": {"file": "w.safetensors", "url": "x", "layout": "dit", "convention": "data_at_one"},
        "autoencoder": files,
        "image": [3, 8, 16],
        "classes": 3,
        "recipe": {
            "model": {"width": 8, "depth": 1, "heads": 2, "patch_size": 2},
            "process": {"path": "linear", "prediction": "velocity"},
            "sample": {"solver": "euler", "solver_options": {"variable": "time"}, "steps": "2", "guidance_channels": 3},
        },
        "num": 20,
        "labels": "random",
        "reference": {"file": "reference.npz", "url": "x"},
        "network": "pixels",
        "scores": ["frechet_distance"],
        "published": {"paper": "p", "where": "w", "scores": {"frechet_distance": {"value": 0.0, "tolerance": 1e6}}},
    }


def test_latents_files_and_another_convention_of_time(tmp_path: Path) -> None:
    said = published_like(tmp_path)
    (tmp_path / "made-up.yaml").write_text(yaml.safe_dump(said))
    protocol = load_protocol(str(tmp_path / "made-up.yaml"))
    found = {file: tmp_path / file.file for file in protocol.pinned.files}
    model = load_published(protocol.pinned, found, tmp_path, "cpu")
    x, label = torch.randn(2, 4, 2, 4, generator=generator(0, "x")), torch.tensor([0, 2])
    t = torch.tensor(0.3, dtype=torch.float64)
    theirs = _theirs(tmp_path / "w.safetensors")(x, torch.full((2,), 0.7), Condition(label=label)).prediction[:, :4]
    x0 = model.denoiser.given(Condition(label=label))(x, t).x0
    # data at their t = 1: x = t data + (1 - t) noise and v = data - noise, so that data = x + (1 - t) v
    assert torch.allclose(x0, x + 0.3 * theirs, atol=1e-5)
    made(ditkit("reproduce", tmp_path / "made-up.yaml", "--out", tmp_path / "out"))
    measured = read(tmp_path / "out")["measured"]
    assert measured["protocol"]["autoencoder"] == model.autoencoder.identity
    assert measured["frechet_distance"]["samples"] == 20
    other = {**said, "weights": {**said["weights"], "layout": "dit_diffusers"}}
    (tmp_path / "made-up.yaml").write_text(yaml.safe_dump(other))
    refused = ditkit("reproduce", tmp_path / "made-up.yaml", "--out", tmp_path / "out")
    assert_refused(refused, "'dit'", "'dit_diffusers'", "fetch it anew")


def _theirs(path: Path) -> DiT:
    net = DiT((2, 4), 2, 4, 8, 1, 2, num_classes=3, learned_variance=True)
    net.load_state_dict(FacebookDiT.to_ditkit(load_file(path)))
    return net.eval()


# --- what is pinned ---

PUBLISHED = {
    "dit-xl-2-256": (1.0, 250, 9.62),
    "dit-xl-2-256-cfg1.25": (1.25, 250, 3.22),
    "dit-xl-2-256-cfg1.5": (1.5, 250, 2.27),
    "dit-xl-2-512-cfg1.5": (1.5, 250, 3.04),
    "sit-xl-2-256-ode": (1.5, 250, 2.15),
    "sit-xl-2-256-sde": (1.5, 250, 2.06),
}
"""Guidance, evaluations of the network, FID."""


@pytest.mark.parametrize("name", [*ready_protocols()])
def test_a_ready_protocol_can_be_drawn_and_says_what_was_published(name: str) -> None:
    pinned = load_protocol(name).pinned
    check_sampling(pinned.recipe, pinned.recipe.sample)
    suite.needed(pinned.scores)
    assert build.configuration(pinned.recipe.model)["heads"]
    if name not in PUBLISHED:
        return
    guidance, evaluations, fid = PUBLISHED[name]
    sampling = pinned.recipe.sample
    assert (sampling.guidance, pinned.published.scores["fid"].value) == (guidance, fid)
    assert checks.evaluations(pinned.recipe.process, sampling) == evaluations
    assert sampling.guidance_channels == (3 if guidance > 1 else None)
    assert (pinned.num, pinned.labels, pinned.recipe.train.precision) == (50_000, "random", "float32")
    assert Inception.aliases["frechet_distance"] == "fid"
    assert "sd-vae-ft-ema" in pinned.autoencoder[0].file
    assert str(pinned.image[1]) in pinned.weights.file


def test_protocols_are_listed_with_what_is_missing() -> None:
    said = made(ditkit("reproduce")).out
    listed = made(ditkit("info", "protocols")).out
    assert PUBLISHED.keys() < ready_protocols().keys()
    for name in ready_protocols():
        assert f"\n{name} " in said
        assert f"\n{name}\n" in listed
    rows = {line.split()[0]: line for line in said.splitlines() if line}
    assert rows["digits"].endswith("(ready)")
    assert rows["dit-xl-2-512-cfg1.5"].endswith("(5 of 5 files missing)")


def test_like_another_one_but_for_what_is_said(tmp_path: Path) -> None:
    mine = own(
        tmp_path,
        recipe={"sample": {"solver_options": {"a": 1}, "steps": "4"}},
        weights={"file": "other.pt", "url": "elsewhere"},
    )
    said, base = load_protocol(str(mine)).pinned, load_protocol("digits").pinned
    assert said.recipe.model == base.recipe.model
    assert (said.recipe.sample.steps, said.recipe.sample.solver) == ("4", base.recipe.sample.solver)
    assert said.weights.sha256 is None
    assert load_protocol(str(mine)).hash != load_protocol("digits").hash
    deeper = tmp_path / "deeper.yaml"
    deeper.write_text("like: mine\nrecipe: {sample: {solver_options: {b: 2}}}\n")
    assert load_protocol(str(deeper)).pinned.recipe.sample.solver_options == {"b": 2}


def test_a_protocol_of_ones_own_is_found_in_the_folder_of_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.yaml").write_text("like: digits\nabout: of the folder of protocols\n")
    for name in ("mine", "mine.yaml", "protocols/mine.yaml"):
        found = load_protocol(name)
        assert (found.name, found.pinned.about) == ("mine", "of the folder of protocols")
        assert found.pinned.weights == load_protocol("digits").pinned.weights
    (tmp_path / "mine.yaml").write_text("like: digits\nabout: beside\n")
    assert load_protocol("mine.yaml").pinned.about == "beside"
    assert_refused(ditkit("reproduce", "none.yaml"), "protocol none.yaml", "does not exist", "protocols")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("like: bad", ["is like itself"]),
        ("like: none", ["none.yaml", "bad.yaml is like", "does not exist"]),
        ("like: digits\nnumm: 3", ["numm"]),
        ("like: digits\nnum: 3", ["num is 3", "greater"]),
        ("like: digits\nrecipe: {sample: {guidence: 3}}", ["recipe.sample.guidence"]),
        ("- 1", ["holds a list", "keys and values"]),
        ("a: [", ["not YAML"]),
    ],
)
def test_a_bad_protocol_gets_one_line(text: str, words: list[str], tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    assert_refused(ditkit("reproduce", tmp_path / "bad.yaml"), *words)


def test_what_cannot_be_written_or_measured_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "draw", None)
    (tmp_path / "out" / "reproduce.json").mkdir(parents=True)
    folder = f"{tmp_path} is a folder, expected a file"
    assert_refused(ditkit("reproduce", "digits", "--npz", tmp_path, "--out", tmp_path / "new"), folder)
    assert_refused(ditkit("reproduce", "digits", "--out", tmp_path / "out"), "reproduce.json is a folder")
    few = own(tmp_path / "few", scores=["frechet_distance", "inception_score"])
    assert_refused(ditkit("reproduce", few, "--num", 20, "--out", tmp_path / "new"), "20 samples are too few", "100")
    assert not (tmp_path / "new").exists()
    assert_refused(ditkit("reproduce", "--num", 20), "--num 20 without a protocol's name", "ditkit reproduce lists")


def test_an_unknown_name_has_a_nearest() -> None:
    assert_refused(ditkit("reproduce", "dit-xl-2-256-cfg1.50"), "did you mean 'dit-xl-2-256-cfg1.5'")


def test_a_score_agrees_within_its_tolerance_and_must_be_a_number() -> None:
    pinned = load_protocol("digits").pinned
    name, wanted = next(iter(pinned.published.scores.items()))
    for off, agrees in [(0.99, True), (-0.99, True), (1.01, False), (-1.01, False), (float("nan"), False)]:
        entry = {"value": wanted.value + off * wanted.tolerance}
        others = {key: {"value": other.value} for key, other in pinned.published.scores.items()}
        found = verdict.checks(pinned, others | {name: entry})
        assert verdict.verdict(pinned, pinned.num, found) == (verdict.PASS if agrees else verdict.FAIL)
        assert verdict.verdict(pinned, pinned.num - 1, found) == verdict.NONE
        assert ("FAIL" in verdict.sentence(pinned, pinned.num, found, verdict.FAIL)) != agrees
    with pytest.raises(UserError, match="published score"):
        verdict.checks(pinned, {})


def test_protocols_go_with_the_wheel() -> None:
    import tomllib

    project = tomllib.loads((DIGITS.parents[1] / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["protocols"] == "ditkit/protocols"
    assert OWN.stat().st_size < 2**20


def test_pixels_are_a_feature_space() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    seen = Pixels.load().look(images).features
    assert seen.tolist() == [[-1.0] * 12, [1.0] * 12]
    with pytest.raises(UserError, match="at most 4,096"):
        Pixels().look(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match="no weights"):
        Pixels.load("file")
