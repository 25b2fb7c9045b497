"""Commands that a signal stops or a kill ends: one line and 130, nothing half-written, the same command again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ditkit.app import cli, encoding
from ditkit.app.recipe_files import load_recipe, to_yaml
from ditkit.base.errors import UserError
from ditkit.base.files import alone, atomic_file, atomic_folder, check_new_folder, claimed, remove_folder, write_text
from ditkit.base.signals import HEARD, Interrupted, deaf_children
from ditkit.base.workers import Workers, dist
from tests.running import TINY, Trial, ditkit, made, train
from tests.storing import encoded, refused


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawing(run: Path, out: Path) -> list[Any]:
    return ["sample", run, "--num", 4, "--seed", 7, "--out", out]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_answered_with_a_line_and_leaves_nothing(
    trial: Trial, name: str, run: Path, tmp_path: Path
) -> None:
    outcome = trial(drawing(run, tmp_path / "s"), at=["ditkit.app.drawn.grid", 3], signal=name)
    assert outcome["code"] == 130
    last = outcome["err"].splitlines()[-1]
    assert last.startswith(f"ditkit: stopped by {name}; ")
    assert "the same command" in last
    assert "Traceback" not in outcome["err"]
    assert not list(tmp_path.iterdir())


def test_what_a_kill_leaves_is_cleared_by_the_same_command(trial: Trial, run: Path, tmp_path: Path) -> None:
    command = drawing(run, tmp_path / "s")
    assert trial(command, at=["os.replace", 1])["code"] == -signal.SIGKILL
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == [".s.writing", "s"]
    assert not list((tmp_path / "s").iterdir())
    made(ditkit(*command))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    made(ditkit(*drawing(run, tmp_path / "whole")))
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_a_signal_while_pytorch_loads_cannot_be_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loading(name: str) -> None:
        with contextlib.suppress(BaseException):  # as PyTorch's C++ does that loads NumPy, and goes on with half of it
            signal.raise_signal(signal.SIGINT)

    codes: list[int] = []
    monkeypatch.setattr(cli.importlib, "import_module", loading)
    monkeypatch.setattr(cli.os, "_exit", codes.append)
    cli.load("train")
    assert codes == [130]
    assert "stopped by SIGINT" in capsys.readouterr().err


def test_a_later_signal_ends_at_once_but_one_that_is_passed_on_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, codes = [0.0], list[int]()
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cli.os, "_exit", codes.append)
    act = cli._interrupting()
    with pytest.raises(Interrupted):
        act("SIGINT")
    clock[0] = 0.2
    act("SIGINT")
    assert not codes
    clock[0] = 3.0
    act("SIGINT")
    assert codes == [130]


BLOCKED = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"


def test_children_do_not_hear_the_signals_of_their_parent() -> None:
    def blocked() -> str:
        return subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True).stdout

    with deaf_children():
        assert blocked().split() == [str(int(number)) for number in sorted(HEARD)]
    assert not blocked().split()


def test_workers_of_encode_begin_deaf(pets: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        """Begins its processes at the first piece of work, as the real one."""

        def __init__(self, *args: Any) -> None:
            pass

        def submit(self, *args: Any) -> None:
            assert {*HEARD} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
            raise UserError("begun")

        def shutdown(self, **how: Any) -> None:
            pass

    monkeypatch.setattr(encoding, "ProcessPoolExecutor", Pool)
    refused(encoded(pets, vae, tmp_path / "s", "--workers", 2), "begun")
    assert not {*HEARD} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_a_writer_clears_what_killed_ones_left_beside_its_path(ended: int, tmp_path: Path) -> None:
    living = f".a[1].writing-{os.getppid()}"
    for name in (f".a[1].writing-{ended}", living, f".b.writing-{ended}", ".a[1].mine-5", f".c.old-{ended}"):
        (tmp_path / name).write_text(name)
    write_text(tmp_path / "a[1]", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a[1]", living, f".b.writing-{ended}", ".a[1].mine-5", f".c.old-{ended}"]
    )


def test_a_folder_that_was_being_replaced_comes_back_before_it_is_again(ended: int, tmp_path: Path) -> None:
    old = tmp_path / f".a.old-{ended}"
    old.mkdir()
    (old / "one").write_text("1")

    def fill() -> None:
        with atomic_folder(tmp_path / "a"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert content(tmp_path) == {"a/one": b"1"}
    (tmp_path / f".a.writing-{ended}").mkdir()  # of one that was being removed
    remove_folder(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("act", [remove_folder, lambda path: write_text(path / "a", "new")])
def test_a_signal_while_something_is_removed_is_heard_when_it_is_gone(
    act: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a", "old")
    rmtree, calls = shutil.rmtree, iter([True])

    def interrupted(folder: Path, **how: Any) -> None:
        if next(calls, False):
            raise Interrupted("SIGTERM")
        rmtree(folder, **how)

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(Interrupted):
        act(tmp_path)
    assert not [*tmp_path.parent.glob(f".{tmp_path.name}.*"), *tmp_path.glob(".*")]


def test_a_folder_with_a_killed_writer_s_file_alone_is_new(ended: int, tmp_path: Path) -> None:
    (tmp_path / f".recipe.yaml.writing-{ended}").write_text("half")
    check_new_folder(tmp_path)
    (tmp_path / ".recipe.yaml").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        check_new_folder(tmp_path)


def test_a_file_is_not_lost_where_its_writer_fails(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def fill() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        fill()
    assert content(tmp_path) == {"a": b"old"}


def test_what_a_writer_puts_beside_its_file_goes_with_it(tmp_path: Path) -> None:
    """As safetensors does, which writes .tmp and random letters, and renames that."""

    def written(by: str) -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.with_name(".tmpXyZ").write_text("half")
            temporary.write_text(by)
            if by == "killed":
                shutil.copytree(temporary.parent, tmp_path / "kept")
                raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        written("killed")
    (tmp_path / "kept").rename(tmp_path / f".a.writing-{os.getpid()}")  # one that had this process's number
    written("whole")
    assert content(tmp_path) == {"a": b"whole"}


def test_a_lock_on_what_its_holder_removed_or_replaced_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()

    def waited(descriptor: int, how: int) -> None:
        folder.rename(tmp_path / f"{len(list(tmp_path.iterdir()))}")  # by the holder, who then lets it go

    monkeypatch.setattr("fcntl.flock", waited)
    with pytest.raises(UserError, match="busy"), alone(folder, "busy"):
        pass
    folder.mkdir()
    monkeypatch.setattr("fcntl.flock", lambda *how: (waited(*how), folder.mkdir()))
    with pytest.raises(UserError, match="busy"), alone(folder, "busy"):
        pass


@pytest.mark.parametrize("command", ["sample", "sample-data"])
def test_samples_are_drawn_into_a_folder_by_one_process(
    command: str, run: Path, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    second = [command, run if command == "sample" else pets, "--num", 4, "--out", out]
    with claimed(out):
        refused(ditkit(*second), f"{out} is being made by another process", "another folder")
    assert not out.exists()

    def drawn(*args: Any, **how: Any) -> None:
        with claimed(out):
            pytest.fail("two draw into one folder")

    monkeypatch.setattr("ditkit.app.drawn.save_samples", drawn)
    refused(ditkit(*second), "is being made by another process")
    assert not out.exists()


def test_a_folder_that_was_made_while_it_was_waited_for_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *how: write_text(tmp_path / "s" / "a.png", "1"))
    with pytest.raises(UserError, match="not empty"), claimed(tmp_path / "s"):
        pass
    assert content(tmp_path) == {"s/a.png": b"1"}


@pytest.mark.parametrize("make", [lambda path: write_text(path, "new"), lambda path: fill(path)])
def test_what_has_its_name_has_nothing_beside_it(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill right then leaves nothing hidden, which nobody would clear where nothing is made again."""
    seen: list[list[str]] = []
    replace = os.replace

    def replaced(one: Path, other: Path) -> None:
        replace(one, other)
        if other == tmp_path / "a":
            seen.append([path.name for path in tmp_path.iterdir()])

    monkeypatch.setattr("os.replace", replaced)
    make(tmp_path / "a")
    assert seen == [["a"]]


