"""Videos: the very frames that are asked for, whatever the container; damaged files; and clips."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

from budgeted.tasks import video
from budgeted.tasks.clips import Clips
from budgeted.tasks.video import Window, read
from budgeted.train.stream import Unreadable

av = pytest.importorskip("av", reason='videos are decoded by PyAV: pip install "budgeted[vision]"')
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from videos import MOTIONS, moving, write  # noqa: E402 the maker of videos is a script of the benchmarks

WHOLE = Window(32, 32)


def grey(length=80, height=32, width=48):
    """Frames that tell their own number: 3 grey levels each."""
    for number in range(length):
        yield np.full((height, width, 3), 3 * number, np.uint8)


def numbers(path, wanted, window=WHOLE):
    """The numbers of the frames that were read where `wanted` were asked for."""
    frames = read(str(path), lambda _: [wanted], window)[0]
    return (frames.mean((1, 2, 3)) / 3).tolist()


# The frames


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("open.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
        ("one-key.mkv", "libx264", {"g": "250", "bf": "3"}),
        ("b.webm", "libvpx", {"g": "30", "deadline": "realtime"}),
        ("c.avi", "mpeg4", {"g": "12", "qmax": "2"}),
        ("d.mov", "mjpeg", {}),
    ],
)
def test_the_very_frames_that_are_asked_for(tmp_path, name, codec, options):
    path = write(tmp_path / name, grey(), codec, **options)
    for wanted in ([0, 1, 2, 13, 14, 40, 55, 79], [5, 11, 12, 30, 31, 77], [66, 66]):
        assert numbers(path, wanted) == pytest.approx(wanted, abs=1.1)


def test_without_times_of_display_they_are_off_by_a_few(tmp_path):
    """AVI has none, so that frames which are decoded in another order than shown are not told apart."""
    path = write(tmp_path / "b-frames.avi", grey(), "mpeg4", g="12", bf="2")
    assert numbers(path, [5, 40, 66]) == pytest.approx([5, 40, 66], abs=3)


def test_no_more_is_decoded_than_needed(tmp_path):
    path = write(tmp_path / "long.mp4", grey(), g="10", bf="0", sc_threshold="0")
    decoded = []

    class Counting:
        def __init__(self, container):
            self.container = container

        def seek(self, *args, **kwargs):
            self.container.seek(*args, **kwargs)

        def decode(self, stream):
            for frame in self.container.decode(stream):
                decoded.append(frame.pts)
                yield frame

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        index = video.Index.of("", container, stream)
        assert index.keys == [0, 10, 20, 30, 40, 50, 60, 70]
        list(video._frames("", Counting(container), stream, index, [32, 34, 75]))
    assert decoded == index.times[30:35] + index.times[70:76]


def test_frames_are_told_by_their_number_whatever_the_time_between_them(tmp_path):
    path = write(tmp_path / "vfr.mp4", grey(9), times=[0, 1, 5, 30, 31, 32, 100, 400, 401])
    assert numbers(path, [0, 3, 6, 8]) == pytest.approx([0, 3, 6, 8], abs=1.1)


def test_a_container_that_does_not_know_its_length(tmp_path):
    class Pipe(io.RawIOBase):
        content = b""

        def writable(self):
            return True

        def write(self, part):
            self.content += bytes(part)
            return len(part)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in grey():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / "live.mkv"
    path.write_bytes(pipe.content)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert numbers(path, [3, 50, 79]) == pytest.approx([3, 50, 79], abs=1.1)


def test_where_frames_are_cut(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None], (48, 96, 3))
    path = write(tmp_path / "ramp.mp4", [np.ascontiguousarray(ramp)] * 2, crf="5")

    def cut(*window):
        return read(str(path), lambda _: [[0]], Window(*window))[0, 0].mean((0, 2))

    left, right, mirrored = cut(48, 48, 0.0), cut(48, 48, 1.0), cut(48, 48, 1.0, 0.5, True)
    assert left == pytest.approx(ramp[0, :48, 0], abs=6)
    assert right == pytest.approx(ramp[0, 48:, 0], abs=6)
    assert mirrored == pytest.approx(right[::-1])
    assert cut(24, 24)[[0, -1]] == pytest.approx(ramp[0, [24, 71], 0], abs=8)  # of the middle, at half the size


def test_colours_are_those_of_the_photograph(tmp_path):
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds coco_subset")
    from PIL import Image

    photos = sorted((Path(os.environ["BUDGETED_DATA"]) / "coco_subset" / "val2017").glob("*.jpg"))[:3]
    for photo in photos:
        frames = list(moving(Image.open(photo).convert("RGB"), MOTIONS["zoom in"], 9, (128, 96)))
        path = write(tmp_path / f"{photo.stem}.mp4", frames, crf="15")
        found = read(str(path), lambda _: [[0, 8]], Window(96, 96))[0].astype(float)
        wanted = np.stack([frames[0], frames[8]])[:, :, 16:112]
        noise = np.mean((found - wanted) ** 2)
        assert 10 * np.log10(255**2 / noise) > 25  # dB; chroma has a quarter of the pixels


# Damage


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Videos of noise, which leave no room for chance bits, by extension."""
    folder = tmp_path_factory.mktemp("good")
    frames = list(np.random.default_rng(0).integers(0, 256, (100, 32, 48, 3), np.uint8))
    return {
        "mp4": write(folder / "a.mp4", frames, g="30"),
        "mkv": write(folder / "a.mkv", frames, g="30"),
        "avi": write(folder / "a.avi", frames, "mpeg4"),
    }


