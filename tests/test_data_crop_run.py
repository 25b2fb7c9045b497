"""Crops by name, from the command line to the log of the run."""

from tests.running import ditkit, made, train


def test_a_run_takes_random_crops_by_name(pets, tmp_path):
    made(train(pets, tmp_path / "run", "--data.crop", "random", "--data.crop-options", "least", "0.5"))
    assert "crop random takes another part each time" in (tmp_path / "run/log.jsonl").read_text()
    said = train(pets, tmp_path / "other", "--data.crop", "randon")
    assert "did you mean 'random'" in said.err[-1]
    said = train(pets, tmp_path / "other", "--data.crop", "random", "--data.crop-options", "least", "2")
    assert "0 < least <= most <= 1" in said.err[-1]
    assert "least 0.8" in ditkit("info", "crops").out
