"""Which files are rendered to where: lists, patterns, links, odd names."""

import io
import os
import sys
from pathlib import Path

import pytest

from spectro_render.batch import jobs
from spectro_render.batch.jobs import Job, common_folder, plan_jobs, read_lists
from spectro_render.errors import OptionError
from tests.support.limits import deep_folder

LONG = "é" * 125 + ".midi"  # 255 bytes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(*inputs: str, files_from: str | None = None, output: str | None = "out") -> dict[str, str]:
    names, listed = read_lists(inputs, files_from)
    return {str(job.source): str(job.target) for job in plan_jobs(names, output, "wav", listed)}


class TestLists:
    @pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
    def test_files_keep_the_folders_they_are_listed_with(self, separator: str) -> None:
        names = ("a.mid", "lib/a.mid", "../b.mid", "/abs/c.mid", "-d.mid")
        Path("list.txt").write_bytes(separator.join((*names, "")).encode())
        assert plan("@list.txt") == {
            "a.mid": "out/a.wav",
            "lib/a.mid": "out/lib/a.wav",
            "../b.mid": "out/b.wav",
            "/abs/c.mid": "out/abs/c.wav",
            "-d.mid": "out/-d.wav",
        }

    def test_without_an_output_sounds_lie_beside_the_files(self) -> None:
        Path("list").write_text("lib/a.mid\n../b.mid\n")
        assert plan("@list", output=None) == {"lib/a.mid": "lib/a.wav", "../b.mid": "../b.wav"}

    def test_standard_input_may_hold_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.mid\0x\ny.mid\0")))
        assert plan(files_from="-") == {"a.mid": "out/a.wav", "x\ny.mid": "out/x\ny.wav"}

    def test_a_name_of_any_bytes(self) -> None:
        name = os.fsdecode(b"\xff\xfe.mid")
        Path("list").write_bytes(os.fsencode(name))
        assert plan("@list") == {name: f"out/{Path(name).stem}.wav"}

    def test_a_listed_folder_is_searched(self) -> None:
        touch("lib/deep/a.mid")
        Path("list").write_text("lib")
        assert plan("@list") == {"lib/deep/a.mid": "out/lib/deep/a.wav"}

    def test_other_inputs_may_stand_beside_a_list(self) -> None:
        Path("list").write_text("lib/a.mid")
        assert plan("b.mid", "@list") == {"b.mid": "out/b.wav", "lib/a.mid": "out/lib/a.wav"}

    def test_a_file_of_such_a_name_is_itself(self) -> None:
        touch("@a.mid")
        assert plan("@a.mid", output=None) == {"@a.mid": "@a.wav"}

    def test_listed_twice_is_rendered_once(self) -> None:
        Path("list").write_text("a.mid\na.mid\n")
        assert plan("@list") == {"a.mid": "out/a.wav"}

    @pytest.mark.parametrize(
        ("text", "said"), [("", "the list list is empty"), (None, "the list list cannot be read")]
    )
    def test_what_is_no_list(self, text: str | None, said: str) -> None:
        if text is not None:
            Path("list").write_text(text)
        with pytest.raises(OptionError, match=said):
            plan("@list")

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_in_an_encoding_with_a_mark(self, encoding: str, end: str) -> None:
        Path("list").write_bytes(end.join(["b/\u4e00.mid", "a.mid", ""]).encode(encoding))
        assert plan("@list") == {"b/\u4e00.mid": "out/b/\u4e00.wav", "a.mid": "out/a.wav"}

    @pytest.mark.parametrize("data", ["/a.mid\nb.mid\n".encode("utf-16-le"), b"\xff\xfea\0\0\xd8"])
    def test_in_an_encoding_that_cannot_be_known(self, data: bytes) -> None:
        """Each letter would be a name, and `/` all files of the machine."""
        Path("list").write_bytes(data)
        with pytest.raises(
            OptionError, match="the list list is in UTF-16 that cannot be read; save it in"
        ):
            plan("@list")

    def test_only_ends_of_lines_end_names(self) -> None:
        Path("list").write_bytes(b"a\rb.mid\r\nc\x0cd.mid\n")
        assert plan("@list") == {"a\rb.mid": "out/a\rb.wav", "c\x0cd.mid": "out/c\x0cd.wav"}

    def test_one_that_is_too_large(self) -> None:
        with open("list", "wb") as file:
            file.truncate(jobs.MAX_LIST + 1)
        with pytest.raises(OptionError, match="the list list is larger than 256 MB"):
            plan("@list")

    def test_standard_input_is_read_once(self) -> None:
        with pytest.raises(OptionError, match="only once"):
            plan("-", files_from="-")

    def test_its_outputs_have_a_folder_in_common(self) -> None:
        assert common_folder([], "out", ["a.mid"]) == Path("out")
        assert common_folder([], None, ["a.mid"]) is None


