"""The landing lesson's map is read from the lessons, and its lens is the model's own answer at the end."""

import pytest
import torch

import labkit
from labkit import build, start_here
from labkit.start_here import lessons


def test_the_map_has_a_line_with_minutes_and_prerequisites_for_every_lesson():
    found = {name: rest for name, *rest in lessons.about()}
    assert set(found) == {path.stem for path in lessons.LESSONS.glob("[0-9]*.py")}
    assert all(minutes.isdigit() and needs for _, _, minutes, needs in found.values())
    assert all(f"[{name}]({name}.ipynb)" in start_here.course_map().data for name in found)


def test_a_lesson_without_its_minutes_is_named(tmp_path, monkeypatch):
    (tmp_path / "90_new.py").write_text("# %% [markdown]\n# # New\n# **It is new.** You need: time.\n")
    monkeypatch.setattr(lessons, "LESSONS", tmp_path)
    with pytest.raises(ValueError, match=r'90_new.py: its first cell needs .*"About N minutes"'):
        lessons.about()


def test_the_ledger_of_claims_is_what_the_lessons_say_now():
    assert build.LEDGER.read_text(encoding="utf8") == build.ledger(), "run: labkit build"
    rows = start_here.claims_table().data.splitlines()[2:]
    assert len(rows) > 20 and all(row in build.ledger() for row in rows)


def test_the_lens_after_all_blocks_is_the_model():
    lm = labkit.lm.load()
    p = start_here.lens(lm, "The capital of France is")
    assert p.shape == (lm.config.n_layers + 1, 49152)
    assert torch.allclose(p.sum(-1), torch.ones(len(p), dtype=torch.float64))
    expected = lm(lm.encode("The capital of France is")[None])[0, -1].double().softmax(-1)
    assert torch.allclose(p[-1], expected, atol=1e-6)
