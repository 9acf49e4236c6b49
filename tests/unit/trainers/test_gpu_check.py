import json

import numpy as np
import pytest
import torch

from trainers import gpu_check
from trainers.learner import Learner


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_succeeds(capsys):
    assert gpu_check.main([]) == 0
    assert "skipped" in capsys.readouterr().out


def test_the_part_on_cpu_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "BATCHES", 15)
    assert gpu_check.main([str(tmp_path / "losses.json")]) == 0
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert len(losses) == 15
    assert losses[-1] < losses[0]


def test_the_checks_themselves_hold_on_cpu(monkeypatch, capsys):
    """Everything but the device: comparing and resuming, with the CPU in the GPU's place."""
    monkeypatch.setattr(gpu_check, "BATCHES", 8)
    monkeypatch.setattr(gpu_check, "SAVED_AT", 4)
    on_cpu = gpu_check._config("cpu")
    monkeypatch.setattr(gpu_check, "_config", lambda *_: on_cpu)
    assert gpu_check._resume()
    assert "resumed within 0.00%" in capsys.readouterr().out
    pipelined = gpu_check._losses(Learner(on_cpu, gpu_check.SCHEMA), pipelined=True)
    np.testing.assert_allclose(pipelined, gpu_check._losses(Learner(on_cpu, gpu_check.SCHEMA)))