class TestPatterns:
    def test_the_layout_is_mirrored_from_the_first_wildcard_on(self) -> None:
        touch("lib/x/a.mid", "lib/x/deep/b.KAR", "lib/y/a.mid", "lib/z.txt", "lib/.hidden/c.mid")
        expected = {"lib/x/a.mid": "out/x/a.wav", "lib/y/a.mid": "out/y/a.wav"}
        assert plan("lib/*/a.mid") == expected
        assert plan("lib/**") == {**expected, "lib/x/deep/b.KAR": "out/x/deep/b.wav"}

    def test_a_file_of_such_a_name_is_itself(self) -> None:
        touch("a[1].mid", "a1.mid")
        assert plan("a[1].mid", output=None) == {"a[1].mid": "a[1].wav"}

    def test_outputs_do_not_leave_the_folder(self) -> None:
        touch("p/q/x/y", "p/a.mid")
        assert plan("p/q/*/../../*.mid", output="out/deep") == {
            "p/q/x/../../a.mid": "out/deep/x/a.wav"
        }

    def test_one_that_no_file_is_like(self) -> None:
        (job,) = plan_jobs(["*.mid"], "out", "wav")
        assert job.problem == "no MIDI file matches this pattern"


class TestSearches:
    @pytest.mark.parametrize("pattern", ["in", "in/*.mid", "in/**"])
    def test_only_files_are_found(self, pattern: str) -> None:
        touch("in/a.mid")
        os.mkfifo("in/b.mid")
        os.symlink("/dev/zero", "in/c.mid")
        os.mkdir("in/d.mid")
        assert plan(pattern) == {"in/a.mid": "out/a.wav"}

    def test_no_folder_is_too_deep(self) -> None:
        os.mkdir("in")
        os.chdir("in")
        with deep_folder(1100):
            touch("a.mid")
            source = Path("in", *["d"] * 1100, "a.mid")
            here = os.getcwd()
            os.chdir(Path(here).parents[1100])
            try:
                assert list(plan("in")) == [str(source)]
                (job,) = plan_jobs(["in/**"], "out", "wav")
                assert job.source == source or job.problem.startswith("folders are nested too")
            finally:
                os.chdir(here)


class TestNames:
    @pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
    def test_loops_of_links_end(self) -> None:
        touch("lib/a.mid")
        os.symlink("..", "lib/loop")
        os.symlink("self.mid", "lib/self.mid")
        found = plan_jobs(["lib"], "out", "wav")
        assert {str(job.source) for job in found} == {"lib/a.mid", "lib/self.mid"}  # this one fails

    def test_names_that_would_share_an_output_keep_their_suffix(self) -> None:
        touch("lib/a.mid", "lib/a.midi", "lib/b.mid")
        assert plan("lib") == {
            "lib/a.mid": "out/a.mid.wav",
            "lib/a.midi": "out/a.midi.wav",
            "lib/b.mid": "out/b.wav",
        }

    @pytest.mark.parametrize("name", ["näive ♫ 音.mid", " .mid", "a\nb.mid", "-x.mid", LONG])
    def test_odd_ones(self, name: str) -> None:
        touch(f"lib/{name}")
        assert plan("lib") == {f"lib/{name}": f"out/{Path(name).stem}.wav"}

    def test_nothing_at_all(self) -> None:
        with pytest.raises(OptionError, match="no input"):
            plan()


def test_the_longest_name_can_be_written(here: Path) -> None:
    from spectro_render.audio.destination import open_destination

    file = open_destination(Job(Path(LONG), Path(LONG).with_suffix(".wav")).prepare_target() or "")
    file.write(b"sound")
    file.commit()
    assert [path.read_bytes() for path in here.glob("*.wav")] == [b"sound"]