def fill(path: Path) -> None:
    """Makes a folder in place of an empty one."""
    path.mkdir()
    with atomic_folder(path) as folder:
        (folder / "one").write_text("1")


def test_a_link_to_a_folder_leads_to_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("1")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("2")
    assert content(tmp_path / "disk") == {"new": b"2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]
    with pytest.raises(UserError, match=r"is a link.*name the folder itself"):
        remove_folder(tmp_path / "out")
    assert content(tmp_path / "disk") == {"new": b"2"}


def test_a_signal_between_the_names_of_a_folder_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")
    replace, calls = os.replace, list[str]()

    def replaced(old: Path, new: Path) -> None:
        calls.append(Path(old).name)
        if len(calls) == 3:  # the new one cannot replace it, the old one has gone
            raise Interrupted("SIGTERM")
        replace(old, new)

    monkeypatch.setattr("os.replace", replaced)
    with pytest.raises(Interrupted), atomic_folder(tmp_path / "a") as folder:
        (folder / "new").write_text("2")
    assert content(tmp_path) == {"a/old": b"1"}


class Barrier:
    """What torch gives for a barrier that is not waited for: all come at the third look, or one is gone."""

    def __init__(self, gone: bool) -> None:
        self.gone, self.looks = gone, 0

    def __call__(self, *, async_op: bool) -> Barrier:
        assert async_op
        return self

    def is_completed(self) -> bool:
        self.looks += 1
        return self.looks == 3

    def wait(self) -> None:
        if self.gone:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534]\nConnection closed by peer")