def ends(path):
    return read(str(path), lambda length: [[0, length - 1]], WHOLE)


@pytest.mark.parametrize(("kind", "share"), [("mp4", 0.5), ("mp4", 0.95), ("mkv", 0.05), ("mkv", 0.2), ("avi", 0.4)])
def test_truncated_files_cannot_be_read(tmp_path, good, kind, share):
    content = good[kind].read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Unreadable, match=r"cut.*(Invalid data|is truncated|too few frames|is damaged)"):
        ends(path)


def test_frames_that_were_made_up_for_lost_ones_are_not_used(tmp_path, good):
    content = bytearray(good["mp4"].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = Random(0).randbytes(2000)
    path = tmp_path / "flipped.mp4"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=r"is damaged at frame \d|Invalid data"):
        read(str(path), lambda length: [list(range(length))], WHOLE)


def test_what_is_no_video_cannot_be_read(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(Random(0).randbytes(5000))
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name, why in (("noise", "Invalid data"), ("empty", "Invalid data"), ("gone", "No such file")):
        with pytest.raises(Unreadable, match=rf"{name}.mp4': {why}"):
            ends(tmp_path / f"{name}.mp4")
    with pytest.raises(Unreadable, match=r"sound.mp4' has no video in it"):
        ends(tmp_path / "sound.mp4")


# Clips


def clips(path, **changed):
    given = {"frames": 8, "stride": 8, "crop": 32, "count": 3} | changed
    return Clips([str(path)], [4], **given)


def test_a_clip_of_training_is_drawn_and_those_of_a_test_are_at_even_distances(tmp_path):
    path = write(tmp_path / "a.mp4", grey(), crf="5")
    source = clips(path, frames=4, stride=8)
    frames, label = source.read(0, None)
    assert (frames.shape, frames.dtype, label) == ((3, 4, 32, 32, 3), np.uint8, 4)
    starts = [0, 28, 55]  # the last one ends with the video: 55 + 3 * 8 = 79
    wanted = [[start + 8 * k for k in range(4)] for start in starts]
    assert frames.mean((2, 3, 4)) / 3 == pytest.approx(np.array(wanted), abs=1.1)
    drawn = [source.read(0, Random(k))[0] for k in range(12)]
    begins = [round(float(clip[0, 0].mean()) / 3) for clip in drawn]
    assert all(clip.shape == (1, 4, 32, 32, 3) for clip in drawn)
    assert len(set(begins)) > 6
    assert max(begins) <= 56
    assert np.array_equal(drawn[3], source.read(0, Random(3))[0])


def test_a_video_shorter_than_a_clip_stands_still_at_its_end(tmp_path):
    path = write(tmp_path / "short.mp4", grey(20), crf="5")
    for random in (None, Random(0)):
        found = clips(path).read(0, random)[0].mean((2, 3, 4)) / 3
        assert found == pytest.approx(np.array([[0, 8, 16, 19, 19, 19, 19, 19]] * len(found)), abs=1.1)
    one = write(tmp_path / "one.mp4", grey(1))
    assert clips(one, count=1).read(0, None)[0].shape == (1, 8, 32, 32, 3)


def test_sides_are_in_proportion():
    assert clips("", crop=224).sides == (256, 320)
    assert clips("", crop=112).sides == (128, 160)


def test_a_single_clip_is_in_the_middle(tmp_path):
    path = write(tmp_path / "a.mp4", grey(), crf="5")
    found = clips(path, frames=2, stride=9, count=1).read(0, None)[0].mean((2, 3, 4)) / 3
    assert found == pytest.approx(np.array([[35, 44]]), abs=1.1)
