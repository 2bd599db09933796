"""The benchmark runs, says what it promises to say, and its material is read by both ways as what it is."""

import json
import subprocess
import sys

import av
import numpy as np
import torch

from benchmarks.loader import UsualTransform, moving_picture, usual_clips, write_avi
from datasets.views import ViewSettings, log_mel


def test_last_line_is_the_result():
    options = ["--videos", "4", "--batch", "2", "--repeats", "1", "--seconds", "0.1"]
    command = [sys.executable, "-m", "benchmarks.loader", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert {"usual_clips_per_s", "host_clips_per_s", "views_clips_per_s"} <= result.keys()
    # Far below the ratios of docs/performance.md: no measurement, only a check that the columns are not mixed up.
    assert result["usual_clips_per_s"] * 2 < result["views_clips_per_s"] < result["host_clips_per_s"]
    expected = result["host_clips_per_s"] / result["usual_clips_per_s"]
    assert abs(result["host_ratio"] / expected - 1) < 0.01


def test_the_avi_holds_the_same_crops_and_sound(tmp_path):
    frames, sound = moving_picture(3)
    assert frames.shape == (29, 150, 150, 3) and sound.shape == (29 * 640,)
    write_avi(tmp_path / "a.avi", frames, sound)
    with av.open(str(tmp_path / "a.avi")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.array_equal(decoded, frames)
    with av.open(str(tmp_path / "a.avi")) as container:
        assert np.array_equal(np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)]), sound)
    assert next(usual_clips(tmp_path, 1)) == 1  # checks the shapes itself


def test_the_usual_log_mel_is_ours():
    """Both ways compute the same thing, so that the times may be compared."""
    sound = torch.from_numpy(moving_picture(0)[1][:16_000])
    usual = UsualTransform().log_mel(sound.float() / 32768).T
    torch.testing.assert_close(log_mel(ViewSettings(), sound[None])[0, 0], usual, rtol=0, atol=1e-4)
