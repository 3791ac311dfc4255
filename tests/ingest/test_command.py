"""The command: what it prints is what to do next."""

from __future__ import annotations

import yaml

from avatar_core.cli_ingest import _goal, ingest
from avatar_core.ingest.ingest import Ingested
from avatar_core.ingest.report import FileReport, PersonReport
from stages.params import parse_params
from tests.ingest.cartoon import Face, Finder, film, syllables, voice, write


def result(people, *clips):
    file = FileReport("a.mp4", clips={0: list(clips)})
    return Ingested([file], [PersonReport(f"p{k}", "", [], 1, 1.0) for k in range(people)], "")


def test_how_far_the_pipeline_comes_is_said():
    assert "repro fit" in _goal(result(2, "p-face-000", "p-face-001"))
    assert "repro distill" in _goal(result(1, "p-face-000", "p-waist_up-000"))
    assert _goal(result(2, "p-face-000", "p-waist_up-000")) == "`dvc repro`."


def test_the_printed_keys_are_parameters(tmp_path, monkeypatch, capsys):
    talk = syllables(4)
    write(tmp_path / "in" / "talk.mp4", film(100, Face(160.0, 110.0, 90.0, talk)), voice(talk))
    monkeypatch.setattr("avatar_core.perception.holistic.video.HolisticFaces", Finder)
    ingest(tmp_path / "in", tmp_path / "out", 4.0, 512)
    printed = capsys.readouterr().out
    assert "talk.mp4: 4.0 s taken" in printed
    keys = yaml.safe_load(printed.split("params.yaml set:")[1].split("then run")[0])
    with open("params.yaml") as file:
        values = yaml.safe_load(file)
    for section, change in keys.items():
        values[section] |= change
    params = parse_params(values)
    assert (params.identities.train, params.identities.test, params.run.shards) == (1, 0, [0])
    (person,) = params.identities.source.people(1, 0)
    assert params.speech.source.recorded()[0].person == person.id