def test_a_process_that_is_gone_is_said_and_one_that_waits_hears_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = Barrier(gone=False)
    monkeypatch.setattr(dist, "barrier", barrier)
    Workers(1, 2).wait()
    assert barrier.looks == 3
    monkeypatch.setattr(dist, "barrier", Barrier(gone=True))
    with pytest.raises(UserError, match=r"1 of 2 lost .*Connection closed by peer.*same command"):
        Workers(1, 2).wait()


def test_a_run_is_begun_by_one_process(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with alone(tmp_path / "r", "no"):
        refused(train(pets, tmp_path / "r"), "is being trained by another process")
    assert not list((tmp_path / "r").iterdir())


def test_a_signal_before_the_first_step_says_how_to_go_on(trial: Trial, pets: Path, tmp_path: Path) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY]
    reading = trial(start, at=["ditkit.app.training.load_images", 1], signal="SIGTERM")
    assert (reading["code"], (tmp_path / "r").exists()) == (130, False)
    begun = trial(start, at=["ditkit.app.training._begin", 1], signal="SIGTERM")
    assert begun["code"] == 130
    assert begun["err"].endswith(f"go on with: ditkit train --resume {tmp_path / 'r'}\n")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an earlier demo; one that begins says so."""

    def began(*args: Any) -> None:
        raise UserError("the demo began")

    monkeypatch.setattr("ditkit.app.training.start", began)
    for name, text in {"recipe.yaml": to_yaml(load_recipe("digits")), "log.jsonl": ""}.items():
        write_text(tmp_path / "d" / name, text)
    return tmp_path / "d"


def test_a_demo_is_begun_anew_where_a_kill_came_while_it_was_removed(
    demo: Path, ended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(folder: Path, **how: Any) -> None:
        (Path(folder) / "recipe.yaml").unlink(missing_ok=True)
        raise Interrupted("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", removing)
        assert ditkit("demo", "--out", demo).code == 130
    for left in demo.parent.glob(".d.*"):
        left.rename(left.with_name(f".d.writing-{ended}"))
    refused(ditkit("demo", "--out", demo), "the demo began")
    assert not list(demo.parent.iterdir())


def test_a_demo_begins_where_one_was_killed_before_it_had_a_recipe(demo: Path, ended: int) -> None:
    remove_folder(demo)
    (demo / f".recipe.yaml.writing-{ended}").mkdir(parents=True)
    refused(ditkit("demo", "--out", demo), "the demo began")


def test_a_demo_is_made_by_one_process(demo: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(demo)
    with alone(demo, "no"):
        refused(ditkit("demo", "--out", demo), f"demo {demo} is being made by another process")
    assert content(demo) == before

    def measuring(*args: Any) -> None:
        with alone(demo, "the first is still at it"):
            pytest.fail("a second demo could begin")

    monkeypatch.setattr("ditkit.app.training.start", lambda recipe, out: shutil.copytree(run, out) and None)
    monkeypatch.setattr("ditkit.app.measuring.reference", measuring)
    refused(ditkit("demo", "--out", demo), "the first is still at it")


def test_a_file_system_without_locks_keeps_nobody_from_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    number = errno.ENOLCK

    def lockless(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lockless)
    with alone(tmp_path, "no"):
        pass
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), alone(tmp_path, "no"):
        pass


def test_a_study_of_solvers_is_made_by_one_process(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "r")
    command = ["study", "solvers", tmp_path / "r", "--solvers", "ddim", "--evaluations", 1, "--num", 20]
    made(ditkit(*command))
    (folder,) = (tmp_path / "r" / "studies").iterdir()
    with alone(folder, "no"):
        refused(ditkit(*command), f"study {folder} is being made by another process")
