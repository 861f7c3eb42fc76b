"""Pictures, folders and videos; what cannot be read is named."""

import cv2
import demo
import numpy as np
import pytest

MODEL = ["--model", "zoo://street_detr_small", "--device", "cpu"]


@pytest.fixture
def inputs(tmp_path):
    """A folder with a picture, a picture below it, a video, a text and a hidden file."""
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (40, 64, 3), dtype=np.uint8) for _ in range(6)]
    cv2.imwrite(str(folder / "one.png"), frames[0])
    cv2.imwrite(str(folder / "below" / "two.bmp"), frames[1])
    writer = cv2.VideoWriter(str(folder / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 40))
    for frame in frames:
        writer.write(frame)
    writer.release()
    (folder / ".hidden").write_text("")
    return folder


@pytest.fixture
def run(tmp_path):
    """The tool; returns the names of what it has drawn."""
    output = tmp_path / "out"

    def draw(*words):
        demo.main([*map(str, words), *MODEL, "--output", str(output)])
        return names(output)

    return draw


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder(inputs, run, tmp_path):
    assert run(inputs, "--critical", "person", "--threshold", "0") == [
        "below/two.bmp",
        "drive.avi.mp4",
        "one.png",
    ]
    picture = cv2.imread(str(tmp_path / "out" / "one.png"))
    assert picture.shape == (480, 768, 3), "enlarged"
    video = cv2.VideoCapture(str(tmp_path / "out" / "drive.avi.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (6, 5)
    there, frame = video.read()
    assert there and frame.shape == picture.shape


def test_the_critical_set_is_another_picture(inputs, run, tmp_path):
    one = inputs / "one.png"
    cv2.imwrite(str(inputs / "one.jpg"), np.zeros((8, 8, 3), np.uint8))
    assert run(inputs, "--critical", "") == ["below/two.bmp", "drive.avi.mp4", "one.jpg", "one.png"]
    run(one, "--critical", "", "--threshold", "0")
    plain = cv2.imread(str(tmp_path / "out" / "one.png"))
    run(one, "--critical", "supercategory:person+supercategory:vehicle", "--threshold", "0")
    assert (cv2.imread(str(tmp_path / "out" / "one.png")) != plain).any()


def test_files_that_cannot_be_read(inputs, run, tmp_path):
    (inputs / "notes.txt").write_text("no picture")
    (inputs / "damaged.png").write_bytes((inputs / "one.png").read_bytes()[:60])
    whole = (inputs / "drive.avi").read_bytes()
    (inputs / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SystemExit) as stopped:
        run(inputs)
    lines = stopped.value.code.splitlines()
    assert [line.split(":")[1].split("/")[-1] for line in lines] == ["cut.avi", "damaged.png", "notes.txt"]
    assert "it ends after" in lines[0] and "of 6 frames, which are drawn in" in lines[0]
    assert "it is a damaged image" in lines[1] and "neither as an image nor as a video" in lines[2]
    assert names(tmp_path / "out") == ["below/two.bmp", "cut.avi.mp4", "drive.avi.mp4", "one.png"]


def test_formats_that_opencv_does_not_write(tmp_path):
    image = np.full((8, 8, 3), 7, np.uint8)
    demo.draw_image(image, tmp_path / "image.gone", lambda image: image)
    assert (cv2.imread(str(tmp_path / "image.gone.png")) == image).all()


def test_mistakes(inputs, run, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "one.png"
    cv2.imwrite(str(other), np.zeros((8, 8, 3), np.uint8))
    for words, message in [
        ([tmp_path / "gone"], "gone does not exist: check the path"),
        ([inputs / "one.png", other], "would both be drawn in"),
        ([inputs, "--critical", "persons"], "persons"),
    ]:
        with pytest.raises(SystemExit, match=f"demo: .*{message}"):
            run(*words)
    with pytest.raises(SystemExit, match=r"there is no file to draw in \S+one.png outside \S+in: name"):
        demo.main([str(inputs / "one.png"), *MODEL, "--output", str(inputs)])
    assert not (tmp_path / "out").exists()


def test_what_an_earlier_run_has_drawn_is_left_out(inputs):
    for _ in range(2):
        demo.main([str(inputs), *MODEL, "--output", str(inputs / "drawn" / "here")])
        expected = ["below/two.bmp", "drive.avi.mp4", "one.png"]
        assert names(inputs / "drawn" / "here") == expected
