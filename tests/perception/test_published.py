"""Published detectors by local files: tiny networks with the inputs and outputs of the published ones, through the real code."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.io.catalog import read_catalog
from avatar_core.io.store import Store
from avatar_core.models.weights import checked_file, load_onnx
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.perception.cotracker import CoTracker
from avatar_core.perception.onnx_matte import OnnxMasks
from avatar_core.perception.openpose import OpenPoseKeypoints
from avatar_core.perception.wholebody import WholebodyKeypoints, find_person, find_points
from avatar_core.perception.wholebody_map import SOURCES, template_keypoints, wholebody_map
from avatar_core.template.landmarks import KEYPOINT_INDEX, KEYPOINTS, indices, mirror_name
from stages.common import check_detectors
from stages.params import parse_params
from tests.models.tiny_onnx import save_boxes, save_mask, save_pose, save_yolox
from tests.score.filmed import film

ROOT = Path(__file__).resolve().parents[2]
onnx = pytest.mark.models("onnxruntime")


def dotted(width=200, height=160):
    """A grey picture with a red, a green and a blue dot, and where they are (3,2)."""
    picture = np.full((height, width, 3), 90, np.uint8)
    places = np.array([[70, 50], [120, 80], [90, 120]])
    for colour, (x, y) in enumerate(places):
        cv2.circle(picture, (int(x), int(y)), 4, [255 * (colour == c) for c in range(3)], -1)
    return picture, places + 0.5


def declared(path, **more):
    return {"path": str(path), "sha256": sha256_file(path), **more}


def test_the_map_is_affine_symmetric_and_keeps_what_is_the_same_place():
    weights, trust = wholebody_map()
    assert np.allclose(weights.sum(1), 1) and ((trust > 0) & (trust <= 1)).all()
    points = np.random.default_rng(0).uniform(20, 80, (1, SOURCES, 2))
    points[0, :, 0] += 0.5
    xy, _ = template_keypoints(points, np.ones((1, SOURCES)), 200, 200)
    assert np.array_equal(xy[0, KEYPOINT_INDEX["lips_outer.corner.R"]], points[0, 23 + 48].astype(np.float32))
    assert np.array_equal(xy[0, KEYPOINT_INDEX["iris.centre.L"]], points[0, 134].astype(np.float32))
    # a mirrored person, left and right exchanged, gives the mirrored keypoints
    order = np.arange(SOURCES)
    order[1:17] = [2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    face = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41,
            40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]  # fmt: skip
    order[23:91] = [23 + k for k in face]
    order[91:112], order[112:133], order[133:] = np.arange(112, 133), np.arange(91, 112), [134, 133]
    mirrored = points[:, order] * [-1, 1] + [200, 0]
    other, _ = template_keypoints(mirrored, np.ones((1, SOURCES)), 200, 200)
    back = [KEYPOINT_INDEX[mirror_name(n)] for n in KEYPOINTS]
    assert np.allclose(other[:, back] * [-1, 1] + [200, 0], xy, atol=1e-4)


def test_an_unseen_or_outer_point_makes_its_keypoints_unsure():
    points, scores = np.full((1, SOURCES, 2), 50.0), np.ones((1, SOURCES))
    scores[0, 11], scores[0, 133:] = 0.2, 0
    points[0, 9] = [-3, 50]
    _, confidence = template_keypoints(points, scores, 100, 100)
    found = dict(zip(KEYPOINTS, confidence[0], strict=True))
    assert found["hip.L"] == found["pelvis"] == found["chest"] == pytest.approx(0.2)
    assert found["wrist.L"] == 0 and found["wrist.R"] == 1 and found["iris.centre.L"] == pytest.approx(0.3)


@onnx
@pytest.mark.parametrize("detector", ["none", "raw", "suppressed"])
def test_points_are_found_where_they_are(tmp_path, detector):
    picture, places = dotted()
    given = declared(save_pose(tmp_path / "pose.onnx", (64, 48)))
    if (
        detector == "raw"
    ):  # a person of 96 x 96 px of 160, in the middle: cell (7, 6) of 20 columns, times 200 / 160
        file = save_yolox(tmp_path / "yolox.onnx", (160, 160), 6 * 20 + 9, (np.log(12.0), np.log(12.0)), 0.9)
        given |= {"detector_path": str(file), "detector_sha256": sha256_file(file)}
    elif detector == "suppressed":
        boxes = np.array([[0, 0, 8, 8, 0.9], [40, 24, 112, 112, 0.8], [0, 0, 160, 160, 0.1]])
        file = save_boxes(tmp_path / "yolox.onnx", (160, 160), boxes)
        given |= {"detector_path": str(file), "detector_sha256": sha256_file(file)}
    backend = WholebodyKeypoints(**given)
    assert backend.lacking() == []
    xy, confidence = backend.keypoints(np.stack([picture, picture[:, ::-1]]))
    assert xy.shape == (2, len(KEYPOINTS), 2) and confidence.max() > 0.3
    step = 1.25 * 200 / 48  # px of the picture a pixel of the network
    for name, source in (("shoulder.L", 5), ("wrist.R", 10), ("nose.tip", 53), ("hand.finger5-tip.L", 111)):
        assert np.abs(xy[0, KEYPOINT_INDEX[name]] - places[source % 3]).max() < step
        assert (
            np.abs(xy[1, KEYPOINT_INDEX[name]] - [200 - places[source % 3][0], places[source % 3][1]]).max()
            < step
        )
    nobody = replace(backend, least=1.0) if detector != "none" else None
    if nobody:
        assert nobody.keypoints(picture[None])[1].max() == 0


@pytest.mark.models("onnxruntime", "rtmlib")
def test_the_same_points_and_boxes_as_rtmlib(tmp_path):
    import rtmlib

    picture, _ = dotted(181, 160)
    pose = save_pose(tmp_path / "pose.onnx", (64, 48))
    theirs = rtmlib.RTMPose(str(pose), model_input_size=(48, 64))
    box = np.array([21, 10, 150, 140])
    xy, scores = find_points(load_onnx(pose, "", "cpu"), picture, box)
    their_xy, their_scores = theirs(picture, [box])
    assert np.allclose(xy, their_xy[0], atol=1e-3) and np.allclose(
        scores, their_scores[0].clip(0, 1), atol=1e-5
    )
    yolox = save_yolox(tmp_path / "yolox.onnx", (160, 160), 6 * 20 + 9, (np.log(12.0), np.log(9.0)), 0.9)
    boxes = rtmlib.YOLOX(str(yolox), (160, 160))(picture[..., ::-1])
    assert np.allclose(find_person(load_onnx(yolox, "", "cpu"), picture, 0.3), boxes[0], atol=1e-3)


@onnx
@pytest.mark.parametrize("layout", ["u2net", "isnet", "birefnet"])
def test_a_mask_shows_the_person_and_nobody_where_nobody_is(tmp_path, layout):
    backend = OnnxMasks(**declared(save_mask(tmp_path / "m.onnx", (32, 32), 4.0), layout=layout))
    rng = np.random.default_rng(0)
    picture = np.full((90, 120, 3), (60, 90, 200), np.uint8) + rng.integers(
        0, 40, (90, 120, 3), dtype=np.uint8
    )
    cv2.ellipse(picture, (60, 50), (20, 30), 0, 0, 360, (210, 120, 90), -1)
    truth = np.abs(picture.astype(int) - [210, 120, 90]).sum(-1) == 0
    mask = backend.mask(picture)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    assert backend.person_mask(np.full((40, 50, 3), 128, np.uint8)).shape == (40, 50)


def openpose(person):
    return json.dumps({"version": 1.3, "people": [person]})


def test_openposes_files_are_read_in_order_and_the_largest_person_counts(tmp_path):
    body = [float(v) for k in range(25) for v in (100 + k, 50 + 2 * k, 0.9)]
    small = [float(v) for k in range(25) for v in (10 + k / 9, 10, 0.9)]
    face = [float(v) for k in range(70) for v in (110 + k / 10, 40, 0.8)]
    folder = tmp_path / "clip-1"
    folder.mkdir()
    for number, shift in ((10, 1.0), (9, 0.0)):
        moved = [v + shift if k % 3 == 0 else v for k, v in enumerate(body)]
        people = [
            {"pose_keypoints_2d": small},
            {"pose_keypoints_2d": moved, "face_keypoints_2d": face, "hand_left_keypoints_2d": []},
        ]
        (folder / f"video_{number}_keypoints.json").write_text(json.dumps({"people": people}))
    (tmp_path / "person-1_keypoints.json").write_text(openpose({"pose_keypoints_2d": body[: 18 * 3]}))
    perception = PerceptionConfig.parse(
        {"keypoints": "openpose", "openpose": {"path": str(tmp_path)}}, "p", "perception"
    )
    xy, confidence = perception.named("clip-1").keypoint_detector.keypoints(np.zeros((2, 300, 400, 3)))
    elbow, iris = KEYPOINT_INDEX["elbow.L"], KEYPOINT_INDEX["iris.centre.R"]
    assert xy[0, elbow].tolist() == [106, 62] and xy[1, elbow].tolist() == [107, 62]
    assert confidence[0, elbow] == pytest.approx(0.9) and np.allclose(xy[0, iris], [116.8, 40])
    assert (confidence[:, indices("hand.")] == 0).all()
    xy, confidence = perception.named("person-1").keypoint_detector.keypoints(np.zeros((1, 300, 400, 3)))
    assert (
        xy[0, KEYPOINT_INDEX["hip.L"]].tolist() == [111, 72]
        and confidence[0, KEYPOINT_INDEX["lips_inner.upper"]] == 0
    )
    again = PerceptionConfig.parse(perception.to_dict(), "p", "perception")  # a student remembers the choice
    assert again.chosen["keypoints"] == perception.chosen["keypoints"]


@pytest.mark.parametrize(
    "content, line",
    [
        ("{", "expected OpenPose's JSON"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "pose_keypoints_2d of 2 numbers, not 75 or 54"),
        (
            '{"people": [{"pose_keypoints_2d": [' + ", ".join(["NaN"] * 75) + "]}]}",
            "a number that is not finite",
        ),
    ],
)
def test_a_damaged_file_of_openpose_is_named(tmp_path, content, line):
    (tmp_path / "a_keypoints.json").write_text(content)
    backend = OpenPoseKeypoints(str(tmp_path))
    with pytest.raises(UserError, match=rf"a_keypoints\.json: .*{line}"):
        backend.named("a").keypoints(np.zeros((1, 9, 9, 3)))
    with pytest.raises(UserError, match=r"expected 2 files \.\._keypoints\.json, one a picture, found 0"):
        backend.named("b").keypoints(np.zeros((2, 9, 9, 3)))
    with pytest.raises(UserError, match="found a picture without a name"):
        backend.keypoints(np.zeros((1, 9, 9, 3)))


class Follow(torch.nn.Module):
    """The predictor's interface: a point moves with the brightest pixel, and is lost where the picture is dark."""

    def forward(self, video: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        light = video[0].sum(1).flatten(1)
        at = light.argmax(1)
        place = torch.stack([at % video.shape[4], at // video.shape[4]], 1).float()
        first = place[queries[0, :, 0].long()]
        tracks = queries[0, :, 1:][None] + place[:, None] - first[None]
        seen = (light.amax(1) > 100)[:, None].expand(-1, queries.shape[1])
        return tracks[None], seen[None]


def moving(count=9):
    """A textured patch with one bright pixel, moving 2 px a frame; the masks of the patch."""
    rng = np.random.default_rng(0)
    patch = rng.integers(60, 160, (40, 40, 3), dtype=np.uint8)
    patch[20, 20] = 255
    frames, masks = np.zeros((count, 90, 120, 3), np.uint8), np.zeros((count, 90, 120), np.uint8)
    for t in range(count):
        frames[t, 20:60, 20 + 2 * t : 60 + 2 * t] = patch
        masks[t, 20:60, 20 + 2 * t : 60 + 2 * t] = 255
    return frames, masks


def test_tracks_follow_the_network_from_their_seed_on(tmp_path):
    torch.jit.script(Follow()).save(str(tmp_path / "tracker.pt"))
    backend = CoTracker(**declared(tmp_path / "tracker.pt", points=20, reseed_every=4))
    frames, masks = moving()
    assert backend.lacking() == []
    tracks = backend.track(frames, masks)
    alive = np.isfinite(tracks).all(-1)
    start = alive.argmax(0)
    assert set(start) == {0, 4} and alive[-1].all() and tracks.dtype == np.float32
    for p in range(tracks.shape[1]):
        moved = tracks[start[p] :, p] - tracks[start[p], p]
        assert np.allclose(moved, np.arange(len(moved))[:, None] * [2, 0])
    frames[6:] = 0
    tracks = backend.track(frames, masks)
    assert np.isnan(tracks[6:]).all() and np.isfinite(tracks[:6]).any()
    assert backend.track(np.zeros_like(frames), masks).shape == (9, 0, 2)


@pytest.mark.models("cotracker")
def test_the_published_class_tracks_with_saved_weights(tmp_path):
    from cotracker.predictor import CoTrackerPredictor
    from safetensors.torch import save_file

    torch.manual_seed(0)
    predictor = CoTrackerPredictor(checkpoint=None, window_len=60)
    save_file(
        {k: v.contiguous() for k, v in predictor.model.state_dict().items()}, tmp_path / "scaled.safetensors"
    )
    backend = CoTracker(**declared(tmp_path / "scaled.safetensors", points=8))
    assert backend.lacking() == []
    frames, masks = moving(4)
    tracks = backend.track(frames, np.full_like(masks, 255))
    assert tracks.shape[0] == 4 and tracks.shape[2] == 2
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
    wanted = predictor(video, torch.tensor([[[0.0, 30.0, 40.0]]]))[0]
    assert wanted.shape == (1, 4, 1, 2)


def cases(tmp_path):
    torch.jit.script(Follow()).save(str(tmp_path / "t.pt"))
    return {
        "t.pt": lambda d: CoTracker(**d).track(*moving(3)),
        "p.onnx": lambda d: WholebodyKeypoints(**d).keypoints(dotted()[0][None]),
        "m.onnx": lambda d: OnnxMasks(**d).person_mask(dotted()[0]),
    }


@pytest.mark.parametrize(
    "name", ["t.pt", pytest.param("p.onnx", marks=onnx), pytest.param("m.onnx", marks=onnx)]
)
def test_a_file_that_is_missing_cut_or_another_is_refused_by_name(tmp_path, name):
    look = cases(tmp_path)[name]
    save_pose(tmp_path / "p.onnx", (64, 48))
    save_mask(tmp_path / "m.onnx", (32, 32))
    file = tmp_path / name
    good = declared(file)
    look(good)
    for line, wrong in {
        r"\.path: expected the path of": {"path": "", "sha256": ""},
        r"found no file .*gone": {"path": str(tmp_path / "gone"), "sha256": "0" * 64},
        r"expected the SHA-256 of .*; `sha256sum": {"path": str(file), "sha256": "abc"},
        rf"{name}: expected SHA-256 000000000000\.\.\., found": {"path": str(file), "sha256": "0" * 64},
    }.items():
        with pytest.raises(UserError, match=line):
            look(wrong)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name}: expected SHA-256"):
        look(good)
    with pytest.raises(UserError, match=rf"{name}: expected"):  # declared as it is, it is still no network
        look(declared(file))


@onnx
def test_a_network_of_something_else_is_refused_by_name(tmp_path):
    mask, pose = (
        save_mask(tmp_path / "mask.onnx", (64, 48)),
        save_pose(tmp_path / "pose.onnx", (32, 32), points=17),
    )
    with pytest.raises(
        UserError, match=r"mask\.onnx: expected outputs \[\(1, 133, 96\), \(1, 133, 128\)\], found"
    ):
        WholebodyKeypoints(**declared(mask)).keypoints(dotted()[0][None])
    with pytest.raises(UserError, match=r"pose\.onnx: expected outputs .*, found \[\(1, 17, 64\)"):
        WholebodyKeypoints(**declared(pose)).keypoints(dotted()[0][None])
    with pytest.raises(UserError, match=r"pose\.onnx: expected a mask \(1,1,32,32\), found \(1, 17, 64\)"):
        OnnxMasks(**declared(pose)).person_mask(dotted()[0])
    assert checked_file(str(mask), sha256_file(mask).upper(), "x", "a mask") == mask


@onnx
def test_the_teacher_stage_makes_masks_and_tracks_by_them(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    torch.jit.script(Follow()).save(str(tmp_path / "tracker.pt"))
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    chosen = {
        "masks": "rembg", "rembg": declared(save_mask(tmp_path / "m.onnx", (64, 64))),
        "tracks": "cotracker", "cotracker": declared(tmp_path / "tracker.pt", points=16),
    }  # fmt: skip
    data = film(raw, tmp_path, seconds=0.4, perception=chosen)
    (store,) = (Store(p) for p in (data / "teacher" / "shard-0").glob("aux.zarr"))
    rows = read_catalog(data / "teacher" / "shard-0" / "catalog.parquet")
    assert len(rows) == 5
    for row in rows:
        masks, tracks = store.read(f"masks/{row['id']}"), store.read(f"tracks/{row['id']}")
        assert masks.shape == (row["t_len"], 96, 96) and 0.05 < (masks > 127).mean() < 0.6
        assert tracks.shape[0] == row["t_len"] and np.isfinite(tracks[-1]).any()
        column, line = np.floor(tracks[0][np.isfinite(tracks[0, :, 0])]).astype(int).T
        assert (masks[0][line, column] > 0).all()
    with pytest.raises(UserError, match=r"m\.onnx: expected SHA-256"):
        params = parse_params(raw)
        (tmp_path / "m.onnx").write_bytes(b"")
        check_detectors("fit", params)
